"""Outlines of the regions of a label image, along the edges of pixels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

__all__ = ["Region", "area_of", "outline", "regions", "rings"]

# By direction (right, down, left, up): the step to the next corner, and from a corner to the pixels that lie ahead
# of it on the right and on the left.
_STEPS = ((0, 1), (1, 0), (0, -1), (-1, 0))
_AHEAD = (((0, 0), (-1, 0)), ((0, -1), (0, 0)), ((-1, -1), (0, -1)), ((-1, 0), (-1, -1)))


class Region(NamedTuple):
    """Connected pixels of one label.

    Attributes
    ----------
    label
    corner : (row, column)
        Of the upper left pixel of its box.
    mask : (h, w) bool
        Its pixels in the box.
    """

    label: int
    corner: tuple[int, int]
    mask: np.ndarray


def regions(labels: np.ndarray) -> Iterator[Region]:
    """The regions of pixels that have one label and share edges, label by label.

    Parameters
    ----------
    labels : (H, W) int
    """
    from scipy import ndimage

    for label in np.unique(labels).tolist():
        numbered, _ = ndimage.label(labels == label)
        for number, box in enumerate(ndimage.find_objects(numbered), start=1):
            yield Region(label, (box[0].start, box[1].start), numbered[box] == number)


def outline(mask: np.ndarray, corner: tuple[int, int] = (0, 0)) -> list[tuple[int, int]]:
    """The corners of a region's outer outline, clockwise as one sees it; its holes are inside.

    Where two pixels of the region touch at a corner only, the outline passes between the pixels beside them, which
    then lie inside or outside as a whole: no corner occurs twice.

    Parameters
    ----------
    mask : (H, W) bool
        Pixels that share edges; at least one.
    corner : (row, column)
        Added to the corners.

    Returns
    -------
    list of (x, y)
        In pixels; the first pixel covers 0 to 1. The first corner is not repeated.

    Examples
    --------
    >>> outline(np.array([[1, 1], [1, 0]], bool))
    [(0, 0), (2, 0), (2, 1), (1, 1), (1, 2), (0, 2)]
    """
    # With a margin, so that each corner has four pixels around it.
    padded = np.pad(mask, 1).tolist()
    row, column = 1, 1 + int(mask[0].argmax())
    start, direction, corners = (row, column), 0, []
    while True:
        corners.append((column - 1 + corner[1], row - 1 + corner[0]))
        turned = direction
        while turned == direction:
            row, column = row + _STEPS[direction][0], column + _STEPS[direction][1]
            (right, left), (height, width) = _AHEAD[direction], (row, column)
            if padded[height + left[0]][width + left[1]]:
                turned = (direction - 1) % 4
            elif not padded[height + right[0]][width + right[1]]:
                turned = (direction + 1) % 4
        direction = turned
        if (row, column) == start:
            return corners


def rings(region: Region) -> list[list[tuple[int, int]]]:
    """The outer outline of a region, clockwise, and those of its holes."""
    from scipy import ndimage

    holes = regions((ndimage.binary_fill_holes(region.mask) & ~region.mask).astype(np.uint8))
    row, column = region.corner
    return [outline(region.mask, region.corner)] + [
        outline(hole.mask, (row + hole.corner[0], column + hole.corner[1])) for hole in holes if hole.label]


def area_of(corners: list[tuple[int, int]]) -> float:
    """Pixels inside an outline.

    Examples
    --------
    >>> area_of([(0, 0), (2, 0), (2, 1), (1, 1), (1, 2), (0, 2)])
    3.0
    """
    x, y = np.array(corners, np.float64).T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)
