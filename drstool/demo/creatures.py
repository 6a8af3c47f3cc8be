"""The demo's creatures: each class has its own striking head, and shares its bodies with others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from drstool.demo.sprites import Color, Paint, Sprite, disc, domed, ellipse, hsv, polygon, tube

__all__ = ["CLASS_NAMES", "body_scale", "draw_creature"]


def _coat(rng: np.random.Generator, kind: str, base: Color, second: Color) -> Paint:
    """A body's paint: ``base`` with a pattern in ``second``; all classes use the same kinds."""
    spots = rng.uniform((-1.3, -0.75, 0.06), (1.0, 0.75, 0.15), (16, 3)).tolist()
    frequency, phase = rng.uniform(7, 13), rng.uniform(0, 2 * np.pi)

    def strength(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        if kind == "bands":
            return np.clip(0.5 + 2.5 * np.sin(frequency * x + 1.2 * y**2 + phase), 0, 1)
        if kind == "rings":
            around = np.hypot(x + 0.15, y)
            return np.clip(0.5 + 2.5 * np.sin(1.3 * frequency * around + phase), 0, 1)
        first = np.full(x.shape, np.inf, np.float32)
        runner_up = first.copy()
        for px, py, radius in spots:
            gap = np.hypot(x - px, y - py) - (radius if kind == "spots" else 0)
            np.minimum(runner_up, np.maximum(first, gap), out=runner_up)
            np.minimum(first, gap, out=first)
        if kind == "spots":
            return np.clip(0.5 - 25 * first, 0, 1)
        return np.clip(1.3 - 14 * (runner_up - first), 0, 1)  # plates: seams between cells

    return lambda x, y: base + strength(x, y)[..., None] * (second - base)


@dataclass(frozen=True)
class _Look:
    """The looks of a creature's body, chosen before it is drawn."""

    width: float
    base: Color
    second: Color
    coat: str
    limb: Color
    light: tuple[float, float]


_Draw = Callable[[Sprite, np.random.Generator, _Look], None]


def _shell_body(limbs: str) -> _Draw:
    """A domed oval seen from above, for beetle, snail and turtle, with different limbs."""

    def draw(sprite: Sprite, rng: np.random.Generator, look: _Look) -> None:
        width = look.width
        if limbs == "legs":
            for x in (-0.6, 0.05, 0.65):
                for side in (-1, 1):
                    foot = x + rng.uniform(-0.25, 0.1), side * (width + 0.32)
                    knee = x + 0.1, side * (width + 0.08)
                    sprite.draw(tube([(x, side * width * 0.5), knee, foot], 0.055), look.limb)
        elif limbs == "flippers":
            for x, turn in ((-0.65, 2.4), (0.62, 0.9)):
                for side in (-1, 1):
                    turned = side * (turn + rng.uniform(-0.25, 0.25))
                    sprite.draw(ellipse(x, side * (width * 0.85), 0.38, 0.17, turned), look.limb)
        else:
            bend = rng.uniform(-0.25, 0.25)
            sprite.draw(tube([(-1.35, bend), (-0.9, 0), (0, 0), (1.0, 0)],
                              [0.05, 0.3, 0.42, 0.26]), look.limb)
        shape = ellipse(0, 0, 1.0, width)
        coat = _coat(rng, look.coat, look.base, look.second)
        sprite.draw(ellipse(0, 0, 1.04, width + 0.04), look.base * 0.45)
        sprite.draw(shape, domed(coat, 1.0, width, look.light))

    return draw


def _spindle_body(tail: str) -> _Draw:
    """A drop-shaped body with a swaying tail, for bird, fish and newt, with different fins."""

    def draw(sprite: Sprite, rng: np.random.Generator, look: _Look) -> None:
        width, sway = look.width * 0.62, rng.uniform(-0.45, 0.45)
        t = np.linspace(0, 1, 6)
        spine = np.stack([0.95 - 2.15 * t, sway * t**2], 1)
        end = spine[-1]
        radii = width * np.array([0.55, 0.95, 1.0, 0.75, 0.4, 0.16])
        if tail == "fan":
            for spread in (-0.35, 0.0, 0.35):
                tip = end + np.array([-0.42 * np.cos(spread), 0.42 * np.sin(spread) + sway * 0.3])
                sprite.draw(tube([spine[4], end, tip], [0.08, 0.12, 0.13]), look.limb)
            for side in (-1, 1):
                turn = side * rng.uniform(-2.7, -2.3)
                sprite.draw(ellipse(-0.2, side * (width + 0.18), 0.6, 0.24, turn), look.limb)
        elif tail == "fork":
            for side in (-1, 1):
                tip = end + np.array([-0.35, side * 0.42 + sway * 0.3])
                sprite.draw(tube([end + (0.12, 0), tip], [0.13, 0.09]), look.limb)
                x = rng.uniform(-0.1, 0.2)
                sprite.draw(polygon((x + 0.35, side * width * 0.7), (x - 0.5, side * width * 0.7),
                                     (x - 0.55, side * (width + 0.3)), rounding=0.03), look.limb)
        else:
            tip = end + np.array([-0.35, sway * 0.8])
            sprite.draw(tube([spine[3], end, tip], [0.2, 0.13, 0.03]), look.limb)
            for x, lean in ((0.45, 0.2), (-0.55, -0.25)):
                for side in (-1, 1):
                    foot = x + lean * rng.uniform(0.4, 1.3), side * (width + 0.36)
                    sprite.draw(tube([(x, side * width * 0.6), foot], [0.1, 0.08]), look.limb)
        coat = _coat(rng, look.coat, look.base, look.second)
        sprite.draw(tube(spine, radii + 0.035), look.base * 0.45)
        sprite.draw(tube(spine, radii), domed(coat, 1.2, width, look.light))

    return draw


_WHITE = np.array([0.96, 0.96, 0.93], np.float32)
_BLACK = np.array([0.06, 0.05, 0.07], np.float32)


def _eyes(sprite: Sprite, x: float, y: float, radius: float) -> None:
    for side in (-1, 1):
        sprite.draw(disc(x, side * y, radius), _WHITE, striking=True)
        sprite.draw(disc(x + radius * 0.3, side * y, radius * 0.55), _BLACK, striking=True)


def _stripes(rng: np.random.Generator, one: Color, other: Color, across: bool) -> Paint:
    frequency, phase = rng.uniform(16, 22), rng.uniform(0, 2 * np.pi)

    def paint(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        wave = np.clip(0.5 + 3 * np.sin(frequency * (x if across else y) + phase), 0, 1)
        return one + wave[..., None] * (other - one)

    return paint


def _beetle_head(sprite: Sprite, rng: np.random.Generator, _: _Look) -> None:
    """Black, with orange pincers and orange spots."""
    orange = hsv(rng.uniform(0.05, 0.09), rng.uniform(0.85, 1), rng.uniform(0.9, 1))
    size = rng.uniform(0.9, 1.15)
    for side in (-1, 1):
        bow = [(1.15, side * 0.18), (1.4, side * 0.34 * size), (1.62, side * 0.2)]
        sprite.draw(tube(bow, [0.1, 0.09, 0.05]), orange, striking=True)
    sprite.draw(ellipse(1.08, 0, 0.3 * size, 0.36 * size), _BLACK, striking=True)
    for side in (-1, 1):
        sprite.draw(disc(1.1, side * 0.17, rng.uniform(0.08, 0.11)), orange, striking=True)


def _bird_head(sprite: Sprite, rng: np.random.Generator, _: _Look) -> None:
    """A red cap, white-ringed eyes, a yellow beak."""
    red = hsv(rng.uniform(-0.03, 0.02), rng.uniform(0.85, 1), rng.uniform(0.75, 0.95))
    yellow = hsv(rng.uniform(0.13, 0.16), rng.uniform(0.85, 1), 1)
    size = rng.uniform(0.9, 1.15)
    beak = polygon((1.2, 0.17 * size), (1.2, -0.17 * size), (1.2 + 0.45 * size, 0), rounding=0.02)
    sprite.draw(beak, yellow, striking=True)
    sprite.draw(disc(1.02, 0, 0.33 * size), red, striking=True)
    _eyes(sprite, 1.12, 0.19 * size, 0.1 * size)


def _fish_head(sprite: Sprite, rng: np.random.Generator, _: _Look) -> None:
    """White and blue bands up to the mouth."""
    blue = hsv(rng.uniform(0.6, 0.65), rng.uniform(0.8, 1), rng.uniform(0.65, 0.9))
    size = rng.uniform(0.95, 1.2)
    head = ellipse(1.0, 0, 0.42 * size, 0.33 * size)
    sprite.draw(head, _stripes(rng, _WHITE, blue, across=True), striking=True)
    _eyes(sprite, 1.08, 0.2 * size, 0.095 * size)


def _newt_head(sprite: Sprite, rng: np.random.Generator, _: _Look) -> None:
    """Magenta gills around a pale pink face."""
    magenta = hsv(rng.uniform(0.86, 0.91), rng.uniform(0.75, 0.95), rng.uniform(0.75, 0.95))
    pink = hsv(rng.uniform(0.92, 0.97), rng.uniform(0.15, 0.3), 0.97)
    size = rng.uniform(0.9, 1.1)
    for side in (-1, 1):
        for turn in (0.9, 1.5, 2.1):
            turn += rng.uniform(-0.15, 0.15)
            tip = 0.98 + 0.55 * size * np.cos(turn), side * 0.55 * size * np.sin(turn)
            sprite.draw(tube([(0.98, 0), tip], [0.09, 0.06]), magenta, striking=True)
            sprite.draw(disc(*tip, 0.075), pink, striking=True)
    sprite.draw(ellipse(1.05, 0, 0.31 * size, 0.29 * size), pink, striking=True)
    for side in (-1, 1):
        sprite.draw(disc(1.18, side * 0.17, 0.065), _BLACK, striking=True)


def _snail_head(sprite: Sprite, rng: np.random.Generator, _: _Look) -> None:
    """Violet, with two stalks that end in white-ringed knobs."""
    violet = hsv(rng.uniform(0.73, 0.78), rng.uniform(0.6, 0.85), rng.uniform(0.65, 0.85))
    size = rng.uniform(0.9, 1.15)
    sprite.draw(ellipse(1.12, 0, 0.33 * size, 0.29 * size), violet, striking=True)
    for side in (-1, 1):
        tip = 1.5 + rng.uniform(-0.08, 0.1), side * rng.uniform(0.25, 0.38)
        sprite.draw(tube([(1.25, side * 0.12), tip], 0.055), violet, striking=True)
        sprite.draw(disc(*tip, 0.13 * size), _WHITE, striking=True)
        sprite.draw(disc(*tip, 0.07 * size), _BLACK, striking=True)


def _turtle_head(sprite: Sprite, rng: np.random.Generator, _: _Look) -> None:
    """Lime and dark green stripes along the head."""
    lime = hsv(rng.uniform(0.18, 0.22), rng.uniform(0.75, 0.95), rng.uniform(0.9, 1))
    dark = hsv(rng.uniform(0.33, 0.4), 0.8, rng.uniform(0.2, 0.32))
    size = rng.uniform(0.95, 1.15)
    head = ellipse(1.22, 0, 0.37 * size, 0.3 * size)
    sprite.draw(head, _stripes(rng, lime, dark, across=False), striking=True)
    _eyes(sprite, 1.36, 0.18 * size, 0.085 * size)


@dataclass(frozen=True)
class _Creature:
    """How a class is drawn, and the ranges of its body's looks, which overlap on purpose."""

    body: _Draw
    head: _Draw
    hues: tuple[float, float]
    coats: tuple[str, ...]
    area: float  # approximate area of the creature, in squared units of half a body's length


_CREATURES = {
    "beetle": _Creature(_shell_body("legs"), _beetle_head, (0.00, 0.45),
                        ("spots", "spots", "bands", "rings", "plates"), 2.9),
    "bird": _Creature(_spindle_body("fan"), _bird_head, (0.45, 0.95),
                      ("spots", "bands", "bands", "plates"), 2.5),
    "fish": _Creature(_spindle_body("fork"), _fish_head, (0.30, 0.80),
                      ("spots", "bands", "plates", "plates"), 2.3),
    "newt": _Creature(_spindle_body("taper"), _newt_head, (0.50, 1.05),
                      ("spots", "spots", "bands", "plates"), 2.3),
    "snail": _Creature(_shell_body("foot"), _snail_head, (-0.05, 0.35),
                       ("rings", "rings", "bands", "spots", "plates"), 2.8),
    "turtle": _Creature(_shell_body("flippers"), _turtle_head, (0.05, 0.50),
                        ("plates", "plates", "spots", "bands", "rings"), 3.1),
}
# Distance from the middle of the body to the farthest tip of any creature.
_REACH = 1.95


def body_scale(name: str, pixels: float) -> float:
    """Half a body's length, in pixels, of a creature that covers so many pixels."""
    return float(np.sqrt(pixels / _CREATURES[name].area))


def draw_creature(
    rng: np.random.Generator, name: str, scale: float, ground: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A creature on its own sheet, usually in a body colour that contrasts with the ground.

    Parameters
    ----------
    scale
        Half a body's length, in pixels.
    ground
        Lightness of the background in [0, 1].
    """
    creature = _CREATURES[name]
    sprite = Sprite(scale, rng.uniform(0, 2 * np.pi), bool(rng.integers(2)), _REACH)
    hue = rng.uniform(*creature.hues)
    # One creature in four is muted and about as light as the ground: harder to see.
    camouflaged = rng.random() < 1 / 4
    lift = rng.uniform(-0.08, 0.08) if camouflaged else rng.uniform(0.12, 0.4)
    value = ground + (lift if ground < 0.52 else -lift)
    base = hsv(hue, rng.uniform(0.2, 0.45) if camouflaged else rng.uniform(0.4, 0.85),
                np.clip(value + 0.15, 0.3, 0.98))
    second = hsv(hue + rng.uniform(-0.09, 0.09), rng.uniform(0.4, 0.8), 1)
    second = second * (base.max() * rng.choice([0.5, 0.6, 1.3]))
    angle = rng.uniform(0, 2 * np.pi)
    look = _Look(
        width=rng.uniform(0.64, 0.84), base=base, second=np.clip(second, 0, 1),
        coat=str(rng.choice(creature.coats)), limb=base * rng.uniform(0.55, 0.8),
        light=(float(np.cos(angle)), float(np.sin(angle))),
    )
    creature.body(sprite, rng, look)
    creature.head(sprite, rng, look)
    return sprite.reduced()


CLASS_NAMES = tuple(_CREATURES)
