"""Saliency: where a picture's objects probably are, from the picture alone.

Two published methods that need neither training nor a model. Both assume that most of the picture's
border is background, and measure how well every other place is separated from it: along the best
path to the border (``mbd``), or by how much of a region of similar colour touches it (``rbd``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image
from scipy import ndimage, sparse

from drstool.errors import UsageError

__all__ = ["METHODS", "barrier_distance", "check_method", "saliency_map", "stretched"]

# The longer side, in pixels, at which saliency is computed; results are resized to full size.
_WORKING_SIZE = {"mbd": 300, "rbd": 240}
# Width of the picture's border, as a share of the shorter side.
_BORDER_SHARE = 0.1
# Raster scans of the distance transform; three, as in the paper, come close to convergence.
_SCANS = 3
# Slope of the final contrast curve, and the smoothing's radius on a 300-pixel map of mean 1.
_CONTRAST, _SMOOTHING = 10.0, 20.0

# Superpixels of an image, and how compact they are; colour distances are in Lab units.
_SUPERPIXELS, _COMPACTNESS, _SLIC_ROUNDS = 220, 12.0, 5
_SIGMA_COLOR, _SIGMA_BOUNDARY, _SIGMA_SPACE, _SMOOTHNESS = 10.0, 1.0, 0.4, 0.1


def check_method(name: str) -> Callable[[np.ndarray], np.ndarray]:
    """The saliency method of that name.

    Raises
    ------
    UsageError
        There is none.
    """
    if name not in METHODS:
        raise UsageError("--method", f"'{name}' is not one of {', '.join(METHODS)}")
    return METHODS[name]


def saliency_map(image: np.ndarray, method: str = "mbd") -> np.ndarray:
    """Saliency of each pixel, by a method without training.

    Parameters
    ----------
    image : (H, W, 3) uint8
        sRGB.
    method
        ``mbd``: minimum barrier distance to the border, with boundary contrast (MB+).
        ``rbd``: boundary connectivity and saliency optimization on superpixels.

    Returns
    -------
    (H, W) uint8
        255 at the most salient place, 0 at the least salient one; all 0 for a picture of one
        colour or without pixels inside its border.

    Raises
    ------
    UsageError
        No such method.

    References
    ----------
    Zhang, Sclaroff, Lin, Shen, Price, Mech: Minimum Barrier Salient Object Detection at 80 FPS,
    ICCV 2015. Zhu, Liang, Wei, Sun: Saliency Optimization from Robust Background Detection,
    CVPR 2014.
    """
    measure = check_method(method)
    height, width = image.shape[:2]
    shrink = min(1.0, _WORKING_SIZE[method] / max(height, width))
    rows, columns = max(1, round(height * shrink)), max(1, round(width * shrink))
    if min(rows, columns) < 3:
        return np.zeros((height, width), np.uint8)
    small = Image.fromarray(image).resize((columns, rows), Image.Resampling.BOX)
    found = Image.fromarray(measure(_lab(np.asarray(small))).astype(np.float32))
    full = np.asarray(found.resize((width, height), Image.Resampling.BILINEAR))
    return np.rint(255 * stretched(full)).astype(np.uint8)


def stretched(values: np.ndarray) -> np.ndarray:
    """Shifted and scaled to fill [0, 1]; all 0 if the values are the same up to rounding."""
    low, high = values.min(), values.max()
    if high - low < 1e-6:
        return np.zeros_like(values)
    return (values - low) / (high - low)


def _lab(image: np.ndarray) -> np.ndarray:
    """CIE L*a*b* (D65) of sRGB: (H, W, 3) uint8 to (H, W, 3) float32, L in [0, 100]."""
    values = np.arange(256) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124564, 0.3575761, 0.1804375],
                       [0.2126729, 0.7151522, 0.0721750],
                       [0.0193339, 0.1191920, 0.9503041]])
    # Rows divided by their sums, so that white is 1 in all three.
    xyz = linear[image] @ (to_xyz / to_xyz.sum(1, keepdims=True)).T
    root = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = np.moveaxis(root, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1).astype(np.float32)


# ---------------------------------------------------------------------------------------------
# Minimum barrier distance
# ---------------------------------------------------------------------------------------------


def _barrier_saliency(lab: np.ndarray) -> np.ndarray:
    """MB+ of a working-size picture: (H, W, 3) Lab to (H, W) float32."""
    distance = barrier_distance(np.moveaxis(lab, -1, 0)).sum(0)
    found = stretched(stretched(distance) + stretched(_boundary_contrast(lab)))
    # Objects are more likely to be in the middle of a picture.
    down, right = (np.linspace(-1.5, 1.5, n, dtype=np.float32) for n in found.shape)
    found = found * np.exp(-0.5 * (down[:, None] ** 2 + right**2))
    found = stretched(_smoothed(stretched(found)))
    return 1 / (1 + np.exp(-_CONTRAST * (found - 0.5)))


def barrier_distance(channels: np.ndarray, scans: int = _SCANS) -> np.ndarray:
    """Minimum barrier distance of each pixel to the picture's border, by raster scans.

    The barrier of a path is its highest value minus its lowest. The scans go alternately from the
    upper left and from the lower right, and offer each pixel the paths of the two neighbours already
    visited. Pixels of one anti-diagonal do not depend on each other, so they are computed at once;
    the result is exactly that of a pixel-by-pixel scan.

    Parameters
    ----------
    channels : (C, H, W) float32
        Each is processed on its own.
    scans
        Number of scans.

    Returns
    -------
    (C, H, W) float32
        0 or more; 0 on the border.

    References
    ----------
    Zhang et al., ICCV 2015, algorithm 1 (FastMBD).
    """
    count, height, width = channels.shape
    values = np.ascontiguousarray(channels, np.float32).reshape(count, -1)
    highest, lowest = values.copy(), values.copy()
    inside = np.zeros((height, width), bool)
    inside[1:-1, 1:-1] = True
    distance = np.where(inside.ravel(), np.float32(np.inf), np.float32(0))
    distance = np.broadcast_to(distance, values.shape).copy()
    for scan in range(scans):
        step = 1 if scan % 2 == 0 else -1
        each = values[:, ::step], distance[:, ::step], highest[:, ::step], lowest[:, ::step]
        _scan(*each, height, width)
    return distance.reshape(channels.shape)


def _diagonals(height: int, width: int) -> Iterator[slice]:
    """The inner pixels of each anti-diagonal, from the upper left on, in a flat picture."""
    for diagonal in range(2, height + width - 3):
        first, last = max(1, diagonal - width + 2), min(height - 2, diagonal - 1)
        start = diagonal + first * (width - 1)
        yield slice(start, diagonal + last * (width - 1) + 1, max(1, width - 1))


def _scan(
    values: np.ndarray, distance: np.ndarray, highest: np.ndarray, lowest: np.ndarray,
    height: int, width: int,
) -> None:
    """One raster scan, in place, over flat pictures: each (C, H * W) float32."""
    for here in _diagonals(height, width):
        value, best = values[:, here], distance[:, here]
        top, bottom = highest[:, here], lowest[:, here]
        for back in (width, 1):  # the neighbour above, the neighbour to the left
            there = slice(here.start - back, here.stop - back, here.step)
            above = np.maximum(highest[:, there], value)
            below = np.minimum(lowest[:, there], value)
            barrier = above - below
            better = barrier < best
            np.copyto(best, barrier, where=better)
            np.copyto(top, above, where=better)
            np.copyto(bottom, below, where=better)


def _boundary_contrast(lab: np.ndarray) -> np.ndarray:
    """How much a pixel's colour differs from the picture's four edges: (H, W) float32, 0 or more.

    The Mahalanobis distances to the colours of the edges, without the edge of the largest distance,
    which an object may touch.
    """
    border = max(1, round(_BORDER_SHARE * min(lab.shape[:2])))
    maps = []
    for edge in (lab[:border], lab[-border:], lab[:, :border], lab[:, -border:]):
        colors = edge.reshape(-1, 3).astype(np.float64)
        spread = np.cov(colors.T) + np.eye(3)
        away = lab - colors.mean(0)
        contrast = np.sqrt(np.einsum("hwi,ij,hwj->hw", away, np.linalg.inv(spread), away, optimize=True))
        maps.append(contrast / (contrast.max() + 1e-6))
    return (np.sum(maps, 0) - np.max(maps, 0)).astype(np.float32)


def _smoothed(values: np.ndarray) -> np.ndarray:
    """Opened and closed by reconstruction: small bright and dark spots vanish, edges stay.

    The radius grows with the mean, since bright maps have large objects.
    """
    scale = max(values.shape) / _WORKING_SIZE["mbd"]
    side = 2 * round(_SMOOTHING * scale * np.sqrt(values.mean()) / 2) + 1
    opened = _rebuilt(ndimage.grey_erosion(values, size=(side, side)), values)
    return 1 - _rebuilt(1 - ndimage.grey_dilation(opened, size=(side, side)), 1 - opened)


def _rebuilt(marker: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Grey reconstruction by dilation of ``marker`` under ``mask``: both (H, W) float32.

    By raster scans along anti-diagonals, as in the distance transform, in both directions until
    nothing changes; a winding path needs one scan for each of its turns.
    """
    height, width = mask.shape
    rebuilt = np.pad(np.minimum(marker, mask), 1, constant_values=-np.inf).ravel()
    limit = np.pad(mask, 1, constant_values=-np.inf).ravel()
    before = None
    while before is None or not np.array_equal(rebuilt, before):
        before = rebuilt.copy()
        for step in (1, -1):
            grown, below = rebuilt[::step], limit[::step]
            for here in _diagonals(height + 2, width + 2):
                values = grown[here]
                for back in (width + 2, 1):
                    there = slice(here.start - back, here.stop - back, here.step)
                    np.maximum(values, grown[there], out=values)
                np.minimum(values, below[here], out=values)
    return rebuilt.reshape(height + 2, width + 2)[1:-1, 1:-1]


