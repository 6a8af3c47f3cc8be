"""The demo's pictures: creatures on cluttered ground, in changing light."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from drstool.demo.creatures import CLASS_NAMES, body_scale, draw_creature
from drstool.demo.sprites import Sprite, domed, ellipse, fractal, hsv, noise, tube
from drstool.labels import BACKGROUND, IGNORE, label_of

__all__ = ["Picture", "render_picture"]

# How much sides vary around the requested size.
_SIZE_SPREAD = 1 / 11

# How much of a creature must be visible, as shares of its whole area and of its head.
_VISIBLE_SHARE, _VISIBLE_HEAD_SHARE = 0.6, 0.75
_LAYOUT_TRIES = 12

# ---------------------------------------------------------------------------------------------
# Backgrounds
# ---------------------------------------------------------------------------------------------

# Hue, saturation and value ranges, and the elongation of features (vertical above 1).
_GROUNDS = {
    "grass": ((0.20, 0.32), (0.25, 0.50), (0.30, 0.60), 2.2),
    "sand": ((0.08, 0.13), (0.15, 0.35), (0.60, 0.85), 0.8),
    "water": ((0.48, 0.60), (0.20, 0.45), (0.40, 0.75), 0.35),
    "earth": ((0.04, 0.10), (0.20, 0.45), (0.25, 0.45), 1.0),
    "slate": ((0.55, 0.70), (0.03, 0.15), (0.35, 0.70), 1.0),
    "planks": ((0.05, 0.11), (0.25, 0.45), (0.40, 0.70), 4.0),
}


def _ground(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """A ground without objects, often of two adjacent materials: (H, W, 3) float32."""
    ground = _material(rng, size)
    if rng.random() < 0.55:
        edge = noise(rng, size, (90, 90)) + 0.25 * fractal(rng, size, 24)
        over = np.clip(0.5 + rng.uniform(2, 6) * (edge - rng.uniform(-0.6, 0.6)), 0, 1)
        ground += over[..., None] * (_material(rng, size) - ground)
    patches = fractal(rng, size, rng.uniform(25, 50), decay=0.5)
    return np.clip(ground * (1 + rng.uniform(0.0, 0.3) * np.tanh(patches))[..., None], 0, 1)


def _material(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """A picture full of grass, sand, water or the like: (H, W, 3) float32."""
    height, width = size
    kind = str(rng.choice(list(_GROUNDS)))
    hues, saturations, values, aspect = _GROUNDS[kind]
    color = hsv(rng.uniform(*hues), rng.uniform(*saturations), rng.uniform(*values))
    other = hsv(rng.uniform(*hues), rng.uniform(*saturations), rng.uniform(*values))
    down, right = np.mgrid[-0.5:0.5:height * 1j, -0.5:0.5:width * 1j].astype(np.float32)
    turn = rng.uniform(0, 2 * np.pi)
    blend = np.clip(0.5 + np.cos(turn) * right + np.sin(turn) * down, 0, 1)[..., None]
    blend = 0.6 * blend + 0.2 + 0.08 * noise(rng, size, (60, 60))[..., None]
    picture = color + blend * (other - color)
    coarsest = rng.uniform(12, 32)
    grain = fractal(rng, size, coarsest, np.sqrt(aspect), rng.uniform(0.6, 0.95))
    if kind in ("planks", "water"):
        across = right if kind == "planks" else down
        wave = np.sin(rng.uniform(25, 70) * across + 0.5 * grain + rng.uniform(0, 6))
        grain = grain + rng.uniform(0.5, 1.1) * (np.abs(wave) ** 0.3 if kind == "planks" else wave)
    tint = np.stack([noise(rng, size, (25, 25)) for _ in range(3)], -1)
    contrast = rng.uniform(0.05, 0.12)
    return np.clip(picture * (1 + contrast * 1.6 * grain[..., None]) + 0.015 * tint, 0, 1)


def _draw_clutter(rng: np.random.Generator, picture: np.ndarray) -> None:
    """Put leaves, stones and twigs on the ground, in muted colours, in place."""
    height, width = picture.shape[:2]
    ground = picture.mean((0, 1))
    for _ in range(rng.integers(3, 16)):
        scale = min(height, width) * np.exp(rng.uniform(np.log(0.04), np.log(0.2)))
        sprite = Sprite(scale, rng.uniform(0, 2 * np.pi), False, 1.6)
        kind = rng.choice(["leaf", "stone", "twig"], p=[0.45, 0.35, 0.2])
        if kind == "leaf":
            color = hsv(rng.uniform(-0.02, 0.36), rng.uniform(0.35, 0.85), rng.uniform(0.3, 0.85))
            color = 0.75 * color + 0.25 * ground
            bow = rng.uniform(-0.3, 0.3)
            rib = [(-1.1, 0), (-0.4, bow), (0.3, bow), (1.1, 0)]
            sprite.draw(tube(rib, [0.03, 0.36, 0.36, 0.03]), domed(color, 1.2, 0.8, (0.5, 0.5)))
            sprite.draw(tube([(-1.4, 0), *rib[1:]], 0.035), color * 0.7)
        elif kind == "stone":
            color = hsv(rng.uniform(0, 1), rng.uniform(0, 0.35), rng.uniform(0.2, 0.9))
            color = 0.75 * color + 0.25 * ground
            around = np.sort(rng.uniform(0, 2 * np.pi, 9))
            blob = ellipse(0, 0, 0.95, rng.uniform(0.6, 0.9))
            knobs = [(0.4 * np.cos(a), 0.35 * np.sin(a)) for a in around]
            sprite.draw(tube(knobs, 0.45), domed(color, 1.1, 0.9, (0.4, -0.6)))
            sprite.draw(blob, domed(color, 1.1, 0.9, (0.4, -0.6)))
        else:
            color = 0.6 * hsv(rng.uniform(0.04, 0.1), 0.45, rng.uniform(0.2, 0.45)) + 0.4 * ground
            sprite.draw(tube([(-1.5, 0), (0, rng.uniform(-0.3, 0.3)), (1.5, 0)], 0.1), color)
        at = rng.uniform(0, height), rng.uniform(0, width)
        rgb, alpha, _ = sprite.reduced()
        _shade(picture, alpha, at, 0.04 * min(height, width) / 5, 0.3)
        _lay(picture, rgb, alpha, at)


def _windows(
    size: tuple[int, int], sheet: int, at: tuple[float, float],
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Where in a picture a square sheet centred ``at`` (down, right) lies, and which part of it is inside."""
    in_picture, in_sheet = [], []
    for length, position in zip(size, at, strict=True):
        start = round(position) - sheet // 2
        low, high = min(max(start, 0), length), max(min(start + sheet, length), 0)
        in_picture.append(slice(low, max(low, high)))
        in_sheet.append(slice(low - start, max(low, high) - start))
    return tuple(in_picture), tuple(in_sheet)


