"""What is finished of an output of many records, kept beside it until the output is whole.

For a map file or a stream this is a *journal*, ``.NAME.resume``: one record after the other, each with
its checksum, so that whatever ends the program costs the last one at most (and a power failure, what the
system had not written down yet). HDF5 itself guarantees
nothing for a file that was not closed. For a folder these are its files, in a folder ``.NAME.resume``
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

from drstool.artifacts import job as job_module
from drstool.artifacts.atomic import new_file, sidecar, unfinished_path, writing
from drstool.artifacts.header import FORMAT, json_bytes
from drstool.artifacts.job import Job, is_duration, is_job
from drstool.artifacts.ownership import MARKERS, beginning, contents, foreign_work, is_note
from drstool.artifacts.provenance import timestamp
from drstool.errors import InputError, OutputError
from drstool.files import unreadable
from drstool.png import is_whole_png

__all__ = ["Journal", "PartialFolder", "keeping"]

# Names in the files stay as earlier versions had them: "work" is the job, "sittings" are the runs.
_MAGIC = b"drstool unfinished 1\n"
# Checksum of what follows, and its length.
_FRAME = struct.Struct("<IQ")
# The description of a record, and the largest record.
_MAX_FRAME_BYTES = (1 << 32) + (1 << 24)
# A job's description at most: class names by the ten thousand.
_MAX_JOB_BYTES = 16 << 20


class _Resume:
    """What both kinds have in common.

    Attributes
    ----------
    finished : list of str
        Image ids in their order, or for figures file names.
    runs : list of dict
        When the job was resumed, and how much was finished by then.
    """

    def __init__(self, output: str | Path, job: Job) -> None:
        self.output, self.path, self.job = output, unfinished_path(output), job
        self.finished: list[str] = []
        self.runs: list[dict[str, Any]] = []
        self._seconds, self._started = 0.0, time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds of work so far, in all runs."""
        return self._seconds + time.monotonic() - self._started

    def _check_job(self, other: object) -> None:
        if not is_job(other):
            raise self._damaged()
        difference = self.job.difference(other)  # type: ignore[arg-type]
        if difference is not None:
            raise InputError(
                self.path, f"belongs to a different job: {difference}",
                "use the same settings and data, or discard it with --overwrite")

    def _damaged(self) -> InputError:
        return InputError(self.path, "is damaged", "discard it with --overwrite")

    def _new_run(self) -> dict[str, Any]:
        run = {"time": timestamp(), "done": len(self.finished)}
        self.runs.append(run)
        return run

    def check_place(self) -> None:
        """Check that what is on disk is work of this kind, which may be resumed or replaced.

        Raises
        ------
        OutputError
            It is something else, which is named.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Close what is open; what is finished stays on disk."""

    def remove(self) -> None:
        """Delete it: the output is whole, or starts from scratch."""
        raise NotImplementedError

    @contextmanager
    def kept_on_failure(self) -> Iterator[None]:
        """In the block the output is made; then this is deleted, unless the block failed and it is worth keeping."""
        try:
            yield
        except BaseException as error:
            # On a full disk a little work is worth less than the room it takes.
            if not self.finished or isinstance(error, OutputError) and self.seconds < job_module.WORTH_KEEPING:
                self.remove()
            raise
        self.remove()


