from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from drstool.errors import InputError
from drstool.metrics import IGNORED_AS, ConfusionMatrix, count_labels

NAMES = ("cat", "dog", "sheep", "train")


def counted_scores(target, prediction, ignored):
    """Scores by a plain loop over pixels, from true and false positives and negatives."""
    classes = len(NAMES) + 1
    hits, false, missed, pixels = ([0] * classes for _ in range(4))
    for t, p in zip(target.ravel().tolist(), prediction.ravel().tolist()):
        if t == 255 or (p == 255 and ignored == "skip"):
            continue
        if p == 255 and ignored == "background":
            p = 0
        pixels[t] += 1
        if t == p:
            hits[t] += 1
        else:
            missed[t] += 1
            if p != 255:
                false[p] += 1
    total = sum(pixels)
    union = [h + f + m for h, f, m in zip(hits, false, missed)]
    iou = [h / u if u else math.nan for h, u in zip(hits, union)]
    acc = [h / n if n else math.nan for h, n in zip(hits, pixels)]
    return {
        "overall": sum(hits) / total if total else math.nan,
        "iou": iou, "acc": acc,
        "fp": [f / u if u else math.nan for f, u in zip(false, union)],
        "fn": [m / u if u else math.nan for m, u in zip(missed, union)],
        "mean_iou": mean(iou), "mean_acc": mean(acc),
        "freqw": sum(n * i for n, i in zip(pixels, iou) if n) / total if total else math.nan,
        "pixels": pixels,
    }


def mean(values):
    values = [value for value in values if not math.isnan(value)]
    return sum(values) / len(values) if values else math.nan


def same(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12, equal_nan=True)


def label_images(shape):
    return hnp.arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, 4, 255]))


@st.composite
def image_pairs(draw):
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=2, max_side=6))
    return draw(label_images(shape)), draw(label_images(shape))


@given(st.lists(image_pairs(), min_size=1, max_size=3), st.sampled_from(IGNORED_AS))
def test_scores_are_those_of_a_counting_loop(pairs, ignored):
    matrix = ConfusionMatrix(NAMES)
    for target, prediction in pairs:
        matrix.update(target, prediction)
    found = matrix.scores(ignored)
    expected = counted_scores(
        np.concatenate([t.ravel() for t, _ in pairs]),
        np.concatenate([p.ravel() for _, p in pairs]), ignored)
    same(found.overall_acc, expected["overall"])
    same(found.mean_acc, expected["mean_acc"])
    same(found.freqw_acc, expected["freqw"])
    same(found.mean_iou, expected["mean_iou"])
    same([row.iou for row in found.classes], expected["iou"])
    same([row.acc for row in found.classes], expected["acc"])
    same([row.fp_rate for row in found.classes], expected["fp"])
    same([row.fn_rate for row in found.classes], expected["fn"])
    assert [row.pixels for row in found.classes] == expected["pixels"]
    assert [row.name for row in found.classes] == ["background", *NAMES]
    assert found.absent == tuple(
        row.name for row in found.classes if math.isnan(row.iou))


