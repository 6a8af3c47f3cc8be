"""Trainings that are interrupted, killed or diverge: what is kept, and that going on changes nothing."""

import os
import re
import shutil
import signal
import subprocess
import time

import pytest
import torch

from drstool.artifacts import job as works
from drstool.checkpoints import training_state
from drstool.checkpoints.checkpoint import load_checkpoint
from drstool.errors import OutputError
from drstool.training.state import Saver, TrainState

SMALL = ("--backbone", "vgg16-small", "--init", "none", "--image-size", "32", "--epochs", "3", "--batch-size", "2",
         "--device", "cpu", "--no-provenance")
COMMANDS = ("train-cls", "refine-train", "train-seg")
STEPS = 6


def line(command, voc, made, *more):
    inputs = {"train-cls": (), "refine-train": ("--maps", made.cams), "train-seg": ("--labels", made.labels)}
    return (command, "--data", voc, "--split", "train", *SMALL, *inputs[command], *more)


@pytest.fixture(scope="session")
def uninterrupted(drs, voc, made, tmp_path_factory):
    """Bytes and log of each training as it goes when nothing happens; made when first asked for."""
    known = {}

    def made_by(command, *more):
        if (command, more) not in known:
            output = tmp_path_factory.mktemp("whole") / "net.pt"
            outcome = drs(*line(command, voc, made, *more), "-o", output)
            assert outcome.code == 0, outcome.err
            known[command, more] = output.read_bytes(), log(outcome.err)
        return known[command, more]

    return made_by


def log(text):
    """What is told of the epochs, without times."""
    return re.findall(r"epoch \d+/\d+  loss \S+  baseline \S+(?:  (?:val )?mAP \S+)*(?:  mIoU \S+)?", text)


def left_in(folder):
    return sorted(path.name for path in folder.iterdir())


# --- interrupted --------------------------------------------------------------------------------


@pytest.mark.parametrize(("command", "number", "code", "step", "more"), [
    ("train-cls", signal.SIGINT, 130, 3, ()),
    ("train-cls", signal.SIGTERM, 143, 4, ("--optimizer", "adam", "--workers", "1")),
    ("refine-train", signal.SIGTERM, 143, 5, ("--select-on", "val")),
    ("train-seg", signal.SIGINT, 130, 1, ("--select-on", "val")),
    ("train-seg", signal.SIGTERM, 143, STEPS, ("--lr", "0.05")),
])
def test_interrupted_and_gone_on_with(
        drs, voc, made, tmp_path, uninterrupted, at_step, command, number, code, step, more):
    expected, expected_log = uninterrupted(command, *more)
    words = (*line(command, voc, made, *more), "-o", tmp_path / "net.pt")
    at_step(step, lambda: signal.raise_signal(number))
    first = drs(*words)
    assert first.code == code, first.err
    assert f"{command}: --resume continues after step {step}\n" in first.err
    assert left_in(tmp_path) == [".net.pt.resume"]
    second = drs(*words, "--resume")
    assert second.code == 0, second.err
    assert second.err.startswith(f"{command}: resuming after step {step}\n")
    assert log(first.err) + log(second.err) == expected_log
    assert (tmp_path / "net.pt").read_bytes() == expected
    assert left_in(tmp_path) == ["net.pt"]


def test_interrupted_many_times(drs, voc, made, tmp_path, uninterrupted, at_step):
    expected, expected_log = uninterrupted("train-cls")
    told = []
    for step in range(1, STEPS + 1):
        at_step(step, lambda: signal.raise_signal(signal.SIGTERM))
        outcome = drs(*line("train-cls", voc, made, "-o", tmp_path / "net.pt", "--resume"))
        assert outcome.code == 143
        told += log(outcome.err)
    outcome = drs(*line("train-cls", voc, made, "-o", tmp_path / "net.pt", "--resume"))
    assert told + log(outcome.err) == expected_log
    assert (tmp_path / "net.pt").read_bytes() == expected


def test_interrupted_while_the_epoch_is_scored(drs, voc, made, tmp_path, uninterrupted, monkeypatch):
    """The epoch is closed once, and scored again."""
    expected, expected_log = uninterrupted("train-seg", "--select-on", "val")
    from drstool.stages import segment

    restore, calls = segment.restore_network, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            # Draws random numbers, and is cut off.
            torch.rand(5)
            signal.raise_signal(signal.SIGINT)
        return restore(*arguments)

    monkeypatch.setattr(segment, "restore_network", interrupted)
    words = (*line("train-seg", voc, made, "--select-on", "val"), "-o", tmp_path / "net.pt")
    first = drs(*words)
    assert first.code == 130
    second = drs(*words, "--resume")
    assert log(first.err) + log(second.err) == expected_log
    assert (tmp_path / "net.pt").read_bytes() == expected


