"""Threshold sweeps: the scores at 256 values of one number of the cue rule, from one pass over the pixels.

Along the sweep a pixel's label changes at few places, which follow from its strongest cue. With m
the strongest object cue, b the other background cues and the thresholds ordered so that the rule
grows stricter towards objects::

    alpha      the strongest class as long as m >= alpha, where m > b
    constant   the strongest class as long as m > constant, where m > b (or everywhere m > b)
    power      the strongest class as long as m > (1 - m) ^ power, exponents descending

So it is enough to count, for each label, at which of the thresholds pixels begin and cease to have
it. The comparisons are those of :mod:`drstool.cues`, in float32, so that the scores are exactly
those of 256 evaluations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from drstool import cues
from drstool.errors import UsageError
from drstool.labels import BACKGROUND, ignore_label, num_classes
from drstool.metrics.confusion import Margins, Scores, scores_of
from drstool.recipe import CueSettings

__all__ = [
    "GRIDS", "SALIENCY_THRESHOLDS", "StepCounts", "SweepMatrix", "at_thresholds", "count_steps", "label_steps",
    "settings_at", "swept_numbers", "swept_settings",
]

STEPS = 256
# Numbers of thresholds are kept in as few bytes as they need.
_NONE, _STEPS = np.uint16(0), np.uint16(STEPS)
# By the number that is swept, its values. Maps are mostly stored in 256 levels; published exponents
# lie between 4 and 24.
GRIDS: dict[str, tuple[float, ...]] = {
    "alpha": tuple(i / 255 for i in range(STEPS)),
    "constant": tuple(i / 255 for i in range(STEPS)),
    "power": tuple(i / 8 for i in range(STEPS)),
}
# Fifteenths of 255, among them WSSS-BED's 51, and 50, the authors'.
SALIENCY_THRESHOLDS = tuple(sorted({*range(0, 255, 17), 50}))
_PAIRED = "saliency-threshold"
# A background cue grows with the constant and shrinks with the exponent.
_DESCENDING = ("power",)

# Map values up to 1 are looked up in this many equal parts, a power of two so that none is rounded.
_PARTS = 1 << 14

# Pixels worked on at a time: what they need stays in the cache, and no memory is asked for and given back.
_PORTION = 1 << 15


@dataclass(frozen=True, eq=False)
class LabelSteps:
    """The labels that the pixels of one image have along a sweep.

    At the thresholds 0 .. 255, in the order in which the rule grows stricter, a pixel is first
    ignored for a conflict, then has its object's label, then that of ``below``.

    Attributes
    ----------
    label : (H, W) uint8 or uint16
        The strongest object's, 0 where there is none.
    until : (H, W) uint16
        Number of the threshold, 0 .. 256, at which a pixel ceases to have it.
    conflict_until : (H, W) uint16 or None
        As ``until``, of conflicts; None where there is no conflict at any threshold.
    ignored_below : (H, W) bool or None
        Where a pixel without object is ignored; elsewhere, or with None, it is background.
    """

    label: np.ndarray
    until: np.ndarray
    conflict_until: np.ndarray | None = None
    ignored_below: np.ndarray | None = None


def swept_settings(settings: CueSettings, parameter: str) -> CueSettings:
    """The settings whose number is swept: with the background cue to which it belongs.

    Examples
    --------
    >>> swept_settings(CueSettings(), "constant").background
    'constant'
    >>> swept_settings(CueSettings(background="saliency+constant"), "constant").background
    'saliency+constant'
    """
    if parameter == "alpha" or parameter in settings.backgrounds:
        return settings
    return replace(settings, background=parameter)


def swept_numbers(text: str) -> tuple[str, tuple[int | None, ...]]:
    """What ``--sweep`` names: a number of ``GRIDS``, and the saliency thresholds at which it is swept.

    Raises
    ------
    UsageError
        It names anything else.

    Examples
    --------
    >>> swept_numbers("alpha")
    ('alpha', (None,))
    >>> swept_numbers("saliency-threshold,alpha")[1][:5]
    (0, 17, 34, 50, 51)
    """
    first, *more = sorted(text.split(","), key=_PAIRED.__eq__)
    if first not in GRIDS or more not in ([], [_PAIRED]):
        raise UsageError("--sweep", f"{text!r} is not one of {', '.join(GRIDS)}",
                         f"each may be joined with {_PAIRED}, as in alpha,{_PAIRED}")
    return first, SALIENCY_THRESHOLDS if more else (None,)


def settings_at(settings: CueSettings, parameter: str, index: int) -> CueSettings:
    """The settings with the swept number at its ``index``-th value."""
    changed: dict[str, Any] = {parameter: GRIDS[parameter][index]}
    return replace(settings, **changed)


def label_steps(
    maps: np.ndarray, labels: Sequence[int], settings: CueSettings, saliency: np.ndarray | None,
    parameter: str, *, ignore_rules: bool = False, dtype: np.dtype | type = np.uint8,
) -> LabelSteps:
    """The labels that the pixels of one image have along a sweep.

    Parameters
    ----------
    maps, labels, settings, saliency, ignore_rules, dtype
        See :func:`drstool.cues.pseudo_label`.
    parameter
        A name of ``GRIDS``.
    """
    swept = _Swept(maps, labels, settings, saliency, parameter, dtype)
    claimed = swept.claimed()
    if not ignore_rules:
        return LabelSteps(swept.label, claimed)
    ignored = np.zeros(claimed.shape, dtype=bool)
    for _, doubtful in cues.doubtful_background(maps, settings, saliency):
        ignored |= doubtful
    before, from_here = swept.conflicts()
    if from_here is not None:
        # From there on background, too, is confident: whatever the label was, it is a conflict.
        ignored |= from_here < STEPS
        claimed = np.minimum(claimed, from_here)
    return LabelSteps(swept.label, claimed, before, ignored)


def at_thresholds(
    settings: CueSettings, saliency: np.ndarray | None, thresholds: Sequence[int | None],
    made: Callable[[CueSettings], StepCounts],
) -> list[StepCounts]:
    """What is made at each threshold of the saliency; once for those between which no pixel of the map lies.

    Parameters
    ----------
    settings
    saliency : (H, W) uint8 or None
    thresholds
        None leaves the threshold of the settings.
    made
        Called with the settings at a threshold.
    """
    found: dict[int | None, StepCounts] = {}
    order = []
    for threshold in thresholds:
        salient = None
        if threshold is not None:
            assert saliency is not None
            settings, salient = replace(settings, saliency_threshold=threshold), int((saliency > threshold).sum())
        order.append(salient)
        if salient not in found:
            found[salient] = made(settings)
    return [found[salient] for salient in order]


class _Swept:
    """One image along a sweep."""

    def __init__(
        self, maps: np.ndarray, labels: Sequence[int], settings: CueSettings, saliency: np.ndarray | None,
        parameter: str, dtype: np.dtype | type,
    ) -> None:
        self.maps, self.settings, self.parameter = maps, settings, parameter
        alpha = 0.0 if parameter == "alpha" else settings.alpha
        self.label, self.value = cues.strongest_cue(maps, labels, alpha, dtype)
        fixed = [kind for kind in settings.backgrounds if kind != parameter]
        self.background = cues.background_cue(
            maps, replace(settings, background="+".join(fixed)), saliency) if fixed else None

    def claimed(self) -> np.ndarray:
        """Up to which threshold the strongest cue is stronger than the background; (H, W) uint16."""
        until = _crossings(self.parameter).count(self.value)
        if self.background is None:
            return until
        beaten = self.value > self.background
        if self.parameter == "alpha" or self._needs_all:
            # Where the background is as strong as the cue, no threshold helps.
            until *= beaten
        else:
            until[beaten] = STEPS
        return until

    def conflicts(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Up to which threshold, and from which on, too many cues are confident; (H, W) uint16."""
        limit = np.float32(self.settings.conflict)
        ranked = _strongest(self.maps, cues.MAX_CONFIDENT + 1)
        if self.parameter == "alpha":
            return self._conflicts_of_alpha(ranked, limit), None
        least = np.float32(self.settings.alpha)
        many, enough = (  # more cues than may meet, and as many: one more is a conflict
            (ranked[i] > limit) & (ranked[i] >= least) for i in (cues.MAX_CONFIDENT, cues.MAX_CONFIDENT - 1))
        always = np.where(many, _STEPS, _NONE) if many.any() else None
        from_here = np.where(enough, self._confident_from(limit), _STEPS) if enough.any() else None
        return always, from_here

    def _conflicts_of_alpha(self, ranked: list[np.ndarray], limit: np.float32) -> np.ndarray | None:
        """A conflict lasts until the weakest cue of those that make one is cut off."""
        assert self.background is not None
        # With a confident background one cue less is enough.
        weakest = np.where(self.background > limit, ranked[cues.MAX_CONFIDENT - 1], ranked[cues.MAX_CONFIDENT])
        confident = weakest > limit
        return _crossings("alpha").count(weakest) * confident if confident.any() else None

    def _confident_from(self, limit: np.float32) -> np.ndarray:
        """From which threshold on the background cue exceeds ``conflict``."""
        if self.parameter == "constant":
            start = np.full(self.label.shape, np.searchsorted(_constants(), limit, "right"), np.uint16)
        else:
            start = _weak_powers(float(limit)).count(cues.strongest_value(self.maps))
        if self.background is None:
            return start
        already = self.background > limit
        return np.where(already, _NONE, start) if self._needs_all else np.where(already, start, _STEPS)

    @property
    def _needs_all(self) -> bool:
        """Whether a cue must be stronger than each of the combined background cues."""
        return cues.combiner(self.settings) is np.maximum


