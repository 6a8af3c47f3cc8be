"""A tiny dataset, tiny networks and the artifacts of a whole chain, each made once a session."""

import contextlib
import io
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

# Tests are imported one by one; these find what lies beside them.
sys.path.insert(0, str(Path(__file__).parent))

# A process started in the background ignores Ctrl-C, and so would the programs started from here;
# with a handler in place they begin as they do at a terminal.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Not tests, and to be run by who wants figures.
collect_ignore = ["benchmarks"]

CLASSES = ("bar", "disc")
TRAIN = ("p0", "p1", "p2", "p3")
VAL = ("p4", "p5")
# What makes every network small and quick to build.
SMALL = ("--backbone", "vgg16-small", "--init", "none", "--epochs", "0", "--image-size", "32")


@dataclass(frozen=True)
class Outcome:
    """What a command line did: its exit code, and what it wrote on stdout and stderr."""

    code: int
    out: str
    err: str

    def json(self):
        import json

        return json.loads(self.out)


def call(*arguments, stdin=b"", stdout=None):
    """One command line, run in this process; ``stdout``: a binary file in place of text kept."""
    from drstool.cli.app import app
    from drstool.cli.commands import register

    register()
    arguments = [str(argument) for argument in arguments]
    out = io.StringIO() if stdout is None else io.TextIOWrapper(stdout, encoding="utf-8")
    err = io.StringIO()
    before = sys.argv, sys.stdin, signal.getsignal(signal.SIGTERM)
    sys.argv, sys.stdin = ["drstool", *arguments], io.TextIOWrapper(io.BytesIO(stdin))
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            app(arguments)
    except SystemExit as end:
        code = end.code
    finally:
        sys.argv, sys.stdin = before[:2]
        signal.signal(signal.SIGTERM, before[2])
    if stdout is not None:
        out.detach()
        return Outcome(code, "", err.getvalue())
    return Outcome(code, out.getvalue(), err.getvalue())


def must(*arguments, **more):
    """As :func:`call`, for what has to succeed."""
    outcome = call(*arguments, **more)
    assert outcome.code == 0, outcome.err
    return outcome


def draw(identifier):
    """A picture, its label image and its saliency map, the same for the same id."""
    number = int(identifier[1:])
    height, width = 48 + 4 * (number % 3), 64 - 4 * (number % 2)
    random = np.random.default_rng(number)
    image = random.integers(90, 130, (height, width, 3)).astype(np.uint8)
    labels = np.zeros((height, width), np.uint8)
    y, x = np.mgrid[:height, :width]
    if number % 3 != 1:
        labels[(y > 8) & (y < 20) & (x > 6) & (x < 50)] = 1
    if number % 3 != 0:
        labels[(y - 34) ** 2 + (x - 30) ** 2 < 110] = 2
    image[labels == 1] = (200, 40, 40)
    image[labels == 2] = (40, 60, 210)
    return image, labels, np.where(labels > 0, 255, 0).astype(np.uint8)


def make_voc(root):
    """A VOC folder of six pictures with masks, tags and saliency maps."""
    from drstool.formats.label_png import encode_label_png

    for name in ("JPEGImages", "SegmentationClass", "saliency_map", "ImageSets/Segmentation"):
        (root / name).mkdir(parents=True)
    for identifier in TRAIN + VAL:
        image, labels, saliency = draw(identifier)
        Image.fromarray(image).save(root / "JPEGImages" / f"{identifier}.jpg", quality=95)
        (root / "SegmentationClass" / f"{identifier}.png").write_bytes(encode_label_png(labels))
        Image.fromarray(saliency).save(root / "saliency_map" / f"{identifier}.png")
    for split, members in (("train", TRAIN), ("val", VAL)):
        lists = root / "ImageSets" / "Segmentation"
        (lists / f"{split}.txt").write_text("".join(f"{i}\n" for i in members))
        tags = {i: sorted(set(np.unique(draw(i)[1]).tolist()) - {0}) for i in members}
        lines = [" ".join([i, *(CLASSES[label - 1] for label in tags[i])]) for i in members]
        (lists / f"{split}_cls.txt").write_text("".join(f"{line}\n" for line in lines))
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    return root


