"""NumPy's ``.npy`` files, those that hold a pickle included, read without running anything of it.

NumPy keeps a dictionary as a pickle, which can run any code when it is loaded. Here nothing of a pickle is run: what
it calls is noted by name, and read afterwards, if it is what NumPy writes for an array or torch for a tensor.
"""

from __future__ import annotations

import io
import math
import pickle
import re
from typing import Any

import numpy as np

from drstool.errors import InputError, is_shortage

__all__ = ["load_npy"]

# What arrays, scalars and tensors, and Python's bytes in old protocols, are made of.
_ALLOWED = re.compile(
    r"numpy\.(_core|core)\.(multiarray\.(_reconstruct|scalar)|numeric\._frombuffer)|numpy\.(ndarray|dtype)"
    r"|_codecs\.encode|(builtins|__builtin__)\.bytes|torch\._utils\._rebuild_tensor_v2|torch\.storage\._load_from_bytes|collections\.OrderedDict"
    r"|torch\.\w+Storage")
# Types of numbers of torch's storages.
_STORAGES = {
    "DoubleStorage": "f8", "FloatStorage": "f4", "HalfStorage": "f2", "LongStorage": "i8", "IntStorage": "i4",
    "ShortStorage": "i2", "CharStorage": "i1", "ByteStorage": "u1", "BoolStorage": "b1"}
# With which torch's files in its format before zip archives begin; a pickled tensor holds such a file.
_TORCH_MAGIC = 0x1950A86A20F9469CFC6C
_TRUNCATED = ("is truncated", "copy it again or recreate it")
# Of dictionaries, lists and arrays in one another; and values in all.
_DEEPEST, _MOST_VALUES = 8, 2_000_000


def load_npy(content: bytes, where: object, *, what: str, right: str) -> Any:
    """What a ``.npy`` file holds: an array or, of a pickle, plain values, dictionaries and lists of them and of arrays.

    Tensors become arrays.

    Parameters
    ----------
    content
        Bytes of the file.
    where
        Named in errors.
    what, right
        Said of a pickle that holds anything else, and of what was expected.

    Raises
    ------
    InputError
        It is not such a file, damaged or truncated; a pickle that names anything but arrays and tensors.
    """
    if not content:
        raise InputError(where, "is empty (0 bytes)", "recreate or download it again")
    file = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = read_header(file)
    # The header is a Python expression, which fails in many ways.
    except Exception as error:
        if str(error).startswith("EOF"):
            raise InputError(where, *_TRUNCATED) from None
        raise InputError(where, f"is not a .npy file: {error!s:.120}", right) from None
    if dtype.kind != "O":
        return _plain_array(content[file.tell():], shape, is_fortran, dtype, where)
    if shape != ():
        raise InputError(where, f"holds an array of {dtype} and shape {shape}", right)
    try:
        found = _Reader(file).load()
        # Of an array without dimensions its only element, in an array's state.
        found = found.state[4] if isinstance(found, _Noted) else found
        return _Plain().of(found[0] if isinstance(found, list) and len(found) == 1 else found)
    # A damaged pickle can fail in any way.
    except Exception as error:
        if isinstance(error, MemoryError):
            raise InputError(where, "needs more memory than there is, or is damaged", right) from None
        if is_shortage(error):
            raise
        if isinstance(error, EOFError) or re.search("truncated|exhausted", str(error)):
            raise InputError(where, *_TRUNCATED) from None
        raise InputError(where, f"{what}: {str(error) or type(error).__name__:.120}", right) from None


def _plain_array(data: bytes, shape: tuple, is_fortran: bool, dtype: np.dtype, where: object) -> np.ndarray:
    size = math.prod(shape) * dtype.itemsize
    if dtype.kind not in "biufU" or not dtype.itemsize or any(side < 0 for side in shape):
        raise InputError(where, f"holds an array of {dtype} and shape {shape}", "expected numbers")
    if len(data) != size:
        raise InputError(
            where, f"holds {len(data):,} bytes of an array of {size:,}", "it is truncated or damaged; copy it again")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if is_fortran else "C")


class _Noted:
    """What a pickle names, calls and fills, of which nothing is done."""

    def __init__(self, name: str, arguments: tuple = ()) -> None:
        self.name, self.arguments = name, arguments
        self.state: Any = None

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

    def persistent_load(self, pid: Any) -> _Noted:
        return _Noted("persistent", pid)