class Journal(_Resume):
    """For a map file or stream: each finished record, in order.

    Parameters
    ----------
    output
        The file to be.
    job
        A journal of a different job is refused.
    """

    def __init__(self, output: str | Path, job: Job) -> None:
        super().__init__(output, job)
        self._file: BinaryIO | None = None
        # Where the first record begins, and where those that were loaded end.
        self._start = 0
        self._ends: list[int] = []
        self._run: dict[str, Any] | None = None

    def check_place(self) -> None:
        if os.path.lexists(self.path):
            head = beginning(self.path, len(_MAGIC))
            if head is None or not _MAGIC.startswith(head):
                raise foreign_work(self.path)

    def leftover(self) -> tuple[int, float] | None:
        """Number of records in the journal on disk, and seconds of work; None where there is none."""
        if not os.path.lexists(self.path):
            return None
        count, seconds = 0, 0.0
        with suppress(InputError):
            for frame, _, _ in self._frames():
                count += "id" in frame
                seconds = frame["seconds"]
        return count, seconds

    def load(self, expected: Sequence[str] | None = None, unit: int = 1) -> None:
        """Resume the journal on disk, or start one.

        Parameters
        ----------
        expected
            Ids of the records to come, in order. What does not begin like it is made again: an
            image that failed would otherwise change who shares a batch with whom.
        unit
            Records of one batch of the network; only whole batches are kept.

        Raises
        ------
        InputError
            It is damaged, or belongs to a different job: the difference is named.
        """
        if os.path.lexists(self.path) and not self._hardly_begun():
            self._read(expected, unit)
        else:
            self.start()

    def start(self) -> None:
        """Start a journal, replacing the one on disk."""
        self.runs, self._seconds = [], 0.0
        with writing(self.output, self.path):
            self._file = open(self.path, "w+b", buffering=0)  # noqa: SIM115
            if os.path.exists(self.output):
                # Which others may not read, perhaps.
                self.path.chmod(0o600)
            self._file.write(_MAGIC)
            self._write({"work": self.job.to_json()})
            self._start = self._file.tell()

    def _hardly_begun(self) -> bool:
        """Whether the program was killed before it had described its job: there is nothing to lose."""
        try:
            with open(self.path, "rb") as file:
                magic, head = file.read(len(_MAGIC)), file.read(_FRAME.size)
                if not _MAGIC.startswith(magic):
                    return False
                if len(head) < _FRAME.size:
                    return True
                _, length = _FRAME.unpack(head)
                content = file.read(min(length, _MAX_JOB_BYTES))
        except OSError as error:
            raise unreadable(self.path, error) from error
        # A damaged length can make a whole journal look like this too; but one that holds the end of its
        # first line has begun.
        return len(content) < length <= _MAX_JOB_BYTES and b"\n" not in content

    def _read(self, expected: Sequence[str] | None, unit: int) -> None:
        ids: list[str] = []
        ends: list[int] = []
        for frame, end, _ in self._frames():
            if "work" in frame:
                self._check_job(frame["work"])
                self._start = end
            elif isinstance(frame.get("sitting"), dict):
                self.runs.append(frame["sitting"])
            elif isinstance(frame.get("id"), str):
                ids.append(frame["id"])
                ends.append(end)
            self._seconds = frame["seconds"]
        if not self._start:
            raise self._damaged()
        count = len(ids)
        if expected is not None:
            count = next((n for n, (a, b) in enumerate(zip(ids, expected)) if a != b), min(len(ids), len(expected)))
            if count < len(expected):
                count -= count % unit
        self.finished, self._ends = ids, ends
        with writing(self.output, self.path):
            self._file = open(self.path, "r+b", buffering=0)  # noqa: SIM115
        self.keep_only(ids[:count])

    def keep_only(self, finished: Sequence[str]) -> None:
        """Drop all records but the first that were loaded."""
        count = len(finished)
        self.finished, self._ends = self.finished[:count], self._ends[:count]
        if self.runs and self.runs[-1] is self._run:
            self.runs.pop()
        self._run = self._new_run()
        with writing(self.output, self.path):
            self._file.truncate(self._ends[-1] if count else self._start)  # type: ignore[union-attr]
            self._file.seek(0, os.SEEK_END)  # type: ignore[union-attr]
            self._write({"sitting": self._run})

    def add(self, identifier: str, description: dict[str, Any], data: bytes) -> None:
        """Append a finished record: its description, and its bytes."""
        with writing(self.output, self.path):
            self._write({"id": identifier, **description}, data)
        self.finished.append(identifier)

    def records(self) -> Iterator[tuple[str, dict[str, Any], bytes]]:
        """Ids, descriptions and bytes of the records that were loaded, in order."""
        left = len(self._ends)
        for frame, _, data in self._frames(data=True):
            if left and "id" in frame:
                left -= 1
                yield frame["id"], frame, data

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def remove(self) -> None:
        self.close()
        with suppress(FileNotFoundError):
            self.path.unlink()

    def _write(self, frame: dict[str, Any], data: bytes = b"") -> None:
        content = json.dumps({**frame, "seconds": round(self.seconds, 1)}).encode() + b"\n" + data
        # In one call: what has left the process survives it.
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
                    # Checked before memory is allocated. A power failure may leave zeros at the end.
                    if not 0 < length <= min(_MAX_FRAME_BYTES, size - file.tell()):
                        return
                    content = file.read(length)
                    if len(content) < length or zlib.crc32(content) != crc:
                        # Cut off while it was written; nothing follows.
                        return
                    text, _, rest = content.partition(b"\n")
                    yield self._parsed(text), file.tell(), rest if data else b""
        except OSError as error:
            raise unreadable(self.path, error) from error

    def _parsed(self, text: bytes) -> dict[str, Any]:
        try:
            frame = json.loads(text)
        except (ValueError, RecursionError):
            raise self._damaged() from None
        if not isinstance(frame, dict) or not is_duration(frame.get("seconds")):
            raise self._damaged()
        return frame


