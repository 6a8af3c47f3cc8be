"""``<id>.npz``: arrays ``maps`` (K, h, w) and ``labels`` (from 1) or ``keys`` (class numbers from 0).

It may also hold ``image_size``, the image's height and width, and ``class_names``, as ``drstool export`` writes.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from drstool.errors import InputError, is_shortage
from drstool.exchange.found import FoundMaps, check_numbers, stacked
from drstool.files import read_bytes
from drstool.formats.records import MAX_RECORD_BYTES
from drstool.labels import channel_of
from drstool.pickles import load_npy

__all__ = ["class_names", "load", "maps_of"]

_RIGHT = "expected arrays 'maps' (K, H, W), and either 'labels' (from 1) or 'keys' (from 0)"
_KNOWN = ("maps", "labels", "keys", "image_size", "class_names")


def load(path: Path) -> dict[str, Any]:
    """The arrays of a file by name.

    Raises
    ------
    InputError
        It is not such a file, or damaged.
    """
    content = read_bytes(path)
    if not content:
        raise InputError(path, "is empty (0 bytes)", "recreate or download it again")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > MAX_RECORD_BYTES:
                raise ValueError("it claims to hold more than 4 GiB")
            # The checksum of each member is compared.
            data = {member.filename.removesuffix(".npy"): archive.read(member) for member in members}
    # zipfile and zlib raise nearly anything on damaged files.
    except Exception as error:
        if is_shortage(error):
            raise
        raise InputError(path, f"is a damaged .npz file: {error!s:.120}", _RIGHT) from None
    return {
        name: load_npy(each, f"{path}: {name}", what="is not an array", right=_RIGHT) for name, each in data.items()}


def class_names(content: dict[str, Any]) -> tuple[str, ...] | None:
    """The class names that a file holds."""
    names = content.get("class_names")
    return None if names is None else tuple(str(name) for name in np.atleast_1d(names))


def maps_of(content: dict[str, Any]) -> FoundMaps:
    """The maps of a file."""
    if "maps" not in content or ("labels" in content) == ("keys" in content):
        raise ValueError(f"it holds the arrays {', '.join(content)[:80]}; {_RIGHT}")
    numbers = check_numbers(content["keys" if "keys" in content else "labels"])
    if "labels" in content:
        if 0 in numbers:
            raise ValueError("it has the label 0, which is the background; 'keys' count from 0, 'labels' from 1")
        numbers = tuple(map(channel_of, numbers))
    size = check_numbers(content["image_size"]) if "image_size" in content else None
    if size is not None and len(size) != 2:
        raise ValueError("its 'image_size' is not a height and a width")
    return FoundMaps(
        stacked(content["maps"], len(numbers)), numbers, fills_image=False, image_size=size,
        left_out=tuple(f"'{name}'" for name in content if name not in _KNOWN))
