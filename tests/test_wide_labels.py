"""More object classes than a byte holds: label images of 16 bits through files, streams, metrics and networks."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

from drstool.data.coco import CocoMask
from drstool.errors import InputError
from drstool.formats import Header, LabelRecord, MapRecord, open_records, open_sink
from drstool.formats.label_png import encode_label_png, read_label_png
from drstool.labels import as_label_type, check_class_names, check_label_values, colorize, shown_palette
from drstool.metrics import ConfusionMatrix

NAMES = tuple(f"class {i}" for i in range(1, 301))
IDS = ("a", "b")


def target_of(identifier):
    labels = np.zeros((24, 32), np.uint16)
    labels[4:12, 6:20] = 255 if identifier == "a" else 256
    labels[14:20, 6:20] = 300
    labels[0] = 65535
    return labels


@pytest.fixture
def data(tmp_path):
    """A manifest of two pictures with masks of 16 bits, and their class names."""
    rows = []
    for identifier in IDS:
        (tmp_path / f"{identifier}.mask.png").write_bytes(encode_label_png(target_of(identifier)))
        picture = np.random.default_rng(ord(identifier)).integers(0, 256, (24, 32, 3)).astype(np.uint8)
        Image.fromarray(picture).save(tmp_path / f"{identifier}.jpg")
        rows.append({"id": identifier, "image": f"{identifier}.jpg", "mask": f"{identifier}.mask.png",
                     "tags": ["class 300"]})
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "classes.txt").write_text("".join(f"{name}\n" for name in NAMES))
    return tmp_path / "list.jsonl"


def test_png_of_16_bits_is_grey_and_reads_back():
    labels = np.uint16([[0, 1, 254, 255, 256, 65534, 65535]])
    data = encode_label_png(labels, image="x.jpg")
    picture = Image.open(io.BytesIO(data))
    assert (data[24], data[25]) == (16, 0)
    assert picture.mode in ("I;16", "I")
    np.testing.assert_array_equal(np.asarray(picture), labels)
    found = read_label_png(data, "memory")
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, labels)


def test_label_images_lie_in_memory_in_any_order():
    labels = np.arange(12, dtype=np.uint16).reshape(3, 4) * 300
    for turned in (labels.T, labels[::-1, ::2], labels.astype(np.uint8).T):
        np.testing.assert_array_equal(read_label_png(encode_label_png(turned)), turned)


@pytest.mark.parametrize(("dtype", "classes"), [(np.uint8, 20), (np.uint8, 254), (np.uint16, 300), (np.uint16, 65534)])
def test_values_are_classes_or_the_ignore_label(dtype, classes):
    names, ignored = range(classes), np.iinfo(dtype).max
    check_label_values(np.array([[0, 1, classes, ignored]], dtype), names, "x")
    check_label_values(np.empty((0, 3), dtype), names, "x")
    if classes + 1 < ignored:
        with pytest.raises(InputError, match=f"unknown label values: {classes + 1};"):
            check_label_values(np.array([[0, classes + 1, ignored]], dtype), names, "x")


def test_type_follows_the_classes_and_the_ignore_label_the_type():
    np.testing.assert_array_equal(as_label_type(np.uint8([0, 7, 255]), 300), np.uint16([0, 7, 65535]))
    narrow = as_label_type(np.uint16([0, 7, 65535]), 20)
    assert narrow.dtype == np.uint8 and narrow.tolist() == [0, 7, 255]
    # 255 of two bytes is a class, and is not mistaken for the ignore label.
    wrong = as_label_type(np.uint16([[0, 255]]), 20)
    with pytest.raises(InputError, match="unknown label values: 255"):
        check_label_values(wrong, NAMES[:20], "mask")
    check_label_values(np.uint16([[0, 255, 300, 65535]]), NAMES, "mask")
    with pytest.raises(InputError, match="unknown label values: 301"):
        check_label_values(np.uint16([[301]]), NAMES, "mask")
    with pytest.raises(InputError, match="at most 65534"):
        check_class_names([str(i) for i in range(65535)], "list")


def test_colours_of_wide_labels():
    colors = colorize(np.uint16([[0, 1, 254, 255, 508, 65535]]))[0]
    np.testing.assert_array_equal(colors, shown_palette()[[0, 1, 254, 1, 254, 255]])


@pytest.mark.parametrize("name", ["labels", "labels.tar"])
def test_label_folders_and_streams(tmp_path, name):
    with open_sink(str(tmp_path / name), Header("labels", NAMES)) as sink:
        for identifier in IDS:
            sink.write(LabelRecord(identifier, target_of(identifier)))
        with pytest.raises(InputError, match="uint8.*uint16"):
            sink.write(LabelRecord("narrow", np.zeros((2, 2), np.uint8)))
    with open_records(tmp_path / name) as source:
        for record in source.records():
            assert record.labels.dtype == np.uint16
            np.testing.assert_array_equal(record.labels, target_of(record.id))


@pytest.mark.parametrize("name", ["maps.h5", "maps.tar"])
@pytest.mark.parametrize("number", [300, 20_000])
def test_map_files_and_streams(tmp_path, name, number):
    names = tuple(f"a class of a long name {i}" for i in range(number))
    values = np.random.default_rng(0).integers(0, 256, (2, 4, 5)).astype(np.uint8)
    with open_sink(str(tmp_path / name), Header("localization-maps", names)) as sink:
        sink.write(MapRecord("x", values, (7, number), (4, 5)))
    with open_records(tmp_path / name) as source:
        (record,) = source.records()
        assert (source.header.class_names, record.labels) == (names, (7, number))
        np.testing.assert_array_equal(record.values, values)


def test_maps_become_labels_become_scores(drs, data, tmp_path):
    maps, labels = tmp_path / "maps.h5", tmp_path / "labels"
    with open_sink(str(maps), Header("localization-maps", NAMES)) as sink:
        for identifier in IDS:
            target = target_of(identifier)
            present = [255 if identifier == "a" else 256, 300]
            values = np.stack([target == label for label in present]).astype(np.uint8) * 255
            sink.write(MapRecord(identifier, values, tuple(present), target.shape))
    assert drs("pseudo-label", maps, "--background", "constant", "-o", labels).code == 0
    assert read_label_png(labels / "a.png").max() == 300
    line = ("--data", data, "--classes", tmp_path / "classes.txt", "--json")
    for source, more in ((labels, ()), (maps, ("--background", "constant")), (labels, ("--boundary",))):
        told = drs("eval", source, *line, *more).json()
        assert told["mean_iou"] == 1
        assert told["protocol"]["ignore_label"] == 65535
        assert len(told["absent_classes"]) == 297
        assert sorted(pair[:2] for pair in told["confusion"]["pairs"]) == [[0, 0], [255, 255], [256, 256], [300, 300]]
    swept = drs("eval", maps, *line, "--sweep", "constant").json()
    assert swept["best"]["mean_iou"] == 1
    figures = drs("overlay", "--data", data, "--labels", labels, "-o", tmp_path / "figures")
    assert figures.code == 0, figures.err
    assert Image.open(tmp_path / "figures" / "a_pred.png").mode == "RGB"


def test_thousands_of_classes_are_counted_without_a_table():
    random = np.random.default_rng(0)
    names = [f"class {i}" for i in range(60_000)]
    target, prediction = random.integers(0, 60_001, (2, 40, 50)).astype(np.uint16)
    prediction[:20] = target[:20]
    matrix = ConfusionMatrix(names)
    matrix.update(target, prediction)
    scores = matrix.scores()
    hits = (target == prediction).sum()
    assert scores.overall_acc == pytest.approx(hits / target.size)
    label = int(target[0, 0])
    inter = ((target == label) & (prediction == label)).sum()
    assert scores.classes[label].iou == inter / ((target == label) | (prediction == label)).sum()
    assert len(scores.absent) == 60_001 - np.unique([target, prediction]).size


def test_coco_of_many_categories(tmp_path):
    path = tmp_path / "instances.json"
    square = [0, 0, 2, 0, 2, 2, 0, 2]
    path.write_text(json.dumps({
        "images": [{"id": 1, "file_name": "x.jpg", "height": 3, "width": 4}],
        "categories": [{"id": i, "name": name} for i, name in enumerate(NAMES)],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 299, "segmentation": [square], "iscrowd": 0}]}))
    target = CocoMask(path, "1").rasterize()
    assert target.dtype == np.uint16
    assert target.tolist() == [[300, 300, 0, 0], [300, 300, 0, 0], [0, 0, 0, 0]]
    part = CocoMask(path, "1", NAMES[:260]).rasterize()
    assert part[0, 0] == 65535


def test_segmenter_learns_and_writes_wide_labels(drs, data, tmp_path):
    labels = tmp_path / "labels"
    with open_sink(str(labels), Header("labels", NAMES)) as sink:
        for identifier in IDS:
            sink.write(LabelRecord(identifier, target_of(identifier)))
    small = ("--backbone", "vgg16-small", "--init", "none", "--epochs", "1", "--image-size", "32")
    classes = ("--classes", tmp_path / "classes.txt")
    outcome = drs("train-seg", "--data", data, *classes, "--labels", labels, *small, "-o", tmp_path / "seg.pt")
    assert outcome.code == 0, outcome.err
    made = drs("segment", "--data", data, "--weights", tmp_path / "seg.pt", "-o", tmp_path / "pred")
    assert made.code == 0, made.err
    assert read_label_png(tmp_path / "pred" / "a.png").dtype == np.uint16
