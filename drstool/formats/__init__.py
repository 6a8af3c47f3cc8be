"""What passes between the stages: map files, label PNGs, and streams of either.

:func:`open_records` reads and :func:`open_sink` writes whatever the user named, or the pipe.
"""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

from drstool.errors import ForeignError, InputError, OutputError, UsageError
from drstool.formats.header import HEADER_NAME, Header, carrier
from drstool.formats.label_png import (
    LabelFolderReader, LabelFolderWriter, LabelRecord, UnreadLabels, check_folder,
)
from drstool.formats.maps import (
    HDF5_SIGNATURE, MapFileReader, MapFileWriter, MapRecord, restored_map,
)
from drstool.formats.outputs import (
    check_writable, new_file, new_folder, output_error, write_fully, writing,
)
from drstool.formats.pictures import (
    check_picture, read_marker, write_end, write_marker, write_pictures,
)
from drstool.formats.stream import (
    BLOCK, StreamReader, StreamWriter, looks_like_tar, read_up_to, restored_member,
)
from drstool.formats.unfinished import Journal, KeptFolder, keeping
from drstool.formats.work import Work, told_work
from drstool.parallel import ordered_map

__all__ = [
    "Header", "LabelRecord", "MapRecord", "RecordSink", "RecordSource", "UnreadLabels",
    "check_folder", "check_picture", "check_same_records", "check_sink", "check_writable",
    "goes_to_disk", "kept_beside", "new_file", "new_folder", "open_records", "open_sink",
    "write_both", "write_end", "write_marker", "write_pictures",
]

Record = MapRecord | LabelRecord
_COPY_BYTES = 1 << 20
_SOURCES = "name a map file, a stream, or a folder of label PNGs"


class RecordSource:
    """Records to read, wherever they lie; a context manager.

    Attributes
    ----------
    header : Header or None
        None for a folder that somebody else made.
    kind : str
        The header's kind; ``"labels"`` where there is no header.
    where : str
        For messages.
    """

    def __init__(
        self, reader: MapFileReader | LabelFolderReader | StreamReader, *held: BinaryIO,
    ) -> None:
        self._reader, self._held = reader, held
        self.header: Header | None = reader.header
        self.kind: str = self.header.kind if self.header is not None else "labels"
        self.where: str = reader.where

    @property
    def is_maps(self) -> bool:
        """Whether the records are :class:`MapRecord`; else they are :class:`LabelRecord`."""
        return carrier(self.kind) == "maps"

    def records(self, without: Container[str] = ()) -> Iterator[Record]:
        """The records in stored order, without those of some ids; of a stream only once, each as it arrives.

        Raises
        ------
        InputError
            A record is damaged, or the stream is cut short.
        """
        if not without:
            return iter(self._reader)
        if isinstance(self._reader, StreamReader):
            return (record for record in self._reader if record.id not in without)
        return (self.read(identifier) for identifier in self._reader.ids() if identifier not in without)

    def unread(self) -> Iterator[Record | UnreadLabels]:
        """As :meth:`records`, but label images of a folder are left to be read by who works on them, in threads."""
        return self._reader.unread() if isinstance(self._reader, LabelFolderReader) else self.records()

    def attempts(self) -> Iterator[Callable[[], Record]]:
        """As :meth:`records`, but functions that read each record, or tell what is wrong with it.

        Raises
        ------
        InputError
            A stream is cut short, or damaged as a whole.
        """
        if isinstance(self._reader, StreamReader):
            return self._reader.attempts()
        return (partial(self._reader.read, identifier) for identifier in self._reader.ids())

    def check_extent(self) -> None:
        """Check that nothing is there beyond the records; a stream tells when it ends.

        Raises
        ------
        InputError
            There is.
        """
        if isinstance(self._reader, MapFileReader):
            self._reader.check_extent()

    def ids(self) -> tuple[str, ...] | None:
        """The ids in stored order; None of a stream, which tells them one by one."""
        return None if isinstance(self._reader, StreamReader) else self._reader.ids()

    def read(self, identifier: str) -> Record:
        """One record by its id; not of a stream.

        Raises
        ------
        InputError
            It is not there, or damaged, or this is a stream.
        """
        if isinstance(self._reader, StreamReader):
            raise InputError(
                self.where, "a stream cannot be searched", "save it first: drstool cat -o FILE")
        return self._reader.read(identifier)

    def close(self) -> None:
        """Let go of what is open; the standard input stays open."""
        if not isinstance(self._reader, StreamReader):
            self._reader.close()
        for file in self._held:
            file.close()

    def __enter__(self) -> RecordSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class RecordSink:
    """Where records go; made by :func:`open_sink`.

    Parameters
    ----------
    writer
    kept
        Where finished records outlive an interruption.
    threads
        How many compress records in :meth:`write_all`. On a pipe none but the caller's: there each
        record is to leave as soon as it is there, and is not compressed.
    """

    def __init__(
        self,
        writer: MapFileWriter | LabelFolderWriter | StreamWriter,
        kept: Journal | KeptFolder | None = None,
        threads: int = 1,
    ) -> None:
        self._writer, self._kept, self._threads = writer, kept, threads

    @property
    def count(self) -> int:
        """Number of records written, in earlier sittings too."""
        return self._writer.count

    def write(self, record: Record) -> None:
        """Add a record.

        Raises
        ------
        InputError
            The record is damaged, or its id was written before.
        OutputError
            The system refuses.
        """
        self.put(self.prepare(record))

    def write_all(self, records: Iterable[Record]) -> int:
        """Add records as they come; their number. The bytes do not depend on the number of threads."""
        before = self.count
        for prepared in ordered_map(self.prepare, records, self._threads):
            self.put(prepared)
        return self.count - before

    def prepare(self, record: Record) -> tuple[Record, object]:
        """The record and its form in the output: what costs time, and may be done by threads."""
        return record, self._writer.prepare(record)  # type: ignore[arg-type]

    def put(self, prepared: tuple[Record, object]) -> None:
        """Add what :meth:`prepare` made; raises as :meth:`write`."""
        record, made = prepared
        self._writer.put(made)  # type: ignore[arg-type]
        if isinstance(self._kept, Journal):
            self._kept.add(record.id, *self._writer.stored(record))  # type: ignore[union-attr,arg-type]
        elif self._kept is not None:
            self._kept.add(record.id)


