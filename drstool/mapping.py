"""What stages with networks share: images into square batches, maps and probabilities into records.

On a GPU nothing waits that need not: images are read and results compressed by threads, pixels and
maps travel while the device computes, and a batch's maps are asked for when the next one has begun.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from drstool.data.decoding import load_pil
from drstool.data.item import Item
from drstool.data.transforms import image_tensor, warp
from drstool.errors import DrstoolError, InputError, UsageError
from drstool.formats.records import MapRecord, encode_values
from drstool.inference import Execution, normalize, on_device
from drstool.labels import label_of
from drstool.recipe import AUTO_BATCH

__all__ = [
    "LEAST_SCORE", "Loaded", "OnHost", "encoded", "load_square", "map_records", "one_behind", "output_size",
    "score_record",
]

Started = TypeVar("Started")

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


class Compute(Protocol):
    """Maps of a batch: from the loaded images and their normalised ``(N, 3, S, S) float32`` pixels
    on the device, the K object channels of each and its ``(K, H, W) float32`` maps."""

    def __call__(
        self, batch: list[Loaded], images: Tensor, /
    ) -> tuple[Sequence[Sequence[int]], Sequence[Tensor]]: ...


def map_records(
    loaded: Iterable[Loaded],
    compute: Compute,
    execution: Execution,
    *,
    batch_size: int,
    dtype: str,
) -> Iterator[MapRecord]:
    """Records of the images' maps, in order.

    Parameters
    ----------
    loaded
        Taken as they come, a batch at a time.
    compute
    execution
    batch_size
        0: as the device allows; halved whenever its memory does not do.
    dtype
        ``uint8`` or ``float16``.

    Raises
    ------
    DrstoolError
        The device's memory does not do for one image.
    InputError
        A map is not finite.
    """
    device, layout = execution.device, execution.layout
    size = batch_size or AUTO_BATCH.get(device.type, 1)

    def start(batch: list[Loaded]) -> _Started:
        with execution.computing(same_size=len(batch) == size):
            images = normalize(on_device(torch.stack([image.pixels for image in batch]), device))
            channels, maps = compute(batch, images.contiguous(memory_format=layout))
            return _Started(batch, channels, maps, dtype)

    def started() -> Iterator[_Started]:
        nonlocal size
        iterator = iter(loaded)
        waiting: deque[Loaded] = deque()
        while batch := _next_batch(waiting, iterator, size):
            try:
                yield start(batch)
                continue
            except torch.OutOfMemoryError:
                if batch_size:
                    raise
            if len(batch) == 1:
                raise DrstoolError(
                    "--batch-size auto", "the device has no memory for even one image at a time",
                    "lower --sizes or --image-size, or --device cpu")
            # Outside the handler, so that nothing holds on to what the failed batch had allocated.
            size = len(batch) // 2
            waiting.extendleft(reversed(batch))
            if device.type == "cuda":
                torch.cuda.empty_cache()

    for batch in one_behind(started(), device):
        yield from batch.records()


def _next_batch(waiting: deque[Loaded], iterator: Iterator[Loaded], size: int) -> list[Loaded]:
    batch = [waiting.popleft() for _ in range(min(size, len(waiting)))]
    return batch + list(islice(iterator, size - len(batch)))


def one_behind(started: Iterable[Started], device: torch.device) -> Iterator[Started]:
    """What was started on a device, each when the next has been started as well; on a CPU at once."""
    before: list[Started] = []
    for each in started:
        before.append(each)
        if device.type != "cuda" or len(before) > 1:
            yield before.pop(0)
    yield from before


class OnHost:
    """Tensors on their way from a device to the host; they travel while the device goes on."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors, self._arrived = list(tensors), None
        on_gpu = [tensor for tensor in tensors if tensor.is_cuda]
        if on_gpu:
            self._tensors = [
                torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
                for tensor in tensors]
            self._arrived = torch.cuda.Event()
            self._arrived.record(torch.cuda.current_stream(on_gpu[0].device))

    def arrays(self) -> list[np.ndarray]:
        """The tensors as arrays, once they have arrived."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return [tensor.numpy() for tensor in self._tensors]


class _Started:
    """A batch whose maps are being computed, and encoded where they are: a quarter of the bytes travel."""

    def __init__(
        self, batch: list[Loaded], channels: Sequence[Sequence[int]], maps: Sequence[Tensor], dtype: str
    ) -> None:
        self._batch, self._channels = batch, channels
        values = [encoded(image_maps, dtype) for image_maps in maps]
        self._on_host = OnHost([one for pair in values for one in pair])

    def records(self) -> Iterator[MapRecord]:
        """The batch's records, once they have arrived."""
        arrays = self._on_host.arrays()
        for n, (image, channels) in enumerate(zip(self._batch, self._channels, strict=True)):
            values, finite = arrays[2 * n: 2 * n + 2]
            if not finite:
                raise InputError(
                    f"image {image.item.id!r}", "a map value is not a finite number",
                    "look for a damaged checkpoint; if not float32, give --precision float32")
            yield MapRecord(
                id=image.item.id,
                values=values,
                labels=tuple(label_of(channel) for channel in channels),
                image_size=image.size,
                image=str(image.item.image))


def encoded(maps: Tensor, dtype: str) -> tuple[Tensor, Tensor]:
    """Maps as they are stored, and whether all are finite; computed where the maps are.

    The same values as :func:`drstool.formats.map_file.encode_values` gives.

    Parameters
    ----------
    maps : (K, H, W) float32
    dtype
        ``uint8`` or ``float16``.

    Returns
    -------
    values : (K, H, W) uint8 or float16
    finite : () bool

    Examples
    --------
    >>> encoded(torch.tensor([[[-1.0, 0.5, 2.0]]]), "uint8")[0].tolist()
    [[[0, 128, 255]]]
    """
    if dtype == "uint8":
        return (maps.clamp(0, 1) * 255).round_().to(torch.uint8), ~torch.isnan(maps).any()
    values = maps.to(torch.float16)
    return values, torch.isfinite(values).all()


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
