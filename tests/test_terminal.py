"""What is said: cleaned of what a terminal obeys, never the end of the work, one line where the machine refuses."""

import errno
import io
import json
import multiprocessing
import os
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
from PIL import Image

from drstool.cli.failures import failure_line
from drstool.errors import InputError, OutputError
from drstool.formats import Header, MapRecord, open_sink
from drstool.reports.text import aligned, lines_text, printable

FAILED, USAGE, INPUT, CLOSED = 1, 2, 3, 141
MARKS = "\u200e\u200f\u061c\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
EVIL = "\x1b]0;title\x07\x1b[2K\r\x9b1A\x7f\x85" + MARKS + "[bold]x[/]\nverified by     the authors"


def is_clean(text):
    """Whether a terminal would only show it."""
    return not any(c != "\n" and (unicodedata.category(c) in ("Cc", "Cs") or c in MARKS) for c in text)


# --- cleaned -------------------------------------------------------------------------------------


def test_everything_that_a_terminal_obeys_is_escaped():
    controls = [chr(code) for code in (*range(32), *range(127, 160), 0xD800, 0xDCFF, 0xDFFF)]
    for character in (*controls, *MARKS):
        assert printable(f"a{character}b") == f"a\\u{ord(character):04x}b"
    shown = "größe 猫 \U0001f431\u200d\u2764 [bold]x[/] \\ \"é\" e\u0301"
    assert printable(shown) == shown and printable(printable(EVIL)) == printable(EVIL)


def test_escaped_json_means_the_same():
    value = {EVIL: [EVIL, "\udcff\\\u202e"]}
    text = printable(json.dumps(value, ensure_ascii=False))
    assert json.loads(text) == value and is_clean(text)


def test_a_name_makes_no_second_line():
    assert len(aligned([["a\nb", "1"], ["c", "2\r\n"]])) == 2 and "\n" not in "".join(aligned([["a\nb", "1"]]))
    assert lines_text(["a\nb", "c"]) == "a\\u000ab\nc\n"


@pytest.fixture
def evil_maps(tmp_path):
    path = tmp_path / "evil.h5"
    step = {"command": f"drstool {EVIL}", "version": "1", "time": EVIL}
    with open_sink(str(path), Header("localization-maps", ("cat", "ca\u202et"), (step,))) as sink:
        sink.write(MapRecord("a\u202e", np.full((1, 4, 4), 200, np.uint8), (1,), (8, 8), f"i{EVIL}"))
    return path


def test_what_a_file_holds(drs, evil_maps):
    outcome = drs("info", evil_maps)
    assert is_clean(outcome.out) and len(outcome.out.splitlines()) == 5, outcome.out
    told = drs("info", "--json", evil_maps)
    assert is_clean(told.out)
    assert told.json()["first"]["image"] == f"i{EVIL}" and told.json()["class_names"] == ["cat", "ca\u202et"]


def test_errors_about_what_a_file_holds(drs, evil_maps, tmp_path):
    outcome = drs("pseudo-label", evil_maps, "--background", "constant", "--crf", "irn", "-o", tmp_path / "out")
    assert outcome.code == INPUT and is_clean(outcome.err) and len(outcome.err.splitlines()) == 1
    data = tmp_path / "a.jsonl"
    data.write_text(json.dumps({"id": "a", "image": f"x{EVIL}.jpg", "tags": ["cat"]}))
    outcome = drs("ids", "--data", data)
    assert outcome.code == INPUT and is_clean(outcome.err) and len(outcome.err.splitlines()) == 1
    outcome = drs("check", data.rename(tmp_path / f"b{EVIL.replace('/', '')}"))
    assert outcome.code == INPUT and is_clean(outcome.out) and len(outcome.out.splitlines()) == 1
    outcome = drs("check", "--json", tmp_path / f"b{EVIL.replace('/', '')}")
    assert is_clean(outcome.out) and outcome.json()["input"] == str(tmp_path / f"b{EVIL.replace('/', '')}")
    for line in (("ids", f"--{EVIL}"), (EVIL,), ("ids", "--data", "-", "--seed", EVIL)):
        outcome = drs(*line)
        assert outcome.code == USAGE and is_clean(outcome.err) and len(outcome.err.splitlines()) == 1


