"""A folder with one subfolder of images per class: the subfolder's name is the image's tag."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

from drstool.data.item import RawDataset, RawItem
from drstool.errors import InputError
from drstool.files import is_folder, unreadable
from drstool.identifiers import check_id
from drstool.labels import check_class_names

__all__ = ["IMAGE_SUFFIXES", "read_folder"]

IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"))


def read_folder(root: Path, split: str | None) -> RawDataset:
    """The images of ``ROOT/CLASS/*``, or of ``ROOT/SPLIT/CLASS/*``; ids are ``CLASS/STEM``.

    Classes are sorted by name. Those of the other splits are included, so that the class numbers
    are the same in all splits.

    Raises
    ------
    InputError
        No such split, no image, or two images with the same id.
    """
    try:
        return _read(root, split)
    except OSError as error:
        raise unreadable(error.filename or root, error, "check its permissions") from None


def _read(root: Path, split: str | None) -> RawDataset:
    base = root if split is None else root / split
    if not is_folder(base):
        raise InputError(root, f"has no split '{split}'", f"expected a folder {base}")
    classes = _classes(base)
    if not classes:
        raise InputError(base, "has no subfolder with images", _advice(base))
    siblings = [] if split is None else _subfolders(root)
    names = {name for place in (base, *siblings) for name in _classes(place)}
    rows = [row for name in classes for row in _rows(base / name, name)]
    return RawDataset(rows, check_class_names(sorted(names), root), False, "folder")


def _rows(folder: Path, name: str) -> list[RawItem]:
    images = sorted(entry.name for entry in os.scandir(folder) if _is_image(entry))
    rows = [RawItem(check_id(f"{name}/{Path(image).stem}", folder), folder / image, (name,)) for image in images]
    for row, other in pairwise(rows):
        if row.id == other.id:
            raise InputError(
                other.image, f"would have the same id as {row.image.name}: {row.id!r}",
                "give the images different names, not only different endings")
    return rows


def _classes(folder: Path) -> list[str]:
    return [path.name for path in _subfolders(folder) if any(_is_image(entry) for entry in os.scandir(path))]


def _subfolders(folder: Path) -> list[Path]:
    return sorted(
        Path(folder, entry.name) for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))


def _is_image(entry: os.DirEntry) -> bool:
    # No hidden files: some systems put '._name.jpg' beside each file.
    suffix = os.path.splitext(entry.name)[1].lower()
    return suffix in IMAGE_SUFFIXES and not entry.name.startswith(".") and entry.is_file()


def _advice(folder: Path) -> str:
    for path in _subfolders(folder):
        if is_folder(path / "JPEGImages"):
            return f"did you mean the VOC folder {path}?"
    splits = [path.name for path in _subfolders(folder) if _classes(path)]
    if splits:
        return f"did you mean --split {' or --split '.join(splits)}?"
    return "expected a VOC folder, one subfolder of images per class, or a manifest"
