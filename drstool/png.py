"""The chunks of a PNG, without decoding its pixels."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

__all__ = ["SIGNATURE", "chunks", "is_whole_png"]

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def chunks(file: IO[bytes], *, check: bool = True) -> Iterator[tuple[bytes, bytes]]:
    """Kinds and contents of a PNG's chunks in file order, the last being ``IEND``.

    Parameters
    ----------
    file
        At its beginning.
    check
        Read each chunk and compare its checksum; otherwise contents are skipped, and come out empty.

    Raises
    ------
    ValueError
        It does not begin as a PNG, is truncated, or a checksum is wrong.

    Examples
    --------
    >>> list(chunks(io.BytesIO(SIGNATURE + bytes(4) + b"IEND" + bytes.fromhex("ae426082"))))
    [(b'IEND', b'')]
    """
    if file.read(len(SIGNATURE)) != SIGNATURE:
        raise ValueError("it does not begin as a PNG")
    kind = content = b""
    while kind != b"IEND":
        head = file.read(8)
        if len(head) < 8:
            raise ValueError("it is truncated")
        length, kind = struct.unpack(">I4s", head)
        if check:
            content, checksum = file.read(length), file.read(4)
            if len(content) < length or len(checksum) < 4:
                raise ValueError("it is truncated")
            if zlib.crc32(content, zlib.crc32(kind)) != int.from_bytes(checksum, "big"):
                raise ValueError(f"wrong checksum of chunk {kind!r}")
        else:
            file.seek(length + 4, os.SEEK_CUR)
        yield kind, content


def is_whole_png(path: Path) -> bool:
    """Whether a file is a PNG with all of its chunks, right checksums, and nothing after its end."""
    try:
        file = io.BytesIO(path.read_bytes())
        return bool(list(chunks(file))) and not file.read(1)
    except (OSError, ValueError):
        return False
