"""stdout and stderr as the program has them: a failure of the one is named, a failure of the other ends nothing."""

from __future__ import annotations

import io
import os
import select
import sys
from typing import Any

from drstool.errors import OutputError

__all__ = ["install"]


def install() -> None:
    """Put the program's own streams in the place of Python's."""
    # A file that is opened must not get the number of a closed one, and with it what others print there.
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    sys.stdout = _wrapped(sys.stdout, _Stdout, "surrogateescape")
    if sys.stderr is None:
        # Closed by the shell; printing would then go to stdout, among the data.
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = _wrapped(sys.stderr, _Stderr, "backslashreplace")


def _wrapped(stream: Any, kind: type[_Stream], errors: str) -> Any:
    if not hasattr(stream, "buffer"):
        return stream
    # Ids and class names may hold any Unicode, whatever the terminal's locale says.
    return io.TextIOWrapper(
        io.BufferedWriter(kind(stream)), encoding="utf-8", errors=errors, line_buffering=stream.line_buffering,
        write_through=stream.write_through)


class _Stream(io.RawIOBase):
    """Writes to what lies below a stream of Python's."""

    def __init__(self, stream: Any) -> None:
        # The stream is kept, as it would close what lies below it.
        self._stream, self._raw = stream, getattr(stream.buffer, "raw", stream.buffer)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._raw.fileno()

    def isatty(self) -> bool:
        return self._raw.isatty()


class _Stdout(_Stream):
    def write(self, data: Any) -> int:
        try:
            while (written := self._raw.write(data)) is None:
                # A non-blocking pipe that is full: wait until its reader took something.
                select.select([], [self._raw], [])
            return written
        except OSError as error:
            # What is still buffered goes nowhere: Python would try once more at exit, and complain.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            if isinstance(error, BrokenPipeError):
                raise
            raise OutputError(
                "stdout", f"cannot be written: {error.strerror}", "free some space, or write elsewhere") from error


class _Stderr(_Stream):
    def write(self, data: Any) -> int:
        try:
            written = self._raw.write(data)
        except OSError:
            # A full disk, a reader that is gone, a terminal that was closed: the work goes on without messages.
            written = None
        return len(data) if written is None else written
