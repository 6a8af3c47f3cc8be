"""Trainings by several processes: as one, each with its share, and all ending together."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from harness_kill import OFTEN

from drstool.checkpoints.checkpoint import load_checkpoint
from drstool.training.distributed import Team
from drstool.training.schedule import Plan

SMALL = ("--backbone", "vgg16-small", "--init", "none", "--image-size", "32", "--epochs", "3", "--batch-size", "3",
         "--device", "cpu", "--no-provenance")
# Everything in double precision: then sums in another order stay the same for more digits than a fault would leave.
DOUBLE = "import torch\ntorch.set_default_dtype(torch.float64)\ntorch.Tensor.float = torch.Tensor.double\n"
# And without what depends on which images a process has: batch norm normalises by what it has learned, and
# dropout drops nothing.
ALIKE = DOUBLE + """
from torch.nn import functional as F
torch.nn.BatchNorm2d.forward = lambda norm, x: F.batch_norm(
    x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
torch.nn.Dropout.forward = lambda dropout, x: x
"""
# Something happens to one process in the middle of a step.
AT_STEP = """
import os, signal
from drstool.training.state import TrainState
count = TrainState.count
def counted(state, keys, loss):
    if os.environ.get("RANK", "0") == "{rank}" and state.step == {step} - 1:
        {what}
    count(state, keys, loss)
TrainState.count = counted
"""
STEPS = 6


def line(command, voc, made, *more):
    inputs = {"train-cls": (), "refine-train": ("--maps", made.cams), "train-seg": ("--labels", made.labels)}
    return (command, "--data", voc, "--split", "train", *SMALL, *inputs[command], *more)


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


class Outcomes(list):
    """Exit code and stderr of each process."""

    @property
    def codes(self):
        return [code for code, _ in self]

    @property
    def told(self):
        return [text for _, text in self]

    @property
    def errors(self):
        """Lines of all that are no news."""
        return [text for told in self.told for text in told.splitlines() if text.startswith("drstool: ")]


@pytest.fixture
def together(zygote, tmp_path):
    """Runs a command line in several processes, as torchrun starts them."""

    def run(*words, size=2, before="", **environment):
        port = free_port()
        errors = [tmp_path / f"errors-{rank}" for rank in range(size)]
        pids = []
        for rank, path in enumerate(errors):
            path.unlink(missing_ok=True)
            variables = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": size,
                         "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, **environment}
            given = f"import os\nos.environ.update({({name: str(value) for name, value in variables.items()})!r})\n"
            pids.append(zygote.start(*words, before=given + before, errors=path))
        codes = [zygote.wait(pid) for pid in pids]
        outcomes = Outcomes(zip(codes, [path.read_text() if path.exists() else "" for path in errors]))
        for path in errors:
            path.unlink(missing_ok=True)
        assert not any("Traceback" in text or "Warning" in text for text in outcomes.told), outcomes
        return outcomes

    return run


@pytest.fixture(scope="session")
def alone(zygote, voc, made, tmp_path_factory):
    """Weights and lines of epochs of each training by one process, with ALIKE; made when first asked for."""
    known = {}

    def made_by(command, *more):
        if (command, more) not in known:
            folder = tmp_path_factory.mktemp("alone")
            words = (*line(command, voc, made, *more), "-o", folder / "net.pt")
            assert zygote.run(*words, before=ALIKE, errors=folder / "errors") == 0, (folder / "errors").read_text()
            known[command, more] = weights(folder / "net.pt"), epochs((folder / "errors").read_text())
        return known[command, more]

    return made_by


def weights(path):
    return load_checkpoint(path).weights


def epochs(text):
    """Of all processes' images; what else is measured is of the first one's."""
    return [" ".join(re.findall(r"epoch \S+|(?:loss|mIoU) \S+", line)) for line in re.findall("epoch .*/.*", text)]


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-9,
                                   msg=lambda text, name=name: f"{name}: {text}")


def left_in(folder):
    return sorted(path.name for path in folder.iterdir())


# --- the same training ---------------------------------------------------------------------------


@pytest.mark.parametrize(("command", "size", "more"), [
    # The last batch of an epoch is one image: the second process has none.
    ("train-cls", 2, ("--optimizer", "adam")),
    # Gradients above the limit, of all processes together.
    ("train-cls", 2, ("--clip-norm", "0.01", "--suppression-ramp", "0.7",
                      "--val-split", "val", "--min-steps", "7", "--warmup", "0.5")),
    ("refine-train", 3, ("--select-on", "val", "--workers", "1")),
    ("train-seg", 2, ("--lr", "0.05", "--select-on", "val", "--steps", "4", "--batch-size", "4")),
])
def test_several_processes_train_as_one(together, voc, made, tmp_path, alone, command, size, more):
    """Where each image is on its own: on CPUs, batch norm and dropout are each process's own."""
    expected, told = alone(command, *more)
    outcomes = together(*line(command, voc, made, *more), "-o", tmp_path / "net.pt", size=size, before=ALIKE)
    assert outcomes.codes == [0] * size, outcomes
    assert_same(weights(tmp_path / "net.pt"), expected)
    assert epochs(outcomes.told[0]) == told and len(told) >= 3
    assert outcomes.told[1:] == [""] * (size - 1)
    assert left_in(tmp_path) == ["net.pt"]


# What a process ends with.
DIGEST = """
import hashlib, os
from drstool.training.state import TrainState
restore = TrainState.restore_best
def noted(state):
    digest = hashlib.sha256(b"".join(value.detach().numpy().tobytes() for value in state._model.parameters()))
    with open({folder!r} + "/weights-" + os.environ["RANK"], "w") as file:
        file.write(digest.hexdigest())
    return restore(state)
TrainState.restore_best = noted
"""


@pytest.mark.parametrize(("command", "more"), [
    # The last batch of an epoch is one image: the second process has none.
    ("train-cls", ("--optimizer", "adam")),
    ("train-seg", ("--lr", "0.05", "--batch-size", "4"))])
def test_processes_stay_in_step(together, voc, made, tmp_path, command, more):
    """With batch norm and dropout as well."""
    folder = tmp_path / "digests"
    folder.mkdir()
    words = (*line(command, voc, made, *more), "-o", tmp_path / "net.pt")
    outcomes = together(*words, before=DIGEST.format(folder=str(folder)))
    assert outcomes.codes == [0, 0], outcomes
    assert len(epochs(outcomes.told[0])) == 3 and outcomes.told[1] == ""
    first, second = [(folder / f"weights-{rank}").read_text() for rank in range(2)]
    assert first == second
    assert all(value.isfinite().all() for value in weights(tmp_path / "net.pt").values())


def test_shares_of_a_batch():
    for size in (1, 2, 3, 8):
        for count in range(1, 12):
            shares = [Team(rank, size).rows(count) for rank in range(size)]
            assert [i for share in shares for i in range(count)[share]] == list(range(count))
            lengths = [share.stop - share.start for share in shares]
            assert max(lengths) - min(lengths) <= 1 and lengths[0] == max(lengths)


def test_who_has_no_share_reads_one_image():
    plan = Plan(4, 1, 3, 0)
    keys, whole = list(plan.batches(rows=Team(1, 2).rows)), list(plan.batches())
    assert keys == [whole[0][2:], whole[1]] and [len(batch) for batch in whole] == [3, 1]


# --- interrupted ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("command", "rank", "number", "code", "step", "more", "going_on"), [
    ("train-cls", 1, signal.SIGTERM, 143, 3, ("--optimizer", "adam"), 2),
    ("train-seg", 0, signal.SIGINT, 130, 2,
     ("--lr", "0.05", "--select-on", "val", "--steps", "4", "--batch-size", "4"), 1),
])
def test_a_signal_to_one_ends_all_after_the_same_step(
        together, zygote, voc, made, tmp_path, tmp_path_factory, alone, command, rank, number, code, step, more,
        going_on):
    expected, told = alone(command, *more)
    log = tmp_path_factory.mktemp("log") / "log.jsonl"
    words = (*line(command, voc, made, *more), "-o", tmp_path / "net.pt", "--log", log)
    what = AT_STEP.format(rank=rank, step=step, what=f"signal.raise_signal({int(number)})")
    first = together(*words, before=ALIKE + what)
    assert first.codes == [code, code], first
    assert f"{command}: --resume continues after step {step}\n" in first.told[0] and first.told[1] == ""
    assert left_in(tmp_path) == [".net.pt.resume"]
    # By as many processes as before, or another number of them.
    if going_on == 1:
        assert zygote.run(*words, "--resume", before=ALIKE, errors=tmp_path / "errors") == 0
        again = (tmp_path / "errors").read_text()
        (tmp_path / "errors").unlink()
    else:
        second = together(*words, "--resume", before=ALIKE)
        assert second.codes == [0, 0]
        again = second.told[0]
    assert again.startswith(f"{command}: resuming after step {step}\n")
    assert epochs(first.told[0]) + epochs(again) == told
    assert_same(weights(tmp_path / "net.pt"), expected)
    assert left_in(tmp_path) == ["net.pt"]
    logged = [json.loads(text) for text in log.read_text().splitlines()]
    assert [text["epoch"] for text in logged if text["event"] == "epoch"] == list(range(1, len(told) + 1))
    assert [text["event"] for text in logged if text["event"] not in ("step", "epoch")] == ["start", "end"]
    assert logged[0]["processes"] == 2


