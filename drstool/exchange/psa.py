"""PSA's CAMs, also MCTformer's: ``<id>.npy``, a dictionary from class numbers, from 0, to maps (H, W).

References
----------
``infer_cls.py`` of jiwoon-ahn/psa and ``engine.py`` of xulianuwa/MCTformer: the maps have the image's size.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from drstool.exchange.found import FoundMaps, check_numbers

__all__ = ["fits", "maps_of"]

# How far sums of probabilities are from 1.
_CLOSE = 0.01


def fits(content: Any) -> bool:
    """Whether a file is of this format; an image without classes is an empty dictionary."""
    return isinstance(content, dict) and all(type(key) is int for key in content)


def maps_of(content: Any) -> FoundMaps:
    """The maps of a file that fits."""
    maps = list(content.values())
    if not maps:
        return FoundMaps(np.zeros((0, 0, 0), np.uint8), (), fills_image=True)
    if not all(isinstance(each, np.ndarray) and each.ndim == 2 and each.shape == maps[0].shape for each in maps):
        raise ValueError("its maps are not (H, W) of one size")
    found = np.stack(maps)
    # PSA writes its CRF's results in the same form, but with the background as 0 and the labels as keys.
    if 0 in content and len(content) > 1 and np.abs(found.sum(axis=0, dtype=np.float64) - 1).max() < _CLOSE:
        raise ValueError("its maps add up to 1 at every pixel, as PSA's CRF scores do, whose key 0 is the "
                         "background; import the maps that it was run on")
    return FoundMaps(found, check_numbers(list(content)), fills_image=True)
