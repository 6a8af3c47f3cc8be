"""``segment``: full-size label images from a segmenter."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from drstool.checkpoints.checkpoint import Checkpoint
from drstool.crf import one_thread, smooth_probabilities
from drstool.data.decoding import load_pil
from drstool.data.item import Item
from drstool.data.transforms import image_tensor
from drstool.formats.records import LabelRecord, MapRecord
from drstool.inference import Execution, normalize, on_device, segment_probabilities
from drstool.labels import label_type
from drstool.mapping import LEAST_SCORE, OnHost, pipelined, score_record
from drstool.models.build import restore_network
from drstool.parallel import OnError, Track, map_items, untracked
from drstool.recipe import CrfSettings, SegmentSettings

__all__ = ["segment"]


def segment(
    items: Iterable[Item], segmenter: Checkpoint, settings: SegmentSettings, *, scores: bool = False,
    crf: CrfSettings | None = None, execution: Execution = Execution(), on_error: OnError | None = None,
    track: Track = untracked, total: int | None = None,
) -> Iterator[tuple[LabelRecord, MapRecord | None]]:
    """The label image of each image, in order and at the image's size.

    Parameters
    ----------
    items
        Images; tags are not used.
    segmenter
    settings
    scores
        Also yield the probabilities as maps.
    crf
        Apply a CRF to the probabilities, of the classes whose probability exceeds 1/510 somewhere in
        the image, as in score maps.
    execution, on_error, track, total
        As in :func:`drstool.stages.cam.cam`.

    Raises
    ------
    InputError
        An image is unreadable.
    """
    model = execution.prepared(restore_network(
        "segmenter", segmenter.architecture, segmenter.class_names, segmenter.weights, "segmenter"))
    workers = execution.workers
    loaded = map_items(
        lambda item: (item, image_tensor(load_pil(item.image, item.value_range))), items, workers, on_error)
    segmented = _segment(track(loaded, "segment", total), model, settings, scores or crf is not None, execution)
    if crf is not None:
        segmented = map_items(partial(_smoothed, crf=crf, execution=execution), segmented, workers, on_error)
    return (_records(each, scores) for each in segmented)


@dataclass(frozen=True)
class _Segmented:
    """The network's result for an image.

    Attributes
    ----------
    item
    pixels : (3, H, W) uint8
    labels : (H, W) uint8 or uint16
    probabilities : (num_classes, H, W) float32, or None where they are not needed
    """

    item: Item
    pixels: Tensor
    labels: np.ndarray
    probabilities: np.ndarray | None


def _segment(
    loaded: Iterable[tuple[Item, Tensor]], model: torch.nn.Module, settings: SegmentSettings,
    wanted: bool, execution: Execution,
) -> Iterator[_Segmented]:
    def started() -> Iterator[tuple[Item, Tensor, np.dtype, OnHost]]:
        for item, pixels in loaded:
            # Sizes differ from image to image, so autotuning does not pay.
            with execution.computing():
                image = normalize(on_device(pixels[None], execution.device))
                probabilities = segment_probabilities(model, image, settings.scales, settings.flip)
                # Channel c of a segmenter is label c: it has a channel for the background.
                dtype = label_type(len(probabilities) - 1)
                # torch hardly supports uint16.
                labels = probabilities.argmax(dim=0).to(torch.uint8 if dtype == np.uint8 else torch.int32)
                on_host = OnHost([labels, probabilities] if wanted else [labels])
            yield item, pixels, dtype, on_host

    for item, pixels, dtype, on_host in pipelined(started(), execution.device):
        labels, *probabilities = on_host.arrays()
        yield _Segmented(item, pixels, labels.astype(dtype, copy=False), probabilities[0] if wanted else None)


def _smoothed(segmented: _Segmented, *, crf: CrfSettings, execution: Execution) -> _Segmented:
    assert segmented.probabilities is not None
    probabilities = segmented.probabilities.astype(np.float32, copy=False)
    present = np.flatnonzero((probabilities > LEAST_SCORE).any(axis=(1, 2)))
    shares = probabilities[present]
    shares = shares / shares.sum(axis=0)
    found = np.zeros_like(probabilities)
    # Workers share out the images, so each needs one thread.
    with one_thread() if execution.workers > 1 else nullcontext():
        found[present] = smooth_probabilities(
            segmented.pixels.permute(1, 2, 0).contiguous().numpy(), shares, crf, device=execution.device,
            where=f"image {segmented.item.id!r}")
    return replace(segmented, labels=found.argmax(axis=0).astype(segmented.labels.dtype), probabilities=found)


def _records(segmented: _Segmented, scores: bool) -> tuple[LabelRecord, MapRecord | None]:
    item, probabilities = segmented.item, segmented.probabilities
    record = LabelRecord(id=item.id, labels=segmented.labels, image=str(item.image))
    if not scores:
        return record, None
    assert probabilities is not None
    return record, score_record(item.id, probabilities, range(1, len(probabilities)), str(item.image))