def test_ctrl_c_while_the_first_one_scores(together, voc, made, tmp_path):
    interrupted = """
import signal
from drstool.cli import training
training._Selection.score = lambda selection, checkpoint: signal.raise_signal(signal.SIGINT)
"""
    words = (*line("train-cls", voc, made, "--select-on", "val"), "-o", tmp_path / "net.pt")
    outcomes = together(*words, before=interrupted)
    assert outcomes.codes == [130, 130]
    assert outcomes.errors == ["drstool: interrupted"]
    assert left_in(tmp_path) == [".net.pt.resume"]


def test_one_without_memory_ends_all(together, voc, made, tmp_path):
    """It says so, and those that it leaves in the middle of the step that they lost it."""
    what = 'raise __import__("torch").OutOfMemoryError("CUDA out of memory")'
    words = (*line("train-cls", voc, made), "-o", tmp_path / "net.pt")
    outcomes = together(*words, before=OFTEN + AT_STEP.format(rank=1, step=4, what=what))
    assert outcomes.codes == [1, 1]
    lost, error = outcomes.errors
    assert error.startswith("drstool: the device is out of memory") and error in outcomes.told[1]
    assert lost.startswith("drstool: training: process 0 of 2 lost the connection to another process (")
    assert left_in(tmp_path) == [".net.pt.resume"]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_lost_process_ends_the_others(together, voc, made, tmp_path, alone, rank):
    expected, told = alone("train-cls", "--optimizer", "adam")
    words = (*line("train-cls", voc, made, "--optimizer", "adam"), "-o", tmp_path / "net.pt")
    killed = AT_STEP.format(rank=rank, step=5, what="os.kill(os.getpid(), signal.SIGKILL)")
    outcomes = together(*words, before=ALIKE + OFTEN + killed)
    assert outcomes.codes[rank] == -signal.SIGKILL and outcomes.codes[1 - rank] == 1, outcomes
    (error,) = outcomes.errors
    assert re.fullmatch(
        r"drstool: training: process \d of 2 lost the connection to another process "
        r"\((Read error \S+: )?Connection .{1,60}\); --resume continues from the last saved state", error)
    assert ".net.pt.resume" in left_in(tmp_path) and "net.pt" not in left_in(tmp_path)
    again = together(*words, "--resume", before=ALIKE)
    # The first one, where it is left, did that step, and keeps the state after it.
    assert again.codes == [0, 0] and again.told[0].startswith(f"train-cls: resuming after step {4 + rank}\n"), again
    assert epochs(again.told[0]) == told[2:]
    assert_same(weights(tmp_path / "net.pt"), expected)
    assert left_in(tmp_path) == ["net.pt"]


