"""YOLO's ``data.yaml``: the names of the classes, and where the images of each split are.

The labels of ``…/images/ID.jpg`` are in ``…/labels/ID.txt``, those of other images beside them.

References
----------
docs.ultralytics.com/datasets/segment and /detect; CVAT's and Roboflow's exports of the same format.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from drstool.annotations.simple_yaml import read_simple_yaml
from drstool.annotations.yolo import read_yolo_labels, yolo_names
from drstool.data.files_by_id import FilesById, list_folder
from drstool.data.folder_names import is_of_split, meaning_of
from drstool.data.item import RawDataset, RawItem
from drstool.data.paired import annotated
from drstool.errors import InputError, UsageError
from drstool.files import is_file, is_folder
from drstool.identifiers import check_id
from drstool.labels import object_classes
from drstool.text import read_lines

__all__ = ["read_yolo", "split_keys"]

_SPLIT_KEYS = ("train", "val", "valid", "test", "minival")


def read_yolo(path: Path, split: str | None, images: Path | None = None) -> RawDataset:
    """The images of one split of a ``data.yaml``.

    Parameters
    ----------
    path
        The file.
    split
        Its ``train``, ``val`` or ``test``, or the name of that split's folder; None: the only one.
    images
        Folder of the split's images, if they are elsewhere.

    Raises
    ------
    UsageError
        No split is named and there are several.
    InputError
        The file or a label file is damaged, the images are not found, or a background is not the first class.
    """
    content = read_simple_yaml(path)
    names = yolo_names(content, path)
    key, places = _places_of(path, content, split)
    root = content.get("path")
    missing: list[InputError] = []
    files = _once(_images_of(path, key, places, root, missing) if images is None else _images_in(images), path)
    told_before = _notices(path, content, key) if images is None else ()
    if not files and not missing:
        raise InputError(path, f"lists no images for '{key}'", "name their folder with --images")
    rows = [RawItem(identifier, image, where=str(path)) for identifier, image in files.items()]
    if images is None:
        labels = [_label_path(image) for image in files.values()]
    else:
        folder = _located(path.parent, root, _label_path(Path(places[0], "x")).parent.as_posix(), key) or path.parent
        labels = [folder / f"{identifier}.txt" for identifier in files]
    known, notices = read_yolo_labels(labels, names, path, draws="kpt_shape" not in content)
    rows = annotated(rows, known, labels)
    tagged = any(row.tags is not None for row in rows)
    objects, background = object_classes(names, path)
    return RawDataset(rows, objects, True, "annotations" if tagged else "none", reorder=True,
                      notices=(*background, *told_before, *notices), background_first=bool(background),
                      missing=tuple(missing))


def split_keys(content: dict[str, object]) -> list[str]:
    """The splits whose images a ``data.yaml`` names."""
    return [key for key in _SPLIT_KEYS if content.get(key)]


def _places_of(path: Path, content: dict[str, object], split: str | None) -> tuple[str, list[str]]:
    """A split's key, and the folders or lists that it names."""
    splits = {key: _listed_places(content[key]) for key in split_keys(content)}
    if split is None and len(splits) > 1:
        raise UsageError("--split", f"{path} has several splits: {', '.join(splits)}", "choose one")
    named = [key for key in splits if split in (None, key)] or [
        key for key, places in splits.items() if any(split in _parts(place) for place in places)]
    if len(named) != 1:
        raise InputError(path, "has no splits" if split is None else f"has no split '{split}'",
                         f"choose from {', '.join(splits)}" if splits else "write train: images/train")
    return named[0], splits[named[0]]


def _listed_places(value: object) -> list[str]:
    return list(map(str, value if isinstance(value, (list, dict)) else [value]))


def _notices(path: Path, content: dict[str, object], key: str) -> tuple[str, ...]:
    """Notices of images that are not where the file says, and of splits in one folder, or in one of the other.

    Raises
    ------
    InputError
        The folders are not where the file says, so that the wrong ones may have been found.
    """
    root, told = content.get("path"), []
    for place in _listed_places(content[key]):
        own = _located(path.parent, root, place, key)
        if own is not None and own.parts[-2:] != _parts(place)[-2:] and Path(place) != Path(own.name):
            told.append(f"{path}: there is no {place}: the images of '{key}' are taken from {own}")
        if own is None:
            continue
        for other in split_keys(content):
            for there in _listed_places(content[other]) if other != key else ():
                found = _located(path.parent, root, there, other)
                one, two = own.resolve(), found and found.resolve()
                if two is None or not (one.is_relative_to(two) or two.is_relative_to(one)):
                    continue
                what = f"the images of '{key}' are in {own}, and those of '{other}' in {found}"
                bases = _bases(path.parent, root)
                if not all(any(Path(base, *_parts(text)) == at for base in bases)
                           for text, at in ((place, own), (there, found))):
                    raise InputError(path, what, f"there is no {place}; name the folder of '{key}' with --images")
                told.append(f"{path}: {what}: they share images")
    return tuple(told)


