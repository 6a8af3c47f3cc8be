"""``segment``: label images at full size from a segmenter."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from functools import partial

import numpy as np
import torch
from torch import Tensor

from drstool.data.decoding import load_pil
from drstool.data.item import Item
from drstool.data.transforms import image_tensor
from drstool.formats.checkpoint import Checkpoint
from drstool.formats.label_png import LabelRecord
from drstool.formats.maps import MapRecord, encode_values
from drstool.inference import computing, normalize, on_device, segment_probabilities
from drstool.labels import label_type
from drstool.mapping import OnHost, one_behind
from drstool.models.build import restore_network
from drstool.parallel import OnError, Track, map_items, untracked
from drstool.recipe import SegmentSettings

__all__ = ["score_record", "segment"]


def segment(
    items: Iterable[Item],
    checkpoint: Checkpoint,
    settings: SegmentSettings,
    *,
    scores: bool = False,
    device: torch.device = torch.device("cpu"),
    precision: str = "float32",
    tf32: bool = True,
    workers: int = 1,
    on_error: OnError | None = None,
    track: Track = untracked,
    total: int | None = None,
) -> Iterator[tuple[LabelRecord, MapRecord | None]]:
    """The label image of each image, in order and at its own size.

    Parameters
    ----------
    items
        Images; tags are not read.
    checkpoint
        A segmenter.
    settings
    scores
        Also yield the probabilities as maps.
    device, precision, tf32, workers, on_error, track, total
        As in :func:`drstool.stages.cam.cam`.

    Raises
    ------
    InputError
        An image is unreadable.
    """
    model = restore_network(
        "segmenter", checkpoint.architecture, checkpoint.class_names, checkpoint.weights, "segmenter")
    model.to(device, memory_format=torch.channels_last)
    loaded = map_items(lambda item: (item, image_tensor(load_pil(item.image))), items, workers, on_error)
    # Sizes differ from image to image, so there is nothing to tune for.
    context = partial(computing, device, precision, tf32=tf32)
    return _segmented(track(loaded, "segment", total), model, settings, scores, device, context)


def _segmented(
    loaded: Iterable[tuple[Item, Tensor]], model: torch.nn.Module, settings: SegmentSettings,
    scores: bool, device: torch.device, context: Callable[[], AbstractContextManager],
) -> Iterator[tuple[LabelRecord, MapRecord | None]]:
    def started() -> Iterator[tuple[Item, np.dtype, OnHost]]:
        for item, pixels in loaded:
            with context():
                image = normalize(on_device(pixels[None], device)).contiguous(memory_format=torch.channels_last)
                probabilities = segment_probabilities(model, image, settings.scales, settings.flip)
                # Channel c of a segmenter is label c: it has a channel for the background.
                dtype = label_type(len(probabilities) - 1)
                # torch computes little in uint16.
                labels = probabilities.argmax(dim=0).to(torch.uint8 if dtype == np.uint8 else torch.int32)
                on_host = OnHost([labels, probabilities] if scores else [labels])
            yield item, dtype, on_host

    for item, dtype, on_host in one_behind(started(), device):
        labels, *probabilities = on_host.arrays()
        record = LabelRecord(id=item.id, labels=labels.astype(dtype, copy=False), image=str(item.image))
        yield record, score_record(item, probabilities[0]) if scores else None


def score_record(item: Item, probabilities: np.ndarray) -> MapRecord:
    """Object probabilities as a map record of the classes that do not round to zero everywhere.

    Parameters
    ----------
    item
    probabilities : (num_classes, H, W) float32 in [0, 1]
        Background first.
    """
    values = encode_values(probabilities[1:], "uint8")
    present = np.flatnonzero(values.any(axis=(1, 2)))
    return MapRecord(
        id=item.id, values=values[present], labels=tuple(int(channel) + 1 for channel in present),
        image_size=probabilities.shape[1:], image=str(item.image))
