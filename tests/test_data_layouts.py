"""Folders that only the names of their files and subfolders explain: splits, images and masks are never classes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import call
from PIL import Image

from drstool.data import load_target, open_dataset, require_tags
from drstool.data.folder_names import meaning_of
from drstool.errors import InputError, UsageError

SIZE = (3, 4)
XML = "<annotation><object><name>{}</name><bndbox><xmin>1</xmin></bndbox></object></annotation>"


def picture(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(SIZE, value, np.uint8)).save(path)
    return path


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def pictures(root, *names):
    for name in names:
        picture(root / name)
    return root


def opened(path, split=None, **options):
    return open_dataset(str(path), split, **options)


def ids_of(dataset):
    return [item.id for item in dataset.items]


@pytest.mark.parametrize("name, meaning", [
    ("train", "split"), ("VALID", "split"), ("test2017", "split"), ("Validation", "split"), ("train_set", "split"),
    ("images", "images"), ("IMG", "images"), ("img_dir", "images"), ("JPEGImages", "images"),
    ("train images", "images"),
    ("masks", "annotations"), ("Mask", "annotations"), ("labels", "annotations"), ("ann_dir", "annotations"),
    ("SegmentationClassAug", "annotations"), ("GT", "annotations"), ("ground_truth", "annotations"),
    ("ground-truth", "annotations"), ("TestMasks", "annotations"), ("saliency_map", "annotations"),
    ("fold1", "split"), ("trainA", "split"), ("rgb", "images"), ("patches", "images"), ("leftImg8bit", "images"),
    ("depth", "other"), ("heatmaps", "other"), ("A", None), ("cat", None), ("no mask", None), ("1", None),
    ("class 3", None), ("trainer", None), ("test strip", None),
])
def test_names_of_folders(name, meaning):
    assert meaning_of(name) == meaning


def test_a_file_named_as_a_list_of_classes_may_hold_something_else(tmp_path):
    pictures(tmp_path, "a.jpg", "b.jpg")
    write(tmp_path / "labels.txt", "a.jpg,0\nb.jpg,1\n")
    dataset = opened(tmp_path)
    assert ids_of(dataset) == ["a", "b"] and dataset.class_names is None
    assert any("labels.txt: is not a list of names" in line and line.endswith("; it is not read")
               for line in dataset.notices)


def test_words_of_folders_that_are_classes_beside_others(tmp_path):
    names = ("crazing", "depth", "fold", "none", "patches", "rgb")
    pictures(tmp_path, *(f"steel/{name}/{name}1.jpg" for name in names))
    assert opened(tmp_path / "steel").class_names == names


# --- images alone ----------------------------------------------------------------------------------


def test_a_flat_folder(tmp_path):
    pictures(tmp_path, "b.JPG", "a ü.png", "c.webp", ".hidden.jpg", "._b.JPG", ".ipynb_checkpoints/b.jpg",
             "__MACOSX/x/b.jpg")
    write(tmp_path / "Thumbs.db", "x")
    write(tmp_path / "notes.txt", "x")
    dataset = opened(tmp_path)
    assert ids_of(dataset) == ["a ü", "b", "c"] and dataset.items[1].image == tmp_path / "b.JPG"
    assert dataset.class_names is None and dataset.tags_source == "none"
    assert {(item.tags, item.mask) for item in dataset.items} == {(None, None)}
    assert dataset.notices == (f"{tmp_path}: read as images alone: 3 images",)
    picture(tmp_path / "b.png")
    with pytest.raises(InputError, match=r"b\.png: would have the same id as b\.JPG: 'b'"):
        opened(tmp_path)


def test_one_image(tmp_path):
    path = picture(tmp_path / "x y.jpeg")
    item, = opened(path).items
    assert (item.id, item.image, item.tags) == ("x y", path, None)
    with pytest.raises(InputError, match="has no splits; omit --split train"):
        opened(path, "train")


@pytest.mark.parametrize("pattern, found", [
    ("*.jpg", ["a", "b"]), ("[ab]*", ["a", "b"]), ("**/*.png", ["c", "sub/d"]), ("*/*", ["sub/d"]), ("?.p*", ["c"]),
])
def test_a_pattern(tmp_path, pattern, found):
    pictures(tmp_path, "a.jpg", "b.jpg", "c.png", "sub/d.png", ".e.jpg")
    write(tmp_path / "a.txt", "x")
    dataset = opened(tmp_path / pattern)
    assert sorted(ids_of(dataset)) == found
    told, = dataset.notices
    assert told.startswith(f"{tmp_path / pattern}: read as images alone: {len(found)} image")


def test_patterns_that_are_none(tmp_path):
    pictures(tmp_path, "a[1].jpg", "b.jpg", "b.png")
    assert ids_of(opened(tmp_path / "a[1].jpg")) == ["a[1]"]
    with pytest.raises(InputError, match="matches no image"):
        opened(tmp_path / "*.gif")
    with pytest.raises(InputError, match="would have the same id as b.jpg: 'b'"):
        opened(tmp_path / "b.*")


# --- images and masks ------------------------------------------------------------------------------


@pytest.mark.parametrize("images, masks, split", [
    ("images", "masks", None), ("Images", "Mask", None), ("img_dir/train", "ann_dir/train", "train"),
    ("img_dir/train", "ann_dir/train", None), ("train/images", "train/labels", "train"), ("", "gt", None),
    ("images", "ground_truth", None), ("train", "train_masks", "train"), ("train_images", "train_masks", "train"),
])
def test_masks_belong_to_images_by_their_names(tmp_path, images, masks, split):
    pictures(tmp_path / images, "a.jpg", "b c.jpg", "d.jpg")
    picture(tmp_path / masks / "a.png", 2)
    picture(tmp_path / masks / "b c.png", 1)
    dataset = opened(tmp_path, split)
    assert ids_of(dataset) == ["a", "b c", "d"] and dataset.class_names is None and dataset.tags_source == "none"
    assert [item.mask and load_target(item, SIZE)[0, 0] for item in dataset.items] == [2, 1, None]
    assert {item.tags for item in dataset.items} == {None}
    assert "read as images with masks: 3 images, 2 with ground truth" in dataset.notices[0]
    write(tmp_path / "classes.txt", "background\ncat\ndog\n")
    assert opened(tmp_path, split).class_names == ("cat", "dog")


def test_splits_of_images_and_masks(tmp_path):
    for split, name in (("train", "a"), ("val", "b")):
        picture(tmp_path / "img_dir" / split / f"{name}.jpg")
        picture(tmp_path / "ann_dir" / split / f"{name}.png", 1)
    assert ids_of(opened(tmp_path, "val")) == ["b"] and opened(tmp_path, "val").items[0].mask.parent.name == "val"
    with pytest.raises(UsageError, match="has several splits: train, val; choose one"):
        opened(tmp_path)
    with pytest.raises(InputError, match="has no split 'test'"):
        opened(tmp_path, "test")
    # Those to be predicted have no masks.
    picture(tmp_path / "img_dir/test/c.jpg")
    assert [(item.id, item.mask) for item in opened(tmp_path, "test").items] == [("c", None)]


def test_folders_within_folders_are_part_of_the_ids(tmp_path):
    pictures(tmp_path, "images/day/a.jpg", "images/night/a.jpg", "masks/day/a.png")
    dataset = opened(tmp_path)
    assert ids_of(dataset) == ["day/a", "night/a"] and dataset.items[1].mask is None


def test_masks_beside_their_images(tmp_path):
    # Roboflow's semantic segmentation masks.
    pictures(tmp_path, "train/a.jpg", "train/b.jpg")
    picture(tmp_path / "train/a_mask.png", 1)
    write(tmp_path / "train/_classes.csv", "Pixel Value, Class\n0, background\n1, cat\n2, dog\n")
    dataset = opened(tmp_path, "train")
    assert ids_of(dataset) == ["a", "b"] and dataset.class_names == ("cat", "dog")
    assert load_target(dataset.items[0]).max() == 1 and dataset.items[1].mask is None
    write(tmp_path / "train/_classes.csv", "Pixel Value, Class\n0, background\n2, dog\n")
    with pytest.raises(InputError, match="numbers its classes 0, 2, which does not count all lines from 0 or 1"):
        opened(tmp_path, "train")


def test_what_belongs_to_no_image_is_told(tmp_path):
    pictures(tmp_path, "images/a.jpg", "masks/a.png", "masks/b.png", "masks/c.png")
    assert f"{tmp_path / 'masks'}: files that belong to no image (2): 'b', 'c'" in opened(tmp_path).notices
    (tmp_path / "masks/a.png").unlink()
    with pytest.raises(InputError, match="no image in images has a file of the same name in masks; the annotation"):
        opened(tmp_path)
    picture(tmp_path / "masks/gt_a.png")
    with pytest.raises(InputError, match=r"a file of the same name in masks; there is gt_a\.png; the annotation"):
        opened(tmp_path)


@pytest.mark.parametrize("names, message", [
    (("images/a.jpg", "masks/a.png", "gt/a.png"), "masks: has masks, and so has .*gt; name one with --masks"),
    (("images/a.jpg", "imgs/a.jpg", "masks/a.png"), "several folders of images: images, imgs; .* --images"),
    (("masks/a.png",), "has no images; name their folder with --images"),
    (("images/a.jpg", "images/a.png", "masks/a.png"), "would have the same id"),
])
def test_folders_that_cannot_be_told_apart(tmp_path, names, message):
    with pytest.raises(InputError, match=message):
        opened(pictures(tmp_path, *names))


# --- splits and classes ----------------------------------------------------------------------------


def test_splits_are_no_classes(tmp_path):
    pictures(tmp_path, "train/a.jpg", "valid/b.jpg", "test/c.jpg")
    with pytest.raises(UsageError, match="has several splits: test, train, valid; choose one"):
        opened(tmp_path)
    dataset = opened(tmp_path, "valid")
    assert ids_of(dataset) == ["b"] and dataset.items[0].tags is None
    with pytest.raises(InputError, match="has no split 'val'; choose from test, train, valid"):
        opened(tmp_path, "val")


def metadata(path, name, tag):
    with open(path / "metadata.csv", "a") as file:
        file.write(f"{name}.jpg,{tag}\n" if file.tell() else f"file_name,tags\n{name}.jpg,{tag}\n")


@pytest.mark.parametrize("images, annotations, annotate", [
    ("{}", "{}", lambda path, name, tag: write(path / f"{name}.xml", XML.format(tag))),
    ("images/{}", "Annotations/{}", lambda path, name, tag: write(path / f"{name}.xml", XML.format(tag))),
    ("{}", "{}", lambda path, name, tag: write(path / f"{name}.json", json.dumps({"shapes": [
        {"label": tag, "points": [[0, 0], [2, 0], [2, 2]], "shape_type": "polygon"}]}))),
    ("{}", "{}", metadata),
])
def test_classes_of_all_splits_have_the_same_labels_in_each(tmp_path, images, annotations, annotate):
    for name, tag in (("a", "cat"), ("b", "dog"), ("c", "owl"), ("d", "owl")):
        split = "valid" if name == "d" else "train"
        picture(tmp_path / images.format(split) / f"{name}.jpg")
        annotate(tmp_path / annotations.format(split), name, tag)
    train, valid = opened(tmp_path, "train"), opened(tmp_path, "valid")
    assert train.class_names == valid.class_names == ("cat", "dog", "owl")
    assert [item.tags for item in valid.items] == [("owl",)]
    told = f"{tmp_path}: with the classes of all splits: 'cat', 'dog', 'owl'"
    assert told in valid.notices and told not in train.notices
    assert opened(tmp_path, "valid", classes=str(write(tmp_path / "names.txt", "owl"))).class_names == ("owl",)


def test_classes_within_splits_and_within_images(tmp_path):
    pictures(tmp_path, "train/cat/a.jpg", "train/dog/b.jpg", "test/cat/c.jpg")
    dataset = opened(tmp_path, "test")
    assert ids_of(dataset) == ["cat/c"] and dataset.class_names == ("cat", "dog")
    assert dataset.notices == (f"{tmp_path / 'test'}: read as a folder of classes: 1 image, 2 classes",)
    pictures(tmp_path / "birds", "images/001.Wren/a.jpg", "images/002.Jay/b.jpg")
    dataset = opened(tmp_path / "birds")
    assert dataset.class_names == ("001.Wren", "002.Jay") and dataset.items[0].tags == ("001.Wren",)


@pytest.mark.parametrize("names, message", [
    (("x/a1.jpg", "x/b1.jpg", "y/a1.png", "y/b1.png"), "files of the same names in x and y, as images and masks have"),
    (("x/1.jpg", "x/2.jpg", "y/1.png", "y/2.png"), "files of the same names in x and y"),
    (("2023/a.jpg", "2024/b.jpg"), "has folders that look like years: 2023, 2024"),
    (("aachen/a_leftImg8bit.png", "bonn/b_leftImg8bit.png"), "the folder 'aachen' is a city"),
    (("one/a.jpg", "one/a.txt", "two/b.jpg"), r"one: has annotations beside its images, such as a\.txt"),
    (("one/a.jpg", "two/b.jpg", "two/b.xml"), r"two: has annotations beside its images, such as b\.xml"),
    (("cat/a.jpg", "unlabeled/b.jpg"), "unlabeled: is a usual name for images of unknown classes"),
])
def test_folders_that_do_not_look_like_classes(tmp_path, names, message):
    pictures(tmp_path, *(name for name in names if not name.endswith((".txt", ".xml"))))
    for name in names:
        if name.endswith((".txt", ".xml")):
            write(tmp_path / name, "0 .5 .5 .2 .2\n")
    with pytest.raises(InputError, match=message):
        opened(tmp_path)
    folders = sorted({name.split("/")[0] for name in names} - {"unlabeled"})
    listed = write(tmp_path / "classes.txt", "\n".join(folders))
    assert opened(tmp_path, classes=str(listed)).class_names == tuple(folders)


def test_photographs_of_two_classes_may_be_counted_alike(tmp_path):
    pictures(tmp_path, "cat/img_1.jpg", "cat/img_2.jpg", "cat/cover.jpg", "dog/img_1.jpg", "dog/img_2.jpg")
    assert opened(tmp_path).class_names == ("cat", "dog")


def test_images_that_are_of_no_class_are_told(tmp_path):
    pictures(tmp_path, "cat/a.jpg", "dog/b.jpg", "dog/more/c.jpg", "loose.jpg", "background/d.jpg", "owl/e.jpg")
    dataset = opened(tmp_path)
    assert dataset.class_names == ("cat", "dog", "owl")
    assert [item.tags for item in dataset.items] == [(), ("cat",), ("dog",), ("owl",)]
    told = dataset.notices[1:]
    assert told == tuple(f"{tmp_path}: {line}" for line in (
        "1 image in a folder of the background is taken to hold no object",
        "1 image beside the folders of classes is left out", "1 image in subfolders of the classes is left out"))
    listed = write(tmp_path / "classes.txt", "cat\ndog\n")
    dataset = opened(tmp_path, classes=str(listed))
    assert ids_of(dataset) == ["background/d", "cat/a", "dog/b"]
    assert f"{tmp_path}: left out, as --classes does not list it: owl" in dataset.notices
    with pytest.raises(InputError, match="no folder named as a class of --classes; its folders are cat, dog, owl"):
        opened(pictures(tmp_path / "owls", "cat/a.jpg", "dog/b.jpg", "owl/c.jpg"),
               classes=str(write(tmp_path / "x.txt", "emu")))
    with pytest.raises(InputError, match="did you mean 'Cat'"):
        opened(tmp_path, classes=str(write(tmp_path / "x.txt", "Cat")))
    pictures(tmp_path, "masks/x.png")
    assert f"{tmp_path}: left out, as --classes does not list them: masks, owl" in opened(
        tmp_path, classes=str(listed)).notices


@pytest.mark.parametrize("odd", ["train", "masks", "test", "gt"])
def test_a_name_of_a_split_or_of_masks_among_classes_is_refused(tmp_path, odd):
    # 'train' is one of VOC's classes.
    pictures(tmp_path, "bus/a.jpg", "car/b.jpg", f"{odd}/c.jpg")
    with pytest.raises(InputError, match=f"has {odd}, named as splits or masks are, beside bus, car; .*--classes FILE"):
        opened(tmp_path)
    classes = write(tmp_path / "classes.txt", f"bus\ncar\n{odd}\n")
    dataset = opened(tmp_path, classes=str(classes))
    assert dataset.class_names == ("bus", "car", odd) and dataset.items[2].tags == (odd,)
    assert opened(tmp_path, class_names=("bus", "car", odd)).items == dataset.items


@pytest.mark.parametrize("names", [("train/1.jpg", "valid/2.jpg"), ("images/1.jpg", "masks/1.png"), ("1.jpg", "2.jpg")])
def test_nothing_is_trained_on_splits_or_masks(tmp_path, names):
    pictures(tmp_path / "data", *names)
    outcome = call("train-cls", "--data", tmp_path / "data", "--backbone", "vgg16-small", "--init", "none", "-o",
                   tmp_path / "c.pt")
    assert outcome.code in (2, 3) and not (tmp_path / "c.pt").exists()
    assert len([line for line in outcome.err.splitlines() if line.startswith("drstool: ")]) == 1, outcome.err


def test_images_without_tags_are_told_how_to_get_some(tmp_path):
    pictures(tmp_path, "a.jpg", "b.jpg")
    with pytest.raises(InputError, match="no image has tags; give --tags FILE.*, a table .*, one folder"):
        require_tags(opened(tmp_path))
    tags = write(tmp_path / "tags.txt", "a cat\nb dog\n")
    require_tags(opened(tmp_path, tags=str(tags)))


# --- XML -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("images, annotations, split", [
    ("", "", None), ("images", "annotations", None), ("images", "Annotations", None), ("", "Annotations", None),
    ("train", "train", "train"), ("images/train", "labels/train", "train"), ("images", "xmls", None),
])
def test_xml_of_labelimg(tmp_path, images, annotations, split):
    pictures(tmp_path / images, "a.jpg", "b.png", "c.jpg")
    for name, tag in (("a", "dog"), ("b", "cat")):
        write(tmp_path / annotations / f"{name}.xml", XML.format(tag))
        write(tmp_path / annotations / f"._{name}.xml", "\0")
    dataset = opened(tmp_path, split)
    assert [item.tags for item in dataset.items] == [("dog",), ("cat",), None]
    assert dataset.class_names == ("cat", "dog") and dataset.tags_source == "annotations"
    assert {item.mask for item in dataset.items} == {None}
    write(tmp_path / annotations / "a.xml", "<annotation>")
    with pytest.raises(InputError, match=r"a\.xml: is not an XML annotation"):
        opened(tmp_path, split)


def test_xml_and_masks(tmp_path):
    pictures(tmp_path, "images/a.jpg", "masks/a.png")
    write(tmp_path / "annotations/a.xml", XML.format("cat"))
    item, = opened(tmp_path).items
    assert item.tags == ("cat",) and item.mask == tmp_path / "masks/a.png"
    write(tmp_path / "labels/a.json", '{"shapes": []}')
    with pytest.raises(InputError, match="has both XML annotations in .* and labelme files in .*; keep one"):
        opened(tmp_path)


# --- VOC -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".png", ".webp", ".TIF", ".tiff", ".bmp"])
def test_images_of_voc_of_any_kind(tmp_path, suffix):
    picture(tmp_path / "JPEGImages" / f"a{suffix}")
    write(tmp_path / "Annotations" / "a.xml", XML.format("cat"))
    for name in ("._a", ".ipynb_checkpoints/a-checkpoint"):
        write(tmp_path / "JPEGImages" / f"{name}{suffix}", "x")
        write(tmp_path / "Annotations" / f"{name}.xml", "x")
    write(tmp_path / "JPEGImages/Thumbs.db", "x")
    dataset = opened(tmp_path)
    assert [(item.id, item.tags) for item in dataset.items] == [("a", ("cat",))] and dataset.class_names == ("cat",)
    write(tmp_path / "ImageSets/Segmentation/val.txt", f"JPEGImages/a{suffix}\n")
    write(tmp_path / "ImageSets/Segmentation/._val.txt", "x")
    assert ids_of(opened(tmp_path)) == ["a"]


# --- tables in folders -----------------------------------------------------------------------------


@pytest.mark.parametrize("name, text", [
    ("metadata.jsonl", json.dumps({"id": "x", "image": "0.jpg", "file_name": "0.jpg", "tags": ["cat"]})),
    ("metadata.csv", "id,image,file_name,tags\nx,0.jpg,0.jpg,cat\n"),
])
@pytest.mark.parametrize("split", [None, "train"])
def test_a_folder_of_images_with_metadata(tmp_path, name, text, split):
    root = tmp_path / (split or "")
    pictures(root, "0.jpg")
    write(root / name, text)
    dataset = opened(tmp_path, split)
    assert [item.tags for item in dataset.items] == [("cat",)]
    assert dataset.notices == (f"{root}: read as the table {name}: 1 image, 1 class",)


# --- nonsense --------------------------------------------------------------------------------------


@pytest.mark.parametrize("files", [
    {}, {"notes.txt": "x"}, {"data.yaml": "names: [\n"}, {"data.yaml": "train: images\nnames: [cat]\n"},
    {"a.json": "{"}, {"labels/a.txt": "0 0.5 0.5 0.1 0.1"}, {"annotations/instances_train.json": '{"images": []}'},
    {"images/.keep": "x", "masks/.keep": "x"}, {"train/x.txt": "x"}, {"metadata.csv": "file_name,tags\n"},
    {"labelmap.txt": "x", "SegmentationClass/a.png": "x"}, {"_annotations.coco.json": '{"images": 3}'},
])
def test_a_folder_without_a_dataset_is_one_line(tmp_path, files):
    (tmp_path / "data").mkdir()
    for name, text in files.items():
        write(tmp_path / "data" / name, text)
    outcome = call("ids", "--data", tmp_path / "data")
    assert outcome.code in (2, 3) and outcome.out == ""
    assert len(outcome.err.splitlines()) == 1 and outcome.err.startswith("drstool: "), outcome.err
