"""Boundary IoU: IoU of the parts of masks that lie near their contours.

Only those pixels of a class's mask count that are within a distance d of a pixel outside the mask, in
target and prediction alike; so errors at the contour weigh as much for a large object as for a small
one. The distance is counted in steps to any of the eight neighbours, and the image's edge is a
contour.

References
----------
Cheng, Girshick, Dollár, Berg, Kirillov, Boundary IoU: Improving Object-Centric Image Segmentation
Evaluation, CVPR 2021: section 4, and d = 2 % of the image's diagonal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from drstool.labels import BACKGROUND, ignore_label, num_classes
from drstool.metrics.confusion import mean_of, ratio

__all__ = ["BOUNDARY_RATIO", "BoundaryCounts", "BoundaryMatrix", "boundary", "count_boundaries"]

# The distance, as a share of the image's diagonal.
BOUNDARY_RATIO = 0.02


@dataclass(frozen=True, eq=False)
class BoundaryCounts:
    """Pixels near the contours in one image, by label: three (n,) int64 for the ``labels`` (n,)."""

    labels: np.ndarray
    both: np.ndarray
    in_target: np.ndarray
    in_prediction: np.ndarray


class BoundaryMatrix:
    """Boundary pixels of many images, by class."""

    def __init__(self, class_names: Sequence[str]) -> None:
        self._pixels = np.zeros((3, num_classes(class_names)), dtype=np.int64)

    def add(self, counts: BoundaryCounts) -> None:
        """Add the counts of one image, from :func:`count_boundaries`."""
        self._pixels[:, counts.labels] += counts.both, counts.in_target, counts.in_prediction

    def ious(self) -> np.ndarray:
        """Boundary IoU by class, (C + 1,) float64; NaN for a class in neither target nor prediction."""
        both, in_target, in_prediction = self._pixels
        return ratio(both, in_target + in_prediction - both)

    def mean_iou(self) -> float:
        """Mean over the classes in target or prediction."""
        return mean_of(self.ious())


def boundary(labels: np.ndarray, distance: int) -> np.ndarray:
    """Which pixels lie within a distance of another label or of the image's edge.

    Parameters
    ----------
    labels : (H, W) uint8 or uint16
    distance
        In pixels, at least 1, which means pixels with a different neighbour, also diagonally.

    Returns
    -------
    (H, W) bool

    Examples
    --------
    >>> boundary(np.zeros((3, 5), np.uint8), 1).astype(int)
    array([[1, 1, 1, 1, 1],
           [1, 0, 0, 0, 1],
           [1, 1, 1, 1, 1]])
    """
    height, width = labels.shape
    near = np.ones((height, width), dtype=bool)
    side = 2 * distance
    if height <= side or width <= side:
        return near
    # A window has a single label if no pixel in it differs from its neighbours to the right, below and
    # diagonally. The number that do is a combination of four sums over rectangles from the corner.
    changes = np.zeros((height, width), dtype=np.int32)
    inner = changes[1:, 1:]
    inner += labels[:-1, :-1] != labels[:-1, 1:]
    inner += labels[:-1, :-1] != labels[1:, :-1]
    inner += labels[:-1, :-1] != labels[1:, 1:]
    np.cumsum(changes, axis=0, out=changes)
    np.cumsum(changes, axis=1, out=changes)
    in_window = changes[side:, side:] - changes[:-side, side:] - changes[side:, :-side] + changes[:-side, :-side]
    near[distance:-distance, distance:-distance] = in_window != 0
    return near


def count_boundaries(
    target: np.ndarray, prediction: np.ndarray, ratio: float = BOUNDARY_RATIO, ignored: str = "miss",
) -> BoundaryCounts:
    """Count the pixels near contours in one image.

    Contours are those of the label images as they are, in which ignored pixels form regions too;
    pixels whose target is ignored are then left out.

    Parameters
    ----------
    target, prediction : (H, W) uint8 or uint16
        Of the same size and type, with checked values.
    ratio
        The distance over the image's diagonal; at least one pixel is used.
    ignored
        What predicted ignore labels count as, see :data:`drstool.metrics.IGNORED_AS`.
    """
    ignore = ignore_label(target.dtype)
    if ignored == "background":
        prediction = np.where(prediction == ignore, prediction.dtype.type(BACKGROUND), prediction)
    valid = target != ignore
    if ignored == "skip":
        valid &= prediction != ignore
    height, width = target.shape
    distance = max(1, round(ratio * (height**2 + width**2) ** 0.5))
    near_target = boundary(target, distance) & valid
    near_prediction = boundary(prediction, distance) & valid
    both = target[near_target & near_prediction & (target == prediction)]
    counts = [
        np.bincount(part, minlength=ignore + 1)[:ignore]
        for part in (both, target[near_target], prediction[near_prediction])]
    labels = np.flatnonzero(counts[1] + counts[2])
    return BoundaryCounts(labels, *(count[labels].astype(np.int64) for count in counts))
