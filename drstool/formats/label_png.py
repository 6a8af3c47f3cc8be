"""Label images: paletted PNGs in VOC colours, alone and in folders.

With more object classes than a byte holds they are grey PNGs of 16 bits, as a palette has 256 colours.

A folder of labels is an unpacked stream: ``drstool.json``, ``<id>.png`` for each image, and
``drstool.end.json`` last. A folder without ``drstool.json`` is somebody else's; its PNGs are read
all the same, with their paths below the folder as ids.
"""

from __future__ import annotations

import io
import struct
import zlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from drstool.artifacts.header import Header
from drstool.errors import InputError
from drstool.files import read_bytes
from drstool.formats.records import LABEL_TYPES, LabelRecord, check_label_record
from drstool.labels import as_label_type, palette
from drstool.pixels import MAX_PIXELS

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["decode_label", "encode_label", "encode_label_png", "read_label_png"]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Of a PNG whose first chunk is its description, as the standard demands: type, depth, colour.
_FIRST_CHUNK, _DEPTH, _COLOUR = slice(12, 16), 24, 25
_IMAGE_KEY = "drstool:image"
# Between a text's key and the text: it is not packed, and neither of a language nor with a key in one.
_PLAIN_TEXT = b"\0\0\0\0\0"
_GREY, _PALETTED, _PNG_LEVEL = 0, 3, 6
# Chunks that hold pixels of 8 bits, or have no say in what they are; with their bytes, where there are always as many.
_KNOWN = {
    b"IHDR": 13, b"IDAT": None, b"PLTE": None, b"tEXt": None, b"iTXt": None, b"tIME": 7, b"pHYs": 9, b"gAMA": 4,
    b"sRGB": 1, b"cHRM": 32}
# Longer texts, and those that are packed, of which a few bytes can ask for gigabytes, are Pillow's, which has limits.
_MOST_TEXT_BYTES = 1 << 16
_MOST_PALETTE_BYTES = 3 * 256
# Chunks of a kind; Pillow's way with more of them takes less memory.
_MOST_PARTS = 4096
# Grey PNGs of 2 and 4 bits a pixel come out of Pillow stretched to 0..255 by these factors.
_STRETCH = {2: 85, 4: 17}


def encode_label_png(labels: np.ndarray, *, image: str = "", grey: bool = False) -> bytes:
    """A paletted PNG in VOC colours, or a grey one of 16 bits.

    Parameters
    ----------
    labels : (H, W) uint8 or uint16
    image
        Path of the image, kept in the PNG's text where given.
    grey
        Write a grey PNG instead, for saliency maps.

    Examples
    --------
    >>> read_label_png(encode_label_png(np.array([[0, 1, 255]], np.uint8)), "memory").tolist()
    [[0, 1, 255]]
    """
    labels = np.asarray(labels)
    if labels.ndim != 2 or labels.dtype not in LABEL_TYPES or not labels.size:
        raise ValueError(f"a label image is (H, W) uint8 or uint16, not {labels.shape} {labels.dtype}")
    (height, width), wide = labels.shape, labels.dtype == np.uint16
    coloured = not (grey or wide)
    # Before each row, the number of its filter: none.
    rows = np.zeros((height, 1 + width * labels.itemsize), dtype=np.uint8)
    rows[:, 1:] = labels.astype(">u2", order="C").view(np.uint8) if wide else labels
    # Labels lie in runs, and only runs are looked for: a quarter of the time, and up to a quarter more bytes.
    packing = zlib.compressobj(_PNG_LEVEL, strategy=zlib.Z_RLE if coloured else zlib.Z_DEFAULT_STRATEGY)
    chunks = [
        (b"IHDR", struct.pack(">II5B", width, height, 8 * labels.itemsize, _PALETTED if coloured else _GREY, 0, 0, 0)),
        (b"PLTE", _palette_bytes() if coloured else b""),
        # A path that is no Unicode is only shown; nothing reads a file by it.
        (b"iTXt", _IMAGE_KEY.encode() + _PLAIN_TEXT + image.encode("utf-8", "replace") if image else b""),
        (b"IDAT", packing.compress(rows) + packing.flush()),
    ]
    return _SIGNATURE + b"".join(_chunk(*each) for each in chunks if each[1]) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))


def read_label_png(source: bytes | str | Path, where: object = None) -> np.ndarray:
    """The label values of a PNG.

    Parameters
    ----------
    source
        The PNG's bytes, or its path.
    where
        Named in errors; the path where not given.

    Returns
    -------
    (H, W) uint8 or uint16
        The palette's indices, or the grey values; uint16 of a PNG of 16 bits.

    Raises
    ------
    InputError
        It is missing, no PNG, damaged, too large, or in colours instead of label values.
    """
    return _decode(read_bytes(source, where), where if where is not None else source)[0]


def encode_label(record: LabelRecord, header: Header) -> bytes:
    """A record as the PNG that folders and streams of its kind hold.

    Raises
    ------
    InputError
        The record holds values that are no class.
    """
    return encode_label_png(record.labels, image=record.image, grey=header.kind == "saliency")


def decode_label(identifier: str, data: bytes, header: Header | None, where: object) -> LabelRecord:
    """The record a PNG holds; values are checked against the header's classes where there is one.

    Raises
    ------
    InputError
        The PNG is damaged, in colours, or holds values that are no class.
    """
    told = f"{where}: {identifier}"
    labels, image = _decode(data, told)
    if header is not None and header.kind == "labels":
        labels = as_label_type(labels, len(header.class_names))
    record = LabelRecord(identifier, labels, image)
    if header is not None:
        check_label_record(record, header, where)
    return record


@cache
def _palette_bytes() -> bytes:
    return palette().tobytes()


