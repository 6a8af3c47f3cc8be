"""``eval`` as typed: sweeps, comparisons, images worst first, and what it refuses or names."""

from __future__ import annotations

import csv
import io
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from drstool.formats import Header, MapRecord, open_records, open_sink
from drstool.formats.label_png import encode_label_png, read_label_png

# As in conftest.py.
CLASSES, TRAIN, VAL = ("bar", "disc"), ("p0", "p1", "p2", "p3"), ("p4", "p5")


def target_of(voc, identifier):
    return read_label_png(voc / "SegmentationClass" / f"{identifier}.png")


@pytest.fixture(scope="module")
def maps(voc, tmp_path_factory):
    """Maps of all pictures: near their ground truth, but soft and noisy."""
    path = tmp_path_factory.mktemp("maps") / "maps.h5"
    with open_sink(str(path), Header("localization-maps", CLASSES)) as sink:
        for number, identifier in enumerate(TRAIN + VAL):
            labels = target_of(voc, identifier)
            noise = np.random.default_rng(number).random((2, *labels.shape))
            values = 0.45 * noise + 0.35 * np.stack([labels == 1, labels == 2])
            sink.write(MapRecord(identifier, values.astype(np.float16), (1, 2), labels.shape))
    return path


@pytest.fixture
def evaluate(drs, voc):
    def run(*arguments, split="train", code=0):
        more = ("--split", split) if split else ()
        outcome = drs("eval", *arguments, "--data", voc, *more)
        assert outcome.code == code, outcome.err
        return outcome

    return run


@pytest.mark.parametrize("parameter, more", [
    ("alpha", ("--background", "constant", "--constant", "0.1")), ("alpha", ("--ignore-rules", "--ignored", "skip")),
    ("constant", ()), ("power", ("--combine", "min")), ("constant", ("--background", "saliency+constant"))])
def test_sweep_has_the_scores_of_single_evaluations(evaluate, maps, parameter, more):
    swept = evaluate(maps, "--sweep", parameter, "--json", *more).json()
    assert len(swept["rows"]) == 256
    background = () if "--background" in more or parameter == "alpha" else ("--background", parameter)
    for row in (swept["rows"][0], swept["rows"][100], swept["best"]):
        single = evaluate(maps, f"--{parameter}", row["value"], "--json", *background, *more).json()
        for key in ("mean_iou", "overall_acc", "mean_acc", "freqw_acc"):
            assert row[key] == single[key]
        assert row["iou"] == [each["iou"] for each in single["classes"]]
    cues = swept["protocol"]["cues"]
    named = more[1] if "--background" in more else "saliency" if parameter == "alpha" else parameter
    assert (cues["background"], cues[parameter]) == (named, swept["best"]["value"])


def test_best_plateau_and_activation_of_a_sweep(evaluate, maps):
    swept = evaluate(maps, "--sweep", "constant", "--tolerance", "0.02", "--json").json()
    scores = [row["mean_iou"] for row in swept["rows"]]
    best = int(np.argmax(scores))
    assert swept["best"] == swept["rows"][best]
    inside = [row["value"] for row in swept["rows"]
              if swept["plateau"]["from"] <= row["value"] <= swept["plateau"]["to"]]
    assert all(score >= max(scores) - 0.02 for score, row in zip(scores, swept["rows"]) if row["value"] in inside)
    first, last = (swept["rows"].index(next(row for row in swept["rows"] if row["value"] == swept["plateau"][end]))
                   for end in ("from", "to"))
    assert first <= best <= last
    assert max([scores[i] for i in (first - 1, last + 1) if 0 <= i < 256], default=0) < max(scores) - 0.02
    objects = swept["classes"][1:]
    assert swept["best"]["over_activation"] == pytest.approx(np.mean([row["fp_rate"] for row in objects]))
    assert swept["best"]["under_activation"] == pytest.approx(np.mean([row["fn_rate"] for row in objects]))
    # A higher threshold turns false positives into false negatives.
    assert swept["rows"][10]["over_activation"] > swept["rows"][150]["over_activation"]
    assert swept["rows"][10]["under_activation"] < swept["rows"][150]["under_activation"]


