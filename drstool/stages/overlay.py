"""``overlay``: pictures of images with labels, ground truth and maps over them."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from drstool.cues import resize_maps
from drstool.data.decoding import load_target
from drstool.data.item import Dataset, Item
from drstool.data.value_range import ValueRange
from drstool.errors import InputError, UsageError
from drstool.figures.cells import blended, heat_layer, label_layer
from drstool.figures.colors import heat_colors
from drstool.figures.columns import check_size, image_of, parse_column
from drstool.formats.records import LabelRecord, MapRecord
from drstool.identifiers import member_name
from drstool.labels import channel_of, check_label_values, colorize, shown_palette
from drstool.parallel import OnError, Track, map_items, untracked
from drstool.recipe import OverlaySettings
from drstool.reports.empty_maps import EmptyMaps

__all__ = [
    "blend_heat", "blend_labels", "file_names", "heat_colors", "heat_picture", "label_picture", "named_paths",
    "overlay",
]

_Record = MapRecord | LabelRecord
_Named = _Record | tuple[str, _Record]

# How much of a class name goes into a file name, which also contains the id.
_MAX_NAME_BYTES = 40
# From one white stripe over ignored pixels to the next, in pixels.
_HATCH_PERIOD = 8


def overlay(
    dataset: Dataset | None, records: Iterable[_Named] | None = None, *,
    settings: OverlaySettings | None = None, class_names: Sequence[str] | None = None,
    value_range: ValueRange | None = None, empty: EmptyMaps | None = None, targets: bool = False,
    done: Container[str] = (), workers: int = 1, on_error: OnError | None = None, track: Track = untracked,
    total: int | None = None,
) -> Iterator[tuple[str, Image.Image]]:
    """File names and pictures, image by image.

    For each image ``ID_image.png``; with ``targets``, ``ID_target.png`` if it has ground truth;
    for a label record ``ID_pred.png`` and ``ID_overlay.png``, the labels over the image; for a map
    record ``ID_heat_CLASS.png`` for each present class; with ``by_kind`` ``pred/ID.png`` and so on.
    A name may contain ``/``.

    Parameters
    ----------
    dataset
        The images. None: the records name their files.
    records
        Drawn in their order, several perhaps of the same image; those whose id the dataset does
        not have are left out. A pair is a name, which becomes part of the file names, and a record.
        None: all images of the dataset, in its order.
    settings
    class_names
        The C object classes, by which heat maps are named; None: the dataset's, or else the label
        values.
    value_range
        With which images that the records name are read.
    empty
        Counts the maps and label images.
    targets
        Whether ground truth is drawn.
    done
        File names of existing pictures; a task whose pictures all exist is left out.
    workers
        Number of threads; the pictures do not depend on it.
    on_error
        Called with the error of each record that fails, which is then left out; None: it is raised.
    track, total
        Progress display over the records, and their number if it is known.

    Raises
    ------
    InputError
        An image is missing or unreadable, a record has not its image's size, or no record belongs
        to an image of the dataset.
    """
    if dataset is None and records is None:
        raise ValueError("overlay needs a dataset or records")
    names = class_names or (dataset.class_names if dataset is not None else None) or ()
    class_files = file_names(names)
    settings = settings or OverlaySettings()
    draw = partial(_pictures, settings=settings, targets=targets, class_files=class_files)
    tasks = (
        task for task in _tasks(dataset, records, value_range, empty)
        if not done or not all(name in done for name in _names(task, settings, targets, class_files)))
    if total is None and records is None:
        total = len(dataset.items)  # type: ignore[union-attr]
    for pictures in track(map_items(draw, tasks, workers, on_error), "overlay", total):
        yield from pictures


def label_picture(labels: np.ndarray) -> Image.Image:
    """A label image as a picture in PASCAL VOC's colours, ignored pixels white, with a palette if it is of 8 bits.

    Parameters
    ----------
    labels : (H, W) uint8 or uint16
    """
    if labels.dtype != np.uint8:
        return Image.fromarray(colorize(labels))
    picture = Image.fromarray(np.ascontiguousarray(labels, dtype=np.uint8))
    picture.putpalette(shown_palette().tobytes())
    return picture


def heat_picture(image: np.ndarray, heat: np.ndarray, opacity: float) -> Image.Image:
    """A map over its image as a picture; see :func:`blend_heat`."""
    return Image.fromarray(blend_heat(image, heat, opacity))


def blend_labels(image: np.ndarray, labels: np.ndarray, opacity: float, ignored: str = "hatched") -> np.ndarray:
    """The image with label colours over it; background pixels are unchanged.

    Parameters
    ----------
    image : (H, W, 3) uint8
    labels : (H, W) uint8 or uint16
    opacity
        Opacity of the colours, in [0, 1].
    ignored
        How pixels with the ignore label are drawn: ``hatched`` or ``white``.

    Returns
    -------
    (H, W, 3) uint8

    Examples
    --------
    >>> blend_labels(np.full((1, 2, 3), 100, np.uint8), np.uint8([[0, 1]]), 0.5).tolist()
    [[[100, 100, 100], [114, 50, 50]]]
    """
    return blended(image, [label_layer(labels, colorize(labels), opacity, ignored, _HATCH_PERIOD)])


def blend_heat(image: np.ndarray, heat: np.ndarray, opacity: float) -> np.ndarray:
    """The image with a map's heat colours over it, more opaque where the map is higher.

    Parameters
    ----------
    image : (H, W, 3) uint8
    heat : (H, W) float32
        In [0, 1]; other values are clipped.
    opacity
        Opacity of the colours where the map is 1, in [0, 1].

    Returns
    -------
    (H, W, 3) uint8

    Examples
    --------
    >>> image = np.full((1, 2, 3), 100, np.uint8)
    >>> blend_heat(image, np.float32([[0, 1]]), 1)[0, 0].tolist()
    [100, 100, 100]
    >>> bool((blend_heat(image, np.float32([[0, 1]]), 1)[0, 1] == heat_colors()[-1]).all())
    True
    """
    return blended(image, [heat_layer(heat, heat_colors(), opacity, rising=True)])


def file_names(class_names: Sequence[str]) -> tuple[str, ...]:
    """The class names as parts of file names, by object channel, each unique.

    Letters and digits of any script stay; anything else becomes ``_``. Names that would be the
    same file, also on a file system that ignores case, get their label value.

    Examples
    --------
    >>> file_names(["cat", "potted plant", "a/b", "a_b"])
    ('cat', 'potted_plant', 'a_b-3', 'a_b-4')
    """
    safe = [_clipped(re.sub(r"[^\w-]", "_", name)) for name in class_names]
    folded = [name.casefold() for name in safe]
    numbered = [f"{name}-{label}" for label, name in enumerate(safe, start=1)]
    names = [name if folded.count(key) == 1 else longer for name, key, longer in zip(safe, folded, numbered)]
    # A class may have the name that another one gets with its number; if all are numbered, all differ.
    return tuple(names if len({name.casefold() for name in names}) == len(names) else numbered)


def named_paths(**paths: Sequence[str]) -> dict[str, str]:
    """Files to draw, by kind or, where there are several of a kind, by kind and name.

    A name is given as ``NAME=PATH``, or else the file's; it becomes part of file names.

    Raises
    ------
    UsageError
        Two of a kind have the same name.

    Examples
    --------
    >>> named_paths(labels=["pred"], maps=["cam.h5", "DRS=runs/drs.h5"])
    {'labels': 'pred', 'maps cam': 'cam.h5', 'maps DRS': 'runs/drs.h5'}
    """
    found: dict[str, str] = {}
    for kind, texts in paths.items():
        columns = [parse_column(text, "heat") for text in texts]
        names = [column.title for column in columns]
        if len({name.casefold() for name in names}) < len(names):
            raise UsageError(f"--{kind}", f"several have the name '{names[0]}'", f"give them as --{kind} NAME=PATH")
        keys = [kind] if len(names) == 1 else [f"{kind} {name}" for name in file_names(names)]
        found |= {key: column.paths[0] for key, column in zip(keys, columns)}
    return found


class _Task(NamedTuple):
    """What one thread draws: a record's pictures, and in an image's first task those of the image itself."""

    item: Item
    record: MapRecord | LabelRecord | None
    first: bool
    # Of the record's source, where there are several of its kind.
    name: str = ""


def _tasks(
    dataset: Dataset | None, records: Iterable[_Named] | None, value_range: ValueRange | None, empty: EmptyMaps | None,
) -> Iterator[_Task]:
    """The tasks in order; without a dataset, items are made from the records."""
    if records is None:
        for item in dataset.items:  # type: ignore[union-attr]
            yield _Task(item, None, True)
        return
    items = {item.id: item for item in dataset.items} if dataset is not None else {}
    seen: set[str] = set()
    record = None
    for each in records:
        name, record = each if isinstance(each, tuple) else ("", each)
        if empty is not None:
            empty.count(record)
        item = items.get(record.id)
        if dataset is None:
            item = Item(id=record.id, image=Path(record.image), value_range=value_range)
        if item is not None:
            yield _Task(item, record, item.id not in seen, name)
            seen.add(item.id)
    if record is not None and dataset is not None and not seen:
        raise InputError(
            dataset.source, f"has none of the images of the maps or labels, such as '{record.id}'",
            f"its ids look like '{dataset.items[0].id}'; check --data and --split")


def _names(task: _Task, settings: OverlaySettings, targets: bool, class_files: Sequence[str]) -> list[str]:
    """File names of the pictures of one task."""
    item, record, first, name = task
    kinds, more = [], f"_{name}" if name else ""
    if first:
        kinds.append("image")
        if targets and item.mask is not None:
            kinds.append("target")
    if isinstance(record, LabelRecord):
        kinds += [f"pred{more}", f"overlay{more}"]
    elif record is not None:
        kinds += [f"heat_{_class_file(label, class_files)}{more}" for label in record.labels]
    if settings.by_kind:
        return [f"{kind}/{member_name(item.id, '.png')}" for kind in kinds]
    return [member_name(item.id, f"_{kind}.png") for kind in kinds]


def _pictures(
    task: _Task, settings: OverlaySettings, targets: bool, class_files: Sequence[str],
) -> list[tuple[str, Image.Image]]:
    """The pictures of one task, with their file names."""
    item, record, first, _ = task
    image = image_of(item)
    pictures = []
    if first:
        pictures.append(Image.fromarray(image))
        if targets and item.mask is not None:
            pictures.append(label_picture(load_target(item, image.shape[:2])))
    if record is not None:
        check_size(record, image, record.id)
    if isinstance(record, LabelRecord):
        if class_files:
            check_label_values(record.labels, class_files, record.id)
        pictures.append(label_picture(record.labels))
        pictures.append(Image.fromarray(blend_labels(
            image, record.labels, settings.opacity, settings.ignored_pixels)))
    elif record is not None:
        maps = resize_maps(record.as_float(), record.image_size)
        pictures += [heat_picture(image, heat, settings.opacity) for heat in maps]
    return list(zip(_names(task, settings, targets, class_files), pictures, strict=True))


def _class_file(label: int, class_files: Sequence[str]) -> str:
    channel = channel_of(label)
    return class_files[channel] if channel < len(class_files) else f"class-{label}"


def _clipped(name: str) -> str:
    """The beginning of the name for which a file name has room."""
    return name.encode()[:_MAX_NAME_BYTES].decode(errors="ignore")