# Killed in the middle of a step, with the state kept after every epoch.
KILLED = """
import os, signal
from drstool.training.state import Saver, TrainState
Saver.SHARE = 0
count = TrainState.count
def counted(state, keys, loss):
    if state.step == {step} - 1:
        os.kill(os.getpid(), signal.SIGKILL)
    count(state, keys, loss)
TrainState.count = counted
"""


@pytest.mark.parametrize("step", [2, 5])
def test_killed(drs, zygote, voc, made, tmp_path, uninterrupted, step):
    """What was kept at the end of an epoch is gone on with."""
    expected, expected_log = uninterrupted("train-cls")
    words = (*line("train-cls", voc, made), "-o", tmp_path / "net.pt")
    assert zygote.run(*words, before=KILLED.format(step=step), errors=tmp_path / "err") == -signal.SIGKILL
    assert "net.pt" not in left_in(tmp_path)
    outcome = drs(*words, "--resume")
    assert outcome.code == 0, outcome.err
    assert ("resuming after step 4" in outcome.err) is (step == 5)
    assert log(outcome.err) == expected_log[2 if step == 5 else 0:]
    assert (tmp_path / "net.pt").read_bytes() == expected
    assert left_in(tmp_path) == ["err", "net.pt"]


def test_a_second_signal_to_end_waits_for_the_state(drs, voc, made, tmp_path, at_step, monkeypatch):
    save = training_state.save_torch

    def told_again(path, *arguments, **more):
        signal.raise_signal(signal.SIGTERM)
        save(path, *arguments, **more)

    monkeypatch.setattr(training_state, "save_torch", told_again)
    monkeypatch.setattr(Saver, "save_if_due", lambda saver: None)
    at_step(3, lambda: signal.raise_signal(signal.SIGTERM))
    assert drs(*line("train-cls", voc, made, "-o", tmp_path / "net.pt")).code == 143
    assert left_in(tmp_path) == [".net.pt.resume"]


def test_who_does_not_want_to_wait_interrupts_twice(drs, voc, made, tmp_path, at_step, monkeypatch):
    monkeypatch.setattr(training_state, "save_torch", lambda *a, **k: signal.raise_signal(signal.SIGINT))
    monkeypatch.setattr(Saver, "save_if_due", lambda saver: None)
    at_step(3, lambda: signal.raise_signal(signal.SIGINT))
    assert drs(*line("train-cls", voc, made, "-o", tmp_path / "net.pt")).code == 130
    assert left_in(tmp_path) == []


def test_a_dead_worker_process_is_one_line_and_can_be_gone_on_from(drs, voc, made, tmp_path, uninterrupted, at_step):
    import multiprocessing

    def kill():
        (worker,) = multiprocessing.active_children()
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()

    expected, _ = uninterrupted("train-cls")
    words = (*line("train-cls", voc, made, "--workers", "1", "-q"), "-o", tmp_path / "net.pt")
    at_step(3, kill)
    outcome = drs(*words)
    assert outcome.code == 1
    assert outcome.err.startswith("drstool: a worker process ended") and outcome.err.count("\n") == 1
    assert drs(*words, "--resume").code == 0
    assert (tmp_path / "net.pt").read_bytes() == expected
    assert multiprocessing.active_children() == []


def test_the_history_tells_of_the_interruption(drs, voc, made, tmp_path, at_step):
    words = [word for word in line("train-cls", voc, made, "-q") if word != "--no-provenance"]
    at_step(3, lambda: signal.raise_signal(signal.SIGTERM))
    drs(*words, "-o", tmp_path / "net.pt")
    assert drs(*words, "-o", tmp_path / "net.pt", "--resume").code == 0
    (entry,) = load_checkpoint(tmp_path / "net.pt").provenance
    assert [sitting["step"] for sitting in entry["resumed"]] == [3]
    drs(*words, "-o", tmp_path / "other.pt")
    assert "resumed" not in load_checkpoint(tmp_path / "other.pt").provenance[0]


# --- another work, no state, a finished one ------------------------------------------------------


@pytest.fixture
def interrupted(drs, own_voc, made, tmp_path, at_step):
    """A training of a command that was interrupted after three steps; its words, and its output."""

    def interrupt(command, *more):
        at_step(3, lambda: signal.raise_signal(signal.SIGTERM))
        words = (*line(command, own_voc, made, *more), "-o", tmp_path / "net.pt")
        assert drs(*words).code == 143
        return words

    return interrupt


