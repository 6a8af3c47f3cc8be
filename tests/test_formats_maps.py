"""Map files."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from drstool.artifacts.header import Header
from drstool.artifacts.job import Job
from drstool.artifacts.resume import Journal
from drstool.errors import InputError, OutputError
from drstool.formats import load, open_records, open_sink
from drstool.formats.map_file import MapFileReader, MapFileWriter, decode_map, encode_map
from drstool.formats.records import MapRecord, encode_values
from drstool.parallel import ordered_map

HEADER = Header("localization-maps", ("cat", "dog", "Kuh ä"), ({"command": "drstool cam"},))

parts = st.text(
    st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="/"), min_size=1, max_size=6
).filter(lambda part: part not in (".", ".."))
ids = st.lists(parts, min_size=1, max_size=3).map("/".join)


@st.composite
def records(draw, identifier=ids):
    labels = draw(st.lists(st.integers(1, 3), unique=True, max_size=3).map(sorted))
    shape = (len(labels), draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    dtype = draw(st.sampled_from([np.uint8, np.float16]))
    elements = st.floats(-100, 100, width=16) if dtype == np.float16 else None
    values = draw(nps.arrays(dtype, shape, elements=elements))
    size = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    return MapRecord(
        draw(identifier),
        values,
        tuple(labels),
        size,
        draw(st.sampled_from(["", "a b/ä.jpg", "/x/" + "y" * 300, "no\udcffunicode.jpg"])),
    )


def record(identifier: str = "a", **changes) -> MapRecord:
    values = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    return MapRecord(
        **{
            "id": identifier,
            "values": values,
            "labels": (1, 3),
            "image_size": (6, 8),
            "image": "a.jpg",
        }
        | changes
    )


def same(one: MapRecord, two: MapRecord) -> bool:
    return (
        one.values.dtype == two.values.dtype
        and np.array_equal(one.values, two.values)
        and (one.id, one.labels, one.image_size, one.image)
        == (two.id, two.labels, two.image_size, two.image)
    )


def write(path, *written: MapRecord, header: Header = HEADER) -> None:
    with MapFileWriter(path, header) as writer:
        for one in written:
            writer.write(one)


@settings(max_examples=40, deadline=None)
@given(records())
def test_a_record_survives(one):
    assert same(decode_map(encode_map(one, HEADER), HEADER, "x"), one)
    assert same(decode_map(encode_map(one, HEADER, compress=True), HEADER, "x"), one)


@settings(max_examples=25, deadline=None)
@given(st.lists(records(parts), max_size=4, unique_by=lambda one: one.id))
def test_a_file_survives_in_order(written):
    file = io.BytesIO()
    write(file, *written)
    with MapFileReader(file) as reader:
        assert reader.header == HEADER and reader.ids() == tuple(one.id for one in written)
        assert all(same(a, b) for a, b in zip(reader, written, strict=True))
        assert all(same(reader.read(one.id), one) for one in reversed(written))


def test_plain_h5py_reads_it(tmp_path):
    write(tmp_path / "m.h5", record("street/0001 ä"), record("z"))
    with h5py.File(tmp_path / "m.h5") as file:
        attrs = dict(file.attrs)
        # Texts of fixed length, which h5py gives as bytes.
        assert (attrs["format"], attrs["version"], attrs["kind"]) == (
            b"drstool",
            1,
            b"localization-maps",
        )
        assert [name.decode() for name in attrs["class_names"]] == ["cat", "dog", "Kuh ä"] and attrs["complete"]
        assert attrs["count"] == 2 and b"drstool cam" in attrs["provenance"]
        assert [name.decode() for name in file["ids"]] == ["street/0001 ä", "z"]
        maps = file["maps/street/0001 ä"]
        assert maps.shape == (2, 3, 4) and maps.chunks == (1, 3, 4) and maps.compression == "gzip"
        assert not maps.fletcher32 and list(maps.attrs["labels"]) == [1, 3]
        assert list(maps.attrs["image_size"]) == [6, 8] and maps.attrs["image"] == b"a.jpg"


def test_a_file_made_with_plain_h5py_is_read(tmp_path):
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.attrs.update(
            {"format": "drstool", "version": 1, "kind": "refined-maps", "complete": True}
        )
        file.attrs["class_names"] = np.array([b"cat", b"dog"])
        for name in ("b/c", "a"):
            maps = file.create_dataset(f"maps/{name}", data=np.ones((1, 2, 2), ">f2"))
            maps.attrs["labels"], maps.attrs["image_size"] = [2], [4, 4]
    with open_records(str(tmp_path / "m.h5")) as source:
        read = list(source.records())
        assert source.header.class_names == ("cat", "dog") and source.ids() == ("a", "b/c")
    assert read[0].values.dtype == np.float16 and read[0].as_float().max() == 1


def test_values_are_coded_as_said():
    x = np.linspace(-0.5, 1.5, 2001, dtype=np.float32).reshape(1, 1, -1)
    coded = encode_values(x)
    assert coded.dtype == np.uint8
    back = record(values=coded, labels=(1,)).as_float()
    assert back.dtype == np.float32 and np.abs(back - x.clip(0, 1)).max() <= 1 / 510 + 1e-6
    assert np.array_equal(encode_values(x, "float16"), x.astype(np.float16))


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(np.nan, "uint8"), (np.nan, "float16"), (np.inf, "float16"), (1e6, "float16")],
)
def test_values_that_are_no_numbers_are_told(value, dtype):
    with pytest.raises(InputError, match="not a finite number"):
        encode_values(np.full((1, 2, 2), value, np.float32), dtype)


@pytest.mark.parametrize(
    "change",
    [
        {"values": np.zeros((2, 3), np.uint8)},
        {"values": np.zeros((2, 3, 4), np.float32)},
        {"values": np.zeros((2, 0, 4), np.uint8)},
        {"values": np.zeros((1, 3, 4), np.uint8)},
        {"labels": (3, 1)},
        {"labels": (1, 1)},
        {"labels": (0, 1)},
        {"labels": (1, 4)},
        {"image_size": (0, 3)},
        {"image_size": (1 << 20, 1 << 20)},
        {"image_size": (3,)},
        {"values": np.full((2, 3, 4), np.nan, np.float16)},
        {"values": np.broadcast_to(np.uint8(0), (2, 20_000, 20_000))},
        {"id": "../a"},
        {"id": "/a"},
        {"id": "a//b"},
        {"id": ""},
        {"id": "a\n"},
    ],
)
def test_a_bad_record_is_refused_and_the_file_goes_on(tmp_path, change):
    with MapFileWriter(tmp_path / "m.h5", HEADER) as writer:
        with pytest.raises(InputError):
            writer.write(record(**change))
        writer.write(record("good"))
    with MapFileReader(tmp_path / "m.h5") as reader:
        assert reader.ids() == ("good",)


@pytest.mark.parametrize(("first", "second"), [("a", "a/b"), ("a/b", "a"), ("a/b/c", "a/b")])
def test_an_id_that_is_a_folder_of_another_is_told(tmp_path, first, second):
    with MapFileWriter(tmp_path / "m.h5", HEADER) as writer:
        writer.write(record(first))
        with pytest.raises(InputError, match=f"'{second}' and '{first}'"):
            writer.write(record(second))
        with pytest.raises(InputError, match="twice"):
            writer.write(record(first))


def test_the_same_records_are_the_same_bytes(tmp_path):
    written = [record("b/ä"), record("a"), record("0", values=np.zeros((2, 3, 4), np.float16))]
    write(tmp_path / "1.h5", *written)
    memory = encode_map(written[0], HEADER)
    time.sleep(1.1)
    write(tmp_path / "2.h5", *written)
    assert (tmp_path / "1.h5").read_bytes() == (tmp_path / "2.h5").read_bytes()
    assert memory == encode_map(written[0], HEADER)


def test_a_cut_file_is_told(tmp_path):
    write(tmp_path / "m.h5", record("a"), record("b"))
    data = (tmp_path / "m.h5").read_bytes()
    for size in [*range(0, len(data), 97), len(data) - 1]:
        (tmp_path / "cut.h5").write_bytes(data[:size])
        for source in (str(tmp_path / "cut.h5"), None):
            with (
                pytest.raises(InputError),
                open(tmp_path / "cut.h5", "rb") as stdin,
                open_records(source, stdin) as opened,
            ):
                list(opened.records())


def test_a_flipped_bit_in_a_map_is_told_by_its_id(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (1, 64, 64), np.uint8)
    path = tmp_path / "m.h5"
    write(path, record("a"), record("b/c", values=noise, labels=(1,)))
    with h5py.File(path) as file:
        place = file["maps/b/c"].id.get_chunk_info(0).byte_offset
    data = bytearray(path.read_bytes())
    data[place + 1000] ^= 4
    path.write_bytes(data)
    with MapFileReader(path) as reader:
        assert reader.read("a").id == "a"
        with pytest.raises(InputError, match="b/c"):
            reader.read("b/c")


def change_file(path, action) -> None:
    with h5py.File(path, "r+") as file:
        action(file)


def external_storage(file) -> None:
    del file["maps/a"]
    file.create_dataset("maps/a", (2, 3, 4), "u1", external=[("/etc/passwd", 0, 24)])


def virtual(file) -> None:
    del file["maps/a"]
    layout = h5py.VirtualLayout((2, 3, 4), "u1")
    layout[:] = h5py.VirtualSource("/etc/hosts", "x", (2, 3, 4))
    file.create_virtual_dataset("maps/a", layout)


def absurd(file) -> None:
    del file["maps/a"]
    file.create_dataset("maps/a", (2, 1 << 30, 1 << 30), "u1", chunks=(1, 64, 64))


def swapped(link):
    def action(file) -> None:
        file["kept"] = file["maps/a"]
        del file["maps/a"]
        file["maps/a"] = link

    return action


def relinked_group(file) -> None:
    file["other"] = file["maps"]
    del file["maps"]
    file["maps"] = h5py.SoftLink("/other")


def linked_ids(file) -> None:
    del file["ids"]
    file["ids"] = h5py.SoftLink("/maps/a")


def without(attribute):
    return lambda file: file["maps/a"].attrs.pop(attribute)


@pytest.mark.parametrize(
    "action",
    [
        external_storage,
        virtual,
        absurd,
        relinked_group,
        linked_ids,
        swapped(h5py.SoftLink("/kept")),
        swapped(h5py.ExternalLink("/etc/passwd", "/x")),
        without("labels"),
        without("image_size"),
        lambda file: file["maps/a"].attrs.__setitem__("labels", "cat"),
        lambda file: file["maps/a"].attrs.__setitem__("labels", [1.5, 2.0]),
        lambda file: file["maps/a"].attrs.__setitem__("labels", [1, 9]),
        lambda file: file["maps/a"].attrs.__setitem__("image_size", 3),
        lambda file: file["maps/a"].attrs.__setitem__("image_size", [3, 4, 5]),
        lambda file: file["maps"].pop("a"),
        lambda file: file.pop("maps"),
        lambda file: file.attrs.__setitem__("complete", False),
        lambda file: file.attrs.pop("complete"),
        lambda file: file.attrs.__setitem__("count", 7),
        lambda file: file.attrs.__setitem__("version", 2),
        lambda file: file.attrs.__setitem__("version", "one"),
        lambda file: file.attrs.__setitem__("format", "keras"),
        lambda file: file.attrs.__setitem__("format", 3),
        lambda file: file.attrs.pop("format"),
        lambda file: file.attrs.__setitem__("kind", "labels"),
        lambda file: file.attrs.__setitem__("kind", "cats"),
        lambda file: file.attrs.pop("class_names"),
        lambda file: file.attrs.__setitem__("class_names", [1, 2]),
        lambda file: file.attrs.__setitem__("provenance", "{"),
        lambda file: file["ids"].__setitem__(0, "../../etc/passwd"),
        lambda file: file["ids"].__setitem__(0, b"\xff"),
    ],
)
def test_files_that_were_tampered_with_are_told(tmp_path, action):
    write(tmp_path / "m.h5", record("a"))
    change_file(tmp_path / "m.h5", action)
    with pytest.raises(InputError) as caught, open_records(str(tmp_path / "m.h5")) as source:
        list(source.records())
    assert str(caught.value).startswith(str(tmp_path / "m.h5")) and "\n" not in str(caught.value)


def test_another_hdf5_file_is_told(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["data"] = [1]
    with pytest.raises(InputError, match="not one of drstool's"):
        open_records(str(tmp_path / "x.h5"))
    with pytest.raises(InputError, match="not an HDF5 file"):
        MapFileReader(__file__)
    with pytest.raises(InputError, match="No such file"):
        MapFileReader(tmp_path / "none.h5")


def test_an_unknown_id_is_told(tmp_path):
    write(tmp_path / "m.h5", record("a"))
    with MapFileReader(tmp_path / "m.h5") as reader:
        assert len(reader) == 1 and "a" in reader and "b" not in reader
        with pytest.raises(InputError, match="'b'"):
            reader.read("b")


def test_a_reader_can_be_sent_to_another_process(tmp_path):
    write(tmp_path / "m.h5", record("a"), record("b"))
    with MapFileReader(tmp_path / "m.h5", "maps") as reader, pickle.loads(pickle.dumps(reader)) as other:
        assert same(other.read("b"), reader.read("b"))
        assert other.where == "maps"


def test_unread_records_are_read_by_any_thread(tmp_path):
    names = [f"i{number}" for number in range(40)]
    write(tmp_path / "m.h5", *map(record, names))
    with open_records(tmp_path / "m.h5") as source:
        unread = list(source.lazy_records())
        assert [each.id for each in unread] == names
        assert all(each.is_maps for each in unread)
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(load, unread))
        assert all(same(one, source.read(one.id)) for one in found)
    assert load(found[0]) is found[0]


def test_an_output_that_fails_ends_the_reading(tmp_path):
    """Before the source is closed: no thread is left to read from it."""
    write(tmp_path / "m.h5", *(record(f"i{number}") for number in range(60)))
    threads = threading.active_count()

    def twice(one):
        return replace(load(one), id="the same")

    with open_records(tmp_path / "m.h5") as source, pytest.raises(InputError, match="twice|two|again|same"), \
            open_sink(str(tmp_path / "out.h5"), HEADER) as sink:
        sink.put_all(ordered_map(lambda one: sink.prepare(twice(one)), source.lazy_records(), 4))
    assert threading.active_count() == threads and not (tmp_path / "out.h5").exists()


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_no_file(tmp_path, failure):
    with pytest.raises(failure), open_sink(str(tmp_path / "m.h5"), HEADER) as sink:
        sink.write(record("a"))
        raise failure
    assert not list(tmp_path.iterdir())


class Failing(io.BytesIO):
    """A disk that has no room after so many bytes, or where the user presses Ctrl-C."""

    def __init__(self, room: int, failure: BaseException) -> None:
        super().__init__()
        self.room, self.failure = room, failure

    def write(self, data) -> int:
        if self.tell() + len(data) > self.room:
            raise self.failure
        return super().write(data)


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_full_disk_at_any_byte_is_told(failure):
    noise = np.random.default_rng(0).integers(0, 256, (1, 40, 40), np.uint8)
    written = [record(str(n), values=noise, labels=(1,)) for n in range(3)]
    whole = io.BytesIO()
    write(whole, *written)
    expected = OutputError if isinstance(failure, OSError) else KeyboardInterrupt
    for room in range(0, len(whole.getvalue()), 211):
        with pytest.raises(expected):
            write(Failing(room, failure), *written)
    assert not h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE)


def test_a_limit_of_the_file_size_ends_in_one_line(tmp_path):
    code = """
