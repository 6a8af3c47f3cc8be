"""Tags as ``cls_labels.npy``: a dictionary from image ids to a 0 or 1 for each class, as PSA and IRN save it.

References
----------
Ahn, Kwak, CVPR 2018 (PSA) and Ahn, Cho, Kwak, CVPR 2019 (IRN), with their published code.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from drstool.data.cells import RawTags, TagForm
from drstool.errors import InputError
from drstool.files import read_bytes

if TYPE_CHECKING:
    import numpy as np

__all__ = ["read_tag_array"]

# VOC's has less than 2 MB, COCO's 50.
_MAX_BYTES = 1 << 28
_RIGHT = "expected what np.save writes of a dictionary from image ids to a vector of 0 and 1"


def read_tag_array(path: Path, ids: Collection[str], form: TagForm) -> dict[str, RawTags]:
    """The classes of each image, by its id among ``ids``; of others, by the key as it is written.

    Integer keys are ids without their other characters, as IRN makes them: 2007000032 of ``2007_000032``,
    and 9 of ``COCO_train2014_000000000009``.

    Raises
    ------
    InputError
        It is not such a file; a value is not 0 or 1; the vectors have not one value for each class.
    """
    content = _dictionary(read_bytes(path, most=_MAX_BYTES), path)
    numbered = _by_number(ids) if any(not isinstance(key, str) for key in content) else {}
    tags: dict[str, RawTags] = {}
    for key, vector in content.items():
        if isinstance(key, str):
            name = key if key in ids else re.sub(r"\.(?:jpe?g|png)$", "", key, flags=re.IGNORECASE)
        else:
            names = numbered.get(key, [str(key)])
            if len(names) > 1:
                raise InputError(
                    path, f"has numbers for ids, and {key} could be {names[0]!r} or {names[1]!r}",
                    "save it with names as ids")
            name, = names
        if name in tags:
            raise InputError(path, f"lists id {name!r} twice", "list each image once")
        tags[name] = _classes(vector, path, name, form)
    return tags


def _by_number(ids: Collection[str]) -> dict[int, list[str]]:
    """Ids by the number that stands for them."""
    found: dict[int, list[str]] = {}
    for name in sorted(ids):
        digits = name.replace("_", "")
        if not digits.isdecimal():
            digits = (re.findall(r"[0-9]+", name) or [""])[-1]
        if digits and len(digits) < 20:
            found.setdefault(int(digits), []).append(name)
    return found


def _classes(vector: np.ndarray, path: Path, name: str, form: TagForm) -> RawTags:
    import numpy as np

    if not ((vector == 0) | (vector == 1)).all():
        wrong = vector[(vector != 0) & (vector != 1)][0]
        raise InputError(path, f"has the value {wrong} for image {name!r}", "a class has the value 0 or 1")
    if form.class_names is None:
        raise InputError(
            path, f"has values for {len(vector)} classes, which have no names", "name them with --classes FILE")
    if len(vector) != len(form.class_names):
        raise InputError(
            path, f"has values for {len(vector)} classes", f"the data have {len(form.class_names)}; see --classes")
    return tuple(form.class_names[channel] for channel in np.flatnonzero(vector))


def _dictionary(content: bytes, path: Path) -> dict[str | int, np.ndarray]:
    """The dictionary in the bytes of a ``.npy`` file."""
    # NumPy is imported only where there is such a file.
    import numpy as np

    from drstool.pickles import load_npy

    found = load_npy(content, path, what="is not a dictionary of tags", right=_RIGHT)
    if isinstance(found, np.ndarray):
        raise InputError(path, f"holds an array of {found.dtype} and shape {found.shape}, without image ids", _RIGHT)
    try:
        if not isinstance(found, dict) or not found:
            raise ValueError("it is not a dictionary")
        return {_key(key): _vector(value) for key, value in found.items()}
    except ValueError as error:
        raise InputError(path, f"is not a dictionary of tags: {error!s:.120}", _RIGHT) from None


def _key(key: str | int | float) -> str | int:
    if isinstance(key, float):
        raise ValueError(f"{key!r:.40} is not an image id")
    return key


def _vector(value: object) -> np.ndarray:
    """The vector of an image, (C,)."""
    import numpy as np

    if isinstance(value, list) and all(type(each) in (int, float, bool) for each in value):
        value = np.array(value, np.float64)
    if not isinstance(value, np.ndarray):
        raise ValueError(f"{value!r:.40} is not an array of numbers")
    if value.ndim != 1 or not len(value):
        raise ValueError(f"a value has the shape {value.shape}")
    return value
