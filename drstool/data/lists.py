"""Lists of images, one a line: ids, or paths of their files, perhaps with tags."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Collection, Container, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from drstool.data.cells import (
    SEPARATORS, ListedTags, TagForm, read_columns, read_numbers, some_columns, split_cells,
)
from drstool.data.files_by_id import IMAGE_SUFFIXES, list_folder
from drstool.data.image_files import id_of_path, missing_image, resolve
from drstool.data.item import RawDataset, RawItem, each_or_error
from drstool.data.table import role_of
from drstool.data.tags import gather_names
from drstool.errors import InputError, UsageError
from drstool.files import is_file, read_beginning, status
from drstool.identifiers import check_id
from drstool.text import quoted, read_lines

__all__ = ["id_of", "notices_of_tag_files", "read_ids", "read_image_list", "read_tag_list", "split_id"]

# The longest path on common systems; a line may be longer in a file that is not a list.
_LONGEST_ID = 4096
_ENDINGS = "|".join(suffix[1:] for suffix in sorted(IMAGE_SUFFIXES))
_IMAGE_PATH = re.compile(rf"(.+?\.(?:{_ENDINGS}))(?=[\s,;]|$)(.*)", re.IGNORECASE)
# What --tags reads, and some of what it does not.
_TAG_FILES, _SPREADSHEETS = (".csv", ".tsv", ".jsonl", ".txt"), (".xlsx", ".xls", ".ods")
# Of that many files only the beginning is looked at.
_LOOKED_AT, _BEGINNING_BYTES = 20, 1 << 16
_BELOW_IMAGES = re.compile(r"(?:.*/)?JPEGImages/(.+)")


def id_of(text: str, ids: Container[str]) -> str:
    """The id that a list names by itself or by the path of its image.

    Lists name ``ID``, ``ID.jpg``, ``/JPEGImages/ID.jpg``, ``VOC2012/JPEGImages/ID.jpg`` and absolute paths.

    Examples
    --------
    >>> id_of("/home/me/VOC2012/JPEGImages/2007_000032.jpg", ()), id_of(r"images\\a.jpg", {"a"}), id_of("v1.0", ())
    ('2007_000032', 'a', 'v1.0')
    """
    if text in ids:
        return text
    path = text.replace("\\", "/")
    below = found[1] if (found := _BELOW_IMAGES.fullmatch(path)) else path
    stem, suffix = os.path.splitext(below)
    if suffix.lower() not in IMAGE_SUFFIXES:
        return text
    base = os.path.basename(stem)
    return base if base in ids and stem not in ids else stem


def split_id(line: str, ids: Container[str]) -> tuple[str, str]:
    """The image id at the start of a line, and the rest of the line.

    The id ends at a tab. In a line without one it is the longest beginning, up to a space, that is
    among ``ids``; if there is none, the path of an image, or the first column.

    Examples
    --------
    >>> split_id("my photo 3 14", {"my photo"})
    ('my photo', '3 14')
    >>> split_id("2007_000032 0 14", set())
    ('2007_000032', '0 14')
    >>> split_id("/JPEGImages/2007_000032.jpg /SegmentationClassAug/2007_000032.png", set())
    ('2007_000032', '/SegmentationClassAug/2007_000032.png')
    """
    if "\t" in line:
        identifier, _, rest = line.partition("\t")
        return id_of(identifier.strip(), ids), rest.strip()
    end = len(line) if len(line) <= _LONGEST_ID else line.rfind(" ", 0, _LONGEST_ID)
    while end > 0:
        if line[:end] in ids:
            return line[:end], line[end:].strip()
        end = line.rfind(" ", 0, end)
    if found := _IMAGE_PATH.fullmatch(line):
        return id_of(found[1], ids), found[2].strip(" ,;")
    for mark in ",;":
        identifier, _, rest = line.partition(mark)
        if identifier.strip() in ids:
            return identifier.strip(), rest.strip()
    first, *others = line.split(maxsplit=1)
    return first, others[0] if others else ""


def read_ids(path: str | Path, ids: Collection[str]) -> list[str]:
    """The ids that a file names, one on each line, as a split does, or in JSON lines as ``drstool ids`` prints them.

    Parameters
    ----------
    path
        Text file.
    ids
        Ids of the dataset, by which paths and ids with spaces are told.

    Raises
    ------
    InputError
        It cannot be read.
    """
    return [_id_of_line(line, ids) for line in read_lines(path)]


def _id_of_line(line: str, ids: Collection[str]) -> str:
    if line.startswith("{") and line not in ids:
        with suppress(ValueError, RecursionError):
            found = json.loads(line)
            if isinstance(found, dict) and isinstance(found.get("id"), str):
                return found["id"]
    return split_id(line, ids)[0] if len(line.split(maxsplit=1)) > 1 else id_of(line, ids)


def notices_of_tag_files(folders: Iterable[Path], ids: Collection[str]) -> tuple[str, ...]:
    """Lines for the user about files that may list the tags of images, whose tags are not known.

    Parameters
    ----------
    folders
        Where to look; not below them.
    ids
        Of the images. A file of tags has one, or an image's name, in a line with something else.
    """
    known, told = (*_TAG_FILES, *_SPREADSHEETS, ".json"), []
    paths = [Path(folder, name) for folder in dict.fromkeys(folders) for name in list_folder(folder)[0]]
    for path in [path for path in paths if path.suffix.lower() in known and path.stem not in ids][:_LOOKED_AT]:
        # Without null bytes ASCII is the same in UTF-16.
        lines = read_beginning(path, _BEGINNING_BYTES).replace(b"\0", b"").decode(errors="ignore").splitlines()
        if path.suffix.lower() in _SPREADSHEETS or any(_names_image(line, ids) for line in lines):
            right = f"give it with --tags {path}" if path.suffix.lower() in _TAG_FILES else "save it as CSV for --tags"
            told.append(f"{path}: may hold the tags of the images, and is not read; {right}")
    return tuple(told)


def _names_image(line: str, ids: Collection[str]) -> bool:
    """Whether a line has an id or an image's name, and something else than further images, such as its mask."""
    identifier, rest = split_id(line, ids) if line.strip() else ("", "")
    tags = rest
    while found := _IMAGE_PATH.fullmatch(tags):
        tags = found[2].strip(" ,;\t")
    if rest and not tags:
        return False
    parts = re.split(r'[\t,;|"]', line)
    return bool(rest) and identifier in ids or len(parts) > 1 and any(id_of(part.strip(), ids) in ids for part in parts)


