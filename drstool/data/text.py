"""Text files of a dataset: read as UTF-8, with errors that name the line."""

from __future__ import annotations

import os

from drstool.errors import InputError

__all__ = ["decode_text", "read_bytes", "read_lines", "read_text"]

# COCO's largest annotation file has half as many.
MAX_TEXT_BYTES = 1 << 30


def read_bytes(path: str | os.PathLike, most: int = MAX_TEXT_BYTES) -> bytes:
    """Content of a file, which may be a pipe.

    Raises
    ------
    InputError
        It cannot be read, or has more than so many bytes.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(most + 1)
        if len(content) > most:
            raise InputError(path, f"has more than {most:,} bytes", "give a smaller file")
        return content
    except OSError as error:
        raise InputError(path, f"cannot be read: {error.strerror}", "check the path") from None
    except ValueError as error:  # A null byte in the path.
        raise InputError(path, f"cannot be read: {error}", "check the path") from None


def decode_text(content: bytes, where: object) -> str:
    """UTF-8 text, without a byte order mark.

    Raises
    ------
    InputError
        It is not UTF-8; the line is named.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(where, f"line {line} is not UTF-8 text", "save it as UTF-8") from None


def read_text(path: str | os.PathLike, most: int = MAX_TEXT_BYTES) -> str:
    """A text file's content; see :func:`read_bytes` and :func:`decode_text`."""
    return decode_text(read_bytes(path, most), path)


def read_lines(path: str | os.PathLike, most: int = MAX_TEXT_BYTES) -> list[str]:
    """Lines of a text file that are not blank, without spaces at either end."""
    # Not splitlines(), which also splits at characters that an id may contain, such as U+2028.
    lines = (line.strip() for line in read_text(path, most).split("\n"))
    return [line for line in lines if line]
