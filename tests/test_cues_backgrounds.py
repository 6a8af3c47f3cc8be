"""Background cues that are combined, scaled or of two thresholds, against the rule pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from drstool.cues import IGNORE_RULES, background_cue, check_saliency_given, pseudo_label, pseudo_label_with_reasons
from drstool.errors import UsageError
from drstool.recipe import CueSettings, override

BACKGROUNDS = ("saliency", "constant", "power", "saliency+power", "constant+saliency", "saliency+constant+power")


def one_background(kind, values, grey, largest, settings):
    """The background cue of one kind at a pixel."""
    if kind == "constant":
        return np.float32(settings.constant)
    if kind == "power":
        strongest = max([np.float32(0), *values])
        return (np.float32(1) - strongest) ** np.float32(settings.power)
    if not settings.soft:
        return np.float32(0 if grey > settings.saliency_threshold else 1)
    share = np.float32(grey) / np.float32(255)
    scale = settings.saliency_scale
    if scale == 0:
        scale = 1 / (np.float32(largest) / np.float32(255)) if largest else 1
    return np.float32(1) - min(share * np.float32(scale), np.float32(1))


def decide(values, labels, grey, largest, settings):
    """Label of one pixel, or the rule that ignores it."""
    backgrounds = [one_background(kind, values, grey, largest, settings) for kind in settings.background.split("+")]
    background = max(backgrounds) if settings.combine == "max" else min(backgrounds)
    cues = [value if value >= np.float32(settings.alpha) else np.float32(0) for value in values]
    best, label = background, 0
    for cue, name in zip(cues, labels):
        if cue > best:
            best, label = cue, name
    if sum(cue > np.float32(settings.conflict) for cue in [background, *cues]) > 2:
        return "conflict"
    if label == 0 and "saliency" in settings.background:
        certain = grey > settings.saliency_threshold
        if settings.soft:
            certain = 1 - one_background("saliency", values, grey, largest, settings) > np.float32(settings.conflict)
        if certain:
            return "certain saliency"
    if label == 0 and any(value > np.float32(settings.background_below) for value in values):
        return "between thresholds"
    return label


@st.composite
def cases(draw):
    labels = sorted(draw(st.sets(st.integers(1, 5), max_size=3)))
    levels = st.sampled_from([0, 12, 13, 25, 51, 76, 77, 127, 230, 255])
    values = draw(hnp.arrays(np.uint8, (len(labels), 2, 3), elements=levels))
    saliency = draw(hnp.arrays(np.uint8, (2, 3), elements=levels))
    settings = CueSettings(
        alpha=draw(st.sampled_from([0.0, 0.2, 0.5])), background=draw(st.sampled_from(BACKGROUNDS)),
        combine=draw(st.sampled_from(["max", "min"])), soft=draw(st.booleans()),
        saliency_threshold=draw(st.sampled_from([0, 50])),
        saliency_scale=draw(st.sampled_from([0.0, 1.0, 2.0])), constant=draw(st.sampled_from([0.0, 0.3, 0.95])),
        power=draw(st.sampled_from([0.5, 4.0])), background_below=draw(st.sampled_from([0.05, 0.3, 1.0])),
        conflict=draw(st.sampled_from([0.2, 0.9])))
    return values.astype(np.float32) / np.float32(255), labels, settings, saliency


@given(cases())
def test_label_and_reason_are_those_of_the_rule(case):
    maps, labels, settings, saliency = case
    expected = [decide(maps[:, y, x], labels, int(saliency[y, x]), int(saliency.max()), settings)
                for y in range(2) for x in range(3)]
    found, ignored = pseudo_label_with_reasons(maps, labels, settings, saliency)
    assert found.ravel().tolist() == [255 if isinstance(each, str) else each for each in expected]
    np.testing.assert_array_equal(found, pseudo_label(maps, labels, settings, saliency))
    assert {rule: len(labels) for rule, labels in ignored.items() if len(labels)} == {
        rule: expected.count(rule) for rule in IGNORE_RULES if rule in expected}


def test_ignored_pixels_are_told_by_their_strongest_map():
    maps = np.float32([[[0.2, 0.2, 0.0, 0.9]], [[0.1, 0.25, 0.0, 0.1]]])
    settings = CueSettings(background="constant", constant=0.3, background_below=0.05)
    label, ignored = pseudo_label_with_reasons(maps, [4, 9], settings)
    assert label.tolist() == [[255, 255, 0, 4]]
    assert {rule: labels.tolist() for rule, labels in ignored.items()} == {
        "conflict": [], "between thresholds": [4, 9]}
    salient = CueSettings(alpha=0.3)
    _, ignored = pseudo_label_with_reasons(maps, [4, 9], salient, np.full((1, 4), 255, np.uint8))
    assert ignored["certain saliency"].tolist() == [4, 9, 0]


def test_two_thresholds_are_those_of_irn():
    """The published rule: confident objects over 0.30, background where nothing exceeds 0.05."""
    maps = np.random.default_rng(0).random((3, 40, 50), dtype=np.float32) ** 4
    labels = np.array([0, 2, 5, 11])

    def strongest(threshold):
        return labels[np.concatenate([np.full((1, 40, 50), threshold, np.float32), maps]).argmax(0)]

    expected = strongest(0.30)
    expected[expected == 0] = 255
    expected[strongest(0.05) + strongest(0.30) == 0] = 0
    settings = CueSettings(background="constant", constant=0.30, background_below=0.05, alpha=0.0, conflict=1.0)
    found = pseudo_label(maps, labels[1:].tolist(), settings)
    np.testing.assert_array_equal(found, expected)
    assert {0, 2, 5, 11, 255} == set(found.ravel().tolist())


def test_scaled_saliency():
    maps = np.zeros((0, 1, 3), np.float32)
    grey = np.uint8([[0, 51, 102]])
    double = CueSettings(soft=True, saliency_scale=2.0)
    np.testing.assert_allclose(background_cue(maps, double, grey), [[1, 0.6, 0.2]], atol=1e-6)
    stretched = CueSettings(soft=True, saliency_scale=0.0)
    np.testing.assert_allclose(background_cue(maps, stretched, grey), [[1, 0.5, 0]], atol=1e-6)
    np.testing.assert_array_equal(background_cue(maps, stretched, np.zeros_like(grey)), [[1, 1, 1]])
    # The share is at most 1, so that the cue is not below 0.
    assert background_cue(maps[:, :, :1], double, np.uint8([[200]])).item() == 0
    with pytest.raises(UsageError, match="--soft"):
        check_saliency_given(CueSettings(saliency_scale=2.0), given=True)


@pytest.mark.parametrize("wrong", ["", "saliency+", "power+power", "saliency,power", "brightness"])
def test_background_is_of_known_words(wrong):
    with pytest.raises(UsageError, match="--background"):
        override(CueSettings(), {"background": wrong})
    assert override(CueSettings(), {"background": "power+saliency"}).uses_saliency


def test_more_than_255_classes_have_wide_labels():
    maps = np.float32([[[0.7, 0.1, 0.7]]])
    found = pseudo_label(maps, [300], CueSettings(), np.uint8([[255, 255, 0]]), dtype=np.uint16)
    assert found.tolist() == [[300, 65535, 0]]


def test_lower_threshold_is_exceeded_not_met():
    settings = CueSettings(background="constant", constant=0.5, background_below=0.25)
    assert pseudo_label(np.float32([[[0.25, 0.26]]]), [1], settings).tolist() == [[0, 255]]


def test_a_lower_threshold_of_one_ignores_nothing():
    """Not even where a map is beyond 1 and a CRF says background."""
    _, ignored = pseudo_label_with_reasons(
        np.float32([[[1.5]]]), [1], CueSettings(background="constant"), relabel=np.zeros_like)
    assert set(ignored) == {"conflict"}
