"""Pipes that stall and pipes that break; and that neither threads nor batches change what comes out."""

import contextlib
import fcntl
import io
import os
import signal
import time

import h5py
import numpy as np
import pytest

from drstool.formats import Header, MapRecord
from drstool.formats.stream import StreamWriter

# Pipes as small as may be: what is done ahead is then the program's, not the system's.
PIPE_BYTES = 4096
# Ends itself as SIGKILL would, once a record has left.
DIES = """
import os
from drstool import formats
from drstool.formats.label_folder import LabelFolderWriter
from drstool.formats.stream import StreamWriter
for kind, name in ((StreamWriter, "write"), (StreamWriter, "put"), (LabelFolderWriter, "write"),
                   (LabelFolderWriter, "put")):
    def dying(writer, *arguments, method=getattr(kind, name, None)):
        method(writer, *arguments)
        os.kill(os.getpid(), 9)
    if hasattr(kind, name):
        setattr(kind, name, dying)
"""


def fifo(path):
    """A named pipe, held open as long as nobody else has, and made small."""
    os.mkfifo(path)
    descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return descriptor


def blocked(process_progress, still=1.0):
    """Wait until nothing has moved for a while; a test that has failed ends by its own limit."""
    last, since, end = process_progress(), time.monotonic(), time.monotonic() + 120
    while time.monotonic() - since < still:
        assert time.monotonic() < end
        now = process_progress()
        if now != last:
            last, since = now, time.monotonic()
        time.sleep(0.01)
    return last


@pytest.mark.parametrize("workers", ["1", "4"])
def test_a_slow_reader_holds_the_writer_back(zygote, tmp_path, workers):
    """Of many records no more are taken in than fit on the way, so that memory does not grow."""
    count, values = 150, np.random.default_rng(0).integers(0, 255, (1, 40, 40)).astype(np.uint8)
    buffer = io.BytesIO()
    writer = StreamWriter(buffer, Header("localization-maps", ("bar",)))
    for number in range(count):
        writer.write(MapRecord(f"i{number}", values, (1,), (40, 40)))
    writer.close()
    data, given = memoryview(buffer.getvalue()), [0]
    size = len(data) / count
    source, sink = fifo(tmp_path / "in"), fifo(tmp_path / "out")
    pid = zygote.start("pseudo-label", "--background", "power", "--workers", workers, "-q", stdin=tmp_path / "in",
                       stdout=tmp_path / "out", errors=tmp_path / "err")

    def feed():
        with contextlib.suppress(BlockingIOError):
            given[0] += os.write(source, data[given[0]: given[0] + PIPE_BYTES])
        return given[0]

    try:
        taken = blocked(feed)
        # Python's own buffer, the two pipes, and what the threads hold: far from all.
        assert 0 < taken < len(data)
        assert taken / size < 50
        # A reader that begins to read sets it going again, to the end.
        got = bytearray()
        end = time.monotonic() + 120
        while not got.endswith(bytes(1024)) and time.monotonic() < end:
            feed()
            if given[0] == len(data) and source is not None:
                os.close(source)
                source = None
                feed = int
            try:
                got += os.read(sink, 1 << 16)
            except BlockingIOError:
                time.sleep(0.001)
    finally:
        for descriptor in (source, sink):
            if descriptor is not None:
                os.close(descriptor)
        os.kill(pid, signal.SIGKILL) if not bytes(got).endswith(bytes(1024)) else None
        code = zygote.wait(pid)
    assert (code, (tmp_path / "err").read_text()) == (0, "")
    assert got.count(b"ustar") == count + 2


@pytest.mark.parametrize("dying", [0, 1, 2])
def test_a_stage_that_is_killed_ends_the_chain(zygote, voc, made, tmp_path, dying):
    """With each stage in turn: none that follows takes what came for whole, none before it goes on."""
    folder = tmp_path / "here"
    folder.mkdir()
    first, second = fifo(tmp_path / "first"), fifo(tmp_path / "second")
    maps = ("--sizes", "32", "--batch-size", "1", "-q")
    lines = (
        ("cam", "--data", voc, "--split", "train", "--weights", made.cls, *maps),
        ("refine", "--weights", made.refiner, *maps),
        ("pseudo-label", "--background", "power", "-q", "-o", folder / "labels"),
    )
    names = (os.devnull, tmp_path / "first", tmp_path / "second", os.devnull)
    ends = zip(names, names[1:])
    pids = [
        zygote.start(*line, before=DIES if number == dying else "", stdin=stdin, stdout=stdout,
                     errors=tmp_path / f"err{number}")
        for number, (line, (stdin, stdout)) in enumerate(zip(lines, ends))
    ]
    # Once all have opened theirs, only they hold the pipes.
    end = time.monotonic() + 120
    while not all((tmp_path / f"err{number}").exists() for number in range(3)):
        assert time.monotonic() < end
        time.sleep(0.01)
    os.close(first)
    os.close(second)
    codes = [zygote.wait(pid) for pid in pids]
    assert codes[dying] == -signal.SIGKILL
    # Those before meet a closed pipe (or had all said); those after, a stream without an end.
    assert all(code in (0, 141) for code in codes[:dying])
    assert all(code == 3 for code in codes[dying + 1:])
    for number in range(3):
        told = (tmp_path / f"err{number}").read_text()
        assert told.count("\n") == (number > dying)
        assert number <= dying or "without its end record" in told
    assert not (folder / "labels").exists()


def test_threads_and_batches_change_nothing_but_the_last_digit(drs, voc, made, tmp_path):
    """Threads nothing at all; batches what float sums do, which is at most one in 255."""
    base = ("cam", "--data", voc, "--split", "train", "--weights", made.cls, "--sizes", "32,40", "--no-provenance")
    for name, more in {
        "one": ("--batch-size", "1", "--workers", "0"), "threads": ("--batch-size", "1", "--workers", "3"),
        "three": ("--batch-size", "3", "--workers", "2"), "all": ("--batch-size", "100", "--workers", "1"),
    }.items():
        assert drs(*base, *more, "-o", tmp_path / name).code == 0
    assert (tmp_path / "one").read_bytes() == (tmp_path / "threads").read_bytes()
    with h5py.File(tmp_path / "one") as expected:
        for name in ("three", "all"):
            with h5py.File(tmp_path / name) as found:
                assert list(found["ids"]) == list(expected["ids"])
                for identifier in ("p0", "p1", "p2", "p3"):
                    pair = [file["maps"][identifier][()].astype(int) for file in (expected, found)]
                    assert np.abs(pair[0] - pair[1]).max() <= 1
