"""Chunks packed without HDF5: HDF5 reads them, and their bytes do not depend on who packs them."""

import h5py
import numpy as np
import pytest

from drstool.formats import Header, LabelRecord, MapRecord, open_sink, write_both
from drstool.formats.chunks import packed

HEADER = Header("localization-maps", ("a", "b", "c"))


@pytest.mark.parametrize("dtype", [np.uint8, np.float16])
@pytest.mark.parametrize("kind", ["zeros", "smooth", "noise"])
def test_hdf5_reads_packed_chunks(tmp_path, dtype, kind):
    """HDF5 checks the checksum, so sizes of both parities and sums of all kinds have to be right."""
    random = np.random.default_rng(0)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        written = {}
        for side in (1, 2, 3, 17, 64, 255):
            y, x = np.mgrid[:side, :side + 1]
            values = {"zeros": x * 0, "smooth": (x + y) / 2, "noise": random.integers(0, 256, x.shape)}[kind]
            values = np.array(values).astype(dtype)
            dataset = file.create_dataset(
                str(side), shape=values.shape, dtype=dtype, chunks=values.shape, compression="gzip",
                shuffle=dtype is np.float16, fletcher32=True)
            dataset.id.write_direct_chunk((0, 0), packed(values, 4))
            written[str(side)] = values
    with h5py.File(tmp_path / "x.h5") as file:
        for name, values in written.items():
            assert np.array_equal(file[name][()], values)


def test_a_flipped_bit_is_noticed(tmp_path):
    values = np.arange(100, dtype=np.uint8).reshape(10, 10)
    chunk = bytearray(packed(values, 4))
    chunk[-2] ^= 1
    with h5py.File(tmp_path / "x.h5", "w") as file:
        dataset = file.create_dataset(
            "x", shape=(10, 10), dtype=np.uint8, chunks=(10, 10), compression="gzip", fletcher32=True)
        dataset.id.write_direct_chunk((0, 0), bytes(chunk))
        with pytest.raises(OSError):
            dataset[()]


def records(count=12):
    random = np.random.default_rng(1)
    for i in range(count):
        values = random.integers(0, 256, (i % 3, 20 + i, 30)).astype(np.uint8)
        yield MapRecord(f"{i}", values, tuple(range(1, i % 3 + 1)), (20, 30), f"{i}.jpg")


def labels(count=12):
    random = np.random.default_rng(2)
    for i in range(count):
        yield LabelRecord(f"{i}", random.integers(0, 3, (20, 30 + i)).astype(np.uint8))


@pytest.mark.parametrize("name", ["maps.h5", "maps.tar", "labels"])
def test_bytes_do_not_depend_on_threads(tmp_path, name):
    what = "labels" if name == "labels" else "maps"
    header = Header(what if what == "labels" else HEADER.kind, HEADER.class_names)
    found = []
    for threads in (1, 4):
        target = tmp_path / str(threads) / name
        target.parent.mkdir()
        with open_sink(str(target), header, what=what, threads=threads) as sink:
            assert sink.write_all(labels() if what == "labels" else records()) == 12
        files = [target] if target.is_file() else sorted(target.iterdir())
        found.append([(path.name, path.read_bytes()) for path in files])
    assert found[0] == found[1]


def test_two_sinks_at_once_with_threads(tmp_path):
    for threads in (1, 3):
        folder = tmp_path / str(threads)
        folder.mkdir()
        with (
            open_sink(str(folder / "l"), Header("labels", HEADER.class_names), what="labels", threads=threads) as one,
            open_sink(str(folder / "m.h5"), HEADER, threads=threads) as other,
        ):
            assert write_both(one, other, zip(labels(), records())) == 12
    assert (tmp_path / "1" / "m.h5").read_bytes() == (tmp_path / "3" / "m.h5").read_bytes()
