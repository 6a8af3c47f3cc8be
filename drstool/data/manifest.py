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
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from drstool.data.coco import CocoMask, category_names
from drstool.data.item import RawDataset, RawItem
from drstool.data.tags import gather_names
from drstool.data.text import decode_text, read_text
from drstool.errors import InputError
from drstool.identifiers import check_id
from drstool.labels import check_class_names

__all__ = ["SUFFIXES", "read_manifest", "read_manifest_stdin", "read_manifest_tags"]

SUFFIXES = (".jsonl", ".csv", ".tsv")
_TAG_SEPARATOR = ";"
_REQUIRED = ("id", "image")


def read_manifest(path: Path, split: str | None) -> RawDataset:
    """The images of a manifest file, or of one split if it has a ``split`` column.

    Raises
    ------
    InputError
        It cannot be read, lacks a column, lists an id twice or a missing image, or has no such
        split.
    """
    return _found(_table(path), path.parent, split, path)


def read_manifest_stdin(stdin: TextIO | None, split: str | None) -> RawDataset:
    """The images of a JSON-lines manifest on stdin; ``split`` is ignored if it has no splits.

    Raises
    ------
    InputError
        As :func:`read_manifest`.
    """
    stdin = sys.stdin if stdin is None else stdin
    if stdin is None:
        raise InputError("stdin", "is closed", "pipe a manifest into it")
    # Whatever the locale's encoding, a manifest is UTF-8.
    buffer = getattr(stdin, "buffer", None)
    text = stdin.read() if buffer is None else decode_text(buffer.read(), "stdin")
    table = _json_table(text, "stdin")
    if not any(record.split for record in table.records):
        split = None
    return _found(table, Path(), split, "stdin")


def read_manifest_tags(path: Path) -> dict[str, tuple[str | int, ...]]:
    """Tags by image id from a manifest; its images need not exist.

    Raises
    ------
    InputError
        It cannot be read, lacks a column, has no tags, or lists an id twice.
    """
    table = _table(path, required=("id", "tags"))
    _check_unique(table.records, path)
    return {record.id: record.tags for record in table.records if record.tags is not None}


@dataclass(frozen=True)
class _Record:
    where: str
    id: str
    image: str | None
    tags: tuple[str | int, ...] | None
    mask: str | None
    saliency: str | None
    split: str | None


@dataclass(frozen=True)
class _Table:
    records: list[_Record]
    class_names: tuple[str, ...] | None = None


def _found(table: _Table, base: Path, split: str | None, where: object) -> RawDataset:
    records = table.records
    if not records:
        raise InputError(where, "lists no images", "give one image per line")
    _check_unique(records, where)
    chosen = records if split is None else _of_split(records, split, where)
    rows = [_row(record, base) for record in chosen]
    names, stated = table.class_names, table.class_names is not None
    coco = next((row.mask for row in rows if isinstance(row.mask, CocoMask)), None)
    if names is None and coco is not None:
        names, stated = category_names(coco.path), False
    if names is None:
        # From all splits, so that the class numbers are the same in all of them.
        names = gather_names((record.tags for record in records), where)
    known = any(row.tags is not None for row in rows)
    return RawDataset(rows, names, stated, "manifest" if known else "none")


def _check_unique(records: list[_Record], where: object) -> None:
    seen: set[str] = set()
    for record in records:
        if record.id in seen:
            raise InputError(where, f"lists id {record.id!r} twice", "list each image once")
        seen.add(record.id)


def _of_split(records: list[_Record], split: str, where: object) -> list[_Record]:
    known = sorted({record.split for record in records if record.split})
    if not known:
        raise InputError(where, "has no splits", f"add a column 'split', or leave out --split {split}")
    if split not in known:
        raise InputError(where, f"has no split '{split}'", f"choose from {', '.join(known[:8])}")
    return [record for record in records if record.split == split]


def _row(record: _Record, base: Path) -> RawItem:
    image = base / (record.image or "")
    if not os.path.isfile(image):
        raise InputError(
            record.where, f"image {record.id!r} is missing: {image}", "paths start at the manifest's folder")
    saliency = None if record.saliency is None else base / record.saliency
    return RawItem(record.id, image, record.tags, _mask(record.mask, base), saliency, record.where)


def _mask(text: str | None, base: Path) -> Path | CocoMask | None:
    if text is None:
        return None
    file, mark, image_id = text.rpartition("#")
    if mark and file.lower().endswith(".json"):
        return CocoMask(base / file, image_id)
    return base / text


def _table(path: Path, required: tuple[str, ...] = _REQUIRED) -> _Table:
    text = read_text(path)
    if path.suffix.lower() == ".jsonl":
        return _json_table(text, path, required)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    return _Table(list(_csv_records(text, path, delimiter, required)))


def _json_table(text: str, where: object, required: tuple[str, ...] = _REQUIRED) -> _Table:
    records: list[_Record] = []
    class_names = None
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{where} line {number}"
        fields = _json_object(line, place)
        if "class_names" in fields and "image" not in fields:
            class_names = _stated_names(fields["class_names"], place)
        else:
            records.append(_record(fields, place, required))
    return _Table(records, class_names)


def _json_object(line: str, where: str) -> dict:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(where, f"is not JSON: {error}", 'a line is {"id": …, "image": …, "tags": […]}') from None
    if not isinstance(fields, dict):
        raise InputError(where, "is not a JSON object", 'a line is {"id": …, "image": …, "tags": […]}')
    return fields


def _stated_names(names: object, where: str) -> tuple[str, ...]:
    if not isinstance(names, list):
        raise InputError(where, "'class_names' is not a list", 'write ["cat", "dog"]')
    return check_class_names(names, where)


def _csv_records(text: str, where: object, delimiter: str, required: tuple[str, ...]) -> Iterator[_Record]:
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = [(name or "").strip() for name in reader.fieldnames or ()]
        missing = [name for name in required if name not in header]
        if missing:
            raise InputError(
                where, f"has no column {' and no column '.join(missing)}",
                "the first line names the columns: id,image,tags")
        reader.fieldnames = header
        for fields in reader:
            yield _csv_record(fields, f"{where} line {reader.line_num}", required)
    except csv.Error as error:
        raise InputError(
            f"{where} line {reader.line_num}", f"is not a valid row: {error}", "check the quotes") from None


def _csv_record(fields: dict, where: str, required: tuple[str, ...]) -> _Record:
    if None in fields:
        raise InputError(
            where, "has more columns than the first line",
            f"quote a field that contains the separator; tags are separated by '{_TAG_SEPARATOR}'")
    given = {name: text for name, text in fields.items() if text}
    if fields.get("tags") is not None:
        parts = (part.strip() for part in fields["tags"].split(_TAG_SEPARATOR))
        given["tags"] = [part for part in parts if part]
    return _record(given, where, required)


def _record(fields: dict, where: str, required: tuple[str, ...]) -> _Record:
    for name in required:
        if fields.get(name) is None:
            raise InputError(where, f"has no '{name}'", f"a row needs {' and '.join(required)}")
    texts = {name: _text(fields, name, where) for name in ("image", "mask", "saliency", "split")}
    return _Record(where, check_id(fields["id"], where), tags=_tags(fields, where), **texts)


def _text(fields: dict, name: str, where: str) -> str | None:
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not value or not _may_be_path(value):
        raise InputError(where, f"'{name}' is not a valid text: {value!r:.60}", "give a path")
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
