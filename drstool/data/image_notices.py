"""What a user should know of how a dataset's images are stored, from a look at some of them."""

from __future__ import annotations

from contextlib import suppress

from drstool.data.decoding import look_at
from drstool.data.item import Dataset
from drstool.errors import InputError
from drstool.reports.text import counted

__all__ = ["image_notices", "notices_of_looks"]

# Headers are read in a fifth of a millisecond, pixels in some ten.
_LOOKED_AT, _DECODED = 200, 8
# Below half of its range a 16-bit image is dark, and the usual 12 bits are nearly black.
_DARK = 2**15
# Up to this share, some are by night.
_USUAL = 0.1


def image_notices(dataset: Dataset) -> list[str]:
    """Lines about bands that are left out and 16-bit images that come out dark; unreadable images are passed over."""
    step = max(1, len(dataset) // _LOOKED_AT)
    bands: list[bool] = []
    largest: list[int] = []
    for item in dataset.items[::step]:
        with suppress(InputError):
            look = look_at(item.image, decode=dataset.value_range is None and len(largest) < _DECODED)
            bands.append(look.extra_band)
            largest += [] if look.largest is None else [look.largest]
    return notices_of_looks(bands, largest)


def notices_of_looks(bands: list[bool], largest: list[int]) -> list[str]:
    """The lines, from whether each image has a band too many, and the largest values of the 16-bit ones.

    Examples
    --------
    >>> notices_of_looks([False, False], [3900, 4000])
    ['dark 16-bit images: 2 of 2, without a value above 4000 of 65535; give --range, such as 0,4095 or 1%,99%']
    """
    lines = []
    if any(bands):
        lines.append(f"fourth band, not marked as alpha, left out: {sum(bands):,} of {counted(len(bands), 'image')}")
    dark = [value for value in largest if value < _DARK]
    if len(dark) > _USUAL * len(largest):
        bits = max(max(dark).bit_length(), 1)
        lines.append(
            f"dark 16-bit images: {len(dark)} of {len(largest)}, without a value above {max(dark)} of 65535; give "
            f"--range, such as 0,{2 ** bits - 1} or 1%,99%")
    return lines
