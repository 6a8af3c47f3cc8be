from __future__ import annotations

import h5py
import numpy as np
import pytest
from PIL import Image

from drstool import cues
from drstool.errors import InputError, UsageError
from drstool.formats.records import LabelRecord, MapRecord
from drstool.recipe import CueSettings
from drstool.stages.pseudo_label import IgnoreReport, pseudo_label

CONSTANT = CueSettings(background="constant")


def record(identifier, values, labels, image_size=None):
    values = np.asarray(values)
    return MapRecord(id=identifier, values=values, labels=tuple(labels),
                     image_size=image_size or values.shape[1:], image=f"images/{identifier}.jpg")


def random_record(identifier, seed, count=2, size=(5, 7), image_size=(9, 11)):
    values = np.random.default_rng(seed).integers(0, 256, (count, *size), dtype=np.uint8)
    return record(identifier, values, range(1, count + 1), image_size)


def save_grey(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, dtype=np.uint8)).save(path)


def test_labels_are_the_rule_at_the_images_size(tmp_path):
    records = [random_record("a/b", 1), random_record("c", 2, count=0)]
    random = np.random.default_rng(3)
    saliency = {each.id: random.integers(0, 256, (9, 11), dtype=np.uint8) for each in records}
    for identifier, values in saliency.items():
        save_grey(tmp_path / f"{identifier}.png", values)
    found = list(pseudo_label(
        records, CueSettings(), saliency_of=cues.saliency_folder(tmp_path)))
    assert [each.id for each in found] == ["a/b", "c"]
    assert [each.image for each in found] == ["images/a/b.jpg", "images/c.jpg"]
    for given, label in zip(records, found):
        maps = cues.resize_maps(given.as_float(), (9, 11))
        expected = cues.pseudo_label(maps, given.labels, CueSettings(), saliency[given.id])
        assert label.labels.dtype == np.uint8
        np.testing.assert_array_equal(label.labels, expected)


def test_any_number_of_workers_gives_the_same_labels():
    records = [random_record(str(i), i) for i in range(12)]
    one = list(pseudo_label(records, CONSTANT, workers=1))
    many = list(pseudo_label(iter(records), CONSTANT, workers=4))
    assert [each.id for each in one] == [each.id for each in many]
    for left, right in zip(one, many):
        np.testing.assert_array_equal(left.labels, right.labels)


def test_half_precision_maps_and_image_without_class():
    values = np.float16([[[0.1, 0.6]]])
    found = list(pseudo_label(
        [record("a", values, [3]), record("b", values[:0], [])], CONSTANT))
    assert [each.labels.tolist() for each in found] == [[[0, 3]], [[0, 0]]]


def test_records_are_taken_as_they_come():
    taken = []

    def records():
        for i in range(100):
            taken.append(i)
            yield random_record(str(i), i)

    assert next(pseudo_label(records(), CONSTANT)).id == "0"
    assert taken == [0]


def test_saliency_is_needed_only_for_the_saliency_cue():
    # Before the first record is asked for.
    with pytest.raises(UsageError, match="--saliency"):
        pseudo_label([random_record("a", 1)], CueSettings())
    for background in ("constant", "power"):
        settings = CueSettings(background=background)
        assert len(list(pseudo_label([random_record("a", 1)], settings))) == 1


def test_missing_and_wrong_sized_saliency_are_errors_or_are_told(tmp_path):
    records = [random_record(name, 1) for name in ("good", "absent", "small", "good2")]
    for name, size in [("good", (9, 11)), ("small", (5, 7)), ("good2", (9, 11))]:
        save_grey(tmp_path / f"{name}.png", np.zeros(size))
    saliency_of = cues.saliency_folder(tmp_path)
    with pytest.raises(InputError, match="absent"):
        list(pseudo_label(records, CueSettings(), saliency_of=saliency_of))
    told = []
    found = list(pseudo_label(
        records, CueSettings(), saliency_of=saliency_of, on_error=told.append, workers=2))
    assert [each.id for each in found] == ["good", "good2"]
    assert ["absent.png" in str(told[0]), "small.png" in str(told[1])] == [True, True]


def test_label_images_are_no_maps():
    labels = LabelRecord(id="a", labels=np.zeros((2, 2), np.uint8))
    with pytest.raises(InputError, match="'a'.*give maps"):
        list(pseudo_label([labels], CONSTANT))


def test_progress_is_tracked():
    seen = []

    def track(items, description, total):
        seen.append((description, total))
        return items

    records = [random_record("a", 1)]
    assert len(list(pseudo_label(records, CONSTANT, track=track, total=1))) == 1
    assert seen == [("pseudo-label", 1)]


