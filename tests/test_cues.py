from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from drstool.cues import (
    background_cue, certain_saliency, check_saliency_given, cue_probabilities, object_cue, of_probabilities,
    pseudo_label, resize_maps, saliency_folder,
)
from drstool.errors import InputError, UsageError
from drstool.recipe import CueSettings

NUM_OBJECTS = 6


def dense_pseudo_label(maps, labels, settings, saliency, ignore_rules=True):
    """The rule as the method states it: pixel by pixel, over background and all C classes."""
    _, height, width = maps.shape
    full = np.zeros((NUM_OBJECTS, height, width), np.float32)
    for values, label in zip(maps, labels):
        full[label - 1] = values
    result = np.zeros((height, width), np.uint8)
    for y in range(height):
        for x in range(width):
            certain = False
            if settings.background == "saliency":
                salient = np.float32(saliency[y, x]) / np.float32(255)
                certain = salient > np.float32(settings.conflict)
                if not settings.soft:
                    salient = np.float32(saliency[y, x] > settings.saliency_threshold)
                    certain = salient == 1
                background = np.float32(1) - salient
            elif settings.background == "constant":
                background = np.float32(settings.constant)
            else:
                background = (np.float32(1) - full[:, y, x].max()) ** np.float32(settings.power)
            column = [background]
            for value in full[:, y, x]:
                column.append(np.float32(0) if value < np.float32(settings.alpha) else value)
            label = int(np.argmax(column))
            confident = sum(value > np.float32(settings.conflict) for value in column)
            if ignore_rules and (confident > 2 or (label == 0 and certain)):
                label = 255
            result[y, x] = label
    return result


@st.composite
def cases(draw):
    height, width = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    labels = sorted(draw(st.sets(st.integers(1, NUM_OBJECTS), max_size=NUM_OBJECTS)))
    # Few values, those of the rule's limits among them, so that ties and conflicts are common.
    levels = st.sampled_from([0, 25, 50, 51, 52, 127, 204, 229, 230, 254, 255])
    values = draw(hnp.arrays(np.uint8, (len(labels), height, width), elements=levels))
    saliency = draw(hnp.arrays(np.uint8, (height, width), elements=levels))
    settings = CueSettings(
        alpha=draw(st.sampled_from([0.0, 0.2, 0.5, 1.0])),
        background=draw(st.sampled_from(["saliency", "constant", "power"])),
        saliency_threshold=draw(st.sampled_from([0, 50, 255])),
        soft=draw(st.booleans()),
        constant=draw(st.sampled_from([0.0, 0.2, 0.95])),
        power=draw(st.sampled_from([0.0, 1.0, 4.0])),
        conflict=draw(st.sampled_from([0.0, 0.5, 0.9, 1.0])),
    )
    return values.astype(np.float32) / np.float32(255), labels, settings, saliency


@given(cases(), st.booleans())
def test_label_is_the_dense_rule(case, ignore_rules):
    maps, labels, settings, saliency = case
    found = pseudo_label(maps, labels, settings, saliency, ignore_rules=ignore_rules)
    assert found.dtype == np.uint8
    expected = dense_pseudo_label(maps, labels, settings, saliency, ignore_rules)
    np.testing.assert_array_equal(found, expected)


@given(cases(), st.randoms(use_true_random=False))
def test_order_of_the_maps_does_not_matter(case, random):
    maps, labels, settings, saliency = case
    order = list(range(len(labels)))
    random.shuffle(order)
    shuffled = pseudo_label(maps[order], [labels[i] for i in order], settings, saliency)
    np.testing.assert_array_equal(shuffled, pseudo_label(maps, labels, settings, saliency))


def column(*values):
    return np.float32(values).reshape(-1, 1, 1)


def grey(value):
    return np.uint8([[value]])


