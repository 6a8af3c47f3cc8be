"""Colours of figures: those of classes, of heat, of differences and of errors, in the colour space OKLab.

References
----------
Ottosson, A perceptual color space for image processing, 2020 (the matrices).
"""

from __future__ import annotations

from functools import cache

import numpy as np

from drstool.errors import UsageError
from drstool.labels import IGNORE, num_classes, palette

__all__ = [
    "CROP_COLORS", "ERRORS", "IGNORED", "class_colors", "difference_colors", "heat_colors", "hatching",
    "oklab",
]

# Ignored pixels, in every picture; no palette contains it.
IGNORED = (255, 255, 255)
# What becomes of a pixel, in colours that remain apart with any colour blindness; ignored ones are drawn as everywhere.
ERRORS = {"correct": (120, 190, 225), "missed": (20, 40, 120), "false": (225, 85, 0), "wrong class": (245, 225, 70)}
# Of zoomed regions and their markers.
CROP_COLORS = ((230, 30, 30), (0, 190, 230), (255, 200, 0), (230, 0, 230), (60, 200, 60))

# The heat colours in OKLCh, from low to high values: lightness rises evenly, and chroma stays within sRGB.
# Hue in degrees.
_HEAT_LIGHTNESS = (0.25, 0.93)
_HEAT_HUE = (-65.0, 105.0)
_HEAT_CHROMA = ((0.0, 0.25, 0.5, 0.75, 1.0), (0.10, 0.17, 0.19, 0.16, 0.15))
# Of differences: blue where negative, almost white at 0, orange where positive.
_DIFFERENCE_LIGHTNESS = ((0.0, 0.5, 1.0), (0.45, 0.97, 0.58))
_DIFFERENCE_CHROMA = ((0.0, 0.5, 1.0), (0.16, 0.0, 0.15))
_DIFFERENCE_HUES = (258.0, 52.0)

_LMS_OF_LAB = np.array([
    [1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.2914855480]])
_RGB_OF_LMS = np.array([
    [4.0767416621, -3.3077115913, 0.2309699292], [-1.2684380046, 2.6097574011, -0.3413193965],
    [-0.0041960863, -0.7034186147, 1.7076147010]])

# Generated colours: steps of the grid of candidates, least chroma and range of lightness (black is the background,
# white the ignored pixels, grey is dimmed), and how many are placed one by one.
_GRID, _LEAST_CHROMA, _LIGHTNESS, _PLACED = 20, 0.06, (0.35, 0.93), 512


def class_colors(class_names: int, name: str = "voc") -> np.ndarray:
    """Colours by label value, ``(C + 1, 3) uint8``; black for the background.

    Parameters
    ----------
    class_names
        Number C of object classes; 0: it is not known.
    name
        ``voc`` or ``distinct``; with more classes than VOC's label images can have, always the latter.

    Examples
    --------
    >>> class_colors(2).tolist()
    [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
    """
    count = num_classes(range(class_names or IGNORE - 1))
    if name == "voc" and count <= IGNORE:
        return palette()[:count]
    return np.concatenate([np.zeros((1, 3), np.uint8), _distinct_colors(class_names)])


def heat_colors(name: str = "drstool") -> np.ndarray:
    """Colours of map values 0 .. 1, ``(256, 3) uint8``.

    ``drstool`` runs from dark violet through red to light yellow, in equal steps of perceived lightness, so that the
    order of values is kept when printed in grey; ``jet`` is as the field has it.

    Raises
    ------
    UsageError
        ``viridis`` or ``magma`` without matplotlib, which has their tables.
    """
    return _read_only(_COLORMAPS[name]() if name in _COLORMAPS else _of_matplotlib(name))


def difference_colors() -> np.ndarray:
    """Colours of differences -1 .. 1, ``(256, 3) uint8``: blue, white, orange."""
    share = np.linspace(0, 1, 256)
    return _srgb(
        np.interp(share, *_DIFFERENCE_LIGHTNESS), np.interp(share, *_DIFFERENCE_CHROMA),
        np.where(share < 0.5, *_DIFFERENCE_HUES))


