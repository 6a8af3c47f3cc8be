"""Datasets: which images, and what is known about them.

The functions of :mod:`drstool.data.decoding`, which reads pictures as arrays, are also available
here, but imported only when asked for: lists of images need neither NumPy nor Pillow, and without
them ``drstool ids`` starts in half the time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from drstool.data import manifest
from drstool.data.coco import CocoMask, read_coco
from drstool.data.folder import read_folder
from drstool.data.item import Dataset, Item, RawDataset, RawItem
from drstool.data.masks import MaskValues, read_as, with_masks
from drstool.data.sbd import is_sbd, read_sbd, sbd_splits
from drstool.data.tags import gather_names, read_class_names, read_tag_list, resolve_names, resolve_tags
from drstool.data.value_range import ValueRange
from drstool.data.voc import is_voc, list_names, read_voc
from drstool.errors import InputError
from drstool.files import is_folder, status

__all__ = [
    "CocoMask", "Dataset", "Item", "open_dataset", "read_dataset", "require_tags", "saliency_of_items", "split_names",
]

_STDIN = "-"
_PICTURES = ("image_size", "load_image", "load_pil", "load_saliency", "load_target")


def __getattr__(name: str) -> Callable:
    """The functions that read pictures, imported when first asked for."""
    if name not in _PICTURES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from drstool.data import decoding

    return getattr(decoding, name)


def open_dataset(data: str, split: str | None = None, **how: Any) -> Dataset:
    """The images of a dataset of any known layout, each image file checked to exist; see :func:`read_dataset`.

    Raises
    ------
    InputError, UsageError
        As that function; also where an image is missing.
    """
    dataset = read_dataset(data, split, **how)
    if dataset.missing:
        raise dataset.missing[0]
    return dataset


def read_dataset(
    data: str, split: str | None = None, *, masks: str | None = None, mask_values: str | None = None,
    range: str | None = None, **how: Any,
) -> Dataset:
    """The images of a dataset of any known layout; those that are listed but not there are in ``missing``.

    Parameters
    ----------
    data, split, how
        As of :func:`_find`.
    masks
        Folder of masks to use instead of the data's own.
    mask_values
        Pixel values of background, class 1, … in mask files, see :class:`drstool.data.masks.MaskValues`.
    range
        Pixel values of images that become black and white, see :class:`drstool.data.value_range.ValueRange`.

    Raises
    ------
    InputError
        Something is missing, damaged, listed twice or inconsistent.
    UsageError
        The folder has several splits and none is named; ``mask_values`` or ``range`` is none.
    """
    values = None if mask_values is None else MaskValues.parse(mask_values)
    value_range = None if range is None else ValueRange.parse("--range", range)
    found, names = _find(data, split, **how)
    if masks is not None:
        found = with_masks(found, masks)
    if values is not None:
        values.check(names)
    channels = None if names is None else {name: i for i, name in enumerate(names)}
    read_how = partial(_item, class_names=names, channels=channels, values=values, value_range=value_range, source=data)
    items = tuple(map(read_how, found.rows))
    return Dataset(items, names, data, found.tags_source, found.notices, found.missing)


def _find(
    data: str, split: str | None = None, *, tags: str | None = None, classes: str | None = None,
    class_names: Sequence[str] | None = None, images_only: bool = False, stdin: TextIO | None = None,
) -> tuple[RawDataset, tuple[str, ...] | None]:
    """What the reader of the data's layout finds, and the class names.

    Parameters
    ----------
    data
        A VOC or SBD folder; a folder with one subfolder of images per class; a manifest (``.jsonl``,
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
    """
    listed, notices = (None, ()) if classes is None else read_class_names(classes)
    need_names = listed is None and class_names is None
    found = _read(data, split, need_names, stdin, need_tags=tags is None and not images_only)
    if not found.rows:
        raise found.missing[0]
    if tags is not None:
        found = _with_tags(found, Path(tags))
    if images_only:
        rows = [replace(row, tags=None, mask=None) for row in found.rows]
        found = replace(found, rows=rows, class_names=None, stated=False, tags_source="none", reorder=False)
    names = resolve_names(found, class_names, data, listed=listed)
    return replace(found, notices=notices + found.notices), names


def split_names(data: str) -> list[str]:
    """Names of the splits of a VOC or SBD folder; of other data none."""
    path = Path(data)
    if data == _STDIN or status(path) is None or not is_folder(path):
        return []
    return list_names(path) if is_voc(path) else sbd_splits(path)


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


def _read(
    data: str, split: str | None, need_names: bool, stdin: TextIO | None, *, need_tags: bool = True,
) -> RawDataset:
    if data == _STDIN:
        return manifest.read_manifest_stdin(stdin, split)
    path = Path(data)
    if status(path) is None:
        raise InputError(data, "no such file or folder", "check the path")
    if is_folder(path):
        if is_voc(path):
            return read_voc(path, split, need_names=need_names)
        if is_sbd(path):
            return read_sbd(path, split, need_tags=need_tags)
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


def _item(
    row: RawItem, class_names: tuple[str, ...] | None, channels: dict[str, int] | None, values: MaskValues | None,
    value_range: ValueRange | None, source: str,
) -> Item:
    mask = row.mask
    if isinstance(mask, CocoMask):
        mask = replace(mask, class_names=class_names or ())
    mask = read_as(mask, values, source)
    return Item(row.id, row.image, resolve_tags(row, channels), mask, row.saliency, value_range)


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
