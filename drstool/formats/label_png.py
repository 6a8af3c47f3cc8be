"""Label images as PNGs: paletted in VOC colours, or grey with 16 bits where a palette's 256 colours are too few."""

from __future__ import annotations

import io
import struct
from functools import cache
from pathlib import Path

import numpy as np

from drstool.artifacts.header import Header
from drstool.errors import InputError
from drstool.files import read_bytes
from drstool.formats.records import LABEL_TYPES, LabelRecord, check_label_record
from drstool.labels import IGNORE, as_label_type, label_type, palette
from drstool.png import chunks

__all__ = ["decode_label", "encode_label", "encode_label_png", "label_info", "read_label_png"]

# Pillow is imported where it is used: 'drstool info' looks at label folders without it.

_IMAGE_KEY = "drstool:image"
# Between a text's key and the text, where it is not packed and of no language.
_PLAIN_TEXT = bytes(5)
# Bits per sample and colour types of the PNGs written here: paletted, grey, and grey with 16 bits.
_OURS = ((8, 3), (8, 0), (16, 0))
# Where IHDR, the first chunk, has the bits per sample and the colour type, and its values for grey PNGs.
_DEPTH, _COLOUR, _GREY = 24, 25, 0
# Grey PNGs of 2 and 4 bits a pixel come out of Pillow stretched to 0..255 by these factors.
_STRETCH = {2: 85, 4: 17}


def encode_label_png(labels: np.ndarray, *, image: str = "", grey: bool = False) -> bytes:
    """A paletted PNG in VOC colours, or a grey one.

    Parameters
    ----------
    labels : (H, W) uint8 or uint16
        uint16 becomes a grey PNG of 16 bits.
    image
        Path of the image, kept in the PNG's text if given.
    grey
        Write a grey PNG, for saliency maps.

    Examples
    --------
    >>> read_label_png(encode_label_png(np.array([[0, 1, 255]], np.uint8)), "memory").tolist()
    [[0, 1, 255]]
    """
    from PIL import Image, PngImagePlugin

    labels = np.asarray(labels)
    if labels.ndim != 2 or labels.dtype not in LABEL_TYPES or not labels.size:
        raise ValueError(f"a label image is (H, W) uint8 or uint16, not {labels.shape} {labels.dtype}")
    picture, text, buffer = Image.fromarray(np.ascontiguousarray(labels)), PngImagePlugin.PngInfo(), io.BytesIO()
    if labels.dtype == np.uint8 and not grey:
        picture.putpalette(_palette_bytes())
    if image:
        # A path that is not valid Unicode is only for display; no file is opened by it.
        text.add_itxt(_IMAGE_KEY, image.encode("utf-8", "replace"))
    # Labels lie in runs. Looking for nothing else takes a quarter of the time, for at most a quarter more bytes.
    picture.save(buffer, "PNG", compress_type=Image.RLE, pnginfo=text)
    return buffer.getvalue()


def read_label_png(
    source: bytes | str | Path, where: object = None, *, grey: bool = False, foreign: bool = False,
) -> np.ndarray:
    """The label values of a PNG.

    Parameters
    ----------
    source
        The PNG's bytes, or its path.
    where
        Named in errors; the path where not given.
    grey
        Also take a colour PNG whose channels are equal, as some programs save black and white.
    foreign
        Refuse a palette that says that another value than 0 is the background.

    Returns
    -------
    (H, W) uint8 or uint16
        The palette's indices, or the grey values; uint16 for a PNG of 16 bits.

    Raises
    ------
    InputError
        It is missing, not a PNG, damaged, too large, or in colour instead of label values.
    """
    return _decode(read_bytes(source, where), where if where is not None else source, grey, foreign)[0]


def encode_label(record: LabelRecord, header: Header) -> bytes:
    """A record as the PNG that folders and streams of its kind hold."""
    return encode_label_png(record.labels, image=record.image, grey=header.kind == "saliency")


