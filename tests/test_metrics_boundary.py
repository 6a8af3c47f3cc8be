"""Boundary IoU against a plain reference: masks, distances and set operations, pixel by pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drstool.metrics import IGNORED_AS, BoundaryMatrix, boundary, count_boundaries

NAMES = ("cat", "dog")


def near_contour(mask, y, x, distance):
    """Whether a pixel of a mask has one outside of it, or of the image, within the distance."""
    for other_y in range(y - distance, y + distance + 1):
        for other_x in range(x - distance, x + distance + 1):
            inside = 0 <= other_y < mask.shape[0] and 0 <= other_x < mask.shape[1]
            if not inside or not mask[other_y, other_x]:
                return True
    return False


def boundary_of(mask, distance):
    return {(y, x) for y, x in zip(*np.nonzero(mask)) if near_contour(mask, y, x, distance)}


def reference(pairs, ratio, ignored):
    """Boundary IoU by class of many images."""
    sums = np.zeros((3, 2))
    for target, prediction in pairs:
        if ignored == "background":
            prediction = np.where(prediction == 255, 0, prediction)
        distance = max(1, round(ratio * math.hypot(*target.shape)))
        left_out = {(y, x) for y, x in zip(*np.nonzero(target == 255))}
        if ignored == "skip":
            left_out |= {(y, x) for y, x in zip(*np.nonzero(prediction == 255))}
        for label in range(3):
            one, other = (boundary_of(labels == label, distance) - left_out for labels in (target, prediction))
            sums[label] += len(one & other), len(one | other)
    return [both / either if either else math.nan for both, either in sums]


@st.composite
def image_pairs(draw):
    random = np.random.default_rng(draw(st.integers(0, 10**6)))
    height, width = draw(st.integers(1, 14)), draw(st.integers(1, 14))
    coarse = random.choice(np.uint8([0, 1, 2, 255]), (2, 4, 4))
    target, prediction = coarse.repeat(4, axis=1).repeat(4, axis=2)[:, :height, :width]
    flipped = random.random((height, width)) < 0.05
    return target, np.where(flipped, random.choice(np.uint8([0, 1, 2, 255]), (height, width)), prediction)


@given(st.lists(image_pairs(), min_size=1, max_size=2), st.sampled_from([0.02, 0.1, 0.25]), st.sampled_from(IGNORED_AS))
def test_boundary_iou_is_that_of_the_plain_reference(pairs, ratio, ignored):
    matrix = BoundaryMatrix(NAMES)
    for target, prediction in pairs:
        matrix.add(count_boundaries(target, prediction, ratio, ignored))
    np.testing.assert_allclose(matrix.ious(), reference(pairs, ratio, ignored), equal_nan=True)


@pytest.mark.parametrize("distance", [1, 2, 5])
def test_boundary_is_what_an_erosion_takes_away(distance):
    from scipy import ndimage

    labels = np.random.default_rng(distance).integers(0, 3, (6, 7)).astype(np.uint8).repeat(9, 0).repeat(9, 1)
    found = boundary(labels, distance)
    window = np.ones((2 * distance + 1,) * 2, bool)
    for label in range(3):
        eroded = ndimage.binary_erosion(labels == label, window, border_value=0)
        np.testing.assert_array_equal(found[labels == label], ~eroded[labels == label])


def test_the_same_error_weighs_more_at_the_boundary_than_in_the_area():
    target = np.zeros((100, 100), np.uint8)
    target[20:80, 20:80] = 1
    prediction = np.roll(target, 1, axis=1)
    matrix = BoundaryMatrix(NAMES)
    matrix.add(count_boundaries(target, prediction))
    # A frame 3 pixels wide; a step of one pixel leaves all of the two long sides, and 2/3 of each short one.
    frame, kept = 60**2 - 54**2, 2 * 3 * 59 + 2 * 2 * 54
    assert matrix.ious()[1] == pytest.approx(kept / (2 * frame - kept))
    assert math.isnan(matrix.ious()[2])
    assert matrix.mean_iou() == pytest.approx(np.nanmean(matrix.ious()))


def test_wide_labels_have_boundaries():
    narrow = np.random.default_rng(0).choice(np.uint8([0, 1, 2, 255]), (2, 9, 9))
    wide = narrow.astype(np.uint16)
    wide[wide == 255] = 65535
    one, other = BoundaryMatrix(NAMES), BoundaryMatrix(NAMES)
    one.add(count_boundaries(*narrow))
    other.add(count_boundaries(*wide))
    np.testing.assert_array_equal(one.ious(), other.ious())