# ---------------------------------------------------------------------------------------------
# Robust background detection
# ---------------------------------------------------------------------------------------------


def _background_saliency(lab: np.ndarray) -> np.ndarray:
    """Optimised background-weighted contrast: (H, W, 3) Lab to (H, W) float32."""
    regions = _superpixels(lab)
    count = regions.max() + 1
    pixels = np.bincount(regions.ravel(), minlength=count)

    def mean(values: np.ndarray) -> np.ndarray:
        return np.bincount(regions.ravel(), values.ravel(), count) / pixels

    colors = np.stack([mean(channel) for channel in np.moveaxis(lab, -1, 0)], 1)
    down, right = np.indices(regions.shape) / max(regions.shape)
    places = np.stack([mean(down), mean(right)], 1)
    neighbours, on_border = _neighbourhood(regions, count)
    appearance = _distances(colors)
    background = _background_probability(appearance, neighbours, on_border)
    nearness = np.exp(-_distances(places) ** 2 / (2 * _SIGMA_SPACE**2))
    contrast = stretched((appearance * nearness) @ background)
    score = _optimised(appearance, neighbours, on_border, background, contrast)
    return stretched(np.clip(score, 0, 1))[regions]


def _distances(points: np.ndarray) -> np.ndarray:
    """Euclidean distances of all pairs: (n, d) to (n, n)."""
    return np.sqrt(((points[:, None] - points[None]) ** 2).sum(-1))