def hatching(shape: tuple[int, int], period: float) -> np.ndarray:
    """Diagonal stripes, ``(H, W) bool``: True on every other one.

    Parameters
    ----------
    shape
    period
        From one stripe to the next, in pixels along a row.

    Examples
    --------
    >>> hatching((2, 4), 4).astype(int).tolist()
    [[1, 1, 0, 0], [1, 0, 0, 1]]
    """
    y, x = np.ogrid[:shape[0], :shape[1]]
    return (x + y) % max(period, 2.0) < max(period, 2.0) / 2


def oklab(colors: np.ndarray) -> np.ndarray:
    """Colours in OKLab, ``(..., 3) float64``, in which equal distances look about equal.

    Parameters
    ----------
    colors : (..., 3) uint8
        sRGB.
    """
    share = np.asarray(colors) / 255.0
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return np.cbrt(linear @ np.linalg.inv(_RGB_OF_LMS).T) @ np.linalg.inv(_LMS_OF_LAB).T


@cache
def _own_colors() -> np.ndarray:
    share = np.linspace(0, 1, 256)
    return _srgb(np.interp(share, (0, 1), _HEAT_LIGHTNESS), np.interp(share, *_HEAT_CHROMA),
                 np.interp(share, (0, 1), _HEAT_HUE))


@cache
def _jet() -> np.ndarray:
    """The colours of Matlab's ``jet``, which OpenCV has under the same name."""
    share = np.linspace(0, 1, 256)[:, np.newaxis]
    return np.rint(255 * np.clip(1.5 - np.abs(4 * share - (3, 2, 1)), 0, 1)).astype(np.uint8)


_COLORMAPS = {"drstool": _own_colors, "jet": _jet}


def _of_matplotlib(name: str) -> np.ndarray:
    try:
        from matplotlib import colormaps
    except ImportError as error:
        raise UsageError(
            "--colormap", f"{name} needs matplotlib", "install it: pip install 'drstool[figures]'") from error
    return colormaps[name](np.arange(256), bytes=True)[:, :3]


def _srgb(lightness: np.ndarray, chroma: np.ndarray, hue: np.ndarray) -> np.ndarray:
    """Colours of OKLCh (hue in degrees) in sRGB, ``(n, 3) uint8``."""
    angle = np.deg2rad(hue)
    lab = np.stack([lightness, chroma * np.cos(angle), chroma * np.sin(angle)])
    linear = np.clip(_RGB_OF_LMS @ (_LMS_OF_LAB @ lab) ** 3, 0, 1)
    # The transfer curve of sRGB (IEC 61966-2-1).
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(255 * encoded).astype(np.uint8).T.copy()


def _read_only(colors: np.ndarray) -> np.ndarray:
    colors.flags.writeable = False  # all callers share it
    return colors


def _distinct_colors(count: int) -> np.ndarray:
    """Generated colours, ``(count, 3) uint8``, no two alike; the first ones are the same for any count."""
    placed = _placed_colors()[:count]
    if count <= len(placed):
        return placed
    # More than an eye can tell apart: spread evenly over the cube of colours by an additive recurrence.
    steps = np.arange(1, 4 * count)[:, np.newaxis] * (0.8191725134, 0.6710436067, 0.5497004779)
    more = (30 + (steps % 1) * 200).astype(np.uint8)
    both = np.concatenate([placed, more])
    first = np.sort(np.unique(both, axis=0, return_index=True)[1])
    return both[first[:count]]


@cache
def _placed_colors() -> np.ndarray:
    """Colours each of which is as far as possible from those before it, from white and from black."""
    grid = np.stack(np.meshgrid(*[np.linspace(0, 255, _GRID).astype(np.uint8)] * 3, indexing="ij"), -1).reshape(-1, 3)
    lab = oklab(grid)
    kept = (np.hypot(lab[:, 1], lab[:, 2]) > _LEAST_CHROMA) & (lab[:, 0] > _LIGHTNESS[0]) & (lab[:, 0] < _LIGHTNESS[1])
    grid, lab = grid[kept], lab[kept]
    distance = np.minimum(*(np.linalg.norm(lab - oklab(np.array(color)), axis=1) for color in (IGNORED, (0, 0, 0))))
    chosen = []
    for _ in range(_PLACED):
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(lab - lab[chosen[-1]], axis=1))
    return grid[chosen]
