"""``overlay``: pictures of images with labels, ground truth and maps over them."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from drstool.cues import resize_maps
from drstool.data.decoding import load_image, load_target
from drstool.data.item import Dataset, Item
from drstool.data.value_range import ValueRange
from drstool.errors import InputError
from drstool.formats.records import LabelRecord, MapRecord
from drstool.identifiers import member_name
from drstool.labels import BACKGROUND, channel_of, check_label_values, colorize, palette
from drstool.parallel import OnError, Track, map_items, untracked
from drstool.pixels import shown_size
from drstool.recipe import OverlaySettings

__all__ = [
    "blend_heat", "blend_labels", "file_names", "heat_colors", "heat_picture", "label_picture",
    "overlay",
]

# How much of a class name goes into a file name, which also contains the id.
_MAX_NAME_BYTES = 40
# The heat colours in OKLCh, from low to high values: lightness rises evenly, and chroma stays within sRGB.
# Hue in degrees.
_HEAT_LIGHTNESS = (0.25, 0.93)
_HEAT_HUE = (-65.0, 105.0)
_HEAT_CHROMA = ((0.0, 0.25, 0.5, 0.75, 1.0), (0.10, 0.17, 0.19, 0.16, 0.15))


def overlay(
    dataset: Dataset | None, records: Iterable[MapRecord | LabelRecord] | None = None, *,
    settings: OverlaySettings | None = None, class_names: Sequence[str] | None = None,
    value_range: ValueRange | None = None, targets: bool = False, done: Container[str] = (), workers: int = 1,
    on_error: OnError | None = None, track: Track = untracked, total: int | None = None,
) -> Iterator[tuple[str, Image.Image]]:
    """File names and pictures, image by image.

    For each image ``ID_image.png``; with ``targets``, ``ID_target.png`` if it has ground truth;
    for a label record ``ID_pred.png`` and ``ID_overlay.png``, the labels over the image; for a map
    record ``ID_heat_CLASS.png`` for each present class. A name may contain ``/``.

    Parameters
    ----------
    dataset
        The images. None: the records name their files.
    records
        Drawn in their order, several perhaps of the same image; those whose id the dataset does
        not have are left out. None: all images of the dataset, in its order.
    settings
    class_names
        The C object classes, by which heat maps are named; None: the dataset's, or else the label
        values.
    value_range
        With which images that the records name are read.
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
    draw = partial(_pictures, settings=settings or OverlaySettings(), targets=targets, class_files=class_files)
    tasks = (
        task for task in _tasks(dataset, records, value_range)
        if not done or not all(name in done for name in _names(task, targets, class_files)))
    if total is None and records is None:
        total = len(dataset.items)  # type: ignore[union-attr]
    for pictures in track(map_items(draw, tasks, workers, on_error), "overlay", total):
        yield from pictures


def label_picture(labels: np.ndarray) -> Image.Image:
    """A label image as a picture in PASCAL VOC's colours, with a palette if it is of 8 bits.

    Parameters
    ----------
    labels : (H, W) uint8 or uint16
    """
    if labels.dtype != np.uint8:
        return Image.fromarray(colorize(labels))
    picture = Image.fromarray(np.ascontiguousarray(labels, dtype=np.uint8))
    picture.putpalette(palette().tobytes())
    return picture


def heat_picture(image: np.ndarray, heat: np.ndarray, opacity: float) -> Image.Image:
    """A map over its image as a picture; see :func:`blend_heat`."""
    return Image.fromarray(blend_heat(image, heat, opacity))


def blend_labels(image: np.ndarray, labels: np.ndarray, opacity: float) -> np.ndarray:
    """The image with label colours over it; background pixels are unchanged.

    Parameters
    ----------
    image : (H, W, 3) uint8
    labels : (H, W) uint8 or uint16
        The ignore label is shown in its palette colour.
    opacity
        Opacity of the colours, in [0, 1].

    Returns
    -------
    (H, W, 3) uint8

    Examples
    --------
    >>> blend_labels(np.full((1, 2, 3), 100, np.uint8), np.uint8([[0, 1]]), 0.5).tolist()
    [[[100, 100, 100], [114, 50, 50]]]
    """
    covered = labels != BACKGROUND
    return _blend(image, colorize(labels), np.where(covered, np.float32(opacity), np.float32(0)))


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
    heat = np.clip(np.nan_to_num(heat, nan=0.0), 0, 1).astype(np.float32, copy=False)
    colors = heat_colors()[np.rint(heat * 255).astype(np.uint8)]
    return _blend(image, colors, heat * np.float32(opacity))


