"""What the demo's pictures are made of: colours, noise, shapes and transparent sheets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from PIL import Image

__all__ = [
    "Color", "Paint", "Shape", "Sprite", "disc", "domed", "ellipse", "fractal", "hsv", "noise",
    "polygon", "tube",
]

# Sprites are drawn at this multiple of the resolution and averaged down, which makes edges soft.
_SUPERSAMPLING = 2

Color = np.ndarray  # (3,) float32, sRGB in [0, 1]
# One colour, or the colours (H, W, 3) at places x and y, each (H, W).
Paint = Color | Callable[[np.ndarray, np.ndarray], np.ndarray]


# ---------------------------------------------------------------------------------------------
# Colours and noise
# ---------------------------------------------------------------------------------------------


def hsv(hue: float, saturation: float, value: float) -> Color:
    """An sRGB colour; the hue has period 1."""
    ramp = np.abs((hue * 6 + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1
    pure = np.clip(ramp, 0, 1)
    return (value * (1 - saturation * (1 - pure))).astype(np.float32)


def noise(rng: np.random.Generator, size: tuple[int, int], cell: tuple[float, float]) -> np.ndarray:
    """Smooth noise whose features are about ``cell`` (H, W) pixels: (H, W) float32, deviation 1."""
    height, width = size
    rows = max(2, round(height / cell[0])) + 1
    columns = max(2, round(width / cell[1])) + 1
    grid = Image.fromarray(rng.standard_normal((rows, columns)).astype(np.float32))
    smooth = np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC))
    return smooth / (smooth.std() + 1e-6)


def fractal(
    rng: np.random.Generator, size: tuple[int, int], coarsest: float, aspect: float = 1.0,
    decay: float = 0.6,
) -> np.ndarray:
    """Noise of many scales, each half the one before: (H, W) float32, deviation about 1.

    ``aspect`` above 1 stretches the features vertically, below 1 horizontally.
    """
    total, weight, power = np.zeros(size, np.float32), 1.0, 0.0
    while coarsest >= 1:
        total += weight * noise(rng, size, (coarsest * aspect, coarsest / aspect))
        power += weight**2
        weight *= decay
        coarsest /= 2
    return total / np.sqrt(power)


# ---------------------------------------------------------------------------------------------
# Shapes: signed distances, negative inside, in units of half a body's length
# ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """A region in the creature's own coordinates, and a disc that contains it."""

    distance: Callable[[np.ndarray, np.ndarray], np.ndarray]
    center: tuple[float, float]
    reach: float


def ellipse(cx: float, cy: float, a: float, b: float, turn: float = 0.0) -> Shape:
    cos, sin = float(np.cos(turn)), float(np.sin(turn))

    def distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        dx, dy = x - cx, y - cy
        return (np.hypot((cos * dx + sin * dy) / a, (cos * dy - sin * dx) / b) - 1) * min(a, b)

    return Shape(distance, (cx, cy), max(a, b))


def disc(cx: float, cy: float, radius: float) -> Shape:
    return ellipse(cx, cy, radius, radius)


