"""Lists of tags in the forms that the field uses, cls_labels.npy among them, and what must not be guessed."""

import json
import pickle
import sys

import numpy as np
import pytest
from PIL import Image

from drstool.data import open_dataset
from drstool.errors import InputError

NAMES = ("person", "traffic light", "tv/monitor", "zebra")
TRUTH = {"x1": ("person",), "x2": ("traffic light",), "x3": ("person", "traffic light"), "x4": ("tv/monitor",)}
NUMBERS = {name: [NAMES.index(tag) for tag in tags] for name, tags in TRUTH.items()}
HOT = {name: [int(tag in tags) for tag in NAMES] for name, tags in TRUTH.items()}


def voc(root, ids, classes=NAMES):
    (root / "JPEGImages").mkdir(parents=True)
    for name in ids:
        Image.fromarray(np.zeros((3, 4), np.uint8)).save(root / "JPEGImages" / f"{name}.jpg")
    if classes:
        (root / "classes.txt").write_text("\n".join(classes) + "\n")
    return root


@pytest.fixture
def data(tmp_path):
    return str(voc(tmp_path / "V", TRUTH))


def tags_of(data, path, text, **options):
    path.write_text(text, encoding="utf-8")
    return {item.id: item.tags for item in open_dataset(data, tags=str(path), **options).items}


def lines(rows, mark=" ", end="\n"):
    return "".join(f"{name}{mark}{mark.join(map(str, row))}{end}" for name, row in rows.items())


@pytest.mark.parametrize("text", [
    lines(TRUTH), lines(TRUTH, "\t"), lines({name: [f'"{tag}"' for tag in tags] for name, tags in TRUTH.items()}),
    lines({name: [", ".join(tags)] for name, tags in TRUTH.items()}),
    lines({name: [";".join(tags)] for name, tags in TRUTH.items()}), lines(TRUTH, ","), lines(TRUTH, end=" \r\n"),
    lines(NUMBERS), lines(NUMBERS, "\t"), lines(NUMBERS, ","), lines(HOT), lines(HOT, "\t"), lines(HOT, ","),
    lines({name: [f"{flag}.0" for flag in row] for name, row in HOT.items()}),
    lines({name: [bool(flag) for flag in row] for name, row in HOT.items()}),
    lines({name: [("no", "yes")[flag] for flag in row] for name, row in HOT.items()}),
    "id\t" + "\t".join(NAMES) + "\n" + lines(HOT, "\t"), "image," + ",".join(NAMES) + "\n" + lines(HOT, ","),
    "id tags\n" + lines(TRUTH),
    lines({f"JPEGImages/{name}.jpg": row for name, row in NUMBERS.items()}),
    lines({f"/home/me/VOC2012/JPEGImages/{name}.jpg": row for name, row in TRUTH.items()}),
    lines({f"img\\{name}.JPG": row for name, row in TRUTH.items()}, "\t"),
])
def test_lists_of_every_form_have_the_same_tags(data, tmp_path, text):
    assert tags_of(data, tmp_path / "tags.txt", text) == TRUTH


@pytest.mark.parametrize("names, text, told", [
    (("cat",), "x1 0\nx2 1\n", "rows of 0 and 1 are taken for not having or having the class"),
    (("cat",), "x1 0\nx2 0\n", "the 0 of every image is taken for the number of class 'cat'"),
    (("cat", "dog"), "x1 0 1\nx2 1 1\n", "rows of 0 and 1 are taken for one column per class"),
])
def test_what_numbers_are_taken_for_is_told(tmp_path, names, text, told):
    for name in ("x1", "x2"):
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "list.txt").write_text(text)
    rows = [line.split() for line in text.splitlines()]
    (tmp_path / "m.csv").write_text("id,image,tags\n" + "".join(
        f"{name},{name}.png,{';'.join(tags)}\n" for name, *tags in rows))
    (tmp_path / "m.jsonl").write_text(json.dumps({"class_names": names}) + "\n" + "".join(
        json.dumps({"id": name, "image": f"{name}.png", "tags": list(map(int, tags))}) + "\n" for name, *tags in rows))
    (tmp_path / "images.txt").write_text(text.replace(" ", ".png ", 1).replace("\nx2", "\nx2.png"))
    (tmp_path / "classes.txt").write_text("\n".join(names))
    for path, how in (("list.txt", {}), ("m.csv", {}), ("m.jsonl", {"classes": None}), ("images.txt", {})):
        how = {"classes": str(tmp_path / "classes.txt"), **how}
        if path == "list.txt":
            dataset = open_dataset(str(tmp_path / "*.png"), tags=str(tmp_path / path), **how)
        else:
            dataset = open_dataset(str(tmp_path / path), **how)
        assert f"{tmp_path / path}: {told}" in dataset.notices


