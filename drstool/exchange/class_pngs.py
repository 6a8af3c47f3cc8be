"""``<id>_<class number>.png``, as OAA and WSSS-BED have them: a grey picture of the image's size for each class.

References
----------
``classifier/infer.py`` and ``wsss_bed/run.py`` of clovaai/WSSS-BED: class numbers from 0, values are ``255 x``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from drstool.errors import InputError
from drstool.exchange.found import FoundMaps
from drstool.files import read_bytes

__all__ = ["by_image", "maps_of"]

# The number without leading zeros: '2007_000032' is the name of an image.
_NAME = re.compile(r"(?P<id>.+)_(?P<number>0|[1-9][0-9]{0,4})", re.DOTALL)


def by_image(names: Iterable[str], where: object) -> dict[str, list[int]]:
    """Class numbers by image id, from the files' names without their ending.

    Raises
    ------
    InputError
        A name is not of this form.
    """
    found: dict[str, list[int]] = {}
    for name in names:
        match = _NAME.fullmatch(name)
        if match is None:
            raise InputError(
                where, f"holds {name + '.png'!r}", "expected ID_CLASS.png, with a class number from 0")
        found.setdefault(match["id"], []).append(int(match["number"]))
    return {identifier: sorted(numbers) for identifier, numbers in found.items()}


def maps_of(files: dict[int, Path]) -> FoundMaps:
    """The maps of one image, from its files by class number.

    Raises
    ------
    InputError
        A file is damaged, or not a grey picture of 8 bits; they differ in size.
    """
    from drstool.pillow import load_png

    maps: list[np.ndarray] = []
    for path in files.values():
        picture = load_png(read_bytes(path), path)
        if picture.mode != "L":
            raise InputError(path, f"is a PNG of mode {picture.mode}", "a map is a grey picture of 8 bits")
        maps.append(np.asarray(picture))
        if maps[-1].shape != maps[0].shape:
            raise InputError(path, "has another size than the other maps of its image", "recreate them")
    return FoundMaps(np.stack(maps), tuple(files), fills_image=True)