def tube(points: Sequence[tuple[float, float]] | np.ndarray, radii: Sequence[float] | np.ndarray | float) -> Shape:
    """A line drawn with a round pen: (n, 2) points and the pen's radius at each."""
    line = np.asarray(points, float)
    pens = np.broadcast_to(radii, len(line)).tolist()
    ends = list(zip(line.tolist(), pens, strict=True))

    def distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        nearest = np.full(x.shape, np.inf, np.float32)
        for ((ax, ay), start), ((bx, by), end) in pairwise(ends):
            ex, ey = bx - ax, by - ay
            along = np.clip(((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey), 0, 1)
            gap = np.hypot(x - (ax + along * ex), y - (ay + along * ey))
            np.minimum(nearest, gap - (start + along * (end - start)), out=nearest)
        return nearest

    middle = (line.min(0) + line.max(0)) / 2
    reach = float(np.max(np.hypot(*(line - middle).T) + pens))
    return Shape(distance, (float(middle[0]), float(middle[1])), reach)


def polygon(*corners: tuple[float, float], rounding: float = 0.0) -> Shape:
    """A convex polygon, its corners clockwise or counterclockwise."""
    points = np.asarray(corners, float)
    middle = points.mean(0)
    edges = np.roll(points, -1, 0) - points
    normals = np.stack([edges[:, 1], -edges[:, 0]], 1) / np.hypot(*edges.T)[:, None]
    offsets = (normals * points).sum(1)
    outward = np.sign(offsets - normals @ middle)
    sides = (outward[:, None] * np.column_stack([normals, offsets])).tolist()

    def distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.maximum.reduce([nx * x + ny * y - offset for nx, ny, offset in sides]) - rounding

    reach = float(np.hypot(*(points - middle).T).max()) + 2 * rounding
    return Shape(distance, (float(middle[0]), float(middle[1])), reach)


class Sprite:
    """A transparent sheet on which one object is drawn in its own coordinates, head towards +x.

    Attributes
    ----------
    rgb : (n, n, 3) float32
        Colours times ``alpha``.
    alpha, striking : (n, n) float32 in [0, 1]
        What the object covers, and what its striking part covers.
    """

    def __init__(self, scale: float, turn: float, mirror: bool, reach: float) -> None:
        self.scale = scale * _SUPERSAMPLING
        # A multiple of twice the supersampling, so that averaging keeps the middle in the middle.
        half = int(np.ceil(reach * scale)) * _SUPERSAMPLING
        self._turn = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        if mirror:
            self._turn = self._turn @ np.diag([1.0, -1.0])
        at = (np.arange(-half, half, dtype=np.float32) + 0.5) / self.scale
        down, right = np.meshgrid(at, at, indexing="ij")
        inverse = self._turn.T.astype(np.float32)
        self._x = inverse[0, 0] * right + inverse[0, 1] * down
        self._y = inverse[1, 0] * right + inverse[1, 1] * down
        self._half = half
        self.rgb = np.zeros((2 * half, 2 * half, 3), np.float32)
        self.alpha = np.zeros((2 * half, 2 * half), np.float32)
        self.striking = np.zeros((2 * half, 2 * half), np.float32)

    def draw(self, shape: Shape, paint: Paint, *, striking: bool = False) -> None:
        """Paint a shape over what is there."""
        middle = self._turn @ np.asarray(shape.center) * self.scale + self._half
        reach = shape.reach * self.scale + 2
        low, high = np.clip([middle - reach, middle + reach + 1], 0, 2 * self._half).astype(int)
        window = slice(low[1], high[1]), slice(low[0], high[0])
        x, y = self._x[window], self._y[window]
        cover = np.clip(0.5 - shape.distance(x, y) * self.scale, 0, 1)
        color = paint(x, y) if callable(paint) else paint
        self.rgb[window] += cover[..., None] * (color - self.rgb[window])
        for layer, target in ((self.alpha, 1.0), (self.striking, float(striking))):
            layer[window] += cover * (target - layer[window])

    def reduced(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Colours, cover and striking part, averaged down to the picture's resolution."""
        n = self._half * 2 // _SUPERSAMPLING

        def mean(values: np.ndarray) -> np.ndarray:
            cells = values.reshape(n, _SUPERSAMPLING, n, _SUPERSAMPLING, *values.shape[2:])
            return cells.mean((1, 3))

        alpha = mean(self.alpha)
        rgb = mean(self.rgb) / np.maximum(alpha, 1e-6)[..., None]
        return rgb, alpha, mean(self.striking)


def domed(color: Paint, a: float, b: float, light: tuple[float, float]) -> Paint:
    """A paint shaded like a low dome lit from one side, with a soft highlight."""

    def paint(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        base = color(x, y) if callable(color) else color
        slope = (x / a) * light[0] + (y / b) * light[1]
        rim = (x / a) ** 2 + (y / b) ** 2
        shade = 1 + 0.28 * slope - 0.16 * np.clip(rim, 0, 1.5) ** 2
        off = (x / a - 0.45 * light[0]) ** 2 + (y / b - 0.45 * light[1]) ** 2
        gloss = 0.25 * np.exp(-8 * off)
        return np.clip(base * shade[..., None] + gloss[..., None], 0, 1).astype(np.float32)

    return paint
