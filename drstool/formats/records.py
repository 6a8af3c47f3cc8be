"""The records of artifacts: the maps or the labels of one image, read or still to be read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from drstool.artifacts.header import Header
from drstool.errors import InputError
from drstool.identifiers import check_id
from drstool.labels import MAX_OBJECT_CLASSES, check_label_values, label_type
from drstool.pixels import MAX_PIXELS

__all__ = [
    "LABEL_TYPES", "MAX_RECORD_BYTES", "LabelRecord", "LazyRecord", "MapRecord", "Record", "check_label_record",
    "check_map_record", "check_shape", "encode_values", "load",
]

# All maps of one image, uncompressed.
MAX_RECORD_BYTES = 2**32
LABEL_TYPES = (np.dtype(np.uint8), np.dtype(np.uint16))


@dataclass(frozen=True, eq=False)
class MapRecord:
    """The maps of one image.

    Parameters
    ----------
    id
        The image's id.
    values : (K, H, W) uint8 or float16
        uint8 holds ``round(255 x)`` of maps in [0, 1]; float16 holds the values themselves.
    labels
        The K label values, ascending.
    image_size
        ``(H, W)`` of the source image after EXIF rotation; the maps may be of another size.
    image
        The image's path as the user gave it; may be empty.
    """

    id: str
    values: np.ndarray
    labels: tuple[int, ...]
    image_size: tuple[int, int]
    image: str = ""

    def info(self) -> dict[str, Any]:
        """What is to be said of the record, as plain values."""
        return {
            "id": self.id, "shape": list(self.values.shape), "dtype": str(self.values.dtype),
            "labels": list(self.labels), "image": self.image, "image_size": list(self.image_size),
        }

    def as_float(self) -> np.ndarray:
        """The map values, ``(K, H, W) float32``; in [0, 1] where they are stored as uint8."""
        values = self.values.astype(np.float32)
        return values / np.float32(255) if self.values.dtype == np.uint8 else values


@dataclass(frozen=True, eq=False)
class LabelRecord:
    """The label image of one image.

    Parameters
    ----------
    id
        The image's id.
    labels : (H, W) uint8 or uint16
        0 background, 1..C object classes, the highest value ignored, of the type that the number of
        classes needs (:func:`drstool.labels.label_type`); uint8 grey values of saliency maps.
    image
        The image's path as the user gave it; may be empty.
    """

    id: str
    labels: np.ndarray
    image: str = ""

    def info(self) -> dict[str, Any]:
        """What is to be said of the record, as plain values."""
        return {
            "id": self.id, "shape": list(self.labels.shape), "dtype": str(self.labels.dtype), "image": self.image}


Record = MapRecord | LabelRecord


@dataclass(frozen=True, eq=False)
class LazyRecord:
    """The record of one image, read by the thread that works on it.

    Parameters
    ----------
    id
        The image's id.
    read
        Reads it; raises an :class:`drstool.errors.InputError` where it is damaged.
    is_maps
        Whether it holds maps, else labels.
    """

    id: str
    read: Callable[[], Record]
    is_maps: bool


def load(record: Record | LazyRecord) -> Any:
    """The record itself, read now if it is lazy; a map or label record, as its source has them."""
    return record.read() if isinstance(record, LazyRecord) else record


def encode_values(x: np.ndarray, dtype: str = "uint8", where: object = "maps") -> np.ndarray:
    """Map values as they are stored.

    Parameters
    ----------
    x : (K, H, W) float
    dtype
        ``"uint8"``: clipped to [0, 1] and stored as ``round(255 x)``, within 1/510;
        ``"float16"``: stored as they are.
    where
        Named in the error.

    Returns
    -------
    (K, H, W) uint8 or float16

    Raises
    ------
    InputError
        A value is NaN, or infinite once stored.

    Examples
    --------
    >>> encode_values(np.array([[[-1.0, 0.5, 2.0]]])).tolist()
    [[[0, 128, 255]]]
    """
    x = np.asarray(x)
    if dtype == "uint8":
        _check_finite(x, where, np.isnan)
        return np.rint(np.clip(x, 0, 1) * np.float32(255)).astype(np.uint8)
    if dtype != "float16":
        raise ValueError(f"maps are stored as uint8 or float16, not {dtype}")
    with np.errstate(over="ignore"):
        values = x.astype(np.float16)
    _check_finite(values, where, lambda v: ~np.isfinite(v))
    return values


def check_map_record(record: MapRecord, num_object_classes: int, where: object) -> None:
    """Check that a map file of so many classes can hold a record.

    Raises
    ------
    InputError
        Its id, shape, dtype, labels or sizes are not as :class:`MapRecord` says.
    """
    check_id(record.id, where)
    where, size, labels = f"{where}: {record.id}", record.image_size, record.labels
    check_shape(record.values.shape, record.values.dtype, where)
    if len(size) != 2 or min(size) < 1 or size[0] * size[1] > MAX_PIXELS:
        raise InputError(where, f"has the image size (H, W) = {tuple(size)}", f"expected 1 to {MAX_PIXELS:,} pixels")
    if len(labels) != record.values.shape[0]:
        raise InputError(where, f"has {record.values.shape[0]} maps and {len(labels)} labels", "one map per label")
    in_range = all(1 <= label <= num_object_classes for label in labels)
    if list(labels) != sorted(set(labels)) or not in_range:
        raise InputError(
            where, f"has the labels {list(labels)[:8]}",
            f"labels must ascend, without duplicates, within 1..{num_object_classes}")
    if record.values.dtype == np.float16:
        _check_finite(record.values, where, lambda v: ~np.isfinite(v))


def check_label_record(record: LabelRecord, header: Header, where: object) -> None:
    """Check that an artifact of that header can hold a record.

    Raises
    ------
    InputError
        Its id, shape, dtype or values are not as :class:`LabelRecord` says.
    """
    check_id(record.id, where)
    where, labels = f"{where}: {record.id}", record.labels
    if header.kind == "labels" and labels.dtype in LABEL_TYPES:
        check_label_values(labels, header.class_names, where)
    right = label_type(len(header.class_names)) if header.kind == "labels" else np.dtype(np.uint8)
    if labels.ndim != 2 or labels.dtype != right or not 0 < labels.size <= MAX_PIXELS:
        raise InputError(
            where, f"is a {labels.dtype} array of shape {labels.shape}",
            f"label images are (H, W) {right} of 1 to {MAX_PIXELS:,} pixels",
        )


def _check_finite(values: np.ndarray, where: object, is_bad: Callable) -> None:
    if is_bad(values).any():
        raise InputError(
            where, "a map value is not a finite number",
            "the checkpoint may be damaged, or values too large for float16")


def check_shape(shape: tuple[int, ...], dtype: np.dtype, where: object) -> None:
    """Check that maps are (K, H, W) uint8 or float16, and not too large.

    Raises
    ------
    InputError
        They are not.
    """
    if len(shape) != 3 or dtype not in (np.uint8, np.float16):
        raise InputError(
            where, f"is a {dtype} array of shape {shape}", "maps are (K, H, W) uint8 or float16")
    channels, height, width = (int(side) for side in shape)
    size = channels * height * width * dtype.itemsize
    fits = channels <= MAX_OBJECT_CLASSES and size <= MAX_RECORD_BYTES
    if not fits or not 0 < height * width <= MAX_PIXELS:
        raise InputError(
            where, f"has maps of shape {shape}",
            f"at most {MAX_OBJECT_CLASSES} maps of 1 to {MAX_PIXELS:,} pixels, "
            f"and {MAX_RECORD_BYTES >> 30} GiB in all",
        )
