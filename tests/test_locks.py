"""Two commands that want the same output: one has it, the other is told at once, and the dead block nobody."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from drstool.artifacts.locks import claimed
from drstool.errors import OutputError

PACKAGE = Path(__file__).parents[1] / "drstool"
TAKEN = ": is already being written; wait for that command, or choose another -o"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


class Other:
    """Another process that claims an output, and holds it until it is told."""

    def __init__(self, path, more=""):
        code = (f"import sys\nfrom drstool.artifacts import locks\n{more}\nwith locks.claimed(sys.argv[1]):\n"
                "    print('has it', flush=True)\n    sys.stdin.read()\n")
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "has it\n"

    def end(self, number=None):
        if number is not None:
            os.kill(self.process.pid, number)
        self.process.communicate()


WITHOUT_LOCKS = """
import errno, fcntl
def refuse(*_):
    raise OSError(errno.{name}, "refused")
fcntl.flock = refuse
"""


@pytest.fixture(params=["locks", "ENOSYS", "EOPNOTSUPP"])
def system(request, monkeypatch):
    """With locks of the file system, and without: code for another process, and the name of the file."""
    if request.param == "locks":
        return "", ".out.lock"
    refuse_locks(monkeypatch, getattr(errno, request.param))
    return WITHOUT_LOCKS.format(name=request.param), ".out.lock-owner"


def refuse_locks(monkeypatch, code):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)


def test_of_two_one_has_it(tmp_path, system):
    more, mark = system
    target = tmp_path / "out"
    other = Other(target, more)
    with pytest.raises(OutputError, match=TAKEN), claimed(target):
        pytest.fail("both have it")
    with claimed(tmp_path / "another"):
        pass
    other.end()
    with claimed(target):
        assert names(tmp_path) == [mark]
    assert names(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_dead_block_nobody(tmp_path, system, number):
    more, mark = system
    other = Other(tmp_path / "out", more)
    other.end(number)
    assert names(tmp_path) == [mark]
    with claimed(tmp_path / "out"):
        pass
    assert names(tmp_path) == []


def test_a_failure_gives_it_back(tmp_path, system):
    with pytest.raises(ZeroDivisionError), claimed(tmp_path / "out"):
        raise ZeroDivisionError
    assert names(tmp_path) == []


def test_a_process_does_not_share_it_with_itself(tmp_path, system):
    with claimed(tmp_path / "out"):
        os.symlink("out", tmp_path / "link")
        for name in ("out", "link"):
            with pytest.raises(OutputError, match=TAKEN), claimed(tmp_path / name):
                pytest.fail("twice")
    with claimed(tmp_path / "out"):
        pass


def test_a_forked_process_neither_has_nor_frees_it(tmp_path, system):
    """Worker processes are copies that may outlive their owner, or end before it."""
    more, _ = system
    with claimed(tmp_path / "out"):
        pid = os.fork()
        if not pid:
            os._exit(0)
        os.waitpid(pid, 0)
        with pytest.raises(AssertionError):
            Other(tmp_path / "out", more)
    assert names(tmp_path) == []


def test_a_worker_that_outlives_its_killed_owner_does_not_have_it(tmp_path):
    code = """
import os, sys, time
from drstool.artifacts.locks import claimed
with claimed(sys.argv[1]):
    worker = os.fork()
    if worker:
        print(worker, flush=True)
    time.sleep(60)
"""
    owner = subprocess.Popen([sys.executable, "-c", code, tmp_path / "out"], stdout=subprocess.PIPE, text=True)
    worker = int(owner.stdout.readline())
    try:
        with pytest.raises(OutputError, match=TAKEN), claimed(tmp_path / "out"):
            pytest.fail("both have it")
        owner.kill()
        owner.wait()
        os.kill(worker, 0)
        with claimed(tmp_path / "out"):
            pass
    finally:
        os.kill(worker, signal.SIGKILL)
        owner.stdout.close()


def test_a_mark_of_another_machine_is_not_taken(tmp_path, monkeypatch):
    """Where there are no locks, nobody can see whether a process elsewhere lives."""
    refuse_locks(monkeypatch, errno.ENOSYS)
    (tmp_path / ".out.lock-owner").write_text("1\nanother\n")
    with pytest.raises(OutputError, match=TAKEN + ".*if no command writes it, remove '.*/.out.lock-owner'"), \
            claimed(tmp_path / "out"):
        pytest.fail("it may be alive")


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EIO, errno.ESTALE])
def test_locks_that_cannot_be_had_are_one_line(tmp_path, monkeypatch, code):
    refuse_locks(monkeypatch, code)
    with pytest.raises(OutputError, match="out: cannot be written: .*; check the (network )?disk"), \
            claimed(tmp_path / "out"):
        pytest.fail("without a lock")
    assert names(tmp_path) == []


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="no /proc")
def test_a_folder_that_takes_no_files_is_one_line():
    """It says that there is no such file, also to who wants to make it."""
    with pytest.raises(OutputError, match="/proc/out: cannot be written"), claimed("/proc/out"):
        pytest.fail("without a lock")


def test_a_mark_that_is_a_link_is_one_line(tmp_path):
    (tmp_path / ".out.lock").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputError, match="is a symbolic link; remove it"), claimed(tmp_path / "out"):
        pytest.fail("with another's mark")
    assert names(tmp_path) == [".out.lock"]


def test_many_at_once(tmp_path):
    """Of many that come again and again, never two have it."""
    code = f"""
import os, sys, time
from drstool.errors import OutputError
from drstool.artifacts.locks import claimed
wins = 0
while wins < 40:
    try:
        with claimed({str(tmp_path / "out")!r}):
            os.close(os.open({str(tmp_path / "inside")!r}, os.O_CREAT | os.O_EXCL))
            time.sleep(0.0005)
            os.unlink({str(tmp_path / "inside")!r})
            wins += 1
    except OutputError:
        time.sleep(0.0005)
"""
    processes = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(3)]
    assert [process.wait(120) for process in processes] == [0, 0, 0]
    assert names(tmp_path) == []


def test_the_lock_is_one_that_other_programs_see(tmp_path):
    with claimed(tmp_path / "out"), open(tmp_path / ".out.lock", "r+") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_nothing_that_is_imported_needs_a_unix(tmp_path):
    """Modules that some systems lack are asked for where they are used, or done without."""
    modules = [".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in PACKAGE.rglob("*.py")]
    code = f"""
import importlib, sys, warnings
# filelock says that it has fewer means.
warnings.simplefilter("ignore")
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
for name in {sorted(modules)!r}:
    if not name.endswith("__main__"):
        importlib.import_module(name.removesuffix(".__init__"))
from drstool.artifacts.locks import claimed
from drstool.errors import OutputError
with claimed("out"):
    try:
        with claimed("out"):
            sys.exit("twice")
    except OutputError:
        print("once")
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert (run.returncode, run.stdout) == (0, "once\n"), run.stderr
    assert names(tmp_path) == []
