"""One pass over the pixels gives the scores of 256 evaluations, exactly."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings as run_settings
from hypothesis import strategies as st

from drstool.cues import pseudo_label
from drstool.labels import ignore_label
from drstool.metrics import GRIDS, IGNORED_AS, ConfusionMatrix, SweepMatrix, count_steps, label_steps, swept_settings
from drstool.metrics.sweep import settings_at
from drstool.recipe import CueSettings

NAMES = ("cat", "dog", "sheep", "train")
BACKGROUNDS = ("saliency", "constant", "power", "saliency+constant", "saliency+power", "constant+power")


def random_case(seed, kind):
    """Maps of a few classes, their labels, a saliency map and a target, of random or real-like shapes."""
    random = np.random.default_rng(seed)
    labels = sorted(random.choice(np.arange(1, 5), random.integers(0, 5), replace=False).tolist())
    size = (len(labels), 7, 9)
    if kind == "levels":
        # Stored as uint8, with values that are ties, thresholds and conflicts.
        levels = np.float32([0, 1, 51, 76, 127, 230, 231, 254, 255]) / np.float32(255)
        maps = random.choice(levels, size)
    elif kind == "float16":
        maps = (random.random(size) ** 2 * 1.3).astype(np.float16).astype(np.float32)
    else:
        maps = random.random(size, dtype=np.float32)
    target = random.choice(np.uint8([0, 1, 2, 3, 4, 255]), size[1:])
    return maps, labels, random.choice(np.uint8([0, 50, 51, 200, 255]), size[1:]), target


def separately(cases, settings, parameter, ignored, ignore_rules, indices):
    for index in indices:
        matrix = ConfusionMatrix(NAMES)
        for maps, labels, saliency, target in cases:
            matrix.update(target, pseudo_label(
                maps, labels, settings_at(settings, parameter, index), saliency, ignore_rules=ignore_rules))
        yield matrix.scores(ignored)


def swept(cases, settings, parameter, ignore_rules):
    matrix = SweepMatrix(NAMES, parameter)
    for maps, labels, saliency, target in cases:
        steps = label_steps(maps, labels, settings, saliency, parameter, ignore_rules=ignore_rules)
        matrix.add(count_steps(target, steps, labels))
    return matrix


@given(
    st.integers(0, 10**6), st.sampled_from(["levels", "float16", "float32"]), st.sampled_from(sorted(GRIDS)),
    st.sampled_from(BACKGROUNDS), st.sampled_from(["max", "min"]), st.booleans(), st.booleans(),
    st.sampled_from(IGNORED_AS), st.sampled_from([0.0, 0.2, 0.9]), st.sampled_from([0.05, 1.0]),
    st.sampled_from([0.3, 0.9]))
@run_settings(max_examples=40, deadline=None)
def test_sweep_is_256_evaluations(
        seed, kind, parameter, background, combine, soft, ignore_rules, ignored, alpha, below, conflict):
    settings = swept_settings(CueSettings(
        background=background, combine=combine, soft=soft, alpha=alpha, background_below=below, conflict=conflict),
        parameter)
    cases = [random_case(seed, kind), random_case(seed + 1, kind)]
    found = swept(cases, settings, parameter, ignore_rules).scores(ignored)
    assert len(found) == 256
    # Every 13th, and the ends; the whole list is compared below.
    indices = sorted({0, 1, 254, 255, *range(seed % 13, 256, 13)})
    expected = list(separately(cases, settings, parameter, ignored, ignore_rules, indices))
    assert [repr(found[i]) for i in indices] == [repr(each) for each in expected]


@pytest.mark.parametrize("parameter, background, ignore_rules", [
    *product(["alpha", "constant", "power"], ["saliency+constant+power"], [True]),
    ("alpha", "saliency", False), ("constant", "constant", False), ("power", "power", False)])
def test_every_threshold_of_a_sweep(parameter, background, ignore_rules):
    cases = [random_case(seed, kind) for seed in range(1) for kind in ("levels", "float16", "float32")]
    settings = CueSettings(background=background, background_below=0.2)
    found = swept(cases, settings, parameter, ignore_rules).scores("skip")
    expected = list(separately(cases, settings, parameter, "skip", ignore_rules, range(256)))
    assert list(map(repr, found)) == list(map(repr, expected))
    assert len({each.mean_iou for each in found}) > 10


def blobs(seed):
    """Maps as networks give them: smooth, of few classes, stored as uint8; the target is their like, shifted."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:60, :80]
    maps = []
    for _ in range(2):
        top, left = random.integers(10, 50), random.integers(10, 70)
        blob = np.exp(-((y - top) ** 2 + (x - left) ** 2) / random.integers(100, 500))
        maps.append(np.clip(blob + 0.1 * np.sin(x / 7 + top) * np.cos(y / 5), 0, 1))
    stored = np.rint(255 * np.stack(maps)).astype(np.uint8)
    target = np.where(stored.max(axis=0) > 90, 1 + stored.argmax(axis=0), 0).astype(np.uint8)
    target = np.roll(target, (2, -3), axis=(0, 1))
    target[(target != np.roll(target, 1, axis=1))] = 255
    saliency = np.where(stored.max(axis=0) > 60, 200, 10).astype(np.uint8)
    return stored.astype(np.float32) / np.float32(255), [1, 2], saliency, target