class _Plain:
    """Makes plain values of what was noted."""

    def __init__(self) -> None:
        self._left = _MOST_VALUES

    def of(self, value: Any, depth: int = 0) -> Any:
        self._left -= 1
        # A few bytes can put lists in lists without end.
        if depth > _DEEPEST or self._left < 0:
            raise ValueError("it is nested too deeply")
        if isinstance(value, _Noted):
            return _array_of(value)
        if type(value) is dict:
            return {self._key(key): self.of(each, depth + 1) for key, each in value.items()}
        if type(value) in (list, tuple):
            return [self.of(each, depth + 1) for each in value]
        if value is None or type(value) in (str, int, float, bool):
            return value
        raise ValueError(f"it holds a {type(value).__name__}")

    def _key(self, key: Any) -> Any:
        key = self.of(key, _DEEPEST)
        if isinstance(key, np.ndarray) and key.ndim == 0:
            key = key.item()
        if type(key) not in (str, int, float):
            raise ValueError("a key of a dictionary is neither a text nor a number")
        return key


def _array_of(noted: _Noted) -> np.ndarray:
    """The array, tensor or scalar that is noted."""
    if noted.name == "_reconstruct" and noted.state is not None:
        _, shape, dtype, is_fortran, content = noted.state
        return _array(dtype, content, shape, "F" if is_fortran else "C")
    if noted.name == "_frombuffer":
        content, dtype, shape, order = noted.arguments
        return _array(dtype, content, shape, order)
    if noted.name == "scalar":
        dtype, content = noted.arguments
        return _array(dtype, content, ())
    if noted.name == "_rebuild_tensor_v2":
        return _tensor(*noted.arguments[:4])
    raise ValueError(f"it holds a {noted.name} that is not an array")


def _array(dtype: Any, content: Any, shape: Any, order: Any = "C") -> np.ndarray:
    """The array of a noted data type, bytes and shape."""
    letters = dtype.arguments[0]
    if not isinstance(letters, str) or not re.fullmatch("[biuf][1248]", letters):
        raise ValueError(f"{letters!r:.40} is not a type of numbers")
    byte_order = ">" if dtype.state is not None and dtype.state[1] == ">" else "<"
    return np.frombuffer(_bytes(content), np.dtype(byte_order + letters)).reshape(shape, order=order)


def _bytes(content: Any) -> bytes:
    if isinstance(content, _Noted) and content.name in ("encode", "bytes"):
        # In protocols that know only text.
        content = content.arguments[0].encode("latin-1") if content.arguments else b""
    if not isinstance(content, (bytes, bytearray)):
        raise ValueError("an array has no bytes")
    return bytes(content)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any) -> np.ndarray:
    """The array of a noted tensor: a view of a storage."""
    values = _storage(storage)
    numbers = (offset, *size, *stride)
    if not all(type(number) is int and number >= 0 for number in numbers) or len(size) != len(stride):
        raise ValueError("a tensor has an invalid shape")
    if not math.prod(size):
        return np.zeros(size, values.dtype)
    last = offset + sum((side - 1) * step for side, step in zip(size, stride, strict=True))
    # Steps of 0 would let a few bytes stand for any size.
    if last >= len(values) or math.prod(size) > len(values):
        raise ValueError("a tensor is larger than what is stored of it")
    view = np.lib.stride_tricks.as_strided(
        values[offset:], size, [step * values.itemsize for step in stride], writeable=False)
    return np.array(view)


def _storage(noted: Any) -> np.ndarray:
    """The numbers of a tensor's storage, which is a torch file of its own, of the format before zip archives."""
    if noted.name != "_load_from_bytes":
        raise ValueError("a tensor's storage is not in its file")
    file = io.BytesIO(_bytes(noted.arguments[0]))
    if _Reader(file).load() != _TORCH_MAGIC:
        raise ValueError("a tensor's storage is not as torch writes it")
    # Between the magic number and the storage: a version, and a description of the machine.
    _, _, storage, keys = (_Reader(file).load() for _ in range(4))
    kind, stored, key, _, count, *view = storage.arguments
    if kind != "storage" or stored.name not in _STORAGES or keys != [key] or any(each is not None for each in view):
        raise ValueError(f"a tensor has the storage {getattr(stored, 'name', kind)!r:.40}")
    dtype = np.dtype("<" + _STORAGES[stored.name])
    data = file.read()
    if data[:8] != count.to_bytes(8, "little") or len(data) != 8 + count * dtype.itemsize:
        raise ValueError("a tensor's storage is truncated")
    return np.frombuffer(data, dtype, offset=8)