@pytest.mark.parametrize("maps, labels, saliency, expected", [
    (column(0.7), [15], 255, 15),            # object on a salient pixel
    (column(0.7), [15], 0, 0),               # background is the stronger cue
    (column(1.0), [15], 0, 0),               # a tie goes to the lowest label: background
    (column(0.6, 0.6), [3, 7], 255, 3),      # a tie of objects
    (column(0.19), [15], 255, 255),          # under alpha, yet certainly salient
    (column(0.19), [15], 50, 0),             # 50 is not salient, 51 is
    (column(0.19), [15], 51, 255),
    (column(0.95, 0.95), [3, 7], 255, 3),    # two confident cues are no conflict
    (column(0.95, 0.96), [3, 7], 0, 255),    # with background they are three
    (column(0.95, 0.95, 0.96), [3, 7, 9], 255, 255),
    (column(), [], 0, 0),
    (column(), [], 255, 255),
])
def test_cases_with_hard_saliency(maps, labels, saliency, expected):
    assert pseudo_label(maps, labels, CueSettings(), grey(saliency)).item() == expected


def test_value_equal_to_alpha_is_a_cue():
    maps = np.uint8([[[50, 51]]]).astype(np.float32) / np.float32(255)
    settings = CueSettings(alpha=0.2, background="constant", constant=0.0)
    assert pseudo_label(maps, [1], settings).tolist() == [[0, 1]]


def test_soft_saliency_weighs_against_the_object():
    settings = CueSettings(soft=True)
    assert pseudo_label(column(0.3), [4], settings, grey(204)).item() == 4  # 0.3 > 0.2
    assert pseudo_label(column(0.3), [4], settings, grey(127)).item() == 0  # 0.3 < 0.5
    assert pseudo_label(column(0.0), [4], settings, grey(254)).item() == 255
    assert pseudo_label(column(0.0), [4], settings, grey(229)).item() == 0  # 0.898: not certain


def test_without_saliency_certainty_is_not_asked():
    for background in ("constant", "power"):
        settings = CueSettings(background=background)
        assert pseudo_label(column(0.0), [4], settings, grey(255)).item() == 0
        assert pseudo_label(column(), [], settings).item() == 0


def test_without_the_ignore_rules_every_pixel_has_the_strongest_label():
    settings = CueSettings()
    conflict = column(0.95, 0.95, 0.96)
    assert pseudo_label(conflict, [3, 7, 9], settings, grey(255), ignore_rules=False).item() == 9
    assert pseudo_label(column(0.1), [3], settings, grey(255), ignore_rules=False).item() == 0


def test_power_counts_values_under_alpha_and_over_one():
    settings = CueSettings(background="power", power=2.0, alpha=0.5)
    assert background_cue(column(0.1), settings).item() == pytest.approx(0.81)
    assert background_cue(column(1.5), CueSettings(background="power", power=0.5)).item() == 0
    assert background_cue(column(), settings).tolist() == [[1.0]]


def test_negative_constant_gives_no_label_to_absent_classes():
    settings = CueSettings(background="constant", constant=-1.0)
    assert pseudo_label(column(0.1), [2], settings).item() == 0
    assert background_cue(column(0.1), settings).item() == 0


def test_not_a_number_is_no_cue():
    settings = CueSettings(background="constant")
    assert object_cue(column(np.nan), 0.2).item() == 0
    assert pseudo_label(column(np.nan, 0.5), [2, 5], settings).item() == 5


def test_inputs_are_left_as_they_are():
    maps, saliency = np.float32([[[0.1, 0.95]]]), np.uint8([[0, 255]])
    pseudo_label(maps, [1], CueSettings(), saliency)
    assert maps.tolist() == np.float32([[[0.1, 0.95]]]).tolist()
    assert saliency.tolist() == [[0, 255]]


def test_certain_saliency_is_hard_or_soft():
    saliency = np.uint8([[50, 51, 229, 230]])
    assert certain_saliency(saliency, CueSettings()).tolist() == [[False, True, True, True]]
    soft = certain_saliency(saliency, CueSettings(soft=True))
    assert soft.tolist() == [[False, False, False, True]]


