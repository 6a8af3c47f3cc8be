"""Trainings for which the device's memory is too small: one line, or fewer images a step."""

import pytest
import torch

from drstool.checkpoints.checkpoint import load_checkpoint
from drstool.stages import refine_train, train_cls, train_seg

SMALL = ("--backbone", "vgg16-small", "--init", "none", "--image-size", "32", "--epochs", "2", "--device", "cpu")
STAGES = {"train-cls": train_cls, "refine-train": refine_train, "train-seg": train_seg}


def line(command, voc, made, output, *more):
    inputs = {"train-cls": (), "refine-train": ("--maps", made.cams), "train-seg": ("--labels", made.labels)}
    return (command, "--data", voc, "--split", "train", *SMALL, *inputs[command], "-o", output, *more)


@pytest.fixture
def memory_for(monkeypatch):
    """A device whose memory holds so many images, and perhaps fills up at a later step."""

    def hold(command, most, full_at=None):
        stage = STAGES[command]
        loss = stage._loss
        steps = []

        def limited(model, batch):
            steps.append(len(batch[0]))
            if len(batch[0]) > most or len(steps) == full_at:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
            return loss(model, batch)

        monkeypatch.setattr(stage, "_loss", limited)
        return steps

    return hold


@pytest.mark.parametrize(("command", "most", "tried", "more"), [
    ("train-cls", 2, [3, 1], ()), ("refine-train", 5, [3], ()),
    ("train-seg", 3, [32, 16, 8, 4, 2], ("--recipe", "paper", "--steps", "2"))])
def test_a_batch_that_fits_is_found_and_recorded(drs, voc, made, tmp_path, memory_for, command, most, tried, more):
    """The network is the one that the size found gives by itself."""
    plain = line(command, voc, made, tmp_path / "plain.pt", *more, "--batch-size", tried[-1], "--no-provenance")
    assert drs(*plain).code == 0
    memory_for(command, most)
    outcome = drs(*line(command, voc, made, tmp_path / "net.pt", *more, "--batch-size", "auto", "--no-provenance"))
    assert outcome.code == 0, outcome.err
    assert [text for text in outcome.err.splitlines() if "trying" in text] == [
        f"{command}: {size} images per step do not fit in the device's memory, trying {smaller}"
        for size, smaller in zip(tried, tried[1:])]
    assert load_checkpoint(tmp_path / "net.pt").recipe["batch_size"] == tried[-1]
    assert (tmp_path / "net.pt").read_bytes() == (tmp_path / "plain.pt").read_bytes()


def test_gone_on_with_the_size_that_was_found(drs, voc, made, tmp_path, memory_for):
    words = line("train-cls", voc, made, tmp_path / "net.pt", "--batch-size", "auto")
    memory_for("train-cls", 1)
    assert drs(*words).code == 0
    again = drs(*words, "--resume")
    assert (again.code, again.err) == (0, f"train-cls: {tmp_path / 'net.pt'} is finished already\n")


@pytest.mark.parametrize(("more", "most", "full_at"), [
    # Not left to the program; too much even for one image; when epochs were trained already.
    ((), 2, None), (("--batch-size", "auto"), 0, None), (("--batch-size", "auto"), 3, 4)])
def test_too_little_memory_is_one_line(drs, voc, made, tmp_path, memory_for, monkeypatch, more, most, full_at):
    from drstool.training.state import Saver

    monkeypatch.setattr(Saver, "SHARE", 0)
    memory_for("train-cls", most, full_at)
    outcome = drs(*line("train-cls", voc, made, tmp_path / "net.pt", *more, "-q"))
    assert outcome.code == 1
    assert outcome.err == (
        "drstool: the device is out of memory; reduce --batch-size, --image-size or --sizes, or use --device cpu\n")
    # What was kept can be gone on with.
    assert sorted(path.name for path in tmp_path.iterdir()) == ([".net.pt.resume"] if full_at else [])