@cache
def heat_colors() -> np.ndarray:
    """Colours of map values 0 .. 1, ``(256, 3) uint8``: equal steps of value look equally large.

    From dark violet through red to light yellow, in the perceptual colour space OKLab with evenly
    rising lightness, so that the order of values is kept when printed in grey.

    References
    ----------
    Ottosson, A perceptual color space for image processing, 2020 (the two matrices).
    """
    share = np.linspace(0, 1, 256)
    lightness = np.interp(share, (0, 1), _HEAT_LIGHTNESS)
    hue = np.deg2rad(np.interp(share, (0, 1), _HEAT_HUE))
    chroma = np.interp(share, *_HEAT_CHROMA)
    lab = np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)])
    lms = np.array([
        [1, 0.3963377774, 0.2158037573],
        [1, -0.1055613458, -0.0638541728],
        [1, -0.0894841775, -1.2914855480],
    ]) @ lab
    linear = np.array([
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]) @ lms ** 3
    linear = np.clip(linear, 0, 1)
    # The transfer curve of sRGB (IEC 61966-2-1).
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    colors = np.rint(255 * encoded).astype(np.uint8).T.copy()
    colors.flags.writeable = False  # all callers share it
    return colors


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


class _Task(NamedTuple):
    """What one thread draws: a record's pictures, and in an image's first task those of the image itself."""

    item: Item
    record: MapRecord | LabelRecord | None
    first: bool


def _tasks(
    dataset: Dataset | None, records: Iterable[MapRecord | LabelRecord] | None, value_range: ValueRange | None,
) -> Iterator[_Task]:
    """The tasks in order; without a dataset, items are made from the records."""
    if records is None:
        for item in dataset.items:  # type: ignore[union-attr]
            yield _Task(item, None, True)
        return
    items = {item.id: item for item in dataset.items} if dataset is not None else {}
    seen: set[str] = set()
    record = None
    for record in records:
        item = items.get(record.id)
        if dataset is None:
            item = Item(id=record.id, image=Path(record.image), value_range=value_range)
        if item is not None:
            yield _Task(item, record, item.id not in seen)
            seen.add(item.id)
    if record is not None and dataset is not None and not seen:
        raise InputError(
            dataset.source, f"has none of the images of the maps or labels, such as '{record.id}'",
            f"its ids look like '{dataset.items[0].id}'; check --data and --split")


def _names(task: _Task, targets: bool, class_files: Sequence[str]) -> list[str]:
    """File names of the pictures of one task."""
    item, record, first = task
    suffixes = []
    if first:
        suffixes.append("_image.png")
        if targets and item.mask is not None:
            suffixes.append("_target.png")
    if isinstance(record, LabelRecord):
        suffixes += ["_pred.png", "_overlay.png"]
    elif record is not None:
        suffixes += [f"_heat_{_class_file(label, class_files)}.png" for label in record.labels]
    return [member_name(item.id, suffix) for suffix in suffixes]


def _pictures(
    task: _Task, settings: OverlaySettings, targets: bool, class_files: Sequence[str],
) -> list[tuple[str, Image.Image]]:
    """The pictures of one task, with their file names."""
    item, record, first = task
    image = _image_of(item)
    pictures = []
    if first:
        pictures.append(Image.fromarray(image))
        if targets and item.mask is not None:
            pictures.append(label_picture(load_target(item, image.shape[:2])))
    if isinstance(record, LabelRecord):
        _check_size(record.id, "label image", record.labels.shape, image)
        if class_files:
            check_label_values(record.labels, class_files, record.id)
        pictures.append(label_picture(record.labels))
        pictures.append(Image.fromarray(blend_labels(image, record.labels, settings.opacity)))
    elif record is not None:
        _check_size(record.id, "map's image", record.image_size, image)
        maps = resize_maps(record.as_float(), record.image_size)
        pictures += [heat_picture(image, heat, settings.opacity) for heat in maps]
    return list(zip(_names(task, targets, class_files), pictures, strict=True))


def _image_of(item: Item) -> np.ndarray:
    """The image's pixels, (H, W, 3) uint8."""
    if item.image == Path():  # made of an empty name
        raise InputError(item.id, "has maps or labels that do not name its image", "name the images with --data")
    return load_image(item.image, item.value_range)


def _check_size(identifier: str, what: str, size: tuple[int, ...], image: np.ndarray) -> None:
    if tuple(size) != image.shape[:2]:
        raise InputError(
            identifier, f"the {what} is {shown_size(size)} pixels, but the image is {shown_size(image.shape)}",
            "use the images that the maps or labels were made from")


def _class_file(label: int, class_files: Sequence[str]) -> str:
    channel = channel_of(label)
    return class_files[channel] if channel < len(class_files) else f"class-{label}"


def _clipped(name: str) -> str:
    """The beginning of the name for which a file name has room."""
    return name.encode()[:_MAX_NAME_BYTES].decode(errors="ignore")


def _blend(image: np.ndarray, colors: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """``image + weight * (colors - image)``, rounded; weight is (H, W) float32 in [0, 1]."""
    blended = colors.astype(np.float32)
    blended -= image
    blended *= weight[..., np.newaxis]
    blended += image
    return np.rint(blended, out=blended).astype(np.uint8)
