"""Images that are known to hold no object: through every step, and told apart from images of unknown tags."""

import json

import numpy as np
import pytest
from conftest import SMALL, call
from PIL import Image

from drstool.data import open_dataset
from drstool.formats import open_records
from drstool.formats.label_png import read_label_png

PLAIN = [[], ["crack"], [], ["crack"]]


@pytest.fixture
def place(tmp_path):
    random = np.random.default_rng(0)
    for i in range(len(PLAIN)):
        Image.fromarray(random.integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
        Image.fromarray(np.zeros((20, 30), np.uint8)).save(tmp_path / f"mask{i}.png")
    return tmp_path


def manifest(place, tags=PLAIN):
    rows = [{"id": str(i), "image": f"{i}.png", "mask": f"mask{i}.png", "tags": known} for i, known in enumerate(tags)]
    (place / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return place / "m.jsonl"


def must(*arguments, **options):
    outcome = call(*arguments, **options)
    assert outcome.code == 0, outcome.err
    return outcome


def test_the_whole_chain_of_one_class(place):
    data = ("--data", manifest(place))
    epochs = (*SMALL[:4], "--epochs", "1", "--image-size", "32", "--device", "cpu", "--workers", "1")
    outcome = must("train-cls", *data, *epochs, "-o", place / "cls.pt")
    first = outcome.err.splitlines()[0]
    assert first.startswith("train-cls: 4 images of 1 class, ") and first.endswith(
        ": crack 2; 2 images without an object")
    assert "nan" not in outcome.err and " mAP " in outcome.err
    for method in ("drs", "cam", "grad-cam"):
        must("cam", *data, "--weights", place / "cls.pt", "--method", method, "--sizes", "32", "-o",
             place / f"{method}.h5")
        with open_records(str(place / f"{method}.h5")) as source:
            assert [record.labels for record in source.records()] == [(), (1,), (), (1,)]
            assert [record.values.shape[0] for record in source.records()] == [0, 1, 0, 1]
    must("cat", place / "drs.h5", "-o", place / "drs.tar")
    must("check", place / "drs.h5", place / "drs.tar")
    outcome = must("refine-train", *data, "--maps", place / "drs.h5", *epochs, "-o", place / "ref.pt")
    assert outcome.err.splitlines()[0].endswith(": crack 2; 2 images without an object")
    must("refine", *data, "--weights", place / "ref.pt", "--sizes", "32", "-o", place / "refined.h5")
    must("refine", place / "drs.tar", "--weights", place / "ref.pt", "--sizes", "32", "-o", place / "again.h5")
    must("crf", place / "drs.h5", "--background", "constant", "-o", place / "crf.h5")
    for name in ("drs.h5", "drs.tar", "refined.h5"):
        labels = place / f"{name}.labels"
        must("pseudo-label", place / name, "--background", "constant", "-o", labels)
        for i in (0, 2):
            assert not read_label_png(labels / f"{i}.png").any()
    outcome = must("train-seg", *data, "--labels", labels, *epochs, "--batch-size", "2", "-o", place / "seg.pt")
    assert " images without an object" in outcome.err.splitlines()[0]
    must("eval", place / "drs.h5", *data, "--background", "constant")
    must("eval", place / "drs.h5", *data, "--sweep", "alpha", "--background", "constant")
    must("overlay", *data, "--maps", place / "drs.h5", "-o", place / "figures")


def test_unknown_tags_are_no_negatives(place):
    (place / "m.csv").write_text("id,image,tags\n0,0.png,\n1,1.png,crack\n2,2.png,\n3,3.png,crack\n")
    outcome = call("train-cls", "--data", place / "m.csv", *SMALL, "-o", place / "cls.pt")
    assert outcome.code == 3 and outcome.err.count("\n") == 1 and not (place / "cls.pt").exists()
    assert "image '0' has no tags; " in outcome.err and "--empty-tags negative" in outcome.err
    must("train-cls", "--data", place / "m.csv", "--empty-tags", "negative", *SMALL, "-o", place / "cls.pt")
    outcome = call("cam", "--data", place / "m.csv", "--weights", place / "cls.pt", "-o", place / "cams.h5")
    assert outcome.code == 3 and "has no tags" in outcome.err and "--empty-tags negative" in outcome.err
    assert not (place / "cams.h5").exists()
    # What ids prints says which is which.
    lines = must("ids", "--data", place / "m.csv", "--empty-tags", "negative").out.splitlines()
    assert [json.loads(line)["tags"] for line in lines] == PLAIN
    lines = must("ids", "--data", place / "m.csv").out.splitlines()
    assert ["tags" in json.loads(line) for line in lines] == [False, True, False, True]
    outcome = call("ids", "--data", place / "m.csv", "--empty-tags", "nothing")
    assert outcome.code == 2 and outcome.err.count("\n") == 1


def test_images_of_a_coco_file_without_annotations_are_negatives(place):
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 20, "width": 30} for i in range(3)],
        "categories": [{"id": 5, "name": "crack"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 5, "segmentation": [[0, 0, 9, 0, 9, 9]]}]}
    (place / "coco.json").write_text(json.dumps(content))
    assert [item.tags for item in open_dataset(str(place / "coco.json")).items] == [(), ("crack",), ()]
    must("train-cls", "--data", place / "coco.json", *SMALL, "-o", place / "cls.pt")
    del content["annotations"]
    (place / "coco.json").write_text(json.dumps(content))
    assert {item.tags for item in open_dataset(str(place / "coco.json")).items} == {None}


