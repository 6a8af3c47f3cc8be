"""Datasets: which images, and what is known about them.

The functions of :mod:`drstool.data.decoding`, which reads pictures as arrays, are also available
here, but imported only when asked for: lists of images need neither NumPy nor Pillow, and without
them ``drstool ids`` starts in half the time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from drstool.data import manifest
from drstool.data.coco import CocoMask, read_coco
from drstool.data.folder import read_folder
from drstool.data.item import Dataset, Item, RawDataset, RawItem
from drstool.data.tags import gather_names, read_class_names, read_tag_list, resolve_names, resolve_tags
from drstool.data.voc import is_voc, read_voc
from drstool.errors import InputError
from drstool.files import is_folder, status

__all__ = ["CocoMask", "Dataset", "Item", "open_dataset", "require_tags", "saliency_of_items"]

_STDIN = "-"
_PICTURES = ("image_size", "load_image", "load_pil", "load_saliency", "load_target")


def __getattr__(name: str) -> Callable:
    """The functions that read pictures, imported when first asked for."""
    if name not in _PICTURES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from drstool.data import decoding

    return getattr(decoding, name)


def open_dataset(
    data: str, split: str | None = None, *, tags: str | None = None, classes: str | None = None,
    class_names: Sequence[str] | None = None, images_only: bool = False, stdin: TextIO | None = None,
) -> Dataset:
    """The images of a dataset of any known layout, each image file checked to exist.

    Parameters
    ----------
    data
        A VOC folder; a folder with one subfolder of images per class; a manifest (``.jsonl``,
        ``.csv``, ``.tsv``); a COCO instances file (``.json``); ``-`` for a manifest of JSON lines
        on stdin.
    split
        Name of a split, or in a VOC folder also a file of ids.
    tags
        File of tags to use instead of the data's own: lines ``id class class …``, or a manifest.
        Images it leaves out have none.
    classes
        Text file of the class names in label order, one per line.
    class_names
        Names of a checkpoint or map file; the data must fit them.
    images_only
        Leave out tags and masks, and with them any check of class names: for networks that need
        only the images.
    stdin
        Read instead of the process's own.

    Raises
    ------
    InputError
        Something is missing, damaged, listed twice or inconsistent.
    UsageError
        The folder has several splits and none is named.
    """
    listed, notices = (None, ()) if classes is None else read_class_names(classes)
    need_names = listed is None and class_names is None
    found = _read(data, split, need_names, stdin)
    if tags is not None:
        found = _with_tags(found, Path(tags))
    if images_only:
        rows = [replace(row, tags=None, mask=None) for row in found.rows]
        found = RawDataset(rows, None, False, "none", notices=found.notices)
    names = resolve_names(found, class_names, data, listed=listed)
    channels = None if names is None else {name: i for i, name in enumerate(names)}
    items = tuple(_item(row, names, channels) for row in found.rows)
    return Dataset(items, names, data, found.tags_source, notices + found.notices)


def require_tags(dataset: Dataset) -> None:
    """Check that each image has at least one tag.

    Raises
    ------
    InputError
        One has none; the first is named.
    """
    for item in dataset.items:
        if not item.tags:
            raise InputError(dataset.source, f"image {item.id!r} has no tags",
                             "add tags to the dataset, use --tags, or remove the image")


def _read(data: str, split: str | None, need_names: bool, stdin: TextIO | None) -> RawDataset:
    if data == _STDIN:
        return manifest.read_manifest_stdin(stdin, split)
    path = Path(data)
    if status(path) is None:
        raise InputError(data, "no such file or folder", "check the path")
    if is_folder(path):
        if is_voc(path):
            return read_voc(path, split, need_names=need_names)
        return read_folder(path, split)
    suffix = path.suffix.lower()
    if suffix in manifest.SUFFIXES:
        return manifest.read_manifest(path, split)
    if suffix == ".json":
        return read_coco(path, split)
    raise InputError(
        data, "is not a dataset of a known layout",
        "expected a VOC folder, a folder with one subfolder per class, a .jsonl, .csv or .tsv manifest, or COCO .json")


def _with_tags(found: RawDataset, path: Path) -> RawDataset:
    """The same images with the tags of a file."""
    if path.suffix.lower() in manifest.SUFFIXES:
        known = manifest.read_manifest_tags(path)
    else:
        known = read_tag_list(path, {row.id for row in found.rows})
    rows = [replace(row, tags=known.get(row.id), where=str(path)) for row in found.rows]
    if all(row.tags is None for row in rows):
        raise InputError(
            path, "has tags for none of the images", f"its ids must be those of the data, such as {rows[0].id!r}")
    if found.class_names is None:
        found = replace(found, class_names=gather_names(known.values(), path), stated=False)
    return replace(found, rows=rows, tags_source="file")


def _item(row: RawItem, class_names: tuple[str, ...] | None, channels: dict[str, int] | None) -> Item:
    mask = row.mask
    if isinstance(mask, CocoMask):
        mask = replace(mask, class_names=class_names or ())
    return Item(row.id, row.image, resolve_tags(row, channels), mask, row.saliency)


def saliency_of_items(dataset: Dataset) -> Callable[[str], Path] | None:
    """A function that gives the path of an image id's saliency map; None if the dataset has no saliency maps.

    Raises
    ------
    InputError
        By the function: the dataset has no saliency map of this image.
    """
    paths = {item.id: item.saliency for item in dataset.items if item.saliency is not None}
    if not paths:
        return None

    def saliency_of(identifier: str) -> Path:
        if identifier not in paths:
            raise InputError(
                f"image '{identifier}'", f"has no saliency map in {dataset.source}",
                "add it, give a folder with --saliency, or use --background constant or power")
        return paths[identifier]

    return saliency_of
