"""COCO instances files: images, tags from the objects' categories, masks rasterised on demand.

References
----------
Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014; the data format page of
cocodataset.org.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from drstool.annotations.drawing import check_drawable, is_fragment, notices_of_undrawn, paint, rasterize_polygon
from drstool.errors import InputError
from drstool.files import read_beginning, unreadable
from drstool.labels import BACKGROUND, check_class_names, ignore_label, is_object_name, label_type, labels_by_name
from drstool.pixels import MAX_PIXELS, shown_size
from drstool.text import read_text

if TYPE_CHECKING:
    import numpy as np

__all__ = ["CocoFile", "CocoMask", "category_names", "load_coco", "looks_like_coco", "read_rle", "text_of"]

# Of a file whose lists are not in its beginning it is not known what they are.
_BEGINNING_BYTES = 1 << 16


@dataclass(frozen=True)
class CocoMask:
    """Ground truth of one image of a COCO file; ``FILE.json#IMAGE_ID`` as text.

    Attributes
    ----------
    path
        The COCO file.
    image_id
        The image's id in it, as text.
    class_names
        Object classes in label order; empty: those of the file. A category that is none of them
        becomes the ignore label.
    """

    path: Path
    image_id: str
    class_names: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.path}#{self.image_id}"

    def rasterize(self, expected: tuple[int, int] | None = None) -> np.ndarray:
        """The label image.

        Crowds are ignored. Where objects overlap, the smaller one lies on top.

        Parameters
        ----------
        expected : (H, W), optional
            Size of the image itself. Where the file has another, nothing is drawn: the label image
            is empty and of the file's size.

        Returns
        -------
        (H, W) uint8, or uint16 for more than 254 classes

        Raises
        ------
        InputError
            The image is not in the file, or one of its annotations is damaged or has only a box.
        """
        import numpy as np

        coco = load_coco(self.path)
        image = coco.image(self.image_id)
        size = _size_of(image, str(self))
        names = self.class_names or coco.class_names
        dtype, label = label_type(len(names)), labels_by_name(names)
        if expected is not None and size != tuple(expected):
            return np.full(size, BACKGROUND, dtype)
        annotations = coco.annotations.get(image["id"], ())
        check_drawable(len(annotations), size, str(self), undrawable=sum(map(_is_box, annotations)))
        regions = (
            (ignore_label(dtype) if annotation.get("iscrowd") else label(coco.categories[annotation["category_id"]]),
             _region(outline, size, f"{self.path} annotation {annotation.get('id')}"))
            for annotation in annotations if (outline := _outline(annotation)) is not None)
        return paint(regions, size, dtype)


def looks_like_coco(path: Path) -> bool:
    """Whether a JSON file has the lists of a COCO file, as far as its beginning tells."""
    beginning = read_beginning(path, _BEGINNING_BYTES)
    return beginning.lstrip(b"\xef\xbb\xbf \n\r\t")[:1] == b"{" and (
        b'"images"' in beginning or len(beginning) == _BEGINNING_BYTES and b'"annotations"' in beginning)


def category_names(path: Path) -> tuple[str, ...]:
    """Class names of a COCO file, in the order of their category ids.

    Raises
    ------
    InputError
        It is not a COCO file.
    """
    return load_coco(path).class_names


@dataclass(frozen=True)
class CocoFile:
    path: Path
    images: dict[object, dict]
    entries: dict[object, dict]
    categories: dict[object, str]
    annotations: dict[object, list[dict]]
    annotated: bool

    @property
    def class_names(self) -> tuple[str, ...]:
        names = [name for key, name in self.categories.items() if key not in self._roots and is_object_name(name)]
        return check_class_names(names, self.path)

    @cached_property
    def _roots(self) -> frozenset:
        """Categories without objects that others name as theirs: Roboflow's first one is the project, not a class."""
        used = {annotation["category_id"] for known in self.annotations.values() for annotation in known}
        above = {key: category.get("supercategory") for key, category in self.entries.items()}
        return frozenset(
            key for key, name in self.categories.items()
            if key not in used and above[key] in (None, "", "none")
            and any(other != key and root == name for other, root in above.items()))

    @property
    def has_outlines(self) -> bool:
        """Whether any object has more than a box."""
        return any(_outline(annotation) is not None for known in self.annotations.values() for annotation in known)

    def has_boxes(self, image_id: object) -> bool:
        """Whether an object of an image has no outline, so that its pixels are not known."""
        return any(map(_is_box, self.annotations.get(image_id, ())))

    def tags(self, image_id: object) -> tuple[str, ...]:
        """Class names of an image's objects."""
        names = (self.categories[annotation["category_id"]] for annotation in self.annotations.get(image_id, ()))
        return tuple(name for name in names if is_object_name(name))

    def notices(self, has_masks: bool) -> tuple[str, ...]:
        """What is left out, a line for each kind."""
        left_out = [name for key, name in self.categories.items() if key in self._roots or not is_object_name(name)]
        lines = [f"{self.path}: left out, not object classes: {', '.join(map(repr, left_out))}"] if left_out else []
        known = [annotation for several in self.annotations.values() for annotation in several]
        boxed = sum(map(self.has_boxes, self.images))
        outlines = [annotation["segmentation"] for annotation in known if "segmentation" in annotation]
        fragments = outlines.count(None) + sum(map(is_fragment, (
            polygon for outline in outlines if isinstance(outline, list) for polygon in outline)))
        return (*lines, *(notices_of_undrawn(self.path, boxed, fragments) if has_masks else ()))

    def image(self, image_id: str) -> dict:
        """The image of an id given as text."""
        # Ids are numbers in COCO itself, and strings in some files of its format.
        known = self.images.get(int(image_id)) if _is_number(image_id) else None
        known = known or self.images.get(image_id)
        if known is None:
            raise InputError(self.path, f"has no image with the id {image_id}", "a mask is FILE.json#IMAGE_ID")
        return known


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 20