def test_negatives_alone_are_nothing_to_learn_from(place):
    outcome = call(
        "train-cls", "--data", manifest(place, [[]] * 4), "--classes", classes(place), *SMALL[:4], "--epochs", "1",
        "-o", place / "cls.pt")
    assert outcome.code == 3 and "have the same tags" in outcome.err and outcome.err.count("\n") == 1


def classes(place, *names):
    (place / "classes.txt").write_text("\n".join(names or ("crack", "dent")) + "\n")
    return place / "classes.txt"


def test_ids_summary(place):
    data = ("--data", manifest(place, [[], ["crack"], None, ["crack"]]), "--classes", classes(place))
    outcome = must("ids", *data, "--summary")
    assert outcome.out.splitlines() == [
        "class         images", "crack              2", "dent               0", "no object          1",
        "tags unknown       1", "all images         4"]
    assert outcome.err == "ids: warning: dent: in no image, so that nothing can be learned of it\n"


def test_many_classes_are_summarised_in_the_first_line():
    from drstool.reports.classes import class_counts

    counts = {f"c{i}": i for i in range(30)}
    assert class_counts(counts) == "c29 29, c28 28, c27 27, c26 26, c25 25, …, c2 2, c1 1, c0 0"


def test_a_class_without_an_image_is_a_warning_in_every_training(place):
    data = ("--data", manifest(place), "--classes", classes(place))
    epochs = (*SMALL[:4], "--epochs", "1", "--image-size", "32", "--device", "cpu", "--workers", "1")
    outcome = must("train-cls", *data, *epochs, "-o", place / "cls.pt")
    lines = outcome.err.splitlines()
    assert lines[0].endswith(": crack 2, dent 0; 2 images without an object")
    assert any(line.startswith("train-cls: warning: dent: in no image") for line in lines)
    must("cam", *data[:2], "--weights", place / "cls.pt", "--sizes", "32", "-o", place / "cams.h5")
    outcome = must("refine-train", *data[:2], "--maps", place / "cams.h5", *epochs, "-o", place / "ref.pt")
    assert "refine-train: warning: dent: in no map, so that nothing can be learned of it" in outcome.err.splitlines()
    (place / "labels").mkdir()
    for i in range(4):
        Image.fromarray(np.full((20, 30), i % 2, np.uint8)).save(place / "labels" / f"{i}.png")
    outcome = must("train-seg", *data, "--labels", place / "labels", *epochs, "--batch-size", "2",
                   "-o", place / "seg.pt")
    lines = outcome.err.splitlines()
    assert lines[0].endswith(": crack 2, dent 0; 2 images without an object")
    assert lines[1] == "train-seg: warning: dent: in no label image, so that nothing can be learned of it"


def test_a_list_can_be_taken_off(place):
    """VOC's training images and those of SBD that are not VOC's: trainaug, by plain composition."""
    data = ("--data", manifest(place))
    (place / "val.txt").write_text("1\n/JPEGImages/2.jpg /SegmentationClassAug/2.png\nelsewhere\n")
    printed = must("ids", *data).out.splitlines()
    (place / "other.jsonl").write_text(printed[3] + "\n")
    left = must("ids", *data, "--except", place / "val.txt", "--except", place / "other.jsonl").out.splitlines()
    assert left == printed[:1]
    both = "\n".join([printed[3], *left]).encode()
    assert must("ids", "--data", "-", stdin=both).out.splitlines() == [printed[3], printed[0]]
    (place / "all.txt").write_text("0\n1\n2\n3\n")
    outcome = call("ids", *data, "--except", place / "all.txt")
    assert outcome.code == 3 and "no images but those of --except" in outcome.err
    outcome = call("ids", *data, "--except", place / "gone.txt")
    assert outcome.code == 3 and "gone.txt" in outcome.err
