"""What stages with networks share: images into square batches, maps and probabilities into records.

A GPU is kept busy: threads read images and compress results, copies to and from the device are
asynchronous, and a batch's maps are awaited only once the next batch has been started.
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
    "LEAST_SCORE", "Loaded", "OnHost", "encoded", "load_square", "map_records", "pipelined", "output_size",
    "score_record",
]

Started = TypeVar("Started")

# Scores up to this are stored as 0 in uint8 maps.
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
        Object channels of its tags, ascending; empty without tags, or where they are to be predicted.
    """

    item: Item
    pixels: Tensor
    size: tuple[int, int]
    channels: list[int]


def load_square(
    item: Item, *, side: int, class_names: Sequence[str] | None,
) -> Loaded:
    """The image, read and warped to a square.

    Parameters
    ----------
    item
    side
        S, pixels.
    class_names
        The classes that tags may name; None: tags are not needed.

    Raises
    ------
    InputError
        The image is unreadable, its tags are unknown, or has a tag that names no class.
    """
    channels: list[int] = []
    if class_names is not None:
        if item.tags is None:
            raise InputError(
                f"image {item.id!r}", "has no tags",
                "add tags, remove it, or use --empty-tags negative (it holds no object) or 'cam --tags predicted'")
        unknown = [tag for tag in item.tags if tag not in class_names]
        if unknown:
            raise InputError(
                f"image {item.id!r}", f"has tag {unknown[0]!r}, which the network does not know",
                "its classes are " + ", ".join(class_names))
        channels = [class_names.index(tag) for tag in item.tags]
    image = load_pil(item.image, item.value_range)
    return Loaded(item, image_tensor(warp(image, side)), (image.height, image.width), sorted(channels))


class Compute(Protocol):
    """Computes a batch: from the loaded images and their normalised ``(N, 3, S, S) float32`` pixels on
    the device, the K object channels of each image and its ``(K, H, W) float32`` maps."""

    def __call__(
        self, batch: list[Loaded], images: Tensor, /
    ) -> tuple[Sequence[Sequence[int]], Sequence[Tensor]]: ...


def map_records(
    loaded: Iterable[Loaded | None], compute: Compute, execution: Execution, *, batch_size: int, dtype: str,
) -> Iterator[MapRecord]:
    """Records of the images' maps, in order.

    Parameters
    ----------
    loaded
        Consumed one batch at a time. None is an image that failed; it keeps its place in its batch, so that
        the others share theirs with the same images as if it had not.
    compute
    execution
    batch_size
        0: chosen for the device, and halved whenever it runs out of memory.
    dtype
        ``uint8`` or ``float16``.

    Raises
    ------
    DrstoolError
        The device has too little memory for even one image.
    InputError
        A map value is not finite.
    """
    device = execution.device
    size = batch_size or AUTO_BATCH.get(device.type, 1)

    def start(batch: list[Loaded]) -> _Started:
        with execution.computing(same_size=len(batch) == size):
            images = normalize(on_device(torch.stack([image.pixels for image in batch]), device))
            channels, maps = compute(batch, images)
            return _Started(batch, channels, maps, dtype)

    def started() -> Iterator[_Started]:
        nonlocal size
        iterator = iter(loaded)
        waiting: deque[Loaded | None] = deque()
        while places := _next_batch(waiting, iterator, size):
            if not (batch := [image for image in places if image is not None]):
                continue
            try:
                yield start(batch)
                continue
            except torch.OutOfMemoryError:
                if batch_size:
                    raise
            if len(batch) == 1:
                raise DrstoolError(
                    "--batch-size auto", "the device has too little memory for even one image",
                    "lower --sizes or --image-size, or give --device cpu")
            # Outside the handler, where nothing refers to the failed batch's tensors any more.
            size = len(batch) // 2
            waiting.extendleft(reversed(places))
            if device.type == "cuda":
                torch.cuda.empty_cache()

    for batch in pipelined(started(), device):
        yield from batch.records()


def _next_batch(
    waiting: deque[Loaded | None], iterator: Iterator[Loaded | None], size: int,
) -> list[Loaded | None]:
    batch = [waiting.popleft() for _ in range(min(size, len(waiting)))]
    return batch + list(islice(iterator, size - len(batch)))


def pipelined(started: Iterable[Started], device: torch.device) -> Iterator[Started]:
    """The started work; on a GPU, each piece is handed on only once the next one has been started."""
    before: list[Started] = []
    for each in started:
        before.append(each)
        if device.type != "cuda" or len(before) > 1:
            yield before.pop(0)
    yield from before


class OnHost:
    """Tensors that are copied to the host asynchronously."""

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
        """The tensors as arrays; waits for the copy."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return [tensor.numpy() for tensor in self._tensors]


class _Started:
    """A batch whose maps are being computed, and encoded on the device, so that fewer bytes are copied."""

    def __init__(
        self, batch: list[Loaded], channels: Sequence[Sequence[int]], maps: Sequence[Tensor], dtype: str
    ) -> None:
        self._batch, self._channels = batch, channels
        values = [encoded(image_maps, dtype) for image_maps in maps]
        self._on_host = OnHost([one for pair in values for one in pair])

    def records(self) -> Iterator[MapRecord]:
        """The batch's records; waits for their maps."""
        arrays = self._on_host.arrays()
        for n, (image, channels) in enumerate(zip(self._batch, self._channels, strict=True)):
            values, finite = arrays[2 * n: 2 * n + 2]
            if not finite:
                raise InputError(
                    f"image {image.item.id!r}", "a map value is not a finite number",
                    "check the checkpoint; with another precision, try --precision float32")
            yield MapRecord(
                id=image.item.id,
                values=values,
                labels=tuple(label_of(channel) for channel in channels),
                image_size=image.size,
                image=str(image.item.image))


def encoded(maps: Tensor, dtype: str) -> tuple[Tensor, Tensor]:
    """Maps as they are stored, and whether they are finite; computed on the maps' device.

    The values equal those of :func:`drstool.formats.records.encode_values`.

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
        ``square``, ``image``, or a number of pixels, 1 to 10,000.
    square
        Side of the warped image, pixels.
    image
        (H, W) of the image itself.

    Raises
    ------
    UsageError
        ``map_size`` is none of these.

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
        raise UsageError(
            "--map-size", f"{map_size!r} is not a size", "square, image, or a number of pixels from 1 to 10,000")
    return int(map_size), int(map_size)


def score_record(
    identifier: str, probabilities: np.ndarray, labels: Sequence[int], image: str, dtype: str = "uint8"
) -> MapRecord:
    """Object probabilities as a map record, without the classes that round to zero everywhere.

    The background is not stored: its probability is what the objects leave.

    Parameters
    ----------
    identifier
    probabilities : (K + 1, H, W) float32 in [0, 1]
        Background first.
    labels
        Label values of the K objects, ascending.
    image
        Path of the image.
    dtype
        ``uint8`` or ``float16``.
    """
    values = encode_values(probabilities[1:], dtype)
    present = np.flatnonzero((probabilities[1:] > LEAST_SCORE).any(axis=(1, 2)))
    return MapRecord(
        id=identifier, values=values[present], labels=tuple(int(labels[channel]) for channel in present.tolist()),
        image_size=probabilities.shape[1:], image=image)