def read_tag_list(path: str | Path, ids: Collection[str], form: TagForm) -> ListedTags:
    """Tags by image id from lines ``id class class …`` (VOC's ``_cls.txt`` form).

    Classes are names, numbers counted from 0, or a 0 or 1 for each class. Between them are spaces, or one of
    tab, ``;``, ``,`` and ``|``, or a name is quoted. A first line ``id cat dog`` names columns of 0 and 1.

    Parameters
    ----------
    path
        Text file.
    ids
        Ids of the dataset, by which the end of an id with spaces is found.
    form

    Raises
    ------
    InputError
        It cannot be read, is empty, lists an id twice, or its tags can be read in several ways.
    """
    lines = read_lines(path)
    header = _header(lines[0], ids) if lines else []
    rows: dict[str, str] = {}
    for line in lines[bool(header):]:
        identifier, rest = split_id(line, ids)
        if identifier in rows:
            raise InputError(
                path, f"lists id {identifier!r} twice, with {rows[identifier]!r:.40} and {rest!r:.40}",
                "list each image once")
        rows[identifier] = rest
    if not rows:
        raise InputError(path, "is empty", "each line is an id and its classes: 2007_000032 0 14")
    if len(header) > 1 or header and role_of(header[0]) != "tags":
        return _of_columns(header, rows, path, form)
    words, notices = _words(list(rows.values()), path, form)
    tags, noticed = read_numbers(words, path, form)
    return ListedTags(dict(zip(rows, tags, strict=True)), notices=notices + noticed)