# --- failures ------------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_ends_all(together, voc, made, tmp_path):
    """It is one process's loss; all images of the step are named, and the state before becomes a checkpoint."""
    broken = """
from drstool.stages import train_cls
loss = train_cls._loss
def broken(model, batch):
    broken.steps += 1
    return loss(model, batch) * (float("nan") if os.environ["RANK"] == "1" and broken.steps == 5 else 1)
broken.steps = 0
train_cls._loss = broken
"""
    words = (*line("train-cls", voc, made), "-o", tmp_path / "net.pt")
    outcomes = together(*words, before=OFTEN + broken)
    assert outcomes.codes == [1, 1], outcomes
    (error,) = outcomes.errors
    assert re.search(r"training: the loss is nan at step 5 \(images p\d, p\d, p\d\); .*net\.step-4\.pt", error)
    assert "net.step-4.pt" in left_in(tmp_path) and "net.pt" not in left_in(tmp_path)
    assert load_checkpoint(tmp_path / "net.step-4.pt").kind == "classifier"


def test_more_processes_than_images_a_step(together, voc, made, tmp_path):
    outcomes = together(*line("train-cls", voc, made, "--batch-size", "1"), "-o", tmp_path / "net.pt")
    assert outcomes.codes == [2, 2]
    (error,) = outcomes.errors
    assert error.startswith(
        "drstool: --batch-size: a batch of 1 cannot be divided over 2 processes; give 2 or more")
    assert left_in(tmp_path) == []
    # On CPUs, batch norm needs two images in each process.
    outcomes = together(*line("train-seg", voc, made, "--batch-size", "3"), "-o", tmp_path / "net.pt")
    assert outcomes.codes == [2, 2]
    (error,) = outcomes.errors
    assert "a batch of 3 cannot be divided over 2 processes; give 4 or more" in error
    outcomes = together(*line("train-cls", voc, made, "--batch-size", "auto"), "-o", tmp_path / "net.pt")
    assert outcomes.codes == [2, 2]
    assert outcomes.errors == ["drstool: --batch-size: auto is for one process; give a number under torchrun"]


