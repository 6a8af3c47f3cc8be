"""Object cues against the background cue: which label each pixel gets. The rule, once.

Dense form of the rule, over background and all C object classes::

    cue[0]     = background cue
    cue[c + 1] = map[c] where map[c] >= alpha, else 0        (an absent class: 0)
    label      = argmax(cue)                                 (ties: the lowest label)
    label      = ignore where more than two of the cues exceed `conflict`
    label      = ignore where label = background and the saliency is certain

Here only the K present classes are touched. That gives the same labels, since an absent class's
cue is 0: it never exceeds ``conflict`` >= 0, and never wins, because the background cue is at
least 0 and comes first on ties.

References
----------
Kim, Han, Kim, Discriminative Region Suppression for Weakly-Supervised Semantic Segmentation,
AAAI 2021, section 3.4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from drstool.errors import InputError, UsageError
from drstool.identifiers import member_name
from drstool.labels import BACKGROUND, IGNORE
from drstool.recipe import CueSettings

__all__ = [
    "background_cue", "certain_saliency", "check_saliency_given", "object_cue", "pseudo_label",
    "resize_maps", "saliency_folder",
]

# This many confident cues may meet at a pixel; more are a conflict.
_MAX_CONFIDENT = 2


def object_cue(values: np.ndarray, alpha: float) -> np.ndarray:
    """The map values that count as an object cue; the others become 0.

    Parameters
    ----------
    values : (..., H, W) float32 >= 0
    alpha
        Smallest value that is a cue.

    Returns
    -------
    (..., H, W) float32

    Examples
    --------
    >>> object_cue(np.float32([0.1, 0.2, 0.5]), 0.2).tolist() == np.float32([0, 0.2, 0.5]).tolist()
    True
    """
    return np.where(values >= alpha, values, values.dtype.type(0))


def background_cue(
    maps: np.ndarray, settings: CueSettings, saliency: np.ndarray | None = None,
) -> np.ndarray:
    """How strongly each pixel speaks for background.

    Parameters
    ----------
    maps : (K, H, W) float32 >= 0
        Before ``alpha`` is applied.
    settings
        ``background`` chooses between ``1 - saliency``, a constant and ``(1 - max(maps)) ^ power``.
    saliency : (H, W) uint8 or None
        Needed for ``background="saliency"`` only.

    Returns
    -------
    (H, W) float32 >= 0

    Raises
    ------
    InputError
        The saliency's size is not the maps'.
    UsageError
        No saliency is given where one is needed.

    Examples
    --------
    >>> maps = np.full((1, 1, 3), 0.5, np.float32)
    >>> background_cue(maps, CueSettings(), np.uint8([[0, 50, 51]])).tolist()
    [[1.0, 1.0, 0.0]]
    >>> background_cue(maps, CueSettings(background="power", power=2)).tolist()
    [[0.25, 0.25, 0.25]]
    """
    if settings.background == "saliency":
        return np.float32(1) - _saliency_share(_checked(saliency, maps.shape[1:]), settings)
    if settings.background == "constant":
        # Under 0 it would lose to the zero cue of any class, absent ones too.
        return np.full(maps.shape[1:], max(settings.constant, 0.0), dtype=np.float32)
    strongest = maps.max(axis=0, initial=0).astype(np.float32, copy=False)
    # Maps of other methods may exceed 1, where the power would not be a number.
    return (np.float32(1) - np.minimum(strongest, np.float32(1))) ** np.float32(settings.power)


def certain_saliency(saliency: np.ndarray, settings: CueSettings) -> np.ndarray:
    """Where the saliency leaves no doubt that there is an object.

    Parameters
    ----------
    saliency : (H, W) uint8

    Returns
    -------
    (H, W) bool

    Examples
    --------
    >>> certain_saliency(np.uint8([[50, 51, 255]]), CueSettings()).tolist()
    [[False, True, True]]
    >>> certain_saliency(np.uint8([[50, 51, 255]]), CueSettings(soft=True)).tolist()
    [[False, False, True]]
    """
    if settings.soft:
        # Paper and authors' code: saliency is binary, and certain where it is 1 / here: soft
        # saliency is certain above `conflict`, because grey values hardly ever reach 1.
        return _saliency_share(saliency, settings) > settings.conflict
    return saliency > settings.saliency_threshold


def pseudo_label(
    maps: np.ndarray, labels: Sequence[int], settings: CueSettings,
    saliency: np.ndarray | None = None, *, ignore_rules: bool = True,
) -> np.ndarray:
    """The label of the strongest cue at each pixel, or the ignore label where cues disagree.

    See the module's text for the rule.

    Parameters
    ----------
    maps : (K, H, W) float32 >= 0
        Maps of the present classes; K may be 0.
    labels : K ints
        Their label values.
    settings
    saliency : (H, W) uint8 or None
        Needed for ``background="saliency"``; otherwise not looked at.
    ignore_rules
        False leaves out the two rules that give the ignore label.

    Returns
    -------
    (H, W) uint8
        0, one of ``labels``, or 255.

    Raises
    ------
    InputError
        The saliency's size is not the maps'.
    UsageError
        No saliency is given where one is needed.

    References
    ----------
    Kim, Han, Kim, AAAI 2021, section 3.4.

    Examples
    --------
    >>> maps = np.float32([[[0.7, 0.1, 0.7]]])
    >>> pseudo_label(maps, [15], CueSettings(), np.uint8([[255, 255, 0]])).tolist()
    [[15, 255, 0]]
    """
    strongest = background_cue(maps, settings, saliency)
    label = np.full(strongest.shape, BACKGROUND, dtype=np.uint8)
    confident = (strongest > settings.conflict).astype(np.uint8)
    # Ascending, and only a stronger cue takes over: ties stay with the lowest label.
    for channel in np.argsort(np.asarray(labels, dtype=int), kind="stable"):
        cue = object_cue(maps[channel], settings.alpha)
        np.copyto(label, np.uint8(labels[channel]), where=cue > strongest)
        np.maximum(strongest, cue, out=strongest)
        confident += cue > settings.conflict
    if ignore_rules:
        unclaimed = label == BACKGROUND
        label[confident > _MAX_CONFIDENT] = IGNORE
        if settings.background == "saliency":
            certain = certain_saliency(saliency, settings)  # type: ignore[arg-type]
            label[unclaimed & certain] = IGNORE
    return label


def resize_maps(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Maps at another size: bilinear, corner pixels on corner pixels.

    The positions are computed in float32, as torch's ``interpolate(mode="bilinear",
    align_corners=True)`` does, so that maps resized here and there are the same.

    Parameters
    ----------
    maps : (K, h, w) float32
    size
        (H, W) of the result.

    Returns
    -------
    (K, H, W) float32
        ``maps`` itself where the size is already right.

    Examples
    --------
    >>> resize_maps(np.float32([[[0, 1]]]), (1, 3)).tolist()
    [[[0.0, 0.5, 1.0]]]
    """
    maps = np.asarray(maps, dtype=np.float32)
    height, width = size
    # Columns first: their gather is the dearer one, and then has fewer rows to go over.
    return _resize_axis(_resize_axis(maps, width, axis=2), height, axis=1)


