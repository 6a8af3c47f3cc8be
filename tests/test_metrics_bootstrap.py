"""The paired bootstrap: its sums, its seed, zero width for identical runs, and its coverage."""

from __future__ import annotations

import numpy as np
import pytest

from drstool.metrics import IGNORED_AS, ConfusionMatrix, LabelCounts, count_labels
from drstool.metrics.bootstrap import bootstrap_mean_ious, interval, run_counts

NAMES = ("cat", "dog", "sheep")


def images(seed, number=12):
    random = np.random.default_rng(seed)
    return [count_labels(*random.choice(np.uint8([0, 1, 2, 255]), (2, 5, 6)), NAMES) for _ in range(number)]


@pytest.mark.parametrize("ignored", IGNORED_AS)
def test_draws_are_confusion_matrices_of_the_images_drawn(ignored):
    run = images(0)
    values, draws = bootstrap_mean_ious([run_counts(run, 4, ignored)], 70, seed=5)
    whole = ConfusionMatrix(NAMES)
    for counts in run:
        whole.add(counts)
    assert values[0] == pytest.approx(whole.scores(ignored).mean_iou, abs=1e-12)
    random = np.random.default_rng(5)
    # In two chunks, as they are drawn.
    weights = np.concatenate([random.multinomial(12, np.full(12, 1 / 12), size) for size in (64, 6)])
    for often, found in zip(weights, draws[0]):
        matrix = ConfusionMatrix(NAMES)
        for times, counts in zip(often, run):
            for _ in range(times):
                matrix.add(counts)
        assert found == pytest.approx(matrix.scores(ignored).mean_iou, abs=1e-12)


def test_identical_runs_differ_by_zero_exactly():
    run = run_counts(images(1), 4)
    values, draws = bootstrap_mean_ious([run, run], 200, seed=0)
    told = interval(values[1] - values[0], draws[1] - draws[0], 0.95)
    assert (told.value, told.low, told.high) == (0, 0, 0)
    assert np.ptp(draws[0]) > 0


def test_seed_decides():
    runs = [run_counts(images(seed), 4) for seed in (1, 2)]
    first, again, other = (bootstrap_mean_ious(runs, 50, seed)[1] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def simulated(random, number):
    """Two runs over one draw of images that are alike in how hard they are: 0 background, 1 object."""
    hard = random.beta(4, 2, number)
    size = random.integers(200, 2000, number)
    runs = []
    for skill in (0.0, 0.04):
        found = np.clip(hard + skill + random.normal(0, 0.08, number), 0, 1)
        hits = (size * found).astype(np.int64)
        runs.append([LabelCounts(np.int64([0, 1, 1]), np.int64([0, 0, 1]), np.int64([3000, n - h, h]))
                     for n, h in zip(size.tolist(), hits.tolist())])
    return [run_counts(run, 2) for run in runs]


def test_intervals_cover_the_true_difference_as_often_as_they_say():
    population, _ = bootstrap_mean_ious(simulated(np.random.default_rng(99), 20_000), 1, seed=0)
    truth = population[1] - population[0]
    covered, trials = 0, 150
    for trial in range(trials):
        values, draws = bootstrap_mean_ious(simulated(np.random.default_rng(trial), 80), 250, seed=trial)
        told = interval(values[1] - values[0], draws[1] - draws[0], 0.9)
        covered += told.low <= truth <= told.high
    # 0.9 with a standard error of 0.025; the percentile interval of few images is a little narrow.
    assert 0.80 <= covered / trials <= 0.97


def test_a_class_never_hit_counts_as_zero():
    """As in the confusion matrix: a class that occurs has an IoU, a class that does not occur has none."""
    never_hit = [count_labels(np.uint8([[0, 1]]), np.uint8([[0, 2]]), NAMES)]
    values, draws = bootstrap_mean_ious([run_counts(never_hit, 4)], 3, seed=0)
    # Background 1, cat and dog 0, sheep in no mean.
    assert values.tolist() == pytest.approx([1 / 3])
    assert draws.ravel().tolist() == pytest.approx([1 / 3] * 3)
    nothing = [count_labels(np.uint8([[255]]), np.uint8([[0]]), NAMES)]
    assert np.isnan(bootstrap_mean_ious([run_counts(nothing, 4)], 1, seed=0)[0]).all()
