"""Errors that a user can cause: each is one line and has an exit code."""

from __future__ import annotations

__all__ = [
    "EXIT_INTERRUPTED", "EXIT_TERMINATED", "DrstoolError", "ForeignError", "InputError", "ItemsFailed", "OutputError",
    "ReportedByPeer", "UnfinishedError", "UsageError", "is_shortage", "signal_behind",
]

# After Ctrl-C, and after SIGTERM.
EXIT_INTERRUPTED, EXIT_TERMINATED = 130, 143


# What the system, torch and HDF5 say where something has run out, in lower case.
_SHORTAGES = {
    "threads": ("can't start new thread", "resource temporarily unavailable"),
    "address space": ("failed to map segment", "cannot allocate memory in static tls"),
    "memory": ("out of memory", "allocate memory", "not enough memory", "bad_alloc", "memory allocation failed"),
}


class DrstoolError(Exception):
    """A failure, shown to the user as one line: *where: what was found; what was expected, or what to do*.

    Parameters
    ----------
    where
        The file, option, image id or command the failure is about.
    what
        What was found.
    right
        What was expected, or what to do now; empty where nothing sensible can be said.

    Examples
    --------
    >>> print(InputError("cams.h5", "no such file", "make it with 'drstool cam'"))
    cams.h5: no such file; make it with 'drstool cam'
    """

    exit_code = 1

    def __init__(self, where: object, what: str, right: str = "") -> None:
        self.where, self.what, self.right = str(where), what, right
        line = f"{where}: {what}" + (f"; {right}" if right else "")
        # A file name or a library's message may hold line breaks.
        super().__init__(" ".join(line.split()))

    def __reduce__(self) -> tuple:
        # Worker processes pass errors on as pickles.
        return type(self), (self.where, self.what, self.right)


class UsageError(DrstoolError):
    """The command line asks for something impossible."""

    exit_code = 2


class InputError(DrstoolError):
    """An input is missing, damaged or of another kind."""

    exit_code = 3


class ForeignError(InputError):
    """An input is another program's, or of no kind that is read."""


class UnfinishedError(InputError):
    """An input is ours, but the command that was writing it has not finished."""


class OutputError(DrstoolError):
    """An output cannot be written: it exists, the disk is full, there is no permission."""

    exit_code = 1


class ItemsFailed(DrstoolError):
    """The command finished, but some images failed and were left out (``--keep-going``)."""

    exit_code = 4


class ReportedByPeer(DrstoolError):
    """This process ends with others of the same training, one of which tells the user why.

    Parameters
    ----------
    exit_code
    """

    def __init__(self, exit_code: int) -> None:
        super().__init__("torchrun", "another process reports why this one ends")
        self.exit_code = exit_code

    def __reduce__(self) -> tuple:
        return type(self), (self.exit_code,)


def is_shortage(error: BaseException, *kinds: str) -> bool:
    """Whether an error came of a lack of threads, address space or memory, and not of what was being read.

    Parameters
    ----------
    error
    kinds
        Of ``_SHORTAGES``; all of them where none is given.

    Examples
    --------
    >>> is_shortage(RuntimeError("DefaultCPUAllocator: can't allocate memory")), is_shortage(ValueError("no map"))
    (True, False)
    """
    if isinstance(error, MemoryError):
        return not kinds or "memory" in kinds
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if any(words in str(error).lower() for kind in kinds or _SHORTAGES for words in _SHORTAGES[kind]):
            return isinstance(error, (RuntimeError, OSError, ImportError, SystemError))
        seen.add(id(error))
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return False


def signal_behind(error: BaseException | None) -> int | None:
    """Exit code of the signal that caused an error; None where none did.

    What a signal raises may arrive as another error: Python 3.11, for one, turns whatever is raised in a
    ``__set_name__`` into a RuntimeError.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, KeyboardInterrupt):
            return EXIT_INTERRUPTED
        if isinstance(error, SystemExit) and error.code == EXIT_TERMINATED:
            return EXIT_TERMINATED
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None
