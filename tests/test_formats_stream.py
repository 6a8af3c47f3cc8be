"""Streams: on pipes, in files, whole, cut and foreign."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drstool.artifacts.header import Header
from drstool.errors import DrstoolError, InputError, OutputError, UsageError
from drstool.formats import LabelRecord, MapRecord, check_sink, open_records, open_sink
from drstool.formats.stream import StreamReader, StreamWriter

MAPS = Header("localization-maps", ("cat", "dog"), ({"command": "drstool cam"},))
LABELS = Header("labels", ("cat", "dog"))

parts = st.text(
    st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="/"), min_size=1, max_size=60
).filter(lambda part: part not in (".", "..") and len(part.encode()) < 200)
ids = st.lists(parts, min_size=1, max_size=3).map("/".join)


def a_map(identifier: str, fill: int = 7) -> MapRecord:
    return MapRecord(
        identifier, np.full((1, 3, 4), fill, np.uint8), (2,), (6, 8), f"{identifier}.jpg"
    )


def a_label(identifier: str, fill: int = 1) -> LabelRecord:
    return LabelRecord(identifier, np.full((3, 4), fill, np.uint8), f"{identifier}.jpg")


def stream_of(*records, header: Header = MAPS) -> bytes:
    buffer = io.BytesIO()
    with open_sink(None, header, stdout=buffer) as sink:
        assert sink.write_all(records) == len(records)
    return buffer.getvalue()


def read(data: bytes) -> list:
    with open_records(None, io.BytesIO(data)) as source:
        return list(source.records())


def members(data: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return archive.getmembers()


def repacked(data: bytes, change, format=tarfile.PAX_FORMAT) -> bytes:
    """The archive with each member and its bytes put through a function; None drops it."""
    buffer = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(data)) as old,
        tarfile.open(fileobj=buffer, mode="w", format=format) as new,
    ):
        for info in old.getmembers():
            changed = change(info, old.extractfile(info).read())
            if changed is not None:
                info, body = changed
                info.size = len(body)
                new.addfile(info, io.BytesIO(body))
    return buffer.getvalue()


@settings(max_examples=40, deadline=None)
@given(st.lists(ids, unique=True, max_size=4))
def test_any_ids_survive_in_order(identifiers):
    for header, make in ((MAPS, a_map), (LABELS, a_label)):
        data = stream_of(*map(make, identifiers), header=header)
        assert [record.id for record in read(data)] == identifiers
        suffix = ".h5" if header is MAPS else ".png"
        assert [info.name for info in members(data)] == [
            "drstool.json",
            *(identifier + suffix for identifier in identifiers),
            "drstool.end.json",
        ]


def test_records_survive():
    one, two = (
        a_map("a/ä b", 200),
        MapRecord("none", np.zeros((0, 2, 2), np.float16), (), (2, 2), ""),
    )
    back = read(stream_of(one, two))
    assert np.array_equal(back[0].values, one.values) and back[0].labels == (2,)
    assert (back[0].image, back[0].image_size) == ("a/ä b.jpg", (6, 8))
    assert back[1].values.shape == (0, 2, 2) and back[1].values.dtype == np.float16
    label = read(stream_of(a_label("x", 255), header=LABELS))[0]
    assert label.labels.tolist() == [[255] * 4] * 3 and label.image == "x.jpg"


def test_a_member_is_a_map_file_of_its_own(tmp_path):
    data = stream_of(a_map("a/b"))
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        (tmp_path / "b.h5").write_bytes(archive.extractfile("a/b.h5").read())
    with h5py.File(tmp_path / "b.h5") as file:
        assert file["maps/a/b"].shape == (1, 3, 4)
    with open_records(str(tmp_path / "b.h5")) as source:
        assert source.ids() == ("a/b",) and source.header == MAPS


@pytest.mark.parametrize(("header", "make"), [(MAPS, a_map), (LABELS, a_label)])
def test_a_stream_cut_anywhere_is_told(header, make):
    data = stream_of(make("a"), make("long" * 30), header=header)
    # Of labels every byte; of maps, whose payloads are long, each 61st byte, and near the ends each 7th.
    step, near = (61, 7) if header is MAPS else (1, 1)
    cuts = {*range(0, len(data), step), *range(len(data) - 3000, len(data), near), *range(0, 1600, near)}
    for info in members(data):
        for place in (info.offset, info.offset_data, info.offset_data + info.size):
            cuts |= set(range(max(0, place - 3), place + 4))
    for cut in sorted(c for c in cuts if 0 <= c < len(data)):
        with pytest.raises(InputError) as caught:
            read(data[:cut])
        assert "\n" not in str(caught.value) and str(caught.value).startswith("stdin: ")
    assert len(read(data)) == 2


def test_what_arrived_before_the_cut_is_given_out():
    data, got = stream_of(a_label("a"), a_label("b"), header=LABELS), []
    cut = members(data)[2].offset + 5
    with (
        pytest.raises(
            InputError,
            match="the stream ends after 1 records without its end record; "
            "the previous stage failed or was interrupted",
        ),
        open_records(None, io.BytesIO(data[:cut])) as source,
    ):
        got.extend(record.id for record in source.records())
    assert got == ["a"]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damage_is_an_input_error_or_harmless(data):
    whole = bytearray(stream_of(a_label("a"), a_label("b/c"), header=LABELS))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        read(bytes(whole))
    except DrstoolError as error:
        assert error.exit_code == 3


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=1500))
def test_noise_is_told(data):
    with pytest.raises(InputError):
        read(data)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "is empty"),
        (b"\x1f\x8b" + bytes(600), "gzip"),
        (b"\x89PNG\r\n" + bytes(600), "single PNG"),
        (b"{}", "neither"),
        (b"id,image\n" * 90, "neither"),
        (b"\x93NUMPY" + bytes(600), "NumPy"),
    ],
)
def test_other_input_is_told(tmp_path, data, told):
    with pytest.raises(InputError, match=f"stdin: is .*{told}|stdin: {told}"):
        read(data)
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(InputError, match=told):
        open_records(str(tmp_path / "x"))


def test_another_tar_archive_is_told():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(__file__, "test.py")
    with pytest.raises(InputError, match=r"does not begin with 'drstool.json'"):
        read(buffer.getvalue())


def renamed(name: str, to: str):
    return lambda info, body: (info.replace(name=to) if info.name == name else info, body)


def retyped(kind: bytes):
    def change(info, body):
        if info.name != "a.h5":
            return info, body
        info.type, info.linkname = kind, "/etc/passwd"
        return info, b""

    return change


@pytest.mark.parametrize(
    "change",
    [
        renamed("a.h5", "../a.h5"),
        renamed("a.h5", "/a.h5"),
        renamed("a.h5", "x/../../a.h5"),
        renamed("a.h5", "a.txt"),
        renamed("a.h5", ".h5"),
        renamed("a.h5", "b.h5"),
        renamed("a.h5", "c.h5"),
        renamed("drstool.json", "x.json"),
        renamed("drstool.end.json", "x.json"),
        retyped(tarfile.SYMTYPE),
        retyped(tarfile.LNKTYPE),
        retyped(tarfile.CHRTYPE),
        retyped(tarfile.FIFOTYPE),
        retyped(tarfile.BLKTYPE),
        lambda info, body: None if info.name == "drstool.end.json" else (info, body),
        lambda info, body: None if info.name == "a.h5" else (info, body),
        lambda info, body: (
            info,
            b'{"count": 1, "complete": true}' if "end" in info.name else body,
        ),
        lambda info, body: (info, b"{}" if "end" in info.name else body),
        lambda info, body: (info, b"" if info.name == "a.h5" else body),
        lambda info, body: (info, body[:-9] if info.name == "a.h5" else body),
        lambda info, body: (
            info,
            body.replace(b"dog", b"cow") if info.name == "drstool.json" else body,
        ),
        lambda info, body: (info, body.replace(b'"version": 1', b'"version": 2')),
    ],
)
def test_archives_that_were_tampered_with_are_told(change):
    data = repacked(stream_of(a_map("a"), a_map("b")), change)
    with pytest.raises(InputError) as caught:
        read(data)
    assert "\n" not in str(caught.value)


def test_an_archive_packed_by_others_is_read():
    data = stream_of(a_map("a"), a_map("long/" * 40 + "ä"))
    for format in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        for prefix in ("", "./"):
            packed = repacked(
                data,
                lambda info, body, prefix=prefix: (
                    info.replace(name=prefix + info.name, mtime=1e9 + 0.5, uname="x"),
                    body,
                ),
                format,
            )
            assert [record.id for record in read(packed)] == ["a", "long/" * 40 + "ä"]


@pytest.mark.skipif(shutil.which("tar") is None, reason="no tar here")
def test_the_tar_program_lists_and_repacks(tmp_path):
    (tmp_path / "s.tar").write_bytes(
        stream_of(a_label("a/ä b"), a_label("long" * 40), header=LABELS)
    )
    env = {**os.environ, "LC_ALL": "C.UTF-8"}
    listed = subprocess.run(
        ["tar", "tf", "s.tar", "--quoting-style=literal"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    assert listed.stderr == "" and listed.stdout.split("\n") == [
        "drstool.json",
        "a/ä b.png",
        "long" * 40 + ".png",
        "drstool.end.json",
        "",
    ]
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "xf", "../s.tar"], cwd=tmp_path / "out", env=env, check=True)
    with open_records(str(tmp_path / "out")) as source:
        assert source.ids() == ("a/ä b", "long" * 40) and source.header == LABELS
    subprocess.run(
        ["tar", "cf", "../t.tar", "drstool.json", "a", "long" * 40 + ".png", "drstool.end.json"],
        cwd=tmp_path / "out",
        env=env,
        check=True,
    )
    with open_records(str(tmp_path / "t.tar")) as source:
        assert [record.id for record in source.records()] == ["a/ä b", "long" * 40]


def test_sizes_that_are_lies_cost_no_memory():
    info = tarfile.TarInfo("drstool.json")
    info.size = 1 << 62
    with pytest.raises(InputError):
        read(info.tobuf(tarfile.PAX_FORMAT) + bytes(512))
    info.size = 10 << 20
    with pytest.raises(InputError, match="ends after 0 records"):
        read(info.tobuf(tarfile.PAX_FORMAT) + bytes(512))


def test_two_streams_in_a_row_are_told():
    data = stream_of(a_map("a"))
    with pytest.raises(InputError, match="drstool cat"):
        read(data + data)
    assert len(read(data + bytes(10240))) == 1


def test_the_same_records_are_the_same_bytes():
    one = stream_of(a_map("a"), a_map("b/ä" * 50))
    time.sleep(1.1)
    assert one == stream_of(a_map("a"), a_map("b/ä" * 50))
    for info in members(one):
        assert (info.mtime, info.uid, info.gid, info.uname, info.gname) == (0, 0, 0, "", "")


def test_the_writer_refuses_what_the_reader_would():
    writer = StreamWriter(io.BytesIO(), MAPS)
    writer.write(a_map("a"))
    for record in (
        a_map("a"),
        a_map("../a"),
        MapRecord("b", np.zeros((1, 2, 2), np.uint8), (3,), (2, 2), ""),
    ):
        with pytest.raises(InputError):
            writer.write(record)
    assert writer.count == 1


def test_each_record_leaves_when_it_is_written_and_is_read_when_it_came():
    reading, writing = os.pipe()
    with open(writing, "wb") as out, open(reading, "rb") as source:
        writer = StreamWriter(out, LABELS)
        reader = StreamReader(source)
        records = iter(reader)
        for n in range(5):
            writer.write(a_label(str(n)))
            assert next(records).id == str(n)
        writer.close()
        out.close()
        assert next(records, None) is None


RELAY = """
import sys
from drstool.formats import open_records, open_sink
with open_records(None) as source, open_sink(None, source.header) as sink:
    for record in source.records():
        sink.write(record)
        print(record.id, file=sys.stderr, flush=True)
