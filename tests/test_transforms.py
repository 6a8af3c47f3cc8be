"""Training samples: images stay paired with what is learned from them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from drstool.artifacts.header import Header
from drstool.data import transforms
from drstool.data.item import Dataset, Item
from drstool.data.transforms import (
    ClassifierSamples, RefinerSamples, SegmenterSamples, image_tensor, strongest_only, tag_vector, warp,
)
from drstool.errors import InputError
from drstool.formats.label_png import encode_label_png
from drstool.formats.map_file import MapFileWriter
from drstool.formats.records import MapRecord
from drstool.recipe import ClassifierRecipe, RefinerRecipe, SegmenterRecipe
from drstool.stages.train_seg import _loss as segmenter_loss

CLASSES = ("cat", "dog", "cow")
CALM = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
# The colour of each label in the pictures below; label 0 is grey.
COLORS = np.array([[128, 128, 128], [250, 0, 0], [0, 250, 0], [0, 0, 250]], dtype=np.uint8)


def scene():
    """A label image (64, 48) with nothing symmetric about it."""
    labels = np.zeros((64, 48), np.uint8)
    labels[4:30, 3:20] = 1
    labels[34:60, 8:40] = 2
    labels[6:20, 28:44] = 3
    return labels


@pytest.fixture
def dataset(tmp_path):
    Image.fromarray(COLORS[scene()]).save(tmp_path / "a.png")
    return Dataset((Item("a", tmp_path / "a.png", tags=("cat", "dog", "cow")),), CLASSES, "data", "manifest")


def test_strongest_only():
    maps = np.array([[[3, 5, 0]], [[4, 5, 0]], [[1, 2, 0]]], np.uint8)
    found = strongest_only(maps)
    assert found.tolist() == [[[0, 5, 0]], [[4, 5, 0]], [[0, 0, 0]]]
    assert found.dtype == np.uint8
    assert strongest_only(maps[:0]).shape == (0, 1, 3)


def test_tag_vector():
    item = Item("a", "a.jpg", tags=("cat", "cow"))
    assert tag_vector(item, CLASSES).tolist() == [1, 0, 1]
    assert tag_vector(Item("a", "a.jpg"), CLASSES).tolist() == [0, 0, 0]
    assert tag_vector(item, CLASSES).dtype == torch.float32


def test_image_tensor_and_warp():
    image = Image.fromarray(COLORS[scene()])
    assert image_tensor(image).shape == (3, 64, 48)
    assert image_tensor(image)[:, 5, 4].tolist() == [250, 0, 0]
    assert warp(image, 20).size == (20, 20)


def close_to(pixels, color):
    return (pixels.int() - torch.tensor(color, dtype=torch.int32)[:, None, None]).abs().amax(dim=0) < 40


# --- classifier ----------------------------------------------------------------------------------


def test_classifier_crop_is_a_part_of_the_warped_image(dataset):
    recipe = ClassifierRecipe(image_size=32, resize_size=40, flip=0.5, **CALM)
    samples = ClassifierSamples(dataset, CLASSES, recipe, seed=3)
    warped = image_tensor(warp(Image.open(dataset.items[0].image), 40))
    places = set()
    for epoch in range(40):
        name, pixels, tags = samples[(epoch, 0)]
        assert (name, tags.tolist()) == ("a", [1, 1, 1])
        found = [
            (flipped, top, left) for flipped, whole in enumerate((warped, warped.flip(2)))
            for top in range(9) for left in range(9)
            if torch.equal(whole[:, top:top + 32, left:left + 32], pixels)]
        assert len(found) == 1
        places.add(found[0])
    assert {flipped for flipped, _, _ in places} == {0, 1}
    assert {top for _, top, _ in places} >= {0, 8} and {left for _, _, left in places} >= {0, 8}
    assert torch.equal(samples[(7, 0)][1], samples[(7, 0)][1])


def test_jitter_changes_colours_only_as_far_as_asked(dataset):
    calm = ClassifierRecipe(image_size=32, resize_size=32, flip=0.0, **CALM)
    still = ClassifierSamples(dataset, CLASSES, calm, 0)[(0, 0)][1].float()
    bright = ClassifierSamples(dataset, CLASSES, replace(calm, brightness=0.3), 0)
    ratios = [(bright[(epoch, 0)][1].float().mean() / still.mean()).item() for epoch in range(30)]
    assert max(ratios) > 1.05 and min(ratios) < 0.85
    assert max(ratios) < 1.31 and min(ratios) > 0.69


@pytest.fixture
def factors(monkeypatch):
    """What images are changed by, as (name, amount), in the order of the changes."""
    seen = []
    for name in ("brightness", "contrast", "saturation", "hue"):
        def change(image, amount, name=name):
            seen.append((name, amount))
            return image

        monkeypatch.setattr(transforms.tv, f"adjust_{name}", change)
    return seen


@pytest.mark.parametrize(("name", "width", "low", "high"), [
    ("brightness", 0.3, 0.7, 1.3), ("contrast", 0.2, 0.8, 1.2), ("saturation", 1.5, 0.0, 2.5), ("hue", 0.1, -0.1, 0.1)])
def test_jitter_is_even_between_its_limits(dataset, factors, name, width, low, high):
    """torchvision's ColorJitter: factors in 1 ± width, not below 0; a shift of hue in ± width."""
    recipe = replace(ClassifierRecipe(image_size=32, resize_size=32, **CALM), **{name: width})
    samples = ClassifierSamples(dataset, CLASSES, recipe, 0)
    for epoch in range(200):
        samples[(epoch, 0)]
    assert [found for found, _ in factors] == [name] * 200
    amounts = np.array([amount for _, amount in factors])
    margin = 0.04 * (high - low)
    assert low <= amounts.min() < low + margin and high - margin < amounts.max() <= high
    assert abs(np.median(amounts) - (low + high) / 2) < 3 * margin


