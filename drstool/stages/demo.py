"""A small dataset to try everything on: pictures of stylised creatures, drawn from a seed.

Every creature has a small *striking part*, its head, whose colours and pattern are unique to its
class, and a larger body, whose build, colours and coat it shares with other classes. This is the
situation that Discriminative Region Suppression is made for: the heads are enough to classify, but
the object is the whole creature. Backgrounds are textured and cluttered with leaves, stones and
twigs; size, position, pose and light vary; creatures may stand together and overlap.
"""

from __future__ import annotations

import io
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from drstool.demo import CLASS_NAMES, Picture, render_picture
from drstool.errors import UsageError
from drstool.formats.label_png import encode_label_png
from drstool.parallel import Track, ordered_map, untracked

__all__ = ["render_demo"]

_JPEG_QUALITY = 92
_SMALLEST_SIZE = 48

_README = """drstool demo dataset
====================

{total} pictures of stylised creatures ({names}),
drawn by a program from seed {seed}; nothing here is a photograph. The layout is PASCAL VOC's:

JPEGImages/ID.jpg                pictures
Annotations/ID.xml               the image's objects: class names and boxes
SegmentationClass/ID.png         pixel ground truth, for scores and pictures; nothing learns from it
saliency_map/ID.png              grey saliency maps, made from the pictures alone
ImageSets/Segmentation/NAME.txt  ids of a split: train ({train}), val ({val}), trainval
ImageSets/Segmentation/NAME_cls.txt
                                 an id and its class numbers, counted from 0, a line
classes.txt                      class names in the order of the numbers

Each creature has a small striking head that belongs to its class alone and a larger body whose
build, colours and coat are shared with other classes.
"""


def render_demo(
    folder: Path, *, seed: int = 0, train: int = 300, val: int = 100, size: int = 176,
    workers: int = 1, track: Track = untracked,
) -> None:
    """Write the demo dataset, in VOC layout, into an existing, empty folder.

    The files' bytes depend only on the seed, the counts and the size, not on the workers.

    Parameters
    ----------
    folder
        An existing folder.
    seed
        0 or more.
    train, val
        Numbers of pictures in the two splits.
    size
        Approximate side in pixels: each side of each picture is within a tenth of it.
    workers
        Number of threads.
    track
        Progress display.

    Raises
    ------
    UsageError
        A negative seed, no training picture, a negative number of validation pictures, or too
        small a size.
    """
    _check(seed, train, val, size)
    for name in ("JPEGImages", "SegmentationClass", "Annotations", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True)

    def write(index: int) -> list[int]:
        return _write_picture(folder, _identifier(index), render_picture(seed, index, size))

    total = train + val
    tags = list(track(ordered_map(write, range(total), workers), "drawing", total))
    lists = folder / "ImageSets" / "Segmentation"
    for name, indices in (("train", range(train)), ("val", range(train, total)), ("trainval", range(total))):
        _write_lines(lists / f"{name}.txt", map(_identifier, indices))
        _write_lines(lists / f"{name}_cls.txt", (" ".join([_identifier(i), *map(str, tags[i])]) for i in indices))
    _write_lines(folder / "classes.txt", CLASS_NAMES)
    text = _README.format(total=total, names=", ".join(CLASS_NAMES), seed=seed, train=train, val=val)
    (folder / "README.txt").write_text(text, encoding="utf-8", newline="\n")


def _check(seed: int, train: int, val: int, size: int) -> None:
    if seed < 0:
        raise UsageError("--seed", f"{seed} is negative", "must be at least 0")
    if train < 1:
        raise UsageError("--train", f"{train} is too few pictures", "give at least 1")
    if val < 0:
        raise UsageError("--val", f"{val} is negative", "must be at least 0")
    if size < _SMALLEST_SIZE:
        raise UsageError("--size", f"{size} pixels are too few for a creature", f"must be at least {_SMALLEST_SIZE}")


def _identifier(index: int) -> str:
    return f"demo_{index:06d}"


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


def _write_picture(folder: Path, identifier: str, picture: Picture) -> list[int]:
    """Write the picture's three files; return its class numbers, counted from 0."""
    encoded = io.BytesIO()
    Image.fromarray(picture.image).save(encoded, "JPEG", quality=_JPEG_QUALITY)
    (folder / "JPEGImages" / f"{identifier}.jpg").write_bytes(encoded.getvalue())
    labels = encode_label_png(picture.labels)
    (folder / "SegmentationClass" / f"{identifier}.png").write_bytes(labels)
    (folder / "Annotations" / f"{identifier}.xml").write_bytes(_annotation(identifier, picture))
    return sorted({CLASS_NAMES.index(name) for name, _ in picture.objects})


def _annotation(identifier: str, picture: Picture) -> bytes:
    """The annotation as VOC has it; its boxes count pixels from 1 and include both ends."""
    height, width = picture.labels.shape
    root = ElementTree.Element("annotation")

    def add(parent: ElementTree.Element, **texts: object) -> None:
        for name, text in texts.items():
            ElementTree.SubElement(parent, name).text = str(text)

    add(root, folder="demo", filename=f"{identifier}.jpg")
    add(ElementTree.SubElement(root, "source"), database="drstool demo")
    add(ElementTree.SubElement(root, "size"), width=width, height=height, depth=3)
    add(root, segmented=1)
    for name, (left, top, right, bottom) in picture.objects:
        cut = left == 0 or top == 0 or right == width - 1 or bottom == height - 1
        element = ElementTree.SubElement(root, "object")
        add(element, name=name, pose="Unspecified", truncated=int(cut), difficult=0)
        add(ElementTree.SubElement(element, "bndbox"),
            xmin=left + 1, ymin=top + 1, xmax=right + 1, ymax=bottom + 1)
    ElementTree.indent(root, space="\t")
    return ElementTree.tostring(root, encoding="utf-8") + b"\n"
