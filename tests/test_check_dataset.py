"""``check --data``: faults of a dataset, each planted here, and a dataset without any."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from drstool.stages.check_dataset import check_dataset

IDS = ("p0", "p1", "p2", "p3", "p4", "p5")


def picture(values, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def mask(root, identifier):
    return np.array(Image.open(root / "SegmentationClass" / f"{identifier}.png"))


def lines_of(root, split=None, **how):
    return [str(error).removeprefix(f"{root}").lstrip("/") for error in check_dataset(str(root), split, **how).problems]


def test_a_dataset_without_faults(drs, voc):
    outcome = drs("check", "--data", voc)
    assert (outcome.code, outcome.out) == (0, "")
    assert outcome.err.startswith(
        "check: no problems found in 6 images: 6 with tags (bar 4, disc 4), 6 with masks, 6 with saliency maps, in ")
    told = drs("check", "--data", voc, "--split", "val", "--json")
    assert told.json() == {"input": str(voc), "state": "whole", "kind": "dataset", "count": 2,
                           "missing": 0, "tags": 2, "masks": 2, "saliency_maps": 2, "classes": {"bar": 1, "disc": 2},
                           "problems": []}


def test_faults_are_told_most_serious_first(drs, own_voc):
    saliency = own_voc / "saliency_map"
    (saliency / "p0.png").unlink()
    picture(np.zeros((5, 7), np.uint8), saliency / "p1.png")
    picture(np.full_like(mask(own_voc, "p2"), 7), own_voc / "SegmentationClass" / "p2.png")
    path = own_voc / "JPEGImages" / "p3.jpg"
    path.write_bytes(path.read_bytes()[:300])
    with open(own_voc / "ImageSets" / "Segmentation" / "val.txt", "a") as file:
        file.write("gone\nlost\n")
    outcome = drs("check", "--data", own_voc)
    assert outcome.code == 3
    starts = [f"{own_voc}/ImageSets/Segmentation/val.txt: names 'gone', which has no image",
              f"{own_voc}/ImageSets/Segmentation/val.txt: names 'lost', which has no image",
              f"{path}: cannot be read", f"{own_voc}/SegmentationClass/p2.png: contains unknown label values: 7",
              f"{saliency}/p1.png: is 7 × 5 pixels, but its image is 60 × 52",
              f"{own_voc}: 1 image without saliency maps, which others have: p0",
              f"{own_voc}: masks of 1 image lack classes of their tags: p2"]
    lines = outcome.out.splitlines()
    assert [line[:len(start)] for line, start in zip(lines, starts, strict=True)] == starts
    assert outcome.err.startswith("check: 7 problems found in 6 images: 2 missing, 6 with tags (bar")
    problems = drs("check", "--data", own_voc, "--json").json()["problems"]
    assert [f"{each['where']}: {each['what']}; {each['right']}" for each in problems] == lines
    assert drs("check", "--data", own_voc, "-q").out == ""


def test_what_is_not_known_of_any_image_is_told(tmp_path, drs):
    for value in (90, 120):
        picture(np.full((8, 8, 3), value, np.uint8), tmp_path / f"{value}.png")
    outcome = drs("check", "--data", tmp_path)
    note, summary = outcome.err.splitlines()[1:]
    assert outcome.code == 0
    assert note == f"check: {tmp_path}: no image has tags, from which train-cls learns; see --tags"
    assert summary.startswith(
        "check: no problems found in 2 images: none with tags, none with masks, none with saliency maps, in ")


def test_tags_from_which_nothing_can_be_learned_are_told(tmp_path, drs):
    for value in (90, 120, 150):
        picture(np.full((8, 8, 3), value, np.uint8), tmp_path / f"{value}.png")
    (tmp_path / "m.csv").write_text("image,tags\n90.png,cat\n120.png,cat\n150.png,\n")
    outcome = drs("check", "--data", tmp_path / "m.csv")
    assert outcome.out.endswith("others have: 150; add them, or --empty-tags negative if they hold no object\n")
    told = "all images with tags have the same: train-cls has nothing to tell apart"
    assert told in outcome.err
    assert told not in drs("check", "--data", tmp_path / "m.csv", "--empty-tags", "negative").err


@pytest.mark.parametrize("layout", ["coco", "list", "yolo", "csv"])
@pytest.mark.parametrize("there", [0, 1])
def test_missing_images_are_all_told(tmp_path, drs, layout, there):
    names = ("a", "b", "c", "d")
    for value, name in enumerate(names[:there]):
        picture(np.full((8, 8, 3), 90 + value, np.uint8), tmp_path / "images" / f"{name}.png")
    (tmp_path / "images").mkdir(exist_ok=True)
    files = {
        "coco": ("instances.json", json.dumps({
            "images": [{"id": i, "file_name": f"{name}.png", "height": 8, "width": 8} for i, name in enumerate(names)],
            "categories": [{"id": 1, "name": "cat"}],
            "annotations": [{"id": 1, "image_id": 0, "category_id": 1}]})),
        "list": ("list.txt", "".join(f"images/{name}.png\n" for name in names)),
        "yolo": ("data.yaml", "train: train.txt\nnames: [cat]\n"),
        "csv": ("m.csv", "image,tags\n" + "".join(f"images/{name}.png,cat\n" for name in names))}
    (tmp_path / "train.txt").write_text(files["list"][1])
    data = tmp_path / files[layout][0]
    data.write_text(files[layout][1])
    outcome = drs("check", "--data", data)
    assert outcome.code == 3
    if there:
        assert [name for line, name in zip(outcome.out.splitlines(), names[1:], strict=True)
                if "missing" in line and f"{name}.png" in line] == ["b", "c", "d"]
        assert "check: 3 problems found in 1 image: 3 missing, " in outcome.err
    else:
        line, = outcome.out.splitlines()
        assert ("cannot find its images: no a.png beside it" if layout == "coco" else "(the first of 4)") in line


@pytest.mark.parametrize("turned", [True, False])
def test_masks_of_another_size(own_voc, turned):
    path = own_voc / "JPEGImages" / "p0.jpg"
    if turned:
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.open(path).save(path, exif=exif)
        (own_voc / "saliency_map" / "p0.png").unlink()
    else:
        picture(mask(own_voc, "p0").T.copy(), own_voc / "SegmentationClass" / "p0.png")
    (line,) = [line for line in lines_of(own_voc) if line.startswith("SegmentationClass")]
    assert line.removeprefix("SegmentationClass/p0.png: ") == (
        "is 64 × 48 pixels, but its image is 48 × 64, turned by EXIF; turn the mask as the image" if turned else
        "is 48 × 64 pixels, but its image is 64 × 48; the mask must have the image's size")


def test_the_same_image_in_the_folders_of_two_classes(tmp_path, drs):
    for name in ("cat/1", "dog/2"):
        (tmp_path / name).parent.mkdir()
        picture(np.full((4, 4), 200, np.uint8), tmp_path / f"{name}.png")
    (line,) = drs("check", "--data", tmp_path).out.splitlines()
    assert line.endswith(
        "cat/1.png: has the same bytes as dog/2, which has other tags; list it once with the tags of all, in a table "
        "or by --tags")
    # One file under two ids, in a table without and with splits.
    for header, rows in (("id,image,tags", ("a,cat/1.png,cat", "b,cat/1.png,dog")),
                         ("id,image,tags,split", ("a,cat/1.png,cat,train", "b,cat/1.png,dog,train",
                                                  "c,cat/2.png,cat,val"))):
        picture(np.full((4, 4), 90, np.uint8), tmp_path / "cat" / "2.png")
        (tmp_path / "m.csv").write_text("\n".join((header, *rows)))
        (line,) = drs("check", "--data", tmp_path / "m.csv").out.splitlines()
        assert "cat/1.png: has the same bytes as b, which has other tags; list it once" in line


def test_the_same_image_twice_and_splits_that_overlap(own_voc):
    images, lists = own_voc / "JPEGImages", own_voc / "ImageSets" / "Segmentation"
    shutil.copy(images / "p4.jpg", images / "p1.jpg")
    with open(lists / "val.txt", "a") as file:
        file.write("p2\n")
    # Lists made of others overlap with them by design.
    (lists / "trainval.txt").write_text("\n".join(IDS))
    lines = lines_of(own_voc)
    assert "JPEGImages/p1.jpg: has the same bytes as p4; remove all but one" in lines
    assert [line for line in lines if "share" in line] == [
        ": splits train and val share 1 image: p2; results on one are then not about new images"]


def test_all_splits_of_a_folder(tmp_path):
    names = ("train/cat/a.jpg", "train/dog/b.jpg", "valid/cat/a.jpg", "valid/cat/c.jpg")
    for name, value in zip(names, (90, 120, 150, 90), strict=True):
        picture(np.full((6, 8, 3), value, np.uint8), tmp_path / name)
    assert lines_of(tmp_path) == ["train/cat/a.jpg: has the same bytes as cat/c; remove all but one"]
    report = check_dataset(str(tmp_path))
    assert report.images == 4 and report.classes == {"cat": 3, "dog": 1}
    assert [line.partition(": read as")[0] for line in report.notices] == [f"{tmp_path}/train", f"{tmp_path}/valid"]


def test_a_list_made_of_others_needs_no_tags(own_voc):
    (own_voc / "ImageSets" / "Segmentation" / "trainval.txt").write_text("\n".join(IDS))
    assert lines_of(own_voc) == []


def test_ids_that_differ_only_in_case(tmp_path):
    for name in ("a", "A"):
        picture(np.full((8, 8, 3), ord(name), np.uint8), tmp_path / f"{name}.png")
    (tmp_path / "m.csv").write_text("id,image,tags\na,a.png,cat\nA,A.png,cat\n")
    (line,) = lines_of(tmp_path / "m.csv")
    assert "cannot store 'A'" in line and "differ from another only in case" in line


def test_classes_without_images_and_pixels(own_voc):
    (own_voc / "classes.txt").write_text("bar\ndisc\ncow\n")
    assert lines_of(own_voc) == ["SegmentationClass: has no pixel of cow; check the masks, or the list of classes",
                                 ": no image has the tag cow; add images, or remove the class"]


def test_tags_against_masks(own_voc):
    (own_voc / "classes.txt").write_text("disc\nbar\n")
    (line,) = lines_of(own_voc)
    assert "contradict each other in 4 of 6 images; all would agree if the masks' labels were 1 = bar, 2 = disc" in line
    (own_voc / "classes.txt").write_text("bar\ndisc\n")
    lists = own_voc / "ImageSets" / "Segmentation"
    right = (lists / "train_cls.txt").read_text()
    assert "p2 bar disc" in right and "p0 bar" in right
    (lists / "train_cls.txt").write_text(right.replace("p2 bar disc", "p2 disc"))
    assert lines_of(own_voc, workers=2) == [
        ": masks and tags contradict each other in 1 of 6 images: the masks hold classes that the tags do not"]
    (lists / "train_cls.txt").write_text(right.replace("p0 bar", "p0 bar disc"))
    assert lines_of(own_voc) == [": masks of 1 image lack classes of their tags: p0; check tags and masks"]


def test_what_is_lacking_or_of_no_image(own_voc):
    (own_voc / "SegmentationClass" / "p0.png").unlink()
    picture(mask(own_voc, "p1"), own_voc / "SegmentationClass" / "stray.png")
    picture(mask(own_voc, "p1"), own_voc / "saliency_map" / "other.png")
    # An image in no split is no fault, nor is its mask.
    picture(np.full((48, 64, 3), 90, np.uint8), own_voc / "JPEGImages" / "free.jpg")
    picture(mask(own_voc, "p1"), own_voc / "SegmentationClass" / "free.png")
    assert lines_of(own_voc) == [
        ": 1 image without masks, which others have: p0; add them",
        "SegmentationClass: 1 file of no image: stray; check their names",
        "saliency_map: 1 file of no image: other; check their names"]
    # Of one split not all images are known.
    assert lines_of(own_voc, "val") == []


def test_black_and_white_masks(tmp_path, drs):
    for name in ("a", "b"):
        picture(np.full((20, 30, 3), 90 + ord(name), np.uint8), tmp_path / "JPEGImages" / f"{name}.png")
        values = np.zeros((20, 30), np.uint8)
        values[5:10, 5:10] = 255
        picture(values, tmp_path / "SegmentationClass" / f"{name}.png")
    (tmp_path / "classes.txt").write_text("crack\n")
    (line,) = lines_of(tmp_path)
    assert line.startswith("SegmentationClass: has no pixel of a class: 4.17% are 255 (ignored)")
    (tmp_path / "classes.txt").unlink()
    assert lines_of(tmp_path)[0].startswith("SegmentationClass: has no pixel of a class: 4.17% are 255 (ignored)")
    (tmp_path / "classes.txt").write_text("crack\n")
    assert drs("check", "--data", tmp_path, "--mask-values", "0,255").code == 0
    other = drs("check", "--data", tmp_path, "--mask-values", "0,1,ignore=255")
    assert other.code == 3 and "has no pixel of crack" in other.out


def test_dark_images_and_faint_saliency(own_voc):
    picture(np.full((48, 64, 3), 20, np.uint8), own_voc / "JPEGImages" / "p0.jpg")
    for path in (own_voc / "saliency_map").iterdir():
        picture((np.array(Image.open(path)) > 0).astype(np.uint8), path)
    assert lines_of(own_voc) == [
        ": 1 image nearly black, without a value of 32 in 255: p0; check them; --range stretches their values",
        ": no value of 6 saliency maps is above 1, but 255 means salient; if 1 does, give --saliency-range 0,1"]
    assert len(lines_of(own_voc, range="0,60")) == 1


def test_sixteen_bits(tmp_path):
    picture(np.linspace(0, 4000, 600).reshape(20, 30).astype(np.uint16), tmp_path / "a.png")
    (tmp_path / "m.csv").write_text("id,image\na,a.png\n")
    lines = lines_of(tmp_path / "m.csv")
    assert lines[0].startswith(": dark 16-bit images: 1 of 1, without a value above 4000") and len(lines) == 2
    assert lines_of(tmp_path / "m.csv", range="0,4095") == []


def test_a_dataset_that_does_not_open(drs, own_voc, tmp_path):
    (own_voc / "ImageSets" / "Segmentation" / "val.txt").write_text("p4\np4\n")
    assert lines_of(own_voc) == ["ImageSets/Segmentation/val.txt: lists id 'p4' twice; list each image once"]
    for data in (tmp_path / "nowhere", tmp_path):
        outcome = drs("check", "--data", data, "--json")
        assert outcome.code == 3 and len(outcome.json()["problems"]) == 1
    manifest = json.dumps({"id": "a", "image": str(own_voc / "JPEGImages" / "p0.jpg"), "tags": ["x"]}).encode()
    assert drs("check", "--data", "-", stdin=manifest).code == 0


@pytest.mark.parametrize("line", [("labels", "--data", "V"), ("--split", "val"), ("--masks", "M"), ("--tags", "T")])
def test_options_that_do_not_go_together(drs, line):
    outcome = drs("check", *line)
    assert outcome.code == 2 and outcome.err.count("\n") == 1 and outcome.out == ""


def test_a_dataset_in_place_of_an_output_is_led_on(drs, voc, tmp_path):
    (tmp_path / "m.csv").write_text("id,image\n")
    for data in (voc, tmp_path / "m.csv"):
        outcome = drs("check", data)
        assert outcome.code == 3 and f"use 'drstool check --data {data}'" in outcome.out
