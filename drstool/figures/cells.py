"""How what is in a cell is coloured: layers of colour over a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from drstool.figures.colors import ERRORS, IGNORED, class_colors, difference_colors, hatching, heat_colors
from drstool.figures.columns import Content
from drstool.labels import BACKGROUND, ignore_label
from drstool.recipe import FigureSettings

__all__ = [
    "HATCH_POINTS", "Cell", "Layer", "Painter", "blended", "depths", "error_kinds", "heat_layer", "label_layer",
]

# A stripe of hatching and its neighbour, in points: enough to be seen in print.
HATCH_POINTS = 2.8
# White stripes, and what is between them: the image, somewhat darker. Where no image shows, light grey.
_STRIPE_WEIGHT, _BETWEEN_WEIGHT, _BETWEEN_FLAT = 0.85, 0.25, (205, 205, 205)
# A light line inside a contour: its width in points (at least a pixel), and its opacity.
_CASING, _CASING_WEIGHT = 0.5, 0.8
# The image is visible below an error map, but takes no part in its colours.
_ERROR_WEIGHT = 0.85
# Weights of red, green and blue in what the eye takes for brightness (Rec. 601).
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True, eq=False)
class Layer:
    """Colours over a picture.

    Attributes
    ----------
    colors : (H, W, 3) uint8
    weight : (H, W) float32
        Their opacity, in [0, 1].
    smooth
        Whether they have no edges that must stay crisp.
    """

    colors: np.ndarray
    weight: np.ndarray
    smooth: bool = False

    def rgba(self) -> np.ndarray:
        """(H, W, 4) uint8."""
        return np.dstack([self.colors, np.rint(self.weight * 255).astype(np.uint8)])


@dataclass(frozen=True, eq=False)
class Cell:
    """What is drawn in a cell.

    Attributes
    ----------
    picture : (H, W, 3) uint8
    layers
        From the lowest up.
    labels
        Label image by whose places the names of classes are put; None where there is none.
    classes, errors
        Labels, and names of ``ERRORS``, that are seen and that the legend must explain.
    ignored
        Whether ignored pixels are seen.
    note
        Words to be written over it.
    split
        Whether a diagonal parts it.
    """

    picture: np.ndarray
    layers: tuple[Layer, ...] = ()
    labels: np.ndarray | None = None
    classes: frozenset[int] = frozenset()
    errors: frozenset[str] = frozenset()
    ignored: bool = False
    note: str = ""
    split: bool = False


def blended(picture: np.ndarray, layers: Sequence[Layer]) -> np.ndarray:
    """A picture with layers over it: ``picture + weight * (colors - picture)``, rounded; (H, W, 3) uint8."""
    for layer in layers:
        mixed = layer.colors.astype(np.float32)
        mixed -= picture
        mixed *= layer.weight[..., np.newaxis]
        mixed += picture
        picture = np.rint(mixed, out=mixed).astype(np.uint8)
    return picture


def label_layer(
    labels: np.ndarray, painted: np.ndarray, opacity: float | np.ndarray, ignored: str, period: float, *,
    flat: bool = False,
) -> Layer:
    """Colours of a label image, ignored pixels hatched or white.

    Parameters
    ----------
    labels : (H, W) uint8 or uint16
    painted : (H, W, 3) uint8
        Their colours; those of ignored pixels are replaced.
    opacity : float, or (H, W) float32
        Of the colours; one number leaves the background as it is.
    ignored
        ``hatched`` or ``white``.
    period
        Of the hatching, in pixels.
    flat
        Whether ignored pixels hide the image.
    """
    weight = opacity if isinstance(opacity, np.ndarray) else np.where(
        labels == BACKGROUND, np.float32(0), np.float32(opacity))
    there = labels == ignore_label(labels.dtype)
    if there.any():
        painted, weight = painted.copy(), weight.copy()
        stripes = hatching(labels.shape, period) if ignored == "hatched" else np.ones(labels.shape, bool)
        painted[there & stripes], painted[there & ~stripes] = IGNORED, _BETWEEN_FLAT if flat else (0, 0, 0)
        weight[there & stripes] = 1 if flat else _STRIPE_WEIGHT
        weight[there & ~stripes] = 1 if flat else _BETWEEN_WEIGHT
    return Layer(painted, weight)


def heat_layer(values: np.ndarray, colors: np.ndarray, opacity: float, *, rising: bool) -> Layer:
    """Heat colours of a map.

    Parameters
    ----------
    values : (H, W) float32
        In [0, 1]; other values are clipped.
    colors : (256, 3) uint8
    opacity
    rising
        Whether the opacity is proportional to the values.
    """
    values = np.clip(np.nan_to_num(values, nan=0.0), 0, 1).astype(np.float32, copy=False)
    weight = values * np.float32(opacity) if rising else np.full(values.shape, opacity, np.float32)
    return Layer(colors[np.rint(values * 255).astype(np.uint8)], weight, smooth=True)


def depths(labels: np.ndarray) -> np.ndarray:
    """Distances of the objects' pixels to the nearest other label, infinite elsewhere; (H, W) float32, in pixels.

    Parameters
    ----------
    labels : (H, W) uint8 or uint16
    """
    from scipy.ndimage import distance_transform_edt

    found = np.full(labels.shape, np.inf, np.float32)
    for label in _objects(labels):
        inside = labels == label
        # An object that fills the image has no edge.
        if not inside.all():
            found[inside] = distance_transform_edt(inside)[inside]
    return found


def error_kinds(labels: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
    """Where a prediction is right or wrong, by name of ``ERRORS``; each (H, W) bool.

    Background that is predicted as background is in none of them, nor are pixels that either side ignores. The scores
    count those that only the prediction ignores as misses.

    Examples
    --------
    >>> kinds = error_kinds(np.uint8([[1, 0, 1, 2, 255, 0]]), np.uint8([[1, 1, 0, 1, 1, 255]]))
    >>> {name: found.nonzero()[1].tolist() for name, found in kinds.items()}
    {'correct': [0], 'missed': [1], 'false': [2], 'wrong class': [3]}
    """
    known = (target != ignore_label(target.dtype)) & (labels != ignore_label(labels.dtype))
    there, claimed = known & (target != BACKGROUND), known & (labels != BACKGROUND)
    return {
        "correct": there & (labels == target), "missed": there & ~claimed, "false": ~there & claimed,
        "wrong class": there & claimed & (labels != target)}


class Painter:
    """Colours the contents of one figure's cells.

    Parameters
    ----------
    settings
    class_names
        Number of object classes.
    maximum
        What map values are divided by where all maps share it; None: each map's own maximum.
    difference
        The largest absolute difference of maps.
    """

    def __init__(
        self, settings: FigureSettings, class_names: int, maximum: float | None = None, difference: float = 1.0,
    ) -> None:
        self._settings, self._maximum, self._difference = settings, maximum, difference
        self.colors = class_colors(class_names, settings.palette)
        self.heat = heat_colors(settings.colormap)

    def paint(self, content: Content, scale: float) -> Cell:
        """A cell of a content that has a picture; ``scale`` is the number of its pixels per point."""
        assert content.picture is not None
        if content.halves:
            return self._split([self.paint(half, scale) for half in content.halves])
        if content.show == "error":
            return self._errors(content, scale)
        if content.labels is not None:
            return self._labels(content, scale)
        if content.values is None:
            return Cell(content.picture)
        return self._differences(content) if content.show == "difference" else self._heat(content)

    def _heat(self, content: Content) -> Cell:
        assert content.values is not None and content.picture is not None
        if not content.highest > 0:
            return Cell(content.picture, note=content.note or "no value above 0")
        values = content.values / np.float32(content.highest if self._maximum is None else self._maximum)
        layer = heat_layer(values, self.heat, self._settings.opacity, rising=self._settings.colormap == "drstool")
        return Cell(content.picture, (layer,))

    def _differences(self, content: Content) -> Cell:
        assert content.values is not None and content.picture is not None
        values = np.clip(content.values / np.float32(self._difference or 1), -1, 1)
        colors = difference_colors()[np.rint((values + 1) * 127.5).astype(np.uint8)]
        layer = Layer(colors, np.full(values.shape, self._settings.opacity, np.float32), smooth=True)
        return Cell(_grey(content.picture), (layer,), note=content.note or ("" if content.highest else "no difference"))

    def _labels(self, content: Content, scale: float) -> Cell:
        labels, settings, weight = content.labels, self._settings, None
        assert labels is not None and content.picture is not None
        layers: tuple[Layer, ...] = ()
        if settings.style == "dim":
            dark = np.where(labels == BACKGROUND, np.float32(settings.opacity), np.float32(0))
            layers = (Layer(np.zeros((*labels.shape, 3), np.uint8), dark),)
        if settings.style in ("contour", "dim"):
            depth, width = depths(labels), max(settings.contour_width * scale, 1.0)
            weight = (depth <= width).astype(np.float32)
            # Dark colours are seen on dark images by a light line beside them.
            light = np.where(depth <= width + max(_CASING * scale, 1.0), np.float32(_CASING_WEIGHT), np.float32(0))
            layers += (Layer(np.full((*labels.shape, 3), 255, np.uint8), light),)
        if settings.style == "flat":
            weight = np.ones(labels.shape, np.float32)
        layers += (self._label_layer(labels, self.colors, scale, settings.opacity if weight is None else weight),)
        seen = frozenset(_objects(labels))
        if settings.style == "flat" and (labels == BACKGROUND).any():
            seen |= {BACKGROUND}
        return Cell(content.picture, layers, labels, seen, ignored=bool((labels == ignore_label(labels.dtype)).any()))

    def _label_layer(self, labels: np.ndarray, colors: np.ndarray, scale: float, opacity: float | np.ndarray) -> Layer:
        return label_layer(
            labels, colors[np.minimum(labels, len(colors) - 1)], opacity, self._settings.ignored_pixels,
            HATCH_POINTS * scale, flat=self._settings.style == "flat")

    def _errors(self, content: Content, scale: float) -> Cell:
        labels, target = content.labels, content.target
        assert labels is not None and target is not None and content.picture is not None
        kinds = error_kinds(labels, target)
        numbers, colors = np.zeros(target.shape, np.uint8), np.array([(0, 0, 0), *ERRORS.values()], np.uint8)
        for number, found in enumerate(kinds.values(), start=1):
            numbers[found] = number
        ignored = (labels == ignore_label(labels.dtype)) | (target == ignore_label(target.dtype))
        numbers[ignored] = ignore_label(np.uint8)
        weight = np.where(numbers > 0, np.float32(_ERROR_WEIGHT), np.float32(0))
        layer = self._label_layer(numbers, colors, scale, weight)
        return Cell(_grey(content.picture), (layer,), errors=frozenset(n for n, found in kinds.items() if found.any()),
                    ignored=bool(ignored.any()))

    @staticmethod
    def _split(halves: Sequence[Cell]) -> Cell:
        """One cell with the first half above the diagonal that rises to the right, the second below it."""
        height, width = halves[0].picture.shape[:2]
        y, x = np.ogrid[:height, :width]
        upper = (x + 0.5) / width + (y + 0.5) / height < 1
        layers = tuple(
            replace(layer, weight=np.where(shown, layer.weight, np.float32(0)))
            for half, shown in zip(halves, (upper, ~upper)) for layer in half.layers)
        return Cell(
            halves[0].picture, layers, classes=frozenset().union(*(half.classes for half in halves)),
            ignored=any(half.ignored for half in halves), split=True,
            note=" | ".join(half.note or "–" for half in halves) if any(half.note for half in halves) else "")


def _grey(picture: np.ndarray) -> np.ndarray:
    return np.repeat(np.rint(picture @ _LUMA).astype(np.uint8)[..., np.newaxis], 3, axis=2)


def _objects(labels: np.ndarray) -> list[int]:
    """Labels of the objects in a label image."""
    return [int(each) for each in np.unique(labels) if each not in (BACKGROUND, ignore_label(labels.dtype))]
