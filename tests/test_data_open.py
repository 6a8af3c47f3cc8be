"""Class names and tags given beside the data, against what the data say."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import call
from PIL import Image

from drstool.data import open_dataset, require_tags
from drstool.data.tags import read_class_names
from drstool.errors import InputError


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((3, 4), np.uint8)).save(path)
    return path


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.fixture
def data(tmp_path):
    rows = []
    for identifier, tags in (("a", ["dog"]), ("my b", ["cat", "dog"]), ("c", ["cat"])):
        picture(tmp_path / f"{identifier}.png")
        rows.append({"id": identifier, "image": f"{identifier}.png", "tags": tags})
    return write(tmp_path / "m.jsonl", "\n".join(map(json.dumps, rows)))


def test_names_of_a_checkpoint_set_the_order(data):
    dataset = open_dataset(data, class_names=["dog", "emu", "cat"])
    assert dataset.class_names == ("dog", "emu", "cat")
    assert dataset.items[1].tags == ("dog", "cat")
    with pytest.raises(InputError, match="image 'my b' has the tag 'cat', which is not a class"):
        open_dataset(data, class_names=["dog"])


def test_names_of_a_list(data, tmp_path):
    classes = write(tmp_path / "classes.txt", "emu\ndog\ncat\n")
    dataset = open_dataset(data, classes=classes)
    assert dataset.class_names == ("emu", "dog", "cat") and dataset.items[1].tags == ("dog", "cat")
    assert open_dataset(data, classes=classes, class_names=dataset.class_names) == dataset
    with pytest.raises(InputError, match="in another order"):
        open_dataset(data, classes=classes, class_names=["dog", "cat", "emu"])
    with pytest.raises(InputError, match="it also has 'emu', it lacks 'fish'"):
        open_dataset(data, classes=classes, class_names=["fish", "dog", "cat"])


@pytest.mark.parametrize("text, message", [
    ("", "names no object class"), ("cat\ncat\n", "'cat' twice"),
    ("cat\nbackground\n", "lists 'background' as an object class"),
    ("0 background\n2 dog\n", "numbers its classes 0, 2, which does not count all lines from 0 or 1"),
    ("0: background\ncat\n", "numbers its classes 0, which"), ("cat,dog\n", "is not a list of names: 'cat,dog'"),
    ("background cat dog\n", "is not a list of names"), ("name,r,g,b\ncat,1,2,3\n", "is not a list of names"),
    ("name,id\ncat,0\n", "is not a list of names"), ("label,category\ncat,animal\n", "is not a list of names"),
    ("0 cat\n2 dog\n", "numbers its classes 0, 2"), ("'cat',\n'dog',\n", "is not a list of names"),
    ("item {\n id: 1\n name: 'cat'\n}\n", "is not a list of names"), ('{"cat": 0}', "is not a list of names"),
    ('["cat", 1]', "is not a JSON list of names"), ("[", "is not a JSON list of names"),
])
def test_bad_class_lists(data, tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        open_dataset(data, classes=write(tmp_path / "classes.txt", text))
    with pytest.raises(InputError, match=r"gone\.txt: cannot be read: No such file"):
        open_dataset(data, classes=str(tmp_path / "gone.txt"))


@pytest.mark.parametrize("text, told", [
    ("0 cat\n1 dog\n2 fish\n3 emu", True), ("1: cat\n2: dog\n3: fish\n4: emu", True),
    ("# x\ncat\ndog\nfish\nemu", True), ("0,background\n1,cat\n2,dog\n3,fish\n4,emu", True),
    ("id,name\n1,cat\n2,dog\n3,fish\n4,emu", True),
    ('["background", "cat",\n "dog", "fish", "emu"]', True), ("cat\ndog\nfish\nemu", False),
])
def test_numbers_and_json_in_class_lists(data, tmp_path, text, told):
    classes = write(tmp_path / "classes.txt", text)
    dataset = open_dataset(data, classes=classes)
    assert dataset.class_names == ("cat", "dog", "fish", "emu")
    assert any(line.startswith(f"{classes}: read as the classes ") for line in dataset.notices) == told


@pytest.mark.parametrize("names", [
    ("1 euro", "2 euro"), ("001.Wren", "002.Jay"), ("class 1", "class 2"), ("tench, Tinca tinca", "goldfish"),
    ("50 cent", "1 euro"), ("3 musketeers", "5 gum"), ("2 wheeler",), ("helmet", "none", "nothing")])
def test_numbers_and_commas_may_belong_to_names(tmp_path, names):
    assert read_class_names(write(tmp_path / "classes.txt", "\n".join(names))) == (names, (), False)


def test_a_background_first_in_a_class_list_is_told(data, tmp_path):
    classes = write(tmp_path / "class_names.txt", "__ignore__\n_background_\ncat\ndog\n")
    dataset = open_dataset(data, classes=classes)
    assert dataset.class_names == ("cat", "dog")
    told, = dataset.notices
    assert told.startswith(f"{classes}: '__ignore__' and '_background_' are taken for")
    assert open_dataset(data, classes=classes, images_only=True).notices == (told,)
    assert open_dataset(data).notices == ()


def test_so_it_is_of_a_voc_folder_and_of_a_manifest(tmp_path):
    picture(tmp_path / "voc" / "JPEGImages" / "a.png")
    write(tmp_path / "voc" / "classes.txt", "Background\ncat\n")
    assert open_dataset(str(tmp_path / "voc")).class_names == ("cat",)
    rows = '{"class_names": ["BG", "cat"]}\n{"id": "a", "image": "voc/JPEGImages/a.png", "tags": ["cat"]}\n'
    dataset = open_dataset(write(tmp_path / "m.jsonl", rows))
    assert dataset.class_names == ("cat",)
    assert dataset.notices == (f"{tmp_path / 'm.jsonl'} line 1: 'BG' is taken for the background; 'cat' is label 1",)
    assert [len(open_dataset(str(place)).notices) for place in (tmp_path / "voc", tmp_path / "m.jsonl")] == [1, 1]


def test_the_notices_of_a_dataset_are_told_once(data, tmp_path):
    classes = write(tmp_path / "class_names.txt", "_background_\ncat\ndog\n")
    shared = ("--data", data, "--classes", classes)
    outcome = call("ids", *shared)
    assert outcome.code == 0 and len(outcome.out.splitlines()) == 3
    assert outcome.err == f"ids: {classes}: '_background_' is taken for the background; 'cat' is label 1\n"
    assert call("ids", *shared, "-q").err == ""
    # Opened once for each input, told once.
    for name in ("x", "y"):
        for identifier in ("a", "my b", "c"):
            picture(tmp_path / name / f"{identifier}.png")
    write(tmp_path / "masks.csv", "id,image,tags,mask\n" + "".join(
        f"{i},{i}.png,cat,{i}.png\n" for i in ("a", "my b", "c")))
    outcome = call("eval", tmp_path / "x", tmp_path / "y", "--data", tmp_path / "masks.csv", "--classes", classes)
    assert (outcome.code, outcome.err.count("is taken for the background")) == (0, 1), outcome.err


def test_tags_of_a_file_replace_those_of_the_data(data, tmp_path):
    tags = write(tmp_path / "t_cls.txt", "a 0\nmy b 1\nelsewhere 0\n")
    dataset = open_dataset(data, tags=tags)
    assert [item.tags for item in dataset.items] == [("cat",), ("dog",), None]
    assert dataset.tags_source == "file"
    with pytest.raises(InputError, match="image 'c' has no tags"):
        require_tags(dataset)
    tags = write(tmp_path / "t.txt", "a cat dog cat\nmy b\tdog\nc\n")
    assert [item.tags for item in open_dataset(data, tags=tags).items] == [
        ("cat", "dog"), ("dog",), None]
    assert open_dataset(data, tags=tags, empty_tags="negative").items[2].tags == ()


def test_tags_of_a_manifest(data, tmp_path):
    tags = write(tmp_path / "t.csv", "id,tags\na,cat;dog\nc,\n")
    assert [item.tags for item in open_dataset(data, tags=tags).items] == [("cat", "dog"), None, None]
    assert open_dataset(data, tags=tags, empty_tags="negative").items[2].tags == ()
    tags = write(tmp_path / "t.csv", "id,tags\na,1;0\nc,0\n")
    assert open_dataset(data, tags=tags).items[0].tags == ("cat", "dog")
    with pytest.raises(InputError, match="has no column of tags"):
        open_dataset(data, tags=write(tmp_path / "u.csv", "id,image\na,a.png\n"))
    with pytest.raises(InputError, match="line 3: lists id 'a' twice, first in line 2;"):
        open_dataset(data, tags=write(tmp_path / "u.csv", "id,tags\na,cat\na,cat\n"))


def test_tags_of_a_file_can_name_the_classes(tmp_path):
    picture(tmp_path / "a.png")
    data = write(tmp_path / "m.csv", "id,image\na,a.png\n")
    tags = write(tmp_path / "t.txt", "a emu\nb cat\n")
    dataset = open_dataset(data, tags=tags)
    assert dataset.class_names == ("cat", "emu") and dataset.items[0].tags == ("emu",)
    with pytest.raises(InputError, match="the classes have no names"):
        open_dataset(data, tags=write(tmp_path / "n.txt", "a 0\n"))


@pytest.mark.parametrize("text, message", [
    ("", "is empty"), ("x 0\n", "has tags for none of the images"), ("a 0\na 1\n", "twice"),
    ("a 5\n", "tag 5, which is not a class"), ("a emu\n", "tag 'emu', which is not a class"),
    ("a -1\n", "tag '-1', which is not a class"),
])
def test_bad_tag_files(data, tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        open_dataset(data, tags=write(tmp_path / "t.txt", text))


def test_classes_called_by_digits(tmp_path):
    picture(tmp_path / "3" / "x.png")
    picture(tmp_path / "7" / "y.png")
    tags = write(tmp_path / "t.txt", "3/x 7\n7/y 0\n")
    assert [item.tags for item in open_dataset(str(tmp_path), tags=tags).items] == [("7",), ("3",)]


def test_missing_and_unknown(tmp_path):
    with pytest.raises(InputError, match="no such file or folder"):
        open_dataset(str(tmp_path / "gone.jsonl"))
    with pytest.raises(InputError, match="not a dataset of a known layout"):
        open_dataset(write(tmp_path / "data.docx", "x"))
    with pytest.raises(InputError):
        open_dataset("a\0b")


def test_datasets_need_no_torch():
    code = ("import sys, drstool.data, drstool.stages.ids; "
            "sys.exit(any(n == 'torch' for n in sys.modules))")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_images_only_takes_data_of_any_classes(data):
    dataset = open_dataset(data, class_names=["fish"], images_only=True)
    assert dataset.class_names == ("fish",) and dataset.tags_source == "none"
    assert [item.id for item in dataset.items] == ["a", "my b", "c"]
    assert {(item.tags, item.mask) for item in dataset.items} == {(None, None)}
