"""Average precision: how well the scores of a class rank the images that have it before those that do not."""

from __future__ import annotations

import numpy as np

__all__ = ["above_chance", "average_precision", "chance_precision"]


def average_precision(scores: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Average precision of each class, as scikit-learn's ``average_precision_score``.

    The sum over the distinct scores, from the highest, of precision times the recall that is gained; images
    with equal scores come together.

    Parameters
    ----------
    scores : (M, C) float
        Of M images and C classes.
    present : (M, C) bool
        Whether the image has the class.

    Returns
    -------
    (C,) float64 in [0, 1]
        NaN for a class that no image has.

    Examples
    --------
    >>> average_precision(np.array([[0.9], [0.8], [0.1]]), np.array([[True], [False], [True]])).round(4).tolist()
    [0.8333]
    """
    return np.array([_of_class(*columns) for columns in zip(scores.T, present.T.astype(bool))])


def _of_class(scores: np.ndarray, present: np.ndarray) -> float:
    if not present.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    found = np.cumsum(present[order])
    last_of_equals = np.append(np.diff(scores[order]) != 0, True).nonzero()[0]
    precision = found[last_of_equals] / (last_of_equals + 1)
    return float((precision * np.diff(found[last_of_equals], prepend=0)).sum() / found[-1])


def chance_precision(positives: np.ndarray, images: int) -> np.ndarray:
    """Expected average precision of images in random order, NaN without positives.

    It is above the share of positives, much so for few images.

    Parameters
    ----------
    positives : (C,) int
        Images that have each class.
    images
        M, the number of all images.

    References
    ----------
    Bestgen: Exact expected average precision of the random baseline for system evaluation, PBML 103, 2015.

    Examples
    --------
    >>> chance_precision(np.array([0, 1, 2]), 2).tolist()
    [nan, 0.75, 1.0]
    """
    m, n = np.where(positives > 0, positives, np.nan), images
    harmonic = (1 / np.arange(1, n + 1)).sum()
    others = max(n - 1, 1)
    return (m - 1) / others + harmonic / n * (n - m) / others if n > 1 else m


def above_chance(precision: np.ndarray, positives: np.ndarray, images: int) -> np.ndarray:
    """Average precision on a scale on which chance is 0 and perfect ranking 1, (C,).

    NaN where there is nothing to rank: no image has the class, or all do.
    """
    chance = chance_precision(positives, images)
    ranked = (positives > 0) & (positives < images)
    return np.where(ranked, (precision - chance) / np.maximum(1 - chance, 1e-12), np.nan)
