"""Tables as spreadsheets and tools write them, and lists of images: what is read, what is refused."""

import json
import re

import numpy as np
import pytest
from conftest import call
from PIL import Image

from drstool.data import open_dataset
from drstool.errors import InputError, UsageError

NAMES = ("photo 1", "Größe_2", "3")
ROWS = (("1", "img/photo 1.png", "cat"), ("2", "img/Größe_2.png", "traffic light;dog"), ("3", "img/3.png", "dog"))
TAGS = {"1": ("cat",), "2": ("dog", "traffic light"), "3": ("dog",)}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "img").mkdir()
    for name in NAMES:
        Image.fromarray(np.zeros((3, 4), np.uint8)).save(tmp_path / "img" / f"{name}.png")
    return tmp_path


def table(folder, header="id,image,tags", mark=",", end="\n", encoding="utf-8", tags=str, path=str, name="m.csv"):
    lines = [header, *(mark.join((i, path(p), tags(t))) for i, p, t in ROWS)]
    (folder / name).write_bytes("".join(line + end for line in lines).encode(encoding))
    return str(folder / name)


def tags_of(*arguments, **options):
    return {item.id: item.tags for item in open_dataset(*arguments, **options).items}


@pytest.mark.parametrize("options", [
    {},
    {"end": "\r\n", "encoding": "utf-8-sig"},
    {"end": "\r"},
    {"header": "id;image;tags", "mark": ";", "tags": '"{}"'.format, "encoding": "utf-8-sig"},
    {"header": "id\timage\ttags", "mark": "\t", "encoding": "utf-16"},
    {"header": "id\timage\ttags", "mark": "\t", "encoding": "utf-16-le"},
    {"header": "id\timage\ttags", "mark": "\t", "name": "m.tsv"},
    {"header": "id\timage\ttags", "mark": "\t", "encoding": "utf-16-be", "end": "\n", "name": "be"},
    {"path": lambda p: p.replace("/", "\\")},
    {"header": "ID,Image,TAGS"},
    {"header": "image_id,File Name,Labels"},
    {"header": '"id", "path", "class"', "mark": ", "},
    {"header": "id,filename,Label"},
    {"header": "sep=;\nid;image;tags", "mark": ";", "tags": '"{}"'.format},
    {"tags": lambda t: json.dumps(json.dumps(t.split(";"))).replace('\\"', '""')},
    {"tags": lambda t: f'"{t.split(";")}"'},
    {"tags": lambda t: t.replace(";", " | ")},
])
def test_tables_of_every_kind_are_the_same_dataset(folder, options):
    if options.get("name") == "be":
        options = {**options, "name": "m.csv", "header": "\ufeff" + options["header"]}
    assert tags_of(table(folder, **options)) == TAGS


def test_other_separators_of_tags_are_told(folder):
    dataset = open_dataset(table(folder, tags=lambda t: f'"{t.replace(";", ", ")}"'))
    assert [item.tags for item in dataset.items] == list(TAGS.values())
    assert dataset.notices == (f"{folder / 'm.csv'}: tags are separated by ',' (--tag-separator names another)",)
    assert open_dataset(table(folder)).notices == ()


def test_mixed_separators_are_refused_unless_the_classes_or_an_option_tell(folder):
    def names(t):
        return f'"{t.replace("traffic light", "light, red")}"'

    data = table(folder, tags=names)
    with pytest.raises(InputError, match=r"separates tags by ';' and by ','; .*--tag-separator"):
        open_dataset(data)
    right = {"1": ("cat",), "2": ("dog", "light, red"), "3": ("dog",)}
    assert tags_of(data, tag_separator=";") == right
    assert tags_of(data, class_names=("cat", "dog", "light, red")) == right
    # A class name is whole, although it is the only cell with a comma.
    data = table(folder, tags=lambda t: '"light, red"' if ";" in t else t)
    assert tags_of(data, class_names=("cat", "dog", "light, red"))["2"] == ("light, red",)
    assert tags_of(table(folder, tags=lambda t: t.replace(";", " ").replace("traffic ", "")), tag_separator=" ")[
        "2"] == ("dog", "light")
    for separator in ("ab", "a", ""):
        with pytest.raises(UsageError, match="--tag-separator"):
            open_dataset(data, tag_separator=separator)


