"""Tags as ``cls_labels.npy``: a dictionary from image ids to a 0 or 1 for each class, as PSA and IRN save it.

NumPy keeps a dictionary as a pickle, which can run any code when it is loaded. Here nothing of a pickle is
run: what it calls is noted by name, and read afterwards, if it is what NumPy writes for an array.

References
----------
Ahn, Kwak, CVPR 2018 (PSA) and Ahn, Cho, Kwak, CVPR 2019 (IRN), with their published code.
"""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drstool.data.cells import RawTags, TagForm
from drstool.errors import InputError
from drstool.files import read_bytes

if TYPE_CHECKING:
    import numpy as np

__all__ = ["read_tag_array"]

# VOC's has less than 2 MB, COCO's 50.
_MAX_BYTES = 1 << 28
# What NumPy's arrays and scalars, and Python's bytes in old protocols, are made of.
_ALLOWED = re.compile(
    r"numpy\.(_core|core)\.(multiarray\.(_reconstruct|scalar)|numeric\._frombuffer)|numpy\.(ndarray|dtype)"
    r"|_codecs\.encode")
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


# --- the file ----------------------------------------------------------------------------------


class _Noted:
    """What a pickle names, calls and fills, of which nothing is done."""

    def __init__(self, name: str, arguments: tuple = ()) -> None:
        self.name, self.arguments, self.state = name, arguments, None

    def __call__(self, *arguments: object) -> _Noted:
        return _Noted(self.name, arguments)

    def __setstate__(self, state: object) -> None:
        self.state = state


# Written in Python: the one in C reserves as much memory as a file claims to need.
class _Reader(pickle._Unpickler):  # type: ignore[name-defined]
    def find_class(self, module: str, name: str) -> _Noted:
        if not _ALLOWED.fullmatch(f"{module}.{name}"):
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return _Noted(name)


def _dictionary(content: bytes, path: Path) -> dict[str | int, np.ndarray]:
    """The dictionary in the bytes of a ``.npy`` file."""
    import numpy as np

    file = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(file)
    # The header is a Python expression, which fails in many ways.
    except Exception as error:
        raise InputError(path, f"is not a .npy file: {error!s:.120}", _RIGHT) from None
    if dtype.kind != "O" or shape != ():
        raise InputError(path, f"holds an array of {dtype} and shape {shape}, without image ids", _RIGHT)
    try:
        found = _Reader(file).load()
        # Of an array without dimensions its only element, in an array's state.
        found = found.state[4] if isinstance(found, _Noted) else found
        if isinstance(found, list) and len(found) == 1:
            found = found[0]
        if not isinstance(found, dict) or not found:
            raise ValueError("it is no dictionary")
        return {_key(key): _vector(value) for key, value in found.items()}
    # A damaged pickle can fail in any way.
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise InputError(path, f"is not a dictionary of tags: {reason:.120}", _RIGHT) from None


def _key(key: object) -> str | int:
    if isinstance(key, _Noted) and key.name == "scalar":
        key = int(_array(key.arguments[0], key.arguments[1], (1,))[0])
    if type(key) not in (str, int):
        raise ValueError(f"{key!r:.40} is not an image id")
    return key  # type: ignore[return-value]


def _vector(value: Any) -> np.ndarray:
    """The vector that is noted, (C,)."""
    import numpy as np

    if isinstance(value, _Noted) and value.name == "_reconstruct":
        _, shape, dtype, _, content = value.state
        vector = _array(dtype, content, shape)
    elif isinstance(value, _Noted) and value.name == "_frombuffer":
        content, dtype, shape, _ = value.arguments
        vector = _array(dtype, content, shape)
    elif isinstance(value, list) and all(type(each) in (int, float, bool) for each in value):
        vector = np.array(value, np.float64)
    else:
        raise ValueError(f"{value!r:.40} is not an array of numbers")
    if vector.ndim != 1 or not len(vector):
        raise ValueError(f"a value has the shape {vector.shape}")
    return vector


def _array(dtype: Any, content: Any, shape: Any) -> np.ndarray:
    """The array of a noted data type, bytes and shape."""
    import numpy as np

    if isinstance(content, _Noted) and content.name == "encode":
        # Bytes, in protocols that know only text.
        content = content.arguments[0].encode("latin-1")
    letters = dtype.arguments[0]
    if not isinstance(letters, str) or not re.fullmatch("[biuf][1248]", letters):
        raise ValueError(f"{letters!r:.40} is not a type of numbers")
    order = ">" if dtype.state is not None and dtype.state[1] == ">" else "<"
    if not isinstance(content, (bytes, bytearray)):
        raise ValueError("an array has no bytes")
    return np.frombuffer(bytes(content), np.dtype(order + letters)).reshape(shape)
