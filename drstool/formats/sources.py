"""Records to read, wherever they lie: map files, label PNGs, and streams of either.

What each of them needs is imported when there is one: who only looks into a file does not wait for the rest.
"""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Union

from drstool.artifacts.header import HDF5_SIGNATURE, HEADER_NAME, Header, record_type
from drstool.errors import ForeignError, InputError, UsageError
from drstool.files import is_folder, unreadable
from drstool.formats.pipes import BLOCK, read_up_to
from drstool.png import SIGNATURE

if TYPE_CHECKING:
    from drstool.formats.label_folder import LabelFolderReader
    from drstool.formats.map_file import MapFileReader
    from drstool.formats.records import LabelRecord, LazyRecord, MapRecord
    from drstool.formats.stream import StreamReader

    Record = Union[MapRecord, LabelRecord]
    Reader = Union[MapFileReader, LabelFolderReader, StreamReader]

__all__ = ["RecordSource", "open_records"]

_COPY_BYTES = 1 << 20
_SOURCES = "expected a map file, a stream or a folder of label PNGs"
_FOREIGN = _SOURCES + "; 'drstool import' reads maps of other projects"


class RecordSource:
    """Records to read, wherever they lie; a context manager.

    Attributes
    ----------
    header : Header or None
        None for another program's folder.
    kind : str
        The header's kind; ``"labels"`` where there is no header.
    where : str
        For messages.
    path : str or None
        By which it can be opened again; None of a pipe.
    """

    def __init__(self, reader: Reader, *held: BinaryIO, path: str | None = None) -> None:
        # What it has depends on whether it is searchable.
        self._reader: Any = reader
        self._held, self.path, self._closed = held, path, False
        self.header: Header | None = reader.header
        self.kind: str = self.header.kind if self.header is not None else "labels"
        self.where: str = reader.where

    @property
    def is_maps(self) -> bool:
        """Whether the records are :class:`MapRecord`; else they are :class:`LabelRecord`."""
        return record_type(self.kind) == "maps"

    def records(self) -> Iterator[Record]:
        """The records in stored order; of a stream only once, each as it arrives.

        Raises
        ------
        InputError
            A record is damaged, or the stream is cut short.
        """
        return iter(self._reader)

    def lazy_records(self) -> Iterator[Record | LazyRecord]:
        """As :meth:`records`, but what can be found by its id is left to be read by who works on it, in threads."""
        return map(self._reader.lazy, self._reader.ids()) if self._reader.searchable else self.records()

    def attempts(self) -> Iterator[Callable[[], Record]]:
        """As :meth:`records`, but functions that read each record, or tell what is wrong with it.

        Raises
        ------
        InputError
            A stream is cut short, or damaged as a whole.
        """
        if not self._reader.searchable:
            return self._reader.attempts()
        return (partial(self._reader.read, identifier) for identifier in self._reader.ids())

    def check_extent(self) -> None:
        """Check that nothing is there beyond the records; a stream tells when it ends.

        Raises
        ------
        InputError
            There is.
        """
        if hasattr(self._reader, "check_extent"):
            self._reader.check_extent()

    def ids(self) -> tuple[str, ...] | None:
        """The ids in stored order; None of a stream, which tells them one by one."""
        return self._reader.ids() if self._reader.searchable else None

    def read(self, identifier: str) -> Record:
        """One record by its id; not of a stream.

        Raises
        ------
        InputError
            It is not there, or damaged, or this is a stream.
        """
        if not self._reader.searchable:
            raise InputError(
                self.where, "streams do not support random access", "save it first: drstool cat -o FILE")
        return self._reader.read(identifier)

    def info(self, identifier: str) -> dict[str, object]:
        """What is to be said of one record: id, shape, dtype, image path, and of maps their labels and image size.

        Raises
        ------
        InputError
            As :meth:`read`.
        """
        if self.is_maps or not self._reader.searchable:
            return self.read(identifier).info()
        return {"id": identifier, **self._reader.info(identifier)}

    @contextmanager
    def reopened(self) -> Iterator[RecordSource]:
        """The source, opened again if it was closed.

        Raises
        ------
        InputError
            It is not what it was.
        """
        if not self._closed:
            yield self
            return
        with open_records(self.path) as source:
            if source.header != self.header or source.ids() != self.ids():
                raise InputError(self.where, "was replaced while it was being read", "run this command again")
            yield source

    def close(self) -> None:
        """Let go of what is open; the standard input stays open."""
        self._closed = True
        if self._reader.searchable:
            self._reader.close()
        for file in self._held:
            file.close()

    def __enter__(self) -> RecordSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_records(source: str | Path | None, stdin: BinaryIO | None = None) -> RecordSource:
    """Maps or labels to read, whatever their form.

    Parameters
    ----------
    source
        A map file, a stream saved as a file, or a folder of label PNGs; None or ``-``: the
        standard input, which may be a stream or a map file.
    stdin
        In place of the process's standard input.

    Raises
    ------
    InputError
        It is missing, empty, damaged, or something else.
    UsageError
        There is nothing to read: the standard input is a terminal.
    """
    if source is None or str(source) == "-":
        return _open_stdin(stdin)
    path = Path(source)
    if is_folder(path):
        from drstool.formats.label_folder import LabelFolderReader

        return RecordSource(LabelFolderReader(path, source), path=str(source))
    try:
        file = open(path, "rb")  # noqa: SIM115
    except FileNotFoundError as error:
        raise InputError(source, "no such file or folder", _SOURCES) from error
    except OSError as error:
        raise unreadable(source, error) from error
    try:
        return _open_file(file, str(source), path)
    except OSError as error:
        file.close()
        raise unreadable(source, error) from error
    except BaseException:
        file.close()
        raise


