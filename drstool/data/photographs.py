"""The image that a record of maps belongs to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from drstool.data.decoding import load_image
from drstool.data.item import Dataset, Item
from drstool.data.value_range import ValueRange
from drstool.errors import InputError
from drstool.formats.records import MapRecord
from drstool.pixels import shown_size

__all__ = ["ImageOf", "images_of", "load_photograph"]

# The image of a record.
ImageOf = Callable[[MapRecord], Item]


def images_of(dataset: Dataset | None = None, value_range: ValueRange | None = None) -> ImageOf:
    """A function that finds a record's image: that of the dataset, or without one that which the record names.

    Parameters
    ----------
    dataset
    value_range
        Of images that the records name.

    Raises
    ------
    InputError
        By the function: the dataset lacks the image, or the record does not name its own.
    """
    items = {} if dataset is None else {item.id: item for item in dataset.items}

    def image_of(record: MapRecord) -> Item:
        if dataset is None:
            if not record.image:
                raise InputError(f"image {record.id!r}", "has maps that do not name its file", "give --data")
            return Item(record.id, Path(record.image), value_range=value_range)
        if record.id not in items:
            raise InputError(
                f"image {record.id!r}", f"is not one of the {len(items)} images of {dataset.source}",
                "check --data and --split")
        return items[record.id]

    return image_of


def load_photograph(record: MapRecord, image_of: ImageOf) -> np.ndarray:
    """The image of a record, checked to be of the size that the record says.

    Returns
    -------
    (H, W, 3) uint8

    Raises
    ------
    InputError
        It is missing, unreadable, or of another size.
    """
    item = image_of(record)
    image = load_image(item.image, item.value_range)
    if image.shape[:2] != tuple(record.image_size):
        raise InputError(
            item.image, f"is {shown_size(image.shape)} pixels, but {shown_size(record.image_size)} in its maps",
            "give the image that the maps were made from")
    return image
