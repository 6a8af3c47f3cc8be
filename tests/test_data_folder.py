"""A folder with one subfolder of images per class."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from drstool.data import open_dataset
from drstool.errors import InputError, UsageError


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((3, 4), np.uint8)).save(path)
    return path


def test_tags_are_folder_names(tmp_path):
    for name in ("dog/1.jpg", "dog/2.PNG", "cat/1.jpg", "zwei Wörter/ä b.c.jpg"):
        picture(tmp_path / name)
    (tmp_path / "dog" / "notes.txt").write_text("x")
    (tmp_path / "dog" / "._1.jpg").write_text("x")
    (tmp_path / "empty").mkdir()
    picture(tmp_path / ".hidden" / "1.jpg")
    dataset = open_dataset(str(tmp_path))
    assert [item.id for item in dataset.items] == ["cat/1", "dog/1", "dog/2", "zwei Wörter/ä b.c"]
    assert dataset.class_names == ("cat", "dog", "zwei Wörter") and dataset.tags_source == "folder"
    assert dataset.items[2].tags == ("dog",) and dataset.items[2].image == tmp_path / "dog/2.PNG"


def test_splits_number_the_classes_alike(tmp_path):
    for name in ("train/dog/1.jpg", "train/cat/1.jpg", "val/dog/7.jpg"):
        picture(tmp_path / name)
    dataset = open_dataset(str(tmp_path), "val")
    assert [item.id for item in dataset.items] == ["dog/7"]
    assert dataset.class_names == ("cat", "dog")
    with pytest.raises(UsageError, match="has several splits: train, val; choose one"):
        open_dataset(str(tmp_path))
    with pytest.raises(InputError, match="has no split 'test'"):
        open_dataset(str(tmp_path), "test")


def test_one_id_for_two_images(tmp_path):
    picture(tmp_path / "dog" / "1.jpg")
    picture(tmp_path / "dog" / "1.png")
    with pytest.raises(InputError, match=r"1\.png: would have the same id as 1\.jpg: 'dog/1'"):
        open_dataset(str(tmp_path))


def test_no_dataset(tmp_path):
    with pytest.raises(InputError, match="has no subfolder with images"):
        open_dataset(str(tmp_path))
    picture(tmp_path / "VOC2012" / "JPEGImages" / "1.jpg")
    with pytest.raises(InputError, match="did you mean the VOC folder .*VOC2012"):
        open_dataset(str(tmp_path))
    picture(tmp_path / "other" / "part1" / "dog" / "1.jpg")
    with pytest.raises(InputError, match="has no subfolder with images; did you mean --split part1"):
        open_dataset(str(tmp_path / "other"))


def test_background_is_no_class(tmp_path):
    picture(tmp_path / "background" / "1.jpg")
    with pytest.raises(InputError, match="names no object class"):
        open_dataset(str(tmp_path))
