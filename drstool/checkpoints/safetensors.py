"""The safetensors format: named tensors and a few texts, in a file that holds nothing else.

Eight bytes with the length of a JSON header, the header, and the tensors' bytes. The header says of each tensor its
type, its shape and where its bytes begin and end.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drstool.errors import InputError, is_shortage
from drstool.files import read_beginning, read_bytes

if TYPE_CHECKING:
    import torch

__all__ = ["is_safetensors", "read_safetensors", "safetensors_bytes"]

# Names of torch's types.
_TYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool"}
# As the format's own reader; it leaves room for tens of thousands of tensors.
_MOST_HEADER = 100_000_000
_AGAIN = "copy it again or recreate it"


def is_safetensors(path: str | Path) -> bool:
    """Whether a file begins as one in this format does."""
    start = read_beginning(path, 9)
    return len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") <= _MOST_HEADER


def read_safetensors(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a file.

    Raises
    ------
    InputError
        It is missing, damaged or truncated, or holds a type that torch does not compute with.
    """
    content = read_bytes(path)
    try:
        start = 8 + int.from_bytes(content[:8], "little")
        if not 8 < start <= min(len(content), 8 + _MOST_HEADER):
            raise ValueError("its header is truncated")
        header = json.loads(content[8:start].decode("utf-8"))
        metadata = header.pop("__metadata__", {})
        if not all(isinstance(text, str) for text in metadata.values()):
            raise ValueError("its metadata are not texts")
        values = memoryview(bytearray(content[start:]))
        taken = sorted(entry["data_offsets"] for entry in header.values())
        # Without gaps and overlaps, as the format demands: nothing is hidden, and nothing said twice.
        if [low for low, _ in taken] + [len(values)] != [0, *(high for _, high in taken)]:
            raise ValueError("its tensors do not fill it")
        return {name: _tensor(name, entry, values) for name, entry in header.items()}, metadata
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, RuntimeError) as error:
        if is_shortage(error):
            raise
        raise InputError(path, f"is not a safetensors file, or is damaged: {error}", _AGAIN) from None


def _tensor(name: str, entry: Mapping[str, Any], values: memoryview) -> torch.Tensor:
    import torch

    low, high = entry["data_offsets"]
    shape = entry["shape"]
    if entry["dtype"] not in _TYPES:
        raise ValueError(f"the type of {name!r:.60} is {entry['dtype']!r:.20}")
    dtype = getattr(torch, _TYPES[entry["dtype"]])
    whole = all(isinstance(side, int) and side >= 0 for side in shape)
    if not whole or math.prod(shape) * dtype.itemsize != high - low:
        raise ValueError(f"{name!r:.60} does not have the bytes of its shape")
    if low == high:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(values[low:high], dtype=dtype).reshape(shape)


def safetensors_bytes(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    """The content of a file with these tensors and texts; the same for the same arguments."""
    import torch

    names = {getattr(torch, own): theirs for theirs, own in _TYPES.items()}
    # The largest types first, so that each tensor begins at a multiple of its type's size.
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    parts, end = [], 0
    for name in order:
        value = tensors[name].detach().cpu().contiguous()
        parts.append(value.flatten().view(torch.uint8).numpy().tobytes())
        header[name] = {
            "dtype": names[value.dtype], "shape": list(value.shape), "data_offsets": [end, end + len(parts[-1])]}
        end += len(parts[-1])
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(parts)
