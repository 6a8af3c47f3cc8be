"""Chunks of an HDF5 dataset packed without HDF5, so that threads can do it: HDF5 itself lets only one in.

What comes out is, byte for byte, what HDF5's filters read: shuffle, deflate, Fletcher's checksum.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np

__all__ = ["fletcher32", "packed"]

_MODULUS = 65535


def packed(values: np.ndarray, level: int) -> bytes:
    """A chunk as it lies in the file, behind the filters that :func:`drstool.formats.map_file` asks for.

    Parameters
    ----------
    values
        Of a dtype of one byte, or of more, whose bytes are then shuffled.
    level
        Of the compression, 1..9.
    """
    data = np.ascontiguousarray(values)
    if data.dtype.itemsize > 1:
        data = data.reshape(-1).view(np.uint8).reshape(-1, data.dtype.itemsize).T
    deflated = zlib.compress(data.tobytes(), level)
    return deflated + struct.pack("<I", fletcher32(deflated))


def fletcher32(data: bytes) -> int:
    """HDF5's form of Fletcher's checksum: two sums of big-endian 16-bit words, modulo 65535.

    Examples
    --------
    >>> hex(fletcher32(b"abcde"))
    '0x4ff029c7'
    """
    padded = data + b"\0" * (len(data) % 2)
    words = np.frombuffer(padded, dtype=">u2").astype(np.uint64)
    # Each word counts once in the first sum, and in the second once for each word from it to the end;
    # weights are taken modulo 65535, so that sums over gigabytes fit into 64 bits.
    weights = np.arange(len(words), 0, -1, dtype=np.uint64) % np.uint64(_MODULUS)
    if not words.any():
        return 0
    # Where not all words are zero, the sums are not either: 65535 itself is then the remainder.
    low, high = (int(total) % _MODULUS or _MODULUS for total in (words.sum(), (words * weights).sum()))
    return high << 16 | low
