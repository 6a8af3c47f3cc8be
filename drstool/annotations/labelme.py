"""labelme's JSON files, one for each image: tags from the labels of its shapes, ground truth drawn from them.

References
----------
github.com/wkentaro/labelme: labelme/label_file.py, labelme/utils/shape.py.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from drstool.annotations.drawing import (
    Annotation, check_drawable, is_fragment, notices_of_undrawn, paint, rasterize_polygon,
)
from drstool.errors import InputError
from drstool.labels import is_object_name, label_type, labels_by_name
from drstool.pixels import shown_size
from drstool.text import read_text

if TYPE_CHECKING:
    import numpy as np

__all__ = ["LabelmeMask", "image_of_labelme", "read_labelme"]

_POLYGONS = ("polygon", "oriented_rectangle")
# They have no area; labelme itself draws them ten pixels wide. Their objects give tags.
_SHAPELESS = ("line", "linestrip", "point", "points")
# In pixels; beyond it are damaged numbers.
_FARTHEST = 1e9
_SHAPES = (*_POLYGONS, *_SHAPELESS, "rectangle", "circle", "mask")


@dataclass(frozen=True)
class LabelmeMask:
    """Ground truth of one labelme file.

    Attributes
    ----------
    path
        The JSON file.
    class_names
        Object classes in label order; another label's shapes are ignored.
    """

    path: Path
    class_names: tuple[str, ...] = ()
    needs_size: ClassVar[bool] = True

    def __str__(self) -> str:
        return str(self.path)

    def rasterize(self, size: tuple[int, int]) -> np.ndarray:
        """The label image, (H, W) uint8 or uint16; later shapes lie over earlier ones, as in labelme.

        Parameters
        ----------
        size : (H, W)
            Of the image.

        Raises
        ------
        InputError
            The file or a shape of it is damaged, or an object is only a line or a point.
        """
        known = _read(self.path)
        if None not in known.size and known.size != tuple(size):
            raise InputError(
                self.path, f"is of an image of {shown_size(tuple(map(repr, known.size)))} pixels, but its image has "
                f"{shown_size(size)}", "annotations must be of the image itself")
        shapes = [shape for shape in known.shapes if _is_drawn(shape)]
        check_drawable(len(shapes), size, self.path, undrawable=sum(map(_is_undrawable, known.shapes)))
        label = labels_by_name(self.class_names)
        regions = ((label(shape["label"]), _region(shape, size, self.path)) for shape in shapes)
        return paint(regions, size, label_type(len(self.class_names)), smaller_on_top=False)


def read_labelme(files: Sequence[Path | None], where: Path) -> tuple[list[Annotation], tuple[str, ...]]:
    """What labelme's files say of their images, and notices; an image without a file is not annotated yet.

    Where no image has a shape, the tags are the flags that are set, labelme's way to classify images.

    Parameters
    ----------
    files
        One for each image, or None.
    where
        Named in notices.

    Raises
    ------
    InputError
        A file is not one of labelme's.
    """
    known = [None if path is None else _read(path) for path in files]
    shapes = [shape for each in known if each is not None for shape in each.shapes]
    if not shapes and any(each is not None and each.flags for each in known):
        return [Annotation(None if each is None else each.flags) for each in known], (
            f"{where}: no image has a shape: the flags that are set are taken for the tags",)
    undrawable = sum(any(map(_is_undrawable, each.shapes)) for each in known if each is not None)
    fragments = sum(not _is_drawn(shape) and shape["shape_type"] not in _SHAPELESS for shape in shapes)
    found = [Annotation() if path is None or each is None else _annotation(path, each)
             for path, each in zip(files, known, strict=True)]
    return found, notices_of_undrawn(where, undrawable, fragments)


def image_of_labelme(path: Path) -> str:
    """The path of the image that a file of labelme says it is of; empty where it does not say or is damaged."""
    try:
        content = json.loads(read_text(path))
    except (InputError, ValueError, RecursionError):
        return ""
    image = content.get("imagePath") if isinstance(content, dict) else None
    return image if isinstance(image, str) else ""


def _annotation(path: Path, known: _Shapes) -> Annotation:
    tags = tuple(shape["label"] for shape in known.shapes if is_object_name(shape["label"]))
    is_drawn = not known.shapes or any(map(_is_drawn, known.shapes))
    return Annotation(tags, LabelmeMask(path) if is_drawn and not any(map(_is_undrawable, known.shapes)) else None)


@dataclass(frozen=True)
class _Shapes:
    """The shapes of a file, each with 'label', 'points' and 'shape_type'; flags that are set; the image's size."""

    shapes: list[dict]
    flags: tuple[str, ...]
    size: tuple[object, object] = (None, None)


