"""What to tell of exceptions that no part of drstool raises: the machine refuses something."""

from __future__ import annotations

import errno

from drstool.errors import is_shortage

__all__ = ["failure_line"]


def failure_line(error: BaseException) -> str | None:
    """The line for the user; None for what is a bug of drstool, whose traceback is wanted.

    Examples
    --------
    >>> failure_line(RuntimeError("can't start new thread"))
    'no more threads or processes can be started; raise the limits (ulimit -u, -v), or lower --workers'
    >>> failure_line(KeyError("labels")) is None
    True
    """
    if is_shortage(error, "threads"):
        return "no more threads or processes can be started; raise the limits (ulimit -u, -v), or lower --workers"
    if isinstance(error, MemoryError):
        return "out of memory; reduce --batch-size, --image-size, --workers or --sizes"
    if is_shortage(error, "address space"):
        return "out of memory while a library was being loaded; raise the limit (ulimit -v)"
    if is_shortage(error, "memory"):
        return "the device is out of memory; reduce --batch-size, --image-size or --sizes, or use --device cpu"
    if isinstance(error, RuntimeError) and "DataLoader worker" in str(error):
        return "a worker process ended, possibly for lack of memory or threads; reduce --workers"
    if isinstance(error, ImportError):
        return f"{error.name or 'a library'} cannot be loaded: {_first_cause(error)}; check the installation"
    if isinstance(error, UnicodeEncodeError):
        return _unspellable(error)
    if isinstance(error, OSError):
        named = f"{error.filename}: " if error.filename else ""
        limit = "raise the limit of open files (ulimit -n), or lower --workers"
        right = limit if error.errno == errno.EMFILE else "check disk, folder and permissions"
        return f"{named}{error.strerror or error}; {right}"
    return None


def _first_cause(error: BaseException) -> BaseException:
    """The exception that all began with: libraries put pages of advice around it."""
    while (before := error.__cause__ or error.__context__) is not None:
        error = before
    return error


def _unspellable(error: UnicodeEncodeError) -> str:
    # Of a path, the end tells which file it is.
    shown = repr(error.object[-80:])
    if error.encoding.startswith("utf"):
        return f"{shown} is not Unicode; rename the file"
    return f"{shown} cannot be spelled in this locale ({error.encoding}); use a UTF-8 locale, or set PYTHONUTF8=1"
