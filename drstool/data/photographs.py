"""The image that a record of maps belongs to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from drstool.data.decoding import load_image
from drstool.data.item import Dataset
from drstool.errors import InputError
from drstool.formats.records import MapRecord
from drstool.pixels import shown_size

__all__ = ["ImageOf", "images_of", "load_photograph"]

# Path of the image of a record.
ImageOf = Callable[[MapRecord], Path]


def images_of(dataset: Dataset | None = None) -> ImageOf:
    """A function that names a record's image: as the dataset says, or without one the record.

    Raises
    ------
    InputError
        By the function: the dataset lacks the image, or the record does not name its own.
    """
    paths = None if dataset is None else {item.id: item.image for item in dataset.items}

    def image_of(record: MapRecord) -> Path:
        if paths is None:
            if not record.image:
                raise InputError(f"image {record.id!r}", "has maps that do not name its file", "give --data")
            return Path(record.image)
        if record.id not in paths:
            raise InputError(
                f"image {record.id!r}", f"is not one of the {len(paths)} images of {dataset.source}",
                "check --data and --split")
        return paths[record.id]

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
    path = image_of(record)
    image = load_image(path)
    if image.shape[:2] != tuple(record.image_size):
        raise InputError(
            path, f"is {shown_size(image.shape)} pixels, but {shown_size(record.image_size)} in its maps",
            "give the image that the maps were made from")
    return image