@pytest.mark.parametrize("text, message", [
    ("x1 1 0 0\nx2 0 1 0\n", "repeats a number in the tags '1 0 0'; rows of 0 and 1 need a column per class, here 4"),
    ("x1 1 0 0 0\nx2 0 1\n", "repeats a number"),
    ("x1 1 0 0 0\nx2 0 0 0 2\n", "repeats a number in the tags '1 0 0 0'"),
    ("x1 3 3\n", "repeats a number in the tags '3 3'; list each class once"),
    ("x1 person,zebra\nx2 zebra;person\n", "separates tags by ';' and by ','"),
    ("id cat dog\nx1 1 0\n", "names the columns 'cat', 'dog', which are not classes, or do not hold 0 and 1"),
    ("id person Zebra\nx1 1 0\n", "has columns of 0 and 1 .*, but none for class 'traffic light'"),
    ("id " + " ".join(NAMES).replace("traffic light", "tl") + "\nx1 1 0\n", "x1: has 2 columns of tags; .* names 4"),
    ("id,owl,cat\nx1,a,b\n", "names the columns 'owl', 'cat', which are not classes, or do not hold 0 and 1"),
    ("x1 0\nx1 1 2\nx2 1\n", "lists id 'x1' twice, with '0' and '1 2'"),
    ("x2 traffic_light\n", "tag 'traffic_light', which is not a class; did you mean 'traffic light'"),
    ("x1 4\n", "tag 4, which is not a class; class numbers are 0 to 3, counted from 0 .* are 'person', "),
    ("x1 -1\n", "tag '-1'"),
    ("x1 True False\n", "has yes or no instead of classes in the tags 'True False'; .* per class, here 4, for each"),
    ("y1 0\n", "none of the images: its ids are such as 'y1'; the images' ids are such as 'x1'"),
    ("", "is empty"),
])
def test_lists_that_are_refused(data, tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        tags_of(data, tmp_path / "tags.txt", text)


def test_ids_of_no_image_are_told(data, tmp_path):
    rows = {**TRUTH, "y1": ("zebra",), "y2": ("zebra",)}
    told = "2 of 6 ids are not among the images: 'y1', 'y2'"
    text, table, hot = tmp_path / "t.txt", tmp_path / "t.csv", tmp_path / "t.npy"
    text.write_text(lines(rows, "\t"))
    table.write_text("id,tags\n" + "".join(f"{name},{';'.join(tags)}\n" for name, tags in rows.items()))
    np.save(hot, {name: np.float32([tag in tags for tag in NAMES]) for name, tags in rows.items()})
    for path in (text, table, hot):
        dataset = open_dataset(data, tags=str(path))
        assert {item.id: item.tags for item in dataset.items} == TRUTH and dataset.notices == (f"{path}: {told}",)
    # A list of tags in the folder itself, beside that of the ids.
    (tmp_path / "train.txt").write_text("\n".join(TRUTH))
    (tmp_path / "train_cls.txt").write_text(text.read_text())
    split = str(tmp_path / "train.txt")
    assert open_dataset(data, split).notices == (f"{tmp_path / 'train_cls.txt'}: {told}",)
    (tmp_path / "train_cls.txt").write_text("y1 3\n")
    told = "1 of 1 ids are not among the images: 'y1'"
    assert open_dataset(data, split).notices == (f"{tmp_path / 'train_cls.txt'}: {told}",)
    table.write_text("id,tags\n")
    with pytest.raises(InputError, match="has tags for none of the images, as it lists none"):
        open_dataset(data, tags=str(table))


def test_two_columns_for_two_classes(tmp_path):
    data = str(voc(tmp_path / "V", ("a", "b"), ("cat", "dog")))
    assert tags_of(data, tmp_path / "t.txt", "a 1 0\nb 0 1\n") == {"a": ("cat",), "b": ("dog",)}
    assert tags_of(data, tmp_path / "t.txt", "a 1 1\nb 0 0\n") == {"a": ("cat", "dog"), "b": ()}
    for row in ("0 1", "1 0"):
        with pytest.raises(InputError, match=f"has '{row}' for every image: the numbers of both classes, or one"):
            tags_of(data, tmp_path / "t.txt", f"a {row}\nb {row}\n")


def test_one_column_for_one_class(tmp_path):
    data = str(voc(tmp_path / "V", ("a", "b"), ("crack",)))
    assert tags_of(data, tmp_path / "t.txt", "a 1\nb 0\n") == {"a": ("crack",), "b": ()}
    assert tags_of(data, tmp_path / "t.txt", "a 0\n") == {"a": ("crack",), "b": None}
    assert tags_of(data, tmp_path / "t.txt", "a crack\nb\n") == {"a": ("crack",), "b": None}
    assert tags_of(data, tmp_path / "t.txt", "a crack\nb\n", empty_tags="negative") == {"a": ("crack",), "b": ()}


def test_columns_can_name_the_classes(tmp_path):
    data = str(voc(tmp_path / "V", ("a", "b"), ()))
    (tmp_path / "t.txt").write_text("image_id dog cat\na 1 0\nb 1 1\n")
    dataset = open_dataset(data, tags=str(tmp_path / "t.txt"))
    assert dataset.class_names == ("dog", "cat") and [i.tags for i in dataset.items] == [("dog",), ("dog", "cat")]


def test_numbers_counted_from_1_are_noticed(data, tmp_path):
    from_1 = lines({name: [number + 1 for number in row] for name, row in NUMBERS.items()})
    (tmp_path / "t.txt").write_text(from_1)
    dataset = open_dataset(data, tags=str(tmp_path / "t.txt"))
    assert dataset.notices == (
        "no image has the class number 0, 'person': class numbers are counted from 0, without the background",)
    (tmp_path / "t.txt").write_text(lines(NUMBERS))
    assert open_dataset(data, tags=str(tmp_path / "t.txt")).notices == ()


def test_numbers_and_a_class_list_that_begins_with_background_could_mean_either(data, tmp_path):
    (tmp_path / "names.txt").write_text("_background_\n" + "\n".join(NAMES) + "\n")
    for options in ({"classes": str(tmp_path / "names.txt")}, {}):
        with pytest.raises(InputError, match="'x1' has class numbers, but the class list begins with the background"):
            tags_of(data, tmp_path / "t.txt", lines(NUMBERS), **options)
        # Names are clear, and so is a column for each of the objects.
        for rows in (TRUTH, HOT):
            assert tags_of(data, tmp_path / "t.txt", lines(rows), **options) == TRUTH
        # The same list in the folder itself.
        (tmp_path / "V" / "classes.txt").write_text((tmp_path / "names.txt").read_text())


def test_lists_of_the_field_as_splits(data, tmp_path):
    for text in (
            "/JPEGImages/x2.jpg /SegmentationClassAug/x2.png\n/JPEGImages/x1.jpg /SegmentationClassAug/x1.png\n",
            "VOC2012/JPEGImages/x2.jpg\nVOC2012/JPEGImages/x1.jpg\n", "/data/VOC/JPEGImages/x2.jpg\nx1\n",
            "x2.jpg\nx1.jpg\n",
            "JPEGImages\\x2.jpg\r\nJPEGImages\\x1.jpg\r\n"):
        (tmp_path / "list.txt").write_text(text)
        assert [item.id for item in open_dataset(data, str(tmp_path / "list.txt")).items] == ["x2", "x1"]
    # As the DRS authors' code has them, spaces at the end included.
    (tmp_path / "train_cls.txt").write_text("x2 1 \nx1 0 2 \n")
    items = open_dataset(data, str(tmp_path / "train_cls.txt")).items
    assert [(item.id, item.tags) for item in items] == [("x2", ("traffic light",)), ("x1", ("person", "tv/monitor"))]
    (tmp_path / "list.txt").write_text("x1\nJPEGImages/x1.jpg\n")
    with pytest.raises(InputError, match="lists id 'x1' twice"):
        open_dataset(data, str(tmp_path / "list.txt"))


def test_a_table_of_tags_may_name_files_instead_of_ids(data, tmp_path):
    for header, names in (("id", "x{}.jpg"), ("file_name", "img/x{}.jpg"), ("image", "x{}.jpg"), ("id", "x{}")):
        rows = "".join(f"{names.format(i)},{';'.join(TRUTH[f'x{i}'])}\n" for i in range(1, 5))
        assert tags_of(data, tmp_path / "tags.csv", f"{header},label\n{rows}") == TRUTH
    with pytest.raises(InputError, match="lists id 'x1' twice, once as 'x1.jpg'"):
        tags_of(data, tmp_path / "tags.csv", "id,tags\nx1,zebra\nx1.jpg,person\n")


# --- cls_labels.npy ----------------------------------------------------------------------------


def array(path, content):
    np.save(path, content, allow_pickle=True)
    return str(path)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint8", "bool", ">f4"])
def test_an_array_of_tags(data, tmp_path, dtype):
    path = array(tmp_path / "cls_labels.npy", {name: np.array(row, dtype) for name, row in HOT.items()})
    dataset = open_dataset(data, tags=path)
    assert {item.id: item.tags for item in dataset.items} == TRUTH and dataset.tags_source == "file"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("key", [int, np.int32])
def test_integer_keys_as_irn_has_them(tmp_path, protocol, key):
    data = str(voc(tmp_path / "V", ("2007_000032", "COCO_train2014_000000000009", "2011_003276"), ("a", "b", "c")))
    content = {key(2007000032): np.float32([1, 0, 1]), key(9): np.float32([0, 1, 0]), key(2011003276): np.zeros(3)}
    with open(tmp_path / "cls_labels.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
        pickle.dump(np.array(content, dtype=object), file, protocol=protocol)
    tags = {item.id: item.tags for item in open_dataset(data, tags=str(tmp_path / "cls_labels.npy")).items}
    assert tags == {
        "2007_000032": ("a", "c"), "COCO_train2014_000000000009": ("b",), "2011_003276": ()}


class Hostile:
    def __reduce__(self):
        return print, ("this must not run",)


class Stateful:
    """Has an innocent name for NumPy's, and sets attributes."""


@pytest.mark.parametrize("content, message", [
    ({"x1": Hostile()}, "is not a dictionary of tags: it names builtins.print"),
    ({Hostile(): np.zeros(4)}, "it names builtins.print"),
    ({"x1": Stateful()}, "it names"),
    ({"x1": np.float32([1, np.nan, 0, 0])}, "has the value nan for image 'x1'; a class has the value 0 or 1"),
    ({"x1": np.float32([1, 2, 0, 0])}, "has the value 2.0 for image 'x1'"),
    ({"x1": np.float32([1, 0])}, "has values for 2 classes; the data have 4"),
    ({"x1": np.zeros((4, 1))}, "has the shape"), ({"x1": np.zeros(0)}, "has the shape"),
    ({"x1": np.array(["cat"])}, "is not a type of numbers"), ({"x1": np.array([None])}, "is not a type of numbers"),
    ({"x1": "cat"}, "is not an array of numbers"), ({1.5: np.zeros(4)}, "1.5 is not an image id"),
    ({"x1": np.zeros(4), "x1.jpg": np.zeros(4)}, "lists id 'x1' twice"),
    ({"y1": np.zeros(4)}, "has tags for none of the images"),
    ({}, "it is not a dictionary"), (np.zeros((4, 4)), "an array of float64 and shape .4, 4., without image ids"),
])
def test_arrays_that_are_refused(data, tmp_path, capsys, content, message):
    with pytest.raises(InputError, match=message):
        open_dataset(data, tags=array(tmp_path / "t.npy", content))
    assert capsys.readouterr().out == ""


def test_integer_keys_of_two_images(tmp_path):
    data = str(voc(tmp_path / "V", ("a_7", "b_7"), ("cat", "dog")))
    with pytest.raises(InputError, match="7 could be 'a_7' or 'b_7'"):
        open_dataset(data, tags=array(tmp_path / "t.npy", {7: np.zeros(2)}))


def test_an_array_needs_names_of_the_classes(tmp_path):
    data = str(voc(tmp_path / "V", ("a",), ()))
    with pytest.raises(InputError, match="has values for 4 classes, which have no names; .*--classes"):
        open_dataset(data, tags=array(tmp_path / "t.npy", {"a": np.zeros(4)}))


def test_damaged_arrays(data, tmp_path):
    path = tmp_path / "t.npy"
    array(path, {name: np.float32(row) for name, row in HOT.items()})
    whole = path.read_bytes()
    for content in (b"", b"x1 0\n", whole[:20], whole[:100], whole[:-1], whole[:-20], whole[:128] + b"\x80\x09."):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"t\.npy: ") as caught:
            open_dataset(data, tags=str(path))
        assert "\n" not in str(caught.value)


def test_what_a_pickle_names_is_not_imported(data, tmp_path):
    sys.modules.pop("this", None)
    path = tmp_path / "t.npy"
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
        file.write(b"}(X\x02\x00\x00\x00x1cthis\ns\n)Ru.")
    with pytest.raises(InputError, match=r"it names this\.s"):
        open_dataset(data, tags=str(path))
    assert "this" not in sys.modules
