"""Classes whose maps are empty, and images without an object, are named."""

import re

import numpy as np
import pytest
import torch

from drstool.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from drstool.formats import Header, MapRecord, open_sink
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
