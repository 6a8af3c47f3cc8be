"""Memory does not grow with the number of images: they come, are worked on and go."""

import tracemalloc

import numpy as np
import pytest
from PIL import Image

from drstool.formats import Header, MapRecord, open_records, open_sink, write_pictures
from drstool.recipe import CueSettings
from drstool.stages.cat import cat
from drstool.stages.overlay import overlay
from drstool.stages.pseudo_label import pseudo_label

SIDE = 64
FEW, MANY = 20, 300


def records(count, image):
    """Maps of so many images, none kept."""
    for i in range(count):
        yield MapRecord(f"{i:04d}", np.full((1, SIDE, SIDE), i % 200, np.uint8), (1,), (SIDE, SIDE), str(image))


def peak(work, *arguments):
    """Most bytes that Python and NumPy had at one time beside those before."""
    tracemalloc.start()
    try:
        work(*arguments)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def label(count, image, folder):
    found = pseudo_label(records(count, image), CueSettings(background="constant"), workers=2)
    with open_sink(str(folder / f"labels{count}"), Header("labels", ("a",)), threads=2) as sink:
        sink.write_all(found)


def draw(count, image, folder):
    found = overlay(None, records(count, image), class_names=("a",), workers=2)
    write_pictures(str(folder / f"figures{count}"), Header("figures", ("a",)), found, threads=2)


def merge(count, image, folder):
    path = folder / f"maps{count}.h5"
    with open_sink(str(path), Header("localization-maps", ("a",)), threads=2) as sink:
        sink.write_all(records(count, image))
    with open_records(path) as source, open_sink(str(folder / f"{count}.tar"), source.header, threads=2) as sink:
        sink.write_all(cat([source]))


@pytest.mark.parametrize("work", [label, draw, merge])
def test_memory_is_flat(tmp_path, work):
    image = tmp_path / "one.png"
    Image.new("RGB", (SIDE, SIDE), (90, 120, 150)).save(image)
    # Imports and tables that are made once.
    work(2, image, tmp_path)
    few, many = (peak(work, count, image, tmp_path) for count in (FEW, MANY))
    # Ids are kept, of a few hundred bytes each with their places; one map or label image is 4096. How many
    # are under way at once differs by some 200 KB from run to run, so half of what keeping one would cost.
    assert many - few < (MANY - FEW) * SIDE * SIDE / 2
