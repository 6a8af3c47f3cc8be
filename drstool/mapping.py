"""What stages with networks share: images into square batches, maps and probabilities into records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from drstool.data.decoding import load_pil
from drstool.data.item import Item
from drstool.data.transforms import image_tensor, warp
from drstool.errors import InputError, UsageError
from drstool.formats.maps import MapRecord, encode_values
from drstool.inference import normalize
from drstool.labels import label_of

__all__ = ["LEAST_SCORE", "Loaded", "batches", "load_square", "map_record", "output_size", "score_record"]

# Up to this a score is 0 in a map of one byte a pixel.
LEAST_SCORE = 1 / 510


@dataclass(frozen=True)
class Loaded:
    """An image ready for the network.

    Attributes
    ----------
    item
    pixels : (3, S, S) uint8
        Warped to a square.
    size
        (H, W) of the image itself.
    channels
        Object channels of its tags; empty where it has none, or they are to be predicted.
    """

    item: Item
    pixels: Tensor
    size: tuple[int, int]
    channels: list[int]


def load_square(
    item: Item, *, side: int, class_names: Sequence[str] | None, empty: bool = False
) -> Loaded:
    """The image, read and warped.

    Parameters
    ----------
    item
    side
        S, pixels.
    class_names
        In which the tags are looked up; None: tags are not needed.
    empty
        Whether an image may be known to have no class at all.

    Raises
    ------
    InputError
        Unreadable, without a tag, or with a tag that is no class.
    """
    channels: list[int] = []
    if class_names is not None:
        if item.tags is None or not (item.tags or empty):
            raise InputError(
                f"image {item.id!r}", "has no tag",
                "give it tags, leave it out, or let 'drstool cam --tags predicted' find them")
        unknown = [tag for tag in item.tags if tag not in class_names]
        if unknown:
            raise InputError(
                f"image {item.id!r}", f"has tag {unknown[0]!r}, which the network does not know",
                "its classes are " + ", ".join(class_names))
        channels = [class_names.index(tag) for tag in item.tags]
    image = load_pil(item.image)
    return Loaded(item, image_tensor(warp(image, side)), (image.height, image.width), sorted(channels))


def batches(
    loaded: Iterable[Loaded], size: int, device: torch.device
) -> Iterator[tuple[list[Loaded], Tensor]]:
    """Portions of at most ``size`` images, with the normalised ``(N, 3, S, S) float32`` on the device."""
    iterator = iter(loaded)
    while batch := list(islice(iterator, size)):
        pixels = torch.stack([image.pixels for image in batch]).to(device)
        yield batch, normalize(pixels).contiguous(memory_format=torch.channels_last)


def output_size(map_size: str, square: int, image: tuple[int, int]) -> tuple[int, int]:
    """(H, W) of an image's maps.

    Parameters
    ----------
    map_size
        ``square``, ``image``, or a number of pixels.
    square
        Side of the warped image.
    image
        (H, W) of the image itself.

    Raises
    ------
    UsageError
        Another text.

    Examples
    --------
    >>> output_size("square", 320, (375, 500)), output_size("image", 320, (375, 500))
    ((320, 320), (375, 500))
    """
    if map_size == "image":
        return image
    if map_size == "square":
        return square, square
    if not map_size.isdecimal() or not 1 <= int(map_size) <= 10_000:
        raise UsageError("--map-size", f"{map_size!r} is no size", "square, image, or a number of pixels")
    return int(map_size), int(map_size)


def map_record(image: Loaded, channels: Sequence[int], maps: Tensor, dtype: str) -> MapRecord:
    """One image's maps as they are stored.

    Parameters
    ----------
    image
    channels
        K object channels, ascending.
    maps : (K, H, W) float32
    dtype
        ``uint8`` or ``float16``.
    """
    return MapRecord(
        id=image.item.id,
        values=encode_values(maps.cpu().numpy(), dtype),
        labels=tuple(label_of(channel) for channel in channels),
        image_size=image.size,
        image=str(image.item.image))


def score_record(
    identifier: str, probabilities: np.ndarray, labels: Sequence[int], image: str, dtype: str = "uint8"
) -> MapRecord:
    """Object probabilities as a map record of the classes that do not round to zero everywhere.

    What the background has is what they leave, and is not stored.

    Parameters
    ----------
    identifier
    probabilities : (K + 1, H, W) float32 in [0, 1]
        Background first.
    labels
        Of the K objects, ascending.
    image
        Path of the image.
    dtype
        ``uint8`` or ``float16``.
    """
    values = encode_values(probabilities[1:], dtype)
    present = np.flatnonzero((probabilities[1:] > LEAST_SCORE).any(axis=(1, 2)))
    return MapRecord(
        id=identifier, values=values[present], labels=tuple(int(labels[channel]) for channel in present),
        image_size=probabilities.shape[1:], image=image)