@pytest.mark.parametrize(("workers", "few"), [(1, 10), (3, 10), (3, 0)])
def test_report_is_of_what_was_ignored(tmp_path, monkeypatch, workers, few):
    monkeypatch.setattr("drstool.stages.pseudo_label._FEW_LABELS", few)
    names = ("cat", "dog", "sheep")
    settings = CueSettings(alpha=0.4, background_below=0.1, background="saliency+constant", conflict=0.6)
    records = [random_record(str(i), i, count=1 + i % 3) for i in range(6)]
    saliency = {each.id: np.random.default_rng(int(each.id)).choice(np.uint8([0, 255]), (9, 11)) for each in records}
    for identifier, values in saliency.items():
        save_grey(tmp_path / f"{identifier}.png", values)
    report = IgnoreReport()
    found = list(pseudo_label(
        records, settings, saliency_of=cues.saliency_folder(tmp_path), workers=workers, report=report))
    plain = pseudo_label(records, settings, saliency_of=cues.saliency_folder(tmp_path))
    labels = np.stack([each.labels for each in found])
    np.testing.assert_array_equal(labels, np.stack([each.labels for each in plain]))
    told = report.to_json(names)
    assert (told["images"], told["pixels"]) == (6, 6 * 99)
    assert told["ignored_share"] == (labels == 255).mean()
    assert sum(told["ignored_share_by_rule"].values()) == pytest.approx(told["ignored_share"])
    assert min(told["ignored_share_by_rule"].values()) > 0
    strongest = np.stack([
        np.array([0, *each.labels])[np.concatenate([np.zeros((1, 9, 11), np.float32), cues.resize_maps(
            each.as_float(), (9, 11))]).argmax(0)] for each in records])
    for row in told["classes"]:
        ignored = ((labels == 255) & (strongest == row["label"])).sum()
        assert (row["pixels"], row["ignored"]) == ((labels == row["label"]).sum(), ignored)
        assert sum(row["ignored_by_rule"].values()) == ignored
        assert row["ignored_share"] == (ignored / (ignored + row["pixels"]) if ignored + row["pixels"] else None)
    assert f"{told['ignored_share']:.1%} of the pixels ignored (conflict " in report.words(names)


def test_report_of_nothing():
    report = IgnoreReport()
    assert list(pseudo_label([], CONSTANT, report=report)) == []
    assert report.to_json(("cat",))["ignored_share"] is None
    assert report.words(("cat",)) == "0.0% of the pixels ignored"


def test_command_tells_what_was_ignored(drs, made, voc, tmp_path):
    line = ("pseudo-label", made.cams, "--saliency", voc / "saliency_map")
    outcome = drs(*line, "-o", tmp_path / "labels", "--json")
    told = outcome.json()
    labels = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "labels").glob("*.png"))]
    ignored = sum((each == 255).sum() for each in labels) / sum(each.size for each in labels)
    assert told["ignored_share"] == pytest.approx(ignored)
    assert told["ignored_share_by_rule"]["certain saliency"] > 0
    assert [row["name"] for row in told["classes"]] == ["background", "bar", "disc"]
    assert f"wrote 4 label images to {tmp_path / 'labels'}, {ignored:.1%} of the pixels ignored (" in outcome.err
    assert "since resuming" not in outcome.err
    refused = drs(*line, "--json")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "-o" in refused.err


@pytest.mark.parametrize("workers", ["1", "2"])
def test_damaged_maps_of_one_image_are_told_and_left_out_where_asked_to(drs, made, tmp_path, workers):
    path = tmp_path / "cams.h5"
    path.write_bytes(made.cams.read_bytes())
    with h5py.File(path) as file:
        chunk = file["maps/p1"].id.get_chunk_info(0)
    data = bytearray(path.read_bytes())
    data[chunk.byte_offset + 2] ^= 0xFF
    path.write_bytes(data)
    line = ("pseudo-label", path, "--background", "constant", "--workers", workers, "-o", tmp_path / "labels")
    outcome = drs(*line)
    assert (outcome.code, outcome.err.count("\n")) == (3, 1)
    assert "p1: its maps are damaged" in outcome.err and not (tmp_path / "labels").exists()
    outcome = drs(*line, "--keep-going", "--overwrite")
    assert outcome.code == 4 and "p1: its maps are damaged" in outcome.err
    assert sorted(each.stem for each in (tmp_path / "labels").glob("*.png")) == ["p0", "p2", "p3"]
