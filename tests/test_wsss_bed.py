"""The label rule with WSSS-BED's settings gives WSSS-BED's labels, on every pixel."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from drstool.cues import saliency_folder
from drstool.formats.records import MapRecord
from drstool.recipe import PseudoLabelSettings
from drstool.stages.pseudo_label import pseudo_label

THRESHOLDS = (0.1, 0.2, 0.3, 0.5)
SIZE = (48, 64)


def of_wsss_bed(grey_maps, classes, grey_saliency, threshold, *, ignore, without_saliency=False):
    """What clovaai/WSSS-BED, wsss_bed/run.py, does for one image, stated anew: classes count from 0 there."""
    salient = grey_saliency.astype(np.float32) / np.float32(255) > np.float32(0.2)
    cues = np.zeros((21, *grey_saliency.shape), np.float32)
    cues[0] = threshold if without_saliency else ~salient
    for number, grey in zip(classes, grey_maps):
        value = grey.astype(np.float32) / np.float32(255)
        cues[number + 1] = value if without_saliency else np.where(value < np.float32(threshold), 0, value)
    label = np.argmax(cues, axis=0)
    if ignore and not without_saliency:
        label[(label == 0) & salient] = 255
    return label


def cases(seed):
    """Random grey maps and saliency maps, with many ties, thresholds and extremes."""
    random = np.random.default_rng(seed)
    classes = sorted(random.choice(20, random.integers(0, 5), replace=False).tolist())
    around = np.array([0, 25, 26, 50, 51, 52, 76, 77, 127, 128, 254, 255], np.uint8)
    for values in (np.arange(256, dtype=np.uint8), around):
        yield random.choice(values, (len(classes), *SIZE)), classes, random.choice(values, SIZE)


@pytest.mark.parametrize("ignore", [True, False])
@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_labels_equal_those_of_wsss_bed(tmp_path, threshold, ignore):
    settings = PseudoLabelSettings(alpha=threshold, saliency_threshold=51, conflict=1.0, ignore=ignore)
    seen = set()
    for grey, classes, saliency in (case for seed in range(8) for case in cases(seed)):
        Image.fromarray(saliency).save(tmp_path / "a.png")
        record = MapRecord("a", grey, tuple(number + 1 for number in classes), SIZE)
        found, = pseudo_label([record], settings, saliency_of=saliency_folder(tmp_path))
        np.testing.assert_array_equal(
            found.labels, of_wsss_bed(grey, classes, saliency, threshold, ignore=ignore))
        seen |= set(np.unique(found.labels).tolist())
    assert 0 in seen and len(seen) > 10 and (255 in seen) == ignore


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_labels_without_saliency_equal_those_of_wsss_bed(threshold):
    """EPS and L2G: the background cue is the threshold itself, and no pixel is ignored."""
    settings = PseudoLabelSettings(alpha=0.0, background="constant", constant=threshold, ignore=False)
    for grey, classes, saliency in (case for seed in range(8) for case in cases(seed)):
        record = MapRecord("a", grey, tuple(number + 1 for number in classes), SIZE)
        found, = pseudo_label([record], settings)
        np.testing.assert_array_equal(found.labels, of_wsss_bed(
            grey, classes, saliency, threshold, ignore=False, without_saliency=True))


def test_no_ignore_as_typed(must, drs, made, voc, tmp_path):
    """Without ignored pixels there are the labels of --ignore, and those of the strongest cues where it ignores."""
    line = ("pseudo-label", made.cams, "--saliency", voc / "saliency_map", "--alpha", "0.9")
    must(*line, "-o", tmp_path / "with")
    report = must(*line, "--no-ignore", "--json", "-o", tmp_path / "without").json()
    assert report["ignored_share"] == 0 and set(report["ignored_share_by_rule"].values()) == {0}
    ignored = 0
    for path in (tmp_path / "with").glob("*.png"):
        both = [np.asarray(Image.open(tmp_path / name / path.name)) for name in ("with", "without")]
        ignored += (both[0] == 255).sum()
        assert not (both[1] == 255).any()
        np.testing.assert_array_equal(both[0], np.where(both[0] == 255, 255, both[1]))
    assert ignored

    outcome = drs(*line, "--no-ignore", "--conflict", "0.5", "-o", tmp_path / "x")
    assert outcome.code == 2 and "--conflict: has no effect with --no-ignore" in outcome.err
    assert not (tmp_path / "x").exists()