def read_image_list(path: Path, split: str | None, form: TagForm | None, images: Path | None = None) -> RawDataset:
    """The images of lines ``image``, ``image mask`` or ``image class class …``; images are named by their paths.

    Parameters
    ----------
    path
        Text file. Relative paths start at its folder, and so do those that begin with ``/`` where there is no
        such file.
    split
        None; a list has no splits.
    form
        How tags may be written; None: they are not read.
    images
        Folder of the images; by default that of the list.

    Raises
    ------
    InputError
        It cannot be read, is empty, or lists an image twice; a line begins with no image.
    UsageError
        A split is named.
    """
    if split is not None:
        raise UsageError("--split", f"{path} is a list of images, which has no splits", "omit it")
    rows: dict[str, RawItem] = {}
    rests: list[str] = []
    base = images or path.parent
    for line in read_lines(path):
        if (found := _IMAGE_PATH.fullmatch(line)) is None:
            raise InputError(
                path, f"{line!r:.60} does not begin with the path of an image",
                "a list of ids goes with a VOC folder: --data FOLDER --split LIST")
        identifier = check_id(id_of_path(id_of(found[1], ())), path)
        if identifier in rows:
            raise InputError(
                path, f"lists id {identifier!r} twice: {rows[identifier].image} and {found[1]}", "list each image once")
        rest = found[2].strip(" ,;\t")
        mask = _below(base, rest) if _IMAGE_PATH.fullmatch(rest) else None
        rows[identifier] = RawItem(identifier, _below(base, found[1]), None, mask, where=str(path))
        rests.append("" if mask else rest)
    if not rows:
        raise InputError(path, "lists no images", "give the path of one image per line")
    listed = _tagged(list(rows.values()), rests, path, form)
    present, missing = each_or_error(listed.rows, _existing)
    return replace(listed, rows=present, missing=missing)


def _tagged(rows: list[RawItem], rests: list[str], path: Path, form: TagForm | None) -> RawDataset:
    if form is None or not any(rests):
        return RawDataset(rows, None, False, "none")
    words, notices = _words(rests, path, form)
    tags, noticed = read_numbers(words, path, form)
    rows = [replace(row, tags=known) for row, known in zip(rows, tags, strict=True)]
    return RawDataset(rows, gather_names(tags, path), False, "list", notices=notices + noticed)


def _existing(row: RawItem) -> RawItem:
    if not is_file(row.image):
        raise missing_image(
            row.image, row.where, row.id, "paths are relative to the folder of the list, or to --images")
    return row


def _below(base: Path, text: str) -> Path:
    """The path in a list, whose leading ``/`` may stand for the dataset's folder."""
    path = resolve(base, text)
    return path if status(path) is not None else resolve(base, text.lstrip("/"))


def _header(line: str, ids: Collection[str]) -> list[str]:
    """The names of the columns behind the id, if a line names columns; else none."""
    first, *others = _split(line)
    return others if first not in ids and role_of(first) in ("id", "image") else []


def _split(line: str) -> list[str]:
    mark = next((mark for mark in ("\t", *SEPARATORS) if mark in line), None)
    return [part.strip() for part in line.split(mark)]


def _of_columns(header: list[str], rows: dict[str, str], path: str | Path, form: TagForm) -> ListedTags:
    places = [f"{path}: {identifier}" for identifier in rows]
    cells = list(map(_split, rows.values()))
    for place, row in zip(places, cells, strict=True):
        if len(row) != len(header):
            raise InputError(place, f"has {len(row)} columns of tags", f"the first line names {len(header)}")
    columns = {name: [row[at] for row in cells] for at, name in enumerate(header)}
    names, tags, _ = read_columns(columns, places, path, form)
    if not names:
        raise InputError(
            path, f"names the columns {quoted(header)}, which are not classes, or do not hold 0 and 1",
            "list each image's classes in a line 'ID CLASS CLASS', or save a table as .csv")
    unused = {name: cells for name, cells in columns.items() if name not in names}
    notices = (f"{path}: columns not used: {some_columns(unused)}",) if unused else ()
    return ListedTags(dict(zip(rows, tags, strict=True)), names, notices)


def _words(
    texts: list[str], path: str | Path, form: TagForm,
) -> tuple[list[Sequence[str] | None], tuple[str, ...]]:
    """The tags in the rests of the lines, as they are written, and notices; for :func:`read_numbers`."""
    names = frozenset(form.class_names or ())
    if form.separator is None and any("\t" in text for text in texts):
        words = [[part.strip() for part in text.split("\t")] for text in texts]
    elif form.separator is None and any('"' in text for text in texts):
        words = [next(csv.reader([text], delimiter=" ", skipinitialspace=True), []) for text in texts]
    elif form.separator is not None or any(mark in text for text in texts for mark in SEPARATORS):
        return split_cells(texts, path, form)
    else:
        words = [_joined(text.split(), names) for text in texts]
    return [tuple(filter(None, row)) or form.empty for row in words], ()


def _joined(words: list[str], names: frozenset[str]) -> list[str]:
    """The words, of which several are one where they are the name of a class."""
    longest = max((len(name.split()) for name in names), default=1)
    found, at = [], 0
    while at < len(words):
        count = next((n for n in range(longest, 1, -1) if " ".join(words[at:at + n]) in names), 1)
        found.append(" ".join(words[at:at + count]))
        at += count
    return found
