"""Kill every command at random moments, resume it, and compare its output with that of an uninterrupted run.

    python tests/harness_kill.py --times 20

prints a table of signals, tries and outcomes. It exits with 1 if an output differs, an incomplete file has
its final name, anything is left behind, an exit code is wrong, or there is a traceback.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from conftest import make_voc  # noqa: E402
from zygote import Zygote  # noqa: E402

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
CODES = {signal.SIGKILL: (-9,), signal.SIGTERM: (143,), signal.SIGINT: (130,)}
SMALL = ("--backbone", "vgg16-small", "--init", "none", "--image-size", "32", "--batch-size", "2", "--device", "cpu")
PLAIN = ("--no-provenance", "-q")
# State is kept after every epoch, however short.
OFTEN = "from drstool.training.state import Saver\nSaver.SHARE = 0\n"


def stages(voc, made):
    """Command lines by name, each with its outputs by option."""
    train = ("--data", voc, "--split", "train")
    maps = ("--sizes", "32,40", "--batch-size", "1")
    training = (*train, *SMALL, "--epochs", "4")
    return {
        "train-cls": (("train-cls", *training, "--select-on", "val"), {"-o": "net.pt"}),
        "train-cls, 2 workers": (("train-cls", *training, "--optimizer", "adam", "--workers", "2"), {"-o": "net.pt"}),
        "refine-train": (("refine-train", *training, "--maps", made / "cams.h5"), {"-o": "net.pt"}),
        "train-seg": (("train-seg", *training, "--labels", made / "labels"), {"-o": "net.pt"}),
        "cam": (("cam", *train, "--weights", made / "cls.pt", *maps), {"-o": "maps.h5"}),
        "refine": (("refine", made / "cams.h5", "--weights", made / "refiner.pt", *maps), {"-o": "maps.h5"}),
        "pseudo-label": (("pseudo-label", made / "cams.h5", "--saliency", voc / "saliency_map"), {"-o": "labels"}),
        "pseudo-label, stream": (("pseudo-label", made / "cams.h5", "--background", "power"), {"-o": "labels.tar"}),
        "segment": (("segment", *train, "--weights", made / "seg.pt"), {"-o": "labels"}),
        "segment, scores": (
            ("segment", *train, "--weights", made / "seg.pt"), {"-o": "labels", "--scores": "scores.h5"}),
        "crf": (("crf", made / "cams.h5", "--background", "power", "--crf-iterations", "2"), {"-o": "maps.h5"}),
        "saliency": (("saliency", *train), {"-o": "saliency"}),
        "overlay": (("overlay", *train, "--maps", made / "cams.h5"), {"-o": "figures"}),
    }


def make(zygote, voc, made):
    """Create the inputs of the stages."""
    train, here = ("--data", voc, "--split", "train"), {"errors": made / "errors"}
    nothing = (*SMALL, "--epochs", "0")
    for line in (
        ("train-cls", *train, *nothing, "-o", made / "cls.pt"),
        ("cam", *train, "--weights", made / "cls.pt", "-o", made / "cams.h5"),
        ("refine-train", *train, *nothing, "--maps", made / "cams.h5", "-o", made / "refiner.pt"),
        ("pseudo-label", made / "cams.h5", "--saliency", voc / "saliency_map", "-o", made / "labels"),
        ("train-seg", *train, *nothing, "--labels", made / "labels", "-o", made / "seg.pt"),
    ):
        assert zygote.run(*line, **here) == 0, (made / "errors").read_text()


def contents(path):
    """Bytes of a file, or of every file in a folder; None if it does not exist."""
    if not path.exists():
        return None
    if path.is_file():
        return path.read_bytes()
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


class Trial:
    """One command, which is killed and resumed.

    Attributes
    ----------
    faults
        Descriptions of what went wrong.
    seconds
        Duration of the uninterrupted run.
    """

    def __init__(self, zygote, words, outputs, folder):
        self._zygote, self._folder, self.faults = zygote, folder, []
        folder.mkdir()
        self._outputs = {name: folder / "out" / name for name in outputs.values()}
        self._words = [*words, *PLAIN]
        for option, name in outputs.items():
            self._words += [option, self._outputs[name]]
        (folder / "out").mkdir()
        started = time.monotonic()
        self._must(self._run())
        self.seconds = time.monotonic() - started
        self._whole = {name: contents(path) for name, path in self._outputs.items()}

    def kill(self, number, moment, again):
        """Kill the command after a fraction of its time, perhaps again when resumed, then let it finish.

        Returns whether the command was still running; if it had finished, an earlier moment is tried.
        """
        met = False
        for _ in range(6):
            shutil.rmtree(self._folder / "out")
            (self._folder / "out").mkdir()
            if met := self._killed(number, moment):
                break
            moment /= 2
        if met and again is not None:
            self._killed(number, again, "--resume")
        self._must(self._run("--resume"))
        for name, path in self._outputs.items():
            if contents(path) != self._whole[name]:
                self.faults.append(f"{name} differs after {number.name} at {moment:.3f}")
        left = sorted(set(os.listdir(self._folder / "out")) - set(self._outputs))
        if left:
            self.faults.append(f"left behind: {', '.join(left)}")
        return met

    def _killed(self, number, moment, *more):
        """Whether the command was still running when it was killed after a fraction of its time."""
        code = self._run(*more, number=number, after=moment * self.seconds)
        if code not in (0, *CODES[number]):
            self.faults.append(f"exit code {code} after {number.name}: {self.told}")
        for name, path in self._outputs.items():
            if contents(path) not in (None, self._whole[name]):
                self.faults.append(f"{name} exists but is incomplete after {number.name}")
        return code != 0

    def _run(self, *more, number=None, after=0.0):
        errors = self._folder / "errors"
        errors.unlink(missing_ok=True)
        pid = self._zygote.start(*self._words, *more, before=OFTEN, errors=errors)
        if number is not None:
            time.sleep(after)
            # The process is a child of the zygote, so its number is not reused before it is waited for.
            # Like a terminal, send Ctrl-C to the whole process group, which at first does not exist yet.
            try:
                (os.killpg if number == signal.SIGINT else os.kill)(pid, number)
            except ProcessLookupError:
                os.kill(pid, number)
        code = self._zygote.wait(pid)
        # The command may have been killed before it created the file.
        self.told = errors.read_text() if errors.exists() else ""
        if "Traceback" in self.told or "Exception ignored" in self.told or len(self.told.splitlines()) > 1:
            self.faults.append("stderr: " + self.told[-600:])
        return code

    def _must(self, code):
        if code != 0:
            self.faults.append(f"exit code {code}: {self.told}")


def harness(folder, times, only=None, seed=0, tell=print):
    """Kill each command a number of times with each signal; return the number of faults."""
    randomness = random.Random(seed)
    folder = Path(folder)
    voc, made, zygote = make_voc(folder / "voc"), folder / "made", Zygote()
    made.mkdir()
    faults = 0
    try:
        make(zygote, voc, made)
        tell(f"{'command':<22} {'signal':<8} {'tries':>5} {'alive':>5} {'again':>5}  outcome")
        for name, (words, outputs) in stages(voc, made).items():
            if only is not None and name not in only:
                continue
            trial = Trial(zygote, words, outputs, folder / name)
            for number in SIGNALS:
                before, alive, twice = len(trial.faults), 0, 0
                for _ in range(times):
                    moment, again = randomness.random(), randomness.random() if randomness.random() < 0.5 else None
                    alive += trial.kill(number, moment, again)
                    twice += again is not None
                found = trial.faults[before:]
                tell(f"{name:<22} {number.name:<8} {times:>5} {alive:>5} {twice:>5}  "
                     + (f"{len(found)} faults, such as: {found[0]}" if found else "identical bytes, no leftovers"))
            faults += len(trial.faults)
    finally:
        zygote.close()
    return faults


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=20, help="number of tries per command and signal")
    parser.add_argument("--only", nargs="+", help="commands to test")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        faults = harness(
            folder, arguments.times, arguments.only, arguments.seed, lambda line: print(line, flush=True))
    sys.exit(faults > 0)


if __name__ == "__main__":
    main()