def test_a_manifest_is_exact(drs, own_voc, tmp_path):
    name = "p\u202e1\x9b\udcff.jpg"
    (own_voc / "JPEGImages/p1.jpg").rename(tmp_path / name)
    data = tmp_path / "a.jsonl"
    data.write_text(json.dumps({"id": "p\u202e1", "image": name, "tags": ["cat"]}))
    outcome = drs("ids", "--data", data)
    assert is_clean(outcome.out) and outcome.json()["image"] == str(tmp_path / name)
    assert drs("ids", "--data", "-", stdin=outcome.out.encode()).out == outcome.out


def test_scores_of_evil_names(drs, made, voc, tmp_path):
    data = tmp_path / "voc\n\x1b[2Kmean\u202e"
    data.symlink_to(voc)
    one = drs("eval", made.pred, "--data", data, "--split", "val")
    assert one.code == 0 and is_clean(one.out) and "voc\\u000a\\u001b[2Kmean\\u202e" in one.out
    other = tmp_path / "pr\ned\u202e"
    other.symlink_to(made.pred)
    both = ("eval", made.pred, other, "--data", voc, "--split", "val")
    table = drs(*both).out
    assert is_clean(table) and "pr\\u000aed\\u202e  " in table
    # CSV has no escapes: it is exact, as it is not for a terminal.
    assert str(other) in drs(*both, "--csv").out


def test_csv_on_a_terminal_is_cleaned(monkeypatch):
    from drstool.cli.console import Console

    shown = io.StringIO()
    monkeypatch.setattr(sys, "stdout", shown)
    Console("eval").write("a\u202e,b\n", exact=True)
    monkeypatch.setattr(shown, "isatty", lambda: True, raising=False)
    Console("eval").write("a\u202e,b\n", exact=True)
    assert shown.getvalue() == "a\u202e,b\na\\u202e,b\n"


def test_markup_is_not_interpreted(monkeypatch):
    from rich.console import Console as RichConsole

    from drstool.cli import console

    shown = io.StringIO()
    terminal = RichConsole(file=shown, force_terminal=True, width=160, color_system=None, legacy_windows=False)
    monkeypatch.setattr(console, "_stderr", lambda: terminal)
    monkeypatch.setattr(console.Console, "shows_progress", True)
    assert list(console.Console("eval").track([1, 2], "[bold]x[/] [/] \x1b[2Kcat", 2)) == [1, 2]
    assert "eval: [bold]x[/] [/] \\u001b[2Kcat" in shown.getvalue()


# --- never the end of the work ---------------------------------------------------------------------

needs_full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")


def gone():
    """The writing end of a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    return os.fdopen(writing, "wb")


@needs_full
@pytest.mark.parametrize("stderr", ["full", "gone", "closed"])
def test_messages_that_cannot_be_written(program, drs, made, tmp_path, stderr):
    def code(*line):
        if stderr == "closed":
            script = " ".join(f"'{word}'" for word in program.line(*line))
            return subprocess.run(["bash", "-c", f"{script} 2>&-"], env=program.environment).returncode
        with open("/dev/full", "wb") if stderr == "full" else gone() as file:
            return subprocess.run(program.line(*line), env=program.environment, stderr=file).returncode

    assert code("pseudo-label", made.cams, "--background", "power", "-v", "-o", tmp_path / "labels") == 0
    assert drs("check", tmp_path / "labels").code == 0
    assert code("check", tmp_path / "nothing", "-q") == INPUT
    assert code("info", tmp_path / "nothing") == INPUT
    assert code("info", "--nonsense") == USAGE


@needs_full
def test_a_training_whose_log_is_full(zygote, voc, tmp_path, drs):
    from conftest import SMALL

    line = ("train-cls", "--data", voc, "--split", "train", *SMALL[:4], "--image-size", "32", "--epochs", "2")
    assert zygote.run(*line, "-o", tmp_path / "cls.pt", errors="/dev/full") == 0
    assert drs("check", tmp_path / "cls.pt").code == 0


def test_damaged_exif_data_are_not_spoken_of(zygote, tmp_path):
    """They claim five entries, and end within the first; Pillow reads the picture, and warns."""
    exif = b"Exif\0\0II*\0\x08\0\0\0\5\0\x12\1\3\0\1\0\0\0\1\0\0\0"
    Image.new("RGB", (30, 20)).save(tmp_path / "a.jpg", exif=exif)
    assert zygote.run("saliency", "--data", tmp_path / "a.jpg", "-o", tmp_path / "out", "-q",
                      errors=tmp_path / "errors") == 0
    assert (tmp_path / "out" / "a.png").exists() and (tmp_path / "errors").read_text() == ""


@needs_full
@pytest.mark.parametrize("line", [("--help",), ("cam", "--help"), ("--version",)])
def test_help_without_room(program, line):
    with open("/dev/full", "wb") as full:
        done = subprocess.run(program.line(*line), env=program.environment, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == FAILED
    assert done.stderr.decode() == (
        "drstool: stdout: cannot be written: No space left on device; free some space, or write elsewhere\n")


@needs_full
def test_output_of_a_failed_command_without_room(program, made, tmp_path):
    """The exit code is that of the failure, not of Python's last attempt to write."""
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            program.line("check", tmp_path / "a", "--workers", tmp_path), env=program.environment, stdout=full,
            stderr=subprocess.PIPE)
    assert done.returncode == USAGE and len(done.stderr.splitlines()) == 1