def write_both(
    first: RecordSink, second: RecordSink, pairs: Iterable[tuple[Record, Record]],
) -> int:
    """Add the first and second of each pair to two sinks as they come; the number of pairs."""
    before = first.count

    def prepare(pair: tuple[Record, Record]) -> tuple:
        return first.prepare(pair[0]), second.prepare(pair[1])

    for one, other in ordered_map(prepare, pairs, min(first._threads, second._threads)):
        first.put(one)
        second.put(other)
    return first.count - before


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
    if os.path.isdir(path):
        return RecordSource(LabelFolderReader(path, source))
    try:
        file = open(path, "rb")  # noqa: SIM115
    except FileNotFoundError as error:
        raise InputError(source, "no such file or folder", _SOURCES) from error
    except OSError as error:
        raise InputError(source, f"cannot be read: {error.strerror or error}") from error
    try:
        return _open_file(file, str(source), path)
    except BaseException:
        file.close()
        raise


def check_sink(
    output: str | None, overwrite: bool, *, stdout: BinaryIO | None = None, what: str,
) -> None:
    """Check that :func:`open_sink` will have somewhere to write to; called before the work.

    Raises
    ------
    OutputError, UsageError
        As :func:`open_sink`.
    """
    if _goes_to_stdout(output):
        _check_stdout(_stdout(stdout))
    elif not _is_special(output):
        check_writable(output, overwrite, folder=_is_folder(output, what))