"""


@pytest.mark.parametrize(("header", "make"), [(MAPS, a_map), (LABELS, a_label)])
def test_processes_on_a_pipe_run_at_the_same_time(header, make):
    relay = subprocess.Popen(
        [sys.executable, "-c", RELAY],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=False,
    )
    with relay:
        writer = StreamWriter(relay.stdin, header)
        writer.write(make("one"))
        assert relay.stderr.readline() == b"one\n"
        records = records_of(relay.stdout)
        assert next(records).id == "one"
        writer.write(make("two"))
        assert next(records).id == "two"
        writer.write(make("three"))
        writer.close()
        relay.stdin.close()
        assert [record.id for record in records] == ["three"]
        assert relay.wait(60) == 0


def records_of(pipe):
    """The records that come through a pipe, opened when they are first asked for."""
    with open_records(None, pipe) as source:
        yield from source.records()


def test_a_stage_that_fails_makes_the_next_one_fail():
    relay = subprocess.run(
        [sys.executable, "-c", RELAY, "maps"],
        input=stream_of(a_map("a"))[:-1025],
        capture_output=True,
        check=False,
    )
    assert relay.returncode != 0
    with pytest.raises(InputError, match="ends after 1 records"):
        read(relay.stdout)


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_no_end_record_after_a_failure(failure):
    buffer = io.BytesIO()
    with pytest.raises(failure), open_sink(None, MAPS, stdout=buffer) as sink:
        sink.write(a_map("a"))
        raise failure
    with pytest.raises(InputError, match="ends after 1 records"):
        read(buffer.getvalue())


# --- where records lie and go ------------------------------------------------------------------


def test_a_regular_file_on_stdout_gets_a_map_file(tmp_path):
    with open(tmp_path / "m.h5", "wb") as stdout, open_sink(None, MAPS, stdout=stdout) as sink:
        sink.write(a_map("a"))
    with open_records(str(tmp_path / "m.h5")) as source:
        assert source.ids() == ("a",)
    with open(tmp_path / "m.h5", "rb") as stdin, open_records("-", stdin) as source:
        assert source.ids() == ("a",) and source.read("a").id == "a"


def test_a_regular_file_on_stdout_stays_empty_after_a_failure(tmp_path):
    with (
        open(tmp_path / "m.h5", "wb") as stdout,
        pytest.raises(ValueError),
        open_sink(None, MAPS, stdout=stdout) as sink,
    ):
        sink.write(a_map("a"))
        raise ValueError
    assert (tmp_path / "m.h5").read_bytes() == b""


@pytest.mark.parametrize(
    ("output", "header", "make"), [("-", MAPS, a_map), (None, LABELS, a_label)]
)
def test_a_regular_file_on_stdout_gets_a_stream(tmp_path, output, header, make):
    with (
        open(tmp_path / "s", "wb") as stdout,
        open_sink(output, header, stdout=stdout) as sink,
    ):
        sink.write(make("a"))
    with open_records(str(tmp_path / "s")) as source:
        assert source.ids() is None and [record.id for record in source.records()] == ["a"]
        with pytest.raises(InputError, match="streams do not support random access"):
            source.read("a")


def test_nothing_is_appended_to_a_file(tmp_path):
    (tmp_path / "x").write_bytes(b"old")
    with (
        open(tmp_path / "x", "ab") as stdout,
        pytest.raises(OutputError, match="is not empty"),
        open_sink(None, MAPS, stdout=stdout),
    ):
        pytest.fail("the work began")
    assert (tmp_path / "x").read_bytes() == b"old"


def test_a_tar_file_is_written_whole(tmp_path):
    for header, make in ((MAPS, a_map), (LABELS, a_label)):
        path = str(tmp_path / f"{header.kind}.tar")
        with open_sink(path, header) as sink:
            sink.write(make("a"))
        with open_records(path) as source:
            assert [record.id for record in source.records()] == ["a"] and source.header == header
        with pytest.raises(OutputError, match="exists"), open_sink(path, header):
            pytest.fail("the work began")
    with pytest.raises(ValueError), open_sink(str(tmp_path / "x.tar"), MAPS) as sink:
        raise ValueError
    assert {path.name for path in tmp_path.iterdir()} == {"localization-maps.tar", "labels.tar"}


def test_with_an_output_nothing_goes_to_stdout(tmp_path):
    stdout = io.BytesIO()
    with open_sink(str(tmp_path / "m.h5"), MAPS, stdout=stdout) as sink:
        sink.write(a_map("a"))
    assert stdout.getvalue() == b""


class Terminal(io.BytesIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_and_gives_nothing():
    with (
        pytest.raises(UsageError, match=r"terminal.*-o FILE"),
        open_sink(None, MAPS, stdout=Terminal()),
    ):
        pytest.fail("the work began")
    with pytest.raises(UsageError, match="terminal"):
        check_sink(None, False, stdout=Terminal(), what="maps")
    with pytest.raises(UsageError, match="terminal"):
        open_records(None, Terminal())


def test_the_output_is_checked_before_the_work(tmp_path):
    (tmp_path / "there").touch()
    for what in ("maps", "labels"):
        with pytest.raises(OutputError):
            check_sink(str(tmp_path / "there"), False, what=what)
        with pytest.raises(OutputError, match="does not exist"):
            check_sink(str(tmp_path / "no/x"), False, what=what)
        check_sink(str(tmp_path / "new"), False, what=what)
    check_sink(str(tmp_path / "there"), True, what="maps")
    check_sink("/dev/null", False, what="maps")
    check_sink("-", False, stdout=io.BytesIO(), what="labels")


def test_a_named_pipe_and_a_device_get_the_stream(tmp_path):
    with open_sink("/dev/null", MAPS) as sink:
        sink.write(a_map("a"))
    os.mkfifo(tmp_path / "fifo")
    relay = subprocess.Popen(["cat", "fifo"], cwd=tmp_path, stdout=subprocess.PIPE)
    with open_sink(str(tmp_path / "fifo"), MAPS) as sink:
        sink.write(a_map("a"))
    assert [record.id for record in read(relay.communicate()[0])] == ["a"]


def test_a_map_file_may_come_through_a_pipe(tmp_path):
    with open_sink(str(tmp_path / "m.h5"), MAPS) as sink:
        sink.write_all([a_map("b"), a_map("a")])
    with (
        subprocess.Popen(["cat", "m.h5"], cwd=tmp_path, stdout=subprocess.PIPE) as cat,
        open_records(None, cat.stdout) as source,
    ):
        assert source.ids() == ("b", "a") and source.read("a").id == "a"


@pytest.mark.parametrize("what", ["maps", "labels"])
def test_a_full_device_is_told(what):
    header, make = (MAPS, a_map) if what == "maps" else (LABELS, a_label)
    with (
        open("/dev/full", "wb", buffering=0) as full,
        pytest.raises(OutputError, match="stdout: cannot be written: No space left"),
        open_sink(None, header, stdout=full) as sink,
    ):
        sink.write(make("a"))
    with (
        pytest.raises(OutputError, match="/dev/full: cannot be written"),
        open_sink("/dev/full", header) as sink,
    ):
        sink.write(make("a"))


def test_a_closed_pipe_comes_through():
    reading, writing = os.pipe()
    os.close(reading)
    with (
        open(writing, "wb", buffering=0) as stdout,
        pytest.raises(BrokenPipeError),
        open_sink(None, MAPS, stdout=stdout),
    ):
        pytest.fail("the work began")


def test_missing_and_unreadable_sources_are_told(tmp_path):
    with pytest.raises(InputError, match="no such file or folder"):
        open_records(str(tmp_path / "none"))
    with pytest.raises(InputError, match="cannot be read"):
        open_records(str(tmp_path / ("n" * 300)))
    reading, writing = os.pipe()
    with (
        open(writing, "rb", buffering=0) as wrong_end,
        pytest.raises(InputError, match="cannot be read"),
    ):
        open_records(None, wrong_end)
    os.close(reading)


ENDLESS = """
import itertools, sys
import numpy as np
from drstool.formats import Header, LabelRecord, MapRecord, open_sink
what, output = sys.argv[1:]
header = Header("labels" if what == "labels" else "score-maps", ("cat",))
with open_sink(output, header) as sink:
    for n in itertools.count():
        sink.write(LabelRecord(str(n), np.zeros((50, 50), np.uint8)) if what == "labels" else
                   MapRecord(str(n), np.zeros((1, 50, 50), np.uint8), (1,), (5, 5)))
        print(n, flush=True)
"""


def interrupted(process):
    """What a process says that was interrupted. Python loses an interrupt that comes while it forgets an object."""
    while True:
        process.send_signal(signal.SIGINT)
        try:
            return process.communicate(timeout=20)[1]
        except subprocess.TimeoutExpired:
            continue


@pytest.mark.parametrize("what", ["maps", "labels"])
def test_an_interrupt_leaves_nothing(tmp_path, what):
    env = {**os.environ, "PYTHONPATH": os.getcwd()}
    for wait in (b"0\n", b"7\n", b"20\n"):
        with subprocess.Popen(
            [sys.executable, "-c", ENDLESS, what, "out"],
            cwd=tmp_path,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            while process.stdout.readline() != wait:
                assert process.poll() is None
            assert list(tmp_path.iterdir())
            told = interrupted(process)
        assert b"KeyboardInterrupt" in told and b"HDF5" not in told
        assert not list(tmp_path.iterdir())


def test_formats_do_not_load_torch():
    code = (
        "import sys, drstool.formats, drstool.artifacts.provenance\nsys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