def saliency_folder(folder: str | Path) -> Callable[[str], Path]:
    """A function that names the saliency map of an image id: ``folder/ID.png``.

    Raises
    ------
    InputError
        The folder does not exist; or, by the function, an image's file does not.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(folder, "no such folder", "give a folder of saliency maps ID.png")

    def saliency_of(identifier: str) -> Path:
        path = folder / member_name(identifier, ".png")
        if not path.is_file():
            raise InputError(
                path, f"there is no saliency map of image '{identifier}'",
                "make it with 'drstool saliency', or take --background constant or power",
            )
        return path

    return saliency_of


def check_saliency_given(settings: CueSettings, given: bool) -> None:
    """Check, before the work, that saliency maps are at hand if the background cue needs them.

    Raises
    ------
    UsageError
        They are not.
    """
    if settings.background == "saliency" and not given:
        raise UsageError(
            "--background", "saliency needs saliency maps",
            "give their folder with --saliency, or take --background constant or power",
        )


def _checked(saliency: np.ndarray | None, size: tuple[int, ...]) -> np.ndarray:
    """The saliency map, if it is one of the maps' size."""
    check_saliency_given(CueSettings(background="saliency"), saliency is not None)
    assert saliency is not None
    if saliency.shape != size:
        raise InputError(
            "saliency map", f"is {_shown(saliency.shape)} pixels, the maps are {_shown(size)}",
            "it must be of the image's own size",
        )
    return saliency


def _shown(size: Sequence[int]) -> str:
    """Width x height, as image viewers say it."""
    return " x ".join(str(side) for side in reversed(size))


def _saliency_share(saliency: np.ndarray, settings: CueSettings) -> np.ndarray:
    """Saliency in [0, 1]: the grey values, or 0 and 1 by the threshold; (H, W) float32."""
    if settings.soft:
        return saliency.astype(np.float32) / np.float32(255)
    return (saliency > settings.saliency_threshold).astype(np.float32)


def _resize_axis(maps: np.ndarray, length: int, axis: int) -> np.ndarray:
    """Linear interpolation along one axis, first on first and last on last; float32."""
    given = maps.shape[axis]
    if given == length:
        return maps
    ratio = np.float32(given - 1) / np.float32(length - 1) if length > 1 else np.float32(0)
    position = np.arange(length, dtype=np.float32) * ratio
    # Rounding may carry the last position past the last pixel.
    lower = np.minimum(position.astype(np.intp), given - 1)
    upper = np.minimum(lower + 1, given - 1)
    weight = np.clip(position - lower.astype(np.float32), 0, 1).astype(np.float32)
    weight = weight.reshape([-1 if i == axis else 1 for i in range(maps.ndim)])
    result = maps.take(lower, axis=axis)
    result *= 1 - weight
    rest = maps.take(upper, axis=axis)
    rest *= weight
    result += rest
    return result
