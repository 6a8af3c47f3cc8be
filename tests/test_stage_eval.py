from __future__ import annotations

import csv
import io
import json
import weakref

import numpy as np
import pytest
from PIL import Image

from drstool.artifacts.header import Header
from drstool.cues import saliency_folder
from drstool.data.item import Dataset, Item
from drstool.errors import InputError, UsageError
from drstool.formats.records import LabelRecord, MapRecord
from drstool.metrics import ConfusionMatrix
from drstool.recipe import CueSettings
from drstool.stages.eval import Scoring, as_csv, as_json, as_table, evaluate
from drstool.stages.pseudo_label import pseudo_label

NAMES = ("cat", "potted plant", "zebra")
HEADER = Header(kind="labels", class_names=NAMES, provenance=({"program": "drstool"},))


def save_mask(path, labels):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.asarray(labels, dtype=np.uint8))
    picture.putpalette(bytes(range(256)) * 3)
    picture.save(path)


def random_labels(seed, size=(6, 8), values=(0, 1, 2, 255)):
    return np.random.default_rng(seed).choice(np.uint8(values), size)


@pytest.fixture
def targets():
    return {f"part/{i}": random_labels(i) for i in range(5)}


@pytest.fixture
def dataset(tmp_path, targets):
    items = []
    for identifier, labels in targets.items():
        save_mask(tmp_path / f"{identifier}.png", labels)
        items.append(Item(id=identifier, image=tmp_path / f"{identifier}.jpg", tags=None,
                          mask=tmp_path / f"{identifier}.png", saliency=None))
    return Dataset(items=tuple(items), class_names=NAMES, source="the-data", tags_source="none")


def predictions(targets, offset=100):
    return [LabelRecord(id=identifier, labels=random_labels(offset + i, labels.shape))
            for i, (identifier, labels) in enumerate(targets.items())]


def expected_scores(targets, records, ignored="miss"):
    matrix = ConfusionMatrix(NAMES)
    for record in records:
        matrix.update(targets[record.id], record.labels)
    return matrix.scores(ignored)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("ignored", ["miss", "skip", "background"])
def test_scores_are_those_of_one_confusion_matrix(dataset, targets, workers, ignored):
    records = predictions(targets)
    result = evaluate(iter(records), dataset, header=HEADER, workers=workers, scoring=Scoring(ignored=ignored))
    assert repr(result.scores) == repr(expected_scores(targets, records, ignored))
    coverage = result.coverage
    assert (result.protocol.kind, coverage.images, coverage.extra, coverage.missing) == ("labels", 5, 0, ())
    assert result.scores.absent == ("zebra",)
    assert result.confusion.counts.shape == (4, 5)


def test_perfect_predictions(dataset, targets):
    records = [LabelRecord(id=i, labels=np.where(t == 255, 0, t).astype(np.uint8))
               for i, t in targets.items()]
    scores = evaluate(records, dataset).scores
    assert (scores.overall_acc, scores.mean_iou, scores.ignored_share) == (1, 1, 0)


def maps_of(targets, size=None):
    """Maps of classes 1 and 2 of which both are confident at places."""
    for seed, (identifier, labels) in enumerate(targets.items()):
        values = np.random.default_rng(seed).integers(0, 256, (2, *(size or labels.shape)))
        yield MapRecord(id=identifier, values=values.astype(np.uint8), labels=(1, 2),
                        image_size=labels.shape, image="x.jpg")


def test_maps_are_scored_by_the_strongest_cue_without_ignoring(dataset, targets, tmp_path):
    folder = tmp_path / "saliency"
    for identifier, labels in targets.items():
        save = folder / f"{identifier}.png"
        save.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full(labels.shape, 255, np.uint8)).save(save)
    result = evaluate(maps_of(targets), dataset, scoring=Scoring(saliency_of=saliency_folder(folder)))
    labelled = []
    for record in maps_of(targets):
        maps = record.as_float()
        maps[maps < 0.2] = 0
        # Background cue 0 everywhere: it wins only where no map is a cue.
        strongest = np.concatenate([np.zeros_like(maps[:1]), maps]).argmax(0)
        labelled.append(LabelRecord(id=record.id, labels=strongest.astype(np.uint8)))
    assert repr(result.scores) == repr(expected_scores(targets, labelled))
    assert (result.protocol.kind, result.protocol.settings) == ("maps", CueSettings())
    assert result.scores.ignored_share == 0


