"""Bars and pictures of characters, where a terminal shows them."""

import os
import pty
import re
import threading

import numpy as np
import pytest

from drstool.formats import Header, LabelRecord, MapRecord, open_sink
from drstool.reports.blocks import bar, drawings

USAGE, INPUT = 2, 3
NAMES = ("[red]cat", "dog")
# A locale that has no blocks.
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
HEAT = np.stack([np.arange(256)] * 3, axis=1).astype(np.uint8)


@pytest.fixture
def on_terminal(program):
    """Runs a command whose stdout is a terminal; gives what it shows."""
    def run(*words, **environment):
        import subprocess

        ours, theirs = pty.openpty()
        shown = []

        def read():
            try:
                while data := os.read(ours, 1 << 16):
                    shown.append(data)
            except OSError:  # Nobody has the terminal open any more.
                pass

        reader = threading.Thread(target=read)
        reader.start()
        known = {name: value for name, value in program.environment.items() if name not in ("NO_COLOR", "COLORTERM")}
        settings = {"TERM": "xterm-256color", "COLUMNS": "60", "LINES": "30", "LC_ALL": "C.UTF-8"}
        done = subprocess.run(
            program.line(*words), env=known | settings | environment, stdout=theirs, stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL)
        os.close(theirs)
        reader.join()
        os.close(ours)
        assert done.returncode == 0, done.stderr
        return b"".join(shown).decode().replace("\r\n", "\n")
    return run


@pytest.fixture
def labels(tmp_path):
    """Two classes side by side over ignored pixels and background."""
    image = np.zeros((20, 40), np.uint8)
    image[:10, :20], image[:10, 20:], image[10:, :8] = 1, 2, 255
    with open_sink(str(tmp_path / "labels"), Header("labels", NAMES)) as sink:
        sink.write(LabelRecord("a/b", image))
    return tmp_path / "labels"


def test_bars_stand_beside_iou_on_a_terminal_only(on_terminal, drs, made, voc):
    words = ("eval", made.pred, "--data", voc, "--split", "val")
    piped, shown = drs(*words).out, on_terminal(*words)
    assert not set(piped) & set("▏▎▍▌▋▊▉█")
    lines = shown.splitlines()
    rows = [re.fullmatch(r"(\S+)  +(\d\.\d{4})  ([▏▎▍▌▋▊▉█ ]{10})  .*", line) for line in lines]
    rows = [row for row in rows if row is not None]
    assert [row[1] for row in rows][0] == "background" and len(rows) >= 2
    assert all(row[3] == bar(float(row[2])) for row in rows)
    # But for the bars the table is the same.
    assert [re.sub(r" {2}[▏▎▍▌▋▊▉█ ]{10}", "", line) for line in lines if "█" in line] == [
        line for line in piped.splitlines() if line.startswith(tuple(row[1] for row in rows)) and bar(
            float(line.split()[1])).strip().startswith("█")]
    assert not set(on_terminal(*words, "--csv")) & set("▏▎▍▌▋▊▉█")
    assert not set(on_terminal(*words, **ASCII)) & set("▏▎▍▌▋▊▉█")


def test_labels_in_letters(drs, labels):
    outcome = drs("info", labels, "--show", "a/b")
    assert outcome.code == 0, outcome.err
    title, *lines = outcome.out.splitlines()
    assert title == "a/b" and lines[-4:] == [". background", "A [red]cat", "B dog", "? ignored"]
    picture = lines[:-4]
    assert picture[0] == "A" * 40 + "B" * 40 and picture[-1] == "?" * 16 + "." * 64
    assert {len(line) for line in picture} == {80} and len(picture) == 20


def test_labels_in_half_blocks(on_terminal, labels):
    shown = on_terminal("info", labels, "--show", "a/b", COLORTERM="truecolor")
    assert "▀" in shown and "\x1b[38;2;128;0;0;48;2;128;0;0m▀" in shown and "38;2;0;128;0" in shown
    assert "[red]cat" in re.sub(r"\x1b\[[0-9;]*m", "", shown)
    widths = {line.count("▀") for line in shown.splitlines() if "▀" in line}
    assert widths == {60}
    for environment in ({"NO_COLOR": "1"}, {"TERM": "dumb"}, ASCII):
        plain = on_terminal("info", labels, "--show", "a/b", **environment)
        assert "AAABBB" in plain and "▀" not in plain and "\x1b" not in plain


def test_maps_in_letters(drs, tmp_path):
    values = np.zeros((2, 4, 4), np.uint8)
    values[0, :, 2:] = 255
    with open_sink(str(tmp_path / "m.h5"), Header("localization-maps", NAMES)) as sink:
        sink.write(MapRecord("x", values, (1, 2), (8, 8)))
    outcome = drs("info", tmp_path / "m.h5", "--show", "x")
    lines = outcome.out.splitlines()
    assert lines[0] == "[red]cat, from 0.00 to 1.00" and "dog, from 0.00 to 0.00" in lines
    assert re.fullmatch(r" +@+", lines[1]) and lines[1].count("@") == len(lines[1]) // 2


def test_what_cannot_be_drawn(drs, labels, made):
    for words, code, message in (
        ((labels, "--show", "z"), INPUT, "has no image 'z'; its ids look like 'a/b'"),
        ((labels, "--show", "a/b", "--json"), USAGE, "omit one of them"),
        ((made.cls, "--show", "x"), INPUT, "a zip file, such as a checkpoint"),
    ):
        outcome = drs("info", *words)
        assert (outcome.code, message in outcome.err) == (code, True), outcome.err
        assert len(outcome.err.splitlines()) == 1


def test_a_stream_is_searched(drs, labels, tmp_path):
    drs("cat", labels, "-o", tmp_path / "s.tar")
    assert drs("info", tmp_path / "s.tar", "--show", "a/b").out.startswith("a/b\nAAA")
    assert drs("info", tmp_path / "s.tar", "--show", "z").code == INPUT


def test_drawings_keep_the_aspect_and_know_all_labels():
    labels = np.full((10, 1000), 300, np.uint16)
    labels[0, 0] = 65535
    drawing, = drawings(LabelRecord("wide", labels), (), HEAT, 80, 20)
    assert drawing.colors.shape == (2, 80, 3) and [name for name, _, _ in drawing.legend] == ["class 300"]
    drawing, = drawings(LabelRecord("tall", labels.T), (), HEAT, 80, 20)
    assert drawing.colors.shape == (40, 1, 3)
    tiny, = drawings(LabelRecord("tiny", np.ones((1, 1), np.uint8)), ("cat",), HEAT, 4, 3)
    assert tiny.letters == ("AAAA", "AAAA") and tiny.legend[0][0] == "cat"