def _lay(picture: np.ndarray, rgb: np.ndarray, alpha: np.ndarray, at: tuple[float, float]) -> None:
    there, here = _windows(picture.shape[:2], len(alpha), at)
    picture[there] += alpha[here][..., None] * (rgb[here] - picture[there])


def _shade(
    picture: np.ndarray, alpha: np.ndarray, at: tuple[float, float], blur: float, depth: float,
) -> None:
    """Draw the soft shadow that an object casts on the ground; it is not part of the object."""
    shadow = ndimage.gaussian_filter(np.pad(alpha, 8), blur)
    there, here = _windows(picture.shape[:2], len(shadow), (at[0] + 2 * blur, at[1] + blur))
    picture[there] *= 1 - depth * shadow[here][..., None]


# ---------------------------------------------------------------------------------------------
# Scenes
# ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Picture:
    """A rendered picture and what is in it.

    Attributes
    ----------
    image : (H, W, 3) uint8
    labels : (H, W) uint8
        0, 1..C, and 255 on the outlines.
    striking : (H, W) bool
        Where a striking part is visible; never written to disk.
    objects
        Class name and box (left, top, right, bottom) in pixels from 0, both ends included.
    """

    image: np.ndarray
    labels: np.ndarray
    striking: np.ndarray
    objects: tuple[tuple[str, tuple[int, int, int, int]], ...]


@dataclass(frozen=True)
class _Placed:
    name: str
    at: tuple[float, float]
    rgb: np.ndarray
    alpha: np.ndarray
    striking: np.ndarray


def _cast(rng: np.random.Generator, index: int) -> list[tuple[str, float]]:
    """The creatures of a picture and the share of it that each covers; the first follows the index."""
    count = int(rng.choice([1, 2, 3], p=[0.6, 0.3, 0.1]))
    low, high = {1: (0.10, 0.45), 2: (0.09, 0.24), 3: (0.08, 0.14)}[count]
    names = [CLASS_NAMES[index % len(CLASS_NAMES)]]
    for _ in range(count - 1):
        names.append(names[0] if rng.random() < 0.3 else str(rng.choice(CLASS_NAMES)))
    shares = np.exp(rng.uniform(np.log(low), np.log(high), count))
    return list(zip(names, map(float, shares), strict=True))


