"""Datasets: which images, and what is known about them.

The functions of :mod:`drstool.data.decoding`, which reads pictures as arrays, are also available
here, but imported only when asked for: lists of images need neither NumPy nor Pillow, and without
them ``drstool ids`` starts in half the time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TextIO

from drstool.annotations.coco import CocoMask
from drstool.data import manifest
from drstool.data.cells import ListedTags, RawTags, TagForm
from drstool.data.coco import read_coco
from drstool.data.files_by_id import is_image
from drstool.data.item import Dataset, Item, RawDataset, RawItem, SeveralSplits
from drstool.data.layouts import Known, is_pattern, read_images, read_layout
from drstool.data.lists import id_of, notices_of_tag_files, read_image_list, read_tag_list
from drstool.data.masks import MaskValues, read_as, with_masks
from drstool.data.paired import with_labelmap
from drstool.data.tag_array import read_tag_array
from drstool.data.tags import (
    about_joined_names, about_numbers, gather_names, read_class_names, resolve_names, resolve_tags,
)
from drstool.data.value_range import ValueRange
from drstool.data.voc import is_voc
from drstool.data.yolo_export import read_yolo
from drstool.errors import InputError, UsageError
from drstool.files import is_file, is_folder, status
from drstool.identifiers import Names
from drstool.text import quoted

__all__ = [
    "CocoMask", "Dataset", "Item", "open_dataset", "read_dataset", "require_tags", "saliency_of_items",
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
        raise _first(dataset.missing)
    return dataset


def _first(missing: Sequence[InputError]) -> InputError:
    """The error of the first image that is missing, with their number."""
    first, *others = missing
    return InputError(first.where, f"{first.what} (the first of {len(missing):,})", first.right) if others else first


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
        Folder of masks to use instead of the data's own; if they are in colours, with a ``labelmap.txt``.
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
        found = with_labelmap(with_masks(found, masks), (Path(masks),))
        names = names or found.class_names
    if values is not None:
        values.check(names)
    channels = None if names is None else {name: i for i, name in enumerate(names)}
    read_how = partial(_item, class_names=names, channels=channels, values=values, value_range=value_range, source=data)
    items = tuple(map(read_how, found.rows))
    return Dataset(items, names, data, found.tags_source, found.notices, found.missing)


def _find(
    data: str, split: str | None = None, *, images: str | None = None, tags: str | None = None,
    tag_separator: str | None = None, empty_tags: str = "unknown", classes: str | None = None,
    class_names: Sequence[str] | None = None, images_only: bool = False, stdin: TextIO | None = None,
) -> tuple[RawDataset, tuple[str, ...] | None]:
    """What the reader of the data's layout finds, and the class names.

    Parameters
    ----------
    data
        A folder of any layout that :mod:`drstool.data.layouts` knows; a manifest (``.jsonl``, ``.csv``,
        ``.tsv``); a COCO instances file (``.json``); a YOLO ``data.yaml``; an image, or a pattern of
        image files; ``-`` for a manifest of JSON lines on stdin.
    split
        Name of a split, or in a VOC folder also a file of ids.
    images
        Folder of the images, where a table or an export names them but is elsewhere.
    tags
        File of tags to use instead of the data's own: lines ``id class class …``, a manifest, or
        ``cls_labels.npy``. Images it leaves out have none.
    tag_separator
        Between the tags of a cell; by default the one of ``;``, ``,`` and ``|`` that occurs.
    empty_tags
        What an empty cell or an id without tags means: ``unknown`` tags, or ``negative``, no object.
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
    listed, notices, background_first = (None, (), False) if classes is None else read_class_names(classes)
    form = TagForm(listed or (None if class_names is None else tuple(class_names)), tag_separator, empty_tags)
    known = Known(
        None if images_only else replace(form, replaced=tags is not None),
        None if images is None else Path(images), listed or class_names or (),
        listed is not None, need_tags=tags is None and not images_only)
    found = _read(data, split, known, stdin)
    if not found.rows:
        raise _first(found.missing)
    if tags is not None:
        found = _with_tags(found, Path(tags), form)
    elif known.need_tags and not is_file(data) and data != _STDIN and all(row.tags is None for row in found.rows):
        folders = [*([Path(data)] if is_folder(data) else []), found.rows[0].image.parent]
        told = notices_of_tag_files(folders, {row.id for row in found.rows})
        found = replace(found, notices=found.notices + told)
    if images_only:
        rows = [replace(row, tags=None, mask=None) for row in found.rows]
        found = replace(
            found, rows=rows, class_names=None, stated=False, tags_source="none", reorder=False, background_first=False)
    _check_ids(found, data)
    names = resolve_names(found, class_names, data, listed=listed)
    notices += found.notices + about_numbers(found.rows, names, background_first or found.background_first)
    if listed is None and class_names is None and not found.stated:
        notices += about_joined_names(names or (), found.tags_source == "folder")
    return replace(found, notices=notices), names


def require_tags(dataset: Dataset) -> None:
    """Check that the tags of each image are known, if only to be none: the image holds no object.

    Raises
    ------
    InputError
        One has none; the first is named.
    """
    if all(item.tags is None for item in dataset.items):
        raise InputError(
            dataset.source, "no image has tags",
            "give --tags FILE (a line is: ID CLASS CLASS …), a table with a column of tags, one folder of images per "
            "class, or the export of an annotation tool")
    for item in dataset.items:
        if item.tags is None:
            raise InputError(
                dataset.source, f"image {item.id!r} has no tags",
                "add tags, use --tags, remove the image, or, if an empty cell or line means that it holds no object, "
                "use --empty-tags negative")


