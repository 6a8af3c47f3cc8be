"""``segment``: label images at full size from a segmenter."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import numpy as np
import torch
from torch import Tensor

from drstool.crf import one_thread, smooth_probabilities
from drstool.data.decoding import load_pil
from drstool.data.item import Item
from drstool.data.transforms import image_tensor
from drstool.formats.checkpoint import Checkpoint
from drstool.formats.label_png import LabelRecord
from drstool.formats.maps import MapRecord
from drstool.inference import normalize, segment_probabilities
from drstool.labels import label_type
from drstool.mapping import LEAST_SCORE
from drstool.mapping import score_record as mapped_score_record
from drstool.models.build import restore_network
from drstool.parallel import OnError, Track, map_items, untracked
from drstool.recipe import CrfSettings, SegmentSettings
from drstool.training import autocast

__all__ = ["score_record", "segment"]


def segment(
    items: Iterable[Item],
    checkpoint: Checkpoint,
    settings: SegmentSettings,
    *,
    scores: bool = False,
    crf: CrfSettings | None = None,
    device: torch.device = torch.device("cpu"),
    precision: str = "float32",
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
    crf
        Of the CRF that the probabilities go through, those of the classes that are more than
        1/510 somewhere in the image: what a score map holds.
    device, precision, workers, on_error, track, total
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
    seen = _segmented(track(loaded, "segment", total), model, settings, device, precision)
    if crf is not None:
        smooth = partial(_smoothed, crf=crf, device=device, threads=one_thread if workers > 1 else nullcontext)
        seen = map_items(smooth, seen, workers, on_error)
    return (_records(item, probabilities, scores) for item, _, probabilities in seen)


# An image, its pixels (3, H, W) uint8 and its probabilities (num_classes, H, W) float32.
Seen = tuple[Item, Tensor, Tensor]


def _segmented(
    loaded: Iterable[tuple[Item, Tensor]], model: torch.nn.Module, settings: SegmentSettings,
    device: torch.device, precision: str,
) -> Iterator[Seen]:
    for item, pixels in loaded:
        image = normalize(pixels[None].to(device)).contiguous(memory_format=torch.channels_last)
        with torch.inference_mode(), autocast(device, precision):
            probabilities = segment_probabilities(model, image, settings.scales, settings.flip)
        yield item, pixels, probabilities


def _smoothed(
    seen: Seen, *, crf: CrfSettings, device: torch.device, threads: Callable[[], AbstractContextManager],
) -> Seen:
    item, pixels, network = seen
    probabilities = network.float().cpu().numpy()
    present = np.flatnonzero((probabilities > LEAST_SCORE).any(axis=(1, 2)))
    shares = probabilities[present]
    shares = shares / shares.sum(axis=0)
    found = np.zeros_like(probabilities)
    with threads():
        found[present] = smooth_probabilities(
            pixels.permute(1, 2, 0).contiguous().numpy(), shares, crf, device=device, where=f"image {item.id!r}")
    return item, pixels, torch.from_numpy(found)


def _records(item: Item, probabilities: Tensor, scores: bool) -> tuple[LabelRecord, MapRecord | None]:
    # Channel c of a segmenter is label c: it has a channel for the background.
    dtype = label_type(len(probabilities) - 1)
    labels = probabilities.argmax(dim=0).to(torch.uint8 if dtype == np.uint8 else torch.int32)
    labels = labels.cpu().numpy().astype(dtype, copy=False)
    record = LabelRecord(id=item.id, labels=labels, image=str(item.image))
    return record, score_record(item, probabilities.cpu().numpy()) if scores else None


def score_record(item: Item, probabilities: np.ndarray) -> MapRecord:
    """Object probabilities as a map record of the classes that do not round to zero everywhere.

    Parameters
    ----------
    item
    probabilities : (num_classes, H, W) float32 in [0, 1]
        Background first.
    """
    return mapped_score_record(item.id, probabilities, range(1, len(probabilities)), str(item.image))
