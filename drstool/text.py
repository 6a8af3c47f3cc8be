"""Text files of a dataset, read as UTF-8 with errors that name the line; and lists in messages."""

from __future__ import annotations

import codecs
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from drstool.errors import InputError
from drstool.files import read_bytes, unreadable

__all__ = ["SHOWN", "decode_text", "listed", "quoted", "read_lines", "read_stdin_text", "read_text"]

# COCO's largest annotation file has half as many.
MAX_TEXT_BYTES = 1 << 30
# How many ids, names or values a message lists.
SHOWN = 5
# How .xlsx and .ods begin, which are ZIP archives, and .xls.
_SPREADSHEETS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")


def listed(names: Sequence[object], total: int | None = None, most: int = SHOWN) -> str:
    """The first few of the names, and an ellipsis if there are more, perhaps a ``total`` of them."""
    shown = [str(name) for name in names[:most]]
    return ", ".join(shown) + (", …" if (total or len(names)) > len(shown) else "")


def quoted(names: Sequence[str], most: int = SHOWN) -> str:
    """As :func:`listed`, each name in quotation marks."""
    return listed([f"'{name}'" for name in names[:most + 1]], most=most)


def decode_text(content: bytes, where: object) -> str:
    """The text of UTF-8 or UTF-16, without a byte order mark; lines end in a line feed.

    UTF-16 is told by its byte order mark, or by the null byte of a first character that is ASCII.

    Raises
    ------
    InputError
        It is neither, and the line is named; it is a spreadsheet's own file.
    """
    if content.startswith(_SPREADSHEETS):
        raise InputError(where, "is not text, but a spreadsheet's own file or another archive", "save it as CSV")
    wide = (
        "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        else "utf-16-le" if content[1:2] == b"\0" else "utf-16-be" if content[:1] == b"\0" else "")
    try:
        text = content.decode(wide or "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        kind = "UTF-16" if wide else "UTF-8"
        raise InputError(
            where, f"line {line} is not {kind} text", "save it as UTF-8 (in a spreadsheet: 'CSV UTF-8')") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_text(path: str | Path, most: int = MAX_TEXT_BYTES) -> str:
    """A text file's content; see :func:`drstool.files.read_bytes` and :func:`decode_text`."""
    return decode_text(read_bytes(path, most=most, pipes=True), path)


def read_stdin_text(stdin: TextIO | None = None) -> str:
    """All of a text on the standard input, or on what is given in its place; UTF-8 whatever the locale says.

    Raises
    ------
    InputError
        It is closed, cannot be read, or is not UTF-8.
    """
    stdin = sys.stdin if stdin is None else stdin
    if stdin is None:
        raise InputError("stdin", "is closed", "pipe a text into it")
    try:
        buffer = getattr(stdin, "buffer", None)
        return stdin.read() if buffer is None else decode_text(buffer.read(), "stdin")
    except OSError as error:
        raise unreadable("stdin", error) from error


def read_lines(path: str | Path, most: int = MAX_TEXT_BYTES) -> list[str]:
    """Lines of a text file that are not blank, without spaces at either end."""
    # Not splitlines(), which also splits at characters that an id may contain, such as U+2028.
    lines = (line.strip() for line in read_text(path, most).split("\n"))
    return [line for line in lines if line]