def _strongest(maps: np.ndarray, number: int) -> list[np.ndarray]:
    """The ``number`` strongest map values at each pixel, descending, 0 where there are fewer."""
    ranked = [np.zeros(maps.shape[1:], dtype=np.float32) for _ in range(number)]
    for values in maps:
        for place, kept in enumerate(ranked):
            ranked[place], values = np.maximum(kept, values), np.minimum(kept, values)
    return ranked


class _Thresholds:
    """Ascending thresholds >= 0 that are counted faster than by bisection.

    A value's part of [0, 1] tells how many thresholds are certainly not above it; the few others in
    the same part are compared.
    """

    def __init__(self, thresholds: np.ndarray) -> None:
        # The last part is of all values from 1 on.
        edges = np.arange(_PARTS + 1, dtype=np.float32) / np.float32(_PARTS)
        below = np.searchsorted(thresholds, edges, "right")
        finite = np.count_nonzero(thresholds < np.inf)
        most = int(np.diff(below, append=finite).max(initial=0))
        # Those in the same part, and beyond; behind the last one there is none.
        padded = np.append(thresholds, np.full(most, np.float32(np.inf)))
        self._next = [padded[below + place] for place in range(most)]
        self._below = below.astype(np.uint16)

    def count(self, values: np.ndarray) -> np.ndarray:
        """How many of the thresholds are not above each value >= 0, (…) uint16."""
        count = np.empty(values.shape, np.uint16)
        given, found = values.reshape(-1), count.reshape(-1)
        for portion in _portions(given.size, _PORTION):
            few = given[portion]
            part = (np.minimum(few, np.float32(1)) * np.float32(_PARTS)).astype(np.intp)
            below = self._below.take(part)
            for thresholds in self._next:
                below += thresholds.take(part) <= few
            found[portion] = below
        return count


