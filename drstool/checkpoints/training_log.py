"""The log of a training: a line of JSON for every few steps, every epoch, and its beginning and end.

Unlike an artifact it grows during training, each line whole and in the file at once. A
training that is resumed continues the file, from which what came after the saved state is cut off
first: so each step and each epoch is in it once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from drstool.artifacts.atomic import output_error
from drstool.artifacts.header import FORMAT
from drstool.artifacts.provenance import timestamp
from drstool.errors import OutputError

__all__ = ["KIND", "TrainingLog"]

KIND, VERSION = "training-log", 1
# Of an earlier training's beginning, what must be the same for its log to be continued.
_SAME = ("format", "kind", "version", "command", "settings")
# No line of a log is longer.
_LONGEST_LINE = 1 << 20


class TrainingLog:
    """Appends the lines of one training to a file, or nothing to none.

    Parameters
    ----------
    path
        None: nothing is written.
    on_failure
        Called once when the file cannot be written; training continues without.
    """

    def __init__(self, path: str | Path | None, on_failure: Callable[[OutputError], None]) -> None:
        self._path, self._on_failure = path, on_failure
        self._descriptor: int | None = None

    def check(self, start: Mapping[str, Any]) -> None:
        """Check that a file that is there is the log of a training that begins like this one.

        Raises
        ------
        OutputError
            It is something else, and not to be replaced.
        """
        if self._path is None or not os.path.lexists(self._path):
            return
        first = next((line for _, line in self._lines()), None)
        if first is None and os.path.getsize(self._path) == 0:
            return
        own = _start(start)
        if first is None or any(first.get(name) != own[name] for name in _SAME):
            ours = first is not None and first.get("kind") == KIND
            raise OutputError(
                self._path, "is the log of another training" if ours else "is not the log of a training",
                "choose another --log, or use --overwrite")

    def begin(self, start: Mapping[str, Any], step: int, epochs: int) -> None:
        """Open the file, cut off the lines beyond a step and so many epochs, and add the first line if it is new.

        Parameters
        ----------
        start
            What to say of the training.
        step, epochs
            After which it is resumed; 0 of both: it begins.
        """
        if self._path is None:
            return
        self.close()
        end = self._end_of(step, epochs) if step else 0
        try:
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            os.ftruncate(self._descriptor, end)
        except OSError as error:
            self._give_up(error)
        if not end:
            self.add("start", **_start(start))

    def add(self, event: str, **values: Any) -> None:
        """Append a line."""
        if self._descriptor is None:
            return
        line = json.dumps({"event": event, **values, "time": timestamp()}, ensure_ascii=False) + "\n"
        rest = memoryview(line.encode("utf-8", "surrogateescape"))
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest):]
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _give_up(self, error: OSError) -> None:
        self.close()
        self._on_failure(output_error(self._path, error))

    def _end_of(self, step: int, epochs: int) -> int:
        """Bytes of the lines that are about no more than these steps and epochs."""
        end = 0
        if os.path.lexists(str(self._path)):
            for end_of_line, line in self._lines():
                beyond = {"step": step, "epoch": epochs}
                event = line.get("event")
                if event != "start" and (event not in beyond or not _at_most(line.get(event), beyond[event])):
                    break
                end = end_of_line
        return end

    def _lines(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """The lines up to the first that is truncated or not a line of a log, each with where it ends."""
        end = 0
        with open(str(self._path), "rb") as file:
            while (text := file.readline(_LONGEST_LINE)).endswith(b"\n"):
                try:
                    line = json.loads(text)
                except (ValueError, RecursionError):
                    return
                if not isinstance(line, dict):
                    return
                end += len(text)
                yield end, line


def _start(values: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps({"format": FORMAT, "kind": KIND, "version": VERSION, **values}))


def _at_most(number: Any, most: int) -> bool:
    return isinstance(number, int) and number <= most
