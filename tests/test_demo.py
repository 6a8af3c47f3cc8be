"""The demo dataset: reproducible, well-formed, and of the make-up it promises."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drstool.data import open_dataset
from drstool.data.decoding import load_image, load_target
from drstool.demo import CLASS_NAMES, render_picture
from drstool.demo.sprites import Sprite, disc, ellipse, hsv, polygon, tube
from drstool.errors import UsageError
from drstool.formats.label_png import read_label_png
from drstool.labels import IGNORE, check_label_values, label_of
from drstool.stages.demo import render_demo

TRAIN, VAL, SIZE = 8, 4, 96


def _digests(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    render_demo(folder, seed=3, train=TRAIN, val=VAL, size=SIZE)
    return folder


@pytest.fixture(scope="module")
def pictures() -> list:
    return [render_picture(0, index, 128) for index in range(24)]


def test_bytes_do_not_depend_on_workers(demo: Path, tmp_path: Path) -> None:
    render_demo(tmp_path, seed=3, train=TRAIN, val=VAL, size=SIZE, workers=3)
    assert _digests(demo) == _digests(tmp_path)


def test_seed_changes_every_picture(demo: Path, tmp_path: Path) -> None:
    render_demo(tmp_path, seed=4, train=TRAIN, val=VAL, size=SIZE)
    one, other = _digests(demo), _digests(tmp_path)
    images = [name for name in one if name.startswith("JPEGImages")]
    assert len(images) == TRAIN + VAL
    assert all(one[name] != other[name] for name in images)


def test_a_picture_does_not_depend_on_how_many_there_are(demo: Path, tmp_path: Path) -> None:
    render_demo(tmp_path, seed=3, train=2, val=0, size=SIZE)
    one, other = _digests(demo), _digests(tmp_path)
    name = "JPEGImages/demo_000001.jpg"
    assert one[name] == other[name]
    assert (tmp_path / "ImageSets/Segmentation/val.txt").read_text() == ""


def test_it_is_a_dataset_of_the_voc_kind(demo: Path) -> None:
    counts = {"train": TRAIN, "val": VAL, "trainval": TRAIN + VAL}
    for split, count in counts.items():
        dataset = open_dataset(str(demo), split)
        assert len(dataset.items) == count
        assert dataset.class_names == CLASS_NAMES
        assert dataset.tags_source == "list"


def test_masks_boxes_and_tags_agree(demo: Path) -> None:
    for item in open_dataset(str(demo), "trainval").items:
        size = load_image(item.image).shape[:2]
        labels = load_target(item, size)
        check_label_values(labels, CLASS_NAMES, item.id)
        assert (labels == IGNORE).any()
        shown = {CLASS_NAMES[value - 1] for value in np.unique(labels) if 0 < value < IGNORE}
        assert shown == set(item.tags)
        root = ElementTree.parse(demo / "Annotations" / f"{item.id}.xml").getroot()
        assert root.findtext("filename") == f"{item.id}.jpg"
        assert (int(root.findtext("size/height")), int(root.findtext("size/width"))) == size
        boxed = np.zeros(size, bool)
        for thing in root.iter("object"):
            assert thing.findtext("name") in item.tags
            left, top, right, bottom = (
                int(thing.findtext(f"bndbox/{end}")) for end in ("xmin", "ymin", "xmax", "ymax"))
            assert 1 <= left <= right <= size[1] and 1 <= top <= bottom <= size[0]
            boxed[top - 1: bottom, left - 1: right] = True
        assert boxed[(labels > 0) & (labels < IGNORE)].all()


def test_label_png_has_voc_colors(demo: Path) -> None:
    path = demo / "SegmentationClass" / "demo_000000.png"
    with Image.open(path) as image:
        assert image.mode == "P"
        assert image.getpalette()[3:6] == [128, 0, 0]
    assert read_label_png(path).dtype == np.uint8


def test_tag_list_counts_classes_from_0(demo: Path) -> None:
    lines = (demo / "ImageSets/Segmentation/train_cls.txt").read_text().splitlines()
    first = lines[0].split()
    assert first[0] == "demo_000000"
    assert "0" in first[1:]  # the first creature of the first picture is of the first class
    assert (demo / "classes.txt").read_text().split() == list(CLASS_NAMES)
    text = (demo / "README.txt").read_text()
    assert "beetle" in text and "saliency_map/ID.png" in text


def test_every_class_comes_early(pictures: list) -> None:
    seen = {name for picture in pictures[: len(CLASS_NAMES)] for name, _ in picture.objects}
    assert seen == set(CLASS_NAMES)
    assert {len(picture.objects) for picture in pictures} == {1, 2, 3}


def test_sides_vary_around_the_size(pictures: list) -> None:
    sides = np.array([picture.image.shape[:2] for picture in pictures])
    assert sides.min() >= 128 * 10 / 11 - 1 and sides.max() <= 128 * 12 / 11 + 1
    assert len(np.unique(sides)) > 3


def test_striking_parts_are_small_and_on_objects(pictures: list) -> None:
    shares = []
    for picture in pictures:
        assert not (picture.striking & (picture.labels == 0)).any()
        shares.append(picture.striking.sum() / (picture.labels != 0).sum())
    assert 0.08 < np.mean(shares) < 0.25
    assert min(shares) > 0.03


def test_objects_stand_off_the_ground_mostly(pictures: list) -> None:
    gaps = []
    for picture in pictures:
        image = picture.image.astype(float)
        body = (picture.labels != 0) & (picture.labels != IGNORE) & ~picture.striking
        gaps.append(np.abs(image[body].mean(0) - image[picture.labels == 0].mean(0)).max())
    assert np.mean(np.array(gaps) > 20) > 0.75


def test_outline_is_thin_and_around_every_object(pictures: list) -> None:
    for picture in pictures:
        objects = (picture.labels != 0) & (picture.labels != IGNORE)
        beside = np.zeros_like(objects)
        beside[1:] |= objects[:-1]
        beside[:-1] |= objects[1:]
        assert not (beside & (picture.labels == 0)).any()  # a ring lies between
        assert (picture.labels == IGNORE).mean() < 0.2


@pytest.mark.parametrize("name", CLASS_NAMES)
def test_label_of_a_class_is_its_place_in_the_list(name: str, pictures: list) -> None:
    label = label_of(CLASS_NAMES.index(name))
    for picture in pictures:
        named = name in {thing for thing, _ in picture.objects}
        assert named == (picture.labels == label).any()


@pytest.mark.parametrize(("setting", "value"), [
    ("seed", -1), ("train", 0), ("val", -1), ("size", 10),
])
def test_impossible_settings(tmp_path: Path, setting: str, value: int) -> None:
    with pytest.raises(UsageError, match=setting):
        render_demo(tmp_path, **{setting: value})
    assert not list(tmp_path.iterdir())


def test_progress_is_told_of_each_picture(tmp_path: Path) -> None:
    told = []

    def track(items, description, total):
        for item in items:
            told.append((description, total))
            yield item

    render_demo(tmp_path, train=2, val=1, size=48, track=track)
    assert len(told) == 3 and told[0][1] == 3


@pytest.mark.parametrize(("shape", "inside", "outside"), [
    (disc(1, 2, 0.5), (1.4, 2), (1.6, 2)),
    (ellipse(0, 0, 2, 0.5), (1.9, 0), (0, 0.6)),
    (ellipse(0, 0, 2, 0.5, np.pi / 2), (0, 1.9), (0.6, 0)),
    (tube([(0, 0), (2, 0)], [0.5, 0.1]), (0, 0.45), (2, 0.2)),
    (polygon((0, 0), (2, 0), (0, 2)), (0.5, 0.5), (1.5, 1.5)),
    (polygon((0, 2), (2, 0), (0, 0)), (0.5, 0.5), (1.5, 1.5)),
])
def test_shapes_are_negative_inside(shape, inside, outside) -> None:
    x, y = np.array([[inside[0], outside[0]]]), np.array([[inside[1], outside[1]]])
    distance = shape.distance(x, y)[0]
    assert distance[0] < 0 < distance[1]


@pytest.mark.parametrize("turn", [0.0, 1.0, 4.0])
@pytest.mark.parametrize("mirror", [False, True])
def test_a_sprite_covers_a_shapes_area_however_it_lies(turn: float, mirror: bool) -> None:
    sprite = Sprite(20, turn, mirror, reach=2)
    sprite.draw(disc(0.7, 0.4, 0.5), hsv(0.0, 1.0, 1.0))
    rgb, alpha, striking = sprite.reduced()
    assert alpha.sum() == pytest.approx(np.pi * 10**2, rel=0.02)
    # The edge has the colour itself, not a mixture with what is not there.
    np.testing.assert_allclose(rgb[alpha > 0.1], np.broadcast_to([1, 0, 0], rgb[alpha > 0.1].shape),
                               atol=1e-5)
    assert not striking.any()


@pytest.mark.parametrize(("hue", "expected"), [
    (0, (1, 0, 0)), (1 / 3, (0, 1, 0)), (2 / 3, (0, 0, 1)), (-1 / 3, (0, 0, 1)), (1.0, (1, 0, 0)),
])
def test_hsv(hue: float, expected: tuple) -> None:
    assert hsv(hue, 1, 1) == pytest.approx(np.array(expected), abs=1e-6)
    assert hsv(hue, 0, 0.5) == pytest.approx(np.full(3, 0.5))


def test_neither_stage_imports_torch() -> None:
    code = ("import sys, drstool.stages.demo, drstool.stages.saliency; "
            "sys.exit('torch' in sys.modules)")
    subprocess.run([sys.executable, "-c", code], check=True)
