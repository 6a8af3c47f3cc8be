"""Manifests: a table of images as JSON lines, CSV or TSV.

A row has ``id`` and ``image``, and optionally ``tags``, ``mask``, ``saliency`` and ``split``. In
JSON lines the tags are a list; in CSV and TSV they are in one column, separated by ``;``. A JSON
line ``{"class_names": [...]}`` without an image lists the classes in label order. Relative paths
start at the manifest's folder; for a manifest on stdin, at the current one. A mask is a label
PNG, or ``FILE.json#IMAGE_ID`` for an image of a COCO file.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from drstool.data.coco import CocoMask, category_names
from drstool.data.item import Rasterizable, RawDataset, RawItem
from drstool.data.masks import mask_file
from drstool.data.tags import gather_names
from drstool.data.text import read_stdin_text, read_text
from drstool.errors import InputError
from drstool.files import is_file
from drstool.identifiers import check_id
from drstool.labels import object_classes

__all__ = ["SUFFIXES", "read_manifest", "read_manifest_stdin", "read_manifest_tags"]

SUFFIXES = (".jsonl", ".csv", ".tsv")
_TAG_SEPARATOR = ";"
_COLUMNS = ("id", "image", "tags", "mask", "saliency", "split")


def read_manifest(path: Path, split: str | None) -> RawDataset:
    """The images of a manifest file, or of one split if it has a ``split`` column.

    Raises
    ------
    InputError
        It cannot be read, lacks a column, lists an id twice or a missing image, or has no such
        split.
    """
    return _dataset(_read_table(path), split, path)


def read_manifest_stdin(stdin: TextIO | None, split: str | None) -> RawDataset:
    """The images of a JSON-lines manifest on stdin; ``split`` is ignored if it has no splits.

    Raises
    ------
    InputError
        As :func:`read_manifest`.
    """
    table = _table(_json_rows(read_stdin_text(stdin), "stdin"), Path(), "stdin")
    return _dataset(table, split if table.splits else None, "stdin")


def read_manifest_tags(path: Path) -> dict[str, tuple[str | int, ...]]:
    """Tags by image id from a manifest; its images need not exist.

    Raises
    ------
    InputError
        It cannot be read, lacks a column, has no tags, or lists an id twice.
    """
    items = _read_table(path, required=("id", "tags")).items
    return {identifier: item.tags for identifier, item in items.items() if item.tags is not None}


@dataclass(frozen=True)
class _Table:
    """Images and, where given, their splits, by id; the class names if a line lists them."""

    items: dict[str, RawItem]
    splits: dict[str, str]
    class_names: tuple[str, ...] | None
    notices: tuple[str, ...] = ()


def _dataset(table: _Table, split: str | None, where: object) -> RawDataset:
    """The images of a split, checked to exist, with the names of their classes."""
    if not table.items:
        raise InputError(where, "lists no images", "give one image per line")
    rows = list(table.items.values())
    if split is not None:
        known = sorted(set(table.splits.values()))
        if not known:
            raise InputError(where, "has no splits", f"add a column 'split', or omit --split {split}")
        if split not in known:
            raise InputError(where, f"has no split '{split}'", f"choose from {', '.join(known[:8])}")
        rows = [row for row in rows if table.splits.get(row.id) == split]
    missing = {
        row.id: InputError(
            row.where, f"image {row.id!r} is missing: {row.image}", "paths are relative to the manifest's folder")
        for row in rows if not is_file(row.image)}
    rows = [row for row in rows if row.id not in missing]
    names, stated = table.class_names, table.class_names is not None
    coco = next((row.mask for row in rows if isinstance(row.mask, CocoMask)), None)
    if names is None and coco is not None:
        names = category_names(coco.path)
    if names is None:
        # From all splits, so that the class numbers are the same in all of them.
        names = gather_names((item.tags for item in table.items.values()), where)
    known_tags = any(row.tags is not None for row in rows)
    return RawDataset(
        rows, names, stated, "manifest" if known_tags else "none", notices=table.notices,
        missing=tuple(missing.values()))


def _read_table(path: Path, required: tuple[str, ...] = ("id", "image")) -> _Table:
    text, suffix = read_text(path), path.suffix.lower()
    if suffix == ".jsonl":
        return _table(_json_rows(text, path), path.parent, path, required)
    return _table(_csv_rows(text, path, "\t" if suffix == ".tsv" else ",", required), path.parent, path, required)


def _table(
    rows: Iterable[tuple[str, dict]], base: Path, where: object, required: tuple[str, ...] = ("id", "image"),
) -> _Table:
    """The table of rows, each of which comes with its place in the file."""
    items, splits, class_names, notices = {}, {}, None, ()
    for place, fields in rows:
        if "class_names" in fields and "image" not in fields:
            class_names, notices = _stated_names(fields["class_names"], place)
            continue
        for name in required:
            if fields.get(name) is None:
                raise InputError(place, f"has no '{name}'", f"a row needs {' and '.join(required)}")
        image, mask, saliency, split = (_text(fields, name, place) for name in ("image", "mask", "saliency", "split"))
        identifier = check_id(fields["id"], place)
        if identifier in items:
            raise InputError(where, f"lists id {identifier!r} twice", "list each image once")
        items[identifier] = RawItem(
            identifier, base / (image or ""), _tags(fields, place), _mask(mask, base),
            None if saliency is None else base / saliency, place)
        if split is not None:
            splits[identifier] = split
    return _Table(items, splits, class_names, notices)


def _json_rows(text: str, where: object) -> Iterator[tuple[str, dict]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        place, right = f"{where} line {number}", 'a line is {"id": …, "image": …, "tags": […]}'
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(place, f"is not JSON: {error}", right) from None
        if not isinstance(fields, dict):
            raise InputError(place, "is not a JSON object", right)
        yield place, fields


def _csv_rows(text: str, where: object, delimiter: str, required: tuple[str, ...]) -> Iterator[tuple[str, dict]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = [(name or "").strip() for name in reader.fieldnames or ()]
        missing = [name for name in required if name not in header]
        if missing:
            raise InputError(
                where, f"has no column {' and no column '.join(missing)}",
                "the first line names the columns: id,image,tags")
        reader.fieldnames = header
        for row in reader:
            place = f"{where} line {reader.line_num}"
            if None in row:
                raise InputError(
                    place, "has more columns than the first line",
                    f"quote a field that contains the separator; tags are separated by '{_TAG_SEPARATOR}'")
            fields: dict = {name: row[name] for name in _COLUMNS if row.get(name)}
            if row.get("tags") is not None:
                fields["tags"] = [tag for part in row["tags"].split(_TAG_SEPARATOR) if (tag := part.strip())]
            yield place, fields
    except csv.Error as error:
        raise InputError(
            f"{where} line {reader.line_num}", f"is not a valid row: {error}", "check the quotes") from None


def _mask(text: str | None, base: Path) -> Path | Rasterizable | None:
    if text is None:
        return None
    file, mark, image_id = text.rpartition("#")
    if mark and file.lower().endswith(".json"):
        return CocoMask(base / file, image_id)
    return mask_file(base / text)


def _stated_names(names: object, where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if not isinstance(names, list):
        raise InputError(where, "'class_names' is not a list", 'write ["cat", "dog"]')
    return object_classes(names, where)


def _text(fields: dict, name: str, where: str) -> str | None:
    value = fields.get(name)
    if value is not None and not (isinstance(value, str) and value and _may_be_path(value)):
        raise InputError(where, f"'{name}' is not a valid text: {value!r:.60}", "expected a path")
    return value


def _may_be_path(text: str) -> bool:
    """Whether the system accepts it as a name, without null bytes or lone surrogates."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def _tags(fields: dict, where: str) -> tuple[str | int, ...] | None:
    tags = fields.get("tags")
    if tags is None:
        return None
    if not isinstance(tags, list) or not all(type(tag) in (str, int) for tag in tags):
        raise InputError(where, f"'tags' is not a list of class names: {tags!r:.60}", 'write ["cat", "dog"]')
    return tuple(tags)