def test_tags_that_differ_only_in_case_or_marks_are_refused(folder):
    with pytest.raises(InputError, match="has the tags 'Dog' and 'dog'; write one of them"):
        open_dataset(table(folder, tags=lambda t: "Dog" if t == "dog" else t))
    with pytest.raises(InputError, match="'2' has the tag 'Traffic_Light', .* did you mean 'traffic light'"):
        open_dataset(
            table(folder, tags=lambda t: t.replace("traffic light", "Traffic_Light")),
            class_names=("cat", "dog", "traffic light"))


def test_an_empty_cell_is_unknown_or_negative(folder):
    data = table(folder, tags=lambda t: "" if t == "cat" else t)
    assert tags_of(data)["1"] is None
    assert tags_of(data, empty_tags="negative")["1"] == ()
    # A list says so itself.
    assert tags_of(table(folder, tags=lambda t: "[]" if t == "cat" else t))["1"] == ()
    with pytest.raises(UsageError, match="--empty-tags"):
        open_dataset(data, empty_tags="none")


def test_an_id_is_the_path_of_the_image(folder):
    (folder / "m.csv").write_text("image,tags\nimg/photo 1.png,cat\n./img/3.png,dog\n")
    assert tags_of(str(folder / "m.csv")) == {"img/photo 1": ("cat",), "img/3": ("dog",)}
    (folder / "sub").mkdir()
    (folder / "sub" / "m.csv").write_text(f"image\n../img/photo 1.png\n{folder}/img/3.png\n")
    assert list(tags_of(str(folder / "sub" / "m.csv"))) == ["img/photo 1", "3"]
    (folder / "sub" / "m.csv").write_text(f"image\n{folder}/img/3.png\n../img/3.png\n../IMG/3.png\n")
    with pytest.raises(InputError, match=r"image 'IMG/3' is missing"):
        open_dataset(str(folder / "sub" / "m.csv"))
    (folder / "m.csv").write_text("image\nimg/3.png\nimg/../img/3.png\n")
    assert len(open_dataset(str(folder / "m.csv"))) == 2
    (folder / "m.csv").write_text("image\nimg/3.png\n./img/3.png\n")
    with pytest.raises(InputError, match="line 3: lists id 'img/3' twice, first in line 2"):
        open_dataset(str(folder / "m.csv"))


def test_images_elsewhere(folder, tmp_path):
    (folder / "m.csv").write_text("id,image\n1,photo 1.png\n3,/home/somebody/img/3.png\n2,C:\\photos\\Größe_2.png\n")
    with pytest.raises(InputError, match="image '1' is missing"):
        open_dataset(str(folder / "m.csv"))
    items = open_dataset(str(folder / "m.csv"), images=str(folder / "img")).items
    assert [item.image for item in items] == [folder / "img" / f"{name}.png" for name in ("photo 1", "3", "Größe_2")]
    # Ids alone, with or without an ending.
    (folder / "m.csv").write_text("ID,label\nphoto 1,cat\n3.png,dog\n")
    items = open_dataset(str(folder / "m.csv"), images=str(folder / "img")).items
    assert [(item.id, item.image.name) for item in items] == [("photo 1", "photo 1.png"), ("3.png", "3.png")]
    with pytest.raises(InputError, match=r"has no 'image' \(the first of 2\); give the path of .*'photo 1'.*--images"):
        open_dataset(str(folder / "m.csv"))
    Image.fromarray(np.zeros((3, 4), np.uint8)).save(folder / "img" / "photo 1.JPG")
    with pytest.raises(InputError, match=r"'photo 1' could be .*photo 1\.JPG or .*photo 1\.png"):
        open_dataset(str(folder / "m.csv"), images=str(folder / "img"))
    with pytest.raises(InputError, match="--images: .* is not a folder"):
        open_dataset(str(folder / "m.csv"), images=str(folder / "gone"))
    with pytest.raises(UsageError, match="--images: .* says where its images are"):
        open_dataset(str(folder), images=str(folder / "img"))


