"""``crf``: class probabilities that follow the images' edges, from maps or scores.

The CRF itself is in :mod:`drstool.crf`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from drstool import cues
from drstool.crf import one_thread, smooth_probabilities
from drstool.data.decoding import load_saliency
from drstool.data.photographs import ImageOf, images_of, load_photograph
from drstool.errors import InputError
from drstool.formats.records import LazyRecord, MapRecord, load
from drstool.inference import Execution
from drstool.mapping import score_record
from drstool.parallel import OnError, Track, map_items, untracked
from drstool.recipe import CrfSettings, CueSettings

__all__ = ["crf"]

# How far the sum of a pixel's scores may exceed 1, in addition to rounding errors.
_TOLERANCE = 0.01


def crf(
    records: Iterable[MapRecord | LazyRecord], settings: CrfSettings, cue_settings: CueSettings, *,
    scores: bool = False, saliency_of: Callable[[str], Path] | None = None, image_of: ImageOf | None = None,
    dtype: str = "uint8", execution: Execution = Execution(), largest: list[int] | None = None,
    on_error: OnError | None = None, track: Track = untracked, total: int | None = None,
) -> Iterator[MapRecord]:
    """Object probabilities after the CRF, in the records' order and at the images' size.

    Parameters
    ----------
    records
        Maps of the present classes; consumed one by one.
    settings
        Of the CRF.
    cue_settings
        How maps and a background cue become probabilities: divided by their sum.
    scores
        Whether the maps are probabilities, whose sum must not exceed 1.
    saliency_of
        Path of an image id's saliency map, where the background cue needs one.
    image_of
        Path of a record's image; by default the one that the record names.
    dtype
        ``uint8`` or ``float16``.
    execution
        Its device, and its workers: threads that process one image each.
    largest
        The largest value of each saliency map is added to it.
    on_error, track, total
        As in :func:`drstool.stages.pseudo_label.pseudo_label`.

    Raises
    ------
    InputError
        An image or saliency map is missing, unreadable or of the wrong size, or scores are not
        probabilities.
    UsageError
        No ``saliency_of`` where the background cue needs one.
    """
    cues.check_saliency_given(cue_settings, saliency_of is not None)
    work = _Work(settings, cue_settings, scores, saliency_of, image_of or images_of(), dtype, execution, largest)
    return iter(track(map_items(work, records, execution.workers, on_error), "crf", total))


@dataclass(frozen=True)
class _Work:
    settings: CrfSettings
    cue_settings: CueSettings
    scores: bool
    saliency_of: Callable[[str], Path] | None
    image_of: ImageOf
    dtype: str
    execution: Execution
    largest: list[int] | None

    def __call__(self, unread: MapRecord | LazyRecord) -> MapRecord:
        record: Any = load(unread)
        where = f"image {record.id!r}"
        maps = cues.resize_maps(record.as_float(), record.image_size)
        if self.scores:
            _check_scores(maps, where)
        saliency = None
        if self.cue_settings.uses_saliency and self.saliency_of is not None:
            saliency = load_saliency(
                self.saliency_of(record.id), record.image_size, self.cue_settings.saliency_range, self.largest)
        probabilities = cues.cue_probabilities(maps, self.cue_settings, saliency)
        image = load_photograph(record, self.image_of)
        # Workers share out the images, so each needs one thread.
        with one_thread() if self.execution.workers > 1 else nullcontext():
            found = smooth_probabilities(
                image, probabilities, self.settings, device=self.execution.device, where=where)
        return score_record(record.id, found, record.labels, record.image, self.dtype)


def _check_scores(maps: np.ndarray, where: str) -> None:
    most = maps.sum(axis=0).max(initial=0)
    if most > 1 + len(maps) / 510 + _TOLERANCE:
        raise InputError(
            where, f"has a pixel whose scores sum to {most:.3g}",
            "probabilities sum to at most 1; for other maps, give a background cue with --background")
