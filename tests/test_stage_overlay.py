from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from drstool.data.item import Dataset, Item
from drstool.errors import InputError, UsageError
from drstool.formats.records import LabelRecord, MapRecord
from drstool.labels import palette, shown_palette
from drstool.recipe import OverlaySettings
from drstool.stages.overlay import (
    blend_heat, blend_labels, file_names, heat_colors, label_picture, named_paths, overlay,
)

NAMES = ("cat", "potted plant", "tv/monitor")
SIZE = (6, 8)


@pytest.fixture
def dataset(tmp_path):
    items = []
    for seed, identifier in enumerate(["a", "part/b"]):
        image = tmp_path / f"{identifier}.png"
        image.parent.mkdir(exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(image)
        mask = None
        if identifier == "a":
            mask = tmp_path / "a-mask.png"
            label_picture(np.full(SIZE, 2, np.uint8)).save(mask)
        items.append(Item(id=identifier, image=image, tags=None, mask=mask, saliency=None))
    return Dataset(tuple(items), NAMES, "the-data", "none")


def labels_record(identifier, image=""):
    labels = np.zeros(SIZE, np.uint8)
    labels[2:4], labels[5] = 1, 255
    return LabelRecord(id=identifier, labels=labels, image=image)


def maps_record(identifier, labels=(1, 3), size=(3, 4), image=""):
    values = np.linspace(0, 255, len(labels) * size[0] * size[1]).astype(np.uint8)
    return MapRecord(id=identifier, values=values.reshape(len(labels), *size), labels=labels,
                     image_size=SIZE, image=image)


def test_dataset_alone_gives_images_and_targets(dataset):
    assert [name for name, _ in overlay(dataset)] == ["a_image.png", "part/b_image.png"]
    pictures = dict(overlay(dataset, targets=True))
    assert list(pictures) == ["a_image.png", "a_target.png", "part/b_image.png"]
    np.testing.assert_array_equal(
        np.array(pictures["a_image.png"]), np.array(Image.open(dataset.items[0].image)))
    assert pictures["a_target.png"].mode == "P"
    assert (np.array(pictures["a_target.png"]) == 2).all()


def test_ground_truth_is_not_opened_unless_asked(dataset):
    dataset.items[0].mask.write_bytes(b"broken")
    assert len(list(overlay(dataset))) == 2
    with pytest.raises(InputError, match="a-mask.png"):
        list(overlay(dataset, targets=True))


@pytest.mark.parametrize("workers", [1, 3])
def test_labels_give_prediction_and_overlay(dataset, workers):
    records = [labels_record("part/b"), labels_record("does not exist"), labels_record("a")]
    pictures = dict(overlay(dataset, records, settings=OverlaySettings(opacity=0.5),
                            workers=workers))
    assert list(pictures) == [
        "part/b_image.png", "part/b_pred.png", "part/b_overlay.png",
        "a_image.png", "a_pred.png", "a_overlay.png"]
    assert pictures["a_pred.png"].mode == "P"
    np.testing.assert_array_equal(np.array(pictures["a_pred.png"]), records[2].labels)
    np.testing.assert_array_equal(
        np.array(pictures["a_pred.png"].convert("RGB")), shown_palette()[records[2].labels])
    image = np.array(pictures["a_image.png"])
    np.testing.assert_array_equal(
        np.array(pictures["a_overlay.png"]), blend_labels(image, records[2].labels, 0.5))


def test_maps_give_one_heat_map_a_present_class(dataset):
    pictures = dict(overlay(dataset, [maps_record("a"), maps_record("part/b", labels=())]))
    assert list(pictures) == [
        "a_image.png", "a_heat_cat.png", "a_heat_tv_monitor.png", "part/b_image.png"]
    heat = pictures["a_heat_cat.png"]
    assert (heat.mode, heat.size) == ("RGB", (8, 6))


def test_maps_and_labels_of_one_image_share_its_picture(dataset):
    names = [name for name, _ in overlay(dataset, [maps_record("a", (1,)), labels_record("a")])]
    assert names == ["a_image.png", "a_heat_cat.png", "a_pred.png", "a_overlay.png"]


def test_class_names_are_those_given_else_numbers(dataset):
    named = dict(overlay(dataset, [maps_record("a")], class_names=["x", "y", "z"]))
    assert list(named)[1:] == ["a_heat_x.png", "a_heat_z.png"]
    nameless = Dataset(dataset.items, None, "the-data", "none")
    numbered = dict(overlay(nameless, [maps_record("a")]))
    assert list(numbered)[1:] == ["a_heat_class-1.png", "a_heat_class-3.png"]


def test_records_alone_say_where_the_image_is(dataset):
    path = str(dataset.items[0].image)
    names = [name for name, _ in overlay(None, [labels_record("any/id", image=path)])]
    assert names == ["any/id_image.png", "any/id_pred.png", "any/id_overlay.png"]
    with pytest.raises(InputError, match="--data"):
        list(overlay(None, [labels_record("any/id")]))
    with pytest.raises(ValueError):
        list(overlay(None))


def test_records_of_other_images_only_are_an_error(dataset):
    with pytest.raises(InputError, match="'x'"):
        list(overlay(dataset, [labels_record("x")]))
    assert list(overlay(dataset, [])) == []


def test_failures_are_raised_or_told(dataset):
    small = LabelRecord(id="a", labels=np.zeros((2, 3), np.uint8))
    odd = MapRecord("a", np.zeros((1, 2, 2), np.uint8), (1,), (60, 80), "")
    for record, message in [
        (small, "a: the label image is 3 × 2 pixels, but the image is 8 × 6"),
        (LabelRecord(id="a", labels=np.full((6, 8), 77, np.uint8)), "a: contains unknown label values: 77"),
        (odd, "a: the map's image is 80 × 60 pixels, but the image is 8 × 6"),
    ]:
        with pytest.raises(InputError, match=message):
            list(overlay(dataset, [record]))
        told = []
        names = [name for name, _ in overlay(
            dataset, [record, labels_record("part/b")], on_error=told.append, workers=2)]
        assert names == ["part/b_image.png", "part/b_pred.png", "part/b_overlay.png"]
        assert len(told) == 1


def test_progress_is_tracked(dataset):
    seen = []

    def track(items, description, total):
        seen.append((description, total))
        return items

    assert len(list(overlay(dataset, track=track))) == 2
    assert seen == [("overlay", 2)]


def test_background_stays_the_image_and_objects_have_their_colours():
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    labels = labels_record("a").labels
    for opacity in (0.0, 0.3, 1.0):
        blended = blend_labels(image, labels, opacity)
        np.testing.assert_array_equal(blended[labels == 0], image[labels == 0])
        expected = (1 - opacity) * image + opacity * palette()[1].astype(float)
        assert np.abs(blended[labels == 1].astype(float) - expected[labels == 1]).max() <= 0.51


@pytest.mark.parametrize("opacity", [0.0, 0.7, 1.0])
def test_ignored_pixels_are_never_drawn_as_a_class(opacity):
    """Whatever the image below, no pixel has a hue: white, or stripes of white and of the image, darkened."""
    image = np.full((40, 40, 3), 120, np.uint8)
    ignored = np.full((40, 40), 255, np.uint8)
    white = blend_labels(image, ignored, opacity, "white")
    assert (white == white[0, 0]).all() and white.min() > 225
    hatched = blend_labels(image, ignored, opacity)
    assert {tuple(color) for color in hatched.reshape(-1, 3).tolist()} == {(235,) * 3, (90,) * 3}
    assert 0.4 < (hatched > 200).mean() < 0.6
    # No class of VOC's palette has such a colour.
    assert not (palette()[:255] == 255).all(axis=1).any() and (shown_palette()[255] == 255).all()


def test_names_of_several_sources_are_in_the_file_names(dataset):
    records = [("A", labels_record("a")), ("B_2", labels_record("a")), ("C", maps_record("a", (1,)))]
    assert [name for name, _ in overlay(dataset, records)] == [
        "a_image.png", "a_pred_A.png", "a_overlay_A.png", "a_pred_B_2.png", "a_overlay_B_2.png", "a_heat_cat_C.png"]
    assert named_paths(labels=["x/pred", "B 2=y/pred"]) == {"labels pred": "x/pred", "labels B_2": "y/pred"}
    with pytest.raises(UsageError, match="--labels: several have the name 'pred'; give them as --labels NAME=PATH"):
        named_paths(labels=["x/pred", "y/pred"])


def test_pictures_are_sorted_into_folders_by_kind(dataset):
    settings = OverlaySettings(by_kind=True)
    names = [name for name, _ in overlay(dataset, [labels_record("part/b"), maps_record("a", (3,))], settings=settings,
                                         targets=True)]
    assert names == ["image/part/b.png", "pred/part/b.png", "overlay/part/b.png", "image/a.png", "target/a.png",
                     "heat_tv_monitor/a.png"]


def test_image_shows_through_a_low_map():
    image = np.full((1, 4, 3), 90, np.uint8)
    heat = np.float32([[0, 0.1, 0.5, 1]])
    blended = blend_heat(image, heat, 0.8).astype(int)
    assert blended[0, 0].tolist() == [90, 90, 90]
    distance = np.abs(blended - heat_colors()[np.rint(heat * 255).astype(int)]).sum(-1)[0]
    assert distance[2] > distance[3] > 0
    np.testing.assert_array_equal(blend_heat(image, heat, 0.0), image)
    beyond = blend_heat(image, np.float32([[-1, np.nan, 1, 7]]), 1.0)
    assert beyond[0, :2].tolist() == [[90, 90, 90]] * 2
    assert beyond[0, 2].tolist() == beyond[0, 3].tolist() == heat_colors()[-1].tolist()


def test_heat_colours_get_lighter_in_even_steps():
    colors = heat_colors()
    assert (colors.shape, colors.dtype) == ((256, 3), np.uint8)
    share = colors / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    lightness = np.cbrt(luminance)[::8]
    steps = np.diff(lightness)
    assert (steps > 0).all()
    assert steps.max() < 2.5 * steps.min()
    assert len(np.unique(colors, axis=0)) > 250


@pytest.mark.parametrize("names, expected", [
    (["cat", "potted plant"], ("cat", "potted_plant")),
    (["../up", "植木鉢", "a\\b"], ("___up", "植木鉢", "a_b")),
    (["Cat", "cat"], ("Cat-1", "cat-2")),
    (["a b", "a/b", "a_b-2"], ("a_b-1", "a_b-2", "a_b-2-3")),
    ([], ()),
])
def test_class_names_become_safe_and_distinct_file_names(names, expected):
    assert file_names(names) == expected


def test_long_class_names_are_clipped_to_what_a_file_name_holds():
    found = file_names(["鉢" * 100, "鉢" * 101])
    assert len(set(found)) == 2
    assert all(len(name.encode()) <= 44 for name in found)