@pytest.fixture(scope="session")
def drs():
    """Runs a command line in this process; gives its exit code, stdout and stderr."""
    return call


@pytest.fixture(name="must")
def _must():
    """Runs a command line in this process that has to succeed; gives what :func:`drs` gives."""
    return must


@pytest.fixture(scope="session")
def voc(tmp_path_factory):
    """The tiny VOC folder; not to be changed."""
    return make_voc(tmp_path_factory.mktemp("data") / "voc")


@pytest.fixture
def own_voc(tmp_path):
    """A tiny VOC folder to be changed."""
    return make_voc(tmp_path / "own")


@dataclass(frozen=True)
class Made:
    """The artifacts of a chain over the training pictures; not to be changed."""

    cls: Path
    cams: Path
    refiner: Path
    refined: Path
    labels: Path
    seg: Path
    pred: Path
    figures: Path


@pytest.fixture(scope="session")
def made(voc, tmp_path_factory):
    """A whole chain of commands, with networks as they are initialised."""
    here = tmp_path_factory.mktemp("made")
    train = ("--data", voc, "--split", "train")
    small_maps = ("--sizes", "32,40")
    paths = Made(*(here / name for name in (
        "cls.pt", "cams.h5", "refiner.pt", "refined.h5", "labels", "seg.pt", "pred", "figures")))
    must("train-cls", *train, *SMALL, "-o", paths.cls)
    must("cam", *train, "--weights", paths.cls, *small_maps, "-o", paths.cams)
    must("refine-train", *train, *SMALL, "--maps", paths.cams, "-o", paths.refiner)
    must("refine", paths.cams, "--weights", paths.refiner, *small_maps, "-o", paths.refined)
    must("pseudo-label", paths.cams, "--saliency", voc / "saliency_map", "-o", paths.labels)
    must("train-seg", *train, *SMALL, "--labels", paths.labels, "-o", paths.seg)
    must("segment", "--data", voc, "--split", "val", "--weights", paths.seg, "-o", paths.pred)
    must("overlay", "--data", voc, "--split", "val", "--labels", paths.pred, "-o", paths.figures)
    return paths


class Program:
    """The program as a process of its own, for pipes, signals and terminals."""

    def __init__(self):
        self.environment = {
            **os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1]),
            # With the buffers that users have.
            "PYTHONUNBUFFERED": ""}

    @staticmethod
    def line(*arguments):
        """The arguments of :class:`subprocess.Popen`."""
        return [sys.executable, "-m", "drstool", *map(str, arguments)]

    def start(self, *arguments, **more):
        """The program, running, with pipes for what is not given."""
        pipes = {name: more.pop(name, subprocess.PIPE) for name in ("stdin", "stdout", "stderr")}
        return subprocess.Popen(self.line(*arguments), env=self.environment, **pipes, **more)

    def shell(self, script, folder):
        """A line of bash in which ``drstool`` is the program; it fails where any stage fails."""
        program = f'drstool() {{ {sys.executable} -m drstool "$@"; }}\nset -o pipefail\n'
        return subprocess.run(
            ["bash", "-c", program + script], cwd=folder, env=self.environment,
            capture_output=True, stdin=subprocess.DEVNULL, timeout=120)


@pytest.fixture(scope="session")
def program():
    """Starts the program as a process of its own."""
    return Program()


@pytest.fixture(scope="session")
def zygote():
    """Starts command lines in processes of their own, quickly."""
    from zygote import Zygote

    zygote = Zygote()
    yield zygote
    zygote.close()


@pytest.fixture
def at_step(monkeypatch):
    """Does something in the middle of a step's work, once."""

    from drstool.training.state import TrainState

    def plan(step, action):
        count = TrainState.count

        def counted(state, keys, loss):
            if state.step == step - 1:
                monkeypatch.setattr(TrainState, "count", count)
                action()
            count(state, keys, loss)

        monkeypatch.setattr(TrainState, "count", counted)

    return plan
