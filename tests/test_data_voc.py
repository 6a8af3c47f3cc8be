"""VOC folders: splits, tags, class names, masks, and everything that can be wrong with them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from drstool.data import open_dataset, require_tags
from drstool.errors import InputError, UsageError

NAMES = ("bird", "cat", "dog")


def picture(path, size=(3, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros(size, np.uint8)).save(path)
    return path


def annotation(root, identifier, *names, text=None):
    objects = "".join(f"<object><name>{n}</name><part><name>head</name></part></object>"
                      for n in names)
    path = root / "Annotations" / f"{identifier}.xml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text or f"<annotation><source><name>x</name></source>{objects}</annotation>",
                    encoding="utf-8")
    return path


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def split_list(root, name, *lines, folder="Segmentation"):
    return write(root / "ImageSets" / folder / f"{name}.txt", "".join(f"{x}\n" for x in lines))


@pytest.fixture
def voc(tmp_path):
    root = tmp_path / "VOC2012"
    for identifier, names in (("a", ("dog", "cat", "dog")), ("b", ("bird",)), ("c", ("cat",))):
        picture(root / "JPEGImages" / f"{identifier}.jpg")
        annotation(root, identifier, *names)
    picture(root / "SegmentationClass" / "a.png")
    picture(root / "saliency_map" / "b.png")
    split_list(root, "train", "a", "b")
    split_list(root, "val", "c")
    return root


def test_tags_of_annotations(voc):
    dataset = open_dataset(str(voc), "train")
    assert [item.id for item in dataset.items] == ["a", "b"]
    assert dataset.class_names == NAMES and dataset.tags_source == "annotations"
    a, b = dataset.items
    assert a.tags == ("cat", "dog") and b.tags == ("bird",)
    assert a.image == voc / "JPEGImages" / "a.jpg"
    assert a.mask == voc / "SegmentationClass" / "a.png" and b.mask is None
    assert a.saliency is None and b.saliency == voc / "saliency_map" / "b.png"
    require_tags(dataset)


def test_relative_paths_stay_relative(voc, monkeypatch):
    monkeypatch.chdir(voc.parent)
    item = open_dataset("VOC2012", "train").items[0]
    assert str(item.image) == "VOC2012/JPEGImages/a.jpg" and not item.mask.is_absolute()


def test_tags_of_a_list_win(voc):
    split_list(voc, "train_cls", "a 0", "b 1")
    with pytest.raises(InputError, match="do not match the 3 class names found"):
        open_dataset(str(voc), "train")
    split_list(voc, "train_cls", "a 2 1", "b 0", "c 1")
    dataset = open_dataset(str(voc), "train")
    assert [item.tags for item in dataset.items] == [("cat", "dog"), ("bird",)]
    assert dataset.tags_source == "list"
    again = open_dataset(str(voc), str(voc / "ImageSets/Segmentation/train_cls.txt"))
    assert [item.id for item in again.items] == ["a", "b", "c"]


def test_tags_never_come_from_masks(voc):
    for identifier in "abc":
        (voc / "Annotations" / f"{identifier}.xml").unlink()
    dataset = open_dataset(str(voc), "train")
    assert [item.tags for item in dataset.items] == [None, None]
    assert dataset.class_names is None and dataset.tags_source == "none"
    with pytest.raises(InputError, match="no image has tags; give --tags FILE"):
        require_tags(dataset)


def test_split_as_a_file_and_from_other_folders(voc, tmp_path):
    ids = write(tmp_path / "some.txt", "\ufeffb 1\r\n\r\n  a\t7\r\n")
    assert [item.id for item in open_dataset(str(voc), str(ids)).items] == ["b", "a"]
    split_list(voc, "mini", "c", folder="Main")
    assert [item.id for item in open_dataset(str(voc), "mini").items] == ["c"]
    split_list(voc, "tiny", "b", folder=".")
    assert [item.id for item in open_dataset(str(voc), "tiny").items] == ["b"]
    files = write(tmp_path / "files.txt", "/JPEGImages/a.jpg /SegmentationClassAug/a.png\n")
    assert [item.id for item in open_dataset(str(voc), str(files)).items] == ["a"]


def test_no_split(voc):
    with pytest.raises(UsageError, match="has several splits: train, val") as caught:
        open_dataset(str(voc))
    assert caught.value.exit_code == 2
    (voc / "ImageSets/Segmentation/val.txt").unlink()
    assert len(open_dataset(str(voc)).items) == 2
    (voc / "ImageSets/Segmentation/train.txt").unlink()
    assert [item.id for item in open_dataset(str(voc)).items] == ["a", "b", "c"]


def test_augmented_masks_win(voc):
    picture(voc / "SegmentationClassAug" / "b.png")
    a, b = open_dataset(str(voc), "train").items
    assert a.mask == voc / "SegmentationClass" / "a.png"
    assert b.mask == voc / "SegmentationClassAug" / "b.png"


def test_class_names_in_order_of_trust(voc):
    annotation(voc, "c", "zebra")
    assert open_dataset(str(voc), "train").class_names == ("bird", "cat", "dog", "zebra")
    for name in ("dog", "cat", "bird"):
        split_list(voc, f"{name}_train", "a -1", folder="Main")
    split_list(voc, "my_train", "a", folder="Main")
    assert open_dataset(str(voc), "train").class_names == NAMES
    write(voc / "classes.txt", "dog\ncat\nbird\nfish\n")
    dataset = open_dataset(str(voc), "train")
    assert dataset.class_names == ("dog", "cat", "bird", "fish")
    assert dataset.items[0].tags == ("dog", "cat")


def test_image_endings(voc):
    (voc / "JPEGImages" / "a.jpg").rename(voc / "JPEGImages" / "a.JPEG")
    (voc / "JPEGImages" / "b.jpg").rename(voc / "JPEGImages" / "b.png")
    items = open_dataset(str(voc), "train").items
    assert [item.image.name for item in items] == ["a.JPEG", "b.png"]


@pytest.mark.parametrize("identifier", [
    "street/2007_000001", "with space", "v1.0.final", "Größe", "日本/写真", "a/b/c.d e", "-x", "#1",
])
def test_ids_of_any_kind(voc, identifier):
    picture(voc / "JPEGImages" / f"{identifier}.jpg")
    picture(voc / "SegmentationClass" / f"{identifier}.png")
    annotation(voc, identifier, "cat")
    split_list(voc, "odd", identifier)
    item, = open_dataset(str(voc), "odd").items
    assert item.id == identifier and item.tags == ("cat",)
    assert item.image.is_file() and item.mask.is_file()
    split_list(voc, "odd_cls", f"{identifier} 0 1")
    item, = open_dataset(str(voc), "odd", class_names=NAMES).items
    assert item.id == identifier and item.tags == ("bird", "cat")


def test_accents_stored_apart_are_found(voc):
    picture(voc / "JPEGImages" / "u\u0308ber.jpg")
    split_list(voc, "odd", "\u00fcber")
    item, = open_dataset(str(voc), "odd").items
    assert item.id == "\u00fcber" and item.image.is_file()


@pytest.mark.parametrize("identifier", ["../a", "/etc/passwd", "x/../a", "a//b", "./a", "a/"])
def test_ids_that_leave_the_folder(voc, identifier):
    split_list(voc, "evil", identifier)
    with pytest.raises(InputError, match="could name a file outside"):
        open_dataset(str(voc), "evil")


def test_missing_things(voc, tmp_path):
    with pytest.raises(InputError, match="no such file or folder"):
        open_dataset(str(tmp_path / "gone"), "train")
    with pytest.raises(InputError, match="has no split 'test'; choose from train, val"):
        open_dataset(str(voc), "test")
    split_list(voc, "bad", "a", "2007_999999")
    with pytest.raises(InputError, match=r"bad\.txt: names '2007_999999', which has no image"):
        open_dataset(str(voc), "bad")


def test_split_and_lists_that_are_neither(voc, tmp_path):
    with pytest.raises(InputError, match="has no split"):
        open_dataset(str(voc), "x" * 5000)
    with pytest.raises(InputError, match="has no split"):
        open_dataset(str(voc), "a\0b")
    (tmp_path / "binary.txt").write_bytes(b"a b\0c d\n")
    assert [i.id for i in open_dataset(str(voc), str(tmp_path / "binary.txt")).items] == ["a"]
    (tmp_path / "binary.txt").write_bytes(b"- \0\n\0\n")
    with pytest.raises(InputError, match="control character"):
        open_dataset(str(voc), str(tmp_path / "binary.txt"))
    (tmp_path / "long.txt").write_text("{ " * 500_000)
    with pytest.raises(InputError, match="names '{', which has no image"):
        open_dataset(str(voc), str(tmp_path / "long.txt"))


def test_bad_lists(voc):
    split_list(voc, "twice", "a", "b", "a")
    with pytest.raises(InputError, match="lists id 'a' twice"):
        open_dataset(str(voc), "twice")
    split_list(voc, "empty")
    with pytest.raises(InputError, match="lists no images"):
        open_dataset(str(voc), "empty")
    (voc / "ImageSets/Segmentation/latin.txt").write_bytes("a\nGröße\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"latin\.txt: line 2 is not UTF-8 text"):
        open_dataset(str(voc), "latin")


def test_bad_tag_lists(voc):
    split_list(voc, "train_cls", "a 1 2", "b 7")
    with pytest.raises(InputError, match="do not match"):
        open_dataset(str(voc), "train")
    with pytest.raises(InputError, match="image 'b' has the tag 7, which is not a class; .* 0 to 2"):
        open_dataset(str(voc), "train", class_names=NAMES)
    split_list(voc, "train_cls", "a 1 2", "a 1")
    with pytest.raises(InputError, match="lists id 'a' twice"):
        open_dataset(str(voc), "train")
    split_list(voc, "train_cls")
    with pytest.raises(InputError, match="is empty"):
        open_dataset(str(voc), "train")
    split_list(voc, "train_cls", "a 1", "b 0")
    for identifier in "abc":
        (voc / "Annotations" / f"{identifier}.xml").unlink()
    with pytest.raises(InputError, match="class numbers, but the classes have no names; .*--classes"):
        open_dataset(str(voc), "train")


def test_a_tag_that_is_no_class(voc):
    write(voc / "classes.txt", "bird\ncat\n")
    with pytest.raises(InputError, match="image 'a' has the tag 'dog', which is not a class"):
        open_dataset(str(voc), "train")


@pytest.mark.parametrize("text", [
    "<annotation><object>",
    "no xml at all",
    '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation><object><name>&x;</name>'
    "</object></annotation>",
    '<!DOCTYPE a [<!ENTITY a "aa"><!ENTITY b "&a;&a;">]><annotation/>',
    "<annotation><object><name>&unknown;</name></object></annotation>",
    '<?xml version="1.0" encoding="nonsense"?><annotation/>',
])
def test_bad_annotations(voc, text):
    annotation(voc, "a", text=text)
    with pytest.raises(InputError, match=r"a\.xml: ") as caught:
        open_dataset(str(voc), "train")
    assert "\n" not in str(caught.value)


def test_utf16_annotation_hides_no_entity(voc):
    path = annotation(voc, "a")
    path.write_bytes('<!DOCTYPE a [<!ENTITY x "y">]><annotation/>'.encode("utf-16"))
    with pytest.raises(InputError, match=r"a\.xml: declares a document type"):
        open_dataset(str(voc), "train")


def test_an_image_without_objects(voc):
    annotation(voc, "b")
    dataset = open_dataset(str(voc), "train")
    assert dataset.items[1].tags == ()
    # Annotated as holding none: a negative.
    require_tags(dataset)


def test_opening_decodes_no_picture(voc):
    (voc / "JPEGImages" / "a.jpg").write_bytes(b"")
    (voc / "SegmentationClass" / "a.png").write_bytes(b"")
    assert len(open_dataset(str(voc), "train").items) == 2