def test_jitter_comes_in_any_order(dataset, factors):
    samples = ClassifierSamples(dataset, CLASSES, ClassifierRecipe(image_size=32), 0)
    for epoch in range(100):
        samples[(epoch, 0)]
    orders = {tuple(name for name, _ in factors[i:i + 4]) for i in range(0, 400, 4)}
    assert all(len(set(order)) == 4 for order in orders)
    assert len(orders) > 15


def test_warping_mixes_neighbours():
    image = Image.fromarray(np.uint8([[[0] * 3, [200] * 3]] * 2))
    row = image_tensor(warp(image, 4))[0, 0].tolist()
    assert row == sorted(row) and 0 < row[1] < row[2] < 200


# --- refiner -------------------------------------------------------------------------------------


def map_file(path, values, labels):
    record = MapRecord("a", values, labels, (64, 48), "a.png")
    with MapFileWriter(path, Header("localization-maps", CLASSES, ())) as writer:
        writer.write(record)
    return path


def test_refiner_targets_follow_their_image(tmp_path, dataset):
    labels = scene()
    values = np.stack([np.where(labels == label, 200, 10) for label in (1, 3)]).astype(np.uint8)
    path = map_file(tmp_path / "maps.h5", values, (1, 3))
    samples = RefinerSamples(dataset, path, RefinerRecipe(image_size=48, flip=0.5, **CALM), seed=0)
    seen = set()
    for epoch in range(12):
        _, pixels, target = samples[(epoch, 0)]
        assert target.shape == (3, 48, 48) and target.dtype == torch.uint8
        assert not target[1].any()
        for channel in (0, 2):
            object_ = target[channel] > 150
            assert object_.sum() > 100
            # Bilinear borders aside, where the map is high there is the class's colour.
            assert close_to(pixels, COLORS[channel + 1])[object_].float().mean() > 0.85
            assert not target[2 - channel][object_].any()
        seen.add(bool(target[0][:, :24].sum() > target[0][:, 24:].sum()))
    assert seen == {True, False}


@pytest.mark.parametrize("dtype", [np.uint8, np.float16])
def test_refiner_target_values(tmp_path, dataset, dtype):
    values = np.array([[[0, 255], [51, 102]], [[100, 0], [0, 255]]], np.uint8)
    stored = values if dtype == np.uint8 else (values / 255).astype(np.float16)
    path = map_file(tmp_path / "maps.h5", stored, (1, 3))
    samples = RefinerSamples(dataset, path, RefinerRecipe(image_size=32, flip=0.0), seed=0)
    target = samples[(0, 0)][2]
    scaled = F.interpolate(
        torch.from_numpy(values[None].astype(np.float32)), size=(32, 32), mode="bilinear", align_corners=True)[0]
    expected = scaled * (scaled >= scaled.flip(0))
    clear = (scaled[0] - scaled[1]).abs() > 1
    for channel, row in ((0, 0), (2, 1)):
        assert (target[channel].float() - expected[row])[clear].abs().max() <= 0.6
    assert not target[1].any()