def load_coco(path: Path) -> CocoFile:
    """The parsed file, cached while it does not change: masks are rasterised one by one.

    Raises
    ------
    InputError
        It is not a COCO file.
    """
    try:
        found = os.stat(path)
    except OSError as error:
        raise unreadable(path, error, "check the path") from None
    return _parse(path, found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=2)
def _parse(path: Path, modified: int, length: int) -> CocoFile:
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise InputError(path, f"is not JSON: {error}", "expected a COCO instances file") from None
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise InputError(
            path, "is not a COCO file: it has no list 'images'",
            "the name of a manifest of JSON lines must end in .jsonl")
    categories = _by_id(content, "categories", path)
    names = {key: text_of(categories[key], "name", "category", path) for key in _sorted(categories, path)}
    images = _by_id(content, "images", path)
    annotations = _by_image(content, images, names, path)
    return CocoFile(path, images, categories, names, annotations, "annotations" in content)


def _entries(content: dict, name: str, path: Path) -> Iterator[dict]:
    entries = content.get(name, [])
    if not isinstance(entries, list):
        raise InputError(path, f"'{name}' is not a list", "expected a COCO instances file")
    for entry in entries:
        if not isinstance(entry, dict):
            raise InputError(
                path, f"'{name}' has {entry!r:.40}, which is not an object", "expected a COCO instances file")
        yield entry


def _by_id(content: dict, name: str, path: Path) -> dict[object, dict]:
    found: dict[object, dict] = {}
    for entry in _entries(content, name, path):
        key = entry.get("id")
        if type(key) not in (int, str):
            raise InputError(path, f"'{name}' has an entry without an id", "give each entry a number as its 'id'")
        if key in found:
            raise InputError(path, f"'{name}' lists id {key} twice", "list each once")
        found[key] = entry
    return found


def _sorted(categories: dict[object, dict], path: Path) -> list:
    try:
        return sorted(categories)
    except TypeError:
        raise InputError(path, "some category ids are numbers and some are strings", "use numbers") from None


def text_of(entry: dict, key: str, what: str, path: Path) -> str:
    text = entry.get(key)
    if not isinstance(text, str) or not text:
        raise InputError(path, f"{what} {entry['id']} has no '{key}'", "add it")
    return text


