"""What is known of one image, and ground truth drawn from outlines: polygons, and objects over each other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from drstool.errors import InputError
from drstool.labels import BACKGROUND
from drstool.pixels import shown_size

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "Annotation", "check_drawable", "is_fragment", "notices_of_undrawn", "paint", "rasterize_polygon",
]

# Kept as bits until the objects are ordered by size: 2 GiB.
_MAX_DRAWN = 2**34


class Annotation(NamedTuple):
    """What a file of annotations says of one image.

    Attributes
    ----------
    tags
        Names of object classes; None: not annotated.
    mask
        Ground truth to be rasterised, or None.
    """

    tags: tuple[str, ...] | None = None
    mask: Any = None


def check_drawable(count: int, size: tuple[int, int], where: object, *, undrawable: int = 0) -> None:
    """Check that so many objects in an image of a size, (H, W), can be drawn.

    Raises
    ------
    InputError
        They are too many, or others have no outline: their pixels would become background.
    """
    if undrawable:
        raise InputError(
            where, f"has objects with only a box, a line or a point: {undrawable}",
            "outline them, or leave out the mask of this image")
    if count * size[0] * size[1] > _MAX_DRAWN:
        raise InputError(
            where, f"has {count:,} annotations of {shown_size(size)} pixels",
            f"at most {_MAX_DRAWN:,} pixels are drawn in all")


def paint(
    regions: Iterable[tuple[int, np.ndarray]], size: tuple[int, int], dtype: np.dtype, *, smaller_on_top: bool = True,
) -> np.ndarray:
    """A label image of objects on background.

    Parameters
    ----------
    regions
        Label and pixels, (H, W) bool, of each object.
    size : (H, W)
    dtype
        Of the label image.
    smaller_on_top
        Draw larger objects first; otherwise in the order given.

    Returns
    -------
    (H, W) of ``dtype``
    """
    import numpy as np

    # As bits: an image may have many objects, each as large as itself.
    painted = [(int(region.sum()), value, np.packbits(region)) for value, region in regions]
    if smaller_on_top:
        painted.sort(key=lambda entry: -entry[0])
    target = np.full(size, BACKGROUND, dtype)
    for _, value, bits in painted:
        target[np.unpackbits(bits, count=target.size).reshape(size).view(bool)] = value
    return target


def is_fragment(polygon: object) -> bool:
    """Whether a polygon has fewer than three points, which annotation tools leave behind: it has no area.

    Examples
    --------
    >>> is_fragment([1, 2, 3, 4]), is_fragment(None), is_fragment([0, 0, 1, 0, 1, 1])
    (True, True, False)
    """
    if not isinstance(polygon, list):
        return polygon is None
    return len(polygon) in (0, 2, 4) and all(type(value) in (int, float) for value in polygon)


def notices_of_undrawn(where: object, images: int, fragments: int) -> tuple[str, ...]:
    """Lines for the user about objects that are not drawn.

    Parameters
    ----------
    where
    images
        Number of images without ground truth because an object has no outline, whose pixels are therefore unknown.
    fragments
        Number of polygons for which :func:`is_fragment` holds.
    """
    counts = {
        "images without ground truth, as some of their objects have only a box, a line or a point": images,
        "polygons of fewer than three points, left out of the ground truth": fragments}
    return tuple(f"{where}: {what}: {count}" for what, count in counts.items() if count)


def rasterize_polygon(polygon: Sequence[float], size: tuple[int, int], where: object) -> np.ndarray:
    """Pixels whose centre lies inside a polygon (even-odd rule).

    Parameters
    ----------
    polygon
        ``[x0, y0, x1, y1, …]`` in pixels; the first pixel's centre is at (0.5, 0.5).
    size : (H, W)
    where
        Named in the error.

    Returns
    -------
    (H, W) bool

    Raises
    ------
    InputError
        The polygon is not a list of at least three points.

    Examples
    --------
    >>> rasterize_polygon([0, 0, 2, 0, 2, 1, 0, 1], (2, 3), "square").astype(int)
    array([[1, 1, 0],
           [0, 0, 0]])
    """
    import numpy as np

    points = _points(polygon, where)
    height, width = size
    # Along a row of pixel centres, each edge crossed switches between outside and inside.
    crossings = np.zeros((height, width + 1), bool)
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        if y0 > y1:
            x0, y0, x1, y1 = x1, y1, x0, y0
        first, last = (int(np.clip(np.ceil(y - 0.5), 0, height)) for y in (y0, y1))
        if first == last:
            continue
        rows = np.arange(first, last)
        x = x0 + (rows + 0.5 - y0) * ((x1 - x0) / (y1 - y0))
        crossings[rows, np.clip(np.ceil(x - 0.5), 0, width).astype(int)] ^= True
    return np.logical_xor.accumulate(crossings[:, :width], axis=1)


def _points(polygon: object, where: object) -> np.ndarray:
    import numpy as np

    try:
        values = np.array(polygon, np.float64)
    except (TypeError, ValueError, OverflowError):
        values = np.empty(0)
    # Differences of coordinates far outside of any picture would overflow.
    if values.ndim != 1 or values.size < 6 or values.size % 2 or not (np.abs(values) < 1e9).all():
        raise InputError(where, "has an invalid polygon", "a polygon is [x0, y0, x1, y1, x2, y2, …]")
    return values.reshape(-1, 2)
