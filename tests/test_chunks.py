"""Chunks packed without HDF5: HDF5 reads them, damage is noticed, and their bytes do not depend on who packs them."""

import io
import struct

import h5py
import numpy as np
import pytest

from drstool.errors import InputError
from drstool.formats import Header, LabelRecord, MapRecord, open_sink, write_both
from drstool.formats.map_file import MapFileReader, PackedMap, encode_map, restored_map

HEADER = Header("localization-maps", ("a", "b", "c"))


@pytest.mark.parametrize("dtype", [np.uint8, np.float16])
@pytest.mark.parametrize("kind", ["zeros", "smooth", "noise"])
def test_hdf5_reads_packed_chunks(tmp_path, dtype, kind):
    random = np.random.default_rng(0)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        written = {}
        for side in (1, 2, 3, 17, 64, 255):
            y, x = np.mgrid[:side, :side + 1]
            values = {"zeros": x * 0, "smooth": (x + y) / 2, "noise": random.integers(0, 256, x.shape)}[kind]
            values = np.array(values).astype(dtype)
            dataset = file.create_dataset(
                str(side), shape=values.shape, dtype=dtype, chunks=values.shape, compression="gzip",
                shuffle=dtype is np.float16)
            (chunk,) = PackedMap.of(MapRecord("x", values[None], (1,), values.shape)).chunks
            dataset.id.write_direct_chunk((0, 0), chunk)
            written[str(side)] = values
    with h5py.File(tmp_path / "x.h5") as file:
        for name, values in written.items():
            assert np.array_equal(file[name][()], values)


def content(data):
    with MapFileReader(io.BytesIO(data), "x") as reader:
        found = [(one.id, one.values.dtype, one.values.tobytes(), one.labels, one.image_size, one.image)
                 for one in reader]
        return reader.header, found


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("dtype", [np.uint8, np.float16])
def test_a_flipped_bit_anywhere_is_noticed_or_changes_nothing(compress, dtype):
    """In files and on pipes. What is flipped unnoticed is no part of what is read, such as unused space."""
    values = (np.arange(2 * 5 * 7).reshape(2, 5, 7) ** 2 % 251).astype(dtype)
    record = MapRecord("a", values, (1, 3), (18, 22), "a.jpg")
    data = encode_map(record, HEADER, compress=compress)
    expected, chunks = content(data), []
    with h5py.File(io.BytesIO(data)) as file:
        file["maps/a"].id.chunk_iter(lambda info: chunks.extend(range(info.byte_offset, info.byte_offset + info.size)))
    assert len(chunks) > 70
    flips = {(place, bit) for place in chunks for bit in (0, 3, 6)}
    flips |= {(place, place % 8) for place in range(0, len(data), 7)}
    noticed = set()
    for place, bit in sorted(flips):
        flipped = bytearray(data)
        flipped[place] ^= 1 << bit
        try:
            assert content(bytes(flipped)) == expected
        except InputError:
            noticed.add((place, bit))
    # The last byte of a deflated chunk's last block may have bits to spare.
    missed = [each for each in flips - noticed if each[0] in chunks]
    assert len(missed) <= (8 * len(values) if compress else 0)


@pytest.mark.parametrize("dtype", [np.uint8, np.float16])
@pytest.mark.parametrize("count", [0, 2])
def test_stored_records_are_restored_with_and_without_the_checksum_of_earlier_versions(tmp_path, dtype, count):
    values = (np.arange(count * 12).reshape(count, 3, 4) % 251).astype(dtype)
    record = MapRecord("a", values, (1, 3)[:count], (18, 22), "a.jpg")
    chunks = PackedMap.of(record).chunks
    for tail in (b"", struct.pack("<I", 12345)):
        kept = [chunk + tail for chunk in chunks]
        description = {"shape": values.shape, "dtype": values.dtype.name, "labels": record.labels,
                       "image_size": [18, 22], "image": "a.jpg", "deflated": True, "parts": list(map(len, kept))}
        found = restored_map("a", description, b"".join(kept), "x")
        assert found.values.dtype == dtype
        assert (found.id, found.labels, found.image_size, found.image) == ("a", record.labels, (18, 22), "a.jpg")
        np.testing.assert_array_equal(found.values, values)
        if count:
            with pytest.raises(InputError, match="x: a: its maps are damaged"):
                restored_map("a", description, b"".join(kept)[:20], "x")
            with pytest.raises(InputError, match="x: a: its maps are damaged"):
                restored_map("a", description, b"\0" + b"".join(kept)[1:], "x")


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
        with open_sink(str(target), header, threads=threads) as sink:
            assert sink.write_all(labels() if what == "labels" else records()) == 12
        files = [target] if target.is_file() else sorted(target.iterdir())
        found.append([(path.name, path.read_bytes()) for path in files])
    assert found[0] == found[1]


def test_two_sinks_at_once_with_threads(tmp_path):
    for threads in (1, 3):
        folder = tmp_path / str(threads)
        folder.mkdir()
        with (
            open_sink(str(folder / "l"), Header("labels", HEADER.class_names), threads=threads) as one,
            open_sink(str(folder / "m.h5"), HEADER, threads=threads) as other,
        ):
            assert write_both(one, other, zip(labels(), records())) == 12
    assert (tmp_path / "1" / "m.h5").read_bytes() == (tmp_path / "3" / "m.h5").read_bytes()
