"""The DRS authors' localization maps: ``<id>.npy``, a uint8 array (C, S, S) of all classes and of square images.

References
----------
``scripts/localization_map_gen.py`` of qjadud1994/DRS: ``np.uint8(255 * maps)`` at 320 x 320 pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from drstool.exchange.found import FoundMaps

__all__ = ["fits", "maps_of"]


def fits(content: Any) -> bool:
    """Whether a file is of this format."""
    return isinstance(content, np.ndarray) and content.dtype == np.uint8 and (
        content.ndim == 3 and content.shape[1] == content.shape[2])


def maps_of(content: Any) -> FoundMaps:
    """The maps of a file that fits."""
    return FoundMaps(content, None, fills_image=False)
