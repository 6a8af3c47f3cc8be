"""Streams: what a pipe carries, a POSIX tar archive of the files themselves.

Members: ``drstool.json`` first; for each image ``<id>.h5``, a map file of one record, or
``<id>.png``; and last ``drstool.end.json`` with the number of records: without it a stream was cut
short. Each record leaves as soon as it is written and is given out as soon as it has arrived, so
that stages run at the same time.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

from drstool.artifacts.atomic import write_fully
from drstool.artifacts.end_record import MAX_END_BYTES, check_end_record, end_record
from drstool.artifacts.header import END_NAME, HEADER_NAME, MAX_HEADER_BYTES, Header, json_bytes, record_type
from drstool.errors import ForeignError, InputError
from drstool.formats.label_png import decode_label, encode_label
from drstool.formats.map_file import decode_map, encode_map
from drstool.formats.pipes import BLOCK, read_up_to
from drstool.formats.records import MapRecord, Record, check_label_record
from drstool.identifiers import check_id, member_name

__all__ = ["StreamReader", "StreamWriter", "looks_like_tar", "restored_member"]

_SUFFIX = {"maps": ".h5", "labels": ".png"}
# Two empty blocks end an archive.
_TRAILER = bytes(2 * BLOCK)
# The longest header, such as that of a long name; also what is read at once of what is discarded.
_AT_ONCE = 1 << 16
# The largest record and its HDF5 frame.
_MAX_MEMBER_BYTES = (1 << 32) + (1 << 24)
# What tarfile raises on damaged headers.
_DAMAGE = (tarfile.TarError, ValueError, TypeError, LookupError, ArithmeticError)


class StreamWriter:
    """Writes records to a stream; it is whole once :meth:`close` has returned.

    Parameters
    ----------
    stream
        Where the bytes go: a pipe, a file, memory. It is not closed.
    header
        What the stream says about itself.
    where
        Named in errors.
    compress
        Deflate maps; on a pipe this only costs time.
    """

    def __init__(
        self, stream: BinaryIO, header: Header, *, where: object = "stdout", compress: bool = False,
    ) -> None:
        self._stream, self._header, self._compress = stream, header, compress
        self.where = str(where)
        self._kind = record_type(header.kind)
        self._seen: set[str] = set()
        self._head, self._last = json_bytes(header.to_json()), b""
        self._put(HEADER_NAME, self._head)

    @property
    def count(self) -> int:
        """Number of records written."""
        return len(self._seen)

    def write(self, record: Record) -> None:
        """Add a record; it has left this process when the call returns.

        Raises
        ------
        InputError
            The stream cannot hold the record, or its id was written before.
        OutputError
            The system refuses. A closed pipe is a ``BrokenPipeError`` instead.
        """
        self.put(self.prepare(record))

    def prepare(self, record: Record) -> tuple[str, bytes]:
        """Id and encoded form of a record: the slow part, which may run in threads.

        Raises
        ------
        InputError
            The stream cannot hold the record.
        """
        if isinstance(record, MapRecord):
            return record.id, encode_map(record, self._header, compress=self._compress)
        check_label_record(record, self._header, self.where)
        return record.id, encode_label(record, self._header)

    def put(self, prepared: tuple[str, bytes]) -> None:
        """Add what :meth:`prepare` made; raises as :meth:`write`."""
        identifier, data = prepared
        if identifier in self._seen:
            raise InputError(self.where, f"received '{identifier}' twice", "list each image once")
        self._put(member_name(identifier, _SUFFIX[self._kind]), data)
        self._last = data
        self._seen.add(identifier)

    def stored(self, _: Record) -> tuple[dict, bytes]:
        """Description and bytes of the record just written, from which :func:`restored_member` makes it again."""
        return {"member": self._kind}, self._last

    def close(self) -> None:
        """Write the end record."""
        names = (member_name(each, _SUFFIX[self._kind]) for each in self._seen)
        self._put(END_NAME, end_record(self.count, self._head, names), _TRAILER)

    def _put(self, name: str, data: bytes, trailer: bytes = b"") -> None:
        # TarInfo's defaults name no user and no time: the same records are the same bytes.
        info = tarfile.TarInfo(name)
        info.size = len(data)
        head = info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        write_fully(self._stream, b"".join((head, data, bytes(-len(data) % BLOCK), trailer)), self.where)


def restored_member(identifier: str, description: dict, data: bytes, header: Header, where: object) -> Record:
    """The record that :meth:`StreamWriter.stored` described.

    Raises
    ------
    InputError
        It is damaged.
    """
    if description.get("member") == "labels":
        return decode_label(identifier, data, header, where)
    return decode_map(data, header, where)


class StreamReader:
    """Reads a stream, each record as it arrives; once only.

    Parameters
    ----------
    stream
        Where the bytes come from.
    where
        Named in errors.
    head
        Bytes already taken from the stream.

    Raises
    ------
    InputError
        It is not a stream of drstool's, or ends within its header.
    """

    searchable = False

    def __init__(self, stream: BinaryIO, where: object = "stdin", *, head: bytes = b"") -> None:
        self.where = str(where)
        self._source = _ForwardFile(stream, head, self.where)
        self._seen: set[str] = set()
        with self._damage():
            self._archive = tarfile.TarFile(
                fileobj=self._source, encoding="utf-8", errors="surrogateescape")  # type: ignore[arg-type]
        member = self._next()
        if member is None or member.name != HEADER_NAME:
            raise ForeignError(
                self.where, f"is a tar archive that does not begin with '{HEADER_NAME}'",
                "expected a stream written by drstool",
            )
        self._head = self._payload(member, MAX_HEADER_BYTES)
        self.header = Header.from_json(self._head, self.where)
        self._kind = record_type(self.header.kind)
        if self._kind not in _SUFFIX:
            raise InputError(self.where, f"holds {self.header.kind}", "a stream holds maps or labels")

    def __iter__(self) -> Iterator[Record]:
        """The records; ends only when the end record has confirmed their number.

        Raises
        ------
        InputError
            The stream is cut short or damaged, or holds something other than records.
        """
        return (decode() for decode in self.attempts())

    def attempts(self) -> Iterator[Callable[[], Record]]:
        """As iterating, but functions that decode each record, which has arrived, or raise what is wrong with it.

        Raises
        ------
        InputError
            The stream is cut short or damaged as a whole. Damage of a single record is raised by its
            function only; the records that follow can still be read.
        """
        while (member := self._next()) is not None:
            if member.name == END_NAME:
                self._finish(member)
                return
            yield self._record(member)
        raise self._cut_short()

    def _record(self, member: tarfile.TarInfo) -> Callable[[], Record]:
        suffix = _SUFFIX[self._kind]
        if not member.name.endswith(suffix):
            raise InputError(self.where, f"holds '{member.name}'", f"its records end in '{suffix}'")
        identifier = check_id(member.name[: -len(suffix)], self.where)
        if identifier in self._seen:
            raise InputError(self.where, f"holds '{identifier}' twice", "each image may come once")
        data = self._payload(member, _MAX_MEMBER_BYTES)
        self._seen.add(identifier)
        return lambda: self._decoded(identifier, member.name, data)

    def _decoded(self, identifier: str, name: str, data: bytes) -> Record:
        if self._kind == "labels":
            return decode_label(identifier, data, self.header, self.where)
        record = decode_map(data, self.header, f"{self.where}: {name}")
        if record.id != identifier:
            raise InputError(self.where, f"'{name}' holds the maps of '{record.id}'", "rename it back")
        return record

    def _finish(self, member: tarfile.TarInfo) -> None:
        check_end_record(self._payload(member, MAX_END_BYTES), len(self._seen), self.where, self._head)
        trailer = self._source.up_to(len(_TRAILER))
        if trailer.strip(b"\0"):
            raise InputError(self.where, "has members after its end record", "see 'drstool cat'")
        if trailer != _TRAILER:
            raise self._cut_short()
        # Reading on keeps the writer from meeting a closed pipe, and finds what was appended.
        while rest := self._source.up_to(_AT_ONCE):
            if rest.strip(b"\0"):
                raise InputError(
                    self.where, "continues after its end record", "merge streams with 'drstool cat'")

    def _next(self) -> tarfile.TarInfo | None:
        """The next file's description; None at the archive's end, or where it is damaged."""
        while True:
            with self._damage():
                member = self._archive.next()
            # The archive would keep them all.
            self._archive.members.clear()  # type: ignore[attr-defined]
            # A repacked folder has entries for its folders; the records' names say it all.
            if member is None or member.type != tarfile.DIRTYPE:
                break
        if member is not None:
            if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.sparse is not None:
                raise InputError(self.where, f"holds '{member.name}', which is not a file", "only files are read")
            member.name = member.name.removeprefix("./")
        return member

    def _payload(self, member: tarfile.TarInfo, limit: int) -> bytes:
        if not 0 <= member.size <= limit:
            raise InputError(self.where, f"'{member.name}' has {member.size:,} bytes", f"at most {limit:,}")
        size = member.size + -member.size % BLOCK
        data = self._source.up_to(size)
        if len(data) < size:
            raise self._cut_short()
        return data[: member.size]

    @contextmanager
    def _damage(self) -> Iterator[None]:
        """What tarfile raises on damaged headers, as an error of ours."""
        try:
            yield
        except _DAMAGE as error:
            raise InputError(
                self.where, f"the stream is damaged after {len(self._seen)} records",
                "copy it again or recreate it") from error

    def _cut_short(self) -> InputError:
        return InputError(
            self.where, f"the stream ends after {len(self._seen)} records without its end record",
            "the previous stage failed or was interrupted",
        )


class _ForwardFile:
    """A pipe as :mod:`tarfile` reads files; it only moves forward.

    It takes no more from the pipe than it is asked for, so that no record waits for the next one.
    """

    def __init__(self, stream: BinaryIO, head: bytes, where: str) -> None:
        self._stream, self._head, self._where = stream, head, where
        self._place = 0

    def tell(self) -> int:
        return self._place

    def seek(self, place: int) -> None:
        if place < self._place:
            raise ValueError("a stream cannot be read backwards")
        while self._place < place and self.up_to(min(place - self._place, _AT_ONCE)):
            pass

    def read(self, size: int) -> bytes:
        """As :meth:`up_to`, for headers, which are short whatever they claim."""
        if size > _AT_ONCE:
            raise ValueError(f"a header of {size:,} bytes")
        return self.up_to(size)

    def up_to(self, size: int) -> bytes:
        """``size`` bytes; fewer only at the end."""
        start, self._head = self._head[:size], self._head[size:]
        data = start + read_up_to(self._stream, size - len(start), self._where)
        self._place += len(data)
        return data


def looks_like_tar(head: bytes) -> bool:
    """Whether a file that begins so is a tar archive.

    Examples
    --------
    >>> looks_like_tar(tarfile.TarInfo("drstool.json").tobuf())
    True
    """
    return head[257:262] == b"ustar"
