"""What is told of a training and of other long work: its log, its line an epoch, and the bar on a terminal."""

import json
import os
import pty
import re
import signal
import threading

import pytest

from drstool.checkpoints import training_log

LINE = ("train-cls", "--split", "train", "--backbone", "vgg16-small", "--init", "none", "--image-size", "32",
        "--epochs", "6", "--batch-size", "1", "--device", "cpu", "--no-provenance")
# What differs from run to run.
MEASURED = {"time", "images_per_second", "memory"}


@pytest.fixture
def words(voc, tmp_path):
    return (*LINE, "--data", voc, "-o", tmp_path / "net.pt", "--log", tmp_path / "log.jsonl")


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def unmeasured(path):
    return [{name: value for name, value in line.items() if name not in MEASURED} for line in lines(path)]


def test_a_log(drs, words, tmp_path):
    outcome = drs(*words, "--select-on", "val", "--schedule", "step", "--lr", "0.001")
    assert outcome.code == 0
    start, *rest, end = lines(tmp_path / "log.jsonl")
    assert start["event"] == "start" and start["command"] == "train-cls" and start["settings"]["batch_size"] == 1
    assert (start["images"], start["steps"], start["device"], start["processes"]) == (4, 24, "cpu", 1)
    assert (end["event"], end["step"]) == ("end", 24)
    steps = [line for line in rest if line["event"] == "step"]
    epochs = [line for line in rest if line["event"] == "epoch"]
    assert [line["step"] for line in steps] == [4, 8, 10, 12, 16, 20, 24]
    assert [line["step"] for line in epochs] == [4, 8, 12, 16, 20, 24]
    assert rest == sorted(rest, key=lambda line: (line["step"], line["event"] == "epoch"))
    # --lr 0.001, a tenth of it from epoch 5 on.
    assert [line["lr"] for line in steps] == pytest.approx([1e-3] * 5 + [1e-4] * 2)
    assert [line["epoch"] for line in steps] == [1, 2, 3, 3, 4, 5, 6]
    # Of the third epoch two lines tell, each of two images.
    assert epochs[2]["loss"] == pytest.approx((steps[2]["loss"] + steps[3]["loss"]) / 2)
    assert epochs[0]["loss"] == steps[0]["loss"]
    assert all(line["images_per_second"] > 0 and line["memory"] > 1e7 for line in steps)
    for line, told in zip(epochs, re.findall(r"epoch .*", outcome.err)):
        assert re.fullmatch(
            rf"epoch {line['epoch']}/6  loss {line['loss']:.4f}  baseline {line['baseline']:.4f}  "
            rf"mAP {line['map']:.4f}  mIoU {line['mean_iou']:.4f}  "
            r"\d+\.\d images/s  \d+\.\d GB  .*s", told)


def test_the_log_of_an_interrupted_training_is_that_of_a_whole_one(drs, words, tmp_path, at_step):
    assert drs(*words).code == 0
    expected = unmeasured(tmp_path / "log.jsonl")
    (tmp_path / "net.pt").unlink()
    (tmp_path / "log.jsonl").unlink()
    for number, step in enumerate([3, 8, 10, 13]):
        told = signal.SIGTERM if number % 2 else signal.SIGINT
        at_step(step, lambda told=told: signal.raise_signal(told))
        assert drs(*words, *(["--resume"] if number else [])).code == 128 + told
        stopped = lines(tmp_path / "log.jsonl")[-1]
        assert (stopped["event"], stopped["reason"]) == ("stopped", "terminated" if number % 2 else "interrupted")
        # As if it had gone on, and been killed in the middle of a line.
        with open(tmp_path / "log.jsonl", "a") as file:
            file.write('{"event": "step", "step": 20, "epoch": 5}\n{"event": "ep')
    assert drs(*words, "--resume").code == 0
    assert unmeasured(tmp_path / "log.jsonl") == expected
    # A finished one stays as it is.
    before = (tmp_path / "log.jsonl").read_bytes()
    assert drs(*words, "--resume").code == 0
    assert (tmp_path / "log.jsonl").read_bytes() == before


def test_a_failure_is_told(drs, words, tmp_path):
    assert drs(*words, "--lr", "1e30").code == 1
    stopped = lines(tmp_path / "log.jsonl")[-1]
    assert stopped["event"] == "stopped"
    # What becomes of such weights, and where first, is the processor's to say.
    assert re.search(r"loss is (nan|inf)|weight is not finite", stopped["reason"])


