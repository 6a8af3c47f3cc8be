"""Streams: what a pipe carries, a POSIX tar archive of the files themselves.

Members: ``drstool.json`` first; for each image ``<id>.h5``, a map file of one record, or
``<id>.png``; and last ``drstool.end.json`` with the number of records, by which a stream cut short
is told from a whole one. Each record leaves as soon as it is written and is given out as soon as
it has arrived, so that stages run at the same time.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from drstool.artifacts.atomic import write_fully
from drstool.artifacts.end_record import check_end_record, end_record
from drstool.artifacts.header import END_NAME, HEADER_NAME, MAX_HEADER_BYTES, Header, carrier, json_bytes
from drstool.errors import ForeignError, InputError
from drstool.formats.label_png import decode_label, encode_label
from drstool.formats.map_file import decode_map, encode_map
from drstool.formats.pipes import BLOCK, read_up_to
from drstool.formats.records import LabelRecord, MapRecord, check_label_record
from drstool.identifiers import check_id, member_name

__all__ = ["StreamReader", "StreamWriter", "looks_like_tar", "restored_member"]

_SUFFIX = {"maps": ".h5", "labels": ".png"}
# Two empty blocks end an archive.
_TRAILER = bytes(2 * BLOCK)
_DISCARDED_BYTES = 1 << 20
_MAX_NAME_BYTES = 1 << 16
_MAX_END_BYTES = 1 << 16
# The largest record and its HDF5 frame.
_MAX_MEMBER_BYTES = (1 << 32) + (1 << 24)
_PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE)


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
        Whether maps are deflated; on a pipe this only costs time.
    """

    def __init__(
        self, stream: BinaryIO, header: Header, *, where: object = "stdout", compress: bool = False,
    ) -> None:
        self._stream, self._header, self._compress = stream, header, compress
        self.where = str(where)
        self._kind = carrier(header.kind)
        self._seen: set[str] = set()
        self._head, self._last = json_bytes(header.to_json()), b""
        self._put(HEADER_NAME, self._head)

    @property
    def count(self) -> int:
        """Number of records written."""
        return len(self._seen)

    def write(self, record: MapRecord | LabelRecord) -> None:
        """Add a record; it has left this process when the call returns.

        Raises
        ------
        InputError
            The record is none of the stream's kind, or its id was written before.
        OutputError
            The system refuses. A closed pipe is a ``BrokenPipeError`` instead.
        """
        self.put(self.prepare(record))

    def prepare(self, record: MapRecord | LabelRecord) -> tuple[str, bytes]:
        """Id and encoded form of the record: what costs time, and may be done by threads.

        Raises
        ------
        InputError
            The record is none of the stream's kind.
        """
        if isinstance(record, MapRecord):
            return record.id, encode_map(record, self._header, compress=self._compress)
        check_label_record(record, self._header, self.where)
        return record.id, encode_label(record, self._header)

    def put(self, prepared: tuple[str, bytes]) -> None:
        """Add what :meth:`prepare` made; raises as :meth:`write`."""
        identifier, data = prepared
        if identifier in self._seen:
            raise InputError(self.where, f"gets '{identifier}' twice", "list each image once")
        self._put(member_name(identifier, _SUFFIX[self._kind]), data)
        self._last = data
        self._seen.add(identifier)

    def stored(self, record: MapRecord | LabelRecord) -> tuple[dict, bytes]:
        """How a record just written lies in the stream, for :func:`restored_member`."""
        return {"member": self._kind}, self._last

    def close(self) -> None:
        """Write the end record."""
        self._put(END_NAME, end_record(self.count, self._head), _TRAILER)

    def abort(self) -> None:
        """Leave the stream without its end record."""

    def _put(self, name: str, data: bytes, trailer: bytes = b"") -> None:
        # TarInfo's defaults name no user and no time: the same records are the same bytes.
        info = tarfile.TarInfo(name)
        info.size = len(data)
        head = info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        padding = bytes(-len(data) % BLOCK)
        write_fully(self._stream, b"".join((head, data, padding, trailer)), self.where)


