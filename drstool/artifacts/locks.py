"""Only one command at a time writes an output; a second one fails at its start.

The lock is on the file ``.NAME.lock`` beside the output. The system drops it when its owner dies,
however that happens, and worker processes do not inherit it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from drstool.artifacts.atomic import output_error, sidecar
from drstool.errors import OutputError

__all__ = ["claimed"]

# Long enough to try again where the owner before is just removing its lock file.
_SECONDS = 0.1
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)


@contextmanager
def claimed(path: str | Path) -> Iterator[None]:
    """In the block nobody else who asks, this process included, may write an output.

    Parameters
    ----------
    path
        The output; its folder exists and can be written.

    Raises
    ------
    OutputError
        It is being written already, or cannot be locked.
    """
    owner, lock = os.getpid(), _acquired(path, FileLock)
    try:
        yield
    finally:
        # A forked process that comes by here has nothing to release.
        if os.getpid() == owner:
            if not isinstance(lock, SoftFileLock):
                # While it is still locked, so that it is nobody else's.
                with suppress(OSError):
                    os.unlink(lock.lock_file)
            lock.release()


def _acquired(path: str | Path, kind: type[BaseFileLock]) -> BaseFileLock:
    """A held lock; a soft one, for file systems without locks, is a file with its owner's process number."""
    soft = kind is SoftFileLock
    file = sidecar(Path(os.path.realpath(path)), "lock-owner" if soft else "lock")
    if file.is_symlink():
        raise OutputError(path, f"its lock file '{file}' is a symbolic link", "remove it")
    if _is_foreign(file, soft):
        raise OutputError(path, f"its lock file would be '{file}', which is another program's", "move that file")
    is_new = not file.exists()
    lock = kind(str(file), timeout=_SECONDS, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire(poll_interval=_SECONDS / 4)
    except Timeout:
        if not file.exists():
            raise OutputError(path, "cannot be written: its folder takes no lock file", "write elsewhere") from None
        advice = f"; if no command writes it, remove '{file}'" if soft else ""
        raise OutputError(
            path, "is already being written", f"wait for that command, or choose another -o{advice}") from None
    except OSError as error:
        without_locks = not soft and error.errno in _NO_LOCKS
        # Without locks nobody holds it; otherwise its creator removes it.
        if is_new or without_locks:
            file.unlink(missing_ok=True)
        if without_locks:
            return _acquired(path, SoftFileLock)
        raise output_error(path, error) from error
    return lock


def _is_foreign(file: Path, soft: bool) -> bool:
    """Whether something lies in the place of a lock file that is none: those are empty, unless they are soft."""
    try:
        status = os.lstat(file)
    except OSError:
        return False
    return not stat.S_ISREG(status.st_mode) or status.st_size > 0 and not soft