def _superpixels(lab: np.ndarray) -> np.ndarray:
    """SLIC superpixels: (H, W) int, numbered from 0 without gaps.

    Each pixel chooses among the nine centres around its own cell of a grid. Superpixels may be
    disconnected, which does not matter here.

    References
    ----------
    Achanta et al.: SLIC Superpixels Compared to State-of-the-Art Superpixel Methods, PAMI 2012.
    """
    height, width = lab.shape[:2]
    step = max(2.0, np.sqrt(height * width / _SUPERPIXELS))
    rows, columns = max(1, round(height / step)), max(1, round(width / step))
    down, right = np.indices((height, width), dtype=np.float32)
    pull = np.float32(_COMPACTNESS / step)
    features = np.stack([*np.moveaxis(lab, -1, 0), down * pull, right * pull]).reshape(5, -1)
    cell_row = (down * rows / height).astype(np.int64).ravel()
    cell_column = (right * columns / width).astype(np.int64).ravel()
    around = [
        np.clip(cell_row + r, 0, rows - 1) * columns + np.clip(cell_column + c, 0, columns - 1)
        for r in (-1, 0, 1) for c in (-1, 0, 1)]
    labels = cell_row * columns + cell_column
    for _ in range(_SLIC_ROUNDS):
        members = np.maximum(np.bincount(labels, minlength=rows * columns), 1)
        centers = np.stack([np.bincount(labels, f, rows * columns) / members for f in features])
        centers = centers.astype(np.float32)
        nearest = np.full(labels.shape, np.inf, np.float32)
        chosen = labels
        for candidate in around:
            away = features - centers[:, candidate]
            distance = np.einsum("fp,fp->p", away, away)
            chosen = np.where(distance < nearest, candidate, chosen)
            np.minimum(nearest, distance, out=nearest)
        labels = chosen
    return np.unique(labels, return_inverse=True)[1].reshape(height, width)