def test_what_is_wrong_for_all_is_told_once(together, made, tmp_path):
    outcomes = together(*line("train-cls", tmp_path / "none", made), "-o", tmp_path / "net.pt")
    assert outcomes.codes == [3, 3] and len(outcomes.errors) == 1, outcomes
    for words, code in (("--batch-size", "x"), 2), (("--lr", "-1"), 2):
        outcomes = together(*line("train-cls", tmp_path / "none", made), *words, "-o", tmp_path / "net.pt")
        assert outcomes.codes == [code, code] and len(outcomes.errors) == 1, outcomes
        assert outcomes.told[1] == ""
    assert left_in(tmp_path) == []


def test_what_is_wrong_for_one_is_told_by_it(together, voc, made, tmp_path):
    elsewhere = f"""
import os, sys
if os.environ["RANK"] == "1":
    sys.argv[sys.argv.index({str(voc)!r})] = {str(tmp_path / "none")!r}
"""
    outcomes = together(*line("train-cls", voc, made), "-o", tmp_path / "net.pt", before=elsewhere)
    assert outcomes.codes == [3, 3]
    assert len(outcomes.errors) == 1 and outcomes.errors[0] in outcomes.told[1]
    assert left_in(tmp_path) == []


def test_an_image_that_one_cannot_read(together, own_voc, made, tmp_path):
    """Or both: that without a share reads the other one's image."""
    (own_voc / "JPEGImages" / "p3.jpg").write_bytes(b"no picture")
    folder = tmp_path / "out"
    folder.mkdir()
    outcomes = together(*line("train-cls", own_voc, made, "--workers", "1"), "-o", folder / "net.pt")
    assert outcomes.codes == [3, 3]
    assert len(outcomes.errors) == 1 and "p3.jpg" in outcomes.errors[0], outcomes


def test_a_dead_worker_of_one(together, voc, made, tmp_path):
    kill = """for child in __import__("multiprocessing").active_children():
            child.kill()"""
    killed = AT_STEP.format(rank=1, step=2, what=kill)
    words = (*line("train-cls", voc, made, "--workers", "1", "--epochs", "20"), "-o", tmp_path / "net.pt")
    outcomes = together(*words, before=killed)
    assert outcomes.codes == [1, 1], outcomes
    assert len(outcomes.errors) == 1 and outcomes.errors[0].startswith("drstool: a worker process ended")
    assert left_in(tmp_path) == [".net.pt.resume"]


