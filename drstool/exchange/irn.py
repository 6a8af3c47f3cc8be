"""IRN's CAMs, also of its descendants: ``<id>.npy``, a dictionary of ``keys``, ``cam`` and ``high_res``.

References
----------
``step/make_cam.py`` of jiwoon-ahn/irn: class numbers from 0; ``cam`` at a quarter of the image's size and ``high_res``
at its own, each map divided by its maximum. ``keys`` and ``cam`` are tensors.
"""

from __future__ import annotations

from typing import Any

from drstool.exchange.found import FoundMaps, check_numbers, stacked

__all__ = ["fits", "maps_of"]


def fits(content: Any) -> bool:
    """Whether a file is of this format."""
    return isinstance(content, dict) and {"keys", "high_res"} <= content.keys()


def maps_of(content: Any) -> FoundMaps:
    """The maps of a file that fits."""
    numbers = check_numbers(content["keys"])
    left_out = tuple(f"'{name}'" for name in content if name not in ("keys", "high_res"))
    return FoundMaps(stacked(content["high_res"], len(numbers)), numbers, fills_image=True, left_out=left_out)
