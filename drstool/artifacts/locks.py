"""Who is writing an output: of two commands that want the same one, the second learns it at once.

The mark is a lock on the file ``.NAME.lock`` beside the output. The system takes it away when its
owner dies, however that happens, and worker processes do not inherit it. Where the file system has
no locks, the file itself is the mark, with the number and the starting time of the process in it.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from drstool.artifacts.atomic import output_error, sidecar
from drstool.errors import OutputError

__all__ = ["claimed"]

# A network disk whose server is gone may never answer.
_PATIENCE = 20.0
_TAKEN = (errno.EACCES, errno.EAGAIN)
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)

# What this process has claimed: a process does not lock itself out.
_held: set[tuple[int, Path]] = set()
_guard = threading.Lock()


@contextmanager
def claimed(path: str | Path) -> Iterator[None]:
    """In the block no other process that asks may write an output.

    Parameters
    ----------
    path
        The output; its folder exists and can be written.

    Raises
    ------
    OutputError
        Another command, or this one already, is writing it; or its folder's locks cannot be had.
    """
    target = Path(os.path.realpath(path))
    key = (os.getpid(), target)
    with _guard:
        if key in _held:
            raise _taken(path, f"process {os.getpid()}")
        _held.add(key)
    mark = sidecar(target, "lock")
    descriptor = None
    try:
        descriptor = _locked(path, mark)
        yield
    finally:
        with _guard:
            _held.discard(key)
        if descriptor is not None and os.getpid() == key[0]:
            # While it is still locked, so that nobody's but our own mark goes.
            with suppress(OSError):
                mark.unlink()
            with suppress(OSError):
                os.close(descriptor)


def _locked(path: str | Path, mark: Path) -> int:
    """The descriptor of the mark, locked."""
    while True:
        descriptor, made = _opened(path, mark)
        taken = False
        try:
            failure = _within_patience(descriptor)
            by_file = failure is not None and failure.errno in _NO_LOCKS
            # Without a lock, who made the file has it; with one, it may have been removed as we came.
            if made if by_file else failure is None and _is_at(descriptor, mark):
                _sign(descriptor)
                return descriptor
            if by_file:
                _clear_away(path, mark, descriptor)
            elif failure is not None:
                if failure.errno in _TAKEN:
                    taken = True
                    raise _taken(path, _told(_read(descriptor)))
                raise OutputError(
                    path, f"its folder's locks cannot be had: {failure.strerror}",
                    "check the network disk, or write elsewhere")
        except BaseException:
            # Whoever locked it between our making and our asking has it now, and removes it.
            if made and not taken:
                with suppress(OSError):
                    mark.unlink()
            os.close(descriptor)
            raise
        os.close(descriptor)


def _opened(path: str | Path, mark: Path) -> tuple[int, bool]:
    """The descriptor of the mark, and whether the file was made here and now."""
    while True:
        for flags, made in ((os.O_CREAT | os.O_EXCL, True), (0, False)):
            try:
                return os.open(mark, os.O_RDWR | os.O_CLOEXEC | flags, 0o666), made
            except OSError as error:
                # There as it was to be made, or gone as it was to be opened: the owner comes or goes just now.
                if mark.is_symlink():
                    raise OutputError(path, f"its lock '{mark}' is a link, and none of ours", "remove it") from None
                if isinstance(error, FileExistsError if made else FileNotFoundError):
                    continue
                raise output_error(path, error) from error


def _within_patience(descriptor: int) -> OSError | None:
    """Lock it; what the system has against that."""
    answers: list[OSError | None] = []

    def ask() -> None:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            answers.append(None)
        except OSError as error:
            answers.append(error)

    # The lock is the process's, whichever thread asks for it; a thread can be left waiting.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_PATIENCE)
    return answers[0] if answers else OSError(errno.ETIMEDOUT, f"no answer for {_PATIENCE:.0f} s")


def _clear_away(path: str | Path, mark: Path, descriptor: int) -> None:
    """Remove a mark that is one by being there, if its owner is dead."""
    owner = _read(descriptor)
    if not owner and time.time() - os.fstat(descriptor).st_mtime < _PATIENCE:
        raise _taken(path, "another command")
    if owner and owner.get("machine") != _machine():
        raise OutputError(
            path, "is being written on another machine, or was before this one was started",
            f"if it is not, remove '{mark}'")
    if owner and _is_alive(owner):
        raise _taken(path, _told(owner))
    if _is_at(descriptor, mark):
        with suppress(FileNotFoundError):
            mark.unlink()


def _sign(descriptor: int) -> None:
    """Write into a mark whose it is."""
    owner = {"pid": os.getpid(), "started": _started(os.getpid()), "machine": _machine()}
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(owner).encode(), 0)


def _read(descriptor: int) -> dict:
    try:
        owner = json.loads(os.pread(descriptor, 1 << 12, 0))
    except (OSError, ValueError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _told(owner: dict) -> str:
    pid = owner.get("pid")
    return f"process {pid}" if isinstance(pid, int) and owner.get("machine") == _machine() else "another command"


def _taken(path: str | Path, owner: str) -> OutputError:
    return OutputError(path, f"is being written by {owner}", "wait for it, or give another -o")


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _is_alive(owner: dict) -> bool:
    pid = owner.get("pid")
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    # The number may be another process's by now.
    return _started(pid) == owner.get("started")


def _started(pid: int) -> str | None:
    """When a process was started, in ticks since the machine was; None where that is not known."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            # The name in brackets may hold anything.
            return file.read().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def _machine() -> str | None:
    """A number that tells this machine, since it was started, from others; it names none."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return None
