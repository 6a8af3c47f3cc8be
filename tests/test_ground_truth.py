"""Ground truth: what mask values mean, which folder is read, and what is told of it."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from drstool.data import load_target, open_dataset
from drstool.data.item import Dataset, Item
from drstool.data.masks import MaskValues, ValueMask
from drstool.errors import InputError, UsageError
from drstool.formats.records import LabelRecord
from drstool.reports.ground_truth import GroundTruth, MaskSummary, agreement_lines, summarize
from drstool.stages.eval import as_table, evaluate

SIZE = (40, 60)
OBJECT = np.zeros(SIZE, np.uint8)
OBJECT[5:25, 5:30] = 1
SHORT = ("--backbone", "vgg16-small", "--init", "none", "--epochs", "1", "--image-size", "32")


def save(values, path, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(values)
    (picture if mode is None else picture.convert(mode)).save(path)
    return path


@pytest.fixture
def cracks(tmp_path):
    """A VOC folder of one class whose masks are drawn black and white, and perfect predictions."""
    root = tmp_path / "V"
    for name in ("c1", "c2", "c3"):
        save(np.zeros((*SIZE, 3), np.uint8), root / "JPEGImages" / f"{name}.png")
        save(OBJECT * 255, root / "SegmentationClass" / f"{name}.png")
        save(OBJECT, tmp_path / "perfect" / f"{name}.png")
        save(OBJECT * 0, tmp_path / "nothing" / f"{name}.png")
    (root / "classes.txt").write_text("crack\n")
    return root


# --- values ------------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction", ["perfect", "nothing"])
def test_ground_truth_without_a_class_is_refused(drs, cracks, prediction):
    outcome = drs("eval", cracks.parent / prediction, "--data", cracks)
    assert outcome.code == 3 and outcome.out == "" and len(outcome.err.splitlines()) == 1
    assert "20.83% are 255 (ignored)" in outcome.err and "give --mask-values 0,255" in outcome.err


def test_values_make_black_and_white_masks_readable(drs, cracks):
    scores = {name: drs("eval", cracks.parent / name, "--data", cracks, "--mask-values", "0,255", "--json").json()
              for name in ("perfect", "nothing")}
    assert scores["perfect"]["mean_iou"] == 1
    # Nothing of the object, and the background's share of all pixels.
    assert scores["nothing"]["mean_iou"] == pytest.approx((0 + 1 - 500 / 2400) / 2)
    assert scores["perfect"]["ground_truth"] == {
        "masks": [str(cracks / "SegmentationClass")], "mask_values": "0,255", "ignored_share": 0.0,
        "classes_without_pixels": []}


def test_ignored_pixels_may_be_meant(drs, cracks):
    outcome = drs("eval", cracks.parent / "nothing", "--data", cracks, "--mask-values", "0,1,ignore=255")
    assert outcome.code == 0
    lines = outcome.out.splitlines()
    folder = cracks / "SegmentationClass"
    assert f"ground truth: {folder} (values 0,1,ignore=255); 20.83% of its pixels ignored" in lines
    assert "no pixel in the ground truth: crack" in lines


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "1"])
def test_black_and_white_in_other_modes(cracks, mode):
    for path in (cracks / "SegmentationClass").iterdir():
        save(OBJECT * 255, path, mode)
    values = "0,1" if mode == "1" else "0,255"
    item = open_dataset(str(cracks), mask_values=values).items[0]
    np.testing.assert_array_equal(load_target(item, SIZE), OBJECT)


def test_colours_are_no_values(cracks):
    save(np.full((*SIZE, 3), (255, 0, 0), np.uint8), cracks / "SegmentationClass" / "c1.png")
    for values in ("0,255", None):
        with pytest.raises(InputError, match=r"mode RGB.*; a labelmap\.txt in a dataset's folder names the colours"):
            load_target(open_dataset(str(cracks), mask_values=values).items[0])
    # Masks elsewhere have it in their own folder.
    shutil.copytree(cracks / "SegmentationClass", cracks / "colours")
    (cracks / "colours" / "labelmap.txt").write_text("background:0,0,0::\ncrack:255,0,0::\n")
    (cracks / "classes.txt").unlink()
    dataset = open_dataset(str(cracks), masks=str(cracks / "colours"))
    assert dataset.class_names == ("crack",) and (load_target(dataset.items[0], SIZE) == 1).all()


@pytest.mark.parametrize("ending, message", [
    ("jpg", "is a JPEG, whose compression changes the values of pixels; save it as PNG where it was made"),
    ("bmp", "is not a PNG; save it as PNG, with the same values of its pixels"),
    ("tif", "is not a PNG; save it as PNG, with the same values"), ("gif", "is not a PNG; save it as PNG, with"),
])
def test_masks_that_are_no_png(cracks, ending, message):
    for folder in ("VOC/SegmentationClass", "images and masks/masks", "photographs/gt"):
        root = cracks.parent / folder.partition("/")[0]
        save(OBJECT, cracks.parent / folder / f"a.{ending}")
        images = {"VOC": "JPEGImages", "images and masks": "images"}.get(root.name, "")
        save(np.zeros((*SIZE, 3), np.uint8), root / images / "a.png")
        masks = str(root / "gt") if root.name == "photographs" else None
        data = root / "a.png" if masks else root
        with pytest.raises(InputError, match=rf"a\.{ending}: {message}"):
            load_target(open_dataset(str(data), masks=masks).items[0])


def test_values_of_16_bits_and_of_many_classes():
    values = MaskValues.parse(",".join(map(str, range(0, 3000, 10))) + ",ignore=7")
    labels = values.labels(np.uint16([[0, 10, 2990, 7]]), "mask")
    assert labels.tolist() == [[0, 1, 299, 65535]] and labels.dtype == np.uint16


@pytest.mark.parametrize("text", [
    "0", "0,", "a,b", "0,-1", "0,1.5", "0,65536", "0,1,1", "0,1,ignore=1", "0,1,ignore=2,ignore=3", "ignore=0,1",
    "0,²"])
def test_what_is_no_list_of_values(drs, cracks, text):
    outcome = drs("eval", cracks.parent / "perfect", "--data", cracks, "--mask-values", text)
    assert outcome.code == 2 and outcome.err.startswith("drstool: --mask-values: ") and outcome.err.count("\n") == 1


def test_values_must_be_as_many_as_classes_and_cover_the_masks(cracks):
    with pytest.raises(UsageError, match="lists 3 values, but there are background and 1 classes"):
        open_dataset(str(cracks), mask_values="0,1,2")
    with pytest.raises(InputError, match="does not list: 255; list them"):
        load_target(open_dataset(str(cracks), mask_values="0,254").items[0])


def test_values_of_annotations_are_refused(tmp_path):
    save(np.zeros((4, 4, 3), np.uint8), tmp_path / "a.png")
    (tmp_path / "instances.json").write_text(json.dumps({
        "images": [{"id": 1, "file_name": "a.png", "width": 4, "height": 4}], "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[0, 0, 3, 0, 3, 3]], "iscrowd": 0}]}))
    with pytest.raises(UsageError, match="not pictures of pixel values"):
        open_dataset(str(tmp_path / "instances.json"), mask_values="0,255")


# --- folders -----------------------------------------------------------------------------------


def test_official_masks_win_and_are_named(drs, cracks):
    for name in ("c1", "c2", "c3"):
        save(OBJECT, cracks / "SegmentationClass" / f"{name}.png")
        save(np.roll(OBJECT, 5, 0), cracks / "SegmentationClassAug" / f"{name}.png")
    outcome = drs("eval", cracks.parent / "perfect", "--data", cracks)
    assert "Mean IoU     1.0000" in outcome.out
    assert f"ground truth: {cracks / 'SegmentationClass'}; 0.00% of its pixels ignored" in outcome.out.splitlines()
    coarse = drs("eval", cracks.parent / "perfect", "--data", cracks, "--masks", cracks / "SegmentationClassAug")
    assert "Mean IoU     1.0000" not in coarse.out
    assert f"ground truth: {cracks / 'SegmentationClassAug'}; 0.00%" in coarse.out


def test_masks_of_other_images_fill_up(cracks):
    save(OBJECT, cracks / "SegmentationClassAug" / "c3.png")
    (cracks / "SegmentationClass" / "c3.png").unlink()
    folders = [item.mask.parent.name for item in open_dataset(str(cracks)).items]
    assert folders == ["SegmentationClass", "SegmentationClass", "SegmentationClassAug"]


def test_a_folder_of_masks_for_any_dataset(drs, cracks, tmp_path):
    (tmp_path / "m.csv").write_text("id,image,tags\na/c1,V/JPEGImages/c1.png,crack\nc2,V/JPEGImages/c2.png,crack\n")
    save(OBJECT, tmp_path / "gt" / "a" / "c1.png")
    lines = drs("ids", "--data", tmp_path / "m.csv", "--masks", tmp_path / "gt").out.splitlines()
    assert [json.loads(line).get("mask") for line in lines] == [str(tmp_path / "gt" / "a" / "c1.png"), None]
    outcome = drs("overlay", "--data", tmp_path / "m.csv", "--masks", tmp_path / "gt", "-o", tmp_path / "figures")
    assert outcome.code == 0 and (tmp_path / "figures" / "a" / "c1_target.png").exists()


@pytest.mark.parametrize("folder", ["nowhere", "empty"])
def test_a_folder_without_masks_of_the_images(drs, cracks, tmp_path, folder):
    (tmp_path / "empty").mkdir()
    outcome = drs("eval", tmp_path / "perfect", "--data", cracks, "--masks", tmp_path / folder)
    assert outcome.code == 3 and outcome.err.count("\n") == 1 and str(tmp_path / folder) in outcome.err


@pytest.mark.parametrize("option", ["--masks", "--mask-values"])
def test_training_reads_ground_truth_only_to_select(drs, voc, tmp_path, option):
    line = ("train-cls", "--data", voc, "--split", "train", *SHORT, "-o", tmp_path / "c.pt")
    value = voc / "SegmentationClass" if option == "--masks" else "0,1,2"
    refused = drs(*line, option, value)
    assert refused.code == 2 and "--select-on" in refused.err and not (tmp_path / "c.pt").exists()


def test_training_selects_on_the_masks_that_are_named(must, drs, voc, tmp_path):
    line = ("train-cls", "--data", voc, "--split", "train", *SHORT, "--select-on", "val")
    # The images that are trained on need none there.
    for name in ("p4.png", "p5.png"):
        save(np.array(Image.open(voc / "SegmentationClass" / name)), tmp_path / "gt" / name)
    must(*line, "--masks", tmp_path / "gt", "-o", tmp_path / "c.pt")
    inputs = json.loads(drs("info", tmp_path / "c.pt", "--json").out)["provenance"][-1]["inputs"]
    assert {"select_list", "select_masks"} <= set(inputs)


# --- tags and masks ----------------------------------------------------------------------------

NAMES = ("cat", "cow", "dog")


def masks_of(pairs):
    return [MaskSummary("gt", tags, (0, *labels), 1, 0, 255) for tags, labels in pairs]


def test_another_order_of_the_classes_is_found():
    # In the masks 1 is cow, 2 dog and 3 cat.
    value = {"cow": 1, "dog": 2, "cat": 3}
    tags = [("cat",), ("dog",), ("cow",), ("cat", "dog"), ("cat", "cow"), ()]
    (line,) = agreement_lines(masks_of((each, tuple(value[t] for t in each)) for each in tags), NAMES)
    assert line.startswith(
        "masks and tags contradict each other in 5 of 6 images; all would agree if the masks' labels were 1 = cow, "
        "2 = dog, 3 = cat")


def test_a_background_that_is_not_0(tmp_path):
    # 0 is cat, 1 dog, 2 the background.
    pairs = [(("cat",), (2,)), (("cat", "dog"), (1, 2)), (("cat", "dog"), (1, 2))]
    masks = [each._replace(most=2) for each in masks_of(pairs)]
    (line,) = agreement_lines(masks, ("cat", "dog"))
    assert line.endswith("in 1 of 3 images; 2 fills most of 3 images: is it the background? --mask-values 2,0,1")
    assert agreement_lines(masks, ("cat", "dog"), trained_on=True)[0].endswith("background? Save it as 0")
    # 0 is cat, 1 dog, and 255 the background.
    rows = {"a": [0, 255, 255], "b": [1, 255, 0]}
    masks = {i: summarize(np.array(row, np.uint8), "gt", None) for i, row in rows.items()}
    truth = GroundTruth(("cat", "dog"), "", masks)
    assert truth.warnings() == [
        "no pixel in the ground truth: dog; is 255 the background, and 0 cat? --mask-values 255,0,1"]
    assert GroundTruth(("cat", "dog"), "0,1,2", masks).warnings() == ["no pixel in the ground truth: dog"]


def test_a_palette_that_contradicts_the_values(tmp_path):
    picture = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    picture.putpalette([128, 0, 0, 0, 0, 0] + [9] * 762)
    picture.save(tmp_path / "a.png")
    item = Item("a", tmp_path / "a.jpg", None, tmp_path / "a.png")
    for labels in ([[0, 1, 2]], [[0, 1, 255]]):
        picture.putdata(labels[0])
        picture.save(tmp_path / "a.png")
        with pytest.raises(InputError, match=r"label 0 \(background\) is coloured, label 1 is black; for") as told:
            load_target(item)
        # Both may be followed.
        inverse, same = re.findall(r"--mask-values (\S+) if 1 .* and (\S+) if 0 is", str(told.value))[0]
        assert (inverse, same) == (("1,0,2", "0,1,2") if 2 in labels[0] else ("1,0,ignore=255", "0,1,ignore=255"))
        read = replace(item, mask=ValueMask(item.mask, MaskValues.parse(inverse)))
        assert load_target(read).tolist() == [[1, 0, labels[0][2]]]
    picture.putdata([0, 1, 2])
    picture.putpalette([255, 255, 255] + [0] * 9)
    picture.save(tmp_path / "a.png")
    assert load_target(item).tolist() == [[0, 1, 2]]


def test_what_no_order_explains_is_told_without_one():
    pairs = [(("cat",), (2,)), (("cat",), (3,)), (("cat",), (1,))] * 4
    (line,) = agreement_lines(masks_of(pairs), NAMES)
    assert line == "masks and tags contradict each other in 8 of 12 images: the masks hold classes that the tags do not"


def test_few_contradictions_and_overlooked_objects_are_usual():
    pairs = [(("cat",), (1,))] * 19 + [(("cat",), (1, 2))]
    assert agreement_lines(masks_of(pairs), NAMES) == []
    assert agreement_lines(masks_of([(("cat", "dog"), (1,)), (None, (2,))]), NAMES) == []
    assert agreement_lines([], NAMES) == []


def test_eval_tells_the_order(tmp_path):
    items, records = [], []
    for number, (tag, label) in enumerate([("cat", 2), ("dog", 1)] * 3):
        path = save(OBJECT * label, tmp_path / f"{number}.png")
        items.append(Item(str(number), tmp_path / f"{number}.jpg", (tag,), path))
        records.append(LabelRecord(str(number), OBJECT * label))
    result = evaluate(records, Dataset(tuple(items), ("cat", "dog"), "data", "manifest"))
    assert any("1 = dog, 2 = cat" in line for line in result.warnings())
    assert "1 = dog, 2 = cat" in as_table(result)


def test_labels_to_train_on_are_compared_with_the_tags(tmp_path):
    from drstool.stages.train_seg import check_labels

    items, labels = [], {}
    for number, (tag, label) in enumerate([("cat", 2), ("dog", 1)] * 3):
        labels[str(number)] = save(OBJECT * label, tmp_path / f"{number}.png")
        items.append(Item(str(number), tmp_path / f"{number}.jpg", (tag,)))
    dataset = Dataset(tuple(items), ("cat", "dog"), "data", "manifest")
    present, (line,) = check_labels(dataset, ("cat", "dog"), labels)
    assert line.startswith("--labels: masks and tags contradict each other in 6 of 6 images; all would agree if the ")
    assert present.tolist() == [[False, True], [True, False]] * 3
    # Those of pseudo-label follow the maps.
    assert check_labels(dataset, ("cat", "dog"), labels, foreign=False)[1] == []


def test_eval_tells_the_order_of_masks_in_a_folder_by_a_list_of_tags(drs, tmp_path):
    lines = []
    for number, (tag, label) in enumerate([("cat", 2), ("dog", 1)] * 3):
        save(np.zeros((*SIZE, 3), np.uint8), tmp_path / "d" / "images" / f"{number}.png")
        save(OBJECT * label, tmp_path / "d" / "masks" / f"{number}.png")
        lines.append(f"{number} {tag}\n")
    (tmp_path / "tags.txt").write_text("".join(lines))
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    line = ("eval", tmp_path / "d" / "masks", "--data", tmp_path / "d", "--classes", tmp_path / "classes.txt")
    assert "contradict" not in drs(*line).out
    assert "1 = dog, 2 = cat" in drs(*line, "--tags", tmp_path / "tags.txt").out


# --- SBD ---------------------------------------------------------------------------------------


@pytest.fixture
def sbd(tmp_path):
    from scipy.io import savemat

    root = tmp_path / "SBD"
    for name, label in (("a", 3), ("b", 8), ("c", 15)):
        save(np.full((*SIZE, 3), label, np.uint8), root / "img" / f"{name}.png")
        (root / "cls").mkdir(exist_ok=True)
        savemat(root / "cls" / f"{name}.mat", {"GTcls": {
            "Boundaries": np.zeros((2, 2)), "Segmentation": OBJECT * label, "CategoriesPresent": np.uint8([[label]])}})
        save(OBJECT * label, tmp_path / "pred" / f"{name}.png")
    (root / "train.txt").write_text("a\nb\n")
    (root / "val.txt").write_text("c\n")
    return root


def test_sbd_has_images_tags_and_masks(sbd):
    dataset = open_dataset(str(sbd), "train")
    assert [item.tags for item in dataset.items] == [("bird",), ("cat",)]
    assert len(dataset.class_names) == 20 and dataset.tags_source == "sbd"
    np.testing.assert_array_equal(load_target(dataset.items[1], SIZE), OBJECT * 8)
    assert open_dataset(str(sbd), "train", images_only=True).items[0].tags is None
    with pytest.raises(UsageError, match="several splits: train, val"):
        open_dataset(str(sbd))


def test_sbd_is_found_in_the_folder_of_the_release(sbd, tmp_path):
    (tmp_path / "release").mkdir()
    sbd.rename(tmp_path / "release" / "dataset")
    assert [item.id for item in open_dataset(str(tmp_path / "release"), "val").items] == ["c"]


def test_masks_of_sbd_for_other_data(drs, sbd, tmp_path):
    from drstool.data.sbd import CLASS_NAMES

    (tmp_path / "classes.txt").write_text("\n".join(CLASS_NAMES))
    (tmp_path / "m.csv").write_text("id,image\na,SBD/img/a.png\nc,SBD/img/c.png\n")
    line = ("eval", tmp_path / "pred", "--data", tmp_path / "m.csv", "--classes", tmp_path / "classes.txt")
    scores = drs(*line, "--masks", sbd / "cls", "--json").json()
    assert scores["mean_iou"] == 1 and scores["ground_truth"]["masks"] == [str(sbd / "cls")]
    # As a manifest names them.
    (tmp_path / "m.csv").write_text(f"id,image,mask\na,SBD/img/a.png,{sbd / 'cls' / 'a.mat'}\n")
    assert drs(*line, "--json").json()["mean_iou"] == 1


@pytest.mark.parametrize("broken", ["garbage", "other", "categories", "shape", "long"])
def test_broken_files_of_sbd(drs, sbd, broken):
    from scipy.io import savemat

    good = {"Segmentation": OBJECT, "CategoriesPresent": np.uint8([[1]])}
    content = {
        "other": {"GTinst": good}, "categories": {"GTcls": good | {"CategoriesPresent": np.uint8([[21]])}},
        "shape": {"GTcls": good | {"Segmentation": OBJECT.astype(float)}}}
    path = sbd / "cls" / "a.mat"
    if broken in content:
        savemat(path, content[broken])
    else:
        path.write_bytes(b"garbage" if broken == "garbage" else bytes(2 << 20))
    outcome = drs("overlay", "--data", sbd, "--split", "train", "-o", sbd / "figures")
    assert outcome.code == 3 and outcome.err.count("\n") == 1 and str(path) in outcome.err
    assert not (sbd / "figures").exists()
