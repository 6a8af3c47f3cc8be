"""Manifests as JSON lines, CSV and TSV, from a file and from stdin."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

from drstool.data import load_target, open_dataset
from drstool.errors import InputError
from drstool.stages.ids import ids


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((3, 4), np.uint8)).save(path)
    return path


def lines(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path):
    for name in ("a", "b", "c", "mask", "sal"):
        picture(tmp_path / "img" / f"{name}.png")
    return tmp_path


A = {"id": "a", "image": "img/a.png", "tags": ["dog", "cat"], "mask": "img/mask.png",
     "saliency": "img/sal.png"}
B = {"id": "b", "image": "img/b.png", "tags": ["cat"]}
C = {"id": "c", "image": "img/c.png"}


def test_json_lines(folder):
    dataset = open_dataset(str(lines(folder / "m.jsonl", A, B, C)))
    a, b, c = dataset.items
    assert dataset.class_names == ("cat", "dog") and dataset.tags_source == "manifest"
    assert a.tags == ("cat", "dog") and b.tags == ("cat",) and c.tags is None
    assert (a.image, a.mask, a.saliency) == tuple(
        folder / "img" / f"{name}.png" for name in ("a", "mask", "sal"))
    assert b.mask is None and b.saliency is None
    assert load_target(a).shape == (3, 4)


def test_csv_and_tsv(folder):
    (folder / "m.csv").write_text(
        '\ufeffid,image,tags,mask,extra\na,img/a.png,dog; cat,img/mask.png,1\r\n'
        '"b, c",img/b.png,cat,,\nc,img/c.png,,,\n', encoding="utf-8")
    dataset = open_dataset(str(folder / "m.csv"))
    assert [item.id for item in dataset.items] == ["a", "b, c", "c"]
    assert [item.tags for item in dataset.items] == [("cat", "dog"), ("cat",), None]
    (folder / "m.tsv").write_text("id\timage\na\timg/a.png\n")
    dataset = open_dataset(str(folder / "m.tsv"))
    assert dataset.items[0].tags is None and dataset.class_names is None
    assert dataset.tags_source == "none"


def test_stdin_starts_at_the_current_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)
    text = json.dumps(B) + "\n\n" + json.dumps(C)
    dataset = open_dataset("-", "train", stdin=io.StringIO(text))
    assert str(dataset.items[0].image) == "img/b.png" and len(dataset) == 2
    with pytest.raises(InputError, match="stdin: lists no images"):
        open_dataset("-", stdin=io.StringIO(""))


def test_stdin_is_utf8_whatever_the_locale(folder, monkeypatch):
    monkeypatch.chdir(folder)
    row = json.dumps({**B, "id": "Größe"}, ensure_ascii=False).encode()
    stdin = io.TextIOWrapper(io.BytesIO(row), encoding="ascii")
    assert open_dataset("-", stdin=stdin).items[0].id == "Größe"
    with pytest.raises(InputError, match="stdin: line 1 is not UTF-8"):
        open_dataset("-", stdin=io.TextIOWrapper(io.BytesIO(b"\xff\xff")))


@pytest.mark.parametrize("identifier", [
    "x/y z/ü.v1", "日本", "a.b.c", " lead", 'quo"te', "a;b,c\\d"])
def test_ids_round_trip(folder, monkeypatch, identifier):
    monkeypatch.chdir(folder)
    dataset = open_dataset(str(lines(folder / "m.jsonl", {**A, "id": identifier}, B)))
    again = open_dataset("-", stdin=io.StringIO("\n".join(ids(dataset))))
    assert again.items == dataset.items and again.digest() == dataset.digest()


def test_file_name_that_is_no_utf8(folder):
    try:
        picture(folder / "img" / "\udcff.png")
    except (OSError, UnicodeError):
        pytest.skip("the file system takes UTF-8 names only")
    dataset = open_dataset(str(lines(folder / "m.jsonl", {"id": "a", "image": "img/\udcff.png"})))
    line, = ids(dataset)
    assert line.isascii() and json.loads(line)["image"].endswith("\udcff.png")


def test_digest_is_of_ids_and_tags(folder):
    one = open_dataset(str(lines(folder / "1.jsonl", A, B)))
    two = open_dataset(str(lines(folder / "2.jsonl", {**A, "mask": None}, B)))
    three = open_dataset(str(lines(folder / "3.jsonl", {**A, "tags": ["dog"]}, B)))
    assert one.digest() == two.digest() != three.digest() and len(one.digest()) == 64


def test_splits(folder):
    path = str(lines(folder / "m.jsonl", {**A, "split": "train"}, {**B, "split": "val"}, C))
    assert [item.id for item in open_dataset(path, "val").items] == ["b"]
    assert open_dataset(path, "val").class_names == ("cat", "dog")
    assert len(open_dataset(path).items) == 3
    with pytest.raises(InputError, match="has no split 'test'; choose from train, val"):
        open_dataset(path, "test")
    path = str(lines(folder / "n.jsonl", A))
    with pytest.raises(InputError, match="has no splits; .*omit --split train"):
        open_dataset(path, "train")


def test_class_names_stated(folder):
    path = lines(folder / "m.jsonl", {"class_names": ["dog", "cat", "fish"]}, A, {**B, "tags": [2]})
    dataset = open_dataset(str(path))
    assert dataset.class_names == ("dog", "cat", "fish")
    assert [item.tags for item in dataset.items] == [("dog", "cat"), ("fish",)]
    with pytest.raises(InputError, match="'class_names' is not a list"):
        open_dataset(str(lines(folder / "n.jsonl", {"class_names": "dog"}, A)))


@pytest.mark.parametrize("rows, message", [
    (["{"], "line 1: is not JSON"),
    (["[" * 100_000], "line 1: is not JSON"),
    (['["a"]'], "line 1: is not a JSON object"),
    ([json.dumps(A), "nonsense"], "line 2: is not JSON"),
    (['{"tags": ["cat"]}'], "has no 'image' and no 'id'"),
    (['{"id": "a"}'], "has no 'image'; .*--images"),
    (['{"id": 7, "image": "img/a.png"}'], "7 is not an image id"),
    (['{"id": "", "image": "img/a.png"}'], "is not an image id"),
    (['{"id": "../a", "image": "img/a.png"}'], "outside the output folder"),
    (['{"id": "/a", "image": "img/a.png"}'], "outside the output folder"),
    (['{"id": "a\\u0000", "image": "img/a.png"}'], "control character"),
    (['{"id": "a", "image": "img/gone.png"}'], r"image 'a' is missing: .*img/gone\.png"),
    (['{"id": "a", "image": 5}'], "'image' is not a valid text"),
    (['{"id": "a", "image": "img/\\u0000"}'], "'image' is not a valid text"),
    (['{"id": "a", "image": "img/a.png", "tags": {"cat": 1}}'], "'tags' is not a list"),
    (['{"id": "a", "image": "img/a.png", "tags": [true]}'], "'tags' is not a list"),
    (['{"id": "a", "image": "img/a.png", "tags": [3]}'], "the classes have no names"),
    (['{"id": "a", "image": "img/a.png", "tags": [1, 0, 1]}'], "repeats a number in the tags '1 0 1'"),
    (['{"id": "a", "image": "img/a.png", "tags": ["cat", 3]}'], "tag 3, which is not a class"),
    (['{"id": "a", "image": "img/a.png", "tags": ["background"]}'], "'background' as an object"),
    (['{"id": "a", "image": "img/a.png", "tags": [""]}'], "empty class name"),
    ([json.dumps(A), json.dumps(A)], "lists id 'a' twice"),
    ([], "lists no images"),
])
def test_bad_json_lines(folder, rows, message):
    path = folder / "m.jsonl"
    path.write_text("\n".join(rows))
    with pytest.raises(InputError, match=message) as caught:
        open_dataset(str(path))
    assert "\n" not in str(caught.value) and "m.jsonl" in str(caught.value)


@pytest.mark.parametrize("text, message", [
    ("", "is empty; the first line names the columns"), ("\n \n", "is empty"),
    ("a,img/a.png\n", r"has the columns 'a', 'img/a\.png', but none of an id \(id, .*\) or an image \(image, file, "),
    ("id,tags\na,cat\n", "line 2: has no 'image'; .*--images"),
    ("id,image,tags\n", "lists no images"),
    ("tags,image\ncat,\n", "line 2: has no 'image' and no 'id'"),
    ("id,image\na\n", "line 2: has no 'image'"),
    ("id,image\na,img/a.png,cat\n", "line 2: has more columns"),
    ('id,image\na,"img/a.png\n', "is not a valid row"),
    ("id,image\na,img/a.png\na,img/b.png\n", "lists id 'a' twice"),
    ("nr;photo;tags\na;img/a.png;cat\n", "has the columns 'nr', 'photo', 'tags', but none of an id"),
    ("PK\3\4...", "is not text, but a spreadsheet's own file or another archive; save it as CSV"),
])
def test_bad_csv(folder, text, message):
    (folder / "m.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        open_dataset(str(folder / "m.csv"))


def test_undecodable(folder):
    for name in ("m.csv", "m.jsonl"):
        (folder / name).write_bytes(b"id,image\na,\xff\xfe\n")
        with pytest.raises(InputError, match="line 2 is not UTF-8 text"):
            open_dataset(str(folder / name))