def _read(path: Path) -> _Shapes:
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise InputError(path, f"is not JSON: {error}", "expected a file of labelme") from None
    shapes = content.get("shapes") if isinstance(content, dict) else None
    if not isinstance(shapes, list):
        raise InputError(path, "is not a file of labelme: it has no list 'shapes'", "remove it, or annotate the image")
    for shape in shapes:
        if not isinstance(shape, dict) or not isinstance(shape.get("label"), str) or not shape["label"].strip():
            raise InputError(path, "has a shape without a label", "give each shape a label")
        shape["shape_type"] = shape.get("shape_type") or "polygon"
        if shape["shape_type"] not in _SHAPES:
            raise InputError(path, f"has a shape of the type {shape['shape_type']!r:.40}",
                             f"labelme's are {', '.join(_SHAPES)}")
        shape["points"] = _flat(shape.get("points"), path)
    flags = content.get("flags")
    flags = flags.items() if isinstance(flags, dict) else ()
    return _Shapes(
        shapes, tuple(name for name, value in flags if value is True and is_object_name(name)),
        (content.get("imageHeight"), content.get("imageWidth")))


def _flat(points: Any, path: Path) -> list[float]:
    """x0, y0, x1, y1, … of a list of points."""
    try:
        flat = [float(value) for x, y in points for value in (x, y)]
    except (TypeError, ValueError, OverflowError):
        flat = [math.nan]
    if not all(abs(value) < _FARTHEST for value in flat):
        raise InputError(path, "has a shape with invalid points", "points are [[x, y], …], in pixels")
    return flat


def _is_drawn(shape: dict) -> bool:
    if shape["shape_type"] in _POLYGONS:
        return not is_fragment(shape["points"])
    return shape["shape_type"] not in _SHAPELESS and len(shape["points"]) >= 4


def _is_undrawable(shape: dict) -> bool:
    """Whether a shape is an object without an area, whose pixels are therefore not known."""
    return shape["shape_type"] in _SHAPELESS and is_object_name(shape["label"])


def _region(shape: dict, size: tuple[int, int], where: Path) -> np.ndarray:
    """Pixels of one shape, ``(H, W) bool``."""
    import numpy as np

    kind, points = shape["shape_type"], shape["points"]
    if kind in _POLYGONS:
        return rasterize_polygon(points, size, where)
    if kind == "rectangle":
        # Two opposite corners, or all four.
        (left, right), (top, bottom) = ((min(points[axis::2]), max(points[axis::2])) for axis in (0, 1))
        return rasterize_polygon([left, top, right, top, right, bottom, left, bottom], size, where)
    x0, y0, x1, y1 = points[:4]
    if kind == "circle":
        # Its centre, and a point on its edge.
        rows, columns = np.ogrid[:size[0], :size[1]]
        return np.hypot(columns + 0.5 - x0, rows + 0.5 - y0) <= np.hypot(x1 - x0, y1 - y0)
    return _pasted(shape.get("mask"), (round(y0), round(x0)), size, where)


def _pasted(mask: Any, corner: tuple[int, int], size: tuple[int, int], where: Path) -> np.ndarray:
    """A mask that labelme keeps as a PNG in base64, with its upper left pixel at ``corner`` (row, column)."""
    import numpy as np

    from drstool.pillow import load_png

    try:
        content = base64.b64decode(mask, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise InputError(where, "has a mask that is not base64", "the file may be damaged") from None
    values = np.asarray(load_png(content, f"{where}: a mask").convert("L")) > 0
    region = np.zeros(size, bool)
    row, column = (min(max(place, 0), side) for place, side in zip(corner, size, strict=True))
    part = region[row:row + values.shape[0], column:column + values.shape[1]]
    part |= values[:part.shape[0], :part.shape[1]]
    return region
