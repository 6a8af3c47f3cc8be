"""Masks in colours that a ``labelmap.txt`` names: CVAT's "Segmentation mask", and VOC exports of Datumaro.

A line of it is ``label:red,green,blue:parts:actions``. Colours count, not a palette's numbers, because programs that
convert such masks number the colours anew.

References
----------
docs.cvat.ai, "Segmentation Mask" format.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from drstool.errors import InputError
from drstool.files import read_bytes
from drstool.labels import BACKGROUND, IGNORE, ignore_label, label_type, labels_by_name, palette
from drstool.text import read_lines

if TYPE_CHECKING:
    import numpy as np

__all__ = ["LABELMAP", "ColorMask", "is_labelmap", "read_labelmap"]

LABELMAP = "labelmap.txt"
_BYTE = r"\s*(25[0-5]|2[0-4]\d|1?\d?\d)\s*"
_LINE = re.compile(rf"([^:]+):(?:{_BYTE},{_BYTE},{_BYTE})?(?::.*)?")
_BLACK = (0, 0, 0)
_MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class ColorMask:
    """Ground truth of one PNG in colours.

    Attributes
    ----------
    path
        The PNG.
    labelmap
        The file that names its colours.
    class_names
        Object classes in label order; another label's pixels are ignored.
    """

    path: Path
    labelmap: Path
    class_names: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.path}#{self.labelmap}"

    def rasterize(self, size: tuple[int, int] | None = None) -> np.ndarray:
        """The label image, (H, W) uint8 or uint16, of the PNG's own size.

        Raises
        ------
        InputError
            The PNG is damaged, or has a colour that is not in the labelmap.
        """
        import numpy as np

        from drstool.pillow import load_png

        dtype, label = label_type(len(self.class_names)), labels_by_name(self.class_names)
        values_by_color = {color: label(name) for color, name in read_labelmap(self.labelmap).items()}
        picture = load_png(read_bytes(self.path), self.path)
        if picture.mode not in ("P", "PA", "RGB", "RGBA"):
            return self._of_numbers(list(values_by_color.values()), dtype)
        # Unless the labelmap says otherwise: as in PASCAL VOC.
        usual = {_BLACK: BACKGROUND, tuple(palette()[IGNORE].tolist()): ignore_label(dtype)}
        weights = np.array([1 << 16, 1 << 8, 1])
        known = {int(np.dot(color, weights)): value for color, value in (usual | values_by_color).items()}
        coded = np.asarray(picture.convert("RGB")) @ weights
        codes, places = np.unique(coded, return_inverse=True)
        unknown = [code for code in codes.tolist() if code not in known]
        if unknown:
            shown = ",".join(str(unknown[0] >> shift & 0xff) for shift in (16, 8, 0))
            raise InputError(
                self.path, f"has the colour {shown}, which is not in {self.labelmap}", f"add the line NAME:{shown}::")
        values = np.array([known[code] for code in codes.tolist()], dtype)
        return values[places.reshape(coded.shape)]

    def _of_numbers(self, values: list[int], dtype: np.dtype) -> np.ndarray:
        """The label image of a grey PNG: its values count the labelmap's lines from 0."""
        import numpy as np

        from drstool.formats.label_png import read_label_png

        found = read_label_png(self.path)
        if values[0] != BACKGROUND:
            raise InputError(self.path, f"is grey, and the first line of {self.labelmap} is not the background",
                             "values count the lines from 0, and 0 is the background")
        table = np.full(int(np.iinfo(found.dtype).max) + 1, ignore_label(dtype), dtype)
        table[:len(values)] = values
        wrong = np.unique(found[(found >= len(values)) & (found != ignore_label(found.dtype))])
        if wrong.size:
            raise InputError(self.path, f"has the value {wrong[0]}, but {self.labelmap} has {len(values)} lines",
                             "values count the lines from 0")
        return table[found]


def is_labelmap(lines: Sequence[str]) -> bool:
    """Whether the lines of a list of classes are those of a labelmap, with colours.

    Examples
    --------
    >>> is_labelmap(["# label:color_rgb:parts:actions", "cat:0,128,0::"]), is_labelmap(["cat", "dog: small"])
    (True, False)
    """
    matches = [_LINE.fullmatch(line) for line in lines if not line.startswith("#")]
    return bool(matches) and all(match is not None and (match[2] or match[0].endswith("::")) for match in matches)


def read_labelmap(path: Path) -> dict[tuple[int, ...], str]:
    """Names by colour, in the file's order; without colours, those of PASCAL VOC.

    Raises
    ------
    InputError
        A line is no label, or two have the same colour.
    """
    lines = [line for line in read_lines(path, _MAX_BYTES) if not line.startswith("#")]
    found: dict[tuple[int, ...], str] = {}
    matches = [_LINE.fullmatch(line) for line in lines]
    for number, (line, match) in enumerate(zip(lines, matches, strict=True)):
        if match is None:
            raise InputError(path, f"has the line {line!r:.80}", "a line is label:red,green,blue:parts:actions")
        color = tuple(map(int, match.groups()[1:])) if match[2] else tuple(palette()[number % len(palette())].tolist())
        if match[2] is None and any(other and other[2] for other in matches):
            raise InputError(path, f"gives no colour for {match[1]!r:.80}", "give all labels a colour, or none")
        if color in found:
            raise InputError(path, f"has the colour {','.join(map(str, color))} twice", "give each label its own")
        found[color] = match[1].strip()
    if not found:
        raise InputError(path, "names no label", "a line is label:red,green,blue:parts:actions")
    return found
