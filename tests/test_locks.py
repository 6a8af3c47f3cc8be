"""Two commands that want the same output: one has it, the other is told at once, and the dead block nobody."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from drstool.artifacts import locks
from drstool.artifacts.locks import claimed
from drstool.errors import OutputError


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
import errno
def refuse(*_):
    raise OSError(errno.ENOSYS, "Function not implemented")
locks.fcntl.lockf = refuse
"""


@pytest.fixture(params=["locks", "no locks"])
def system(request, monkeypatch):
    """With locks of the file system, and without; code for another process."""
    if request.param == "locks":
        return ""
    refuse_locks(monkeypatch, errno.ENOSYS)
    return WITHOUT_LOCKS


def refuse_locks(monkeypatch, code):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(locks.fcntl, "lockf", refuse)


def test_of_two_one_has_it(tmp_path, system):
    target = tmp_path / "out.h5"
    other = Other(target, system)
    with pytest.raises(OutputError, match=f"out.h5: is being written by process {other.process.pid}; wait for it"), \
            claimed(target):
        pytest.fail("both have it")
    with claimed(tmp_path / "another.h5"):
        pass
    other.end()
    with claimed(target):
        assert names(tmp_path) == [".out.h5.lock"]
    assert names(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_dead_block_nobody(tmp_path, system, number):
    other = Other(tmp_path / "out", system)
    other.end(number)
    assert names(tmp_path) == [".out.lock"]
    with claimed(tmp_path / "out"):
        pass
    assert names(tmp_path) == []


def test_a_process_does_not_share_it_with_itself(tmp_path):
    with claimed(tmp_path / "out"):
        os.symlink("out", tmp_path / "link")
        for name in ("out", "link"):
            with pytest.raises(OutputError, match="is being written by process"), claimed(tmp_path / name):
                pytest.fail("twice")
    with claimed(tmp_path / "out"):
        pass


def test_a_forked_process_neither_has_nor_frees_it(tmp_path):
    """Worker processes are copies that may outlive their owner, or end before it."""
    with claimed(tmp_path / "out"):
        pid = os.fork()
        if not pid:
            os._exit(0)
        os.waitpid(pid, 0)
        with pytest.raises(AssertionError):
            Other(tmp_path / "out")
    assert names(tmp_path) == []


def test_an_owner_whose_number_another_process_has_now_is_dead(tmp_path, monkeypatch):
    refuse_locks(monkeypatch, errno.EOPNOTSUPP)
    mark = tmp_path / ".out.lock"
    mark.write_text(json.dumps({"pid": os.getppid(), "started": "1", "machine": locks._machine()}))
    with claimed(tmp_path / "out"):
        pass
    mark.write_text(json.dumps({"pid": 1, "started": "1", "machine": "another"}))
    with pytest.raises(OutputError, match="on another machine.*remove '.*/.out.lock'"), claimed(tmp_path / "out"):
        pytest.fail("it may be alive")
    # Made a moment ago, and not signed yet.
    mark.write_text("")
    with pytest.raises(OutputError, match="by another command"), claimed(tmp_path / "out"):
        pytest.fail("somebody is making it")
    os.utime(mark, (0, 0))
    with claimed(tmp_path / "out"):
        pass


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EIO, errno.ESTALE])
def test_locks_that_cannot_be_had_are_one_line(tmp_path, monkeypatch, code):
    refuse_locks(monkeypatch, code)
    with pytest.raises(OutputError, match="its folder's locks cannot be had: .*; check the network disk"), \
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
    with pytest.raises(OutputError, match="is a link, and none of ours; remove it"), claimed(tmp_path / "out"):
        pytest.fail("with another's mark")
    assert names(tmp_path) == [".out.lock"]


def test_a_server_that_does_not_answer_is_one_line(tmp_path, monkeypatch):
    answer = threading.Event()
    monkeypatch.setattr(locks.fcntl, "lockf", lambda *_: answer.wait())
    monkeypatch.setattr(locks, "_PATIENCE", 0.05)
    with pytest.raises(OutputError, match="no answer"), claimed(tmp_path / "out"):
        pytest.fail("without a lock")
    answer.set()


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
    with claimed(tmp_path / "out"):
        mark = str(tmp_path / ".out.lock")
        code = f"import fcntl\nwith open({mark!r}, 'r+') as f: fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB)"
        assert subprocess.run([sys.executable, "-c", code], stderr=subprocess.DEVNULL).returncode == 1
    assert fcntl.lockf is locks.fcntl.lockf