def test_maps_of_another_size_are_scored_at_full_size(dataset, targets):
    settings = CueSettings(background="constant", constant=0.3)
    result = evaluate(maps_of(targets, size=(3, 3)), dataset, scoring=Scoring(settings))
    counted = result.confusion.counts.sum()
    assert counted == sum(np.count_nonzero(labels != 255) for labels in targets.values())


@pytest.mark.parametrize("on_error", [None, [].append])
def test_maps_without_saliency_are_a_usage_error(dataset, targets, on_error):
    with pytest.raises(UsageError, match="--saliency"):
        evaluate(maps_of(targets), dataset, on_error=on_error, workers=2)


def test_predictions_of_other_images_are_counted_and_left_out(dataset, targets):
    records = predictions(targets)
    others = [LabelRecord(id=f"other {i}", labels=np.zeros((1, 1), np.uint8)) for i in range(9)]
    result = evaluate([*others, *records], dataset)
    assert (result.coverage.extra, result.coverage.images) == (9, 5)
    assert result.coverage.extra_ids == tuple(f"other {i}" for i in range(5))
    assert repr(result.scores) == repr(expected_scores(targets, records))


@pytest.mark.parametrize("known", [True, False])
def test_missing_predictions_are_an_error_or_are_told(dataset, targets, known):
    records = predictions(targets)[2:]
    ids = [record.id for record in records] if known else None
    with pytest.raises(InputError, match="missing for 2 of 5 images: part/0, part/1;"):
        evaluate(records, dataset, ids=ids)
    told = []
    result = evaluate(records, dataset, ids=ids, on_error=told.append)
    assert result.coverage.missing == ("part/0", "part/1")
    assert result.coverage.images == 3
    assert len(told) == 1


def test_known_ids_tell_a_lack_before_the_work(dataset):
    def records():
        raise AssertionError("no record is needed to see that one is missing")
        yield

    with pytest.raises(InputError, match="missing for 4 of 5 images"):
        evaluate(records(), dataset, ids=["part/3", "other"])


def without_mask(dataset, *identifiers):
    items = tuple(
        Item(id=item.id, image=item.image, tags=None, saliency=None,
             mask=None if item.id in identifiers else item.mask) for item in dataset.items)
    return Dataset(items=items, class_names=dataset.class_names, source=dataset.source,
                   tags_source="none")


def test_images_without_ground_truth_are_counted_and_named(dataset, targets):
    lacking = without_mask(dataset, "part/1")
    records = predictions(targets)
    result = evaluate(records, lacking)
    assert (result.coverage.without_target, result.coverage.images, result.coverage.extra) == (("part/1",), 4, 0)
    assert "1 image without ground truth: part/1" in as_table(result)
    with pytest.raises(InputError, match="5 of 5 images have no ground truth"):
        evaluate(records, without_mask(dataset, *targets), on_error=[].append)


@pytest.mark.parametrize("on_error", [None, [].append])
def test_strict_wants_the_same_images_on_both_sides(dataset, targets, on_error):
    records = predictions(targets)
    strict = {"scoring": Scoring(strict=True), "on_error": on_error}
    assert evaluate(records, dataset, **strict).coverage.warnings() == []
    with pytest.raises(InputError, match="1 of 5 images have no ground truth: part/1;"):
        evaluate(records, without_mask(dataset, "part/1"), **strict)
    with pytest.raises(InputError, match="missing for 1 of 5 images: part/0;"):
        evaluate(records[1:], dataset, **strict)
    extra = LabelRecord(id="other", labels=np.zeros((1, 1), np.uint8))
    with pytest.raises(InputError, match="1 belong to no image of the dataset: other;"):
        evaluate([*records, extra], dataset, **strict)


@pytest.mark.parametrize("keep_going", [True, False])
@pytest.mark.parametrize("known", [True, False])
def test_no_common_image_is_an_error(dataset, keep_going, known):
    told = []
    records = [LabelRecord(id="x", labels=np.zeros((6, 8), np.uint8))]
    with pytest.raises(InputError, match=r"none of the 1 predicted images.*'part/0'"):
        evaluate(records, dataset, ids=["x"] if known else None,
                 on_error=told.append if keep_going else None)
    with pytest.raises(InputError, match="no prediction"):
        evaluate([], dataset, on_error=told.append if keep_going else None)


