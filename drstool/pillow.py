"""Pillow as drstool uses it: which warnings are silenced, and how a PNG is opened or refused.

Pillow takes a while to import; what only sometimes reads a picture imports this module when it does.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib

from PIL import Image

from drstool.errors import InputError
from drstool.pixels import MAX_PIXELS, shown_size
from drstool.png import SIGNATURE, chunks

__all__ = ["load_png"]

# What Pillow raises on damaged PNGs.
_DAMAGE = (
    OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, AttributeError, OverflowError,
    struct.error, zlib.error, Image.DecompressionBombError,
)
# How JPEGs begin, and BMP, GIF and TIFF.
_JPEG, _LOSSLESS = b"\xff\xd8\xff", (b"BM", b"GIF8", b"II*\0", b"MM\0*")
# MAX_PIXELS alone decides. Pillow's own warning would be a second line on stderr, and silencing
# it picture by picture (warnings.catch_warnings) is not safe in threads.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# Other oddities, such as broken EXIF data, do not concern the user as long as the pixels can be read.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


def load_png(data: bytes, where: object) -> Image.Image:
    """A decoded PNG whose checksums are all right.

    Raises
    ------
    InputError
        It is not a PNG, damaged, cut short, or too large.
    """
    if data.startswith(_JPEG):
        raise InputError(
            where, "is a JPEG, whose compression changes the values of pixels", "save it as PNG where it was made")
    if data.startswith(_LOSSLESS):
        raise InputError(where, "is not a PNG", "save it as PNG, with the same values of its pixels")
    if not data.startswith(SIGNATURE):
        raise InputError(where, "is not a PNG" if data else "is empty", "copy it again or recreate it")
    try:
        # Pillow itself does not compare the checksums of the pixels.
        kinds = [kind for kind, _ in chunks(io.BytesIO(data))]
        if kinds[0] != b"IHDR" or kinds.count(b"IHDR") > 1:
            raise ValueError("it does not begin with its only IHDR")
        picture = Image.open(io.BytesIO(data), formats=["PNG"])
        if picture.width * picture.height > MAX_PIXELS:
            raise InputError(
                where, f"has {shown_size((picture.height, picture.width))} pixels", f"at most {MAX_PIXELS:,} in all")
        picture.load()
    except _DAMAGE as error:
        raise InputError(where, f"is a damaged PNG ({error})", "copy it again or recreate it") from error
    return picture