import resource, sys
import numpy as np
from drstool.errors import OutputError
from drstool.formats import Header, MapRecord, open_sink
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
noise = np.random.default_rng(0).integers(0, 256, (1, 100, 100), np.uint8)
try:
    with open_sink("m.h5", Header("localization-maps", ("cat",))) as sink:
        for n in range(20):
            sink.write(MapRecord(str(n), noise, (1,), (9, 9), ""))
except OutputError as error:
    print(error, file=sys.stderr)
    sys.exit(1)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    assert done.returncode == 1 and done.stderr.startswith(
        "m.h5: cannot be written: File too large"
    )
    assert done.stderr.count("\n") == 1 and not list(tmp_path.iterdir())


def test_many_records_give_the_same_bytes_however_they_came_to_be(tmp_path):
    """HDF5 writes descriptions down when its cache is full, in an order that nothing else may decide."""
    records = [MapRecord(f"f/{n:06d}", np.full((1, 4, 4), n % 256, np.uint8), (1,), (4, 4), "") for n in range(3000)]
    whole, again = tmp_path / "whole.h5", tmp_path / "again.h5"
    with open_sink(str(whole), HEADER) as sink:
        sink.write_all(records)
    work = Job("cam", HEADER.class_names)
    journal = Journal(again, work)
    journal.start()
    with pytest.raises(KeyboardInterrupt), open_sink(str(again), HEADER, resume=journal) as sink:
        sink.write_all(records[:1200])
        raise KeyboardInterrupt
    journal.close()
    journal = Journal(again, work)
    journal.load([record.id for record in records])
    with open_sink(str(again), HEADER, resume=journal) as sink:
        sink.write_all(records[len(journal.finished):])
    assert len(journal.finished) == 3000
    assert again.read_bytes() == whole.read_bytes()


_HELD = """
import sys
import numpy as np
from drstool.formats import Header, MapRecord, open_records, open_sink

def held():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20

def records():
    values = np.ones((1, 4, 4), np.uint8)
    for number in range(3000):
        if number == 500:
            before.append(held())
        yield MapRecord(f"{number:06d}", values, (1,), (4, 4), "")

before = []
with open_sink(sys.argv[1], Header("localization-maps", ("a",))) as sink:
    sink.write_all(records())
    print(held() - before[0])
with open_records(sys.argv[1]) as source:
    for number, _ in enumerate(source.records()):
        if number == 500:
            before.append(held())
    print(held() - before[1])
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="no /proc")
def test_hdf5_keeps_no_image_in_memory(tmp_path):
    """By default its cache takes 6 to 10 KB for each, up to hundreds of megabytes."""
    done = subprocess.run([sys.executable, "-c", _HELD, str(tmp_path / "x.h5")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    written, read = map(float, done.stdout.split())
    # Ids and their places are kept.
    assert max(written, read) < 2500 * 1500 / 2**20 + 2, done.stdout
