"""Somewhere to write records to: map files, label PNGs, and streams of either, resumable where they are files."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from collections.abc import Container, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import call
from pathlib import Path
from typing import Any, BinaryIO

from drstool.artifacts.atomic import check_writable, new_file, new_folder, output_error, write_fully, writing
from drstool.artifacts.end_record import check_end_file
from drstool.artifacts.header import Header, record_type
from drstool.artifacts.job import NO_HISTORY, Job, recorded_job
from drstool.artifacts.resume import Journal, PartialFolder, keeping
from drstool.errors import InputError, OutputError, UsageError
from drstool.formats.label_folder import LabelFolderWriter
from drstool.formats.map_file import MapFileWriter, restored_map
from drstool.formats.pictures import picture_files, read_marker
from drstool.formats.records import Record
from drstool.formats.sources import open_records
from drstool.formats.stream import StreamWriter, restored_member
from drstool.identifiers import member_name
from drstool.parallel import ordered_map
from drstool.png import is_whole_png

__all__ = [
    "RecordSink", "check_sink", "earlier_output", "goes_to_disk", "open_sink", "resume_beside", "write_both",
]

_COPY_BYTES = 1 << 20


class RecordSink:
    """Where records go; made by :func:`open_sink`.

    Parameters
    ----------
    writer
    resume
        Where finished records survive an interruption.
    threads
        How many compress records in :meth:`write_all`. On a pipe none but the caller's: there each
        record is to leave as soon as it is there, and is not compressed. (What goes to
        :meth:`put_all` is prepared already, by whichever threads made it.)
    """

    def __init__(
        self, writer: MapFileWriter | LabelFolderWriter | StreamWriter, resume: Journal | PartialFolder | None = None,
        threads: int = 1,
    ) -> None:
        self._writer, self._resume, self._threads = writer, resume, threads
        self._earlier: Iterator[Record] = iter(())
        self._places: Mapping[str, int] = {}
        self._next: Record | None = None

    @property
    def count(self) -> int:
        """Number of records written, including those of earlier runs."""
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
        return self.put_all(ordered_map(self.prepare, records, self._threads))

    def put_all(self, prepared: Iterable[tuple[Record, object]]) -> int:
        """Add what :meth:`prepare` made of records, as it comes; their number."""
        before = self.count
        try:
            for each in prepared:
                self.put(each)
        finally:
            # Where the output fails, threads may still read what is closed next.
            if isinstance(prepared, Generator):
                prepared.close()
        return self.count - before

    def prepare(self, record: Record) -> tuple[Record, object]:
        """The record and its form in the output: what costs time, and may be done by threads."""
        return record, self._writer.prepare(record)  # type: ignore[arg-type]

    def put(self, prepared: tuple[Record, object]) -> None:
        """Add what :meth:`prepare` made; raises as :meth:`write`."""
        while self._next is not None and self._places[self._next.id] < self._places[prepared[0].id]:
            self._put_earlier()
        self._put(prepared)

    @contextmanager
    def among(self, earlier: Iterable[Record], order: Sequence[str]) -> Iterator[None]:
        """In the block records are added; those of an earlier output come among them, in the order of all ids."""
        self._earlier, self._places = iter(earlier), {identifier: n for n, identifier in enumerate(order)}
        self._next = next(self._earlier, None)
        yield
        while self._next is not None:
            self._put_earlier()

    def _put_earlier(self) -> None:
        self._put(self.prepare(self._next))  # type: ignore[arg-type]
        self._next = next(self._earlier, None)

    def _put(self, prepared: tuple[Record, object]) -> None:
        record, made = prepared
        self._writer.put(made)  # type: ignore[arg-type]
        if isinstance(self._resume, Journal):
            self._resume.add(record.id, *self._writer.stored(record))  # type: ignore[union-attr,arg-type]
        elif self._resume is not None:
            self._resume.add(record.id)


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
        check_writable(str(output), overwrite, folder=_is_folder(output, what))


@contextmanager
def open_sink(
    output: str | None, header: Header, *, overwrite: bool = False, stdout: BinaryIO | None = None,
    resume: Any = None, threads: int = 1, earlier: Container[str] = (),
    order: Sequence[str] = (),
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
    resume
        Where finished records survive an interruption (see :func:`resume_beside`); those that did come
        first in the output.
    threads
        How many compress what goes to a file or folder.
    earlier
        Ids of records to take over from the output that is replaced.
    order
        Ids of all records, in the order in which those that are taken over come among the new ones.

    Raises
    ------
    OutputError
        The output exists, or cannot be written.
    UsageError
        The output would be a terminal.
    """
    is_maps = record_type(header.kind) == "maps"
    if _goes_to_stdout(output):
        stream = _stdout(stdout)
        _check_stdout(stream)
        as_file = output is None and is_maps and _is_regular(stream)
        target = _map_file_on(stream, header, threads) if as_file else _stream_on(stream, header, "stdout")
    elif _is_special(output):
        target = _special(str(output), header)
    elif str(output).endswith(".tar"):
        target = _tar_file(str(output), header, overwrite, resume, threads)
    elif is_maps:
        target = _map_file(str(output), header, overwrite, resume, threads)
    else:
        target = _label_folder(str(output), header, overwrite, resume, threads)
    with target as sink:
        if not earlier:
            yield sink
            return
        with open_records(output) as source, sink.among(
            (record for record in source.records() if record.id in earlier), order,
        ):
            yield sink


def _goes_to_stdout(output: str | None) -> bool:
    return output is None or str(output) in ("-", "/dev/stdout")


def _stdout(stdout: BinaryIO | None) -> BinaryIO:
    stream = stdout if stdout is not None else getattr(sys.stdout, "buffer", None)
    if stream is None:
        raise UsageError("stdout", "is closed", "use -o FILE")
    return stream