def test_missing_or_other_sized_saliency_is_an_error():
    with pytest.raises(UsageError, match="--saliency"):
        pseudo_label(column(0.5), [1], CueSettings())
    with pytest.raises(UsageError, match="--background"):
        check_saliency_given(CueSettings(), given=False)
    check_saliency_given(CueSettings(background="power"), given=False)
    with pytest.raises(InputError, match="has 3 × 2 pixels, but the maps have 1 × 1"):
        pseudo_label(column(0.5), [1], CueSettings(), np.zeros((2, 3), np.uint8))


@pytest.mark.parametrize("given_size", [(1, 1), (1, 7), (5, 1), (2, 2), (13, 17), (40, 53)])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (6, 1), (13, 17), (61, 47), (375, 500)])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_resize_is_torchs_with_corners_aligned(given_size, size, count):
    torch = pytest.importorskip("torch")
    maps = np.random.default_rng(0).random((count, *given_size), dtype=np.float32)
    found = resize_maps(maps, size)
    assert found.shape == (count, *size)
    assert found.dtype == np.float32
    if count:
        expected = torch.nn.functional.interpolate(
            torch.from_numpy(maps)[None], size=size, mode="bilinear", align_corners=True)[0]
        np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-6)


def test_resize_to_the_same_size_copies_nothing():
    maps = np.ones((2, 3, 4), np.float32)
    assert resize_maps(maps, (3, 4)) is maps


def test_saliency_folder_names_the_file_of_an_id(tmp_path):
    (tmp_path / "street").mkdir()
    (tmp_path / "street" / "a 1.png").touch()
    saliency_of = saliency_folder(tmp_path)
    assert saliency_of("street/a 1") == tmp_path / "street" / "a 1.png"
    with pytest.raises(InputError) as failure:
        saliency_of("b")
    assert str(tmp_path / "b.png") in str(failure.value)
    assert "'b'" in str(failure.value)
    (tmp_path / "b_sal.png").touch()
    (tmp_path / "bb.png").touch()
    with pytest.raises(InputError, match=r"for image 'b'; there is b_sal\.png; create it"):
        saliency_of("b")
    with pytest.raises(InputError, match="no such folder"):
        saliency_folder(tmp_path / "none")


# --- limits, by hand ------------------------------------------------------------------------------


def test_a_cue_equal_to_conflict_is_not_confident():
    settings = CueSettings(background="constant", constant=0.5, conflict=0.5)
    assert pseudo_label(column(0.6, 0.75), [3, 7], settings).item() == 7  # the background is 0.5, not above it
    assert pseudo_label(column(0.5, 0.6, 0.75), [2, 3, 7], settings).item() == 7
    above = CueSettings(background="constant", constant=0.51, conflict=0.5)
    assert pseudo_label(column(0.6, 0.75), [3, 7], above).item() == 255


def test_conflict_is_the_published_one():
    """Authors' code: more than two cues above 0.9."""
    settings = CueSettings(background="constant", constant=0.0)
    assert pseudo_label(column(0.90, 0.95, 0.96), [1, 2, 3], settings).item() == 3
    assert pseudo_label(column(0.91, 0.95, 0.96), [1, 2, 3], settings).item() == 255


def test_of_probabilities_everything_counts_and_background_is_the_rest():
    settings = of_probabilities(CueSettings(), ())
    assert (settings.alpha, settings.background) == (0.0, "rest")
    assert of_probabilities(CueSettings(alpha=0.3), {"alpha"}).alpha == 0.3
    assert of_probabilities(CueSettings(background="power"), {"background"}).background == "power"


def test_background_is_what_the_maps_leave_and_not_negative():
    settings = CueSettings(background="rest")
    assert background_cue(column(0.25, 0.5), settings).tolist() == [[0.25]]
    assert background_cue(column(0.75, 0.5), settings).tolist() == [[0.0]]


def test_shares_of_cues():
    settings = CueSettings(background="constant", constant=0.0, alpha=0.2)
    found = cue_probabilities(np.float32([[[0.6, 0.1]], [[0.2, 0.0]], [[0.0, 0.0]]]), settings)
    np.testing.assert_allclose(found[:, 0, 0], [0, 0.75, 0.25, 0], atol=1e-6)
    # No cue at all: every class is as likely.
    np.testing.assert_allclose(found[:, 0, 1], [0.25] * 4)