def _neighbourhood(regions: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Which superpixels touch, (n, n) bool, and which lie on the picture's border, (n,) bool."""
    touch = np.zeros((count, count), bool)
    for one, other in ((regions[1:], regions[:-1]), (regions[:, 1:], regions[:, :-1])):
        touch[one, other] = touch[other, one] = True
    np.fill_diagonal(touch, False)
    on_border = np.zeros(count, bool)
    for edge in (regions[0], regions[-1], regions[:, 0], regions[:, -1]):
        on_border[edge] = True
    return touch, on_border


def _background_probability(
    appearance: np.ndarray, neighbours: np.ndarray, on_border: np.ndarray,
) -> np.ndarray:
    """Probability of background, from the share of a region's outline on the border: (n,) in [0, 1].

    References
    ----------
    Zhu et al., CVPR 2014, equations 2-4 and 7.
    """
    # All border superpixels are linked: an object may separate parts of the same background.
    linked = neighbours | (on_border[:, None] & on_border)
    np.fill_diagonal(linked, False)
    # Small colour differences cost nothing, or they would add up along a path through a smooth region.
    # Small is, in each picture, the mean difference to the most similar neighbour.
    free = np.where(neighbours, appearance, np.inf).min(1)
    free = free[np.isfinite(free)]
    steps = np.maximum(appearance - (free.mean() if free.size else 0), 0)
    graph = sparse.csr_matrix((steps[linked] + 1e-6, np.nonzero(linked)), shape=steps.shape)
    reach = sparse.csgraph.shortest_path(graph, method="D", directed=False)
    alike = np.exp(-reach**2 / (2 * _SIGMA_COLOR**2))
    connectivity = (alike @ on_border) / np.sqrt(alike.sum(1))
    return 1 - np.exp(-connectivity**2 / (2 * _SIGMA_BOUNDARY**2))


def _optimised(
    appearance: np.ndarray, neighbours: np.ndarray, on_border: np.ndarray,
    background: np.ndarray, foreground: np.ndarray,
) -> np.ndarray:
    """Scores that agree with both cues and are similar for neighbours of similar colour: (n,).

    The least of ``sum background s² + sum foreground (s - 1)² + sum w (s_i - s_j)²``.

    References
    ----------
    Zhu et al., CVPR 2014, equation 9.
    """
    two_steps = neighbours | (neighbours.astype(np.float32) @ neighbours > 0)
    two_steps |= on_border[:, None] & on_border
    np.fill_diagonal(two_steps, False)
    weights = two_steps * (np.exp(-appearance**2 / (2 * _SIGMA_COLOR**2)) + _SMOOTHNESS)
    # Contrast below its mean is no evidence of an object.
    foreground = np.where(foreground >= foreground.mean(), foreground, 0)
    system = np.diag(background + foreground + weights.sum(1) + 1e-6) - weights
    return np.linalg.solve(system, foreground)


METHODS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mbd": _barrier_saliency,
    "rbd": _background_saliency,
}
