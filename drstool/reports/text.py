"""Numbers as text: aligned tables, CSV, and JSON with one line per row of a matrix."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = [
    "aligned", "counted", "csv_number", "csv_text", "json_number", "json_text", "lines_text", "printable",
    "shown_number",
]

# What a terminal obeys instead of showing it: control characters, line separators and marks of direction; and halves of
# surrogate pairs, which stand for bytes of a file name that are not Unicode.
_UNPRINTABLE = re.compile("[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ufff9-\ufffb\ud800-\udfff]")


def printable(text: str) -> str:
    r"""The text with everything escaped that a terminal would obey, so that it stays one line.

    The escapes are those of JSON: what has been escaped within a JSON text means the same as before.

    Examples
    --------
    >>> printable("cat\x1b[2K\nverified: yes")
    'cat\\u001b[2K\\u000averified: yes'
    """
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def lines_text(lines: Iterable[str]) -> str:
    """The lines as one text, of which each stays one line."""
    return "".join(printable(line) + "\n" for line in lines)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows as lines, with the first column left-aligned and the others right-aligned."""
    rows = [[printable(text) for text in row] for row in rows]
    widths = [max(map(_width, column)) for column in zip(*rows)]
    lines = []
    for first, *others in rows:
        line = first + " " * (widths[0] - _width(first))
        for text, width in zip(others, widths[1:]):
            line += "  " + " " * (width - _width(text)) + text
        lines.append(line)
    return lines


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """The rows as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def json_text(value: dict) -> str:
    """Indented JSON with each list of numbers on one line.

    Examples
    --------
    >>> print(json_text({"a": [[1, 2], [3, 4]]}), end="")
    {
      "a": [
        [1, 2],
        [3, 4]
      ]
    }
    """
    return _json(value, "") + "\n"


def _json(value: object, indent: str) -> str:
    """The value as JSON, whose first line the caller indents."""
    inner = indent + "  "
    if isinstance(value, dict) and value:
        items = [f"{inner}{_json(str(key), '')}: {_json(item, inner)}" for key, item in value.items()]
        return "{\n" + ",\n".join(items) + f"\n{indent}}}"
    if not isinstance(value, (list, tuple)) or all(isinstance(item, (int, float, type(None))) for item in value):
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    return "[\n" + ",\n".join(inner + _json(item, inner) for item in value) + f"\n{indent}]"


def counted(number: int, noun: str) -> str:
    """The number and its noun.

    Examples
    --------
    >>> counted(1, "image"), counted(1200, "image"), counted(2, "class")
    ('1 image', '1,200 images', '2 classes')
    """
    ending = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{ending}"


def json_number(value: Any) -> Any:
    """The value, or None for NaN, which JSON does not have."""
    return None if isinstance(value, float) and math.isnan(value) else value


def shown_number(value: float) -> str:
    """Four digits for a table; a dash for NaN."""
    return "-" if math.isnan(value) else f"{value:.4f}"


def csv_number(value: float) -> str:
    """Six digits for CSV; nothing for NaN."""
    return "" if math.isnan(value) else f"{value:.6f}"


def _width(text: str) -> int:
    """Columns of the text on a terminal: two for a wide East Asian letter, none for a combining mark."""
    return sum(
        0 if unicodedata.combining(letter)
        else 2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)
