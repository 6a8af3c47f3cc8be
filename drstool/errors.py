"""The errors a user can cause, each one line and each with its exit code."""

from __future__ import annotations

__all__ = [
    "EXIT_INTERRUPTED", "EXIT_TERMINATED", "DrstoolError", "ForeignError", "InputError", "ItemsFailed", "OutputError",
    "ReportedByPeer", "UnfinishedError", "UsageError", "signal_behind",
]

# After Ctrl-C, and after SIGTERM.
EXIT_INTERRUPTED, EXIT_TERMINATED = 130, 143


class DrstoolError(Exception):
    """A failure told to the user as one line: *where: what is wrong; what would be right*.

    Parameters
    ----------
    where
        The file, option, image id or command the failure is about.
    what
        What is wrong with it.
    right
        What would be right, or what to do now. Empty when nothing sensible can be said.

    Examples
    --------
    >>> print(InputError("cams.h5", "no such file", "make it with 'drstool cam'"))
    cams.h5: no such file; make it with 'drstool cam'
    """

    exit_code = 1

    def __init__(self, where: object, what: str, right: str = "") -> None:
        self.where, self.what, self.right = str(where), what, right
        line = f"{where}: {what}" + (f"; {right}" if right else "")
        # A file name or another library's message may hold line ends; the promise is one line.
        super().__init__(" ".join(line.split()))

    def __reduce__(self) -> tuple:
        # Errors come out of worker processes, by way of pickle.
        return type(self), (self.where, self.what, self.right)


class UsageError(DrstoolError):
    """The command line asks for something that cannot be."""

    exit_code = 2


class InputError(DrstoolError):
    """Something that was to be read is missing, damaged or of another kind."""

    exit_code = 3


class ForeignError(InputError):
    """An input is another program's, or none of the kinds of file that are read."""


class UnfinishedError(InputError):
    """An input is ours, and the command that was writing it has not come to its end."""


class OutputError(DrstoolError):
    """Something that was to be written cannot be: it exists, the disk is full, no permission."""

    exit_code = 1


class ItemsFailed(DrstoolError):
    """The work is done, but some images were left out (``--keep-going``)."""

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


def signal_behind(error: BaseException | None) -> int | None:
    """Exit code for the signal that an error came of; None where it did not come of one.

    What a signal raises may arrive as another error: Python 3.11, for one, makes a RuntimeError of
    whatever is raised while a class that is being made names its attributes.
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
