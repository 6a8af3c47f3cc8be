"""Confidence intervals of differences between runs: the paired bootstrap over images.

As many images as there are get drawn with replacement, and all runs are scored on the same draw;
the spread of the differences over many draws is the uncertainty due to the choice of images. A
draw's mean IoU is that of the sum of its images' counts, not a mean over images.

References
----------
Efron, Tibshirani, An Introduction to the Bootstrap, 1993, chapters 13 (percentile intervals) and
16. Koehn, Statistical Significance Tests for Machine Translation Evaluation, EMNLP 2004: paired.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from drstool.labels import BACKGROUND
from drstool.metrics.confusion import LabelCounts

__all__ = ["Interval", "RunCounts", "bootstrap_mean_ious", "interval", "run_counts"]

# Draws at a time, which bounds the memory for their tables of images.
_CHUNK = 64


@dataclass(frozen=True)
class Interval:
    """A value and its confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class RunCounts:
    """Pixels by image and class of one run: three sparse (N, C + 1) matrices, float64."""

    hits: sparse.csr_matrix
    in_target: sparse.csr_matrix
    in_prediction: sparse.csr_matrix


def run_counts(images: Sequence[LabelCounts], classes: int, ignored: str = "miss") -> RunCounts:
    """What the bootstrap needs to know of a run's images, in their order.

    Parameters
    ----------
    images
        The counts of each, from :func:`drstool.metrics.count_labels`.
    classes
        Number of classes, including background.
    ignored
        See :data:`drstool.metrics.IGNORED_AS`.
    """
    image = np.repeat(np.arange(len(images)), [counts.pixels.size for counts in images])
    target, prediction, pixels = (
        np.concatenate([getattr(counts, name) for counts in images]) for name in ("target", "prediction", "pixels"))
    undecided = prediction == classes
    if ignored == "background":
        prediction, undecided = np.where(undecided, BACKGROUND, prediction), np.zeros_like(undecided)

    def summed(labels: np.ndarray, where: np.ndarray) -> sparse.csr_matrix:
        counted = pixels[where].astype(np.float64), (image[where], labels[where])
        return sparse.csr_matrix(counted, shape=(len(images), classes))

    return RunCounts(
        hits=summed(target, target == prediction), in_prediction=summed(prediction, ~undecided),
        in_target=summed(target, ~undecided if ignored == "skip" else np.ones_like(undecided)))


def bootstrap_mean_ious(runs: Sequence[RunCounts], resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean IoU of each run on all images, and on the same random draws of them.

    Parameters
    ----------
    runs
        Counts of the same images in the same order.
    resamples
        Number of draws.
    seed

    Returns
    -------
    values : (R,) float64
    draws : (R, resamples) float64
    """
    images = runs[0].hits.shape[0]
    random = np.random.default_rng(seed)
    draws = np.empty((len(runs), resamples))
    for start in range(0, resamples, _CHUNK):
        size = min(_CHUNK, resamples - start)
        weights = random.multinomial(images, np.full(images, 1 / images), size).astype(np.float64)
        for run, found in zip(runs, draws):
            found[start:start + size] = _mean_ious(run, weights)
    whole = np.ones((1, images))
    return np.array([_mean_ious(run, whole)[0] for run in runs]), draws


def interval(value: float, draws: np.ndarray, level: float) -> Interval:
    """The percentile interval of a value from its draws, (B,) float64.

    Examples
    --------
    >>> interval(50, np.arange(101), 0.5)
    Interval(value=50.0, low=25.0, high=75.0)
    """
    low, high = np.nanquantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(value), float(low), float(high))


def _mean_ious(run: RunCounts, weights: np.ndarray) -> np.ndarray:
    """Mean IoU over the classes that occur, for images weighted by how often they are drawn: (B, N) to (B,)."""
    hits, in_target, in_prediction = (
        np.asarray((part.T @ weights.T).T) for part in (run.hits, run.in_target, run.in_prediction))
    union = in_target + in_prediction - hits
    there = union > 0
    ious = np.divide(hits, union, out=np.zeros_like(hits), where=there)
    number = there.sum(axis=1)
    return np.divide(ious.sum(axis=1), number, out=np.full(len(ious), np.nan), where=number > 0)
