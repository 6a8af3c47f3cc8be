"""The little of YAML that a YOLO dataset's ``data.yaml`` uses: texts, lists and numbered names at the top level."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from drstool.errors import InputError
from drstool.text import read_text

__all__ = ["read_simple_yaml"]

_MAX_BYTES = 1 << 20


def read_simple_yaml(path: Path) -> dict[str, object]:
    """The top-level keys of a YAML file; a value is a text, a list of texts, or texts by key.

    What is nested deeper, and texts of several lines, are left out; no code is ever run.

    Raises
    ------
    InputError
        It cannot be read, or a bracket is not closed.
    """
    found: dict[str, object] = {}
    key = None
    for line in _lines(path):
        text = line.strip()
        name, value = _name_and_value(text)
        if line[0] not in " \t" and not text.startswith("- "):
            key = name
            if key is not None:
                found[key] = _value(value)
        elif key is not None:
            known = found[key]
            if text.startswith("- "):
                found[key] = [*(known if isinstance(known, list) else ()), _unquoted(text[2:])]
            elif name is not None:
                found[key] = {**(known if isinstance(known, dict) else {}), name: _unquoted(value)}
    return found


def _lines(path: Path) -> list[str]:
    """Lines without comments; those of a value in brackets joined."""
    lines: list[str] = []
    depth = 0
    for raw in read_text(path, _MAX_BYTES).splitlines():
        comments = (at for at, mark in _marks(raw) if mark == "#" and (at == 0 or raw[at - 1].isspace()))
        end = next(comments, None)
        line = raw[:end].rstrip()
        if not line.strip() or line in ("---", "..."):
            continue
        if depth:
            lines[-1] += " " + line.strip()
        else:
            lines.append(line)
        marks = [mark for _, mark in _marks(line)]
        depth += sum(marks.count(mark) for mark in "[{") - sum(marks.count(mark) for mark in "]}")
    if depth > 0:
        raise InputError(path, "has a bracket that is not closed", "expected YAML")
    return lines


def _marks(text: str) -> Iterator[tuple[int, str]]:
    """Places and characters outside of quotes; a quote begins a value, it is no apostrophe."""
    quote, before = "", ""
    for place, character in enumerate(text):
        if quote:
            if character == quote and (quote == "'" or text[place - 1] != "\\"):
                quote = ""
        elif character in "'\"" and before in ("", ",", "[", "{", ":", "-", "'"):
            quote = character
        else:
            yield place, character
        before = before if character.isspace() else character


def _name_and_value(text: str) -> tuple[str | None, str]:
    """What stands before and after the first colon; no name where there is none."""
    colon = next((at for at, mark in _marks(text) if mark == ":" and text[at + 1:at + 2] in ("", " ")), None)
    return (None, text) if colon is None else (_unquoted(text[:colon]), text[colon + 1:].strip())


def _value(text: str) -> object:
    if text[:1] + text[-1:] not in ("[]", "{}"):
        return _unquoted(text)
    inner = text[1:-1]
    ends = [-1, *(place for place, mark in _marks(inner) if mark == ","), len(inner)]
    items = [item for first, last in pairwise(ends) if (item := inner[first + 1:last].strip())]
    if text[0] == "[":
        return [_unquoted(item) for item in items]
    return {name: _unquoted(value) for name, value in map(_name_and_value, items) if name is not None}


def _unquoted(text: str) -> str:
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] == "'":
        return text[1:-1].replace("''", "'")
    if len(text) > 1 and text[0] == text[-1] == '"':
        return re.sub(r"\\(.)", r"\1", text[1:-1])
    return text
