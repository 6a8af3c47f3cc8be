"""The maps of one image as another project's file has them, and the record made of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from drstool.errors import InputError
from drstool.formats.records import MapRecord, check_shape, encode_values
from drstool.labels import label_of
from drstool.pixels import shown_size
from drstool.reports.text import counted

__all__ = ["FoundMaps", "ValueCounts", "check_numbers", "stacked", "to_record"]

# What rounding may add to a map's values.
_ROUNDING = 1e-3


@dataclass(frozen=True, eq=False)
class FoundMaps:
    """What a file holds of one image.

    Attributes
    ----------
    maps : (K, h, w) uint8 or float
        uint8 holds 255 times the value.
    numbers
        The K class numbers, counted from 0, in any order; None: one map for every class of the list.
    fills_image
        Whether the format's maps have the size of their image.
    image_size
        ``(H, W)`` if the file says it.
    image
        The image's path if the file says it.
    left_out
        What else is in the file, in words.
    """

    maps: np.ndarray
    numbers: tuple[int, ...] | None
    fills_image: bool
    image_size: tuple[int, int] | None = None
    image: str = ""
    left_out: tuple[str, ...] = ()


@dataclass
class ValueCounts:
    """What had to be done to values, in images, and the largest value of floating-point and of uint8 maps."""

    negative: int = 0
    over_one: int = 0
    clipped: int = 0
    rounded: int = 0
    largest: float = 0.0
    largest_uint8: int = 0

    def add(self, other: ValueCounts) -> None:
        """Add another image's."""
        for name in ("negative", "over_one", "clipped", "rounded"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.largest = max(self.largest, other.largest)
        self.largest_uint8 = max(self.largest_uint8, other.largest_uint8)

    def lines(self, dtype: str | None) -> list[str]:
        """What was done, a line each."""
        lines = (
            (self.negative, "negative values of {} were set to 0"),
            (self.clipped, f"values over 1 (up to {self.largest:.4g}) of {{}} were clipped to 1"),
            (self.over_one, f"values over 1 (up to {self.largest:.4g}) of {{}} were kept; thresholds such as --alpha "
             "expect 0 to 1"),
            (self.rounded, f"values of {{}} were rounded to {dtype or 'float16'}"))
        return [text.format(counted(count, "image")) for count, text in lines if count]


def check_numbers(keys: Any) -> tuple[int, ...]:
    """Class numbers as an array or list of a file has them.

    Raises
    ------
    ValueError
        They are not a list of whole numbers from 0.
    """
    keys = np.asarray(keys)
    if keys.ndim != 1 or keys.size and keys.dtype.kind not in "iu":
        raise ValueError(f"its class numbers are {keys.dtype} of shape {keys.shape}, not a list of whole numbers")
    if keys.size and keys.min() < 0:
        raise ValueError(f"it has the class number {keys.min()}")
    return tuple(int(key) for key in keys)


def stacked(maps: Any, count: int) -> np.ndarray:
    """The maps of a file, (K, h, w), of which there must be so many.

    Raises
    ------
    ValueError
        They are something else.
    """
    if not isinstance(maps, np.ndarray) or maps.ndim != 3:
        raise ValueError(f"its maps are {_shown(maps)}, not (K, H, W)")
    if len(maps) != count:
        raise ValueError(f"it has {counted(len(maps), 'map')} and {counted(count, 'class number')}")
    return maps


def _shown(value: Any) -> str:
    return f"an array of shape {value.shape}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"


def to_record(
    found: FoundMaps, identifier: str, class_names: tuple[str, ...], where: object, *,
    image_size: tuple[int, int] | None = None, image: str = "", tags: tuple[str, ...] | None = None,
    dtype: str | None = None,
) -> tuple[MapRecord, ValueCounts]:
    """A record of maps, and what was done to their values.

    Parameters
    ----------
    found
        What the file holds.
    identifier
    class_names
        The C object classes.
    where
        Of the file, named in errors.
    image_size, image
        Of the image in the dataset, if there is one.
    tags
        Of an image whose file has a map for every class: these are kept, and maps that are not 0 everywhere.
    dtype
        How values are stored; None: uint8 where that is exact, else float16.

    Raises
    ------
    InputError
        The classes, values or sizes cannot be right.
    """
    numbers, maps = _present(found, class_names, tags, where)
    over = [number for number in numbers if number >= len(class_names)]
    if over:
        raise InputError(
            where, f"has a map of class number {over[0]}, but there are {len(class_names)} classes (numbers 0 to "
            f"{len(class_names) - 1})", "name all classes with --classes")
    if len(set(numbers)) < len(numbers):
        raise InputError(where, f"has two maps of one class: numbers {list(numbers)[:8]}", "expected one map per class")
    if image_size is not None and found.image_size not in (None, tuple(image_size)):
        raise InputError(
            where, f"says that its image has {shown_size(found.image_size)} pixels, but the image has "  # type: ignore
            f"{shown_size(image_size)}", "check that the images are the same")
    size = image_size or found.image_size or tuple(maps.shape[1:])
    if not numbers:
        if 0 in size:
            raise InputError(where, "holds no map, and does not say the size of its image", "give --data")
        maps = np.zeros((0, *size), np.uint8)
    elif found.fills_image:
        _check_size(maps.shape[1:], size, where)
    order = sorted(range(len(numbers)), key=numbers.__getitem__)
    values, counts = _encoded(maps[order], dtype, where)
    check_shape(values.shape, values.dtype, where)
    labels = tuple(label_of(numbers[place]) for place in order)
    return MapRecord(identifier, values, labels, size, image or found.image), counts  # type: ignore[arg-type]


def _present(
    found: FoundMaps, class_names: tuple[str, ...], tags: tuple[str, ...] | None, where: object,
) -> tuple[tuple[int, ...], np.ndarray]:
    """Numbers and maps of the classes present."""
    if found.numbers is not None:
        return found.numbers, found.maps
    if len(found.maps) != len(class_names):
        raise InputError(
            where, f"has maps of {len(found.maps)} classes, but there are {len(class_names)} names",
            "name all classes with --classes")
    # NaN counts as present, and is refused later.
    kept = [number for number, name in enumerate(class_names) if found.maps[number].any() or name in (tags or ())]
    return tuple(kept), found.maps[kept]


def _check_size(shape: tuple[int, ...], size: tuple[int, ...], where: object) -> None:
    if tuple(shape) != tuple(size):
        turned = tuple(shape) == tuple(size)[::-1]
        raise InputError(
            where, f"has maps of {shown_size(shape)} pixels, but the image has {shown_size(size)}",
            "the image may be rotated by EXIF, which is applied here" if turned else
            "maps of this format have the size of their image; check that the images are the same")


def _encoded(maps: np.ndarray, dtype: str | None, where: object) -> tuple[np.ndarray, ValueCounts]:
    """Values as they are stored, and what was done to them."""
    counts = ValueCounts()
    if maps.dtype == np.uint8:
        counts.largest_uint8 = int(maps.max(initial=0))
        if dtype in (None, "uint8"):
            return maps, counts
        maps = maps.astype(np.float32) / np.float32(255)
    elif maps.dtype.kind != "f":
        raise InputError(where, f"has maps of {maps.dtype}", "expected uint8 (0 to 255) or floating-point numbers")
    if not maps.size:
        return maps.astype(dtype or np.uint8), counts
    maps = maps.astype(np.float64 if maps.dtype.itemsize == 8 else np.float32)
    if not np.isfinite(maps).all():
        raise InputError(where, "has a value that is not a finite number", "recreate the maps")
    if dtype is None and not -_ROUNDING <= maps.min() <= maps.max() <= 1 + _ROUNDING:
        raise InputError(
            where, f"has values from {maps.min():.3g} to {maps.max():.3g}; those of maps are from 0 to 1",
            "divide each map by its maximum, or give --dtype uint8 to clip values, float16 to clip just those below 0")
    if maps.min() < 0:
        counts.negative, maps = 1, np.maximum(maps, 0)
    counts.largest = float(maps.max())
    values, kind = _steps(maps), dtype or "uint8"
    if dtype == "float16" or values is None and dtype is None:
        values, kind = encode_values(maps, "float16", where), "float16"
        counts.rounded = int((values != maps).any())
        counts.over_one = int(counts.largest > 1)
    elif values is None:
        values = encode_values(maps, kind, where)
        counts.clipped, counts.rounded = int(counts.largest > 1), 1
    return values, counts


def _steps(maps: np.ndarray) -> np.ndarray | None:
    """The maps as uint8 where they are exactly that, divided by 255, or as float16."""
    if maps.max() > 1:
        return None
    values = np.rint(maps * 255).astype(np.uint8)
    exact = values / np.float32(255)
    return values if (exact == maps).all() or (exact.astype(np.float16) == maps).all() else None