def test_the_output_is_finished_or_taken(together, voc, made, tmp_path):
    words = (*line("train-cls", voc, made, "--epochs", "0"), "-o", tmp_path / "net.pt")
    assert together(*words).codes == [0, 0]
    again = together(*words)
    assert again.codes == [1, 1] and len(again.errors) == 1
    finished = together(*words, "--resume")
    assert finished.codes == [0, 0]
    assert finished.told == [f"train-cls: {tmp_path / 'net.pt'} is finished already\n", ""]


def test_no_torchrun(together, voc, made, tmp_path):
    """What says which process this is says not where the others are, or makes no sense."""
    words = (*line("train-cls", voc, made), "-o", tmp_path / "net.pt")
    forgotten = "import os\ndel os.environ['MASTER_ADDR']\n"
    outcomes = together(*words, before=forgotten)
    assert outcomes.codes == [2, 2]
    assert all("MASTER_ADDR" in error and "torchrun" in error for error in outcomes.errors)
    assert together(*words, WORLD_SIZE="two").codes == [2, 2]
    assert left_in(tmp_path) == []


def test_ended_before_the_others_came(zygote, voc, made, tmp_path):
    """A process that waits for others to begin is told to end, and does."""
    variables = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    # Tells when it begins to wait.
    before = f"""
import os
os.environ.update({variables!r})
from drstool.training import distributed
rendezvous = distributed.rendezvous
def told(*arguments, **more):
    open({str(tmp_path / "waits")!r}, "w").close()
    return rendezvous(*arguments, **more)
distributed.rendezvous = told
"""
    words = (*line("train-cls", voc, made), "-o", tmp_path / "net.pt")
    pid = zygote.start(*words, before=before, errors=tmp_path / "errors")
    deadline = time.monotonic() + 60
    while not (tmp_path / "waits").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.2)
    os.kill(pid, signal.SIGTERM)
    assert zygote.wait(pid) == 143
    assert left_in(tmp_path) == ["errors", "waits"]
    assert (tmp_path / "errors").read_text() == ""


# --- torchrun ------------------------------------------------------------------------------------


def test_torchrun_and_its_end(program, voc, made, tmp_path):
    """The launcher itself, told to end: it passes that on, and the state is kept."""
    words = [str(word) for word in (*line("train-cls", voc, made, "--epochs", "2000"), "-o", tmp_path / "net.pt")]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "drstool"]
    with open(tmp_path / "errors", "wb") as errors:
        process = subprocess.Popen([*launcher, *words], env=program.environment, stderr=errors, start_new_session=True)
    deadline = time.monotonic() + 120
    while b"epoch 2/" not in (tmp_path / "errors").read_bytes() and time.monotonic() < deadline:
        assert process.poll() is None, (tmp_path / "errors").read_text()
        time.sleep(0.1)
    process.terminate()
    assert process.wait(60) != 0
    told = (tmp_path / "errors").read_text()
    assert told.count("epoch 1/2000") == 1
    assert told.count("train-cls: --resume continues after step") == 1
    assert "drstool: " not in told
    assert left_in(tmp_path) == [".net.pt.resume", "errors"]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_on_gpus(together, voc, made, tmp_path):
    words = [*line("refine-train", voc, made, "--precision", "float32"), "-o", tmp_path / "net.pt"]
    words[words.index("cpu")] = "cuda"
    outcomes = together(*words)
    assert outcomes.codes == [0, 0], outcomes
    assert outcomes.told[1] == "" and len(epochs(outcomes.told[0])) == 3
    assert all(value.isfinite().all() for value in weights(tmp_path / "net.pt").values())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_more_processes_than_gpus(together, voc, made, tmp_path):
    words = [*line("refine-train", voc, made), "-o", tmp_path / "net.pt"]
    words[words.index("cpu")] = "cuda"
    size = torch.cuda.device_count() + 1
    outcomes = together(*words, "--batch-size", size, size=size)
    assert outcomes.codes == [2] * size
    assert len(outcomes.errors) == 1 and "--nproc-per-node" in outcomes.errors[0]