def test_a_name_in_another_case_is_named(folder):
    (folder / "m.csv").write_text("image\nimg/Photo 1.png\n")
    if (folder / "img" / "Photo 1.png").exists():
        pytest.skip("the file system ignores case")
    with pytest.raises(InputError, match=r"is missing: .*Photo 1\.png; there is photo 1\.png, whose name differs in"):
        open_dataset(str(folder / "m.csv"))


@pytest.mark.parametrize("joined", ["cat dog", "cat+dog", "dog / cat", "cat and dog", "cat_dog"])
def test_tags_joined_in_another_way_are_told(folder, joined):
    data = table(folder, tags=lambda t: joined if ";" in t else t)
    line = f"the class '{joined}' looks like several tags; separate them with ;"
    assert open_dataset(data).notices == (line,)
    # Not where the classes are listed, or only one of the words is a class.
    assert open_dataset(data, class_names=("cat", "dog", joined)).notices == ()
    assert open_dataset(table(folder, tags=lambda t: "dog light" if ";" in t else t)).notices == ()


def test_what_is_there_in_place_of_a_missing_image_is_told(folder):
    Image.fromarray(np.zeros((3, 4), np.uint8)).save(folder / "img" / "007.png")
    (folder / "img" / "link.png").symlink_to("nothing")
    zeros = "'7' may be '007' without its zeros, which spreadsheets drop: format the column as text"
    for image, told in (
            ("img/7.png", zeros), ("img/7", zeros), ("img/link.png", "img/link.png links to nothing; fix the link"),
            ("img/zz.heic", f"is missing: {folder / 'img/zz.heic'}; other endings were tried"),
            ("https://x.org/7.png", "is not a file: https://x.org/7.png; download it")):
        (folder / "m.csv").write_text(f"image,tags\n{image},cat\n")
        with pytest.raises(InputError, match=re.escape(told)):
            open_dataset(str(folder / "m.csv"))
    (folder / "m.csv").write_text("image\nimg/007\nimg/photo 1\n")
    assert [item.image.name for item in open_dataset(str(folder / "m.csv")).items] == ["007.png", "photo 1.png"]
    (folder / "t.csv").write_text("id,tags\n7,cat\n")
    with pytest.raises(InputError, match="none of the images: its ids are such as '7'; " + zeros):
        open_dataset(str(folder / "img" / "*.png"), tags=str(folder / "t.csv"))
    (folder / "t.csv").write_text("id,tags\n7,cat\nphoto 1,dog\n")
    assert open_dataset(str(folder / "img" / "[0p]*.png"), tags=str(folder / "t.csv")).notices[-1].endswith(
        f"1 of 2 ids are not among the images: '7'; {zeros}")


def test_ids_that_are_one_file_name_somewhere_are_refused_at_the_first_step(folder):
    (folder / "m.csv").write_text("id,image\nA,img/3.png\na,img/photo 1.png\n")
    outcome = call("ids", "--data", folder / "m.csv")
    assert outcome.code == 3 and "cannot store 'a' next to 'A'" in outcome.err and outcome.out == ""
    assert outcome.err.count("\n") == 1


HOT = "id,image,cat,dog,traffic light\n1,img/photo 1.png,1,0,0\n2,img/Größe_2.png,0,1,1\n3,img/3.png,0,1,0\n"


def hot(one, zero, mark=","):
    """The table with other words for 1 and 0."""
    return HOT.replace(",", mark).replace(f"{mark}1", mark + one).replace(f"{mark}0", mark + zero)


def more(*columns):
    """The table with more columns, each a name and the cells of its rows."""
    return "".join(",".join((line, *cells)) + "\n" for line, cells in zip(HOT.splitlines(), zip(*columns, strict=True)))


