"""What is finished of an output of many records, kept beside it until the whole is.

Of a map file or a stream a *journal* is kept, ``.NAME.resume``: one record after the other, each with
its checksum, so that whatever ends the program costs the last one at most. HDF5 itself promises
nothing of a file that was not closed. Of a folder the files are kept, in a folder ``.NAME.resume``
with ``.NAME.resume.json`` beside it.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import struct
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, BinaryIO

from drstool.artifacts import job as works
from drstool.artifacts.atomic import hidden_beside, new_file, unfinished_path, writing
from drstool.artifacts.header import END_NAME, FORMAT, HEADER_NAME, json_bytes
from drstool.artifacts.job import Work
from drstool.artifacts.provenance import timestamp
from drstool.errors import InputError, OutputError
from drstool.files import unreadable
from drstool.png import is_whole_png

__all__ = ["Journal", "KeptFolder", "keeping"]

_MAGIC = b"drstool unfinished 1\n"
# Checksum of what follows, and its length.
_FRAME = struct.Struct("<IQ")
# The description of a record, and the largest record.
_MAX_FRAME_BYTES = (1 << 32) + (1 << 24)
# What a work's description takes at most: class names by the ten thousand.
_MAX_WORK_BYTES = 16 << 20


class _Kept:
    """What both kinds have in common.

    Attributes
    ----------
    done : list of str
        What is finished: image ids in their order, or in a folder of figures file names.
    sittings : list of dict
        When the work was gone on with, and how much was finished by then.
    """

    def __init__(self, output: str | Path, work: Work) -> None:
        self.output, self.path, self.work = output, unfinished_path(output), work
        self.done: list[str] = []
        self.sittings: list[dict[str, Any]] = []
        self._seconds, self._started = 0.0, time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds of work so far, in all sittings."""
        return self._seconds + time.monotonic() - self._started

    def _check_work(self, other: object) -> None:
        if not works.is_work(other):
            raise self._damaged()
        difference = self.work.difference(other)
        if difference is not None:
            raise InputError(
                self.path, f"is a part of other work: {difference}",
                "the same settings and data, or --overwrite without --resume to begin anew")

    def _damaged(self) -> InputError:
        return InputError(self.path, "is damaged", "--overwrite without --resume begins anew")

    def _sat_down(self) -> dict[str, Any]:
        sitting = {"time": timestamp(), "done": len(self.done)}
        self.sittings.append(sitting)
        return sitting

    def close(self) -> None:
        """Let go of what is open; what is kept stays."""

    def remove(self) -> None:
        """Let it go: the output is whole, or is begun anew."""
        raise NotImplementedError

    @contextmanager
    def kept_on_failure(self) -> Iterator[None]:
        """In the block the output is made; what is kept goes after it, or if it is next to nothing."""
        try:
            yield
        except BaseException as error:
            # On a full disk a little work is worth less than the room it takes.
            if not self.done or isinstance(error, OutputError) and self.seconds < works.WORTH_KEEPING:
                self.remove()
            raise
        self.remove()


