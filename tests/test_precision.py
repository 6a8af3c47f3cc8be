"""`--precision auto` of trainings on a CPU: measured once, and kept when a training is resumed."""

import signal

import pytest
import torch

from drstool.checkpoints.checkpoint import load_checkpoint
from drstool.training import device as devices
from drstool.training.device import bfloat16_gain, pick_precision

CPU = torch.device("cpu")
TRAIN = ("--backbone", "vgg16-small", "--init", "none", "--image-size", "32", "--epochs", "2", "--batch-size", "2",
         "--device", "cpu")


@pytest.fixture
def gain(monkeypatch):
    """Makes this CPU so many times as fast in bfloat16; counts the steps that are timed."""
    timed = []

    def pretend(times):
        def seconds(dtype):
            timed.append(dtype)
            # The warm-up is slow, and one turn of several disturbed.
            slow = 9 if timed.count(dtype) in (1, 3) else 1
            return slow * (1.0 if dtype == torch.bfloat16 else times)

        bfloat16_gain.cache_clear()
        monkeypatch.setattr(devices, "_seconds_of_step", seconds)
        return timed

    yield pretend
    bfloat16_gain.cache_clear()


@pytest.mark.parametrize(("times", "wanted"), [
    (2.0, "bfloat16"), (1.31, "bfloat16"), (1.29, "float32"), (1.0, "float32"), (0.1, "float32")])
def test_bfloat16_where_it_is_clearly_faster(gain, times, wanted):
    gain(times)
    assert bfloat16_gain() == pytest.approx(times)
    assert pick_precision("auto", CPU) == wanted


def test_measured_once_and_not_where_a_precision_is_given(gain):
    timed = gain(2.0)
    assert [pick_precision(name, CPU) for name in ("float32", "bfloat16")] == ["float32", "bfloat16"]
    assert timed == []
    pick_precision("auto", CPU)
    number = len(timed)
    pick_precision("auto", CPU)
    assert len(timed) == number > 0


def test_where_bfloat16_is_emulated_little_time_is_spent(gain):
    timed = gain(0.01)
    assert pick_precision("auto", CPU) == "float32"
    assert len(timed) == 4


def test_measuring_draws_no_random_number_and_keeps_the_threads():
    torch.manual_seed(0)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    bfloat16_gain.cache_clear()
    assert bfloat16_gain() > 0
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_verbose_names_the_choice(drs, voc, tmp_path, gain):
    gain(1.75)
    outcome = drs("train-cls", "--data", voc, "--split", "train", *TRAIN, "-v", "-o", tmp_path / "net.pt")
    assert outcome.code == 0, outcome.err
    assert "precision bfloat16: bfloat16 is 1.8 times as fast as float32 here\n" in outcome.err
    assert load_checkpoint(tmp_path / "net.pt").provenance[-1]["settings"]["precision"] == "bfloat16"


@pytest.mark.parametrize("history", [(), ("--no-provenance",)])
@pytest.mark.parametrize(("first", "later"), [(2.0, 1.0), (1.0, 2.0)])
def test_resuming_keeps_the_precision(drs, voc, tmp_path, gain, at_step, first, later, history):
    words = ("train-cls", "--data", voc, "--split", "train", *TRAIN, *history)
    gain(first)
    wanted = pick_precision("auto", CPU)
    assert drs(*words, "--precision", wanted, "-o", tmp_path / "whole.pt").code == 0
    at_step(2, lambda: signal.raise_signal(signal.SIGINT))
    assert drs(*words, "-o", tmp_path / "net.pt").code == 130
    gain(later)
    outcome = drs(*words, "-o", tmp_path / "net.pt", "--resume")
    assert outcome.code == 0, outcome.err
    whole, resumed = (load_checkpoint(tmp_path / name) for name in ("whole.pt", "net.pt"))
    assert all(torch.equal(resumed.weights[name], value) for name, value in whole.weights.items())
    if not history:
        assert resumed.provenance[-1]["settings"]["precision"] == wanted
    again = drs(*words, "-o", tmp_path / "net.pt", "--resume")
    assert again.code == 0 and "is finished already" in again.err


def test_another_precision_is_another_job(drs, voc, tmp_path, gain, at_step):
    words = ("train-cls", "--data", voc, "--split", "train", *TRAIN, "-o", tmp_path / "net.pt")
    gain(2.0)
    at_step(2, lambda: signal.raise_signal(signal.SIGINT))
    assert drs(*words).code == 130
    outcome = drs(*words, "--resume", "--precision", "float32")
    assert outcome.code == 3 and "precision" in outcome.err