@pytest.mark.parametrize("text, values, unused", [
    (HOT, "0 and 1", ""), (HOT.replace("1,0,0", "1.0,0.0,0.0").replace("0,1,1", "0,1.0,1"), "0 and 1", ""),
    (HOT.replace(",1,0,0", ",True,False,False"), "0 and 1", ""), (HOT.replace(",", ", "), "0 and 1", ""),
    (HOT.replace("id,image", "id,filename"), "0 and 1", ""),
    (hot("yes", "no"), "'yes', 'no'", ""), (hot("Ja", "Nein", ";"), "'Ja', 'Nein'", ""),
    (hot("WAHR", "FALSCH", ";"), "'WAHR', 'FALSCH'", ""), (hot("1,0", "0,0", ";"), "'1,0', '0,0'", ""),
    (hot("x", ""), "'x', ''", ""),
    # Columns of another kind than the first are notes.
    (more(("reviewed", "yes", "no", "yes"), ("comment", "", "x", "")), "0 and 1",
     "'reviewed' (yes, no), 'comment' (x)"),
    (more(("comment", "", "x", "")).replace(",1", ",yes").replace(",0", ",no"), "'yes', 'no'", "'comment' (x)"),
    (hot("✓", "").replace("cat", "owl,cat").replace("png,", "png,,"), "'✓', ''", "'owl' (empty)"),
    # Counts, what annotation tools add, and other words are no classes.
    (more(("no", "0", "1", "2"), ("persons", "0", "3.0", "1"), ("iscrowd", "0", "0", "1"), ("owl", "0.9", "0.2", "")),
     "0 and 1", "'no' (0, 1, 2), 'persons' (0, 3.0, 1), 'iscrowd' (0, 1), 'owl' (0.9, 0.2)"),
])
def test_columns_of_0_and_1_are_classes(folder, text, values, unused):
    (folder / "m.csv").write_text(text)
    dataset = open_dataset(str(folder / "m.csv"))
    assert dataset.class_names == ("cat", "dog", "traffic light")
    assert {item.id: item.tags for item in dataset.items} == TAGS
    told = f"the columns of {values} are taken for classes: 'cat', 'dog', 'traffic light'"
    lines = [told, f"columns not used: {unused}"] if unused else [told]
    assert dataset.notices == tuple(f"{folder / 'm.csv'}: {line}" for line in lines)
    listed = open_dataset(str(folder / "m.csv"), class_names=("traffic light", "dog", "cat"))
    assert listed.items[1].tags == ("traffic light", "dog") and listed.notices[:-1] == ()


@pytest.mark.parametrize("header, cells, told", [
    ("cat", ("0.93", "0.1"), "'cat' (0.93, 0.1)"), ("choice", ("cat", "dog"), "'choice' (cat, dog)"),
    ("label1,label2", ("cat,dog", "dog,"), "'label1' (cat, dog), 'label2' (dog)"),
    ("persons", ("0", "3"), "'persons' (0, 3)"), ("region_id", ("0", "1"), "'region_id' (0, 1)"),
])
def test_columns_that_are_not_used_are_told(folder, header, cells, told):
    def write(header, *rows):
        (folder / "m.csv").write_text("\n".join(
            (f"image,{header}", *(f"img/{name}.png,{row}" for name, row in zip(NAMES, rows, strict=False)))))
        return str(folder / "m.csv")

    dataset = open_dataset(write(header, *cells))
    assert dataset.class_names is None and {item.tags for item in dataset.items} == {None}
    (line,) = dataset.notices
    assert "has no column of tags" in line and line.endswith(f"; columns not used: {told}")
    with pytest.raises(InputError, match="has no column of tags .*, but " + re.escape(told)):
        open_dataset(str(folder / "img" / "3.png"), tags=write(header, *cells))
    for more, told in (("class", "'class' (x)"), ("dog", "'dog' (x)"), ("seg", None), ("path", None)):
        value = "x" if told else "a.png"
        notices = open_dataset(write("tags," + more, f"dog,{value}", f"cat,{value}")).notices
        told = told or more == "seg" and "'seg' (a.png); a column of masks is called 'mask'"
        assert notices == ((f"{folder / 'm.csv'}: columns not used: {told}",) if told else ())