def _by_image(
    content: dict, images: dict[object, dict], categories: dict[object, str], path: Path,
) -> dict[object, list[dict]]:
    found: dict[object, list[dict]] = {}
    for annotation in _entries(content, "annotations", path):
        for name, known in (("image", images), ("category", categories)):
            key = annotation.get(f"{name}_id")
            if type(key) not in (int, str) or key not in known:
                raise InputError(
                    path, f"annotation {annotation.get('id')} is of {name} {key!r:.40}, which is not listed",
                    f"list the {name}")
        found.setdefault(annotation["image_id"], []).append(annotation)
    return found


def _size_of(image: dict, where: str) -> tuple[int, int]:
    # Some tools write whole numbers as 480.0.
    height, width = (int(side) if isinstance(side, float) and side.is_integer() else side
                     for side in (image.get("height"), image.get("width")))
    if type(height) is not int or type(width) is not int or min(height, width) < 1 or height * width > MAX_PIXELS:
        raise InputError(where, f"has the size {shown_size((repr(height), repr(width)))}",
                         f"'width' and 'height' are numbers, at most {MAX_PIXELS:,} pixels")
    return height, width


def _outline(annotation: dict) -> object:
    """An annotation's polygons or run-length encoding, without fragments; None where there is only a box."""
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, list):
        segmentation = [polygon for polygon in segmentation if not is_fragment(polygon)]
    return None if segmentation in (None, []) else segmentation


def _is_box(annotation: dict) -> bool:
    """Whether an annotation has not even a fragment of an outline, as those of detection datasets."""
    return annotation.get("segmentation", []) == []


def _region(segmentation: object, size: tuple[int, int], where: str) -> np.ndarray:
    """Pixels of one annotation, ``(H, W) bool``."""
    import numpy as np

    if isinstance(segmentation, dict):
        return read_rle(segmentation, size, where)
    if not isinstance(segmentation, list):
        raise InputError(where, "has no segmentation", "give polygons or a run-length encoding")
    region = np.zeros(size, bool)
    for polygon in segmentation:
        region |= rasterize_polygon(polygon, size, where)
    return region


def read_rle(code: dict, size: tuple[int, int], where: object) -> np.ndarray:
    """Pixels of COCO's run-length encoding: alternate runs of outside and inside, column by column.

    Parameters
    ----------
    code
        ``size`` [H, W] and ``counts``: a list of run lengths, or their compressed text.
    size : (H, W)
        Size that the code must have.
    where
        Named in the error.

    Returns
    -------
    (H, W) bool

    Raises
    ------
    InputError
        The code is damaged or of another size.

    Examples
    --------
    >>> read_rle({"size": [2, 3], "counts": [1, 2, 3]}, (2, 3), "code").astype(int)
    array([[0, 1, 0],
           [1, 0, 0]])
    """
    import numpy as np

    if code.get("size") != list(size):
        raise InputError(where, f"has a run-length encoding with 'size' {code.get('size')!r:.40}",
                         f"its image's height and width are {list(size)}")
    counts = code.get("counts")
    runs = _uncompress(counts) if isinstance(counts, str) else counts
    if (not isinstance(runs, list) or not all(type(run) is int and run >= 0 for run in runs)
            or sum(runs) != size[0] * size[1]):
        raise InputError(where, "has an invalid run-length encoding", "the runs must add up to the number of pixels")
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape(size[1], size[0]).T


def _uncompress(text: str) -> list[int] | None:
    """Run lengths from their compressed text; None where it is invalid.

    Each character carries five bits of a number, the lowest first, and a sixth that says whether
    more follow; the last one's highest bit is the sign. From the fourth run on the number is the
    difference from the run before the last.
    """
    runs: list[int] = []
    value = bits = 0
    for character in text:
        chunk = ord(character) - 48
        if not 0 <= chunk < 64 or bits > 60:
            return None
        value |= (chunk & 31) << bits
        bits += 5
        if chunk & 32:
            continue
        if chunk & 16:
            value -= 1 << bits
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = bits = 0
    return None if bits else runs
