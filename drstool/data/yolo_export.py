"""YOLO's ``data.yaml``: the names of the classes, and where the images of each split are.

The labels of ``…/images/ID.jpg`` are in ``…/labels/ID.txt``, those of other images beside them.

References
----------
docs.ultralytics.com/datasets/segment and /detect; CVAT's and Roboflow's exports of the same format.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from drstool.annotations.simple_yaml import read_simple_yaml
from drstool.annotations.yolo import read_yolo_labels, yolo_names
from drstool.data.files_by_id import FilesById
from drstool.data.item import RawDataset, RawItem
from drstool.data.paired import annotated
from drstool.errors import InputError, UsageError
from drstool.files import is_file, is_folder
from drstool.identifiers import check_id
from drstool.labels import is_object_name
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
        The file or a label file is damaged, or the images are not found.
    """
    content = read_simple_yaml(path)
    names = yolo_names(content, path)
    key, places = _places_of(path, content, split)
    root = content.get("path")
    files = dict(_images_of(path, key, places, root) if images is None else _images_in(images))
    if not files:
        raise InputError(path, f"lists no images for '{key}'", "name their folder with --images")
    rows = [RawItem(identifier, image, where=str(path)) for identifier, image in files.items()]
    if images is None:
        labels = [_label_path(image) for image in files.values()]
    else:
        folder = _located(path.parent, root, _label_path(Path(places[0], "x")).parent.as_posix()) or path.parent
        labels = [folder / f"{identifier}.txt" for identifier in files]
    known, notices = read_yolo_labels(labels, names, path, draws="kpt_shape" not in content)
    rows = annotated(rows, known, labels)
    tagged = any(row.tags is not None for row in rows)
    objects = tuple(name for name in names if is_object_name(name))
    return RawDataset(rows, objects, True, "annotations" if tagged else "none", reorder=True, notices=notices)


def split_keys(content: dict[str, object]) -> list[str]:
    """The splits whose images a ``data.yaml`` names."""
    return [key for key in _SPLIT_KEYS if content.get(key)]


def _places_of(path: Path, content: dict[str, object], split: str | None) -> tuple[str, list[str]]:
    """A split's key, and the folders or lists that it names."""
    splits = {key: content[key] for key in split_keys(content)}
    if split is None and len(splits) > 1:
        raise UsageError("--split", f"{path} has several splits: {', '.join(splits)}", "choose one")
    key = next(iter(splits), None) if split is None else next(
        (key for key, value in splits.items() if key == split or split in _parts(str(value))), None)
    if key is None:
        raise InputError(path, "has no splits" if split is None else f"has no split '{split}'",
                         f"choose from {', '.join(splits)}" if splits else "write train: images/train")
    value = splits[key]
    return key, list(map(str, value if isinstance(value, (list, dict)) else [value]))


def _images_of(path: Path, key: str, places: list[str], root: object) -> Iterator[tuple[str, Path]]:
    """Ids and files of a split's images."""
    for place in places:
        found = _located(path.parent, root, place)
        if found is None:
            raise InputError(
                path, f"cannot find the images of '{key}': no {place} in {path.parent}",
                "name their folder with --images")
        yield from _images_in(found) if is_folder(found) else _listed(found, path.parent)


def _images_in(folder: Path) -> Iterator[tuple[str, Path]]:
    files = FilesById(folder)
    return ((identifier, files.find(identifier)) for identifier in files.ids(unique=True))


def _located(base: Path, root: object, place: str) -> Path | None:
    """The folder or list of images that a ``data.yaml`` names: often as it was on another machine."""
    parts = _parts(place)
    bases = [base, *([base / PurePosixPath(str(root))] if isinstance(root, str) and root.strip() else [])]
    tries = [Path(folder, *parts[start:]) for start in range(len(parts)) for folder in reversed(bases)]
    return next((path for path in tries if is_folder(path) or is_file(path) and path.suffix == ".txt"), None)


def _parts(place: str) -> tuple[str, ...]:
    return PurePosixPath(place.replace("\\", "/")).parts


def _listed(path: Path, base: Path) -> Iterator[tuple[str, Path]]:
    """The images of a list of paths."""
    for line in read_lines(path):
        parts = _parts(line)
        tries = [Path(folder, *parts[start:]) for start in range(len(parts)) for folder in (path.parent, base)]
        image = next((found for found in tries if is_file(found)), None)
        if image is None:
            raise InputError(path, f"names {line!r:.200}, which is missing", "name the images' folder with --images")
        below = parts[max((place for place, part in enumerate(parts) if part == "images"), default=len(parts) - 2) + 1:]
        yield check_id(str(PurePosixPath(*below).with_suffix("")), path), image


def _label_path(image: Path) -> Path:
    """Where the labels of an image are: in the folder 'labels' beside the last one named 'images', else beside it."""
    text = image.as_posix()
    return Path(re.sub(r"^(.*/|)images/(?!.*/images/)", r"\1labels/", text)).with_suffix(".txt")