def blocks(seed, shape=(60, 80), values=(0, 1, 2, 4)):
    """A label image of long runs, as real ones are."""
    random = np.random.default_rng(seed)
    small = random.choice(np.uint8(values), size=(shape[0] // 10, shape[1] // 10))
    return small.repeat(10, axis=0).repeat(10, axis=1)


@pytest.mark.parametrize("make", [
    blocks, lambda seed: np.random.default_rng(seed).choice(np.uint8([0, 1, 2, 4]), (60, 80))])
def test_scores_are_those_of_other_libraries(make):
    torchmetrics = pytest.importorskip("torchmetrics.classification")
    sklearn = pytest.importorskip("sklearn.metrics")
    torch = pytest.importorskip("torch")
    target, prediction = make(1), make(2)
    target[:7] = 255
    matrix = ConfusionMatrix(NAMES)
    matrix.update(target, prediction)
    scores = matrix.scores()

    kept = target != 255
    labels = range(len(NAMES) + 1)
    expected = sklearn.confusion_matrix(target[kept], prediction[kept], labels=labels)
    np.testing.assert_array_equal(matrix.counts[:, :-1], expected)
    assert not matrix.counts[:, -1].any()
    present = [0, 1, 2, 4]
    same([scores.classes[i].iou for i in present], sklearn.jaccard_score(
        target[kept], prediction[kept], labels=present, average=None))
    same(scores.overall_acc, sklearn.accuracy_score(target[kept], prediction[kept]))
    same(scores.mean_acc, sklearn.balanced_accuracy_score(target[kept], prediction[kept]))
    same(scores.freqw_acc, sklearn.jaccard_score(
        target[kept], prediction[kept], labels=present, average="weighted"))

    jaccard = torchmetrics.MulticlassJaccardIndex(5, ignore_index=255, average="macro")
    value = jaccard(torch.from_numpy(prediction).long(), torch.from_numpy(target).long())
    assert scores.mean_iou == pytest.approx(value.item(), abs=1e-6)
    accuracy = torchmetrics.MulticlassAccuracy(5, ignore_index=255, average="none")
    value = accuracy(torch.from_numpy(prediction).long(), torch.from_numpy(target).long())
    assert [scores.classes[i].acc for i in present] == pytest.approx(
        value[present].tolist(), abs=1e-6)
    assert scores.absent == ("sheep",)


def test_ignored_predictions_miss_are_skipped_or_are_background():
    matrix = ConfusionMatrix(["cat"])
    matrix.update(np.uint8([[1, 1, 0, 0, 255]]), np.uint8([[1, 255, 0, 255, 255]]))
    assert matrix.counts.tolist() == [[1, 0, 1], [0, 1, 1]]
    assert matrix.scores("miss").overall_acc == 0.5
    assert [row.fp_rate for row in matrix.scores("miss").classes] == [0, 0]
    assert matrix.scores("skip").overall_acc == 1.0
    background = matrix.scores("background")
    assert background.overall_acc == 0.75
    assert [row.iou for row in background.classes] == [2 / 3, 1 / 2]
    assert {matrix.scores(way).ignored_share for way in IGNORED_AS} == {0.5}
    with pytest.raises(ValueError, match="miss, skip, background"):
        matrix.scores("other")


@given(image_pairs(), st.sampled_from(IGNORED_AS))
def test_iou_and_the_two_error_rates_make_one(pair, ignored):
    matrix = ConfusionMatrix(NAMES)
    matrix.update(*pair)
    for row in matrix.scores(ignored).classes:
        if not math.isnan(row.iou):
            assert row.iou + row.fp_rate + row.fn_rate == pytest.approx(1)


def test_nothing_counted_is_not_a_number():
    matrix = ConfusionMatrix(["cat"])
    matrix.update(np.full((2, 2), 255, np.uint8), np.zeros((2, 2), np.uint8))
    scores = matrix.scores()
    for value in (scores.overall_acc, scores.mean_acc, scores.freqw_acc, scores.mean_iou,
                  scores.ignored_share):
        assert math.isnan(value)
    assert scores.absent == ("background", "cat")


def test_class_only_predicted_has_no_accuracy_but_counts_in_the_mean_iou():
    matrix = ConfusionMatrix(["cat"])
    matrix.update(np.uint8([[0, 0]]), np.uint8([[0, 1]]))
    scores = matrix.scores()
    assert math.isnan(scores.classes[1].acc)
    assert (scores.mean_iou, scores.mean_acc) == (0.25, 0.5)
    assert scores.absent == ()


@pytest.mark.parametrize("target, prediction, named", [
    ([[0, 3]], [[0, 0]], "truth.png"),
    ([[0, 0]], [[0, 3]], "guess.png"),
    ([[0, 255]], [[0, 3]], "guess.png"),
    ([[0, 254]], [[0, 254]], "truth.png"),
])
def test_value_that_is_no_label_is_an_error(target, prediction, named):
    with pytest.raises(InputError, match=f"^{named}: contains unknown label values"):
        count_labels(np.uint8(target), np.uint8(prediction), ["cat", "dog"],
                     "truth.png", "guess.png")


def test_other_size_is_an_error_that_names_both():
    with pytest.raises(InputError, match="guess.png: is 3 × 2 pixels, but truth.png is 5 × 4"):
        count_labels(np.zeros((4, 5), np.uint8), np.zeros((2, 3), np.uint8), NAMES,
                     "truth.png", "guess.png")


def test_as_many_classes_as_a_byte_holds():
    names = [f"class {i}" for i in range(254)]
    target = np.arange(256, dtype=np.uint8).reshape(16, 16)
    matrix = ConfusionMatrix(names)
    matrix.update(target, target)
    assert matrix.scores().mean_iou == 1
    assert matrix.counts.sum() == 255


def test_inputs_need_not_be_contiguous():
    target = np.asfortranarray(blocks(1))
    matrix, plain = ConfusionMatrix(NAMES), ConfusionMatrix(NAMES)
    matrix.update(target, blocks(2)[::-1])
    plain.update(blocks(1), blocks(2)[::-1].copy())
    np.testing.assert_array_equal(matrix.counts, plain.counts)


def test_a_class_is_counted_once_an_image():
    matrix = ConfusionMatrix(["cat", "dog"])
    matrix.update(np.uint8([[0, 1, 1, 255]]), np.uint8([[2, 2, 255, 1]]))
    matrix.update(np.uint8([[1, 1]]), np.uint8([[1, 2]]))
    assert matrix.images == 2
    assert matrix.target_images.tolist() == [1, 2, 0]
    # Where the target is ignored, and as ignored, nothing is predicted.
    assert matrix.prediction_images.tolist() == [0, 1, 2]


@pytest.mark.parametrize(("shape", "turned"), [((5, 4), True), ((5, 5), False)])
def test_a_turned_image_is_told_to_be_one(shape, turned):
    with pytest.raises(InputError) as failure:
        count_labels(np.zeros((4, 5), np.uint8), np.zeros(shape, np.uint8), NAMES)
    assert ("EXIF" in str(failure.value)) == turned