def _check_stdout(stream: BinaryIO) -> None:
    if stream.isatty():
        raise UsageError("stdout", "is a terminal, but the output is binary", "use a pipe or -o FILE")
    if _is_regular(stream) and os.fstat(stream.fileno()).st_size:
        raise OutputError("stdout", "is a file that is not empty", "write to a new file")


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
    where = f"temporary folder {tempfile.gettempdir()}"
    with writing(where), tempfile.TemporaryFile() as spool:
        with MapFileWriter(spool, header, where=where) as writer:
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
            raise UsageError(output, "is a terminal, but the output is binary", "name a file")
        with _stream_on(file, header, output) as sink:
            yield sink


@contextmanager
def _tar_file(
    output: str, header: Header, overwrite: bool, resume: Journal | None, threads: int,
) -> Iterator[RecordSink]:
    with keeping(resume), new_file(output, overwrite) as partial, open(partial, "wb") as file:
        writer = StreamWriter(file, header, where=output, compress=True)
        for identifier, description, data in _stored(resume):
            writer.write(restored_member(identifier, description, data, header, output))
        yield RecordSink(writer, resume, threads)
        writer.close()


@contextmanager
def _map_file(
    output: str, header: Header, overwrite: bool, resume: Journal | None, threads: int,
) -> Iterator[RecordSink]:
    with (
        keeping(resume), new_file(output, overwrite) as partial,
        MapFileWriter(partial, header, where=output) as writer,
    ):
        for identifier, description, data in _stored(resume):
            writer.write(restored_map(identifier, description, data, output))
        yield RecordSink(writer, resume, threads)


@contextmanager
def _label_folder(
    output: str, header: Header, overwrite: bool, resume: PartialFolder | None, threads: int,
) -> Iterator[RecordSink]:
    done, at = ((), None) if resume is None else (tuple(resume.finished), resume.path)
    with keeping(resume), new_folder(output, overwrite, at=at) as partial:
        writer = LabelFolderWriter(partial, header, where=output, records=done)
        yield RecordSink(writer, resume, threads)
        writer.close()


def _stored(resume: Journal | None) -> Iterator[tuple[str, dict, bytes]]:
    return iter(()) if resume is None else resume.records()


# --- unfinished outputs ------------------------------------------------------------------------


def goes_to_disk(output: str | None) -> bool:
    """Whether an output is a file or folder, which appears when it is whole; not a pipe or a device."""
    return not _goes_to_stdout(output) and not _is_special(output)


def resume_beside(output: str, what: str, job: Job) -> Journal | PartialFolder:
    """What is on disk of an unfinished output of maps, labels or figures."""
    if what == "figures":
        return PartialFolder(output, job, suffix="")
    return PartialFolder(output, job) if _is_folder(output, what) else Journal(output, job)


def earlier_output(
    output: str, kind: str, job: Job, ids: Sequence[str] | None = None, threads: int = 1, *,
    sure: bool = False,
) -> tuple[str | None, tuple[str, ...]]:
    """How the job that made an output differs from another, None where it is the same; and what it holds.

    Every record is read or, of a folder, every PNG's checksums are: damage is a difference.

    Parameters
    ----------
    output
        A file or folder.
    kind
        Of the records or pictures.
    job
    ids
        Of the images, if known.
    threads
        How many read.
    sure
        Whether an output without provenance, which tells little, is different; otherwise what it does not tell cannot
        differ.

    Returns
    -------
    difference : str or None
    held : tuple of str
        Ids of its records, or names of its pictures.
    """
    try:
        header = _header_of(output, kind)
        difference = _difference(header, kind, job, sure)
    except InputError as error:
        return error.what, ()
    if difference is not None:
        return difference, ()
    assert header is not None
    try:
        held = _checked(output, header, threads)
    except InputError as error:
        return f"is damaged ({error.where}: {error.what})", ()
    return "holds other images" if ids is not None and not set(held) <= set(ids) else None, held


def _header_of(output: str, kind: str) -> Header | None:
    if record_type(kind) == "figures":
        return read_marker(Path(output))[0]
    with open_records(output) as source:
        return source.header


def _difference(header: Header | None, kind: str, job: Job, sure: bool) -> str | None:
    if header is None or header.kind != kind:
        return f"holds {'something else' if header is None else header.kind}"
    if header.provenance:
        return job.difference(recorded_job(header.provenance[-1], header.class_names, header.shard))
    if sure:
        return NO_HISTORY
    shard = {} if header.shard is None else {"shard": str(header.shard)}
    return job.difference({"classes": list(header.class_names), "settings": shard})


def _checked(output: str, header: Header, threads: int) -> tuple[str, ...]:
    """Ids of an output's records, or names of its pictures.

    Raises
    ------
    InputError
        One is damaged, or some are missing.
    """
    folder = Path(output)
    if record_type(header.kind) == "figures":
        names = [path.relative_to(folder).as_posix() for path in picture_files(folder)]
        check_end_file(folder, len(names), read_marker(folder)[1], output)
        _check_pngs(folder, names, threads)
        return tuple(names)
    with open_records(output) as source:
        if folder.is_dir():
            held = source.ids() or ()
            _check_pngs(folder, [member_name(identifier, ".png") for identifier in held], threads)
        else:
            held = tuple(record.id for record in ordered_map(call, source.attempts(), threads))
            source.check_extent()
        return held


def _check_pngs(folder: Path, names: Sequence[str], threads: int) -> None:
    whole = ordered_map(lambda name: is_whole_png(folder / name), names, threads)
    for name, is_whole in zip(names, whole):
        if not is_whole:
            raise InputError(folder / name, "is not a whole PNG")
