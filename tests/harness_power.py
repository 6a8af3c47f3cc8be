"""Cut the power after a command has ended well, and look at what the disk holds.

    python tests/harness_power.py --seconds 0 3 7 12 20

needs root, loop devices and mkfs.ext4 (and mkfs.xfs, for that as well). Each command writes on a file system in a
file; a copy of that file is what a power failure would leave, and is mounted and compared with what the command
wrote. Prints a table, and exits with 1 unless each output is whole and new each time.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from conftest import call, make_voc  # noqa: E402
from harness_kill import contents, make  # noqa: E402
from zygote import Zygote  # noqa: E402

# xfs takes no less.
MEGABYTES = {"ext4": 64, "xfs": 320}
PLAIN = ("--no-provenance", "-q")


def kinds():
    """File systems that can be made and mounted here."""
    tools = all(map(shutil.which, ("mount", "umount", "losetup"))) and os.path.exists("/dev/loop-control")
    return [kind for kind in MEGABYTES if tools and os.geteuid() == 0 and shutil.which(f"mkfs.{kind}")]


def commands(voc, made):
    """Command lines by the name of their output, each twice: the second time for --overwrite, with another result."""
    def both(name, option, old, new, *words):
        return name, [(*words, option, value, "-o") for value in (old, new)]

    val = ("--data", voc, "--split", "val")
    return dict((
        both("labels", "--alpha", "0.2", "0.3", "pseudo-label", made / "cams.h5", "--saliency", voc / "saliency_map"),
        both("saliency", "--method", "mbd", "rbd", "saliency", *val),
        both("figures", "--opacity", "0.4", "0.6", "overlay", *val),
        ("demo", [("demo", "--size", "48", "--train", "3", "--val", "1", "--seed", seed) for seed in "01"]),
        both("maps.h5", "--only", "bar", "disc", "cat", made / "cams.h5"),
        both("labels.tar", "--alpha", "0.2", "0.3", "pseudo-label", made / "cams.h5", "--background", "constant"),
        both("net.pt", "--seed", "0", "1", "train-cls", "--data", voc, "--split", "train", "--backbone", "vgg16-small",
             "--init", "none", "--image-size", "32", "--batch-size", "2", "--device", "cpu", "--epochs", "1"),
    ))


class Disk:
    """A file system in a file; a context manager that leaves nothing mounted.

    Raises
    ------
    OSError
        It cannot be made or mounted here.
    """

    def __init__(self, kind, folder):
        self._file, self._copy = folder / "disk", folder / "copy"
        # The copy of an xfs has the same identity as the one that is mounted.
        self._options = "loop,nouuid" if kind == "xfs" else "loop"
        self.path, self._cut = folder / "mounted", folder / "cut"
        self.path.mkdir()
        self._cut.mkdir()
        with open(self._file, "wb") as file:
            file.truncate(MEGABYTES[kind] << 20)
        _must(f"mkfs.{kind}", "-q", self._file)

    def __enter__(self):
        _must("mount", "-o", "loop", self._file, self.path)
        return self

    def __exit__(self, *_):
        _must("umount", self.path)

    @contextmanager
    def after_a_power_failure(self):
        """In the block the path of what would be there if the power failed now."""
        _must("cp", "--sparse=always", self._file, self._copy)
        _must("mount", "-o", self._options, self._copy, self._cut)
        try:
            yield self._cut
        finally:
            _must("umount", self._cut)

    def settle(self):
        """Have all written down, on this disk only."""
        _must("sync", "-f", self.path)

    def commit(self):
        """Have another program's file written down, and with it whatever the file system thinks belongs to it."""
        with open(self.path / "other", "ab") as file:
            file.write(b"x")
            os.fsync(file.fileno())


def _must(*words):
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{words[0]}: {done.stderr.strip()}")
    return done.stdout


def write(words, path):
    """Let a command write an output; what it then is."""
    outcome = call(*words, path, *PLAIN, *(("--overwrite",) if path.exists() else ()))
    assert outcome.code == 0, outcome.err
    return contents(path)


def state(path, old, new):
    """What became of an output: ``new``, ``old``, ``absent``, or how many files are empty or differ."""
    found = contents(path)
    if found is None:
        return "absent"
    if found in (old, new):
        return "new" if found == new else "old"
    files = found if isinstance(found, dict) else {"": found}
    wanted = new if isinstance(new, dict) else {"": new}
    empty = sum(not data for data in files.values())
    return f"{empty} empty, {sum(files.get(name) != data for name, data in wanted.items())} of {len(wanted)} differ"


def trial(disk, words, name, *, overwrite, seconds=(0,)):
    """States of one output after so many seconds each; and one more after another program has synced a file."""
    path = disk.path / name
    old = write(words[1], path) if overwrite else None
    disk.settle()
    new, ended, states = write(words[0], path), time.monotonic(), []
    for wait in (*seconds, None):
        if wait is None:
            disk.commit()
        else:
            time.sleep(max(0.0, ended + wait - time.monotonic()))
        with disk.after_a_power_failure() as there:
            states.append(state(there / name, old, new))
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    return states


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, nargs="+", default=[0, 3, 7, 12, 20], help="after the command's end")
    parser.add_argument("--only", nargs="+", help="names of outputs")
    chosen = parser.parse_args()
    if not kinds():
        sys.exit("needs root, loop devices, and mkfs.ext4 or mkfs.xfs")
    bad = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "made").mkdir()
        voc, zygote = make_voc(folder / "voc"), Zygote()
        make(zygote, voc, folder / "made")
        zygote.close()
        print("disk  output      before" + "".join(f"{wait:>22g} s" for wait in chosen.seconds) + "  another's sync")
        for kind in kinds():
            (folder / kind).mkdir()
            with Disk(kind, folder / kind) as disk:
                for name, words in commands(voc, folder / "made").items():
                    if chosen.only and name not in chosen.only:
                        continue
                    for overwrite in (False, True):
                        states = trial(disk, words, name, overwrite=overwrite, seconds=chosen.seconds)
                        bad += sum(each != "new" for each in states)
                        print(f"{kind:5} {name:11} {'old' if overwrite else 'none':6}"
                              + "".join(f"{each:>24}" for each in states), flush=True)
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
