"""Exports of annotation tools, as the tools' own documentation shows them: images, tags, ground truth."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from conftest import call
from PIL import Image

from drstool.annotations.simple_yaml import read_simple_yaml
from drstool.data import load_target, open_dataset
from drstool.errors import InputError, UsageError
from drstool.stages.ids import ids

SIZE = (6, 8)
# Rows 1 to 3 and columns 1 to 3.
SQUARE = [[1, 1], [4, 1], [4, 4], [1, 4]]


def picture(path, values=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros(SIZE, np.uint8) if values is None else values).save(path)
    return path


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text if isinstance(text, str) else json.dumps(text), encoding="utf-8")
    return path


def square(value=1, size=SIZE):
    mask = np.zeros(size, np.uint8)
    mask[1:4, 1:4] = value
    return mask


def opened(path, split=None, **options):
    return open_dataset(str(path), split, **options)


def tags_of(dataset):
    return {item.id: item.tags for item in dataset.items}


def same_from_a_manifest(dataset):
    """Whether a manifest of the dataset, read again, has the same ground truth."""
    lines = "\n".join([json.dumps({"class_names": dataset.class_names}), *ids(dataset)])
    again = open_dataset("-", stdin=io.StringIO(lines))
    assert again.items == dataset.items
    for item, other in zip(again.items, dataset.items, strict=True):
        np.testing.assert_array_equal(load_target(item), load_target(other))


# --- labelme ---------------------------------------------------------------------------------------


def labelme(*shapes, flags=None, **changes):
    return {
        "version": "5.4.1", "flags": flags or {}, "imagePath": "x.jpg", "imageData": None, "imageHeight": SIZE[0],
        "imageWidth": SIZE[1], "shapes": [
            {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}, **more}
            for label, points, kind, *rest in shapes for more in (rest or [{}])], **changes}


def test_labelme(tmp_path):
    for name in ("a", "my b", "c", "d"):
        picture(tmp_path / f"{name}.jpg")
    write(tmp_path / "a.json", labelme(("dog", SQUARE, "polygon"), ("cat", [[5, 4], [8, 6]], "rectangle")))
    write(tmp_path / "my b.json", labelme(("cat", [[0, 0], [3, 3]], "line"), ("dog", SQUARE, "polygon")))
    write(tmp_path / "c.json", labelme())
    dataset = opened(tmp_path)
    assert dataset.class_names == ("cat", "dog") and dataset.tags_source == "annotations"
    # Without a file it is not annotated yet; without a shape it has no object.
    assert tags_of(dataset) == {"a": ("cat", "dog"), "c": (), "d": None, "my b": ("cat", "dog")}
    expected = square(2)
    expected[4:6, 5:8] = 1
    by_id = {item.id: item for item in dataset.items}
    np.testing.assert_array_equal(load_target(by_id["a"], SIZE), expected)
    assert load_target(by_id["c"]).shape == SIZE and not load_target(by_id["c"]).any() and by_id["d"].mask is None
    assert dataset.notices == (
        f"{tmp_path}: read as images with labelme files: 4 images, 2 classes, 2 with ground truth",
        f"{tmp_path}: images without ground truth, as some of their objects have only a box, a line or a point: 1")
    for name in ("my b", "c"):
        write(tmp_path / f"{name}.json", labelme(("cat", SQUARE, "polygon")))
    (tmp_path / "d.jpg").unlink()
    same_from_a_manifest(opened(tmp_path))


@pytest.mark.parametrize("shape, area", [
    (("cat", SQUARE, None), 9), (("cat", [[1, 1], [4, 4]], "rectangle"), 9),
    (("cat", [[4, 4], [1, 1]], "rectangle"), 9), (("cat", SQUARE, "rectangle"), 9),
    (("cat", SQUARE, "oriented_rectangle"), 9), (("cat", [[4, 3], [4, 5]], "circle"), 12),
    (("cat", [[1, 1], [3, 3]], "mask", {"mask": "PNG"}), 9), (("cat", [[6, 4], [9, 9]], "mask", {"mask": "PNG"}), 4),
])
def test_shapes_of_labelme(tmp_path, shape, area):
    buffer = io.BytesIO()
    Image.fromarray(np.ones((3, 3), bool)).save(buffer, "PNG")
    *known, more = shape if len(shape) > 3 else (*shape, {})
    if more:
        more = {"mask": base64.b64encode(buffer.getvalue()).decode()}
    picture(tmp_path / "a.jpg")
    write(tmp_path / "a.json", labelme((*known, more)))
    got = load_target(opened(tmp_path).items[0], SIZE)
    assert np.unique(got).tolist() == [0, 1] and got.sum() == area


@pytest.mark.parametrize("kind, points", [
    ("line", SQUARE[:2]), ("linestrip", SQUARE), ("point", SQUARE[:1]), ("points", SQUARE)])
def test_an_object_of_labelme_without_an_area_is_not_counted_as_background(tmp_path, kind, points):
    for name in ("a", "b"):
        picture(tmp_path / f"{name}.jpg")
    path = write(tmp_path / "a.json", labelme(("dog", SQUARE, "polygon"), ("cat", points, kind)))
    write(tmp_path / "b.json", labelme(("dog", SQUARE, "polygon"), ("_background_", points, kind)))
    dataset = opened(tmp_path)
    a, b = dataset.items
    assert (a.tags, a.mask) == (("cat", "dog"), None)
    np.testing.assert_array_equal(load_target(b, SIZE), square(1 + dataset.class_names.index("dog")))
    assert dataset.notices[1:] == (
        f"{tmp_path}: images without ground truth, as some of their objects have only a box, a line or a point: 1",)
    manifest = {"image": "a.jpg", "tags": ["cat", "dog"], "mask": path.name}
    item, = opened(write(tmp_path / "m.jsonl", json.dumps(manifest))).items
    with pytest.raises(InputError, match="has objects with only a box, a line or a point: 1; outline them"):
        load_target(item, SIZE)


def test_later_shapes_of_labelme_lie_on_top_and_its_ignore_label_is_ignored(tmp_path):
    picture(tmp_path / "a.jpg")
    whole = [[0, 0], [8, 6]]
    write(tmp_path / "a.json", labelme(
        ("cat", SQUARE, "polygon"), ("dog", whole, "rectangle"), ("__ignore__", SQUARE, "polygon")))
    write(tmp_path / "labels.txt", "__ignore__\n_background_\ndog\ncat\nemu\n")
    dataset = opened(tmp_path)
    assert dataset.class_names == ("dog", "cat", "emu")
    got = load_target(dataset.items[0], SIZE)
    assert got[0, 0] == 1 and (got[1:4, 1:4] == 255).all() and not (got == 2).any()


def test_flags_of_labelme_classify_images_without_shapes(tmp_path):
    for name, flags in (("a", {"cat": True, "dog": False, "__ignore__": False}), ("b", {"cat": False, "dog": True})):
        picture(tmp_path / f"{name}.jpg")
        write(tmp_path / f"{name}.json", labelme(flags=flags))
    dataset = opened(tmp_path)
    assert tags_of(dataset) == {"a": ("cat",), "b": ("dog",)} and dataset.items[0].mask is None
    assert "the flags that are set are taken for the tags" in dataset.notices[1]
    write(tmp_path / "b.json", labelme(("emu", SQUARE, "polygon"), flags={"blurred": True}))
    assert tags_of(opened(tmp_path)) == {"a": (), "b": ("emu",)}


@pytest.mark.parametrize("content, message", [
    ("{", "is not JSON"), ("[1]", "no list 'shapes'"), ({"shapes": 3}, "no list 'shapes'"),
    (labelme((None, SQUARE, "polygon")), "without a label"),
    (labelme(("cat", SQUARE, "spiral")), "of the type 'spiral'"),
    (labelme(("cat", [[1, float("nan")]] * 3, "polygon")), "invalid points"),
    (labelme(("cat", [[1, 2, 3]], "polygon")), "invalid points"), (labelme(("cat", None, "polygon")), "invalid points"),
])
def test_damaged_files_of_labelme(tmp_path, content, message):
    for name in ("a", "b"):
        picture(tmp_path / f"{name}.jpg")
    path = write(tmp_path / "a.json", content)
    write(tmp_path / "b.json", labelme())
    with pytest.raises(InputError, match=message) as caught:
        opened(tmp_path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content, message", [
    (labelme(("cat", SQUARE, "polygon"), imageHeight=60, imageWidth=80), "is of an image of 80 × 60 pixels"),
    (labelme(("cat", [[1, 1], [2, 2]], "mask", {"mask": "no"})), "mask that is not base64"),
    (labelme(("cat", [[1, 1], [2, 2]], "mask", {"mask": "AAAA"})), "is not a PNG"),
])
def test_ground_truth_of_labelme_that_cannot_be_drawn(tmp_path, content, message):
    picture(tmp_path / "a.jpg")
    write(tmp_path / "a.json", content)
    item, = opened(tmp_path).items
    for size in (SIZE, None):
        with pytest.raises(InputError, match=message):
            load_target(item, size)


@pytest.mark.parametrize("folder", [".", "annotations"])
def test_a_second_file_for_one_image_is_refused_and_one_of_no_image_told(tmp_path, folder):
    picture(tmp_path / "images" / "a.jpg" if folder != "." else tmp_path / "a.jpg")
    xml = "<annotation><filename>a.jpg</filename><object><name>cat</name></object></annotation>"
    for ending, of_a, of_none in (
            (".json", labelme(("cat", SQUARE, "polygon"), imagePath="..\\images\\a.jpg"), labelme(imagePath="b.jpg")),
            (".xml", xml, "<annotation/>")):
        own = write(tmp_path / folder / f"a{ending}", of_a)
        stray = write(tmp_path / folder / f"b{ending}", of_none)
        dataset = opened(tmp_path)
        assert tags_of(dataset) == {"a": ("cat",)}
        assert f"{tmp_path / folder}: files that belong to no image (1): 'b'" in dataset.notices
        copy = write(tmp_path / folder / f"copy of a{ending}", of_a)
        with pytest.raises(InputError) as caught:
            opened(tmp_path)
        assert caught.value.where == str(copy) and caught.value.what == f"is of the image 'a', and so is {own}"
        for path in (own, copy, stray):
            path.unlink()


# --- labelme2voc and CVAT ---------------------------------------------------------------------------


def test_labelme2voc(tmp_path):
    picture(tmp_path / "JPEGImages" / "a.jpg")
    picture(tmp_path / "SegmentationClassPNG" / "a.png", square(2))
    picture(tmp_path / "SegmentationClassVisualization" / "a.jpg")
    write(tmp_path / "class_names.txt", "_background_\naeroplane\nbicycle\n")
    dataset = opened(tmp_path)
    assert dataset.class_names == ("aeroplane", "bicycle") and dataset.items[0].tags is None
    np.testing.assert_array_equal(load_target(dataset.items[0], SIZE), square(2))
    # Older releases kept arrays under this name.
    write(tmp_path / "SegmentationClass" / "a.npy", "x")
    np.testing.assert_array_equal(load_target(opened(tmp_path).items[0], SIZE), square(2))


LABELMAP = "# label:color_rgb:parts:actions\nbackground:0,0,0::\nCat:48,112,32::\nDog:176,112,32::\n"


def cvat(root, mask=None, labelmap=LABELMAP):
    colors = np.uint8([[0, 0, 0], [48, 112, 32], [176, 112, 32], [224, 224, 192]])
    picture(root / "SegmentationClass" / "a.png", colors[square(2)] if mask is None else mask)
    picture(root / "SegmentationObject" / "a.png", colors[square(1)])
    write(root / "ImageSets" / "Segmentation" / "default.txt", "a\n")
    write(root / "labelmap.txt", labelmap)
    return root


def test_cvat(tmp_path):
    cvat(tmp_path)
    picture(tmp_path / "JPEGImages" / "a.png")
    dataset = opened(tmp_path)
    assert dataset.class_names == ("Cat", "Dog") and dataset.items[0].tags is None
    np.testing.assert_array_equal(load_target(dataset.items[0], SIZE), square(2))
    assert dataset.notices == (f"{tmp_path / 'labelmap.txt'}: names the classes and the colours of the masks",)
    # By name, whatever the order of the classes is.
    other = opened(tmp_path, class_names=("Dog", "Cat"))
    np.testing.assert_array_equal(load_target(other.items[0], SIZE), square(1))
    same_from_a_manifest(dataset)


@pytest.mark.parametrize("background", ["background:0,128,0", "Background:0,128,0"])
def test_the_background_of_a_labelmap_may_have_any_colour_and_place(tmp_path, background):
    colors = np.uint8([[0, 128, 0], [10, 10, 128], [224, 224, 192], [0, 0, 0]])
    values = square(1)
    values[0, :2] = 2, 3
    cvat(tmp_path, colors[values], f"bicycle:10,10,128::\n{background}::\n")
    picture(tmp_path / "JPEGImages" / "a.jpg")
    dataset = opened(tmp_path)
    expected = square(1)
    expected[0, 0] = 255
    assert dataset.class_names == ("bicycle",)
    np.testing.assert_array_equal(load_target(dataset.items[0]), expected)


def test_colours_of_a_palette_count_and_not_its_numbers(tmp_path):
    picture(tmp_path / "JPEGImages" / "a.jpg")
    cvat(tmp_path)
    path = tmp_path / "SegmentationClass" / "a.png"
    image = Image.open(path).convert("P", palette=Image.Palette.ADAPTIVE, colors=8)
    assert np.asarray(image)[0, 0] != 0
    image.save(path)
    np.testing.assert_array_equal(load_target(opened(tmp_path).items[0]), square(2))


def test_grey_masks_count_the_lines_of_a_labelmap(tmp_path):
    picture(tmp_path / "JPEGImages" / "a.jpg")
    cvat(tmp_path, square(2))
    np.testing.assert_array_equal(load_target(opened(tmp_path).items[0]), square(2))
    cvat(tmp_path, square(3))
    with pytest.raises(InputError, match="has the value 3, but .*labelmap.txt has 3 lines"):
        load_target(opened(tmp_path).items[0])
    cvat(tmp_path, square(1), "Cat:48,112,32::\nbackground:0,0,0::\n")
    with pytest.raises(InputError, match="the first line of .* is not the background"):
        load_target(opened(tmp_path).items[0])


def test_a_colour_that_is_in_no_labelmap(tmp_path):
    picture(tmp_path / "JPEGImages" / "a.jpg")
    cvat(tmp_path, np.uint8([[0, 0, 0], [1, 2, 3]])[square(1)])
    with pytest.raises(InputError, match=r"a\.png: has the colour 1,2,3, which is not in .*labelmap\.txt"):
        load_target(opened(tmp_path).items[0], SIZE)


@pytest.mark.parametrize("labelmap, message", [
    ("a:1,2::\nb:1,2,3::", "has the line 'a:1,2::'"), ("a:1,2,256::\nb:1,2,3::", "has the line 'a:1,2,256::'"),
    ("a:1,2,3::\nb:1,2,3::", "has the colour 1,2,3 twice"), ("a:1,2,3::\na:1,2,4::", "class 'a' twice"),
    ("background:0,0,0::", "names no object class"), ("a:1,2,3::\nb:::", "gives no colour for 'b'"),
])
def test_damaged_labelmaps(tmp_path, labelmap, message):
    picture(tmp_path / "JPEGImages" / "a.jpg")
    cvat(tmp_path, labelmap=labelmap)
    with pytest.raises(InputError, match=message) as caught:
        opened(tmp_path)
    assert "labelmap.txt" in str(caught.value)


def test_an_export_without_its_images(tmp_path):
    cvat(tmp_path / "task")
    with pytest.raises(InputError, match="no folder .*JPEGImages; name their folder with --images"):
        opened(tmp_path / "task")


def test_a_labelmap_as_list_of_classes(tmp_path):
    picture(tmp_path / "task" / "JPEGImages" / "a.jpg")
    cvat(tmp_path / "task")
    tags = write(tmp_path / "tags.txt", "a Dog\n")
    dataset = opened(tmp_path / "task", classes=str(tmp_path / "task" / "labelmap.txt"), tags=str(tags))
    assert dataset.class_names == ("Cat", "Dog") and tags_of(dataset) == {"a": ("Dog",)}


# --- YOLO ------------------------------------------------------------------------------------------

# 8 × 6 pixels: the square of columns and rows 1 to 3.
YOLO_SQUARE = "0.125 0.1666667 0.5 0.1666667 0.5 0.6666667 0.125 0.6666667"


def roboflow_yolo(root, yaml="train: ../train/images\nval: ../valid/images\n\nnc: 2\nnames: ['cat', 'dog']\n"):
    for split, names in (("train", ("a", "b", "c")), ("valid", ("d",))):
        for name in names:
            picture(root / split / "images" / f"{name}.jpg")
    write(root / "train/labels/a.txt", f"1 {YOLO_SQUARE}\n0 0.9 0.9 0.95 0.9 0.95 0.95\n")
    write(root / "train/labels/b.txt", "")
    write(root / "valid/labels/d.txt", f"0 {YOLO_SQUARE}\n")
    write(root / "data.yaml", yaml)
    return root


def test_yolo_of_roboflow(tmp_path):
    roboflow_yolo(tmp_path)
    dataset = opened(tmp_path, "train")
    assert dataset.class_names == ("cat", "dog") and dataset.tags_source == "annotations"
    assert tags_of(dataset) == {"a": ("cat", "dog"), "b": (), "c": ()}
    got = load_target(dataset.items[0], SIZE)
    np.testing.assert_array_equal(got == 2, square(1))
    assert load_target(dataset.items[2]).shape == SIZE and not load_target(dataset.items[2]).any()
    assert dataset.notices == (
        f"{tmp_path}: read as a YOLO export with data.yaml: 3 images, 2 classes, 3 with ground truth",
        f"{tmp_path / 'data.yaml'}: images without a file of labels (1) are taken to have no objects")
    assert tags_of(opened(tmp_path, "val")) == tags_of(opened(tmp_path, "valid")) == {"d": ("cat",)}
    assert tags_of(opened(tmp_path / "data.yaml", "val")) == {"d": ("cat",)}
    same_from_a_manifest(dataset)
    with pytest.raises(UsageError, match="has several splits: train, val; choose one"):
        opened(tmp_path)
    with pytest.raises(InputError, match="has no split 'test'; choose from train, val"):
        opened(tmp_path, "test")


@pytest.mark.parametrize("train", [
    "images/train", "[images/train]", "train.txt", "/content/datasets/x/images/train", "..\\images\\train"])
@pytest.mark.parametrize("path", ["", "path: ./ # dataset root dir\n", "path: ../datasets/coco8\n"])
def test_yolo_of_ultralytics_and_of_cvat(tmp_path, train, path):
    picture(tmp_path / "images/train/one/a.jpg")
    write(tmp_path / "labels/train/one/a.txt", f"1 {YOLO_SQUARE}\n")
    write(tmp_path / "train.txt", "data/images/train/one/a.jpg\n")
    write(tmp_path / "data.yaml", f"{path}train: {train}\nval:\nnames:\n  0: person\n  1: bicycle\n")
    dataset = opened(tmp_path)
    item, = dataset.items
    assert item.id.endswith("one/a") and item.tags == ("bicycle",)
    np.testing.assert_array_equal(load_target(item, SIZE), square(2))


def splits_of_ultralytics(root, yaml):
    for split, name in (("train", "a"), ("val", "b")):
        picture(root / "images" / split / f"{name}.jpg")
        write(root / "labels" / split / f"{name}.txt", f"1 {YOLO_SQUARE}\n")
    write(root / "data.yaml", yaml + "names: [cat, dog]\n")
    return root


@pytest.mark.parametrize("train, val", [
    ("train/images", "valid/images"), ("../train/images", "../valid/images"), ("x/train/images", "x/val/images"),
    ("/content/images", "/content/images/val"), ("images/train", "images/val")])
@pytest.mark.parametrize("path", ["", "path: /content/datasets/mine\n"])
def test_a_split_of_yolo_is_never_the_whole_dataset(tmp_path, train, val, path):
    splits_of_ultralytics(tmp_path, f"{path}train: {train}\nval: {val}\n")
    dataset = opened(tmp_path, "train")
    assert tags_of(dataset) == {"a": ("dog",)} and tags_of(opened(tmp_path, "val")) == {"b": ("dog",)}
    told = f"there is no {train}: the images of 'train' are taken from {tmp_path / 'images/train'}"
    assert any(told in notice for notice in dataset.notices) is (train != "images/train")


def test_images_of_a_split_of_yolo_that_are_not_found(tmp_path):
    splits_of_ultralytics(tmp_path, "train: train/images\ntest: test/images\n")
    assert tags_of(opened(tmp_path, "train")) == {"a": ("dog",)}
    with pytest.raises(InputError, match="cannot find the images of 'test': no test/images"):
        opened(tmp_path, "test")
    with pytest.raises(InputError, match="has no split 'images'"):
        opened(tmp_path, "images")


def test_splits_of_yolo_in_one_folder_are_told(tmp_path):
    splits_of_ultralytics(tmp_path, "train: images/train\nval: images/train\n")
    assert any("share images" in notice for notice in opened(tmp_path, "val").notices)
    write(tmp_path / "data.yaml", "train: images\nval: images/val\nnames: [cat, dog]\n")
    for split in ("train", "val"):
        assert any("share images" in notice for notice in opened(tmp_path, split).notices)
    # Not where the file says, and the same: one of them is wrong.
    write(tmp_path / "data.yaml", "train: one/val\nval: two/val\nnames: [cat, dog]\n")
    picture(tmp_path / "val" / "c.jpg")
    with pytest.raises(InputError, match="the images of 'train' are in .*val, and those of 'val' in .*val; there is"):
        opened(tmp_path, "train")


def test_two_images_of_yolo_with_one_id(tmp_path):
    roboflow_yolo(tmp_path, "train: [train/images, valid/images]\nnames: [cat, dog]\n")
    assert len(opened(tmp_path)) == 4
    picture(tmp_path / "valid/images/a.jpg")
    with pytest.raises(InputError, match="has two images 'a': .*train.*valid"):
        opened(tmp_path)


def test_boxes_of_yolo_give_tags_alone(tmp_path):
    roboflow_yolo(tmp_path)
    for name in ("train/labels/a.txt", "valid/labels/d.txt"):
        write(tmp_path / name, "1 0.5 0.5 0.2 0.2\n0 0.5 0.5 0.2 0.2 7\n")
    assert [item.mask for item in opened(tmp_path, "train").items] == [None] * 3
    # An object of which only a box is known must not count as background.
    write(tmp_path / "train/labels/a.txt", f"1 {YOLO_SQUARE}\n0 0.5 0.5 0.2 0.2\n")
    dataset = opened(tmp_path, "train")
    assert dataset.items[0].tags == ("cat", "dog")
    assert [item.mask is None for item in dataset.items] == [True, False, False]
    assert dataset.notices[-1] == (
        f"{tmp_path / 'data.yaml'}: images without ground truth, as some of their objects have only a box, a line or a "
        "point: 1")
    manifest = {"image": "train/images/a.jpg", "mask": "train/labels/a.txt#data.yaml"}
    item, = opened(write(tmp_path / "m.jsonl", json.dumps(manifest))).items
    with pytest.raises(InputError, match="has objects with only a box, a line or a point: 1; outline them"):
        load_target(item, SIZE)


def test_a_background_among_the_classes_of_yolo(tmp_path):
    roboflow_yolo(tmp_path, "train: train/images\nnames: {0: background, 1: cat}\n")
    dataset = opened(tmp_path)
    told = f"{tmp_path / 'data.yaml'}: 'background' is taken for the background; 'cat' is label 1"
    assert dataset.class_names == ("cat",) and tags_of(dataset)["a"] == ("cat",) and told in dataset.notices
    np.testing.assert_array_equal(load_target(dataset.items[0], SIZE)[:4], square(1)[:4])
    write(tmp_path / "data.yaml", "train: train/images\nnames: [cat, background]\n")
    with pytest.raises(InputError, match="lists 'background' as an object class; it may only come before the classes"):
        opened(tmp_path)


def test_numbers_beside_a_background_first_are_refused_in_every_layout(tmp_path):
    roboflow_yolo(tmp_path / "yolo", "train: train/images\nnames: [background, cat, dog]\n")
    picture(cvat(tmp_path / "cvat") / "JPEGImages" / "a.jpg")
    picture(tmp_path / "pairs" / "a.jpg")
    write(tmp_path / "pairs" / "classes.txt", "background\ncat\ndog\n")
    tags = str(write(tmp_path / "tags.txt", "a 1\n"))
    for layout in ("yolo", "cvat", "pairs"):
        with pytest.raises(InputError, match="'a' has class numbers, but the class list begins with the background"):
            opened(tmp_path / layout, tags=tags)
    write(tmp_path / "tags.txt", "a cat\n")
    assert tags_of(opened(tmp_path / "pairs", tags=tags)) == {"a": ("cat",)}


def test_keypoints_of_yolo_are_no_outlines(tmp_path):
    roboflow_yolo(tmp_path, "train: train/images\nnc: 2\nnames: [cat, dog]\nkpt_shape: [2, 2]\n")
    assert [item.mask for item in opened(tmp_path).items] == [None] * 3


def test_images_without_any_labels_of_yolo_are_not_annotated(tmp_path):
    roboflow_yolo(tmp_path)
    (tmp_path / "valid/labels/d.txt").unlink()
    dataset = opened(tmp_path, "val")
    assert tags_of(dataset) == {"d": None} and "none of the 1 images has a file of labels" in dataset.notices[-1]


@pytest.mark.parametrize("folder, names", [
    ("labels", "classes.txt"), ("labels", "labels/classes.txt"), ("images", "obj.names")])
def test_yolo_with_a_list_of_classes(tmp_path, folder, names):
    # Label Studio, labelImg, and darknet's form, which has the labels beside the images.
    picture(tmp_path / "images/a.jpg")
    write(tmp_path / folder / "a.txt", f"1 {YOLO_SQUARE}\n")
    write(tmp_path / names, "cat\ndog\n")
    write(tmp_path / "notes.json", {"categories": [{"id": 0, "name": "cat"}], "info": {}})
    dataset = opened(tmp_path)
    assert dataset.class_names == ("cat", "dog") and tags_of(dataset) == {"a": ("dog",)}
    assert dataset.notices == (
        f"{tmp_path}: read as images with YOLO labels: 1 image, 2 classes, 1 with ground truth",)
    np.testing.assert_array_equal(load_target(dataset.items[0], SIZE), square(2))
    same_from_a_manifest(dataset)
    # An image without objects may have no file.
    picture(tmp_path / "images/b.jpg")
    dataset = opened(tmp_path)
    assert tags_of(dataset) == {"a": ("dog",), "b": ()} and not load_target(dataset.items[1], SIZE).any()
    assert dataset.notices[-1].endswith("images without a file of labels (1) are taken to have no objects")
    (tmp_path / names).unlink()
    with pytest.raises(InputError, match="has YOLO labels, but nothing names their classes; add classes.txt"):
        opened(tmp_path)


def test_captions_and_other_json_are_no_annotations(tmp_path):
    picture(tmp_path / "a.jpg")
    write(tmp_path / "a.txt", "a cat on a mat\n")
    write(tmp_path / "a.json", {"camera": "x"})
    dataset = opened(tmp_path)
    assert tags_of(dataset) == {"a": None} and dataset.notices == (
        f"{tmp_path}: read as images alone: 1 image",
        f"{tmp_path}: the .json files beside the images are not labelme files, and not read",
        f"{tmp_path}: the .txt files beside the images are not YOLO labels, and not read")


@pytest.mark.parametrize("yaml, message", [
    ("train: train/images\nnc: 3\nnames: [cat, dog]\n", "has 2 names for 3 classes"),
    ("train: train/images\nnames: []\n", "does not name the classes"),
    ("train: train/images\nnames:\n  0: cat\n  2: dog\n", "has the class numbers 0, 2"),
    ("train: train/images\nnames:\n  a: cat\n  b: dog\n", "has the class numbers -1"),
    ("train: train/images\nnames: [cat, cat]\n", "names class 'cat' twice"),
    ("train: train/images\nnames: [cat]\n", r"a\.txt line 1: has the class 1, but 1 classes have names"),
    ("train: train/images\nnames: [cat, dog\n", "bracket that is not closed"),
    ("train: elsewhere/images\nnames: [cat, dog]\n", "cannot find the images of 'train': .*--images"),
])
def test_damaged_files_of_yolo(tmp_path, yaml, message):
    with pytest.raises(InputError, match=message):
        opened(roboflow_yolo(tmp_path, yaml))


@pytest.mark.parametrize("line, message", [
    ("cat 0.5 0.5 0.1 0.1", "is not a class number and coordinates"), ("1 0.5 0.5", "has 2 coordinates"),
    ("1 100 50 20 20", "outside of 0 to 1"), ("1 nan 0.5 0.5 0.5", "outside of 0 to 1"),
    ("0.5 0.5 0.5 0.1 0.1", "the class 0.5"), ("-1 0.5 0.5 0.1 0.1", "the class -1"),
    ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "has 7 coordinates"),
])
def test_damaged_lines_of_yolo(tmp_path, line, message):
    roboflow_yolo(tmp_path)
    write(tmp_path / "train/labels/a.txt", f"0 0.5 0.5 0.1 0.1\n{line}\n")
    with pytest.raises(InputError, match=message) as caught:
        opened(tmp_path, "train")
    assert "a.txt line 2" in str(caught.value)


@pytest.mark.parametrize("text, expected", [
    ("names:\n  0: it's # a\n  1: 'men''s #1'\n  2: \"stop: sign\"\n",
     {"names": {"0": "it's", "1": "men's #1", "2": "stop: sign"}}),
    ("a: [\n 'x, y',  # one\n z\n ]\nb: {0: q, 1: 'r'}\n", {"a": ["x, y", "z"], "b": {"0": "q", "1": "r"}}),
    ("---\nnames:\n- cat\n- dog\nurl: https://x.y/z#f\nempty:\n", {
        "names": ["cat", "dog"], "url": "https://x.y/z#f", "empty": ""}),
    ("names: [a]\nroboflow:\n  workspace: w\n  names: x\n", {
        "names": ["a"], "roboflow": {"workspace": "w", "names": "x"}}),
])
def test_the_yaml_that_is_understood(tmp_path, text, expected):
    assert read_simple_yaml(write(tmp_path / "x.yaml", text)) == expected


# --- COCO exports ----------------------------------------------------------------------------------


def coco(*names, category=0):
    return {
        "images": [{"id": i, "file_name": name, "height": SIZE[0], "width": SIZE[1]} for i, name in enumerate(names)],
        "categories": [{"id": i, "name": name, "supercategory": "pets" if i else "none"}
                       for i, name in enumerate(("pets", "cat", "dog"))],
        "annotations": [{"id": i, "image_id": i, "category_id": 2, "segmentation": [sum(SQUARE, [])]}
                        for i, _ in enumerate(names)],
    }


def test_coco_of_roboflow(tmp_path):
    for split, name in (("train", "a_jpg.rf.00.jpg"), ("valid", "b.jpg")):
        picture(tmp_path / split / name)
        write(tmp_path / split / "_annotations.coco.json", coco(name))
    dataset = opened(tmp_path, "train")
    assert dataset.class_names == ("cat", "dog") and tags_of(dataset) == {"a_jpg.rf.00": ("dog",)}
    np.testing.assert_array_equal(load_target(dataset.items[0]), square(2))
    assert dataset.notices[0] == (
        f"{tmp_path / 'train'}: read as a COCO export with _annotations.coco.json: 1 image, 2 classes, "
        "1 with ground truth")
    assert tags_of(opened(tmp_path, "valid")) == {"b": ("dog",)}
    with pytest.raises(UsageError, match="has several splits: train, valid; choose one"):
        opened(tmp_path)
    with pytest.raises(InputError, match="has no split 'val'; choose from train, valid"):
        opened(tmp_path, "val")


@pytest.mark.parametrize("folder", ["train2017", "images/train2017", "images"])
def test_a_folder_of_coco(tmp_path, folder):
    picture(tmp_path / folder / "a.jpg")
    write(tmp_path / "annotations/instances_train2017.json", coco("a.jpg"))
    write(tmp_path / "annotations/captions_train2017.json", {"images": [], "annotations": []})
    assert tags_of(opened(tmp_path)) == tags_of(opened(tmp_path, "train2017")) == {"a": ("dog",)}
    write(tmp_path / "annotations/instances_val2017.json", coco("v.jpg"))
    assert tags_of(opened(tmp_path, "train2017")) == {"a": ("dog",)}
    with pytest.raises(UsageError, match="has several splits: train2017, val2017; choose one"):
        opened(tmp_path)
    with pytest.raises(InputError, match="has no split 'test'; choose from train2017, val2017"):
        opened(tmp_path, "test")


def test_two_files_of_coco_and_no_way_to_tell(tmp_path):
    picture(tmp_path / "images/a.jpg")
    write(tmp_path / "first.json", coco("a.jpg"))
    write(tmp_path / "second.json", coco("a.jpg"))
    write(tmp_path / "notes.json", {"info": {}})
    with pytest.raises(InputError, match=r"has 2 COCO files: first\.json, second\.json; give one of them"):
        opened(tmp_path)
    assert tags_of(opened(tmp_path, "second")) == {"a": ("dog",)}


def test_a_coco_file_whose_images_are_elsewhere(tmp_path):
    write(tmp_path / "annotations/instances_default.json", coco("a.jpg"))
    with pytest.raises(InputError, match="cannot find its images: .*; name their folder with --images"):
        opened(tmp_path)


# --- what a user sees ------------------------------------------------------------------------------


def test_what_is_told_of_an_export(tmp_path):
    outcome = call("ids", "--data", roboflow_yolo(tmp_path), "--split", "val")
    assert outcome.code == 0 and [json.loads(line)["tags"] for line in outcome.out.splitlines()] == [["cat"]]
    told = "read as a YOLO export with data.yaml: 1 image, 2 classes, 1 with ground truth"
    assert outcome.err == f"ids: {tmp_path}: {told}\n"


# --- images elsewhere ------------------------------------------------------------------------------


def test_images_of_an_export_elsewhere(tmp_path):
    for name in ("a", "b"):
        picture(tmp_path / "photos" / f"{name}.jpg")
    images = str(tmp_path / "photos")
    export = cvat(tmp_path / "cvat")
    assert [item.id for item in opened(export, images=images).items] == ["a"]
    write(tmp_path / "lm/a.json", labelme(("cat", SQUARE, "polygon")))
    write(tmp_path / "xml/a.xml", "<annotation><object><name>cat</name></object></annotation>")
    for folder in ("lm", "xml"):
        with pytest.raises(InputError, match="has no images beside its annotations; name their folder with --images"):
            opened(tmp_path / folder)
        assert tags_of(opened(tmp_path / folder, images=images)) == {"a": ("cat",), "b": None}
    write(tmp_path / "coco/instances.json", coco("a.jpg", "b.jpg"))
    assert tags_of(opened(tmp_path / "coco", images=images)) == {"a": ("dog",), "b": ("dog",)}
    assert tags_of(opened(tmp_path / "coco/instances.json", images=images)) == {"a": ("dog",), "b": ("dog",)}
    write(tmp_path / "yolo/data.yaml", "train: train/images\nnames: [cat, dog]\n")
    write(tmp_path / "yolo/train/labels/a.txt", f"1 {YOLO_SQUARE}\n")
    assert tags_of(opened(tmp_path / "yolo", images=images)) == {"a": ("dog",), "b": ()}
    picture(tmp_path / "masks/masks/a.png", square(1))
    assert [bool(item.mask) for item in opened(tmp_path / "masks", images=images).items] == [True, False]
    with pytest.raises(UsageError, match="--images: .* says where its images are"):
        opened(tmp_path / "photos", images=images)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no image in .* has a file of the same name"):
        opened(tmp_path / "empty", images=images)
