"""Pillow as it is used here: what it raises of damaged pictures, and what it need not say.

It takes a while to import; what reads label images only mostly does without.
"""

from __future__ import annotations

import struct
import warnings
import zlib

from PIL import Image

__all__ = ["DAMAGE"]

# What Pillow raises on damaged PNGs.
DAMAGE = (
    OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, AttributeError, OverflowError,
    struct.error, zlib.error, Image.DecompressionBombError,
)
# MAX_PIXELS decides alone. Pillow's own warning would be a second line on stderr, and silencing
# it picture by picture (warnings.catch_warnings) is not safe in threads.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# What else it finds odd, such as broken EXIF data, is no matter of the user's where pixels can be read.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
