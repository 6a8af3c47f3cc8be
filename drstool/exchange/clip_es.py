"""CLIP-ES's CAMs: ``<id>.npy``, a dictionary of ``keys``, in the order of the annotation, and ``attn_highres``.

References
----------
``generate_cams_voc12.py`` and ``generate_cams_coco14.py`` of linyq2117/CLIP-ES: class numbers from 0; float16 maps of
the image's size.
"""

from __future__ import annotations

from typing import Any

from drstool.exchange.found import FoundMaps, check_numbers, stacked

__all__ = ["fits", "maps_of"]


def fits(content: Any) -> bool:
    """Whether a file is of this format."""
    return isinstance(content, dict) and {"keys", "attn_highres"} <= content.keys()


def maps_of(content: Any) -> FoundMaps:
    """The maps of a file that fits."""
    numbers = check_numbers(content["keys"])
    left_out = tuple(f"'{name}'" for name in content if name not in ("keys", "attn_highres"))
    return FoundMaps(stacked(content["attn_highres"], len(numbers)), numbers, fills_image=True, left_out=left_out)
