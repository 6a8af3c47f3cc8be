"""COCO instances files: images, tags from the objects' categories, masks rasterised on demand.

References
----------
Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014; the data format page of
cocodataset.org.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from drstool.data.item import RawDataset, RawItem
from drstool.data.text import read_text
from drstool.errors import InputError
from drstool.files import is_file, unreadable
from drstool.identifiers import check_id
from drstool.labels import BACKGROUND, check_class_names, ignore_label, label_of, label_type
from drstool.pixels import MAX_PIXELS, shown_size

if TYPE_CHECKING:
    import numpy as np

__all__ = ["CocoMask", "category_names", "rasterize_polygon", "read_coco", "read_rle"]

_INSTANCES = "instances_"
# Kept as bits until the objects are ordered by size: 2 GiB.
_MAX_DRAWN = 2**34


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
            The image is not in the file, or one of its annotations is damaged.
        """
        import numpy as np

        coco = _load(self.path)
        image = coco.image(self.image_id)
        size = _size_of(image, str(self))
        names = self.class_names or coco.class_names
        labels = {name: label_of(channel) for channel, name in enumerate(names)}
        dtype = label_type(len(names))
        ignored = ignore_label(dtype)
        if expected is not None and size != tuple(expected):
            return np.full(size, BACKGROUND, dtype)
        annotations = coco.annotations.get(image["id"], ())
        if len(annotations) * size[0] * size[1] > _MAX_DRAWN:
            raise InputError(
                str(self), f"has {len(annotations):,} annotations of {shown_size(size)} pixels",
                f"at most {_MAX_DRAWN:,} pixels are drawn in all")
        painted = []
        for annotation in annotations:
            where = f"{self.path} annotation {annotation.get('id')}"
            name = coco.categories[annotation["category_id"]]
            value = ignored if annotation.get("iscrowd") else labels.get(name, ignored)
            region = _region(annotation.get("segmentation"), size, where)
            # As bits: an image may have many objects, each as large as itself.
            painted.append((int(region.sum()), value, np.packbits(region)))
        target = np.full(size, BACKGROUND, dtype)
        for _, value, bits in sorted(painted, key=lambda entry: -entry[0]):
            target[np.unpackbits(bits, count=target.size).reshape(size).view(bool)] = value
        return target


def read_coco(path: Path, split: str | None) -> RawDataset:
    """The images of a COCO instances file, tagged with the categories of their objects.

    Classes are in the order of their category ids. The images lie beside the file, in a folder
    named after the split (or after the file: ``instances_NAME.json``), or in that folder below
    ``images``; an id is the file's name without its ending.

    Raises
    ------
    InputError
        It is not a COCO file, an image is missing or listed twice, or the folder is not found.
    """
    coco = _load(path)
    if not coco.images:
        raise InputError(path, "lists no images", "give a COCO file with images")
    first = next(iter(coco.images.values()))
    folder = _image_folder(path, split, _text_of(first, "file_name", "image", path))
    has_masks = any("segmentation" in annotation for known in coco.annotations.values() for annotation in known)
    rows, seen = [], set()
    for image_id, image in coco.images.items():
        row = _row(coco, image_id, image, folder, has_masks)
        if row.id in seen:
            raise InputError(path, f"lists id {row.id!r} twice", "list each image once")
        seen.add(row.id)
        rows.append(row)
    return RawDataset(rows, coco.class_names, True, "coco" if coco.annotated else "none", reorder=True)


def category_names(path: Path) -> tuple[str, ...]:
    """Class names of a COCO file, in the order of their category ids.

    Raises
    ------
    InputError
        It is not a COCO file.
    """
    return _load(path).class_names


@dataclass(frozen=True)
class _Coco:
    path: Path
    images: dict[object, dict]
    categories: dict[object, str]
    annotations: dict[object, list[dict]]
    annotated: bool

    @property
    def class_names(self) -> tuple[str, ...]:
        return check_class_names(list(self.categories.values()), self.path)

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


def _load(path: Path) -> _Coco:
    """The parsed file, cached while it does not change: masks are rasterised one by one."""
    try:
        found = os.stat(path)
    except OSError as error:
        raise unreadable(path, error, "check the path") from None
    return _parse(path, found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=2)