@cache
def _crossings(parameter: str) -> _Thresholds:
    """For each threshold, in the order of strictness, the least strongest cue that still makes the label."""
    if parameter == "alpha":
        return _Thresholds(np.array(GRIDS["alpha"], np.float32))
    if parameter == "constant":
        return _Thresholds(np.nextafter(_constants(), np.float32(np.inf)))
    powers = np.array(GRIDS["power"][::-1], np.float32)
    return _Thresholds(_least(lambda value: value > cues.power_background(value, powers)))


@cache
def _constants() -> np.ndarray:
    return np.asarray(cues.constant_background(np.array(GRIDS["constant"], np.float32)))


@cache
def _weak_powers(limit: float) -> _Thresholds:
    """For each exponent, descending, the least map value whose background cue is at most ``limit``."""
    powers = np.array(GRIDS["power"][::-1], np.float32)
    return _Thresholds(_least(lambda value: cues.power_background(value, powers) <= np.float32(limit)))


def _least(holds: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """The least float32 >= 0 of which something holds that holds of all larger ones; infinity if none.

    Positive floats are ordered as their bit patterns, which are halved until one is left.
    """
    low = np.zeros(STEPS, dtype=np.int64)
    high = np.full(STEPS, np.float32(np.inf).view(np.int32), dtype=np.int64)
    while (low < high).any():
        middle = (low + high) // 2
        true = holds(middle.astype(np.int32).view(np.float32))
        low, high = np.where(true | (low >= high), low, middle + 1), np.where(true, middle, high)
    return np.maximum.accumulate(low.astype(np.int32).view(np.float32))


@dataclass(frozen=True, eq=False)
class StepCounts:
    """Where along a sweep the pixels of one image begin and cease to have a label.

    Attributes
    ----------
    rows : (R,) int64
        Labels of the image and its maps, ascending.
    hits, predicted, undecided : (R, 257) int64
        Differences, from one threshold to the next, of the pixels by label: rightly predicted,
        predicted, and, by the target's label, predicted as ignored.
    in_target : (R,) int64
    """

    rows: np.ndarray
    hits: np.ndarray
    predicted: np.ndarray
    undecided: np.ndarray
    in_target: np.ndarray


def count_steps(target: np.ndarray, steps: LabelSteps, labels: Sequence[int]) -> StepCounts:
    """Count the pixels of one image along a sweep.

    Parameters
    ----------
    target : (H, W) uint8 or uint16
        Of the same type as the labels of ``steps``, all values checked.
    steps
        See :func:`label_steps`.
    labels
        Those of the maps.
    """
    ignore = ignore_label(target.dtype)
    occurring = np.bincount(target.ravel(), minlength=ignore + 1)
    occurring[[BACKGROUND, *labels]] += 1
    rows = np.flatnonzero(occurring[:ignore])
    ends, begins = _histograms(target, steps, rows)

    # By object for those ended, by target for what follows.
    objects, background = ends.sum(axis=0), ends.sum(axis=2)
    hits, predicted, undecided = np.zeros((3, rows.size, STEPS + 1), dtype=np.int64)
    own = np.arange(rows.size)
    predicted -= objects.sum(axis=0)
    hits -= objects[own, own]
    for part in (predicted, hits):
        part[:, 0] -= part.sum(axis=1)
    # An object's row 0 is of pixels that no map claims: they are background from the start.
    predicted[0] += background[0].sum(axis=0)
    hits[0] += background[0, 0]
    if len(background) > 1:
        undecided += background[1]
    if begins is not None:
        for part, begun in ((predicted, begins.sum(axis=0)), (hits, begins[own, own])):
            # They become an object's only where the conflict ends.
            part += begun
            part[:, 0] -= begun.sum(axis=1)
        ended = begins.sum(axis=1)
        undecided -= ended
        undecided[:, 0] += ended.sum(axis=1)
    return StepCounts(rows, hits, predicted, undecided, background.sum(axis=(0, 2)))


def _histograms(target: np.ndarray, steps: LabelSteps, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Pixels by what they are below their object, target, object and the threshold at which they cease to have it.

    Returns
    -------
    ends : (1 or 2, R, R, 257) int64
    begins : (R, R, 257) int64 or None
        By target, object and the threshold at which a conflict ends, of pixels that begin with one.
    """
    below, before, size = steps.ignored_below, steps.conflict_until, rows.size
    # Pixels whose target is ignored have a row of their own, which is then left out.
    shape = (1 if below is None else 2, size + 1, size, STEPS + 1)
    bins = math.prod(shape)
    number = np.uint16 if bins <= 1 << 16 else np.int64
    ignore = ignore_label(target.dtype)
    of_target, of_object = np.zeros((2, ignore + 1), dtype=number)
    of_object[rows] = np.arange(size) * (STEPS + 1)
    of_target[rows], of_target[ignore] = of_object[rows] * size, size * size * (STEPS + 1)
    ends, begins = np.zeros((2, bins), dtype=np.int64)
    # A portion's histogram is not to cost more than its pixels.
    for part in _portions(target.size, max(_PORTION, bins)):
        pixels = of_target.take(target.reshape(-1)[part])
        pixels += of_object.take(steps.label.reshape(-1)[part])
        if below is not None:
            pixels += below.reshape(-1)[part] * number(bins // 2)
        until = steps.until.reshape(-1)[part]
        if before is not None:
            begin = before.reshape(-1)[part]
            begins += np.bincount((pixels + begin)[begin > 0], minlength=bins)
            until = np.maximum(begin, until)
        ends += np.bincount(pixels + until, minlength=bins)
    ends, begins = (each.reshape(shape)[:, :size] for each in (ends, begins))
    return ends, None if before is None else begins.sum(axis=0)


def _portions(count: int, length: int) -> Iterator[slice]:
    for start in range(0, count, length):
        yield slice(start, start + length)


class SweepMatrix:
    """What scores need of 256 confusion matrices, one for each threshold of a sweep.

    Parameters
    ----------
    class_names
        The C object classes.
    parameter
        A name of ``GRIDS``.
    """

    def __init__(self, class_names: Sequence[str], parameter: str) -> None:
        self.class_names, self.parameter = tuple(class_names), parameter
        classes = num_classes(class_names)
        self._changes = np.zeros((3, classes, STEPS + 1), dtype=np.int64)
        self._in_target = np.zeros(classes, dtype=np.int64)

    def add(self, counts: StepCounts) -> None:
        """Add what :func:`count_steps` has counted."""
        for total, part in zip(self._changes, (counts.hits, counts.predicted, counts.undecided)):
            total[counts.rows] += part
        self._in_target[counts.rows] += counts.in_target

    def margins(self) -> list[Margins]:
        """Pixels by class at each of the 256 values, in their ascending order."""
        # The differences are summed up; behind the last threshold there is nothing.
        hits, predicted, undecided = self._changes.cumsum(axis=2)[..., :STEPS]
        order = range(STEPS)[::-1] if self.parameter in _DESCENDING else range(STEPS)
        return [Margins(hits[:, i], self._in_target, predicted[:, i], undecided[:, i]) for i in order]

    def scores(self, ignored: str = "miss") -> list[Scores]:
        """Scores at each of the 256 values; see :meth:`ConfusionMatrix.scores`."""
        return [scores_of(margins, self.class_names, ignored) for margins in self.margins()]