def _open_stdin(stdin: BinaryIO | None) -> RecordSource:
    stream = stdin if stdin is not None else getattr(sys.stdin, "buffer", None)
    if stream is None:
        raise UsageError("stdin", "is closed", _SOURCES)
    if stream.isatty():
        raise UsageError("stdin", "is a terminal, so there is nothing to read", _SOURCES)
    return _open_stream(stream, "stdin")


def _open_file(file: BinaryIO, where: str, path: Path) -> RecordSource:
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return _open_stream(file, where, file)
    head = read_up_to(file, BLOCK, where)
    if head.startswith(HDF5_SIGNATURE):
        from drstool.formats.map_file import MapFileReader

        file.close()
        return RecordSource(MapFileReader(path, where), path=where)
    return RecordSource(_tar_reader(file, where, head), file, path=where)


def _open_stream(stream: BinaryIO, where: str, *held: BinaryIO) -> RecordSource:
    head = read_up_to(stream, BLOCK, where)
    if not head.startswith(HDF5_SIGNATURE):
        return RecordSource(_tar_reader(stream, where, head), *held)
    from drstool.formats.map_file import MapFileReader

    # HDF5 jumps to and fro; what came through a pipe is put where that is possible.
    spool = _spooled(stream, head)
    try:
        return RecordSource(MapFileReader(spool, where), spool, *held)
    except BaseException:
        spool.close()
        raise


def _tar_reader(stream: BinaryIO, where: str, head: bytes) -> StreamReader:
    if not head:
        raise InputError(where, "is empty", "see the messages of the previous stage")
    from drstool.formats.stream import StreamReader, looks_like_tar

    beginning = HEADER_NAME.encode()
    if not looks_like_tar(head) and not beginning.startswith(head[: len(beginning)]):
        raise ForeignError(where, f"is {_guess(head)}", _FOREIGN)
    return StreamReader(stream, where, head=head)


def _guess(head: bytes) -> str:
    known = {b"\x1f\x8b": "compressed with gzip", b"PK": "a zip file, such as a checkpoint",
             SIGNATURE[:4]: "a single PNG", b"\x93NUMPY": "a NumPy array", b"\xfd7zXZ": "compressed with xz"}
    found = (name for start, name in known.items() if head.startswith(start))
    return next(found, "neither a map file nor a stream")


def _spooled(stream: BinaryIO, head: bytes) -> BinaryIO:
    from drstool.artifacts.atomic import writing

    spool = tempfile.TemporaryFile()  # noqa: SIM115
    try:
        with writing(f"temporary folder {tempfile.gettempdir()}"):
            part = head
            while part:
                spool.write(part)
                part = read_up_to(stream, _COPY_BYTES, "stdin")
            spool.flush()
    except BaseException:
        spool.close()
        raise
    return spool  # type: ignore[return-value]