def _images_of(
    path: Path, key: str, places: list[str], root: object, missing: list[InputError],
) -> Iterator[tuple[str, Path]]:
    """Ids and files of a split's images; ``missing`` gets an error for each that is listed but not there."""
    for place in places:
        found = _located(path.parent, root, place, key)
        if found is None:
            raise InputError(
                path, f"cannot find the images of '{key}': no {place} in {path.parent}",
                "name their folder with --images")
        yield from _images_in(found) if is_folder(found) else _listed(found, path.parent, missing)


def _once(images: Iterable[tuple[str, Path]], where: Path) -> dict[str, Path]:
    """Files by id, after checking that no two images have the same."""
    found: dict[str, Path] = {}
    for identifier, image in images:
        if (other := found.setdefault(identifier, image)) != image:
            raise InputError(where, f"has two images {identifier!r}: {other} and {image}",
                             "give them different names, or the folder that holds both as 'train'")
    return found


def _images_in(folder: Path) -> Iterator[tuple[str, Path]]:
    files = FilesById(folder)
    return ((identifier, files.must_find(identifier, str(folder))) for identifier in files.ids(unique=True))


def _located(base: Path, root: object, place: str, key: str) -> Path | None:
    """The folder or list of images of a split that a ``data.yaml`` names: often as it was on another machine.

    Leading parts may be missing on this one, but not the part that names the split: the rest of ``train/images``
    may hold the images of all splits. ``images/train`` may stand for it, and ``images/train`` for ``images``.
    """
    parts = _parts(place)
    bases = _bases(base, root)
    naming = [at for at, part in enumerate(parts) if meaning_of(part) == "split" or is_of_split(part, key)]
    last = naming[-1] if naming else max(len(parts) - 1, 0)
    for folder in bases:
        if _is_place(path := Path(folder, *parts)):
            return path
    tails = [parts[start:] for start in range(1, last + 1)]
    for tail in tails:
        for path in (Path(folder, *tail) for folder in bases):
            if _is_place(path) and not (is_folder(path) and _has_splits(path)):
                return path
    if naming:
        # In the other order, or under the key's name.
        kind = next((part for part in reversed(parts) if meaning_of(part) in ("images", "annotations")), "images")
        tails = [pair for name in dict.fromkeys((parts[last], key)) for pair in ((kind, name), (name, kind))]
    else:
        tails = [(*tail, key) for tail in tails]
    return next((path for tail in tails for folder in bases if is_folder(path := Path(folder, *tail))), None)


def _bases(base: Path, root: object) -> list[Path]:
    """Where places may begin, the first one first: the folder of ``path``, and that of the file."""
    return [*([base / PurePosixPath(str(root))] if isinstance(root, str) and root.strip() else []), base]


def _is_place(path: Path) -> bool:
    return is_folder(path) or is_file(path) and path.suffix == ".txt"


def _has_splits(folder: Path) -> bool:
    return any(meaning_of(name) == "split" for name in list_folder(folder)[1])


def _parts(place: str) -> tuple[str, ...]:
    return PurePosixPath(place.replace("\\", "/")).parts


def _listed(path: Path, base: Path, missing: list[InputError]) -> Iterator[tuple[str, Path]]:
    """The images of a list of paths."""
    for line in read_lines(path):
        parts = _parts(line)
        tries = [Path(folder, *parts[start:]) for start in range(len(parts)) for folder in (path.parent, base)]
        image = next((found for found in tries if is_file(found)), None)
        if image is None:
            missing.append(
                InputError(path, f"names {line!r:.200}, which is missing", "name the images' folder with --images"))
            continue
        below = parts[max((place for place, part in enumerate(parts) if part == "images"), default=len(parts) - 2) + 1:]
        yield check_id(str(PurePosixPath(*below).with_suffix("")), path), image


def _label_path(image: Path) -> Path:
    """Where the labels of an image are: in the folder 'labels' beside the last one named 'images', else beside it."""
    text = image.as_posix()
    return Path(re.sub(r"^(.*/|)images/(?!.*/images/)", r"\1labels/", text)).with_suffix(".txt")
