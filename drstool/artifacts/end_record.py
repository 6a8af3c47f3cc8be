"""The last member of a stream or folder: without it, or with another count, the whole is not there."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path

from drstool.artifacts.header import END_NAME, HEADER_NAME, json_bytes
from drstool.errors import InputError, UnfinishedError
from drstool.files import read_bytes

__all__ = ["MAX_END_BYTES", "check_end_file", "check_end_record", "end_record"]

MAX_END_BYTES = 1 << 16


def end_record(count: int, head: bytes | None = None) -> bytes:
    """The last member of a whole stream or folder of ``count`` records.

    Parameters
    ----------
    count
    head
        Bytes of its header member, whose checksum is kept.
    """
    told: dict[str, object] = {"count": count, "complete": True}
    if head is not None:
        told["header_crc32"] = zlib.crc32(head)
    return json_bytes(told)


def check_end_file(folder: Path, count: int, head: bytes | None, where: object) -> None:
    """Check that a folder of ours has an end record, and that it fits.

    Raises
    ------
    InputError
        It does not; an ``UnfinishedError`` where there is none.
    """
    end = folder / END_NAME
    if not os.path.exists(end):
        raise UnfinishedError(where, f"lacks '{END_NAME}'", "copy or make it again")
    check_end_record(read_bytes(end, most=MAX_END_BYTES), count, where, head)


def check_end_record(data: bytes, count: int, where: object, head: bytes | None = None) -> None:
    """Check that an end record tells of as many records as were found, and of this header.

    Parameters
    ----------
    data
        The end record.
    count
        Number of records.
    where
        Named in errors.
    head
        Bytes of the header member.

    Raises
    ------
    InputError
        It does not.
    """
    told, crc = _end_in(data)
    if told is None:
        raise InputError(where, f"its end record '{END_NAME}' is damaged", "copy or make it again")
    if head is not None and crc is not None and crc != zlib.crc32(head):
        raise InputError(where, f"'{HEADER_NAME}' was changed or damaged", "copy or make it again")
    if told != count:
        raise InputError(
            where, f"holds {count} records where its end record says {told}",
            "copy or make it again",
        )


def _end_in(data: bytes) -> tuple[int | None, int | None]:
    """Count and the header's checksum, where an end record holds them."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None, None
    if not isinstance(value, dict) or value.get("complete") is not True:
        return None, None
    count, crc = value.get("count"), value.get("header_crc32")
    return (count if type(count) is int else None), (crc if type(crc) is int else None)