@pytest.mark.parametrize("blank", ["nan", "None", "-", "N/A", "NA"])
def test_blanks_of_programs_are_empty_cells(folder, blank):
    data = table(folder, tags=lambda t: blank if t == "cat" else t)
    dataset = open_dataset(data)
    assert [item.tags for item in dataset.items] == [None, *list(TAGS.values())[1:]]
    assert dataset.notices == (
        f"{data}: tags '{blank}' are taken for empty cells (1 of 3 rows), which mean unknown tags (--empty-tags)",)
    assert tags_of(data, empty_tags="negative")["1"] == ()
    # In a list of classes, 'None' is the background.
    if blank != "None":
        assert tags_of(data, class_names=("dog", blank, "traffic light"))["1"] == (blank,)
    # Sodium, and answers that are the classes.
    for names in (("Na", "Cl"), ("yes", "no"), ("Y", "N")):
        data = table(folder, tags=lambda t, names=names: names[t != "cat"])
        assert tags_of(data, class_names=None if "Na" in names else names)["1"] == names[:1]
    lines = [{"id": i, "image": path, "tags": [blank] if tag == "cat" else tag.split(";")} for i, path, tag in ROWS]
    (folder / "m.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert tags_of(str(folder / "m.jsonl")) == {**TAGS, "1": None}


def test_columns_of_0_and_1_that_are_no_classes_are_left_out_and_told(folder):
    (folder / "m.csv").write_text("id,image,checked\n1,img/3.png,1\n2,img/photo 1.png,0\n")
    dataset = open_dataset(str(folder / "m.csv"), class_names=("cat", "dog"))
    assert [item.tags for item in dataset.items] == [None, None]
    assert len(dataset.notices) == 1 and dataset.notices[0].endswith("; columns not used: 'checked' (1, 0)")


def test_a_row_of_zeros_is_a_negative(folder):
    (folder / "m.csv").write_text(HOT.replace("3.png,0,1,0", "3.png,0,0,0"))
    assert tags_of(str(folder / "m.csv"))["3"] == ()


@pytest.mark.parametrize("text, message", [
    (HOT.replace("1,0,0", "1,0,"), "has '' in the column 'traffic light', which should hold 0 or 1; write 1 if the"),
    (HOT.replace("1,0,0", "1,0,x"), "line 2: has 'x' in the column 'traffic light'"),
    (HOT.replace("1,0,0", "1,-1,0"), "line 2: has '-1' in the column 'dog'"),
    (hot("yes", "no").replace("yes,no,no", "yes,,no"), "line 2: has '' in the column 'dog'"),
    (hot("x", "").replace("x,,", "x,?,"), r"line 2: has '\?' in the column 'dog', which should hold x or nothing; .*"
     "else leave the cell empty; if the column is not a class, list the classes with --classes"),
    ("id,image,label\n1,img/3.png,yes\n", "has yes or no instead of classes in the tags 'yes'; if 'yes' is one of"),
    ("id,image,label\n1,img/3.png,Y\n2,img/photo 1.png,N\n", "if 'Y' and 'N' are the classes, list them with "),
    ("id,image,tags\n1,img/3.png,cat;NaN\n", "has 'NaN' among other tags: cat, NaN; leave it out; if it is"),
    (HOT.replace("cat,dog,", "cat,cat,"), "two columns 'cat'"),
    (HOT.replace("cat", "Background"), "lists 'Background' as an object class"),
    ("id,path,filename\n1,img/3.png,3.png\n", "'path' and 'filename', which both could be 'image'"),
    ("id,image;tags\n1,img/3.png;cat\n", "has as many commas as semicolons in its first line"),
    ("id,image,tags\n1,img/3.png,horse, person\n", "line 2: has more columns than the first line; quote"),
    ("id,image,tags\n1,img/3.png,\"['a, 'b']\"\n", "is not a list of tags"),
    ("id,image,tags\n1,img/3.png,1\n", "image '1' has class numbers, but the classes have no names"),
])
def test_broken_tables(folder, text, message):
    (folder / "m.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        open_dataset(str(folder / "m.csv"))


def test_columns_must_be_those_of_the_class_list(folder):
    (folder / "m.csv").write_text(HOT)
    for names in (("cat", "dog", "owl"), ("Cat", "Dog", "Owl")):
        with pytest.raises(InputError, match="has columns of 0 and 1 .*, but none for class"):
            open_dataset(str(folder / "m.csv"), class_names=names)
    # Where tags do not matter nothing is to be said of them.
    assert len(open_dataset(str(folder / "m.csv"), class_names=("owl",), images_only=True)) == 3


def test_class_numbers_in_a_cell(folder):
    data = table(folder, tags=lambda t: {"cat": "0", "dog": "1"}.get(t, "1;2"))
    assert tags_of(data, class_names=("cat", "dog", "traffic light")) == TAGS
    # One class in one column: 0 and 1 say whether it is there.
    data = table(folder, tags=lambda t: "01"[t == "cat"], header="id,image,label")
    assert tags_of(data, class_names=("crack",)) == {"1": ("crack",), "2": (), "3": ()}
    # Programs write 1.0 where other numbers are missing.
    data = table(folder, tags=lambda t: {"cat": "0.0", "dog": "1.0"}.get(t, "1.0;2.0"))
    assert tags_of(data, class_names=("cat", "dog", "traffic light")) == TAGS
    data = table(folder, tags=lambda t: {"cat": "[1, 0, 0]", "dog": "[0, 1, 0]"}.get(t, "[0, 1, 1]").join('""'))
    assert tags_of(data, class_names=("cat", "dog", "traffic light")) == TAGS


@pytest.mark.parametrize("name, text", [
    ("metadata.csv", "file_name,label\nphoto 1.png,cat\n3.png,dog\n"),
    ("metadata.jsonl", '{"file_name": "photo 1.png", "label": "cat"}\n{"file_name": "3.png", "tags": ["dog"]}\n'),
])
def test_metadata_of_an_image_folder(folder, name, text):
    (folder / "img" / name).write_text(text)
    dataset = open_dataset(str(folder / "img"))
    assert {item.id: item.tags for item in dataset.items} == {"photo 1": ("cat",), "3": ("dog",)}
    assert open_dataset(str(folder), "img").items == dataset.items
    (folder / name).write_text(text.replace("photo", "img/photo").replace("3.png", "img/3.png").replace(
        "file_name,label\n", "file_name,label,split\n").replace("cat\n", "cat,train\n").replace("dog\n", "dog,val\n")
        .replace('"label": "cat"', '"label": "cat", "split": "train"'))
    assert [item.id for item in open_dataset(str(folder), "train").items] == ["img/photo 1"]
    other = "metadata.csv" if name.endswith("jsonl") else "metadata.jsonl"
    (folder / "img" / other).write_text(text)
    with pytest.raises(InputError, match="has both"):
        open_dataset(str(folder / "img"))


def test_json_lines_with_numbers_or_flags(folder):
    lines = [{"image": "img/3.png", "label": 1}, {"image": "img/photo 1.png", "label": 0}]
    (folder / "m.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert tags_of(str(folder / "m.jsonl"), class_names=("cat", "dog")) == {"img/3": ("dog",), "img/photo 1": ("cat",)}
    lines = [{"image": "img/3.png", "tags": [0, 1, 1]}, {"image": "img/photo 1.png", "tags": []}]
    (folder / "m.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert tags_of(str(folder / "m.jsonl"), class_names=("cat", "dog", "owl")) == {
        "img/3": ("dog", "owl"), "img/photo 1": ()}


def test_lists_of_images(folder):
    def listing(*lines):
        (folder / "list.txt").write_text("\n".join(lines) + "\n")
        return str(folder / "list.txt")

    items = open_dataset(listing("/img/photo 1.png /img/3.png", "img/3.png img/3.png")).items
    assert [(item.id, item.image, item.mask, item.tags) for item in items] == [
        ("photo 1", folder / "img/photo 1.png", folder / "img/3.png", None),
        ("img/3", folder / "img/3.png", folder / "img/3.png", None)]
    assert tags_of(listing("img/photo 1.png cat", "img/3.png dog cat")) == {
        "img/photo 1": ("cat",), "img/3": ("cat", "dog")}
    assert list(tags_of(listing("3.png", "photo 1.png"), images=str(folder / "img"))) == ["3", "photo 1"]
    for lines, message in (
            (("2007_000032",), "does not begin with the path of an image; .*--data FOLDER --split LIST"),
            (("img/gone.png",), "image 'img/gone' is missing"), (("img/3.png", "./img/3.png"), "'img/3' twice: "),
            (("img/3.png 1 0 0", "img/photo 1.png 0 1 0"), "repeats a number"), (("",), "lists no images")):
        with pytest.raises(InputError, match=message):
            open_dataset(listing(*lines))
    with pytest.raises(UsageError, match="has no splits"):
        open_dataset(listing("img/3.png"), "train")


def test_columns_that_are_not_read_are_told_where_there_are_no_tags(folder):
    unused = "'species' (cat), 'width' (4)"
    told = f"has no column of tags (tags, labels, label, class, classes, tag); columns not used: {unused}"
    (folder / "m.csv").write_text("image,species,width\nimg/3.png,cat,4\n")
    (folder / "m.jsonl").write_text('{"image": "img/3.png", "species": "cat", "width": 4}\n')
    (folder / "tags.txt").write_text("img/3 cat\n")
    for name in ("m.csv", "m.jsonl"):
        assert open_dataset(str(folder / name)).notices == (f"{folder / name}: {told}",)
        assert open_dataset(str(folder / name), tags=str(folder / "tags.txt")).notices == ()
        assert open_dataset(str(folder / name), images_only=True).notices == ()
    with pytest.raises(InputError, match=r"has no column of tags \(tags, .* 0 and 1, but 'species' \(cat\), "):
        open_dataset(str(folder / "img"), tags=str(folder / "m.csv"))
    (folder / "m.csv").write_text("image,species,truth\nimg/3.png,cat,3.png\n")
    assert open_dataset(str(folder / "m.csv"), tags=str(folder / "tags.txt")).notices == (
        f"{folder / 'm.csv'}: columns not used: 'truth' (3.png); a column of masks is called 'mask'",)


@pytest.mark.parametrize("name, content", [
    ("t.csv", "id,tags\nphoto 1,cat\n"), ("t.tsv", ",file_name\tlabel\n0\t3.png\tcat\n"), ("t.txt", "photo 1 cat\n"),
    ("t.txt", "3.png cat\n"), ("t.jsonl", '{"image": "img/3.png", "tags": ["cat"]}\n'), ("t.json", '{"3": ["cat"]}'),
    ("t.csv", "image;label\n3.png;cat\n".encode("utf-16")), ("t.xlsx", "PK\3\4")])
def test_a_file_that_may_hold_the_tags_of_a_folder_of_images_is_told(folder, name, content):
    path, images = folder / "img" / name, str(folder / "img")
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    right = "save it as CSV for --tags" if name in ("t.json", "t.xlsx") else f"give it with --tags {path}"
    for data in (images, f"{images}/*.png"):
        assert open_dataset(data).notices[1:] == (
            f"{path}: may hold the tags of the images, and is not read; {right}",)
        assert open_dataset(data, images_only=True).notices[1:] == ()
    if name in ("t.json", "t.xlsx"):
        with pytest.raises(InputError, match="is not a list of tags; save them as|save it as CSV"):
            open_dataset(images, tags=str(path))
    # Other texts, and those of one image, are not.
    path.unlink()
    (folder / "img" / "notes.txt").write_text("made by hand, on a Monday\n3.png\n\n")
    (folder / "img" / "pairs.txt").write_text("3.png masks/3.png\nphoto 1 masks/1.png\n3.png,masks/3.png,more/3.png\n")
    (folder / "img" / "photo 1.txt").write_text("photo 1 of 3\n")
    assert not any("--tags" in line for line in open_dataset(images).notices)