@pytest.mark.parametrize(("parameter", "background"), [
    ("alpha", "saliency"), ("alpha", "power"), ("constant", "constant"), ("power", "power")])
def test_every_threshold_on_maps_like_those_of_networks(parameter, background):
    cases = [blobs(seed) for seed in range(2)]
    settings = CueSettings(background=background)
    found = swept(cases, settings, parameter, False).scores()
    expected = list(separately(cases, settings, parameter, "miss", False, range(256)))
    assert list(map(repr, found)) == list(map(repr, expected))
    scores = [each.mean_iou for each in found]
    # There is a best, and it is inside.
    assert 0 < int(np.argmax(scores)) < 255 and max(scores) > 0.6


def test_image_without_map_and_image_without_target():
    settings = CueSettings(background="constant")
    target = np.uint8([[0, 1, 255]])
    empty = np.zeros((0, 1, 3), np.float32), [], None, target
    blind = np.full((1, 1, 3), 0.5, np.float32), [2], None, np.full((1, 3), 255, np.uint8)
    scores = swept([empty, blind], settings, "alpha", True).scores()
    assert {each.overall_acc for each in scores} == {0.5}


def test_wide_labels_are_swept():
    names = [f"class {i}" for i in range(300)]
    maps = np.random.default_rng(0).random((2, 6, 5), dtype=np.float32)
    target = np.random.default_rng(1).choice(np.uint16([0, 7, 299, ignore_label(np.uint16)]), (6, 5))
    settings = CueSettings(background="constant")
    steps = label_steps(maps, [7, 299], settings, None, "constant", dtype=np.uint16, ignore_rules=True)
    matrix = SweepMatrix(names, "constant")
    matrix.add(count_steps(target, steps, [7, 299]))
    for index in (0, 60, 128, 250):
        one = ConfusionMatrix(names)
        one.update(target, pseudo_label(
            maps, [7, 299], settings_at(settings, "constant", index), dtype=np.uint16))
        assert repr(matrix.scores()[index]) == repr(one.scores())


def test_grids_hold_the_published_numbers():
    assert all(len(grid) == 256 and list(grid) == sorted(grid) for grid in GRIDS.values())
    assert {4.0, 16.0, 24.0} <= set(GRIDS["power"])
    assert (GRIDS["alpha"][0], GRIDS["alpha"][51], GRIDS["alpha"][255]) == (0, 0.2, 1)


def test_constants_are_the_levels_of_stored_maps():
    assert (GRIDS["constant"][0], GRIDS["constant"][51], GRIDS["constant"][255]) == (0, 0.2, 1)
    assert GRIDS["power"][8] == 1


@pytest.mark.parametrize("background", ["constant", "saliency+constant"])
def test_a_constant_equal_to_conflict_is_no_confident_cue(background):
    """0.2 is a value of the sweep: there the background is not above it yet."""
    settings = CueSettings(background=background, conflict=0.2, combine="min")
    maps = np.float32([0.3, 0.9, 0.7, 0.1]).reshape(2, 1, 2)
    case = [(maps, [1, 2], np.uint8([[0, 0]]), np.uint8([[1, 1]]))]
    found = swept(case, settings, "constant", True).scores()
    expected = list(separately(case, settings, "constant", "miss", True, range(256)))
    assert list(map(repr, found)) == list(map(repr, expected))
    assert found[51].ignored_share < found[52].ignored_share