def test_other_class_names_are_an_error(dataset, targets):
    for names in (("cat", "dog"), ("potted plant", "cat", "zebra")):
        with pytest.raises(InputError, match="same classes in the same order"):
            evaluate(predictions(targets), dataset, header=Header("labels", names))


def test_saliency_maps_are_no_predictions(dataset, targets):
    with pytest.raises(InputError, match="hold saliency"):
        evaluate(predictions(targets), dataset, header=Header("saliency", ()))


def test_class_names_may_come_from_either_side(dataset, targets):
    nameless = Dataset(dataset.items, None, "the-data", "none")
    result = evaluate(predictions(targets), nameless, header=HEADER)
    assert result.class_names == NAMES
    assert evaluate(predictions(targets), dataset, header=None).class_names == NAMES
    with pytest.raises(InputError, match="--classes"):
        evaluate(predictions(targets), nameless)


def bad_record(kind, targets):
    labels = np.zeros((6, 8), np.uint8)
    if kind == "size":
        labels = labels.T
    if kind == "value":
        labels[0, 0] = 4
    return LabelRecord(id="part/2", labels=labels)


@pytest.mark.parametrize("kind, message", [
    ("size", r"'part/2': is 6 × 8 pixels, but ground truth .*part/2.png is 8 × 6; .*EXIF"),
    ("value", r"'part/2': contains unknown label values: 4"),
    ("twice", r"'part/2': appears twice"),
])
@pytest.mark.parametrize("workers", [1, 2])
def test_bad_predictions_are_errors_or_are_told(dataset, targets, kind, message, workers):
    records = predictions(targets)
    good = [record for record in records if record.id != "part/2" or kind == "twice"]
    records = records + records[2:3] if kind == "twice" else [
        bad_record(kind, targets) if record.id == "part/2" else record for record in records]
    with pytest.raises(InputError, match=message):
        evaluate(records, dataset, workers=workers)
    told = []
    result = evaluate(records, dataset, workers=workers, on_error=told.append)
    assert len(told) == 1
    assert result.coverage.failed == (() if kind == "twice" else ("part/2",))
    assert repr(result.scores) == repr(expected_scores(targets, good))