# --- one line where the machine refuses ------------------------------------------------------------

REFUSALS = {
    "threads": (RuntimeError("can't start new thread"), "ulimit -u"),
    "processes": (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "ulimit -u"),
    "memory": (MemoryError(), "out of memory"),
    "memory of a device": (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "--batch-size"),
    "memory, torch": (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "--batch-size"),
    "memory of a library": (ImportError("libx.so: failed to map segment from shared object", name="x"), "ulimit -v"),
    "library": (ImportError("libx.so: cannot open shared object", name="torch"), "torch cannot be loaded: libx.so"),
    "worker": (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), "--workers"),
    "open files": (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
    "disk": (OSError(errno.EIO, "Input/output error", "x"), "x: Input/output error"),
    "name": (UnicodeEncodeError("latin-1", "/tmp/猫.png", 5, 6, "ordinal not in range"), "UTF-8 locale"),
    "bytes": (UnicodeEncodeError("utf-8", "a\udcff", 1, 2, "surrogates not allowed"), "a\\\\udcff' is not Unicode"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_the_machine_refuses_is_one_line(drs, monkeypatch, name):
    error, words = REFUSALS[name]

    def refuse(*_, **__):
        raise error

    monkeypatch.setattr("drstool.data.open_dataset", refuse)
    outcome = drs("ids", "--data", "x")
    assert outcome.code == FAILED and outcome.err.startswith("drstool: ") and len(outcome.err.splitlines()) == 1
    assert words.replace("\\\\", "\\") in outcome.err and failure_line(error) is not None


def test_a_bug_keeps_its_traceback(drs, monkeypatch):
    monkeypatch.setattr("drstool.data.open_dataset", lambda *_, **__: {}["x"])
    with pytest.raises(KeyError):
        drs("ids", "--data", "x")


def test_advice_of_libraries_is_left_out():
    try:
        try:
            raise ImportError("libblas.so: cannot open shared object file")
        except ImportError as cause:
            raise ImportError("IMPORTANT: PLEASE READ THIS\n\n...", name="numpy") from cause
    except ImportError as error:
        assert failure_line(error) == (
            "numpy cannot be loaded: libblas.so: cannot open shared object file; check the installation")


def test_a_shortage_is_no_damage(made, voc, monkeypatch):
    import torch
    from PIL import Image

    from drstool.checkpoints.checkpoint import load_tensors
    from drstool.data import load_image
    from drstool.formats.hdf5 import damaged

    def out_of_memory(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    def no_memory(*_, **__):
        raise MemoryError

    for fail in (out_of_memory, no_memory):
        monkeypatch.setattr(torch, "load", fail)
        with pytest.raises(InputError, match="cls.pt: needs more memory than there is, or is damaged"):
            load_tensors(made.cls)
    monkeypatch.setattr(Image, "open", no_memory)
    with pytest.raises(MemoryError):
        load_image(voc / "JPEGImages/p0.jpg")
    with pytest.raises(InputError, match="m.h5: needs more memory than there is"), damaged("m.h5", "is damaged"):
        raise RuntimeError("Unable to open (memory allocation failed for chunk)")


def test_what_the_system_says_of_a_map_file_is_passed_on():
    from drstool.formats.hdf5 import damaged

    text = "Unable to open group (file read failed: time = x, errno = {}, error message = 'x', offset = 2291)"
    with pytest.raises(InputError, match="^m.h5: cannot be read: Input/output error"), damaged("m.h5", "is damaged"):
        raise ValueError(text.format(errno.EIO))
    # No error of the system: there was nothing more to read.
    with pytest.raises(InputError, match="^m.h5: is damaged"), damaged("m.h5", "is damaged"):
        raise OSError(text.format(0))


@pytest.mark.parametrize("error", [RuntimeError("Can't decrement id ref count"), OSError(28, "Can't close file")])
def test_hdf5_that_cannot_close_its_file(monkeypatch, tmp_path, error):
    import h5py

    from drstool.formats.map_file import MapFileWriter

    real = h5py.File.close

    def close(file):
        monkeypatch.setattr(h5py.File, "close", real)
        raise error

    writer = MapFileWriter(tmp_path / "m.h5", Header("localization-maps", ("cat",)))
    monkeypatch.setattr(h5py.File, "close", close)
    with pytest.raises(OutputError, match="m.h5: cannot be (written|finished): Can't"):
        writer.close()


@pytest.mark.parametrize("locale", ["C", "POSIX"])
def test_names_that_the_locale_cannot_spell(program, tmp_path, locale):
    path = tmp_path / "u.h5"
    with open_sink(str(path), Header("localization-maps", ("a",))) as sink:
        sink.write(MapRecord("猫", np.full((1, 8, 8), 255, np.uint8), (1,), (8, 8), "i.jpg"))
    environment = {**program.environment, "LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    line = program.line("pseudo-label", path, "--background", "constant", "-q", "-o", tmp_path / "out")
    done = subprocess.run(line, env=environment, capture_output=True)
    told = done.stderr.decode()
    assert done.returncode == FAILED and len(told.splitlines()) == 1 and "猫" in told and "UTF-8 locale" in told
    assert not (tmp_path / "out").exists()


def test_python_without_docstrings(program, drs, made):
    environment = {**program.environment, "PYTHONOPTIMIZE": "2"}
    for line in (("info", made.cams), ("check", made.labels)):
        done = subprocess.run(program.line(*line), env=environment, capture_output=True)
        assert done.returncode == 0 and done.stdout.decode() == drs(*line).out
    assert subprocess.run(program.line("--help"), env=environment, capture_output=True).returncode == 0


@pytest.mark.filterwarnings("ignore:Exception ignored in")
def test_workers_that_cannot_all_be_started(monkeypatch):
    from drstool.training.workers import load_batches

    real, started = multiprocessing.Process.start, []

    def start(process):
        if started:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        started.append(process)
        real(process)

    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", start)
    with pytest.raises(BlockingIOError), load_batches([1, 2], [[0], [1]], 2, False):
        pass
    started[0].join(60)
    assert started[0].exitcode is not None


# --- standard input --------------------------------------------------------------------------------


class _Failing(io.RawIOBase):
    def readable(self):
        return True

    def readinto(self, buffer):
        raise OSError(errno.EIO, "Input/output error")


def test_stdin_that_cannot_be_read():
    from drstool.formats import open_records
    from drstool.stages.check import check
    from drstool.text import read_stdin_text

    with pytest.raises(InputError, match="^stdin: cannot be read: Input/output error"):
        read_stdin_text(io.TextIOWrapper(io.BufferedReader(_Failing())))
    with pytest.raises(InputError, match="^stdin: cannot be read: Input/output error"):
        open_records("-", io.BufferedReader(_Failing()))
    (problem,) = check("-", stdin=io.BufferedReader(_Failing())).problems
    assert str(problem).startswith("stdin: cannot be read: Input/output error")


def test_ids_on_stdin_that_are_not_utf8(drs, made, tmp_path):
    outcome = drs("cat", made.cams, "--ids", "-", "-o", tmp_path / "x.h5", stdin=b"p0\np\xff\n")
    assert (outcome.code, outcome.err) == (INPUT, (
        "drstool: stdin: line 2 is not UTF-8 text; save it as UTF-8 (in a spreadsheet: 'CSV UTF-8')\n"))
