"""Class names, label values and colours against the published ones."""

import numpy as np
import pytest

from drstool.errors import InputError
from drstool.labels import (
    MAX_OBJECT_CLASSES, as_label_type, channel_of, check_class_names, check_label_values, colorize, ignore_label,
    label_of, label_type, object_classes, palette, shown_palette,
)

# VOC 2012 development kit: the colours of the background and the 20 classes, and of the void label.
VOC_COLORS = [
    (0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128), (0, 128, 128), (128, 128, 128),
    (64, 0, 0), (192, 0, 0), (64, 128, 0), (192, 128, 0), (64, 0, 128), (192, 0, 128), (64, 128, 128),
    (192, 128, 128), (0, 64, 0), (128, 64, 0), (0, 192, 0), (128, 192, 0), (0, 64, 128)]


def voc_color(label):
    """VOCcolormap of the development kit, one label at a time."""
    color = [0, 0, 0]
    for shift in range(7, -1, -1):
        for channel in range(3):
            color[channel] |= (label & 1) << shift
            label >>= 1
    return tuple(color)


def test_palette_is_vocs():
    colors = [tuple(map(int, color)) for color in palette()]
    assert colors[:21] == VOC_COLORS
    assert colors[255] == (224, 224, 192)
    assert colors == [voc_color(label) for label in range(256)]
    assert len(set(colors)) == 256


def test_colours_repeat_after_254_classes():
    labels = np.uint16([[0, 1, 254, 255, 508, 509, 65534, 65535]])
    narrow = np.uint8([[0, 1, 254, 1, 254, 1, 2, 255]])
    np.testing.assert_array_equal(colorize(labels), colorize(narrow))
    np.testing.assert_array_equal(colorize(narrow), shown_palette()[narrow])


def test_ignored_pixels_are_white_to_look_at_and_vocs_in_files():
    assert tuple(palette()[255]) == (224, 224, 192) and tuple(shown_palette()[255]) == (255, 255, 255)
    np.testing.assert_array_equal(shown_palette()[:255], palette()[:255])


@pytest.mark.parametrize(("classes", "dtype", "ignored"), [
    (1, np.uint8, 255), (20, np.uint8, 255), (254, np.uint8, 255), (255, np.uint16, 65535),
    (MAX_OBJECT_CLASSES, np.uint16, 65535)])
def test_width_of_labels(classes, dtype, ignored):
    assert label_type(classes) == dtype
    assert ignore_label(label_type(classes)) == ignored
    # The highest class is no ignore label, and fits.
    assert label_of(classes - 1) == classes < ignored
    assert channel_of(label_of(classes - 1)) == classes - 1


def test_labels_change_their_width():
    wide = np.uint16([[0, 254, 65535]])
    assert as_label_type(wide, 254).tolist() == [[0, 254, 255]]
    assert as_label_type(wide, 254).dtype == np.uint8
    assert as_label_type(np.uint8([[0, 254, 255]]), 255).tolist() == [[0, 254, 65535]]
    for foreign in (255, 256):
        # 255 would become the ignore label, and stays to be named as wrong.
        labels = np.uint16([[foreign]])
        assert as_label_type(labels, 254) is labels
    assert as_label_type(wide, 255) is wide


@pytest.mark.parametrize("names", [
    (), ("",), ("  ",), ("cat", "cat"), ("background",), ("cat", "__Background__"), ("cat", "BG"), ("un-labeled",),
    ("x" * 201,), ("a\nb",), ("a\x00",), ("\ud800",), (3,),
    tuple(map(str, range(MAX_OBJECT_CLASSES + 1)))])
def test_names_that_are_none(names):
    with pytest.raises(InputError, match="^classes.txt: "):
        check_class_names(names, "classes.txt")


@pytest.mark.parametrize("names", [
    ("cat",), ("helmet", "none", "No object"), ("x" * 200,), ("potted plant", "Hund 🐕"),
    tuple(map(str, range(MAX_OBJECT_CLASSES)))])
def test_names_that_serve(names):
    assert check_class_names(list(names), "classes.txt") == names


@pytest.mark.parametrize("first", [
    "background", "Background", "_background_", "__background__", "BG", "bg", "unlabeled", "Unlabelled", "void",
    "__ignore__", "<ignore>", "None", "nothing", "no_object", "background_class", "Hintergrund"])
def test_a_background_before_the_classes_is_label_0(first):
    names, notices = object_classes([first, "cat", "dog"], "classes.txt")
    assert names == ("cat", "dog")
    assert notices == (f"classes.txt: '{first}' is taken for the background; 'cat' is label 1",)


def test_labelmes_list_begins_with_ignored_pixels_and_the_background():
    names, notices = object_classes(["__ignore__", "_background_", "cat"], "class_names.txt")
    assert names == ("cat",)
    assert notices == ("class_names.txt: '__ignore__' and '_background_' are taken for ignored pixels and the "
                       "background; 'cat' is label 1",)


def test_a_list_of_objects_alone_needs_no_word():
    assert object_classes(["cat", "background noise", "bgr"], "classes.txt") == (("cat", "background noise", "bgr"), ())


@pytest.mark.parametrize("listed", [
    ["background"], ["__ignore__", "_background_"], ["cat", "background"], ["background", "void", "cat"],
    ["background", "BG", "cat"], ["void", "unlabeled", "cat"], ["void", "background", "ignore", "cat"],
    ["background", 3], [None, "background"]])
def test_other_entries_that_are_no_objects_are_refused(listed):
    # Which label they have in the masks is anyone's guess, and each class after them would be shifted.
    with pytest.raises(InputError, match="^classes.txt: "):
        object_classes(listed, "classes.txt")


def test_most_classes():
    assert MAX_OBJECT_CLASSES == 65534


def test_values_that_are_labels():
    names = ("cat", "dog")
    for values in ([0, 1, 2, 255], [], [255]):
        check_label_values(np.array([values], np.uint8), names, "a.png")
    check_label_values(np.uint16([[0, 2, 65535]]), names, "a.png")
    check_label_values(np.arange(256, dtype=np.uint8)[None], tuple(map(str, range(254))), "a.png")


@pytest.mark.parametrize(("values", "listed"), [
    (np.uint8([[3, 0]]), "3"), (np.uint8([[254, 3, 255]]), "3, 254"), (np.uint16([[255]]), "255"),
    (np.uint8([[3, 4, 5, 6, 7]]), "3, 4, 5, 6, 7"), (np.uint8([[8, 7, 6, 5, 4, 3]]), "3, 4, 5, 6, 7, …")])
def test_values_that_are_no_labels(values, listed):
    with pytest.raises(InputError) as failure:
        check_label_values(values, ("cat", "dog"), "a.png")
    assert failure.value.where == "a.png"
    assert failure.value.what.endswith(f": {listed}")