def restored_member(
    identifier: str, told: dict, data: bytes, header: Header, where: object,
) -> MapRecord | LabelRecord:
    """The record that :meth:`StreamWriter.stored` tells of.

    Raises
    ------
    InputError
        It is damaged.
    """
    if told.get("member") == "labels":
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
        It is no stream of drstool's, or ends within its header.
    """

    searchable = False

    def __init__(self, stream: BinaryIO, where: object = "stdin", *, head: bytes = b"") -> None:
        self.where = str(where)
        self._source = _Source(stream, head, self.where)
        self._seen: set[str] = set()
        member = self._next()
        if member is None or member.name != HEADER_NAME:
            raise ForeignError(
                self.where, f"is a tar archive that does not begin with '{HEADER_NAME}'",
                "give a stream of drstool's, or name the folder",
            )
        self._head = self._payload(member, MAX_HEADER_BYTES)
        self.header = Header.from_json(self._head, self.where)
        self._kind = carrier(self.header.kind)
        if self._kind not in _SUFFIX:
            raise InputError(
                self.where, f"holds {self.header.kind}", "a stream holds maps or labels")

    def __iter__(self) -> Iterator[MapRecord | LabelRecord]:
        """The records; ends only when the end record was read and tells of as many.

        Raises
        ------
        InputError
            The stream is cut short or damaged, or holds something else than records.
        """
        return (decode() for decode in self.attempts())

    def attempts(self) -> Iterator[Callable[[], MapRecord | LabelRecord]]:
        """As iterating, but functions that give each record, which has arrived, or tell what is wrong.

        Raises
        ------
        InputError
            The stream is cut short or damaged as a whole. What is wrong with one record only, its
            function raises; the records that follow can still be had.
        """
        while True:
            member = self._next()
            if member is None:
                raise self._cut_short()
            if member.name == END_NAME:
                self._finish(member)
                return
            yield self._record(member)

    def _record(self, member: _Member) -> Callable[[], MapRecord | LabelRecord]:
        suffix = _SUFFIX[self._kind]
        if not member.name.endswith(suffix):
            raise InputError(
                self.where, f"holds '{member.name}'", f"its records are to end in '{suffix}'")
        identifier = check_id(member.name[: -len(suffix)], self.where)
        if identifier in self._seen:
            raise InputError(
                self.where, f"holds '{identifier}' twice", "each image is to come once")
        data = self._payload(member, _MAX_MEMBER_BYTES)
        self._seen.add(identifier)
        return lambda: self._decoded(identifier, member.name, data)

    def _decoded(self, identifier: str, name: str, data: bytes) -> MapRecord | LabelRecord:
        if self._kind == "labels":
            return decode_label(identifier, data, self.header, self.where)
        record = decode_map(data, self.header, f"{self.where}: {name}")
        if record.id != identifier:
            raise InputError(
                self.where, f"'{name}' holds the maps of '{record.id}'", "rename it back")
        return record

    def _finish(self, member: _Member) -> None:
        check_end_record(self._payload(member, _MAX_END_BYTES), len(self._seen), self.where, self._head)
        if self._exactly(len(_TRAILER)) != _TRAILER:
            raise InputError(self.where, "has members after its end record", "see 'drstool cat'")
        # Reading on keeps the writer from meeting a closed pipe, and finds what was appended.
        while rest := self._source.upto(_DISCARDED_BYTES):
            if rest.strip(b"\0"):
                raise InputError(
                    self.where, "goes on after its end record", "merge streams with 'drstool cat'")

    def _next(self) -> _Member | None:
        """The next file's name and size; None at the archive's end."""
        path: str | None = None
        size: int | None = None
        while True:
            block = self._exactly(BLOCK)
            if not any(block):
                return None
            info = self._parsed(block)
            if info.type == tarfile.XHDTYPE:
                keys = self._extended(_Member("extended header", info.size))
                path, size = keys.get("path", path), _size(keys.get("size"), size)
            elif info.type == tarfile.GNUTYPE_LONGNAME:
                name = self._payload(_Member("long name", info.size), _MAX_NAME_BYTES)
                path = name.rstrip(b"\0").decode("utf-8", "surrogateescape")
            elif info.type == tarfile.XGLTYPE:
                self._payload(_Member("global header", info.size), MAX_HEADER_BYTES)
            elif info.type == tarfile.DIRTYPE:
                # A repacked folder has them; the records' names say it all.
                path, size = None, None
            elif info.type in _PLAIN:
                name = info.name if path is None else path
                return _Member(name.removeprefix("./"), info.size if size is None else size)
            else:
                raise InputError(
                    self.where, f"holds '{info.name}', which is no file", "only files are read")

    def _extended(self, member: _Member) -> dict[str, str]:
        data, keys = self._payload(member, _MAX_NAME_BYTES), {}
        try:
            while data:
                length, _, _ = data.partition(b" ")
                record, data = data[: int(length)], data[int(length):]
                if int(length) < 5 or not record.endswith(b"\n"):
                    raise ValueError(length)
                key, _, value = record[len(length) + 1: -1].partition(b"=")
                keys[key.decode()] = value.decode("utf-8", "surrogateescape")
        except ValueError as error:
            raise self._damaged() from error
        return keys

    def _parsed(self, block: bytes) -> tarfile.TarInfo:
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (tarfile.TarError, ValueError) as error:
            raise self._damaged() from error
        if info.size < 0:
            raise self._damaged()
        return info

    def _payload(self, member: _Member, limit: int) -> bytes:
        if not 0 <= member.size <= limit:
            raise InputError(
                self.where, f"'{member.name}' has {member.size:,} bytes", f"at most {limit:,}")
        data = self._exactly(member.size)
        self._exactly(-member.size % BLOCK)
        return data

    def _exactly(self, size: int) -> bytes:
        data = self._source.upto(size)
        if len(data) < size:
            raise self._cut_short()
        return data

    def _cut_short(self) -> InputError:
        return InputError(
            self.where, f"the stream ends after {len(self._seen)} records without its end record",
            "the stage before failed or was cut short",
        )

    def _damaged(self) -> InputError:
        return InputError(
            self.where, f"the stream is damaged after {len(self._seen)} records",
            "make or copy it again",
        )


def looks_like_tar(head: bytes) -> bool:
    """Whether a file that begins so is a tar archive.

    Examples
    --------
    >>> looks_like_tar(tarfile.TarInfo("drstool.json").tobuf())
    True
    """
    return head[257:262] == b"ustar"


@dataclass(frozen=True)
class _Member:
    name: str
    size: int


class _Source:
    """Reads no further than asked, with the bytes taken for a first look put back."""

    def __init__(self, stream: BinaryIO, head: bytes, where: str) -> None:
        self._stream, self._head, self._where = stream, head, where

    def upto(self, size: int) -> bytes:
        """``size`` bytes; fewer only at the end."""
        start, self._head = self._head[:size], self._head[size:]
        return start + read_up_to(self._stream, size - len(start), self._where)


def _size(text: str | None, otherwise: int | None) -> int | None:
    if text is None:
        return otherwise
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1
