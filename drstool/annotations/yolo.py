"""YOLO's label files, one line an object: tags from the class numbers, ground truth from polygons.

A line is ``NUMBER X Y WIDTH HEIGHT`` or ``NUMBER X1 Y1 X2 Y2 X3 Y3 …``, in fractions of the image's size.

References
----------
docs.ultralytics.com/datasets/segment and /detect; CVAT's and Roboflow's exports of the same format.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from drstool.annotations.drawing import Annotation, check_drawable, notices_of_undrawn, paint, rasterize_polygon
from drstool.errors import InputError
from drstool.files import is_file
from drstool.labels import is_object_name, label_type, labels_by_name
from drstool.text import read_lines

if TYPE_CHECKING:
    import numpy as np

__all__ = ["YoloMask", "read_yolo_labels", "yolo_names"]

# Fractions of an image's size may lie a little outside of it, for rounding.
_TOLERANCE = 0.01


@dataclass(frozen=True)
class YoloMask:
    """Ground truth of one label file.

    Attributes
    ----------
    path
        The label file; where it is missing, the image has no objects.
    names
        Names by class number.
    names_file
        What lists them.
    class_names
        Object classes in label order.
    """

    path: Path
    names: tuple[str, ...]
    names_file: Path
    class_names: tuple[str, ...] = ()
    needs_size: ClassVar[bool] = True

    def __str__(self) -> str:
        return f"{self.path}#{self.names_file}"

    def rasterize(self, size: tuple[int, int]) -> np.ndarray:
        """The label image, (H, W) uint8 or uint16; smaller objects lie over larger ones.

        Parameters
        ----------
        size : (H, W)
            Of the image.

        Raises
        ------
        InputError
            The file is damaged, or has a box.
        """
        objects = list(_objects(self.path, self.names))
        check_drawable(len(objects), size, self.path, undrawable=sum(len(corners) < 6 for _, corners in objects))
        label = labels_by_name(self.class_names)

        def region(corners: list[float]) -> np.ndarray:
            scaled = [value * size[1 - place % 2] for place, value in enumerate(corners)]
            return rasterize_polygon(scaled, size, self.path)

        regions = ((label(name), region(corners)) for name, corners in objects)
        return paint(regions, size, label_type(len(self.class_names)))


def read_yolo_labels(
    files: Sequence[Path], names: Sequence[str], where: Path, *, draws: bool = True,
) -> tuple[list[Annotation], tuple[str, ...]]:
    """What label files say of their images, and notices.

    Parameters
    ----------
    files
        One for each image. Where it is missing, the image has no objects, unless all are missing.
    names
        By class number.
    where
        What lists the names.
    draws
        Whether polygons are outlines: those of poses are not.

    Raises
    ------
    InputError
        A label file is damaged, or has a class without a name.
    """
    missing = sum(not is_file(path) for path in files)
    if missing == len(files):
        return [Annotation()] * len(files), (
            f"{where}: none of the {len(files)} images has a file of labels: they have no tags",)
    objects = [tuple(_objects(path, names)) for path in files]
    shapeless = sum(len(corners) < 6 for known in objects for _, corners in known)
    draws = draws and shapeless < sum(map(len, objects))
    boxed = sum(any(len(corners) < 6 for _, corners in known) for known in objects)
    found = [
        Annotation(tuple(name for name, _ in known if is_object_name(name)),
                   YoloMask(path, tuple(names), where) if draws and all(len(each) >= 6 for _, each in known) else None)
        for path, known in zip(files, objects, strict=True)]
    told = (f"{where}: images without a file of labels ({missing}) are taken to have no objects",) if missing else ()
    return found, told + (notices_of_undrawn(where, boxed, 0) if draws else ())


def yolo_names(content: dict[str, object], where: Path) -> tuple[str, ...]:
    """Names by class number, of a ``data.yaml``.

    Raises
    ------
    InputError
        There are none, or fewer than numbers, or two are the same.
    """
    names = content.get("names")
    right = "write names: [cat, dog], or one line '0: cat' for each class"
    if isinstance(names, dict):
        numbers = {int(key) if re.fullmatch("[0-9]{1,8}", key) else -1: name for key, name in names.items()}
        if sorted(numbers) != list(range(len(names))):
            raise InputError(where, f"'names' has the class numbers {', '.join(map(str, sorted(numbers)))[:80]}",
                             "they count from 0 without a gap")
        names = [numbers[number] for number in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise InputError(where, "does not name the classes", right)
    if len(set(names)) < len(names):
        raise InputError(where, f"names class '{max(names, key=names.count)}' twice", "list each class once")
    count = content.get("nc")
    if isinstance(count, str) and count != str(len(names)):
        raise InputError(where, f"has {len(names)} names for {count} classes (nc)", "name each class once")
    return tuple(names)


def _objects(path: Path, names: Sequence[str]) -> Iterator[tuple[str, list[float]]]:
    """Class name and numbers of each object: four of a box, six or more of a polygon."""
    if not is_file(path):
        return
    for number, line in enumerate(read_lines(path), start=1):
        where = f"{path} line {number}"
        try:
            index, *values = map(float, line.split())
        except ValueError:
            raise InputError(where, "is not a class number and coordinates", "a line is '0 x y width height', or "
                             "'0 x1 y1 x2 y2 x3 y3 …'") from None
        if not index.is_integer() or not 0 <= index < len(names):
            raise InputError(where, f"has the class {line.split()[0]}, but {len(names)} classes have names",
                             f"class numbers are 0 to {len(names) - 1}")
        # A box may be followed by a track's number or a confidence.
        values = values[:4] if len(values) == 5 else values
        if len(values) < 4 or len(values) % 2 or not all(-_TOLERANCE <= v <= 1 + _TOLERANCE for v in values):
            raise InputError(where, f"has {len(values)} coordinates, or some outside of 0 to 1",
                             "they are fractions of the image's width and height")
        yield names[int(index)], values