def decode_label(identifier: str, data: bytes, header: Header | None, where: object) -> LabelRecord:
    """The record in a PNG; with a header, its values are checked against the header's classes.

    Raises
    ------
    InputError
        The PNG is damaged, in colour, or holds values that are not classes.
    """
    labels, image = _decode(data, f"{where}: {identifier}")
    if header is not None and header.kind == "labels":
        labels = as_label_type(labels, len(header.class_names))
    record = LabelRecord(identifier, labels, image)
    if header is not None:
        check_label_record(record, header, where)
    return record


def label_info(identifier: str, data: bytes, header: Header | None, where: object) -> dict[str, object]:
    """``shape``, ``dtype`` and ``image`` of the record in a PNG; of one like ours without decoding its pixels.

    Raises
    ------
    InputError
        The PNG is damaged, or in colour.
    """
    try:
        found = dict(chunks(io.BytesIO(data)))
        width, height, *form = struct.unpack_from(">IIBB", found[b"IHDR"])
    except (ValueError, LookupError, struct.error):
        form = []
    if tuple(form) not in _OURS:
        record = decode_label(identifier, data, header, where)
        return {"shape": list(record.labels.shape), "dtype": str(record.labels.dtype), "image": record.image}
    dtype = LABEL_TYPES[form[0] == 16]
    if header is not None and header.kind == "labels":
        dtype = label_type(len(header.class_names))
    key, _, image = found.get(b"iTXt", b"").partition(_PLAIN_TEXT)
    return {
        "shape": [height, width], "dtype": np.dtype(dtype).name,
        "image": image.decode("utf-8", "replace") if key == _IMAGE_KEY.encode() else ""}


@cache
def _palette_bytes() -> bytes:
    return palette().tobytes()


def _decode(data: bytes, where: object, grey: bool = False, foreign: bool = False) -> tuple[np.ndarray, str]:
    """Label values and the image's path."""
    from drstool.pillow import load_png

    picture = load_png(data, where)
    if grey and picture.mode in ("RGB", "RGBA", "LA"):
        colors = np.asarray(picture)[..., :1 if picture.mode == "LA" else 3]
        if (colors == colors[..., :1]).all():
            return colors[..., 0].copy(), ""
    depth, is_grey = data[_DEPTH], data[_COLOUR] == _GREY
    # Some releases of Pillow open 16 bits as "I".
    wide = depth == 16 and is_grey and picture.mode in ("I;16", "I")
    if not wide and picture.mode not in ("P", "L", "1"):
        raise InputError(
            where, f"has pixels of mode {picture.mode}, not label values",
            "expected a paletted or greyscale PNG of 8 or 16 bits whose pixels are labels; a labelmap.txt in a "
            "dataset's folder names the colours of its masks (NAME:RED,GREEN,BLUE::)",
        )
    labels = np.array(picture, np.uint16 if wide else np.uint8)
    if is_grey and depth in _STRETCH:
        np.floor_divide(labels, _STRETCH[depth], out=labels)
    if foreign and picture.mode == "P":
        _check_palette(labels, picture.getpalette() or [], where)
    return labels, str(picture.info.get(_IMAGE_KEY, ""))


def _check_palette(labels: np.ndarray, colors: list[int], where: object) -> None:
    """Check that no other label than 0 is black, as backgrounds are, where 0 is not."""
    if not any(colors[:3]):
        return
    used = [label for label in np.unique(labels).tolist() if label != IGNORE]
    black = [label for label in used if label and not any(colors[3 * label:3 * label + 3])]
    if len(black) == 1:
        values = range(used[-1] + 1)
        ignored = f",ignore={IGNORE}" if (labels == IGNORE).any() else ""
        first, second = (",".join(map(str, sorted(values, key=lambda value: value != background))) + ignored
                         for background in (black[0], 0))
        raise InputError(
            where, f"label 0 (background) is coloured, label {black[0]} is black",
            f"for ground truth, give --mask-values {first} if {black[0]} is the background, and {second} if 0 is; save "
            "labels with 0 in black")
