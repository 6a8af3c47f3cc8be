"""A folder with one subfolder of images per class: the subfolder's name is the image's tag."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from drstool.data.files_by_id import FilesById, holds_images, list_folder
from drstool.data.folder_names import meaning_of
from drstool.data.item import RawDataset, RawItem
from drstool.errors import InputError
from drstool.files import is_folder
from drstool.labels import check_class_names

__all__ = ["read_folder"]


def read_folder(root: Path, split: str | None, known: Collection[str] = ()) -> RawDataset:
    """The images of ``ROOT/CLASS/*``, or of ``ROOT/SPLIT/CLASS/*``; ids are ``CLASS/STEM``.

    Classes are sorted by name. Those of the other splits are included, so that the class numbers
    are the same in all splits. Names of splits, images or masks are no classes unless they are ``known`` ones.

    Raises
    ------
    InputError
        No such split, no image, or two images with the same id.
    """
    base = root if split is None else root / split
    if not is_folder(base):
        raise InputError(root, f"has no split '{split}'", f"expected a folder {base}")
    classes = _classes(base, known)
    if not classes:
        raise InputError(base, "has no subfolder with images", _advice(base))
    siblings = [] if split is None else _subfolders(root)
    names = {name for place in (base, *siblings) for name in _classes(place, known)}
    files = FilesById(base)
    rows = [RawItem(identifier, files.must_find(identifier, str(base)), (name,))
            for name in classes for identifier in files.ids(name, unique=True, deep=False)]
    return RawDataset(rows, check_class_names(sorted(names), root), False, "folder")


def _classes(folder: Path, known: Collection[str] = ()) -> list[str]:
    return [path.name for path in _subfolders(folder) if holds_images(path)
            and (path.name in known or meaning_of(path.name) is None)]


def _subfolders(folder: Path) -> list[Path]:
    return [folder / name for name in list_folder(folder)[1]]


def _advice(folder: Path) -> str:
    for path in _subfolders(folder):
        if is_folder(path / "JPEGImages"):
            return f"did you mean the VOC folder {path}?"
    splits = [path.name for path in _subfolders(folder) if _classes(path)]
    if splits:
        return f"did you mean --split {' or --split '.join(splits)}?"
    return "expected a VOC folder, one subfolder of images per class, or a manifest"
