"""Ground truth masks: where they lie, and what their pixel values mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from drstool.data.item import Item, RawDataset, Rasterizable
from drstool.data.sbd import SbdMask
from drstool.data.files_by_id import IMAGE_SUFFIXES, FilesById
from drstool.errors import InputError, UsageError
from drstool.files import is_folder
from drstool.labels import ignore_label, label_type
from drstool.text import listed

if TYPE_CHECKING:
    import numpy as np

__all__ = ["MaskValues", "ValueMask", "mask_file", "mask_place", "read_as", "with_masks"]

_OPTION = "--mask-values"
_EXAMPLE = "expected the values of background, class 1, …, such as 0,255 or 0,1,2,ignore=255"
_HIGHEST = 2**16 - 1


@dataclass(frozen=True)
class MaskValues:
    """Which pixel value of a mask stands for which label.

    Attributes
    ----------
    values
        By label: background's, class 1's, …
    ignored
        That of pixels to be ignored, if there are any.
    """

    values: tuple[int, ...]
    ignored: int | None = None

    @classmethod
    def parse(cls, text: str) -> MaskValues:
        """The values that an option lists.

        Raises
        ------
        UsageError
            It is not such a list, or a value is listed twice.

        Examples
        --------
        >>> MaskValues.parse("0,128,ignore=255")
        MaskValues(values=(0, 128), ignored=255)
        """
        listed = [part.strip() for part in text.split(",")]
        ignored = [part.removeprefix("ignore=") for part in listed if part.startswith("ignore=")]
        values = [part for part in listed if not part.startswith("ignore=")]
        if len(values) < 2 or len(ignored) > 1 or not all(
                part.isascii() and part.isdigit() and len(part) < 6 and int(part) <= _HIGHEST
                for part in (*values, *ignored)):
            raise UsageError(_OPTION, f"{text!r} is not a list of pixel values", _EXAMPLE)
        numbers = [int(part) for part in (*values, *ignored)]
        if len(set(numbers)) < len(numbers):
            raise UsageError(_OPTION, f"{text!r} lists a value twice", "give each class its own value")
        return cls(tuple(numbers[:len(values)]), numbers[-1] if ignored else None)

    def __str__(self) -> str:
        return ",".join([*map(str, self.values), *([] if self.ignored is None else [f"ignore={self.ignored}"])])

    def check(self, class_names: Sequence[str] | None) -> None:
        """Check that each class has a value.

        Raises
        ------
        UsageError
            There are more values than classes, or fewer.
        """
        if class_names is not None and len(self.values) != len(class_names) + 1:
            raise UsageError(
                _OPTION, f"lists {len(self.values)} values, but there are background and {len(class_names)} classes",
                "give one value for each, background's first")

    def labels(self, values: np.ndarray, where: object) -> np.ndarray:
        """The label image that pixel values mean.

        Parameters
        ----------
        values : (H, W) uint8 or uint16
        where
            Named in the error.

        Returns
        -------
        (H, W) uint8 or uint16

        Raises
        ------
        InputError
            A value is not listed.

        Examples
        --------
        >>> import numpy as np
        >>> MaskValues.parse("0,255,ignore=7").labels(np.uint8([[0, 255, 7]]), "mask").tolist()
        [[0, 1, 255]]
        """
        import numpy as np

        dtype = label_type(len(self.values) - 1)
        table = np.full(_HIGHEST + 1, -1, np.int32)
        table[list(self.values)] = np.arange(len(self.values))
        if self.ignored is not None:
            table[self.ignored] = ignore_label(dtype)
        labels = table[values]
        if labels.min() < 0:
            unknown = np.unique(values[labels < 0])
            raise InputError(
                where, f"contains values that {_OPTION} {self} does not list: {listed(unknown.tolist())}",
                "list them; values to be ignored as ignore=VALUE")
        return labels.astype(dtype)


@dataclass(frozen=True)
class ValueMask:
    """A mask file whose values have another meaning than label values; its path as text."""

    path: Path
    values: MaskValues

    def __str__(self) -> str:
        return str(self.path)

    def rasterize(self, size: tuple[int, int] | None = None) -> np.ndarray:
        """The label image, ``(H, W) uint8`` or ``uint16``.

        Raises
        ------
        InputError
            It cannot be read, is in colour, or has a value of no meaning.
        """
        from drstool.formats.label_png import read_label_png

        return self.values.labels(read_label_png(self.path, grey=True), self.path)


def mask_file(path: Path) -> Path | Rasterizable:
    """The mask in a file: a label PNG, or SBD's ``.mat``."""
    return SbdMask(path) if path.suffix.lower() == ".mat" else path


def with_masks(found: RawDataset, folder: str) -> RawDataset:
    """The same images with the masks of a folder, ``ID.png`` or ``ID.mat``.

    Raises
    ------
    InputError
        There is no such folder, or it has masks for none of the images.
    """
    if not is_folder(folder):
        raise InputError(folder, "no such folder", "give a folder of masks, one ID.png per image")
    # Pictures of other kinds are not read, but refused by what they are.
    files = FilesById(Path(folder), (".png", ".mat", *IMAGE_SUFFIXES))
    paths = [files.find(row.id) for row in found.rows]
    if not any(paths):
        raise InputError(
            folder, "has masks for none of the images", f"expected {Path(folder, found.rows[0].id)}.png")
    rows = [replace(row, mask=None if path is None else mask_file(path)) for row, path in zip(found.rows, paths)]
    return replace(found, rows=rows)


def mask_place(item: Item) -> str:
    """The folder that an item's mask lies in, or the file of annotations that it is one of many of.

    Examples
    --------
    >>> mask_place(Item("a/1", Path("a/1.jpg"), mask=Path("gt/a/1.png")))
    'gt'
    >>> mask_place(Item("1", Path("1.jpg"), mask=Path("gt/1.png#gt/labelmap.txt")))
    'gt'
    """
    file, mark, _ = str(item.mask).rpartition("#")
    if mark and file.endswith(".json"):
        return file
    path = Path(file if mark and Path(file).suffix else str(item.mask))
    levels = item.id.count("/")
    below = path.with_suffix("").as_posix().endswith("/" + item.id) and len(path.parents) > levels
    return str(path.parents[levels] if below else path.parent)


def read_as(mask: Path | Rasterizable | None, values: MaskValues | None, where: object) -> Path | Rasterizable | None:
    """A mask read with the values that the user gave, if any.

    Raises
    ------
    UsageError
        It is not a file of pixel values.
    """
    if values is None or mask is None:
        return mask
    if not isinstance(mask, Path):
        raise UsageError(_OPTION, f"the masks of {where} are not pictures of pixel values", "omit it")
    return ValueMask(mask, values)
