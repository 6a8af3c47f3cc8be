"""The last member of a stream or folder: where it is missing or has another count, records are missing."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from pathlib import Path

from drstool.artifacts.header import END_NAME, HEADER_NAME, json_bytes
from drstool.errors import InputError, UnfinishedError
from drstool.files import read_bytes, status

__all__ = ["MAX_END_BYTES", "check_end_file", "check_end_record", "end_record", "names_crc32"]

MAX_END_BYTES = 1 << 16


def end_record(count: int, head: bytes | None = None, names: Iterable[str] | None = None) -> bytes:
    """The last member of a whole stream or folder of ``count`` records.

    Parameters
    ----------
    count
    head
        Bytes of its header member; the record keeps their checksum.
    names
        Of the records' files; the record keeps their checksum.
    """
    record: dict[str, object] = {"count": count, "complete": True}
    if head is not None:
        record["header_crc32"] = zlib.crc32(head)
    if names is not None:
        record["names_crc32"] = names_crc32(names)
    return json_bytes(record)


def names_crc32(names: Iterable[str]) -> int:
    """Checksum of file names, whatever their order."""
    return zlib.crc32("\0".join(sorted(names)).encode("utf-8", "surrogateescape"))


def check_end_file(folder: Path, count: int, head: bytes | None, where: object) -> None:
    """Check that a folder of ours has an end record, and that it matches.

    Raises
    ------
    InputError
        It does not match.
    UnfinishedError
        There is none.
    """
    end = folder / END_NAME
    if status(end) is None:
        raise UnfinishedError(where, f"has no end record '{END_NAME}'", "copy it again or recreate it")
    check_end_record(read_bytes(end, most=MAX_END_BYTES), count, where, head)


def check_end_record(data: bytes, count: int, where: object, head: bytes | None = None) -> None:
    """Check that an end record says that there are so many records, behind this header.

    Parameters
    ----------
    data
        The end record.
    count
        Number of records found.
    where
        Named in errors.
    head
        Bytes of the header member.

    Raises
    ------
    InputError
        It does not, or is damaged.
    """
    try:
        record = json.loads(data)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict) or record.get("complete") is not True or type(record.get("count")) is not int:
        raise InputError(where, f"its end record '{END_NAME}' is damaged", "copy it again or recreate it")
    if head is not None and record.get("header_crc32", zlib.crc32(head)) != zlib.crc32(head):
        raise InputError(where, f"'{HEADER_NAME}' was changed or damaged", "copy it again or recreate it")
    if record["count"] != count:
        raise InputError(
            where, f"holds {count} records where its end record says {record['count']}", "copy it again or recreate it")