def test_image_without_class_has_an_empty_target(tmp_path, dataset):
    path = map_file(tmp_path / "maps.h5", np.zeros((0, 5, 5), np.uint8), ())
    samples = RefinerSamples(dataset, path, RefinerRecipe(image_size=32), seed=0)
    assert not samples[(0, 0)][2].any()


def test_refiner_needs_every_map(tmp_path, dataset):
    path = map_file(tmp_path / "maps.h5", np.zeros((0, 5, 5), np.uint8), ())
    more = replace(dataset, items=(*dataset.items, Item("b", "b.png")))
    with pytest.raises(InputError, match="'b'"):
        RefinerSamples(more, path, RefinerRecipe(), seed=0)


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_mirroring_never_and_always(tmp_path, dataset, labels, flip):
    """Of image and target alike, in all three trainings."""
    image = image_tensor(Image.open(dataset.items[0].image))
    turned = image.flip(2) if flip else image
    values = np.uint8([scene() * 80])
    path = map_file(tmp_path / "maps.h5", values, (1,))
    for samples in (
        ClassifierSamples(dataset, CLASSES, ClassifierRecipe(image_size=32, resize_size=32, flip=flip, **CALM), 0),
        RefinerSamples(dataset, path, RefinerRecipe(image_size=32, flip=flip, **CALM), 0),
    ):
        expected = image_tensor(warp(Image.open(dataset.items[0].image), 32))
        for epoch in range(8):
            pixels = samples[(epoch, 0)][1]
            # Mirroring and resizing may differ by a rounding.
            assert (pixels.int() - (expected.flip(2) if flip else expected).int()).abs().max() <= 1
    target = samples[(0, 0)][2][0].int()
    expected = F.interpolate(
        torch.from_numpy(values[None].astype(np.float32)), (32, 32), mode="bilinear", align_corners=True)[0, 0]
    assert (target - (expected.flip(1) if flip else expected)).abs().max() <= 0.51
    recipe = SegmenterRecipe(image_size=64, scale_min=1.0, scale_max=1.0, flip=flip)
    for epoch in range(8):
        _, pixels, label = SegmenterSamples(dataset, labels, CLASSES, recipe, 0)[(epoch, 0)]
        inside = (label[0] != 255).nonzero().flatten()
        assert torch.equal(pixels[:, :, inside], turned)
        assert np.array_equal(label[:, inside], scene()[:, ::-1] if flip else scene())


# --- segmenter -----------------------------------------------------------------------------------


@pytest.fixture
def labels(tmp_path):
    path = tmp_path / "labels" / "a.png"
    path.parent.mkdir()
    path.write_bytes(encode_label_png(scene()))
    return {"a": path}


def test_segmenter_labels_follow_their_image(dataset, labels):
    recipe = SegmenterRecipe(image_size=40, flip=0.5)
    samples = SegmenterSamples(dataset, labels, CLASSES, recipe, seed=1)
    met, padded = set(), 0
    for epoch in range(30):
        _, pixels, label = samples[(epoch, 0)]
        assert label.shape == (40, 40) and label.dtype == torch.int64
        for value in label.unique().tolist():
            where = label == value
            if value == 255:
                padded += 1
                assert (pixels[:, where] == torch.tensor([[124], [116], [104]])).all()
            elif where.sum() > 150:
                met.add(value)
                assert close_to(pixels, COLORS[value])[where].float().mean() > 0.75
    assert met == {0, 1, 2, 3}
    assert 0 < padded < 30