def test_bad_ground_truth_is_named(dataset, targets, tmp_path):
    save_mask(tmp_path / "part/1.png", np.full((6, 8), 99))
    with pytest.raises(InputError, match=r"part/1\.png: contains unknown label values: 99"):
        evaluate(predictions(targets), dataset)
    (tmp_path / "part/1.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"part/1\.png"):
        evaluate(predictions(targets), dataset)


def test_all_failed_is_an_error(dataset, targets):
    records = [LabelRecord(id=i, labels=np.zeros((1, 1), np.uint8)) for i in targets]
    with pytest.raises(InputError, match="no prediction could be scored"):
        evaluate(records, dataset, on_error=[].append)


def test_json_says_how_the_scores_were_made(dataset, targets):
    records = predictions(targets)[1:]
    result = evaluate(records, dataset, header=HEADER, scoring=Scoring(ignored="skip"), on_error=[].append)
    text = as_json(result)
    found = json.loads(text)
    assert "NaN" not in text
    assert found["mean_iou"] == result.scores.mean_iou
    assert [row["name"] for row in found["classes"]] == ["background", *NAMES]
    assert [row["label"] for row in found["classes"]] == [0, 1, 2, 3]
    assert found["classes"][3]["iou"] is None
    assert found["absent_classes"] == ["zebra"]
    assert (found["images"], found["missing"], found["extra"]) == (4, ["part/0"], 0)
    assert 0 < found["ignored_share"] < 1
    protocol = found["protocol"]
    assert protocol["size"] == "full"
    assert protocol["ignore_label"] == 255
    assert protocol["ignored_predictions"] == "skip"
    assert protocol["pixel_ground_truth_used"] is True
    assert protocol["dataset"] == "the-data"
    assert protocol["cues"] is None
    assert found["provenance"] == [{"program": "drstool"}]
    maps = evaluate(maps_of(targets), dataset, scoring=Scoring(CueSettings(background="power")))
    assert maps.to_json()["protocol"]["cues"]["background"] == "power"
    assert maps.to_json()["protocol"]["predictions"] == "maps"
    assert "alpha 0.2, background power" in as_table(maps)


def test_csv_has_a_row_a_class_and_the_means(dataset, targets):
    result = evaluate(predictions(targets), dataset)
    rows = list(csv.DictReader(io.StringIO(as_csv(result))))
    assert [row["label"] for row in rows] == ["0", "1", "2", "3", "", "", ""]
    assert rows[2]["name"] == "potted plant"
    assert rows[3]["iou"] == ""
    assert float(rows[0]["iou"]) == pytest.approx(result.scores.classes[0].iou, abs=1e-6)
    mean, overall, freqw = rows[4:]
    assert (mean["name"], overall["name"], freqw["name"]) == ("Mean", "Overall Acc", "FreqW Acc")
    assert float(mean["iou"]) == pytest.approx(result.scores.mean_iou, abs=1e-6)
    assert float(mean["acc"]) == pytest.approx(result.scores.mean_acc, abs=1e-6)
    assert float(overall["acc"]) == pytest.approx(result.scores.overall_acc, abs=1e-6)
    assert float(freqw["iou"]) == pytest.approx(result.scores.freqw_acc, abs=1e-6)
    total = sum(float(mean[rate]) for rate in ("iou", "fp_rate", "fn_rate"))
    assert total == pytest.approx(1, abs=1e-5)


def test_table_is_aligned_text_with_the_means_first(dataset, targets):
    result = evaluate(predictions(targets), dataset)
    lines = as_table(result).splitlines()
    scores = result.scores
    assert lines[:4] == [
        f"Overall Acc  {scores.overall_acc:.4f}", f"Mean Acc     {scores.mean_acc:.4f}",
        f"FreqW Acc    {scores.freqw_acc:.4f}", f"Mean IoU     {scores.mean_iou:.4f}"]
    assert lines[4] == ""
    assert lines[5] == "Class            IoU     Acc  FP rate  FN rate"
    assert [line.split("  ")[0] for line in lines[6:10]] == ["background", *NAMES]
    assert {len(line) for line in lines[5:10]} == {len(lines[5])}
    assert lines[9].split() == ["zebra", "-", "-", "-", "-"]
    assert "5 images at full size" in lines[11]
    assert "zebra" in lines[-1]


def test_names_of_wide_letters_are_aligned(dataset, targets):
    named = Dataset(dataset.items, ("cat", "植木鉢", "ze\u0301bra"), "the-data", "none")
    lines = as_table(evaluate(predictions(targets), named)).splitlines()
    assert lines[8].startswith("植木鉢      0.")
    assert lines[9].startswith("ze\u0301bra            -")


@pytest.mark.parametrize("workers", [1, 3])
def test_records_are_let_go_of(dataset, targets, workers):
    alive = most = 0

    def let_go():
        nonlocal alive
        alive -= 1

    def records():
        nonlocal alive, most
        for i in range(300):
            record = LabelRecord(id=f"extra {i}", labels=np.zeros((1, 1), np.uint8))
            if i % 60 == 0:
                record = predictions(targets)[i // 60]
            weakref.finalize(record.labels, let_go)
            alive += 1
            most = max(most, alive)
            yield record

    result = evaluate(records(), dataset, workers=workers)
    assert (result.coverage.images, result.coverage.extra) == (5, 295)
    assert most <= 2 * workers + 3


def test_ground_truth_may_be_annotations(dataset, targets):
    class Drawn:
        """As the masks of a COCO file: rasterised when asked for."""

        def __init__(self, labels):
            self.labels = labels

        def rasterize(self, expected=None):
            return self.labels

        def __str__(self):
            return "instances.json#7"

    items = tuple(Item(id=item.id, image=item.image, mask=Drawn(targets[item.id]))
                  for item in dataset.items)
    drawn = Dataset(items, NAMES, "the-data", "coco")
    records = predictions(targets)
    assert repr(evaluate(records, drawn).scores) == repr(expected_scores(targets, records))
    with pytest.raises(InputError, match="instances.json#7"):
        evaluate([LabelRecord(id="part/0", labels=np.zeros((1, 1), np.uint8))], drawn)


def test_json_has_frequencies_confusion_and_the_method_of_the_predictions(dataset, targets):
    chain = (
        {"command": "drstool train-cls -o c", "settings": {"flip": 0.5}, "used": {"tags": "list"}},
        {"command": "drstool cam -o m", "settings": {"flip": True, "sizes": [256, 320]},
         "used": {"tags": "list", "pixel_ground_truth": False}},
        {"command": "drstool pseudo-label m", "settings": {"alpha": 0.3}, "used": {"saliency": True}})
    records = predictions(targets)
    told = evaluate(records, dataset, header=Header("labels", NAMES, chain)).to_json()
    method = told["protocol"]["method"]
    assert (method["recorded"], method["flip"], method["sizes"], method["crf"]) == (True, True, [256, 320], False)
    assert method["cues"] == {"alpha": 0.3}
    assert method["tags"] == [{"step": "train-cls", "used": "list"}, {"step": "cam", "used": "list"}]
    assert (method["saliency"], method["pixel_ground_truth"]) == ([{"step": "pseudo-label", "used": True}], [])
    unknown = evaluate(records, dataset).to_json()["protocol"]["method"]
    assert (unknown["recorded"], unknown["crf"], unknown["tags"]) == (False, None, None)

    target, prediction = (np.stack(list(part)) for part in (targets.values(), (each.labels for each in records)))
    valid = target != 255
    assert told["pixels"] == valid.sum()
    assert told["ignored_target_pixels"] == (~valid).sum()
    counts = np.array(told["confusion"]["counts"])
    assert counts[1, 2] == ((target == 1) & (prediction == 2)).sum()
    assert counts[2, -1] == ((target == 2) & (prediction == 255)).sum()
    row = told["frequencies"][1]
    assert (row["name"], row["pixels"], row["images"]) == (
        "cat", (target == 1).sum(), sum((labels == 1).any() for labels in target))
    assert row["share"] == row["pixels"] / valid.sum()
    assert row["predicted_pixels"] == ((prediction == 1) & valid).sum()
    assert row["predicted_images"] == 5
    assert told["protocol"]["classes_left_out"] == ["zebra"]
    assert (told["protocol"]["resize"], told["mean_boundary_iou"]) == (None, None)


def test_ground_truth_digest_is_of_what_was_scored(dataset, targets, tmp_path):
    records = predictions(targets)
    first = evaluate(records, dataset).protocol.target_digest
    assert evaluate(records[::-1], dataset, workers=3).protocol.target_digest == first
    assert evaluate(records[1:], dataset, on_error=[].append).protocol.target_digest != first
    save_mask(tmp_path / "part/1.png", np.zeros((6, 8)))
    assert evaluate(records, dataset).protocol.target_digest != first


def test_boundary_iou_stands_beside_iou(dataset, targets):
    result = evaluate(predictions(targets), dataset, scoring=Scoring(boundary_ratio=0.02))
    told = result.to_json()
    assert told["mean_boundary_iou"] == pytest.approx(
        np.mean([row["boundary_iou"] for row in told["classes"] if row["boundary_iou"] is not None]))
    assert told["protocol"]["boundary_iou"] == {"distance": "0.02 of the image's diagonal"}
    rows = list(csv.DictReader(io.StringIO(as_csv(result))))
    assert float(rows[4]["boundary_iou"]) == pytest.approx(told["mean_boundary_iou"], abs=1e-6)
    assert "Boundary IoU  0." in as_table(result)


def test_ignore_rules_make_scores_those_of_pseudo_labels(dataset, targets):
    settings = CueSettings(background="constant", background_below=0.4, constant=0.6)
    labelled = list(pseudo_label(maps_of(targets), settings))
    assert any((record.labels == 255).any() for record in labelled)
    for ignored in ("miss", "skip", "background"):
        result = evaluate(maps_of(targets), dataset, scoring=Scoring(settings, ignore_rules=True, ignored=ignored))
        assert repr(result.scores) == repr(expected_scores(targets, labelled, ignored))
    assert "with ignore rules" in as_table(result)
