"""SBD, the Semantic Boundaries Dataset: images, split lists, and masks in MATLAB files.

``ROOT/img/ID.jpg``, ``ROOT/cls/ID.mat``, ``ROOT/train.txt``, ``ROOT/val.txt``; ROOT is the folder
``dataset`` of the release, or the folder that holds it.

References
----------
Hariharan et al., Semantic Contours from Inverse Detectors, ICCV 2011, and the README of its release.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drstool.data.files_by_id import FilesById
from drstool.data.item import RawDataset, RawItem, each_or_error
from drstool.data.voc import find_list, read_ids
from drstool.errors import InputError
from drstool.files import is_folder, read_bytes
from drstool.labels import channel_of
from drstool.pixels import MAX_PIXELS

if TYPE_CHECKING:
    import numpy as np

__all__ = ["CLASS_NAMES", "SbdMask", "is_sbd", "read_sbd"]

# The release numbers its categories 1..20 as PASCAL VOC does, and has no file that names them.
CLASS_NAMES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor")
_STRUCT = "GTcls"
# The release's have up to 60 KB; their contents are compressed.
_MAX_MAT_BYTES = 1 << 20


@dataclass(frozen=True)
class SbdMask:
    """The mask in a ``.mat`` file of SBD; its path as text."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def rasterize(self, size: tuple[int, int] | None = None) -> np.ndarray:
        """The label image, ``(H, W) uint8``: 0 background, 1..20 VOC's classes.

        Raises
        ------
        InputError
            It cannot be read, or is another MATLAB file.
        """
        import numpy as np

        labels = _field(self.path, "Segmentation")
        if labels.ndim != 2 or not 0 < labels.size <= MAX_PIXELS or labels.dtype != np.uint8:
            raise InputError(
                self.path, f"its segmentation is {labels.shape} {labels.dtype}", "expected (H, W) uint8")
        return np.ascontiguousarray(labels)


def is_sbd(root: Path) -> bool:
    """Whether a folder has the layout of SBD, or holds the folder that has."""
    return _base(root) is not None


def read_sbd(root: Path, split: str | None, *, need_tags: bool = True) -> RawDataset:
    """The images of one split of SBD, tagged with the categories that each file lists as present.

    Parameters
    ----------
    root
    split
        Name of a list such as ``train``, or a text file of ids.
    need_tags
        Read the categories, for which each file must be opened.

    Raises
    ------
    UsageError
        No split is named and there are several.
    InputError
        A list, an image or a file is missing or damaged.
    """
    base = _base(root) or root
    images, masks = FilesById(base / "img"), FilesById(base / "cls", (".mat",))
    ids_file = find_list(base, split, ("",))
    ids = images.ids() if ids_file is None else read_ids(ids_file, images)
    where = str(ids_file or images.folder)
    if not ids:
        raise InputError(where, "lists no images", "give one id per line")

    def row(identifier: str) -> RawItem:
        image, path = images.must_find(identifier, where), masks.find(identifier)
        tags = _categories(path) if need_tags and path is not None else None
        return RawItem(
            identifier, image, tags, None if path is None else SbdMask(path), where=str(path or masks.folder))

    rows, missing = each_or_error(ids, row)
    source = "sbd" if any(row.tags is not None for row in rows) else "none"
    return RawDataset(rows, CLASS_NAMES, True, source, missing=missing)


def _base(root: Path) -> Path | None:
    both = (root, root / "dataset")
    return next((base for base in both if is_folder(base / "img") and is_folder(base / "cls")), None)


def _categories(path: Path) -> tuple[str, ...]:
    """Names of the classes that a file lists as present."""
    numbers = _field(path, "CategoriesPresent").ravel().tolist()
    if not all(isinstance(number, int) and 1 <= number <= len(CLASS_NAMES) for number in numbers):
        raise InputError(path, f"lists the categories {numbers[:5]}", f"they are 1 to {len(CLASS_NAMES)}")
    return tuple(CLASS_NAMES[channel_of(number)] for number in numbers)


def _field(path: Path, name: str) -> Any:
    """A field of the file's struct; nothing in a MATLAB file is run."""
    # Its import takes a while.
    from scipy.io import loadmat

    content = read_bytes(path, most=_MAX_MAT_BYTES)
    try:
        return loadmat(io.BytesIO(content), variable_names=[_STRUCT])[_STRUCT][0, 0][name]
    except Exception as error:  # scipy raises nearly anything on damaged files.
        reason = str(error) if not isinstance(error, (KeyError, IndexError)) else f"it has no {_STRUCT}.{name}"
        raise InputError(path, f"is not a mask of SBD: {reason}", "expected a file of SBD's folder 'cls'") from None