def _layout(
    rng: np.random.Generator, cast: Sequence[tuple[str, float]], size: tuple[int, int],
    ground: float,
) -> tuple[list[_Placed], np.ndarray, np.ndarray]:
    """Place the creatures so that each can be recognised.

    Returns
    -------
    placed, owner, striking
        Back to front; ``owner`` (H, W) int is 0 or the number, from 1, of the creature visible there.
    """
    cast, shrink = list(cast), 1.0
    while True:
        sprites = [
            draw_creature(rng, name, shrink * body_scale(name, share * size[0] * size[1]), ground)
            for name, share in cast]
        for _ in range(_LAYOUT_TRIES):
            placed = [
                _Placed(name, tuple(rng.uniform(0.18, 0.82, 2) * size), *sprite)
                for (name, _), sprite in zip(cast, sprites, strict=True)]
            owner, striking = _who_shows(placed, size)
            if all(_recognisable(p, n, owner, striking) for n, p in enumerate(placed, 1)):
                return placed, owner, striking
        # Too crowded: smaller, and fewer.
        shrink *= 0.9
        cast = cast[: max(1, len(cast) - 1)]


def _who_shows(
    placed: Sequence[_Placed], size: tuple[int, int],
) -> tuple[np.ndarray, np.ndarray]:
    owner, striking = np.zeros(size, np.int64), np.zeros(size, bool)
    for number, thing in enumerate(placed, 1):
        there, here = _windows(size, len(thing.alpha), thing.at)
        covered = thing.alpha[here] > 0.5
        owner[there][covered] = number
        striking[there][covered] = thing.striking[here][covered] > 0.5
    return owner, striking


def _recognisable(
    thing: _Placed, number: int, owner: np.ndarray, striking: np.ndarray,
) -> bool:
    shown = owner == number
    whole, head = (thing.alpha > 0.5).sum(), (thing.striking > 0.5).sum()
    return bool(shown.sum() >= _VISIBLE_SHARE * whole
                and (shown & striking).sum() >= _VISIBLE_HEAD_SHARE * head)


def _light(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """The scene as a camera would see it, with light, shadow, colour cast, blur and noise: uint8."""
    height, width = picture.shape[:2]
    down, right = np.mgrid[-0.5:0.5:height * 1j, -0.5:0.5:width * 1j].astype(np.float32)
    turn = rng.uniform(0, 2 * np.pi)
    along = np.cos(turn) * right + np.sin(turn) * down
    lit = 1 + rng.uniform(0, 0.25) * along
    if rng.random() < 0.3:  # a shadow's edge across the scene
        lit *= 1 - rng.uniform(0.15, 0.35) / (1 + np.exp(30 * (along - rng.uniform(-0.3, 0.3))))
    cast = rng.uniform(0.93, 1.07, 3)
    picture = picture * lit[..., None] * cast * rng.uniform(0.85, 1.15)
    picture = 0.5 + (picture - 0.5) * rng.uniform(0.85, 1.12)
    picture = ndimage.gaussian_filter(picture, (*[rng.uniform(0, 0.6)] * 2, 0))
    picture = picture + rng.standard_normal(picture.shape) * rng.uniform(0.004, 0.02)
    return np.clip(np.rint(picture * 255), 0, 255).astype(np.uint8)


def _labels(owner: np.ndarray, placed: Sequence[_Placed]) -> np.ndarray:
    """Label image with the two-pixel outline of ignored pixels that VOC draws around objects."""
    values = [BACKGROUND, *(label_of(CLASS_NAMES.index(thing.name)) for thing in placed)]
    labels = np.array(values, np.uint8)[owner]
    cross = ndimage.generate_binary_structure(2, 1)
    highest = ndimage.grey_dilation(owner, footprint=cross)
    lowest = ndimage.grey_erosion(owner, footprint=cross)
    labels[highest != lowest] = IGNORE
    return labels


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


def render_picture(seed: int, index: int, size: int = 176) -> Picture:
    """One picture of the demo dataset; the same for the same arguments.

    Parameters
    ----------
    seed, index
        Determine the picture. The class of its first creature cycles with the index.
    size
        Each side is within a tenth of it, in pixels.
    """
    rng = np.random.default_rng([seed, index])
    sides = rng.integers(round(size * (1 - _SIZE_SPREAD)), round(size * (1 + _SIZE_SPREAD)) + 1, 2)
    height, width = int(sides[0]), int(sides[1])
    picture = _ground(rng, (height, width)).astype(np.float32)
    _draw_clutter(rng, picture)
    cast = _cast(rng, index)
    placed, owner, striking = _layout(rng, cast, (height, width), float(picture.max(-1).mean()))
    for thing in placed:
        _shade(picture, thing.alpha, thing.at, size / 90, rng.uniform(0.2, 0.45))
        _lay(picture, thing.rgb, thing.alpha, thing.at)
    objects = tuple((thing.name, _box(owner == n)) for n, thing in enumerate(placed, 1))
    return Picture(_light(rng, picture), _labels(owner, placed), striking, objects)
