"""A folder with one subfolder of images per class: the subfolder's name is the image's tag."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from itertools import combinations
from pathlib import Path

from drstool.data.files_by_id import FilesById, holds_images, is_image, list_folder
from drstool.data.folder_names import may_be_class, meaning_of
from drstool.data.item import RawDataset, RawItem
from drstool.data.paired import annotation_beside
from drstool.errors import InputError
from drstool.files import is_folder
from drstool.labels import check_class_names, is_background, is_object_name, plain_name

__all__ = ["class_folders", "read_folder"]

# Images and masks are in few folders.
_FEW = 10
_LIST = "if the folders are classes, list them with --classes FILE"


def read_folder(root: Path, split: str | None, known: Collection[str] = (), listed: bool = False) -> RawDataset:
    """The images of ``ROOT/CLASS/*``, or of ``ROOT/SPLIT/CLASS/*``; ids are ``CLASS/STEM``.

    Classes are sorted by name. Those of the other splits are included, so that the class numbers
    are the same in all splits. Names of splits, images or masks are no classes unless they are ``known`` ones.
    Images in a folder ``background`` hold no object.

    Parameters
    ----------
    root, split
    known
        Names that are classes.
    listed
        Whether there are no others: folders of other names are left out.

    Raises
    ------
    InputError
        No such split, no image, or two images with the same id; folders that do not look like classes and are not
        ``known``.
    """
    base = root if split is None else root / split
    if not is_folder(base):
        raise InputError(root, f"has no split '{split}'", f"expected a folder {base}")
    found = class_folders(base, known)
    # One whose name is spelt otherwise is an error later.
    alike = set(map(plain_name, known))
    classes = [name for name in found if not listed or plain_name(name) in alike or is_background(name)]
    if unnamed := [name for name in classes if not is_object_name(name) and not is_background(name)]:
        raise InputError(
            base / unnamed[0], "is a usual name for images of unknown classes",
            "move it elsewhere, or list the classes with --classes FILE: other folders are left out then")
    if not classes:
        raise InputError(
            base, "has no folder named as a class of --classes" if found else "has no subfolder with images",
            f"its folders are {', '.join(found[:4])}" if found else _advice(base))
    siblings = [] if split is None else _subfolders(root)
    names = {name for place in (base, *siblings) for name in class_folders(place, known)
             if not is_background(name) and (not listed or plain_name(name) in alike)}
    files = FilesById(base)
    rows = [RawItem(identifier, files.must_find(identifier, str(base)), () if is_background(name) else (name,))
            for name in classes for identifier in files.ids(name, unique=True, deep=False)]
    _check_classes(base, {name: [row.image for row in rows if row.image.parent.name == name]
                          for name in classes if name not in known and not is_background(name)})
    others = [path.name for path in _subfolders(base) if listed and path.name not in classes and holds_images(path)]
    notices = _notices(base, rows, classes, others)
    return RawDataset(rows, check_class_names(sorted(names), root), False, "folder", notices=notices)


def _notices(base: Path, rows: Sequence[RawItem], classes: Sequence[str], others: Sequence[str]) -> tuple[str, ...]:
    """Notices of the images that hold no object, and of those that are left out."""
    negative = sum(row.tags == () for row in rows)
    loose = sum(map(is_image, list_folder(base)[0]))
    deeper = sum(len(FilesById(base / name / inner).ids()) for name in classes for inner in list_folder(base / name)[1])
    told = {
        f"{_are(negative, ' in a folder of the background')} taken to hold no object": negative,
        f"left out, as --classes does not list {'it' if len(others) == 1 else 'them'}: {', '.join(others[:4])}": others,
        f"{_are(loose, ' beside the folders of classes')} left out": loose,
        f"{_are(deeper, ' in subfolders of the classes')} left out": deeper}
    return tuple(f"{base}: {line}" for line, number in told.items() if number)


def _are(number: int, place: str) -> str:
    return f"{number:,} image{place} is" if number == 1 else f"{number:,} images{place} are"


def _check_classes(base: Path, images: dict[str, list[Path]]) -> None:
    """Refuse folders whose files say that they are no classes."""
    if images and all(re.fullmatch(r"(19|20)\d\d", name) for name in images):
        raise InputError(base, f"has folders that look like years: {', '.join(list(images)[:4])}", _LIST)
    for name, paths in images.items():
        if all(path.stem.endswith("_leftImg8bit") for path in paths):
            raise InputError(
                base, f"has Cityscapes' images, and the folder '{name}' is a city",
                f"give them as a pattern, --data '{base}/*/*.png', and their tags with --tags FILE")
        if beside := next(filter(None, map(annotation_beside, paths[:8])), None):
            raise InputError(
                base / name,
                f"has annotations beside its images, such as {beside.name}, and does not look like a class",
                f"give the export's own folder, or this one, as --data; {_LIST}")
    all_stems = {name: {path.stem for path in paths} for name, paths in images.items()}
    for one, two in combinations(images, 2) if len(images) <= _FEW else ():
        stems, others = all_stems[one], all_stems[two]
        endings = [{path.suffix.lower() for path in images[name]} for name in (one, two)]
        # Photographs of two classes may be counted alike, but then they are stored alike.
        counted = len({re.sub(r"\d+", "0", stem) for stem in stems & others}) == 1 and endings[0] & endings[1]
        if not counted and 2 * len(stems & others) > min(len(stems), len(others)):
            raise InputError(
                base, f"has files of the same names in {one} and {two}, as images and masks have",
                f"call such folders images and masks, or give --data {base / one} and --masks; {_LIST}")


def class_folders(folder: Path, known: Collection[str] = ()) -> list[str]:
    """Names of a folder's subfolders of images that may be classes, as ``known`` ones are whatever they are called."""
    names = [path.name for path in _subfolders(folder) if holds_images(path)]
    clear = [name for name in names if name in known or meaning_of(name) is None]
    return [name for name in names if name in clear or may_be_class(name)] if clear else []


def _subfolders(folder: Path) -> list[Path]:
    return [folder / name for name in list_folder(folder)[1]]


def _advice(folder: Path) -> str:
    for path in _subfolders(folder):
        if is_folder(path / "JPEGImages"):
            return f"did you mean the VOC folder {path}?"
    splits = [path.name for path in _subfolders(folder) if class_folders(path)]
    if splits:
        return f"did you mean --split {' or --split '.join(splits)}?"
    return "expected a VOC folder, one subfolder of images per class, or a manifest"
