"""Tables as spreadsheets and annotation tools write them: which column is which, whatever separates them."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass

from drstool.errors import InputError

__all__ = ["Table", "column_names", "find_columns", "is_housekeeping", "read_table", "role_of"]

# The columns that mean something, and the names they go by; what else a table holds is left alone.
_NAMES = {
    "id": ("id", "image_id", "imageid"),
    "image": ("image", "file", "filename", "file_name", "path", "image_path", "file_path", "filepath", "image_name"),
    "tags": ("tags", "labels", "label", "class", "classes", "tag"),
    "mask": ("mask",),
    "saliency": ("saliency",),
    "split": ("split",),
}
_ROLES = {name: role for role, names in _NAMES.items() for name in names}
# Columns of annotation tools and of other programs that may hold 0 and 1, but are no classes.
_HOUSEKEEPING = frozenset((
    "annotation_id", "count", "difficult", "fold", "index", "is_crowd", "is_test", "is_train", "is_valid", "iscrowd",
    "occluded", "quality", "region_count", "region_id", "truncated"))
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}


def role_of(name: str) -> str | None:
    """What a column means, by its name in any case; None for one that means nothing here.

    Examples
    --------
    >>> role_of("File Name"), role_of("Labels"), role_of("width")
    ('image', 'tags', None)
    """
    return _ROLES.get(_plain(name))


def _plain(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.strip()).casefold()


def is_housekeeping(name: str) -> bool:
    """Whether a column of this name says something about the file or its annotation, and is no class."""
    return _plain(name) in _HOUSEKEEPING


def column_names(role: str) -> str:
    """The names that a column of a meaning may have, for messages.

    Examples
    --------
    >>> column_names("tags")
    'tags, labels, label, class, classes, tag'
    """
    return ", ".join(_NAMES[role])


def find_columns(names: Iterable[str], where: object) -> dict[str, str]:
    """The name of each column that means something, by what it means.

    Raises
    ------
    InputError
        Two columns mean the same, and neither has its first name.

    Examples
    --------
    >>> find_columns(["ID", "file_name", "Label", "width"], "m.csv")
    {'id': 'ID', 'image': 'file_name', 'tags': 'Label'}
    """
    found: dict[str, str] = {}
    for name in names:
        if (role := role_of(name)) is None:
            continue
        other = found.setdefault(role, name)
        if other == name or role == other.strip().casefold():
            continue
        if role != name.strip().casefold():
            raise InputError(
                where, f"has the columns '{other}' and '{name}', which both could be '{role}'",
                f"call the right one '{role}'")
        found[role] = name
    return found


@dataclass(frozen=True)
class Table:
    """The cells of a table.

    Attributes
    ----------
    names
        Of the columns; some may be empty.
    rows
        Each row's place in the file and its cells, as many as there are names, without spaces at their ends.
    """

    names: tuple[str, ...]
    rows: list[tuple[str, list[str]]]

    def column(self, name: str) -> list[str]:
        """The cells of a column."""
        at = self.names.index(name)
        return [cells[at] for _, cells in self.rows]


def read_table(text: str, where: object) -> Table:
    """The table in a text, whose first line names the columns.

    The delimiter is the one of comma, semicolon and tab that the first line has most of. Blank rows are
    left out, and a row may lack cells at its end.

    Raises
    ------
    InputError
        It is empty; the first line has as many of two delimiters, or names a column twice; a row has more
        cells than the first line, or is not valid CSV.

    Examples
    --------
    >>> read_table("id; image\\n1; a b.jpg\\n;\\n", "m.csv")
    Table(names=('id', 'image'), rows=[('m.csv line 2', ['1', 'a b.jpg'])])
    """
    if not text.strip():
        raise InputError(where, "is empty", "the first line names the columns: id,image,tags")
    first, _, rest = text.lstrip("\n").partition("\n")
    delimiter = re.fullmatch(r"sep=(.)", first.strip("\"' "))
    if delimiter is not None:
        # Written by spreadsheets for each other.
        return _read(rest, delimiter[1], where, text.count("\n") - rest.count("\n"))
    return _read(text, _delimiter(first, where), where, 0)


def _delimiter(header: str, where: object) -> str:
    header = re.sub(r'"[^"]*"', "", header)
    most = max(map(header.count, _DELIMITERS))
    found = [mark for mark in _DELIMITERS if header.count(mark) == most]
    if most and len(found) > 1:
        raise InputError(
            where, f"has as many {' as '.join(_DELIMITERS[mark] for mark in found)} in its first line",
            "separate the columns by one of them, and quote names that contain another")
    return found[0]


def _read(text: str, delimiter: str, where: object, lines_before: int) -> Table:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    names: tuple[str, ...] = ()
    rows = []
    try:
        for cells in reader:
            place = f"{where} line {reader.line_num + lines_before}"
            cells = [cell.strip() for cell in cells]
            if not any(cells):
                continue
            if not names:
                names = _checked_names(cells, where)
                continue
            if any(cells[len(names):]):
                raise InputError(
                    place, "has more columns than the first line",
                    f"quote a field that contains the separator, as in \"cat{delimiter} dog\"")
            rows.append((place, (cells + [""] * len(names))[:len(names)]))
    except csv.Error as error:
        raise InputError(
            f"{where} line {reader.line_num + lines_before}", f"is not a valid row: {error}",
            "check the quotes") from None
    return Table(names, rows)


def _checked_names(cells: list[str], where: object) -> tuple[str, ...]:
    named = [cell for cell in cells if cell]
    twice = next((name for name in named if named.count(name) > 1), None)
    if twice is not None:
        raise InputError(where, f"has two columns '{twice}'", "give each column a name of its own")
    return tuple(cells)