class Journal(_Kept):
    """Of a map file or stream: each finished record, in their order.

    Parameters
    ----------
    output
        The file to be.
    work
        What is done; a journal of other work is not taken up.
    """

    def __init__(self, output: str | Path, work: Work) -> None:
        super().__init__(output, work)
        self._file: BinaryIO | None = None
        # Where the first record begins, and where those that were taken up end.
        self._start, self._ends = 0, []
        self._sitting: dict[str, Any] | None = None

    def left_over(self) -> tuple[int, float] | None:
        """Number of records in the journal that lies there, and seconds of work; None where there is none."""
        if not os.path.lexists(self.path):
            return None
        count, seconds = 0, 0.0
        with suppress(InputError):
            for told, _, _ in self._frames():
                count += "id" in told
                seconds = told["seconds"]
        return count, seconds

    def take_up(self, expected: Sequence[str] | None = None, unit: int = 1) -> None:
        """Go on with the journal that lies there, or begin one.

        Parameters
        ----------
        expected
            Ids of the records to come, in their order. What does not begin like it is done again: an
            image that failed would otherwise change who shares a batch with whom.
        unit
            Records of one batch of the network; none is kept in part.

        Raises
        ------
        InputError
            It is damaged, or of other work: the difference is named.
        """
        if os.path.lexists(self.path) and not self._hardly_begun():
            self._read(expected, unit)
        else:
            self.begin()

    def begin(self) -> None:
        """Begin a journal, in place of what lies there."""
        with writing(self.output, self.path):
            self._file = open(self.path, "w+b", buffering=0)  # noqa: SIM115
            self._file.write(_MAGIC)
            self._write({"work": self.work.to_json()})

    def _hardly_begun(self) -> bool:
        """Whether the program was killed before it had said what it does: there is nothing to lose."""
        try:
            with open(self.path, "rb") as file:
                magic, head = file.read(len(_MAGIC)), file.read(_FRAME.size)
                if not _MAGIC.startswith(magic):
                    return False
                if len(head) < _FRAME.size:
                    return True
                _, length = _FRAME.unpack(head)
                told = file.read(min(length, _MAX_WORK_BYTES))
        except OSError as error:
            raise unreadable(self.path, error) from error
        # By the length alone, which may be what is damaged, a whole journal could look so too; with the end of
        # its first line it has begun.
        return len(told) < length <= _MAX_WORK_BYTES and b"\n" not in told

    def _read(self, expected: Sequence[str] | None, unit: int) -> None:
        ids: list[str] = []
        ends: list[int] = []
        for told, end, _ in self._frames():
            if "work" in told:
                self._check_work(told["work"])
                self._start = end
            elif isinstance(told.get("sitting"), dict):
                self.sittings.append(told["sitting"])
            elif isinstance(told.get("id"), str):
                ids.append(told["id"])
                ends.append(end)
            self._seconds = told["seconds"]
        if not self._start:
            raise self._damaged()
        count = len(ids)
        if expected is not None:
            count = next((n for n, (a, b) in enumerate(zip(ids, expected)) if a != b), min(len(ids), len(expected)))
            if count < len(expected):
                count -= count % unit
        self.done, self._ends = ids, ends
        with writing(self.output, self.path):
            self._file = open(self.path, "r+b", buffering=0)  # noqa: SIM115
        self.keep_only(ids[:count])

    def keep_only(self, done: Sequence[str]) -> None:
        """Let go of all records but the first that were taken up."""
        count = len(done)
        self.done, self._ends = self.done[:count], self._ends[:count]
        if self.sittings and self.sittings[-1] is self._sitting:
            self.sittings.pop()
        self._sitting = self._sat_down()
        with writing(self.output, self.path):
            self._file.truncate(self._ends[-1] if count else self._start)  # type: ignore[union-attr]
            self._file.seek(0, os.SEEK_END)  # type: ignore[union-attr]
            self._write({"sitting": self._sitting})

    def add(self, identifier: str, told: dict[str, Any], data: bytes) -> None:
        """Keep a finished record: how it is described, and its bytes."""
        with writing(self.output, self.path):
            self._write({"id": identifier, **told}, data)
        self.done.append(identifier)

    def stored(self) -> Iterator[tuple[str, dict[str, Any], bytes]]:
        """Ids, descriptions and bytes of the records that were taken up, in their order."""
        left = len(self._ends)
        for told, _, data in self._frames(data=True):
            if left and "id" in told:
                left -= 1
                yield told["id"], told, data

    def close(self) -> None:
        """Let go of the file; the journal stays."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def remove(self) -> None:
        self.close()
        with suppress(FileNotFoundError):
            self.path.unlink()

    def _write(self, told: dict[str, Any], data: bytes = b"") -> None:
        text = json.dumps({**told, "seconds": round(self.seconds, 1)}).encode() + b"\n"
        content = text + data
        # In one call: what has left the process is safe from its end.
        rest = memoryview(_FRAME.pack(zlib.crc32(content), len(content)) + content)
        while rest:
            rest = rest[self._file.write(rest):]  # type: ignore[union-attr]

    def _frames(self, data: bool = False) -> Iterator[tuple[dict[str, Any], int, bytes]]:
        """Descriptions, ends and (if wanted) bytes of what is whole in the file."""
        try:
            with open(self.path, "rb") as file:
                if file.read(len(_MAGIC)) != _MAGIC:
                    raise self._damaged()
                size = os.fstat(file.fileno()).st_size
                while len(head := file.read(_FRAME.size)) == _FRAME.size:
                    crc, length = _FRAME.unpack(head)
                    # Told before the room for it is taken.
                    if length > min(_MAX_FRAME_BYTES, size - file.tell()):
                        return
                    content = file.read(length)
                    if len(content) < length or zlib.crc32(content) != crc:
                        # Cut off as it was written; nothing comes after.
                        return
                    text, _, rest = content.partition(b"\n")
                    try:
                        told = json.loads(text)
                    except (ValueError, RecursionError):
                        raise self._damaged() from None
                    if not isinstance(told, dict) or not works.is_duration(told.get("seconds")):
                        raise self._damaged()
                    yield told, file.tell(), rest if data else b""
        except OSError as error:
            raise unreadable(self.path, error) from error


class KeptFolder(_Kept):
    """Of a folder: the files that are finished; with :func:`drstool.artifacts.atomic.new_folder`.

    Parameters
    ----------
    output
        The folder to be.
    work
        What is done; a folder of other work is not taken up.
    suffix
        What is cut off a file's name to have its id; nothing where names are what counts.
    """

    def __init__(self, output: str | Path, work: Work, suffix: str = ".png") -> None:
        super().__init__(output, work)
        self._note = hidden_beside(Path(os.path.realpath(output)), "resume.json")
        self._suffix = suffix

    def left_over(self) -> tuple[int, float] | None:
        """Number of files in the folder that lies there, and seconds of work; None where there is none."""
        if not os.path.lexists(self.path) and not os.path.lexists(self._note):
            return None
        files = list(self._files())
        try:
            noted = self._noted()
        except InputError:
            return len(files), 0.0
        return len(files), self._worked(noted, files)

    def take_up(self) -> None:
        """Go on with the folder that lies there, or begin one.

        Raises
        ------
        InputError
            It is of other work: the difference is named.
        """
        if not os.path.lexists(self._note) or not os.path.lexists(self.path):
            self.begin()
            return
        noted = self._noted()
        self._check_work(noted["work"])
        files = list(self._files())
        self._seconds, self.sittings = self._worked(noted, files), noted["sittings"]
        with writing(self.output, self.path):
            whole = []
            for file in files:
                if is_whole_png(file):
                    whole.append(file)
                else:
                    file.unlink()
            self._clear_marks()
        self.done = sorted(self._name(file) for file in whole)
        self._sat_down()
        self._write_note()

    def begin(self) -> None:
        """Begin a folder, in place of what lies there."""
        self.remove()
        with writing(self.output, self.path):
            self._write_note()
            self.path.mkdir()

    def keep_only(self, done: Iterable[str]) -> None:
        """Let go of all files but some."""
        wanted = set(done)
        with writing(self.output, self.path):
            for name in self.done:
                if name not in wanted:
                    (self.path / (name + self._suffix)).unlink()
        self.done = [name for name in self.done if name in wanted]

    def add(self, name: str) -> None:
        """A file is finished."""
        self.done.append(name)

    def remove(self) -> None:
        # The note last: a folder without one is nobody's.
        shutil.rmtree(self.path, ignore_errors=True)
        with suppress(FileNotFoundError, NotADirectoryError):
            self._note.unlink()

    def _name(self, file: Path) -> str:
        return file.relative_to(self.path).as_posix().removesuffix(self._suffix)

    def _files(self) -> Iterator[Path]:
        for root, _, names in os.walk(self.path):
            yield from (Path(root, name) for name in names if name not in (HEADER_NAME, END_NAME))

    def _clear_marks(self) -> None:
        # They tell of the run that was interrupted.
        for name in (HEADER_NAME, END_NAME):
            with suppress(FileNotFoundError):
                (self.path / name).unlink()

    def _noted(self) -> dict[str, Any]:
        try:
            noted = json.loads(self._note.read_bytes())
        except (OSError, ValueError, RecursionError):
            raise self._damaged() from None
        parts = {"format": str, "work": dict, "sittings": list, "seconds": float, "begun": float}
        if not isinstance(noted, dict) or not all(isinstance(noted.get(name), t) for name, t in parts.items()):
            raise self._damaged()
        if not all(isinstance(sitting, dict) for sitting in noted["sittings"]) or not works.is_duration(
                noted["seconds"]) or not math.isfinite(noted["begun"]):
            raise self._damaged()
        return noted

    def _worked(self, noted: dict[str, Any], files: list[Path]) -> float:
        """Seconds of work, up to the last file."""
        last = noted["begun"]
        for file in files:
            with suppress(OSError):
                last = max(last, file.stat().st_mtime)
        return noted["seconds"] + last - noted["begun"]

    def _write_note(self) -> None:
        noted = {
            "format": FORMAT, "work": self.work.to_json(), "sittings": self.sittings, "seconds": float(self._seconds),
            "begun": time.time()}
        with new_file(self._note, overwrite=True) as partial:
            partial.write_bytes(json_bytes(noted))


def keeping(kept: Journal | KeptFolder | None) -> AbstractContextManager[None]:
    """As :meth:`Journal.kept_on_failure`; nothing where nothing is kept."""
    return nullcontext() if kept is None else kept.kept_on_failure()
