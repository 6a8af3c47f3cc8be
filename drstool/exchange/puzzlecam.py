"""PuzzleCAM's CAMs: ``<id>.npy``, a dictionary of ``keys``, class numbers + 1 after a 0, and ``hr_cam`` or ``rw``.

References
----------
``inference_classification.py`` and ``inference_rw.py`` of shjo-april/PuzzleCAM: ``keys`` are labels, the background's
first, though there is no map of it; ``hr_cam``, and ``rw`` after the random walk, have the image's size.
"""

from __future__ import annotations

from typing import Any

from drstool.exchange.found import FoundMaps, check_numbers, stacked

__all__ = ["fits", "maps_of"]

_MAPS = ("hr_cam", "rw")


def fits(content: Any) -> bool:
    """Whether a file is of this format."""
    return isinstance(content, dict) and "keys" in content and any(name in content for name in _MAPS)


def maps_of(content: Any) -> FoundMaps:
    """The maps of a file that fits."""
    keys = check_numbers(content["keys"])
    if not keys or keys[0] != 0 or 0 in keys[1:]:
        raise ValueError(f"its keys are {list(keys)[:8]}; PuzzleCAM's are a 0, for the background, and then labels")
    chosen = next(name for name in _MAPS if name in content)
    left_out = tuple(f"'{name}'" for name in content if name not in ("keys", chosen))
    return FoundMaps(
        stacked(content[chosen], len(keys) - 1), tuple(key - 1 for key in keys[1:]), fills_image=True,
        left_out=left_out)