def _parse(path: Path, modified: int, length: int) -> _Coco:
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise InputError(path, f"is not JSON: {error}", "expected a COCO instances file") from None
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise InputError(
            path, "is not a COCO file: it has no list 'images'",
            "the name of a manifest of JSON lines must end in .jsonl")
    categories = _by_id(content, "categories", path)
    names = {key: _text_of(categories[key], "name", "category", path) for key in _sorted(categories, path)}
    images = _by_id(content, "images", path)
    annotations = _by_image(content, images, names, path)
    return _Coco(path, images, names, annotations, "annotations" in content)


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


def _text_of(entry: dict, key: str, what: str, path: Path) -> str:
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


def _image_folder(path: Path, split: str | None, file_name: str) -> Path:
    """The folder from which an image's file name leads to its file."""
    names = [split] if split is not None else []
    if path.stem.startswith(_INSTANCES):
        names.append(path.stem.removeprefix(_INSTANCES))
    here, above = path.parent, path.parent / ".."
    folders = [place / name for name in names for place in (above, above / "images", here, here / "images")]
    if split is None:
        folders += [here, here / "images", above, above / "images"]
    for folder in folders:
        if is_file(folder / file_name):
            return folder
    raise InputError(
        path, f"cannot find its images: no {file_name} in any of {', '.join(map(str, folders))}",
        "put the images next to it, or name their folder with --split")


def _row(coco: _Coco, image_id: object, image: dict, folder: Path, has_masks: bool) -> RawItem:
    file_name = _text_of(image, "file_name", "image", coco.path)
    where = f"{coco.path} image {image_id}"
    identifier = check_id(os.path.splitext(PurePosixPath(file_name))[0], where)
    if not is_file(folder / file_name):
        raise InputError(where, f"image {identifier!r} is missing: {folder / file_name}",
                         "put it there, or remove it from the list")
    tags = None
    if coco.annotated:
        known = coco.annotations.get(image_id, ())
        tags = tuple(coco.categories[annotation["category_id"]] for annotation in known)
    mask = CocoMask(coco.path, str(image_id)) if has_masks else None
    return RawItem(identifier, folder / file_name, tags, mask, where=where)


def _size_of(image: dict, where: str) -> tuple[int, int]:
    size = image.get("height"), image.get("width")
    if not all(type(side) is int and side > 0 for side in size) or size[0] * size[1] > MAX_PIXELS:
        raise InputError(where, f"has the size {shown_size(tuple(map(repr, size)))}",
                         f"'width' and 'height' are numbers, at most {MAX_PIXELS:,} pixels")
    return size


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


def rasterize_polygon(polygon: Sequence[float], size: tuple[int, int], where: object) -> np.ndarray:
    """Pixels whose centre lies inside a polygon (even-odd rule).

    Parameters
    ----------
    polygon
        ``[x0, y0, x1, y1, …]`` in pixels; the first pixel's centre is at (0.5, 0.5).
    size : (H, W)
    where
        Named in the error.

    Returns
    -------
    (H, W) bool

    Raises
    ------
    InputError
        The polygon is not a list of at least three points.

    Examples
    --------
    >>> rasterize_polygon([0, 0, 2, 0, 2, 1, 0, 1], (2, 3), "square").astype(int)
    array([[1, 1, 0],
           [0, 0, 0]])
    """
    import numpy as np

    points = _points(polygon, where)
    height, width = size
    # Along a row of pixel centres, each edge crossed switches between outside and inside.
    crossings = np.zeros((height, width + 1), bool)
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        if y0 > y1:
            x0, y0, x1, y1 = x1, y1, x0, y0
        first, last = (int(np.clip(np.ceil(y - 0.5), 0, height)) for y in (y0, y1))
        if first == last:
            continue
        rows = np.arange(first, last)
        x = x0 + (rows + 0.5 - y0) * ((x1 - x0) / (y1 - y0))
        crossings[rows, np.clip(np.ceil(x - 0.5), 0, width).astype(int)] ^= True
    return np.logical_xor.accumulate(crossings[:, :width], axis=1)


def _points(polygon: object, where: object) -> np.ndarray:
    import numpy as np

    try:
        values = np.array(polygon, np.float64)
    except (TypeError, ValueError, OverflowError):
        values = np.empty(0)
    # Differences of coordinates far outside of any picture would overflow.
    if values.ndim != 1 or values.size < 6 or values.size % 2 or not (np.abs(values) < 1e9).all():
        raise InputError(where, "has an invalid polygon", "a polygon is [x0, y0, x1, y1, x2, y2, …]")
    return values.reshape(-1, 2)


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