def _decode(data: bytes, where: object) -> tuple[np.ndarray, str]:
    if not data.startswith(_SIGNATURE):
        raise InputError(where, "is no PNG" if data else "is empty", "label images are PNGs")
    if data[_FIRST_CHUNK] != b"IHDR":
        raise InputError(where, "is a damaged PNG (it does not begin with IHDR)", "copy or make it again")
    try:
        plain = _plain(_check_chunks(data))
    except (struct.error, ValueError) as error:
        raise _damaged(where, error) from error
    return plain if plain is not None else _by_pillow(data, where)


def _by_pillow(data: bytes, where: object) -> tuple[np.ndarray, str]:
    from drstool.pillow import DAMAGE

    try:
        picture = _opened(data, where)
        depth, colour_type = data[_DEPTH], data[_COLOUR]
        # Older releases of Pillow open 16 bits as "I".
        wide = (depth, colour_type) == (16, _GREY) and picture.mode in ("I;16", "I")
        if not wide and picture.mode not in ("P", "L", "1"):
            raise InputError(
                where, f"is of mode {picture.mode}, not of label values",
                "give a paletted or grey PNG of 8 or 16 bits whose pixels are the labels",
            )
        labels = np.asarray(picture).astype(np.uint16 if wide else np.uint8)
    except DAMAGE as error:
        raise _damaged(where, error) from error
    if colour_type == _GREY and depth in _STRETCH:
        labels //= _STRETCH[depth]
    return labels, str(picture.info.get(_IMAGE_KEY, ""))


def _damaged(where: object, error: Exception) -> InputError:
    # What struct says is about bytes, and for nobody who has pictures.
    told = "it is cut short" if isinstance(error, struct.error) else error
    return InputError(where, f"is a damaged PNG ({told})", "copy or make it again")


def _check_chunks(data: bytes) -> dict[bytes, list[memoryview]]:
    """Look at every chunk's checksum up to the end: loading alone lets a flipped bit pass.

    Pillow's own ``verify`` does as much, at a fifth of what decoding costs.

    Returns
    -------
    dict of lists of bytes
        Contents of the chunks by kind, in their order; empty where there are others than those that are known to
        have no say in what the pixels are, or in another order.
    """
    view, place, kind = memoryview(data), len(_SIGNATURE), b""
    chunks: dict[bytes, list[memoryview]] = {b"IHDR": [], b"IDAT": []}
    plain = True
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, place)
        end = place + 8 + length
        (expected,) = struct.unpack_from(">I", data, end)
        if zlib.crc32(view[place + 4: end]) != expected:
            raise ValueError(f"broken checksum of chunk {kind!r}")
        if kind in _KNOWN and plain:
            chunks.setdefault(kind, []).append(view[place + 8: end])
            # Pixels come last, and all together.
            plain = (kind == b"IDAT" or not chunks[b"IDAT"]) and len(chunks[kind]) <= _MOST_PARTS
            plain &= _KNOWN[kind] in (None, length)
        elif kind != b"IEND":
            plain = False
        place = end + 4
    return chunks if plain else {}


def _plain(chunks: dict[bytes, list[memoryview]]) -> tuple[np.ndarray, str] | None:
    """Pixels (H, W) uint8 and the image's path of a PNG of 8 bits whose rows are stored as they are.

    Label images mostly are such, and then are read sooner than by Pillow. None of any other PNG, damaged ones among
    them, of which Pillow says what is wrong.
    """
    headers, packed, palettes = (chunks.get(kind, ()) for kind in (b"IHDR", b"IDAT", b"PLTE"))
    if len(headers) != 1 or not packed:
        return None
    width, height, *kind = struct.unpack(">II5B", headers[0])
    # Depth and colour type; ways of packing, filtering and interlacing.
    if kind not in ([8, _GREY, 0, 0, 0], [8, _PALETTED, 0, 0, 0]):
        return None
    if any(len(each) > _MOST_PALETTE_BYTES for each in palettes):
        return None
    image = _plain_image(chunks)
    if image is None or not 0 < width * height <= MAX_PIXELS:
        return None
    size = height * (width + 1)
    inflate = zlib.decompressobj()
    try:
        # One byte more than there should be, so that more is seen.
        pixels = inflate.decompress(packed[0] if len(packed) == 1 else b"".join(packed), size + 1)
    except zlib.error:
        return None
    if len(pixels) != size or not inflate.eof or inflate.unused_data:
        return None
    rows = np.frombuffer(pixels, np.uint8).reshape(height, width + 1)
    # Each row begins with the number of its filter.
    return None if rows[:, 0].any() else (rows[:, 1:].copy(), image)


def _plain_image(chunks: dict[bytes, list[memoryview]]) -> str | None:
    """The image's path, if it is kept as we keep it; empty where there is none, None where it may be kept otherwise."""
    key, image = _IMAGE_KEY.encode(), ""
    if any(len(text) > _MOST_TEXT_BYTES for kind in (b"tEXt", b"iTXt") for text in chunks.get(kind, ())):
        return None
    if any(bytes(content[:len(key)]) == key for content in chunks.get(b"tEXt", ())):
        return None
    for content in chunks.get(b"iTXt", ()):
        name, plain, text = bytes(content).partition(_PLAIN_TEXT)
        if not plain or b"\0" in name or name == key and image:
            return None
        if name == key:
            try:
                image = text.decode()
            except UnicodeDecodeError:
                return None
    return image


def _opened(data: bytes, where: object) -> Image.Image:
    from PIL import Image

    picture = Image.open(io.BytesIO(data), formats=["PNG"])
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise InputError(where, f"has {width} x {height} pixels", f"at most {MAX_PIXELS:,}")
    return picture


