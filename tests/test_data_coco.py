"""COCO files: images, tags, polygons and run-length codes."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

from drstool.annotations.coco import CocoMask, read_rle
from drstool.annotations.drawing import rasterize_polygon
from drstool.data import load_target, open_dataset
from drstool.errors import InputError
from drstool.stages.ids import ids

SIZE = (6, 8)
SQUARE = [1, 1, 4, 1, 4, 4, 1, 4]


def picture(path, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros(size, np.uint8)).save(path)
    return path


def runs(mask):
    """Run lengths of a mask, column by column, beginning with outside."""
    flat = np.concatenate([[False], mask.T.ravel(), [not mask.T.ravel()[-1]]])
    counts = np.diff(np.concatenate([[0], np.flatnonzero(np.diff(flat)) ])).tolist()
    return counts


def compress(counts):
    """The text form of run lengths, written from the description of the format."""
    text = ""
    for index, count in enumerate(counts):
        value = count - counts[index - 2] if index > 2 else count
        while True:
            chunk, value = value & 31, value >> 5
            more = value != (-1 if chunk & 16 else 0)
            text += chr(48 + chunk + (32 if more else 0))
            if not more:
                break
    return text


def content(*annotations, **changes):
    return {
        "images": [{"id": 9, "file_name": "sub/b.png", "height": 6, "width": 8},
                   {"id": 3, "file_name": "a.png", "height": 6, "width": 8}],
        "categories": [{"id": 44, "name": "bottle"}, {"id": 1, "name": "person"}],
        "annotations": [{"id": i, "image_id": 9, "iscrowd": 0, **annotation}
                        for i, annotation in enumerate(annotations)],
        **changes,
    }


def save(tmp_path, data, name="annotations/instances_val.json", folder="val"):
    for image in ("sub/b.png", "a.png"):
        picture(tmp_path / folder / image)
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def target(tmp_path, *annotations, **options):
    dataset = open_dataset(str(save(tmp_path, content(*annotations))), **options)
    return load_target(dataset.items[0], SIZE)


def test_images_tags_and_order(tmp_path):
    path = save(tmp_path, content({"category_id": 44, "segmentation": [SQUARE]},
                                  {"category_id": 1, "segmentation": [SQUARE]},
                                  {"category_id": 44, "segmentation": [SQUARE]}))
    dataset = open_dataset(str(path))
    assert dataset.class_names == ("person", "bottle") and dataset.tags_source == "coco"
    b, a = dataset.items
    assert b.id == "sub/b" and b.tags == ("person", "bottle") and b.image.is_file()
    assert a.id == "a" and a.tags == () and str(a.mask) == f"{path}#3"
    assert (load_target(a, SIZE) == 0).all()


@pytest.mark.parametrize("name, folder, split", [
    ("annotations/instances_val.json", "val", None),
    ("annotations/instances_val.json", "images/val", None),
    ("annotations/instances_val.json", "other", "other"),
    ("annotations/x.json", "images/train", "train"),
    ("x.json", ".", None),
    ("x.json", "images", None),
    ("annotations/x.json", "images", None),
])
def test_where_the_images_lie(tmp_path, name, folder, split):
    path = save(tmp_path, content(), name, folder)
    assert all(item.image.is_file() for item in open_dataset(str(path), split).items)


def test_images_that_are_not_found(tmp_path):
    path = save(tmp_path, content())
    (tmp_path / "val" / "a.png").unlink()
    with pytest.raises(InputError, match=r"image 3: image 'a' is missing: .*a\.png"):
        open_dataset(str(path))
    (tmp_path / "val" / "sub" / "b.png").unlink()
    with pytest.raises(InputError, match="cannot find its images"):
        open_dataset(str(path))
    with pytest.raises(InputError, match="cannot find its images"):
        open_dataset(str(path), "gone")


def test_polygon_masks(tmp_path):
    expected = np.zeros(SIZE, np.uint8)
    expected[1:4, 1:4] = 2
    far = [6, 4, 8, 4, 8, 6, 6, 6]
    expected[4:6, 6:8] = 2
    np.testing.assert_array_equal(
        target(tmp_path, {"category_id": 44, "segmentation": [SQUARE, far]}), expected)


def test_smaller_objects_lie_on_top_and_crowds_are_ignored(tmp_path):
    everything = np.ones(SIZE, bool)
    got = target(
        tmp_path,
        {"category_id": 44, "segmentation": [SQUARE]},
        {"category_id": 1, "segmentation": [[0, 0, 8, 0, 8, 5, 0, 5]]},
        {"category_id": 1, "iscrowd": 1,
         "segmentation": {"size": list(SIZE), "counts": runs(everything)}},
    )
    assert (got[1:4, 1:4] == 2).all() and got[0, 0] == 1 and (got[5] == 255).all()


@pytest.mark.parametrize("form", [runs, lambda mask: compress(runs(mask))])
@pytest.mark.parametrize("seed", range(4))
def test_run_length_codes(tmp_path, form, seed):
    mask = np.random.default_rng(seed).random(SIZE) < 0.2 + 0.2 * seed
    got = target(tmp_path, {"category_id": 1,
                            "segmentation": {"size": list(SIZE), "counts": form(mask)}})
    np.testing.assert_array_equal(got, mask)


def test_compressed_long_runs():
    mask = np.zeros((400, 500), bool)
    mask[50:300, 10:480] = True
    mask[:, 499] = True
    code = {"size": [400, 500], "counts": compress(runs(mask))}
    np.testing.assert_array_equal(read_rle(code, (400, 500), "code"), mask)


def test_compressed_code_of_the_reference_implementation():
    # A 3 x 3 square at (1, 1) of 6 x 8: runs 7 3 3 3 3 3 26.
    code = {"size": [6, 8], "counts": "733000g0"}
    expected = np.zeros(SIZE, bool)
    expected[1:4, 1:4] = True
    assert compress([7, 3, 3, 3, 3, 3, 26]) == code["counts"]
    np.testing.assert_array_equal(read_rle(code, SIZE, "code"), expected)


def test_polygons_outside_the_image_are_cut():
    got = rasterize_polygon([-50, -50, 4, -50, 4, 3, -50, 3], SIZE, "p")
    expected = np.zeros(SIZE, bool)
    expected[:3, :4] = True
    np.testing.assert_array_equal(got, expected)
    assert not rasterize_polygon([100, 100, 200, 100, 200, 200], SIZE, "p").any()
    assert rasterize_polygon([-1e8, -1e8, 1e8, -1e8, 1e8, 1e8, -1e8, 1e8], SIZE, "p").all()


def test_polygon_has_the_area_of_its_shape():
    angle = np.linspace(0, 2 * np.pi, 100, endpoint=False)
    circle = np.stack([50 + 30 * np.cos(angle), 40 + 30 * np.sin(angle)], axis=1)
    for order in (1, -1):
        area = rasterize_polygon(circle[::order].ravel().tolist(), (90, 100), "p").sum()
        assert abs(area - np.pi * 900) < 30


def test_names_of_a_checkpoint(tmp_path):
    annotation = {"category_id": 44, "segmentation": [SQUARE]}
    assert target(tmp_path, annotation, class_names=("bottle", "person")).max() == 1
    with pytest.raises(InputError, match="has other classes: it also has 'bottle'"):
        target(tmp_path, annotation, class_names=("cat", "person"))


def test_manifest_of_a_coco_dataset(tmp_path):
    path = save(tmp_path, content({"category_id": 44, "segmentation": [SQUARE]}))
    dataset = open_dataset(str(path))
    again = open_dataset("-", stdin=io.StringIO("\n".join(ids(dataset))))
    assert again.items == dataset.items and again.class_names == dataset.class_names
    np.testing.assert_array_equal(load_target(again.items[0]), load_target(dataset.items[0]))
    gone = CocoMask(path, "77")
    with pytest.raises(InputError, match="has no image with the id 77"):
        gone.rasterize()


def test_boxes_alone_give_tags_but_no_masks(tmp_path):
    dataset = open_dataset(str(save(tmp_path, content({"category_id": 1, "bbox": [0, 0, 2, 2]}))))
    assert dataset.items[0].tags == ("person",) and dataset.items[0].mask is None


def test_no_annotations_no_tags(tmp_path):
    data = content()
    del data["annotations"]
    dataset = open_dataset(str(save(tmp_path, data)))
    assert dataset.items[0].tags is None and dataset.tags_source == "none"


@pytest.mark.parametrize("data, message", [
    ("{", "is not JSON"),
    ("[" * 100_000, "is not JSON"),
    ("[]", "is not a COCO file"),
    ('{"a": 1}', "is not a COCO file"),
    (content(images=[]), "lists no images"),
    (content(images=[7]), "'images' has 7"),
    (content(images=[{"file_name": "a.png"}]), "an entry without an id"),
    (content(images=[{"id": 1, "file_name": "a.png"}] * 2), "lists id 1 twice"),
    (content(images=[{"id": i, "file_name": "a.png"} for i in (1, 2)]), "lists id 'a' twice"),
    (content(images=[{"id": 1}]), "has no 'file_name'"),
    (content(images=[{"id": 1, "file_name": "../val/a.png"}]), "outside the output folder"),
    (content(categories=[]), "names no object class"),
    (content(categories=[{"id": 1}]), "category 1 has no 'name'"),
    (content(categories=[{"id": 1, "name": "a"}, {"id": "2", "name": "b"}]), "some category ids are numbers"),
    (content(categories=[{"id": i, "name": "a"} for i in (1, 2)]), "'a' twice"),
    (content({"category_id": 99}), "category 99, which is not listed"),
    (content({"category_id": 1, "image_id": 5}), "image 5, which is not listed"),
    (content({"category_id": [1]}), "which is not listed"),
    (content(annotations={}), "'annotations' is not a list"),
])
def test_bad_files(tmp_path, data, message):
    with pytest.raises(InputError, match=message) as caught:
        open_dataset(str(save(tmp_path, data)))
    assert "instances_val.json" in str(caught.value)


@pytest.mark.parametrize("segmentation, message", [
    ([[1, 1, 2]], "invalid polygon"), ([[1, 1, 2, 2, 3, "x"]], "invalid polygon"),
    ([[1, 1, 2, 2, 3, float("nan")]], "invalid polygon"), ("x", "has no segmentation"),
    ([[[1, 2], [3, 4], [5, 6]]], "invalid polygon"), ([[[1, 2], [3, 4], [5, 6], [7, 8]]], "invalid polygon"),
    ([[1, 1, 2, 2, 3, 10**400]], "invalid polygon"),
    ({"size": [8, 6], "counts": [48]}, r"'size' \[8, 6\]; its image's height and width are \[6, 8\]"),
    ({"size": [6, 8], "counts": [47]}, "invalid run-length"),
    ({"size": [6, 8], "counts": [50, -2]}, "invalid run-length"),
    ({"size": [6, 8], "counts": [24.0, 24.0]}, "invalid run-length"),
    ({"size": [6, 8]}, "invalid run-length"),
    ({"size": [6, 8], "counts": "\x01"}, "invalid run-length"),
    ({"size": [6, 8], "counts": "o" * 500}, "invalid run-length"),
])
def test_bad_segmentations(tmp_path, segmentation, message):
    with pytest.raises(InputError, match=message) as caught:
        target(tmp_path, {"category_id": 1, "segmentation": segmentation})
    assert "annotation 0" in str(caught.value)


@pytest.mark.parametrize("height", [0, -1, None, "6", 10**9])
def test_bad_sizes(tmp_path, height):
    data = content({"category_id": 1, "segmentation": [SQUARE]})
    data["images"][0]["height"] = height
    item = open_dataset(str(save(tmp_path, data))).items[0]
    with pytest.raises(InputError, match="has the size 8 × "):
        load_target(item)


@pytest.mark.parametrize("rest", [[[1, 1]], [[1, 1, 5, 5]], [[], [1, 1]], [[]], [None], None])
def test_fragments_of_polygons_are_left_out_of_the_mask_and_counted(tmp_path, rest):
    path = save(tmp_path, content(
        {"category_id": 44, "segmentation": [SQUARE, [2, 2, 3, 3]]}, {"category_id": 1, "segmentation": rest}))
    dataset = open_dataset(str(path))
    expected = np.zeros(SIZE, np.uint8)
    expected[1:4, 1:4] = 2
    np.testing.assert_array_equal(load_target(dataset.items[0], SIZE), expected)
    assert dataset.items[0].tags == ("person", "bottle")
    told, = dataset.notices
    count = 1 + len(rest or [None])
    assert told == f"{path}: polygons of fewer than three points, left out of the ground truth: {count}"


@pytest.mark.parametrize("rest", [{"segmentation": []}, {"bbox": [0, 0, 5, 5]}])
def test_an_object_with_a_box_alone_is_not_counted_as_background(tmp_path, rest):
    path = save(tmp_path, content({"category_id": 44, "segmentation": [SQUARE]}, {"category_id": 1, **rest}))
    dataset = open_dataset(str(path))
    b, a = dataset.items
    assert b.tags == ("person", "bottle") and b.mask is None and not load_target(a, SIZE).any()
    assert dataset.notices[0] == (
        f"{path}: images without ground truth, as some of their objects have only a box, a line or a point: 1")
    with pytest.raises(InputError, match="#9: has objects with only a box, a line or a point: 1; outline them"):
        CocoMask(path, "9").rasterize()


def test_nothing_but_empty_outlines_gives_no_mask(tmp_path):
    dataset = open_dataset(str(save(tmp_path, content({"category_id": 1, "segmentation": []}))))
    assert dataset.items[0].mask is None and dataset.notices == ()


def test_sizes_as_floats(tmp_path):
    data = content({"category_id": 1, "segmentation": [SQUARE]})
    data["images"][0] |= {"height": 6.0, "width": 8.0}
    assert load_target(open_dataset(str(save(tmp_path, data))).items[0], SIZE).sum() == 9
    data["images"][0]["height"] = 6.5
    with pytest.raises(InputError, match="has the size"):
        load_target(open_dataset(str(save(tmp_path, data))).items[0], SIZE)


@pytest.mark.parametrize("root, others", [
    ("animals", ("cat", "dog")), ("cat", ("cat",)),
])
def test_the_root_of_a_roboflow_export_is_no_class(tmp_path, root, others):
    categories = [{"id": 0, "name": root, "supercategory": "none"}] + [
        {"id": i, "name": name, "supercategory": root} for i, name in enumerate(others, start=1)]
    path = save(tmp_path, content({"category_id": 1, "segmentation": [SQUARE]}, categories=categories))
    dataset = open_dataset(str(path))
    assert dataset.class_names == others and dataset.items[0].tags == ("cat",)
    assert np.unique(load_target(dataset.items[0], SIZE)).tolist() == [0, 1]
    assert dataset.notices == (f"{path}: left out, not object classes: '{root}'",)


def test_a_first_category_with_objects_is_a_class(tmp_path):
    categories = [{"id": 0, "name": "animals", "supercategory": "none"},
                  {"id": 1, "name": "cat", "supercategory": "animals"},
                  {"id": 2, "name": "person", "supercategory": "person"}]
    path = save(tmp_path, content({"category_id": 0, "segmentation": [SQUARE]}, categories=categories))
    assert open_dataset(str(path)).class_names == ("animals", "cat", "person")


def test_categories_of_background_and_of_ignored_pixels(tmp_path):
    categories = [{"id": 0, "name": "_background_"}, {"id": 1, "name": "cat"}, {"id": 2, "name": "void"}]
    whole = [0, 0, 8, 0, 8, 6, 0, 6]
    path = save(tmp_path, content(
        {"category_id": 2, "segmentation": [whole]}, {"category_id": 1, "segmentation": [[0, 0, 8, 0, 8, 5, 0, 5]]},
        {"category_id": 0, "segmentation": [SQUARE]}, categories=categories))
    dataset = open_dataset(str(path))
    got = load_target(dataset.items[0], SIZE)
    assert dataset.class_names == ("cat",) and dataset.items[0].tags == ("cat",)
    assert (got[1:4, 1:4] == 0).all() and got[0, 0] == 1 and (got[5] == 255).all()
    assert dataset.notices == (f"{path}: left out, not object classes: '_background_', 'void'",)
