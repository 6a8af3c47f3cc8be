"""Saliency: the fast measures against slow, plain ones, and their behaviour on odd pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from drstool import saliency as module
from drstool.data.item import Item
from drstool.demo import render_picture
from drstool.errors import InputError, UsageError
from drstool.labels import IGNORE
from drstool.saliency import METHODS, barrier_distance, saliency_map
from drstool.stages.saliency import saliency


def plain_barrier_distance(picture: np.ndarray, scans: int) -> np.ndarray:
    """Algorithm 1 of the paper on one channel, pixel by pixel."""
    height, width = picture.shape
    highest, lowest = picture.copy(), picture.copy()
    distance = np.full(picture.shape, np.inf, np.float32)
    distance[[0, -1]] = distance[:, [0, -1]] = 0
    for scan in range(scans):
        back = -1 if scan % 2 == 0 else 1
        for row in range(height)[::-back]:
            for column in range(width)[::-back]:
                if distance[row, column] == 0 and (
                        row in (0, height - 1) or column in (0, width - 1)):
                    continue
                for there in ((row + back, column), (row, column + back)):
                    above = max(highest[there], picture[row, column])
                    below = min(lowest[there], picture[row, column])
                    if above - below < distance[row, column]:
                        distance[row, column] = above - below
                        highest[row, column], lowest[row, column] = above, below
    return distance


def exact_barrier_distance(picture: np.ndarray) -> np.ndarray:
    """The least barrier over all paths, by trying every range of values; border to each pixel."""
    height, width = picture.shape
    best = np.full(picture.shape, np.inf)
    values = np.unique(picture)
    for low in values:
        for high in values[values >= low]:
            allowed = (picture >= low) & (picture <= high)
            reached = np.zeros_like(allowed)
            stack = [(r, c) for r in range(height) for c in range(width)
                     if allowed[r, c] and (r in (0, height - 1) or c in (0, width - 1))]
            while stack:
                r, c = stack.pop()
                if not (0 <= r < height and 0 <= c < width) or reached[r, c] or not allowed[r, c]:
                    continue
                reached[r, c] = True
                stack += [(r + 1, c), (r - 1, c), (r, c + 1), (r, c - 1)]
            best[reached] = np.minimum(best[reached], high - low)
    return best


@settings(max_examples=60, deadline=None)
@given(st.integers(3, 12), st.integers(3, 12), st.integers(0, 4), st.integers(0, 2**32 - 1))
def test_diagonal_scans_are_the_pixel_scans_exactly(height, width, scans, seed) -> None:
    pictures = np.random.default_rng(seed).integers(0, 20, (2, height, width)).astype(np.float32)
    expected = np.stack([plain_barrier_distance(picture, scans) for picture in pictures])
    np.testing.assert_array_equal(barrier_distance(pictures, scans), expected)


def test_scans_bound_the_exact_distance_and_meet_it_on_smooth_pictures() -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 5, (9, 8)).astype(np.float32)
    found, exact = barrier_distance(picture[None], 20)[0], exact_barrier_distance(picture)
    assert (found >= exact).all()
    assert np.mean(found == exact) > 0.9
    steps = np.zeros((9, 9), np.float32)
    steps[2:7, 2:7] = 3
    steps[4, 4] = 10
    np.testing.assert_array_equal(barrier_distance(steps[None])[0], steps)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 10), st.integers(1, 10), st.integers(0, 2**32 - 1))
def test_rebuilding_is_repeated_dilation(height, width, seed) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((height, width)).astype(np.float32)
    marker = np.where(rng.random((height, width)) < 0.2, mask, 0).astype(np.float32)
    expected = marker
    for _ in range(height * width):
        grown = np.pad(expected, 1)
        grown = np.maximum.reduce([grown[1:-1, 1:-1], grown[:-2, 1:-1], grown[2:, 1:-1],
                                   grown[1:-1, :-2], grown[1:-1, 2:]])
        expected = np.minimum(grown, mask)
    assert np.array_equal(module._rebuilt(marker, mask), expected)


@pytest.mark.parametrize(("rgb", "lab"), [
    ((255, 255, 255), (100, 0, 0)), ((0, 0, 0), (0, 0, 0)),
    ((255, 0, 0), (53.24, 80.09, 67.20)), ((0, 0, 255), (32.30, 79.19, -107.86)),
    ((119, 119, 119), (50.03, 0, 0)),
])
def test_lab_of_known_colors(rgb, lab) -> None:
    assert module._lab(np.array([[rgb]], np.uint8))[0, 0] == pytest.approx(np.array(lab), abs=0.05)


def _disc(height: int = 90, width: int = 120) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    down, right = np.indices((height, width))
    inside = (down - height / 2) ** 2 + (right - width / 2) ** 2 < (height / 4) ** 2
    image = np.where(inside[..., None], [200, 60, 50], [90, 120, 100]) + rng.normal(0, 6, (1, 1, 3))
    image = image + rng.normal(0, 6, (height, width, 3))
    return np.clip(image, 0, 255).astype(np.uint8), inside


@pytest.mark.parametrize("method", METHODS)
def test_a_plain_object_is_found(method: str) -> None:
    image, inside = _disc()
    found = saliency_map(image, method)
    assert found.dtype == np.uint8 and found.shape == inside.shape
    assert found.min() == 0 and found.max() == 255
    overlap = (found > 127) & inside
    assert overlap.sum() / ((found > 127) | inside).sum() > 0.85


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [(1, 1), (1, 50), (2, 3), (3, 3), (4, 9), (7, 500), (900, 20)])
def test_any_size_works(method: str, size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    assert saliency_map(image, method).shape == size


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("color", [0, 77, 255])
def test_one_color_has_nothing_salient(method: str, color: int) -> None:
    assert not saliency_map(np.full((40, 50, 3), color, np.uint8), method).any()


@pytest.mark.parametrize("method", METHODS)
def test_mirrored_pictures_give_nearly_mirrored_maps(method: str) -> None:
    image = _disc()[0]
    one, other = saliency_map(image, method), saliency_map(image[:, ::-1].copy(), method)
    assert np.abs(one.astype(int) - other[:, ::-1]).mean() < 12


@pytest.mark.parametrize(("method", "least"), [("mbd", 0.65), ("rbd", 0.65)])
def test_it_finds_the_demo_creatures_mostly_not_perfectly(method: str, least: float) -> None:
    scores = []
    for index in range(12):
        picture = render_picture(0, index)
        valid = picture.labels != IGNORE
        target = (picture.labels > 0)[valid]
        found = (saliency_map(picture.image, method) > 50)[valid]
        precision = (target & found).sum() / max(found.sum(), 1)
        recall = (target & found).sum() / target.sum()
        scores.append(1.3 * precision * recall / max(0.3 * precision + recall, 1e-9))
    assert least < np.mean(scores) < 0.97


def test_unknown_method_is_refused_before_any_item() -> None:
    with pytest.raises(UsageError, match="mbd"):
        saliency_map(np.zeros((5, 5, 3), np.uint8), "magic")

    def items():
        raise AssertionError("asked for an item")
        yield

    with pytest.raises(UsageError, match="rbd"):
        saliency(items(), method="magic")


def _items(folder: Path, count: int = 3) -> list[Item]:
    items = []
    for index in range(count):
        path = folder / f"{index}.png"
        Image.fromarray(np.roll(_disc(30, 40)[0], index, 1)).save(path)
        items.append(Item(id=str(index), image=path, tags=None, mask=None, saliency=None))
    return items


def test_stage_yields_in_order_whatever_the_workers(tmp_path: Path) -> None:
    items = _items(tmp_path)
    one = list(saliency(items, method="mbd"))
    other = list(saliency(items, method="mbd", workers=3))
    assert [identifier for identifier, _ in one] == ["0", "1", "2"]
    for (_, a), (_, b) in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def test_stage_goes_on_after_a_broken_image(tmp_path: Path) -> None:
    items = _items(tmp_path)
    (tmp_path / "1.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="1.png"):
        list(saliency(items))
    failed = []
    found = [identifier for identifier, _ in saliency(items, on_error=failed.append)]
    assert found == ["0", "2"] and len(failed) == 1