OTHER = {
    "setting": ("train-cls", lambda t: ("--lr", "0.5"), "--lr changed from 3e-05 to 0.5"),
    "two settings": ("train-seg", lambda t: ("--flip", "0", "--seed", "7"),
                     "--seed changed from 0 to 7, --flip changed"),
    "list": ("train-cls", lambda t: ("--split", "val"), "the list of images and tags changed"),
    "choice": ("train-cls", lambda t: ("--select-on", "val"),
               "the use of ground truth changed from False to epoch chosen"),
    "init": ("train-cls", lambda t: ("--init", t.cls), "--init changed from none to not given"),
    "maps": ("refine-train", lambda t: ("--maps", t.refined), "the map file changed"),
    "labels": ("train-seg", lambda t: ("--labels", t.other_labels), "the label folder changed"),
}


@pytest.mark.parametrize("name", OTHER)
def test_other_work_is_refused(drs, made, tmp_path, interrupted, name):
    command, change, told = OTHER[name]
    words = interrupted(command)
    before = (tmp_path / ".net.pt.resume").read_bytes()

    class Paths:
        cls, refined, other_labels = made.cls, made.refined, tmp_path / "labels"

    shutil.copytree(made.labels, Paths.other_labels)
    from drstool.formats.label_png import encode_label_png, read_label_png

    changed = read_label_png(Paths.other_labels / "p0.png")
    changed[0, 0] = 2
    (Paths.other_labels / "p0.png").write_bytes(encode_label_png(changed))
    outcome = drs(*words, *change(Paths), "--resume")
    assert outcome.code == 3
    (told_line,) = outcome.err.splitlines()
    assert told in told_line and "belongs to a different job" in told_line
    assert (tmp_path / ".net.pt.resume").read_bytes() == before


def test_other_work_is_made_anew_where_it_may_be(drs, tmp_path, interrupted):
    words = [word for word in interrupted("train-cls") if word != "--no-provenance"]
    outcome = drs(*words, "--lr", "0.001", "--resume", "--overwrite")
    assert outcome.code == 0, outcome.err
    told = "belongs to a different job: --lr changed from 3e-05 to 0.001; discarding it"
    assert outcome.err.startswith(f"train-cls: {tmp_path / '.net.pt.resume'}: {told}\n")
    assert outcome.err.count("resum") == 1
    before = (tmp_path / "net.pt").read_bytes()
    outcome = drs(*words, "--lr", "0.001", "--resume", "--overwrite")
    assert outcome.err == f"train-cls: {tmp_path / 'net.pt'} is finished already\n"
    assert (tmp_path / "net.pt").read_bytes() == before
    outcome = drs(*words, "--lr", "0.002", "--resume", "--overwrite")
    assert outcome.code == 0
    told = "exists, but --lr changed from 0.001 to 0.002; making it again"
    assert outcome.err.startswith(f"train-cls: {tmp_path / 'net.pt'} {told}\n")
    assert (tmp_path / "net.pt").read_bytes() != before


def test_classes_in_another_order_are_refused(drs, own_voc, interrupted):
    words = interrupted("train-cls")
    (own_voc / "classes.txt").write_text("disc\nbar\n")
    outcome = drs(*words, "--resume")
    assert outcome.code == 3
    assert "the classes changed from bar,disc to disc,bar" in outcome.err


def test_a_damaged_state_is_refused(drs, tmp_path, interrupted):
    words = interrupted("train-cls")
    state = tmp_path / ".net.pt.resume"
    state.write_bytes(state.read_bytes()[:2000])
    outcome = drs(*words, "--resume")
    assert outcome.code == 3
    assert len(outcome.err.splitlines()) == 1 and ".net.pt.resume" in outcome.err
    # Without --resume it is in nobody's way.
    assert drs(*words).code == 0
    assert "net.pt" in left_in(tmp_path) and ".net.pt.resume" not in left_in(tmp_path)


@pytest.mark.parametrize("content", [b"mine", b"PK\3\4 of another program", "link", "folder"])
def test_what_others_put_in_the_place_of_a_state_is_named_and_stays(drs, voc, made, tmp_path, content):
    place = tmp_path / ".net.pt.resume"
    if content == "link":
        place.symlink_to(made.cls)
    elif content == "folder":
        (place / "mine").mkdir(parents=True)
    else:
        place.write_bytes(content)
    for more in ((), ("--resume",), ("--overwrite",)):
        outcome = drs(*line("train-cls", voc, made), "-o", tmp_path / "net.pt", *more)
        assert outcome.code == 1 and f"{place}: lies where unfinished work is kept" in outcome.err
        assert left_in(tmp_path) == [place.name]
        assert not isinstance(content, bytes) or place.read_bytes() == content