def test_small_image_lies_whole_in_its_padding(dataset, labels):
    recipe = SegmenterRecipe(image_size=80, scale_min=1.0, scale_max=1.0, flip=0.0)
    samples = SegmenterSamples(dataset, labels, CLASSES, recipe, seed=1)
    corners = set()
    for epoch in range(12):
        _, pixels, label = samples[(epoch, 0)]
        rows, columns = torch.nonzero(label != 255, as_tuple=True)
        top, left = rows.min().item(), columns.min().item()
        corners.add((top, left))
        inside = (slice(top, top + 64), slice(left, left + 48))
        assert np.array_equal(label[inside], scene())
        assert np.array_equal(pixels[(slice(None), *inside)].permute(1, 2, 0), COLORS[scene()])
        assert (label != 255).sum() == 64 * 48
    assert len(corners) > 4


@pytest.mark.parametrize(("low", "high"), [(0.5, 2.0), (0.75, 1.25)])
def test_scales_are_even_between_their_limits(dataset, labels, monkeypatch, low, high):
    """Authors' code: side lengths are cut off, not rounded."""
    sizes, true = [], transforms._window
    monkeypatch.setattr(transforms, "_window", lambda size, *rest: sizes.append(size) or true(size, *rest))
    samples = SegmenterSamples(
        dataset, labels, CLASSES, SegmenterRecipe(image_size=40, scale_min=low, scale_max=high), seed=0)
    for epoch in range(200):
        samples[(epoch, 0)]
    scales = np.array([height / 64 for _, height in sizes])
    margin = 0.04 * (high - low) + 1 / 64
    assert low <= scales.min() + 1 / 64 and scales.min() < low + margin
    assert high - margin < scales.max() <= high
    assert abs(np.median(scales) - (low + high) / 2) < 3 * margin
    assert {width - int(height * 48 / 64) for width, height in sizes} <= {0, 1}


def test_scaled_sides_are_cut_off(dataset, labels, monkeypatch):
    sizes, true = [], transforms._window
    monkeypatch.setattr(transforms, "_window", lambda size, *rest: sizes.append(size) or true(size, *rest))
    for scale in (0.99, 0.01):
        recipe = SegmenterRecipe(image_size=40, scale_min=scale, scale_max=scale)
        SegmenterSamples(dataset, labels, CLASSES, recipe, seed=0)[(0, 0)]
    assert sizes == [(47, 63), (1, 1)]


def test_scaled_labels_are_labels(dataset, labels):
    recipe = SegmenterRecipe(image_size=40, scale_min=0.7, scale_max=0.7)
    samples = SegmenterSamples(dataset, labels, CLASSES, recipe, seed=0)
    found = torch.cat([samples[(epoch, 0)][2].flatten() for epoch in range(5)]).unique().tolist()
    assert found == [0, 1, 2, 3, 255]


@pytest.mark.parametrize(("length", "places"), [
    (43, {0, 1, 2, 3}), (41, {0, 1}), (40, {0}), (39, {-1, 0}), (37, {-3, -2, -1, 0})])
def test_windows_reach_both_edges(length, places):
    """Of images larger than the window, and in the padding of smaller ones."""
    random = np.random.default_rng(0)
    windows = [transforms._window((length, 40), 40, random) for _ in range(60)]
    assert {left for left, *_ in windows} == places
    assert {(top, right - left, bottom - top) for left, top, right, bottom in windows} == {(0, 40, 40)}


def test_padding_teaches_nothing(dataset, labels):
    samples = SegmenterSamples(
        dataset, labels, CLASSES, SegmenterRecipe(image_size=80, scale_min=1.0, scale_max=1.0), seed=1)
    _, pixels, label = samples[(0, 0)]
    logits = torch.randn(1, 4, 80, 80, requires_grad=True)
    segmenter_loss(lambda images: logits, [pixels[None], label[None]]).backward()
    padding = (label == 255)[None, None].expand_as(logits)
    assert not logits.grad[padding].any()
    assert logits.grad[~padding].all()


@pytest.mark.parametrize("wrong", ["size", "value", "none"])
def test_labels_that_do_not_fit(dataset, labels, wrong):
    if wrong == "size":
        labels["a"].write_bytes(encode_label_png(np.zeros((48, 64), np.uint8)))
    elif wrong == "value":
        labels["a"].write_bytes(encode_label_png(np.full((64, 48), 4, np.uint8)))
    else:
        labels = {}
    with pytest.raises(InputError):
        SegmenterSamples(dataset, labels, CLASSES, SegmenterRecipe(image_size=40), seed=1)[(0, 0)]