class PartialFolder(_Resume):
    """For a folder: the files that are finished; with :func:`drstool.artifacts.atomic.new_folder`.

    Parameters
    ----------
    output
        The folder to be.
    job
        A folder of a different job is refused.
    suffix
        Removed from a file's name to give its id; empty where names are what counts.
    """

    def __init__(self, output: str | Path, job: Job, suffix: str = ".png") -> None:
        super().__init__(output, job)
        self._note = sidecar(Path(os.path.realpath(output)), "resume.json")
        self._suffix = suffix

    def leftover(self) -> tuple[int, float] | None:
        """Number of files in the folder on disk, and seconds of work; None where there is none."""
        if not os.path.lexists(self.path) and not os.path.lexists(self._note):
            return None
        files = list(self._files())
        try:
            note = self._read_note()
        except InputError:
            return len(files), 0.0
        return len(files), self._worked(note, files)

    def check_place(self) -> None:
        noted = os.path.lexists(self._note)
        if noted and not is_note(self._note):
            raise foreign_work(self._note)
        if os.path.lexists(self.path):
            if self.path.is_symlink() or not self.path.is_dir():
                raise foreign_work(self.path)
            for name, is_file in contents(self.path):
                if not noted or not is_file or not (name.endswith(".png") or name in MARKERS):
                    raise foreign_work(self.path / name)

    def load(self, expected: Sequence[str] | None = None) -> None:
        """Resume the folder on disk, or start one.

        Parameters
        ----------
        expected
            Ids of the images, if they are known.

        Raises
        ------
        InputError
            It belongs to a different job: the difference is named.
        OutputError
            It holds something else.
        """
        if not os.path.lexists(self._note) or not os.path.lexists(self.path):
            self.start()
            return
        note = self._read_note()
        self._check_job(note["work"])
        files, known = list(self._files()), None if expected is None else frozenset(expected)
        for file in files:
            if known is not None and self._name(file) not in known:
                raise foreign_work(file)
        self._seconds, self.runs = self._worked(note, files), note["sittings"]
        with writing(self.output, self.path):
            whole = []
            for file in files:
                if is_whole_png(file):
                    whole.append(file)
                else:
                    file.unlink()
            # They are about the run that was interrupted.
            for name in MARKERS:
                (self.path / name).unlink(missing_ok=True)
        self.finished = sorted(self._name(file) for file in whole)
        self._new_run()
        self._write_note()

    def start(self) -> None:
        """Start a folder, replacing the one on disk."""
        self.remove()
        with writing(self.output, self.path):
            self._write_note()
            self.path.mkdir(0o700 if os.path.exists(self.output) else 0o777)

    def keep_only(self, finished: Iterable[str]) -> None:
        """Delete all files but these."""
        wanted = set(finished)
        with writing(self.output, self.path):
            for name in self.finished:
                if name not in wanted:
                    (self.path / (name + self._suffix)).unlink()
        self.finished = [name for name in self.finished if name in wanted]

    def add(self, name: str) -> None:
        """A file is finished."""
        self.finished.append(name)

    def remove(self) -> None:
        # The note last: a folder without one belongs to nobody.
        shutil.rmtree(self.path, ignore_errors=True)
        with suppress(FileNotFoundError, NotADirectoryError):
            self._note.unlink()

    def _name(self, file: Path) -> str:
        return file.relative_to(self.path).as_posix().removesuffix(self._suffix)

    def _files(self) -> Iterator[Path]:
        for root, _, names in os.walk(self.path):
            yield from (Path(root, name) for name in names if name not in MARKERS)

    def _read_note(self) -> dict[str, Any]:
        try:
            note = json.loads(self._note.read_bytes())
        except (OSError, ValueError, RecursionError):
            raise self._damaged() from None
        fields = {"format": str, "work": dict, "sittings": list, "seconds": float, "begun": float}
        if not isinstance(note, dict) or not all(isinstance(note.get(name), kind) for name, kind in fields.items()):
            raise self._damaged()
        if not all(isinstance(run, dict) for run in note["sittings"]) or not is_duration(
                note["seconds"]) or not math.isfinite(note["begun"]):
            raise self._damaged()
        return note

    def _worked(self, note: dict[str, Any], files: list[Path]) -> float:
        """Seconds of work, up to the last file."""
        last = note["begun"]
        for file in files:
            with suppress(OSError):
                last = max(last, file.stat().st_mtime)
        return note["seconds"] + last - note["begun"]

    def _write_note(self) -> None:
        note = {
            "format": FORMAT, "work": self.job.to_json(), "sittings": self.runs, "seconds": float(self._seconds),
            "begun": time.time()}
        with new_file(self._note, overwrite=True) as partial:
            partial.write_bytes(json_bytes(note))


def keeping(resume: Journal | PartialFolder | None) -> AbstractContextManager[None]:
    """As ``kept_on_failure``; nothing where nothing can be resumed."""
    return nullcontext() if resume is None else resume.kept_on_failure()