@contextmanager
def open_sink(
    output: str | None,
    header: Header,
    *,
    overwrite: bool = False,
    stdout: BinaryIO | None = None,
    what: str = "maps",
    kept: Journal | KeptFolder | None = None,
    threads: int = 1,
) -> Iterator[RecordSink]:
    """Somewhere to write maps or labels to; whole once the block has ended without an exception.

    Parameters
    ----------
    output
        Maps: a map file; labels: a folder; a name that ends in ``.tar``: the stream as a file;
        ``-``: the stream on standard output. None: standard output, where a pipe gets the stream,
        and a regular file gets the stream (labels) or a map file (maps).
    header
        What is going to be written.
    overwrite
        Whether an existing output is replaced.
    stdout
        In place of the process's standard output.
    what
        ``"maps"`` or ``"labels"``, as the header's kind.
    kept
        Where finished records outlive an interruption (see :func:`kept_beside`); those that did are
        in the output first.
    threads
        How many compress what goes to a file or folder.

    Raises
    ------
    OutputError
        The output exists, or cannot be written.
    UsageError
        The output would be a terminal.
    """
    if carrier(header.kind) != what:
        raise ValueError(f"{header.kind} are no {what}")
    if _goes_to_stdout(output):
        stream = _stdout(stdout)
        _check_stdout(stream)
        as_file = output is None and what == "maps" and _is_regular(stream)
        target = _map_file_on(stream, header, threads) if as_file else _stream_on(stream, header, "stdout")
    elif _is_special(output):
        target = _special(str(output), header)
    elif str(output).endswith(".tar"):
        target = _tar_file(str(output), header, overwrite, kept, threads)
    elif what == "maps":
        target = _map_file(str(output), header, overwrite, kept, threads)
    else:
        target = _label_folder(str(output), header, overwrite, kept, threads)
    with target as sink:
        yield sink


# --- reading -----------------------------------------------------------------------------------


def _open_stdin(stdin: BinaryIO | None) -> RecordSource:
    stream = stdin if stdin is not None else getattr(sys.stdin, "buffer", None)
    if stream is None:
        raise UsageError("stdin", "is closed", _SOURCES)
    if stream.isatty():
        raise UsageError("stdin", "is a terminal: there is nothing to read", "pipe, or " + _SOURCES)
    return _open_stream(stream, "stdin")


def _open_file(file: BinaryIO, where: str, path: Path) -> RecordSource:
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return _open_stream(file, where, file)
    head = read_up_to(file, BLOCK, where)
    if head.startswith(HDF5_SIGNATURE):
        file.close()
        return RecordSource(MapFileReader(path, where))
    return RecordSource(_tar_reader(file, where, head), file)


def _open_stream(stream: BinaryIO, where: str, *held: BinaryIO) -> RecordSource:
    head = read_up_to(stream, BLOCK, where)
    if not head.startswith(HDF5_SIGNATURE):
        return RecordSource(_tar_reader(stream, where, head), *held)
    # HDF5 jumps to and fro; what came through a pipe is put where that is possible.
    spool = _spooled(stream, head)
    try:
        return RecordSource(MapFileReader(spool, where), spool, *held)
    except BaseException:
        spool.close()
        raise


def _tar_reader(stream: BinaryIO, where: str, head: bytes) -> StreamReader:
    if not head:
        raise InputError(where, "is empty", "see what the stage before says")
    beginning = HEADER_NAME.encode()
    if not looks_like_tar(head) and not beginning.startswith(head[: len(beginning)]):
        raise ForeignError(where, f"is {_guess(head)}", _SOURCES)
    return StreamReader(stream, where, head=head)


def _guess(head: bytes) -> str:
    known = {b"\x1f\x8b": "compressed with gzip", b"PK": "a zip file", b"\x89PNG": "a single PNG",
             b"\x93NUMPY": "a NumPy array", b"\xfd7zXZ": "compressed with xz"}
    found = (name for start, name in known.items() if head.startswith(start))
    return next(found, "neither a map file nor a stream")


def _spooled(stream: BinaryIO, head: bytes) -> BinaryIO:
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


# --- writing -----------------------------------------------------------------------------------


def _goes_to_stdout(output: str | None) -> bool:
    return output is None or str(output) in ("-", "/dev/stdout")


def _stdout(stdout: BinaryIO | None) -> BinaryIO:
    stream = stdout if stdout is not None else getattr(sys.stdout, "buffer", None)
    if stream is None:
        raise UsageError("stdout", "is closed", "give -o FILE")
    return stream


def _check_stdout(stream: BinaryIO) -> None:
    if stream.isatty():
        raise UsageError("stdout", "is a terminal, the output is binary", "pipe, or give -o FILE")
    if _is_regular(stream) and os.fstat(stream.fileno()).st_size:
        raise OutputError("stdout", "is a file that already holds something", "write to a new file")


def _is_regular(stream: BinaryIO) -> bool:
    try:
        return stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    except (OSError, ValueError, AttributeError):
        return False


def _is_special(output: str | None) -> bool:
    """Whether a name is a pipe or a device, such as what the shell puts for ``>(command)``."""
    try:
        mode = os.stat(str(output)).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or stat.S_ISSOCK(mode)


