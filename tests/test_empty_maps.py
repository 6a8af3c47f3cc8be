"""Classes whose maps are empty, and images without an object, are named."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

from drstool.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from drstool.formats import Header, LabelRecord, MapRecord, open_sink
from drstool.reports.empty_maps import EmptyMaps

NAMES = ("cat", "dog", "cow")


def record(number, dtype=np.uint8, **maps):
    """A record of an image with maps of these values, each in a single pixel."""
    values = np.zeros((len(maps), 4, 5), dtype)
    values[:, 1, 2] = list(maps.values())
    return MapRecord(f"i{number}", values, tuple(NAMES.index(name) + 1 for name in maps), (4, 5))


def write(path, records):
    with open_sink(str(path), Header("localization-maps", NAMES)) as sink:
        sink.write_all(records)
    return path


@pytest.mark.parametrize("dtype", [np.uint8, np.float16])
def test_counts_while_records_pass(dtype):
    records = [record(0, dtype, cat=0, dog=200), record(1, dtype, cat=0), record(2, dtype, dog=0, cow=1)]
    report = EmptyMaps()
    passing = report.counted(iter(records))
    assert next(passing) is records[0]
    assert report.maps == {1: 1, 2: 1} and report.lines(NAMES) == ["cat: 0 of 1 image has a value above 0"]
    assert list(passing) == records[1:]
    assert report.lines(NAMES) == ["cat: 0 of 2 images have a value above 0"]


def test_more_than_half_is_told_worst_first():
    report = EmptyMaps()
    for number, dog in enumerate([0, 0, 7]):
        report.count(record(number, cat=number % 2, dog=dog, cow=0))
    assert report.lines(NAMES) == [
        "cow: 0 of 3 images have a value above 0", "cat: 1 of 3 images have a value above 0",
        "dog: 1 of 3 images have a value above 0"]
    report.count(record(3, cat=1, dog=1, cow=1))
    assert [line.split(":")[0] for line in report.lines(NAMES)] == ["cow"]


def test_negative_values_are_not_above_zero():
    report = EmptyMaps()
    report.count(record(0, np.float16, cat=-1))
    assert report.lines(NAMES) == ["cat: 0 of 1 image has a value above 0"]


def test_of_many_classes_some_are_named():
    report = EmptyMaps()
    report.count(MapRecord("i", np.zeros((25, 1, 1), np.uint8), tuple(range(1, 26)), (1, 1)))
    lines = report.lines([f"c{n}" for n in range(25)])
    assert len(lines) == 21 and lines[-1] == "and 5 more classes like these"


@pytest.mark.parametrize(("command", "source"), [("cam", "cls"), ("refine", "refiner")])
def test_named_by_the_commands_that_make_maps(drs, voc, made, tmp_path, command, source):
    """A network whose output is negative for one class everywhere."""
    checkpoint = load_checkpoint(getattr(made, source))
    with torch.no_grad():
        checkpoint.weights["output.weight"][0] = 0
        checkpoint.weights["output.bias"][0] = -1
    save_checkpoint(tmp_path / "net.pt", checkpoint)
    words = (command, "--data", voc, "--split", "train", "--weights", tmp_path / "net.pt", "--sizes", "32")
    outcome = drs(*words, "-o", tmp_path / "maps.h5")
    assert outcome.code == 0, outcome.err
    told = [line for line in outcome.err.splitlines() if "value above 0" in line]
    assert re.fullmatch(rf"{command}: bar: 0 of \d images have a value above 0", told[0])
    assert outcome.err.splitlines()[-1].startswith(f"{command}: wrote")
    assert drs(*words, "-o", tmp_path / "quiet.h5", "-q").err == ""


def test_named_by_pseudo_label(drs, tmp_path):
    records = [record(n, cat=0, dog=255 if n < 5 else 0) for n in range(8)] + [record(8)]
    words = ("pseudo-label", write(tmp_path / "maps.h5", records), "--background", "constant")
    outcome = drs(*words, "-o", tmp_path / "labels", "--json")
    assert outcome.code == 0, outcome.err
    assert "pseudo-label: cat: 0 of 8 images have a value above 0\n" in outcome.err
    assert "dog:" not in outcome.err
    # The ninth image has no map and can have no object.
    assert "pseudo-label: 3 of 8 images got no object pixel\n" in outcome.err
    report = outcome.json()
    assert (report["images"], report["images_with_maps"], report["images_without_object"]) == (9, 8, 3)
    assert [(row["maps"], row["empty_maps"]) for row in report["classes"]] == [(0, 0), (8, 8), (8, 3), (0, 0)]


def test_a_few_images_without_an_object_are_usual(drs, tmp_path):
    path = write(tmp_path / "maps.h5", [record(n, cat=255 if n else 0) for n in range(10)])
    outcome = drs("pseudo-label", path, "--background", "constant", "-o", tmp_path / "labels")
    assert outcome.code == 0 and "object pixel" not in outcome.err


# --- label images, saliency maps, and what other commands tell ----------------------------------


def test_label_images_without_an_object():
    report = EmptyMaps()
    for labels in (np.uint8([[0, 255]]), np.uint8([[0, 1]]), np.uint16([[0, 65535]]), np.uint16([[255, 0]])):
        report.count(LabelRecord("i", labels))
    assert report.lines(NAMES) == ["2 of 4 images got no object pixel"]


def labels_of(voc, folder, values):
    """A folder of label PNGs for the training pictures, each of one value."""
    folder.mkdir()
    for name, value in zip(("p0", "p1", "p2", "p3"), values, strict=True):
        size = Image.open(voc / "JPEGImages" / f"{name}.jpg").size
        Image.new("L", size, value).save(folder / f"{name}.png")
    return folder


@pytest.mark.parametrize(("values", "line"), [
    ((0, 0, 255, 0), "4 of 4 images got no object pixel"), ((0, 1, 255, 2), "2 of 4 images got no object pixel"),
    ((1, 1, 2, 2), None)])
def test_info_and_overlay_of_labels(drs, must, voc, tmp_path, values, line):
    folder = labels_of(voc, tmp_path / "labels", values)
    expected = [] if line is None else [line]
    assert [text[13:] for text in must("info", folder).out.splitlines() if text.startswith("note ")] == expected
    assert drs("info", folder, "--json").json().get("notes", []) == expected
    told = must("overlay", "--data", voc, "--split", "train", "--labels", folder, "-o", tmp_path / "figures").err
    assert told.splitlines()[:-1] == [f"overlay: {text}" for text in expected]


def test_info_of_maps_in_a_file_and_a_stream(must, tmp_path):
    maps = write(tmp_path / "maps.h5", [record(n, cat=0, dog=n) for n in range(3)])
    stream = write(tmp_path / "maps.tar", [record(n, cat=0, dog=n) for n in range(3)])
    for path in (maps, stream):
        assert "note         cat: 0 of 3 images have a value above 0" in must("info", path).out.splitlines()


def test_info_looks_at_some_of_many(must, monkeypatch, tmp_path):
    maps = write(tmp_path / "maps.h5", [record(n, cat=0) for n in range(7)])
    monkeypatch.setattr("drstool.stages.info._LOOKED_AT", 3)
    assert "cat: 0 of 3 images have a value above 0" in must("info", maps).out


SHORT = ("--backbone", "vgg16-small", "--init", "none", "--epochs", "1", "--image-size", "32", "--min-steps", "0")


def test_train_seg_tells_of_images_without_an_object(must, voc, tmp_path):
    folder = labels_of(voc, tmp_path / "labels", (1, 0, 0, 255))
    told = must("train-seg", "--data", voc, "--split", "train", "--labels", folder, *SHORT, "-o", tmp_path / "s.pt").err
    assert told.splitlines()[1] == "train-seg: 3 of 4 images got no object pixel"


@pytest.mark.parametrize(("values", "hint"), [
    ((0, 0, 0, 0), "all are background; give labels of objects"),
    ((0, 255, 0, 0), "all are background or 255 (ignored); if 255 is 'bar', save it as 1")])
def test_train_seg_refuses_labels_without_any_object(drs, voc, tmp_path, values, hint):
    folder = labels_of(voc, tmp_path / "labels", values)
    line = ("train-seg", "--data", voc, "--split", "train", "--labels", folder, *SHORT, "-o", tmp_path / "s.pt")
    outcome = drs(*line)
    assert outcome.code == 3
    assert outcome.err == f"drstool: --labels: no image of 4 has a pixel of an object: {hint}\n"
    assert not (tmp_path / "s.pt").exists()


def test_train_seg_tells_of_own_labels_without_any_object(must, voc, made, tmp_path):
    must("pseudo-label", made.cams, "--background", "constant", "--constant", "1", "-o", tmp_path / "labels")
    told = must("train-seg", "--data", voc, "--split", "train", "--labels", tmp_path / "labels", *SHORT, "-o",
                tmp_path / "s.pt").err
    assert told.splitlines()[1].startswith("train-seg: no image of 4 has a pixel of an object: only the background")


def saliency_of(voc, folder, *values, dtype=np.uint8):
    """A folder of saliency maps that are the dataset's, in which salient is another value."""
    folder.mkdir()
    for number, path in enumerate(sorted((voc / "saliency_map").iterdir())):
        salient = np.array(Image.open(path)) > 0
        Image.fromarray((salient * values[number % len(values)]).astype(dtype)).save(folder / path.name)
    return folder


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_saliency_maps_of_zeros_and_ones(must, voc, made, tmp_path, dtype):
    ones = saliency_of(voc, tmp_path / "ones", 1, dtype=dtype)
    line = ("pseudo-label", made.cams, "--saliency")
    right = must(*line, voc / "saliency_map", "--no-provenance", "-o", tmp_path / "right").err
    told = must(*line, ones, "--no-provenance", "-o", tmp_path / "wrong").err
    assert ("pseudo-label: no value of 4 saliency maps is above 1, but 255 means salient; if 1 does, give "
            "--saliency-range 0,1") in told.splitlines()
    scaled = must(*line, ones, "--no-provenance", "--saliency-range", "0,1", "-o", tmp_path / "scaled").err
    assert "saliency maps" not in right + scaled
    for name in ("p0.png", "p1.png", "p2.png", "p3.png"):
        assert (tmp_path / "scaled" / name).read_bytes() == (tmp_path / "right" / name).read_bytes()
    must(*line, ones, "--saliency-range", "0,1", "-o", tmp_path / "kept")
    assert must("info", tmp_path / "kept", "--json").json()["provenance"][-1]["settings"]["saliency_range"] == [0, 1]


