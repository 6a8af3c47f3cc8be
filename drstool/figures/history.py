"""The history that a figure carries in its file, read back."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from pathlib import Path

from drstool.artifacts.ownership import PICTURE_MARK
from drstool.errors import InputError
from drstool.files import read_beginning, read_bytes

__all__ = ["read_history"]


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


# By how a file begins: what shows that it is ours, what its history follows, and how that is written.
_FORMATS: dict[bytes, tuple[bytes, bytes, Callable[[str], str]]] = {
    b"\x89PNG": (PICTURE_MARK, b"iTXtdrstool\0\0\0\0\0", str),
    b"\xff\xd8\xff": (PICTURE_MARK, PICTURE_MARK + b" ", str),
    b"%PDF": (b"/Creator (drstool)", b"/Keywords (", _unescaped),
    b"<?xml": (b"<dc:title>drstool</dc:title>", b"<dc:description>", html.unescape)}


def read_history(path: str | Path) -> list[dict] | None:
    """The steps in a figure's file, oldest first, none if it was written without; None: it is no figure of drstool's.

    Raises
    ------
    InputError
        It may not be read, or the history is damaged.
    """
    start = read_beginning(path, 5)
    known = next((each for beginning, each in _FORMATS.items() if start.startswith(beginning)), None)
    if known is None:
        return None
    mark, before, plain = known
    data = read_bytes(path)
    if mark not in data:
        return None
    _, found, text = data.partition(before)
    if not found:
        return []
    try:
        # The history is ASCII; what follows it may be anything.
        history, _ = json.JSONDecoder().raw_decode(plain(text.decode("latin-1")))
    except (ValueError, RecursionError):
        history = None
    if not isinstance(history, list) or not all(isinstance(step, dict) for step in history):
        raise InputError(path, "has a damaged history", "copy it again or recreate it")
    return history