def _is_folder(output: str | None, what: str) -> bool:
    return what == "labels" and not str(output).endswith(".tar")


@contextmanager
def _stream_on(stream: BinaryIO, header: Header, where: str) -> Iterator[RecordSink]:
    # No end record after an exception: that is how the next stage learns of it.
    writer = StreamWriter(stream, header, where=where)
    yield RecordSink(writer)
    writer.close()


@contextmanager
def _map_file_on(stream: BinaryIO, header: Header, threads: int) -> Iterator[RecordSink]:
    told = f"temporary folder {tempfile.gettempdir()}"
    with writing(told), tempfile.TemporaryFile() as spool:
        with MapFileWriter(spool, header, where=told) as writer:
            yield RecordSink(writer, threads=threads)
        spool.seek(0)
        while part := spool.read(_COPY_BYTES):
            write_fully(stream, part)


@contextmanager
def _special(output: str, header: Header) -> Iterator[RecordSink]:
    try:
        file = open(output, "wb")  # noqa: SIM115
    except OSError as error:
        raise output_error(output, error) from error
    with file:
        if file.isatty():
            raise UsageError(output, "is a terminal, the output is binary", "name a file")
        with _stream_on(file, header, output) as sink:
            yield sink


@contextmanager
def _tar_file(
    output: str, header: Header, overwrite: bool, journal: Journal | None, threads: int,
) -> Iterator[RecordSink]:
    with (
        keeping(journal),
        new_file(output, overwrite) as partial,
        open(partial, "wb") as file,
    ):
        writer = StreamWriter(file, header, where=output, compress=True)
        for identifier, told, data in _stored(journal):
            writer.write(restored_member(identifier, told, data, header, output))
        yield RecordSink(writer, journal, threads)
        writer.close()


@contextmanager
def _map_file(
    output: str, header: Header, overwrite: bool, journal: Journal | None, threads: int,
) -> Iterator[RecordSink]:
    with (
        keeping(journal),
        new_file(output, overwrite) as partial,
        MapFileWriter(partial, header, where=output) as writer,
    ):
        for identifier, told, data in _stored(journal):
            writer.write(restored_map(identifier, told, data, output))
        yield RecordSink(writer, journal, threads)


@contextmanager
def _label_folder(
    output: str, header: Header, overwrite: bool, kept: KeptFolder | None, threads: int,
) -> Iterator[RecordSink]:
    done, at = ((), None) if kept is None else (tuple(kept.done), kept.path)
    with keeping(kept), new_folder(output, overwrite, at=at) as partial:
        writer = LabelFolderWriter(partial, header, where=output, records=done)
        yield RecordSink(writer, kept, threads)
        writer.close()


def _stored(journal: Journal | None) -> Iterator[tuple[str, dict, bytes]]:
    return iter(()) if journal is None else journal.stored()


# --- unfinished work ---------------------------------------------------------------------------


def goes_to_disk(output: str | None) -> bool:
    """Whether an output is a file or folder, which appears when it is whole; not a pipe or a device."""
    return not _goes_to_stdout(output) and not _is_special(output)


def kept_beside(output: str, what: str, work: Work) -> Journal | KeptFolder:
    """What is kept of an unfinished output of maps, labels or figures."""
    if what == "figures":
        return KeptFolder(output, work, suffix="")
    return KeptFolder(output, work) if _is_folder(output, what) else Journal(output, work)


def check_same_records(
    output: str, kind: str, work: Work, ids: Sequence[str] | None = None,
) -> str | None:
    """How the work that an output came of differs from another; None where it is the same.

    Parameters
    ----------
    output
        A file or folder.
    kind
        Of the records or pictures.
    work
    ids
        Of the images; what an output without provenance does not tell cannot differ.
    """
    try:
        if carrier(kind) == "figures":
            header, found = read_marker(Path(output))[0], None
        else:
            with open_records(output) as source:
                header, found = source.header, source.ids()
    except InputError as error:
        return error.what
    if header is None or header.kind != kind:
        return f"holds {'something else' if header is None else header.kind}"
    part = {} if header.part is None else {"shard": str(header.part)}
    if header.provenance:
        told = told_work(header.provenance[-1], header.class_names)
        return work.difference(told | {"settings": told.get("settings", {}) | part})
    if ids is not None and found is not None and sorted(ids) != sorted(found):
        return "holds other images"
    return work.difference({"classes": list(header.class_names), "settings": part})