def _read(data: str, split: str | None, known: Known, stdin: TextIO | None) -> RawDataset:
    """What a dataset of any layout holds."""
    if known.images is not None and not is_folder(known.images):
        raise InputError("--images", f"{known.images} is not a folder", "give the folder of the images")
    if data == _STDIN:
        return manifest.read_manifest_stdin(stdin, split, known.form, known.images)
    path = Path(data)
    exists, suffix = status(path) is not None, path.suffix.lower()
    if exists and is_folder(path):
        return _with_all_classes(read_layout(path, split, known), path, split, known)
    if exists and suffix in manifest.SUFFIXES:
        return manifest.read_manifest(path, split, known.form, known.images)
    if exists and suffix == ".txt":
        return read_image_list(path, split, known.form, known.images)
    if exists and suffix == ".json":
        return read_coco(path, split, known.images)
    if exists and suffix in (".yaml", ".yml", ".data"):
        return read_yolo(path, split, known.images)
    if not exists and not is_pattern(data):
        raise InputError(data, "no such file or folder", "check the path")
    if not exists or is_image(path.name):
        if known.images is not None:
            raise UsageError("--images", f"{data} says where its images are", "omit it")
        return read_images(data, split)
    if suffix in (".xlsx", ".xls", ".ods"):
        raise InputError(data, "is a spreadsheet's own file", "save it as CSV")
    raise InputError(
        data, "is not a dataset of a known layout",
        "expected a folder, a .jsonl, .csv or .tsv table, a .txt list of images, COCO .json, YOLO data.yaml, an image, "
        "or a pattern of them")


def _with_all_classes(found: RawDataset, root: Path, split: str | None, known: Known) -> RawDataset:
    """A split of a folder with the classes of its other splits, where no list gives them.

    Labels would otherwise have other values in a split that lacks a class.
    """
    # The readers of these two look at all splits themselves.
    if (split is None or known.form is None or found.stated or found.class_names is None or known.class_names
            or found.tags_source == "folder" or is_voc(root)):
        return found
    try:
        read_layout(root, None, known)
        return found
    except InputError:
        return found
    except SeveralSplits as several:
        names = several.names
    lists, notices = [], []
    for name in names:
        try:
            lists.append((found if name == split else read_layout(root, name, known)).class_names or ())
        except (InputError, UsageError) as error:
            notices.append(f"classes of the split '{name}' may be missing: {error}")
    every = gather_names([found.class_names, *lists], root) or found.class_names
    order = next((listed for listed in lists if set(listed) == set(every)), every)
    if order != found.class_names:
        notices.append(f"{root}: with the classes of all splits: {quoted(order)}")
    return replace(found, class_names=order, notices=found.notices + tuple(notices))


def _with_tags(found: RawDataset, path: Path, form: TagForm) -> RawDataset:
    """The same images with the tags of a file."""
    ids = dict.fromkeys(row.id for row in found.rows)
    known = _read_tags(path, ids, replace(form, class_names=form.class_names or found.class_names))
    known = known.of_images(ids, path)
    rows = [replace(row, tags=known.tags.get(row.id), where=str(path)) for row in found.rows]
    if found.class_names is None:
        names = known.class_names or gather_names(known.tags.values(), path)
        found = replace(found, class_names=names, stated=False)
    return replace(found, rows=rows, tags_source="file", notices=found.notices + known.notices)


def _read_tags(path: Path, ids: Collection[str], form: TagForm) -> ListedTags:
    suffix = path.suffix.lower()
    if suffix == ".json":
        raise InputError(
            path, "is not a list of tags", "save them as a table, id,tags, or as .jsonl with lines {\"id\": …, "
            "\"tags\": […]}; a file of annotations such as COCO's is a dataset: --data")
    if suffix in manifest.SUFFIXES:
        listed = manifest.read_manifest_tags(path, form)
        return replace(listed, tags=_by_id(listed.tags, ids, path))
    return ListedTags(read_tag_array(path, ids, form)) if suffix == ".npy" else read_tag_list(path, ids, form)


def _by_id(tags: Mapping[str, RawTags], ids: Collection[str], path: Path) -> dict[str, RawTags]:
    """The tags by the ids of the dataset, for which a table may have names or paths of the images."""
    found: dict[str, RawTags] = {}
    for key, known in tags.items():
        likely = (key, id_of(key, ids), PurePosixPath(key).name)
        name = next((name for name in likely if name in ids), key)
        if name in found:
            raise InputError(path, f"lists id {name!r} twice, once as {key!r}", "list each image once")
        found[name] = known
    return found


def _check_ids(found: RawDataset, data: str) -> None:
    """Check now, not where results are written, that no two ids would be one file's name on some file system."""
    names = Names(data)
    for row in found.rows:
        names.add(row.id)


def _item(
    row: RawItem, class_names: tuple[str, ...] | None, channels: dict[str, int] | None, values: MaskValues | None,
    value_range: ValueRange | None, source: str,
) -> Item:
    mask: Any = row.mask
    if hasattr(mask, "class_names"):
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