def test_a_damaged_checkpoint_is_not_finished(drs, voc, made, tmp_path):
    words = (*line("train-cls", voc, made), "--epochs", "0", "-o", tmp_path / "net.pt")
    assert drs(*words).code == 0
    data = bytearray((tmp_path / "net.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "net.pt").write_bytes(data)
    outcome = drs(*words, "--resume")
    assert outcome.code == 1 and "already exists, and is a damaged torch file" in outcome.err
    assert drs(*words, "--resume", "--overwrite").code == 0
    assert (tmp_path / "net.pt").read_bytes() != data


@pytest.mark.parametrize("change", [
    lambda state: state["loop"].pop("random"),
    lambda state: state["loop"]["model"].popitem(),
    lambda state: state["loop"].update(reports=[3]),
    lambda state: state["work"].update(settings=None),
    lambda state: state.update(sittings=["x"]),
], ids=["no random state", "a weight less", "a report of nothing", "no settings", "a sitting of nothing"])
def test_a_forged_state_is_refused(drs, tmp_path, interrupted, change):
    words = interrupted("train-cls")
    path = tmp_path / ".net.pt.resume"
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)
    outcome = drs(*words, "--resume")
    assert outcome.code == 3
    (line,) = [line for line in outcome.err.splitlines() if "resuming after" not in line]
    assert "from scratch" in line and ("is damaged" in line or "cannot be loaded" in line), line


def test_a_state_holds_no_code_and_is_no_checkpoint(drs, voc, tmp_path, interrupted):
    interrupted("train-cls")
    told = drs("info", tmp_path / ".net.pt.resume", "--json").json()
    assert (told["kind"], told["of"], told["step"], told["epochs"]) == ("training-state", "train-cls", 3, 1)
    assert told["settings"]["lr"] == 3e-5
    assert "step" in drs("info", tmp_path / ".net.pt.resume").out
    outcome = drs("cam", "--data", voc, "--split", "train", "--weights", tmp_path / ".net.pt.resume", "-o", "x")
    assert outcome.code == 3
    assert "is the state of an unfinished training; finish it with --resume" in outcome.err


def test_without_resume_little_is_dropped_and_much_is_not(drs, tmp_path, interrupted, monkeypatch):
    words = interrupted("train-cls")
    monkeypatch.setattr(works, "WORTH_KEEPING", 0.0)
    outcome = drs(*words)
    assert outcome.code == 1
    (told,) = outcome.err.splitlines()
    assert "an interrupted run finished the state after step 3" in told
    assert told.endswith("continue it with --resume, or discard it with --overwrite")
    assert ".net.pt.resume" in left_in(tmp_path)
    monkeypatch.undo()
    outcome = drs(*words)
    assert outcome.code == 0
    assert outcome.err.startswith("train-cls: starting from scratch, discarding the state after step 3 ")
    assert ".net.pt.resume" not in left_in(tmp_path)


def test_overwrite_begins_anew(drs, tmp_path, interrupted, monkeypatch):
    words = interrupted("train-cls")
    monkeypatch.setattr(works, "WORTH_KEEPING", 0.0)
    assert drs(*words, "--overwrite", "-q").code == 0
    assert ".net.pt.resume" not in left_in(tmp_path)


@pytest.mark.parametrize("history", [True, False])
def test_finished_work_is_not_done_again(drs, voc, made, tmp_path, history):
    words = [word for word in line("train-cls", voc, made) if not history or word != "--no-provenance"]
    words += ["--epochs", "1", "-o", tmp_path / "net.pt"]
    outcome = drs(*words, "--resume", "-v")
    assert outcome.code == 0 and "train-cls: nothing to resume, starting from scratch\n" in outcome.err
    before = (tmp_path / "net.pt").read_bytes()
    for more in ((), ("--overwrite",))[:1 + history]:
        outcome = drs(*words, "--resume", *more)
        assert (outcome.code, outcome.err) == (0, f"train-cls: {tmp_path / 'net.pt'} is finished already\n")
        assert (tmp_path / "net.pt").read_bytes() == before
    if not history:
        outcome = drs(*words, "--resume", "--overwrite")
        assert "exists, but has no history" in outcome.err and (tmp_path / "net.pt").read_bytes() == before
    outcome = drs(*words, "--resume", "--lr", "0.5")
    assert outcome.code == 1
    assert "already exists, and --lr changed from 3e-05 to 0.5; choose another name, or use --overwrite" in outcome.err
    assert drs(*words).code == 1
    assert (tmp_path / "net.pt").read_bytes() == before


def test_what_else_lies_there_is_not_taken_for_finished(drs, voc, made, tmp_path):
    (tmp_path / "net.pt").write_bytes(b"mine")
    outcome = drs(*line("train-cls", voc, made, "-o", tmp_path / "net.pt", "--resume"))
    assert outcome.code == 1 and len(outcome.err.splitlines()) == 1
    assert (tmp_path / "net.pt").read_bytes() == b"mine"


# --- a state that cannot be kept, a loss that is no number ---------------------------------------


def test_a_training_goes_on_where_its_state_cannot_be_kept(drs, voc, made, tmp_path, uninterrupted, monkeypatch):
    def full(path, *arguments, **more):
        raise OutputError(path, "cannot be written: No space left on device")

    monkeypatch.setattr(training_state, "save_torch", full)
    outcome = drs(*line("train-cls", voc, made, "-o", tmp_path / "net.pt"))
    assert outcome.code == 0
    assert "continuing without a state for --resume" in outcome.err
    assert (tmp_path / "net.pt").read_bytes() == uninterrupted("train-cls")[0]


def spoil_loss(monkeypatch, step):
    """Make the loss NaN from a step on."""
    from drstool.stages import train_cls

    loss, calls = train_cls._loss, []

    def spoilt(model, batch):
        calls.append(1)
        return loss(model, batch) * (float("nan") if len(calls) >= step else 1.0)

    monkeypatch.setattr(train_cls, "_loss", spoilt)


def test_a_loss_that_is_no_number_leaves_the_last_good_network(drs, voc, made, tmp_path, monkeypatch):
    words = line("train-cls", voc, made, "-o", tmp_path / "net.pt")
    with monkeypatch.context() as patch:
        patch.setattr(Saver, "SHARE", 0)
        spoil_loss(patch, 6)
        outcome = drs(*words, "-q")
    assert outcome.code == 1
    (told,) = outcome.err.splitlines()
    assert re.search(r"the loss is nan at step 6 \(images p\d, p\d\); try a lower --lr, .*net\.step-4\.pt$", told)
    assert left_in(tmp_path) == [".net.pt.resume", "net.step-4.pt"]
    kept = drs("info", tmp_path / "net.step-4.pt", "--json").json()
    assert kept["recipe"]["stopped_after_step"] == 4
    # It serves as what it is, and to start from.
    assert drs("cam", "--data", voc, "--split", "train", "--weights", tmp_path / "net.step-4.pt", "--sizes", "32",
               "-o", tmp_path / "cams.h5").code == 0
    other = [*words, "--init", tmp_path / "net.step-4.pt", "--lr", "0.0001"]
    assert drs(*other, "--overwrite").code == 0
    # The weights are those of a training that was stopped there.
    good = load_checkpoint(tmp_path / "net.step-4.pt").weights
    assert all(value.isfinite().all() for value in good.values())


def test_weights_that_are_no_numbers_are_not_kept(drs, voc, made, tmp_path, monkeypatch, at_step):
    monkeypatch.setattr(Saver, "SHARE", 0)
    spoilt = []

    def spoil():
        (model,) = spoilt
        next(model.parameters()).data.fill_(float("inf"))

    init = TrainState.__init__

    def noted(state, model, *more):
        spoilt.append(model)
        init(state, model, *more)

    monkeypatch.setattr(TrainState, "__init__", noted)
    at_step(4, spoil)
    outcome = drs(*line("train-cls", voc, made, "-o", tmp_path / "net.pt", "-q"))
    assert outcome.code == 1
    assert "a weight is not finite after step 4" in outcome.err and "net.step-2.pt" in outcome.err


def test_worker_processes_end_with_a_killed_training(program, voc, made, tmp_path):
    """Also those that nobody is left to end."""
    words = (*line("train-cls", voc, made, "--workers", "2", "--epochs", "1000000"), "-o", tmp_path / "net.pt")
    with program.start(*words, stderr=subprocess.PIPE) as process:
        assert any(told.startswith(b"train-cls: epoch 1/") for told in process.stderr)
        with open(f"/proc/{process.pid}/task/{process.pid}/children") as file:
            workers = [int(pid) for pid in file.read().split()]
        assert len(workers) == 2
        process.kill()
        # Nobody holds its end of this pipe any more once they are gone.
        process.stderr.read()
    end = time.monotonic() + 60
    while any(lives(pid) for pid in workers):
        assert time.monotonic() < end
        time.sleep(0.01)


def lives(pid):
    """Whether there is a process that is not only waiting for somebody to take note of its end."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