def test_saliency_maps_are_told_by_all_who_read_them(must, voc, made, tmp_path):
    ones, black = saliency_of(voc, tmp_path / "ones", 1), saliency_of(voc, tmp_path / "black", 0, 200)
    for line in (("crf", made.cams, "-o", tmp_path / "c.h5"), ("eval", made.cams, "--data", voc, "--split", "train")):
        told = must(*line, "--saliency", ones).err
        assert f"{line[0]}: no value of 4 saliency maps is above 1" in told
        extra = ("--overwrite",) if line[0] == "crf" else ()
        assert f"{line[0]}: black saliency maps: 2 of 4" in must(*line, *extra, "--saliency", black).err
        assert "saliency maps" not in must(*line, *extra, "--saliency", voc / "saliency_map").err
    # Values that are never salient are told by what comes of them.
    dark = saliency_of(voc, tmp_path / "dark", 40)
    for other in (("pseudo-label", made.cams, "-o", tmp_path / "labels"), line):
        assert f"{other[0]}: 4 of 4 images got no object pixel" in must(*other, "--saliency", dark).err.splitlines()


def test_info_of_saliency_maps(must, voc, tmp_path):
    from drstool.formats.label_folder import LabelFolderWriter

    (tmp_path / "saliency").mkdir()
    writer = LabelFolderWriter(tmp_path / "saliency", Header("saliency", ()))
    for number in range(4):
        writer.write(LabelRecord(f"i{number}", np.zeros((2, 3), np.uint8)))
    writer.close()
    assert "note         black saliency maps: 4 of 4" in must("info", tmp_path / "saliency").out.splitlines()


@pytest.mark.parametrize("text", ["1", "1,0", "0,0", "a,b", "0,1,2", "-1,1", "0,70000000"])
def test_what_is_no_range_of_saliency(drs, voc, made, tmp_path, text):
    outcome = drs("pseudo-label", made.cams, "--saliency", voc / "saliency_map", "--saliency-range", text, "-o",
                  tmp_path / "l")
    assert outcome.code == 2 and outcome.err.count("\n") == 1 and not (tmp_path / "l").exists()
