"""Manifests: a table of images as JSON lines, CSV or TSV.

A row has ``image`` or ``id``, and optionally ``tags``, ``mask``, ``saliency`` and ``split``, under one of
their usual names (:mod:`drstool.data.table`). In JSON lines the tags are a list; in CSV and TSV they are
in one column, or there is a column of 0 and 1 for each class (:mod:`drstool.data.cells`). A JSON line
``{"class_names": [...]}`` without an image lists the classes in label order. Relative paths start at the
manifest's folder; for a manifest on stdin, at the current one; those of images at ``--images``, if given.
A mask is a label PNG; ``FILE.json#IMAGE_ID`` for an image of a COCO file; a labelme ``FILE.json``;
``FILE.png#labelmap.txt`` for one in colours; ``FILE.txt#data.yaml`` for YOLO's labels.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, TextIO

from drstool.annotations.coco import CocoMask, category_names
from drstool.annotations.labelmap import LABELMAP, ColorMask
from drstool.annotations.labelme import LabelmeMask
from drstool.annotations.yolo import YoloMask
from drstool.data.cells import (
    ListedTags, RawTags, TagForm, read_columns, read_numbers, some_columns, split_cells, without_blanks,
)
from drstool.data.image_files import find_image, id_of_path, missing_image, resolve
from drstool.data.item import Rasterizable, RawDataset, RawItem, each_or_error
from drstool.data.files_by_id import IMAGE_SUFFIXES
from drstool.data.masks import mask_file
from drstool.data.table import column_names, find_columns, read_table, role_of
from drstool.data.tags import gather_names, read_names
from drstool.errors import InputError
from drstool.files import is_file, status
from drstool.identifiers import check_id
from drstool.labels import object_classes
from drstool.text import quoted, read_stdin_text, read_text

__all__ = ["SUFFIXES", "read_manifest", "read_manifest_stdin", "read_manifest_tags"]

SUFFIXES = (".jsonl", ".csv", ".tsv")


def read_manifest(path: Path, split: str | None, form: TagForm | None, images: Path | None = None) -> RawDataset:
    """The images of a manifest file, or of one split if it has a ``split`` column.

    Parameters
    ----------
    path, split
    form
        How tags may be written; None: they are not read.
    images
        Folder of the images; by default the manifest's.

    Raises
    ------
    InputError
        It cannot be read, lacks a column, lists an id twice or a missing image, has no such split, or its tags
        can be read in several ways.
    """
    return _dataset(_read(path, form), split, path, images)


def read_manifest_stdin(
    stdin: TextIO | None, split: str | None, form: TagForm | None, images: Path | None = None,
) -> RawDataset:
    """The images of a JSON-lines manifest on stdin; ``split`` is ignored if it has no splits.

    Raises
    ------
    InputError
        As :func:`read_manifest`.
    """
    manifest = _of_json(read_stdin_text(stdin), Path(), "stdin", form)
    return _dataset(manifest, split if manifest.splits else None, "stdin", images)


def read_manifest_tags(path: Path, form: TagForm) -> ListedTags:
    """Tags by image id from a manifest; its images need not exist.

    Raises
    ------
    InputError
        It cannot be read, lacks a column, has no tags, or lists an id twice.
    """
    manifest = _read(path, form)
    if not manifest.has_tags:
        raise InputError(
            path, f"has no column of tags ({column_names('tags')}) and no columns of 0 and 1"
            + (f", but {some_columns(manifest.unread)}" if manifest.unread else ""),
            "the first line names the columns: id,tags")
    tags = {identifier: item.tags for identifier, item in manifest.items.items()}
    return ListedTags(tags, manifest.class_names, manifest.notices + _about_unread(manifest, path))


@dataclass(frozen=True)
class _Manifest:
    """Images and, where given, their splits, by id; the names of the classes, if columns or a line list them.

    Attributes
    ----------
    base
        Where relative paths start.
    stated, background_first
        A line lists the class names; it began with the background.
    has_tags
        There are tags, though perhaps unknown ones, or need not be.
    unread
        Cells of the columns that are not used, by their names.
    """

    base: Path
    items: dict[str, RawItem]
    splits: dict[str, str]
    class_names: tuple[str, ...] | None
    stated: bool
    has_tags: bool
    notices: tuple[str, ...] = ()
    background_first: bool = False
    unread: Mapping[str, Sequence[str]] = field(default_factory=dict)


def _dataset(manifest: _Manifest, split: str | None, where: object, images: Path | None) -> RawDataset:
    """The images of a split, checked to exist, with the names of their classes."""
    if not manifest.items:
        raise InputError(where, "lists no images", "give one image per line")
    rows, known = list(manifest.items.values()), sorted(set(manifest.splits.values()))
    spelt: dict[str, str] = {}
    for name in known:
        if (other := spelt.setdefault(name.strip().casefold(), name)) != name:
            raise InputError(where, f"has the splits '{other}' and '{name}'", "write one of them everywhere")
    if split is not None:
        if not known:
            raise InputError(where, "has no splits", f"add a column 'split', or omit --split {split}")
        if split not in known:
            raise InputError(where, f"has no split '{split}'", f"choose from {', '.join(known[:8])}")
        rows = [row for row in rows if manifest.splits.get(row.id) == split]
    rows, missing = each_or_error(rows, lambda row: _with_image(row, manifest.base, images))
    names = manifest.class_names
    coco = next((row.mask for row in rows if isinstance(row.mask, CocoMask)), None)
    if names is None and coco is not None:
        names = category_names(coco.path)
    if names is None:
        # From all splits, so that the class numbers are the same in all of them.
        names = gather_names((item.tags for item in manifest.items.values()), where)
    known_tags = any(row.tags is not None for row in rows)
    return RawDataset(
        rows, names, manifest.stated, "manifest" if known_tags else "none",
        notices=manifest.notices + _about_unread(manifest, where), missing=missing,
        background_first=manifest.background_first)


def _about_unread(manifest: _Manifest, where: object) -> tuple[str, ...]:
    """A notice of columns that are not used; where tags are in one column, of those that look like classes or masks."""
    tags = {tag for item in manifest.items.values() for tag in item.tags or ()}
    any_may = not manifest.has_tags or manifest.class_names is not None and not manifest.stated
    columns = {name: cells for name, cells in manifest.unread.items()
               if any_may or name in tags or role_of(name) == "tags" or _are_files(cells) and not role_of(name)}
    if not columns:
        return ()
    lacks = "" if manifest.has_tags else f"has no column of tags ({column_names('tags')}); "
    masks = "; a column of masks is called 'mask'" if any(map(_are_files, columns.values())) else ""
    return (f"{where}: {lacks}columns not used: {some_columns(columns)}{masks}",)


def _are_files(cells: Sequence[str]) -> bool:
    """Whether a column names pictures or arrays."""
    return any(cells) and all(cell.lower().endswith((*IMAGE_SUFFIXES, ".mat", ".npy")) for cell in cells if cell)


def _with_image(row: RawItem, base: Path, images: Path | None) -> RawItem:
    """The row with the path of its image, which exists."""
    if row.image == Path():
        if images is None:
            raise InputError(
                row.where, "has no 'image'", f"give the path of image {row.id!r}, or the images' folder by --images")
        return replace(row, image=find_image(images, row.id, row.where))
    path = resolve(images or base, str(row.image))
    if images is not None and status(path) is None:
        # Lists from another machine have paths of that machine.
        path = resolve(images, PurePosixPath(str(row.image).replace("\\", "/")).name)
    if is_file(path):
        return replace(row, image=path)
    if path.suffix.lower() not in IMAGE_SUFFIXES and not path.is_symlink():
        return replace(row, image=find_image(path.parent, path.name, row.where))
    raise missing_image(
        path, row.where, row.id, "paths are relative to the folder of the manifest, or to that of --images")


def _read(path: Path, form: TagForm | None) -> _Manifest:
    text = read_text(path)
    read = _of_json if path.suffix.lower() == ".jsonl" else _of_table
    return read(text, path.parent, path, form)


def _of_table(text: str, base: Path, where: object, form: TagForm | None) -> _Manifest:
    """The manifest that a table is."""
    table = read_table(text, where)
    columns = find_columns(table.names, where)
    if not {"id", "image"} & set(columns):
        raise InputError(
            where, f"has the columns {quoted(table.names)}, but none of an id ({column_names('id')}) or an image "
            f"({column_names('image')})", "the first line names the columns: id,image,tags")
    cells = {role: table.column(name) for role, name in columns.items()}
    places = [place for place, _ in table.rows]
    names: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    tags: list[RawTags] = [None] * len(places)
    if form is not None and "tags" in cells:
        words, notices = split_cells(cells["tags"], where, form)
        tags, noticed = read_numbers(words, where, form)
        notices += noticed
    unread = {name: table.column(name) for name in table.names if name and name not in columns.values()}
    if form is not None and "tags" not in cells:
        names, tags, notices = read_columns(unread, places, where, form)
    rows = [
        (place, {role: column[at] for role, column in cells.items() if role != "tags" and column[at]})
        for at, place in enumerate(places)]
    return _Manifest(
        base, *_items(rows, tags, base), class_names=names or None, stated=False, notices=notices,
        has_tags="tags" in cells or bool(names) or form is not None and form.replaced,
        unread={} if form is None else {name: cells for name, cells in unread.items() if name not in names})


def _of_json(text: str, base: Path, where: object, form: TagForm | None) -> _Manifest:
    """The manifest that JSON lines are."""
    rows, class_names = [], None
    unread: defaultdict[str, list[str]] = defaultdict(list)
    notices: tuple[str, ...] = ()
    for place, found in _json_rows(text, where):
        columns = find_columns(found, place)
        for name, value in found.items():
            if name not in (*columns.values(), "class_names"):
                unread[name].append(str(value))
        fields = {role: found[name] for role, name in columns.items() if found[name] is not None}
        if "class_names" in found and "image" not in fields:
            class_names, notices = _stated_names(found["class_names"], place)
            continue
        rows.append((place, fields))
    known: dict[str, Any] = {
        "class_names": class_names, "stated": class_names is not None, "background_first": bool(notices)}
    if form is None:
        return _Manifest(base, *_items(rows, [None] * len(rows), base), has_tags=False, notices=notices, **known)
    form = form if class_names is None else replace(form, class_names=class_names)
    written = [_tags(fields.pop("tags", None), place) for place, fields in rows]
    split, noticed = split_cells([each if isinstance(each, str) else None for each in written], where, form)
    words = [cell if isinstance(each, str) else each for each, cell in zip(written, split, strict=True)]
    tags, counted = _numbered(words, where, form)
    return _Manifest(
        base, *_items(rows, tags, base), notices=notices + noticed + counted,
        has_tags=any(each is not None for each in written) or form.replaced, unread=unread, **known)


def _items(
    rows: Sequence[tuple[str, dict]], tags: Sequence[RawTags], base: Path,
) -> tuple[dict[str, RawItem], dict[str, str]]:
    """Images and splits by id, of rows that each come with their place in the file."""
    items: dict[str, RawItem] = {}
    splits: dict[str, str] = {}
    for (place, fields), known in zip(rows, tags, strict=True):
        image, mask, saliency, split = (_text(fields, name, place) for name in ("image", "mask", "saliency", "split"))
        if image is None and "id" not in fields:
            raise InputError(place, "has no 'image' and no 'id'", "a row names its image")
        identifier = check_id(fields["id"] if "id" in fields else id_of_path(str(image)), place)
        if identifier in items:
            raise InputError(
                place, f"lists id {identifier!r} twice, first in line {items[identifier].where.rpartition(' ')[2]}",
                "list each image once, with all its tags")
        items[identifier] = RawItem(
            identifier, Path(image or ""), known, _mask(mask, base),
            None if saliency is None else resolve(base, saliency), place)
        if split is not None:
            splits[identifier] = split
    return items, splits


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


def _mask(text: str | None, base: Path) -> Path | Rasterizable | None:
    """Ground truth of an image: a PNG, SBD's file, or what is drawn from an annotation tool's file."""
    if text is None:
        return None
    file, mark, more = text.rpartition("#")
    suffix = Path(file or text).suffix.lower()
    if suffix == ".json":
        return CocoMask(base / file, more) if mark else LabelmeMask(resolve(base, text))
    if mark and suffix == ".png" and more.endswith(LABELMAP):
        return ColorMask(base / file, base / more)
    if mark and suffix == ".txt":
        return YoloMask(base / file, tuple(read_names(base / more)[0]), base / more)
    return mask_file(resolve(base, text))


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


def _tags(tags: object, where: str) -> tuple[str | int, ...] | str | None:
    """The tags of a JSON line; a text is to be split as the cells of a table are."""
    if tags is None or isinstance(tags, str):
        return tags
    tags = [tags] if type(tags) is int else tags
    if not isinstance(tags, list) or not all(type(tag) in (str, int) for tag in tags):
        raise InputError(where, f"'tags' is not a list of class names: {tags!r:.60}", 'write ["cat", "dog"]')
    return tuple(tags)


def _numbered(
    words: Sequence[Sequence[str | int] | None], where: object, form: TagForm,
) -> tuple[list[RawTags], tuple[str, ...]]:
    """The tags of JSON lines, and notices; lists of numbers alone may be 0 or 1 for each class."""
    if not all(isinstance(tag, int) for tags in words for tag in tags or ()):
        words, notices = without_blanks(words, where, form)
        return [None if tags is None else tuple(tags) for tags in words], notices
    return read_numbers([None if tags is None else list(map(str, tags)) for tags in words], where, form)
