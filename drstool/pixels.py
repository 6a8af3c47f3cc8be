"""How large a picture may be, and how its size is written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["MAX_PIXELS", "shown_size"]

# More than any photograph or scan of the field; a header that claims more is a mistake or an
# attack, and one such picture as float maps would not fit into memory.
MAX_PIXELS = 100_000_000


def shown_size(size: Sequence[Any]) -> str:
    """An image size ``(H, W)`` as users read it: width × height, in pixels.

    Examples
    --------
    >>> shown_size((375, 500))
    '500 × 375'
    """
    return f"{size[1]} × {size[0]}"
