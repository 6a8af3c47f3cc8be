"""Files that earlier releases wrote are read, with all that is in them."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from drstool.checkpoints.checkpoint import load_checkpoint
from drstool.formats import Header, open_records
from drstool.formats.label_png import read_label_png

# One of each kind; their maps carry a checksum of another sort than the maps of today.
ARCHIVE = Path(__file__).with_name("version_1.zip")
CLASSES, HISTORY = ("cat", "Kuh ä"), ({"command": "drstool cam", "used": {"tags": True}},)
MAPS = (np.arange(2 * 6 * 7).reshape(2, 6, 7) * 3 % 256).astype(np.uint8)
LABELS = (np.arange(30).reshape(5, 6) % 3).astype(np.uint8)
LABELS[0, 0] = 255


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    target = tmp_path_factory.mktemp("version_1")
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(target)
    return target


@pytest.mark.parametrize("name", ["maps.h5", "maps.tar", "pipe.tar"])
def test_maps(folder, name):
    with open_records(folder / name) as source:
        records = list(source.records())
        source.check_extent()
    assert source.header == Header("localization-maps", CLASSES, HISTORY)
    assert [record.id for record in records] == ["a", "b/ä", "none"]
    expected = [(MAPS, (1, 2), (12, 14), "a.jpg"), (MAPS[:1].astype(np.float16) / 8, (2,), (6, 7), "b/ä.jpg"),
                (np.zeros((0, 2, 3), np.uint8), (), (4, 6), "")]
    for record, (values, labels, size, image) in zip(records, expected, strict=True):
        assert record.values.dtype == values.dtype
        np.testing.assert_array_equal(record.values, values)
        assert (record.labels, record.image_size, record.image) == (labels, size, image)


@pytest.mark.parametrize("name", ["labels", "labels.tar", "saliency"])
def test_labels(folder, name):
    with open_records(folder / name) as source:
        records = list(source.records())
    kind, classes = ("saliency", ()) if name == "saliency" else ("labels", CLASSES)
    assert source.header == Header(kind, classes, HISTORY)
    assert [(record.id, record.image) for record in records] == [("a", "a.jpg"), ("b/ä", "")]
    for record, labels in zip(records, (LABELS, LABELS.T), strict=True):
        assert record.labels.dtype == np.uint8
        np.testing.assert_array_equal(record.labels, labels)


def test_label_png_of_16_bits(folder):
    labels = read_label_png(folder / "wide.png")
    assert labels.dtype == np.uint16
    assert labels.tolist() == [[0, 1, 255], [256, 300, 65535]]


def test_checkpoint(folder):
    import torch

    found = load_checkpoint(folder / "checkpoint.pt", "classifier")
    assert (found.class_names, found.architecture, found.recipe, found.provenance) == (
        CLASSES, {"backbone": "vgg16-small"}, {"lr": 0.1, "sizes": (256, 320)}, HISTORY)
    expected = {"a.weight": torch.arange(6.).reshape(3, 2), "a.bias": torch.ones(3).half(), "n": torch.tensor(3)}
    assert list(found.weights) == list(expected)
    for name, value in expected.items():
        assert found.weights[name].dtype == value.dtype
        assert torch.equal(found.weights[name], value)