def test_sweep_says_whose_ground_truth_chose(evaluate, maps, voc):
    same = evaluate(maps, "--sweep", "constant").out
    assert f"constant was chosen on the pixel ground truth of {voc} split train (4 images)" in same
    assert "on the same images" in same
    assert "Best constant" in same and "Plateau" in same and "Over-activation" in same
    apart = evaluate(maps, "--sweep", "constant", "--select-on", "train", "--report-on", "val", split=None)
    assert "split train (4 images); the scores are on" in apart.out and "split val (2 images)" in apart.out
    chosen = evaluate(
        maps, "--sweep", "constant", "--select-on", "train", "--report-on", "val", "--json", split=None).json()
    train, val = (evaluate(maps, "--sweep", "constant", "--json", split=split).json() for split in ("train", "val"))
    assert chosen["best"]["value"] == train["best"]["value"]
    assert [row["chosen_by_mean_iou"] for row in chosen["rows"]] == [row["mean_iou"] for row in train["rows"]]
    assert [row["mean_iou"] for row in chosen["rows"]] == [row["mean_iou"] for row in val["rows"]]
    assert chosen["selection"]["common_images"] == 0
    both = ("--select-on", "val", "--report-on", "val")
    equal = evaluate(maps, "--sweep", "constant", *both, "--json", split=None).json()
    assert "on the same images" in equal["selection"]["said"]
    assert equal["rows"] == val["rows"]


def test_sweep_as_csv_and_from_a_stream(drs, evaluate, maps, voc, tmp_path):
    rows = list(csv.DictReader(io.StringIO(evaluate(maps, "--sweep", "alpha", "--csv").out)))
    assert len(rows) == 256
    assert [float(rows[i]["alpha"]) for i in (0, 51, 255)] == [0, 0.2, 1]
    with (open_records(maps) as source,
          open_sink(str(tmp_path / "maps.tar"), Header("localization-maps", CLASSES)) as sink):
        sink.write_all(source.records())
    line = ("eval", "--data", voc, "--sweep", "alpha", "--select-on", "train", "--report-on", "val", "--json")
    streamed = drs(*line, stdin=(tmp_path / "maps.tar").read_bytes()).json()
    assert streamed["rows"] == drs(*line[:1], maps, *line[1:]).json()["rows"]