def test_a_log_replaces_nothing(drs, words, tmp_path, at_step):
    log = tmp_path / "log.jsonl"
    log.write_text("dear diary\n")
    outcome = drs(*words)
    assert (outcome.code, outcome.err) == (
        1, f"drstool: {log}: already exists; choose another name, or use --overwrite\n")
    outcome = drs(*words, "--resume")
    assert (outcome.code, outcome.err.splitlines()[-1]) == (
        1, f"drstool: {log}: is not the log of a training; choose another --log, or use --overwrite")
    assert log.read_text() == "dear diary\n"
    assert drs(*words, "--overwrite", "--epochs", "1").code == 0
    assert lines(log)[0]["event"] == "start"
    outcome = drs(*words, "--epochs", "2", "--resume", "-o", tmp_path / "other.pt")
    assert outcome.code == 1 and f"drstool: {log}: is the log of another training; choose another --log" in outcome.err
    (tmp_path / "net.pt").unlink()
    # That of another training is none of this one's.
    assert drs(*words, "--resume").code == 1
    assert drs(*words, "--resume", "--epochs", "1").code == 0
    assert [line["event"] for line in lines(log)] == ["start", "step", "epoch", "end"]
    outcome = drs(*words, "--log", tmp_path / "net.pt", "--overwrite")
    assert outcome.code == 2 and "--log" in outcome.err


def test_a_full_disk_costs_the_log_and_not_the_training(drs, words, tmp_path, monkeypatch):
    class System:
        """The system, which writes no more after some lines."""

        written = 0

        def __getattr__(self, name):
            return getattr(os, name)

        def write(self, descriptor, data):
            self.written += 1
            if self.written > 3:
                raise OSError(28, "No space left on device")
            return os.write(descriptor, data)

    monkeypatch.setattr(training_log, "os", System())
    outcome = drs(*words)
    assert outcome.code == 0 and (tmp_path / "net.pt").exists()
    assert outcome.err.count("continuing without --log: ") == 1
    assert len(lines(tmp_path / "log.jsonl")) == 3


def test_no_epochs_no_steps(drs, words, tmp_path):
    assert drs(*words, "--epochs", "0").code == 0
    start, end = lines(tmp_path / "log.jsonl")
    assert (start["event"], start["steps"], end["event"]) == ("start", 0, "end")


# --- on a terminal -------------------------------------------------------------------------------


@pytest.fixture
def on_terminal(zygote):
    """What a command line shows on a terminal of its own, which is 80 columns wide."""

    def show(*words):
        ours, theirs = pty.openpty()
        shown = []

        def read():
            try:
                while data := os.read(ours, 1 << 16):
                    shown.append(data)
            except OSError:
                # Nobody has the terminal open any more.
                pass

        reader = threading.Thread(target=read)
        reader.start()
        # The stream that was there before takes a terminal for a file.
        before = ("import os, sys\nos.environ.update(TERM='xterm', COLUMNS='80', LINES='25')\n"
                  "sys.stderr = open(2, 'w', closefd=False)\n")
        code = zygote.run(*words, errors=os.ttyname(theirs), before=before)
        os.close(theirs)
        reader.join()
        os.close(ours)
        assert code == 0, b"".join(shown)
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", b"".join(shown).decode())

    return show


def test_the_bar_of_a_training(on_terminal, voc, tmp_path):
    shown = on_terminal(*LINE, "--data", voc, "-o", tmp_path / "net.pt", "--epochs", "50")
    bars = [line for line in re.split(r"[\r\n]+", shown) if "left" in line]
    full = [bar for bar in bars if re.fullmatch(
        r"train-cls .*\d+/200 +\d:\d\d:\d\d left +\d+\.\d images/s  loss \d\.\d{3}  \d+\.\d GB *", bar)]
    assert full, bars[-3:]
    # A line an epoch all the same, and no bar is left at the end.
    number = r"\d\.\d{4}"
    assert re.search(
        rf"train-cls: epoch 50/50  loss {number}  baseline {number}  mAP {number}  \d+\.\d images/s  \d+\.\d GB",
        shown)


def test_the_bar_of_other_work(on_terminal, made, tmp_path):
    shown = on_terminal("pseudo-label", made.cams, "--background", "power", "-o", tmp_path / "labels")
    assert re.search(r"pseudo-label .*\d/4 .*left.* \d+\.\d GB", shown), shown