def with_grey_saliency(voc, folder):
    """Saliency maps of random grey values, of which the last image's has only two."""
    folder.mkdir()
    for number, identifier in enumerate(TRAIN + VAL):
        size = target_of(voc, identifier).shape
        values = np.random.default_rng(number).integers(0, 256, size, np.uint8)
        salient = target_of(voc, identifier) > 0
        grey = np.where(salient, np.maximum(values, 60), values // 2) if number % 2 else salient * np.uint8(255)
        Image.fromarray(grey.astype(np.uint8)).save(folder / f"{identifier}.png")
    return folder


@pytest.mark.parametrize("more", [
    (), ("--ignore-rules", "--ignored", "skip"), ("--background", "saliency+constant", "--combine", "min")])
def test_sweep_of_two_numbers_has_the_scores_of_single_evaluations(evaluate, maps, voc, tmp_path, more):
    saliency = ("--saliency", with_grey_saliency(voc, tmp_path / "grey"))
    swept = evaluate(maps, "--sweep", "alpha,saliency-threshold", "--json", *saliency, *more).json()
    thresholds = sorted({row["saliency_threshold"] for row in swept["rows"]})
    assert len(swept["rows"]) == 256 * len(thresholds) and {50, 51} < set(thresholds)
    for threshold in (thresholds[0], 50, 51, thresholds[-1]):
        line = (maps, *saliency, *more, "--saliency-threshold", threshold, "--json")
        alone = evaluate(*line, "--sweep", "alpha").json()
        rows = [row for row in swept["rows"] if row["saliency_threshold"] == threshold]
        assert [{**row, "saliency_threshold": threshold} for row in alone["rows"]] == rows
        row = rows[60]
        single = evaluate(*line, "--alpha", row["value"]).json()
        assert (row["mean_iou"], row["iou"]) == (single["mean_iou"], [each["iou"] for each in single["classes"]])
    assert swept["best"] == max(swept["rows"], key=lambda row: row["mean_iou"])
    assert [row["saliency_threshold"] for row in swept["best_by_saliency_threshold"]] == thresholds
    cues = swept["protocol"]["cues"]
    assert cues["saliency_threshold"] == swept["best"]["saliency_threshold"]
    assert cues["alpha"] == swept["best"]["value"]
    assert len({row["mean_iou"] for row in swept["rows"] if row["value"] == swept["rows"][10]["value"]}) > 3


def test_sweep_of_two_numbers_as_table_and_csv(evaluate, maps, voc, tmp_path):
    saliency = ("--saliency", with_grey_saliency(voc, tmp_path / "grey"))
    both = ("--sweep", "saliency-threshold,alpha", "--select-on", "train", "--report-on", "val")
    scores = evaluate(maps, *saliency, *both, "--json", split=None).json()
    rows = list(csv.DictReader(io.StringIO(evaluate(maps, *saliency, *both, "--csv", split=None).out)))
    assert len(rows) == len(scores["rows"])
    for row, known in zip(rows, scores["rows"]):
        assert float(row["mean_iou"]) == pytest.approx(known["mean_iou"], abs=1e-6)
        assert int(row["saliency_threshold"]) == known["saliency_threshold"]
    shown = evaluate(maps, *saliency, *both, split=None).out
    # The best pair is chosen on train, whatever val says.
    best = max(scores["rows"], key=lambda row: row["chosen_by_mean_iou"])
    alone = evaluate(maps, *saliency, *both[:2], "--json").json()
    assert [row["chosen_by_mean_iou"] for row in scores["rows"]] == [row["mean_iou"] for row in alone["rows"]]
    assert scores["best"] == best and [row["mean_iou"] for row in alone["rows"]] != [
        row["mean_iou"] for row in scores["rows"]]
    assert re.search(rf"^Best saliency threshold\s+{best['saliency_threshold']}$", shown, re.MULTILINE)
    assert re.search(rf"^Best alpha\s+{best['value']:.4f}$", shown, re.MULTILINE)
    assert "alpha and the saliency threshold were chosen on the pixel ground truth of" in shown
    assert all(re.search(rf"^{row['saliency_threshold']}\s+{row['value']:.4f}\s+{row['mean_iou']:.4f}", shown, re.M)
               for row in scores["best_by_saliency_threshold"])


@pytest.mark.parametrize("more, words", [
    (("--soft",), "soft saliency has no threshold"), (("--background", "constant"), "is constant, without saliency")])
def test_sweep_of_a_threshold_that_has_no_effect(evaluate, maps, more, words):
    outcome = evaluate(maps, "--sweep", "alpha,saliency-threshold", *more, code=2)
    assert words in outcome.err and outcome.err.count("\n") == 1 and not outcome.out


def test_sweep_of_labels_says_what_is_needed(evaluate, made):
    outcome = evaluate(made.pred, "--sweep", "alpha", split="val", code=3)
    assert outcome.err.count("\n") == 1
    assert "holds labels" in outcome.err and "--sweep needs maps" in outcome.err


@pytest.mark.parametrize("arguments, words", [
    (("--sweep", "saliency"), ["--sweep", "alpha, constant, power"]),
    (("--sweep", "alpha,constant"), ["--sweep", "alpha, constant, power", "saliency-threshold"]),
    (("--sweep", "saliency-threshold,saliency-threshold"), ["--sweep", "alpha,saliency-threshold"]),
    (("--select-on", "train", "--report-on", "val"), ["--sweep"]),
    (("--sweep", "alpha", "--select-on", "train"), ["--report-on"]),
    (("--sweep", "alpha", "--select-on", "train", "--report-on", "val", "--split", "val"), ["--split"]),
    (("--sweep", "alpha", "--boundary"), ["--boundary"]),
    (("--sweep", "alpha", "other.h5"), ["takes one input"]),
    (("--per-image", "other.h5"), ["--per-image"]),
    (("-", "-"), ["stdin"]),
    (("other.h5", "--data", "-"), ["--data", "once for each input"]),
    (("--sweep", "alpha", "--select-on", "train", "--report-on", "val", "--data", "-"), ["once for each split"]),
    (("--split", "train", "--saliency-scale", "2"), ["--soft"]),
    (("--background", "saliency+sun"), ["saliency+sun"]),
])
def test_options_that_do_not_go_together(drs, voc, maps, arguments, words):
    outcome = drs("eval", maps, "--data", voc, *arguments)
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert all(word in outcome.err for word in words), outcome.err


@pytest.fixture
def runs(voc, tmp_path):
    """Two runs over the training pictures: ground truth shifted by one and by six pixels."""
    for name, shift in (("near", 1), ("far", 6)):
        (tmp_path / name).mkdir()
        for identifier in TRAIN:
            labels = np.roll(target_of(voc, identifier), shift, axis=1)
            (tmp_path / name / f"{identifier}.png").write_bytes(encode_label_png(labels))
    shutil.copytree(tmp_path / "near", tmp_path / "twin")
    return tmp_path


def test_runs_are_compared_on_the_same_images(evaluate, runs):
    told = evaluate(runs / "near", runs / "far", runs / "twin", "--json", "--seed", "3", "--resamples", "300").json()
    near, far, twin = told["runs"]
    assert near["mean_iou"]["value"] == evaluate(runs / "near", "--json").json()["mean_iou"]
    assert twin["difference"] == {"value": 0, "low": 0, "high": 0}
    assert far["difference"]["high"] < 0
    assert far["difference"]["low"] <= far["difference"]["value"] <= far["difference"]["high"]
    assert told["bootstrap"] | {"method": ""} == {
        "method": "", "level": 0.95, "resamples": 300, "seed": 3, "images": 4}
    wide = evaluate(runs / "near", runs / "far", "--json", "--seed", "3", "--level", "0.5").json()["runs"][1]
    assert wide["difference"]["low"] > far["difference"]["low"]
    text = evaluate(runs / "near", runs / "far").out
    assert "paired bootstrap over 4 images, 2000 resamples, seed 0" in text
    rows = list(csv.DictReader(io.StringIO(evaluate(runs / "near", runs / "far", "--csv").out)))
    assert [row["run"] for row in rows] == [str(runs / "near"), str(runs / "far")]
    assert float(rows[1]["difference_high"]) < 0


def test_runs_of_unlike_images_are_compared_on_the_common_ones(evaluate, runs, drs, voc):
    (runs / "far" / "p0.png").unlink()
    assert "missing for 1 of 4 images: p0" in evaluate(runs / "near", runs / "far", code=3).err
    outcome = evaluate(runs / "near", runs / "far", "--keep-going", "--json", code=4)
    assert outcome.json()["bootstrap"]["images"] == 3
    assert [each["evaluation"]["images"] for each in outcome.json()["runs"]] == [3, 3]
    for identifier in TRAIN[1:]:
        (runs / "near" / f"{identifier}.png").unlink()
    assert "no images in common" in evaluate(runs / "near", runs / "far", "--keep-going", code=3).err


@pytest.mark.parametrize("workers", ["1", "2"])
def test_damaged_label_image_is_told_and_left_out_where_asked_to(evaluate, runs, workers):
    (runs / "near" / "p2.png").write_bytes((runs / "near" / "p2.png").read_bytes()[:100])
    outcome = evaluate(runs / "near", "--workers", workers, code=3)
    assert "p2" in outcome.err and "damaged PNG" in outcome.err and outcome.out == ""
    outcome = evaluate(runs / "near", "--keep-going", "--json", "--workers", workers, code=4)
    assert "p2" in outcome.err and "damaged PNG" in outcome.err
    told = outcome.json()
    assert (told["images"], told["failed"]) == (3, ["p2"])


def test_images_are_listed_worst_first(evaluate, runs, voc):
    (runs / "near" / "p2.png").write_bytes(encode_label_png(np.zeros_like(target_of(voc, "p2"))))
    told = evaluate(runs / "near", "--per-image", "--json").json()["per_image"]
    assert told[0]["id"] == "p2"
    assert [row["mean_iou"] for row in told] == sorted(row["mean_iou"] for row in told)
    assert told[0]["worst"] in CLASSES
    rows = list(csv.DictReader(io.StringIO(evaluate(runs / "near", "--per-image", "--csv").out)))
    assert [row["id"] for row in rows] == [row["id"] for row in told]
    lines = evaluate(runs / "near", "--per-image").out.splitlines()
    assert next(i for i, line in enumerate(lines) if line.startswith("Image")) + 1 == next(
        i for i, line in enumerate(lines) if line.startswith("p2"))


def test_json_tells_the_whole_protocol(drs, evaluate, made, voc, tmp_path):
    """Of a chain of commands with a CRF: what was done, by whom, to what, and with whose knowledge."""
    line = ("pseudo-label", made.refined, "--saliency", voc / "saliency_map", "--alpha", "0.01")
    outcome = drs(*line, "--crf", "irn", "--crf-iterations", "2", "-o", tmp_path / "labels")
    assert outcome.code == 0, outcome.err
    told = evaluate(tmp_path / "labels", "--json", "--boundary").json()
    protocol = told["protocol"]
    assert (protocol["size"], protocol["resize"], protocol["ignore_label"]) == ("full", None, 255)
    assert (protocol["predictions"], protocol["ignored_predictions"]) == ("labels", "miss")
    assert protocol["classes_left_out"] == [] == told["absent_classes"]
    assert (protocol["dataset"].split()[0], protocol["pixel_ground_truth_used"]) == (str(voc), True)
    assert all(len(protocol[name]) > 32 for name in ("dataset_digest", "ground_truth_digest"))
    method = protocol["method"]
    assert (method["crf"]["preset"], method["crf"]["iterations"]) == ("irn", 2)
    assert (method["flip"], method["sizes"], method["cues"]["alpha"]) == (False, [32, 40], 0.01)
    assert {each["step"] for each in method["tags"]} == {"train-cls", "cam"}
    assert (method["saliency"], method["pixel_ground_truth"]) == ([{"step": "pseudo-label", "used": True}], [])
    steps = [each["command"].split()[1] for each in told["provenance"]]
    assert steps[0] == "train-cls" and steps[-1] == "pseudo-label"
    targets = np.concatenate([target_of(voc, i).ravel() for i in TRAIN])
    assert (told["images"], told["pixels"]) == (4, int((targets != 255).sum()))
    counts = np.array(told["confusion"]["counts"])
    assert counts.sum() == told["pixels"] and (counts.sum(axis=0) > 0).sum() > 1
    for label, row in enumerate(told["classes"]):
        hits, missed, excess = (
            counts[label, label], counts[label].sum() - counts[label, label],
            counts[:, label].sum() - counts[label, label])
        union = hits + missed + excess
        assert (row["iou"], row["fn_rate"], row["fp_rate"]) == (hits / union, missed / union, excess / union)
        assert row["boundary_iou"] is not None
        assert told["frequencies"][label]["pixels"] == (targets == label).sum()
    assert told["mean_boundary_iou"] > 0


def test_strict_and_what_is_named_without(evaluate, runs, drs, own_voc):
    (own_voc / "SegmentationClass" / "p1.png").unlink()
    (runs / "near" / "other.png").write_bytes((runs / "near" / "p0.png").read_bytes())
    line = ("eval", runs / "near", "--data", own_voc, "--split", "train")
    outcome = drs(*line, "--json")
    assert outcome.code == 0
    assert (outcome.json()["without_target"], outcome.json()["extra_ids"]) == (["p1"], ["other"])
    assert outcome.err.splitlines() == [
        "eval: 1 image without ground truth: p1", "eval: 1 prediction of other images left out: other"]
    table = drs(*line)
    assert table.err == ""
    assert "without ground truth: p1" in table.out and "left out: other" in table.out
    strict = drs(*line, "--strict")
    assert (strict.code, strict.out) == (3, "")
    assert "1 of 4 images have no ground truth: p1" in strict.err
    extra = evaluate(runs / "near", "--strict", code=3)
    assert "1 belong to no image of the dataset: other" in extra.err


def test_other_class_names_are_refused(drs, maps, own_voc):
    (own_voc / "classes.txt").write_text("disc\nbar\n")
    outcome = drs("eval", maps, "--data", own_voc, "--split", "train", "--background", "constant")
    assert outcome.code == 3
    assert outcome.err.count("\n") == 1 and "classes" in outcome.err
