"""Object cues versus the background cue: the rule that gives each pixel its label.

Dense form of the rule, over background and all C object classes::

    cue[0]     = background cue
    cue[c + 1] = map[c] where map[c] >= alpha, else 0        (an absent class: 0)
    label      = argmax(cue)                                 (ties: the lowest label)
    label      = the CRF's labels, if a CRF is asked for
    label      = ignore where more than two cues exceed `conflict`
    label      = ignore where label = background and the saliency is certain
    label      = ignore where label = background and a map exceeds `background_below`

The code visits only the K present classes. The labels are the same, because the cue of an absent
class is 0: it never exceeds ``conflict`` >= 0 and never wins, since the background cue is at
least 0 and comes first on ties.

Several background cues may be combined: at each pixel the strongest counts (an object must beat
all of them) or the weakest. A constant background of 0.30 with ``background_below`` 0.05 is the
two-threshold rule of Ahn et al.

References
----------
Kim, Han, Kim, Discriminative Region Suppression for Weakly-Supervised Semantic Segmentation,
AAAI 2021, section 3.4. Ahn, Cho, Kwak, Weakly Supervised Learning of Instance Segmentation with
Inter-pixel Relations (IRN), CVPR 2019, and its published code: two thresholds.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np

from drstool.artifacts.header import HEADER_NAME
from drstool.errors import InputError, UsageError
from drstool.files import FolderIdentity, is_file, is_folder, likely_file
from drstool.identifiers import member_name
from drstool.labels import BACKGROUND, ignore_label
from drstool.pixels import shown_size
from drstool.recipe import CueSettings

__all__ = [
    "IGNORE_RULES", "MAX_CONFIDENT", "background_cue", "certain_saliency", "check_saliency_given",
    "combiner", "constant_background", "cue_probabilities", "doubtful_background",
    "object_cue", "of_probabilities", "power_background", "pseudo_label", "pseudo_label_with_reasons", "resize_maps",
    "saliency_folder", "strongest_cue", "strongest_value",
]

# The rules that ignore pixels, in the order in which they apply.
IGNORE_RULES = ("conflict", "certain saliency", "between thresholds")

# Number of confident cues, background included, that may coincide at a pixel; one more is a conflict.
MAX_CONFIDENT = 2


def object_cue(values: np.ndarray, alpha: float) -> np.ndarray:
    """Map values that count as object cues; all others become 0.

    Parameters
    ----------
    values : (..., H, W) float32 >= 0
    alpha
        Lowest value that counts.

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
    """The background cue of each pixel.

    Parameters
    ----------
    maps : (K, H, W) float32 >= 0
        Before ``alpha`` is applied.
    settings
        ``background`` names the cues and ``combine`` how several of them are combined.
    saliency : (H, W) uint8 or None
        Needed only if ``settings.uses_saliency``.

    Returns
    -------
    (H, W) float32 >= 0

    Raises
    ------
    InputError
        The saliency map and the maps differ in size.
    UsageError
        The saliency map is missing.

    Examples
    --------
    >>> maps = np.full((1, 1, 3), 0.5, np.float32)
    >>> background_cue(maps, CueSettings(), np.uint8([[0, 50, 51]])).tolist()
    [[1.0, 1.0, 0.0]]
    >>> background_cue(maps, CueSettings(background="power", power=2)).tolist()
    [[0.25, 0.25, 0.25]]
    >>> both = CueSettings(background="saliency+power", power=2)
    >>> background_cue(maps, both, np.uint8([[0, 50, 51]])).tolist()
    [[1.0, 1.0, 0.25]]
    """
    cues = [_one_background(kind, maps, settings, saliency) for kind in settings.backgrounds]
    return reduce(combiner(settings), cues)


def combiner(settings: CueSettings) -> np.ufunc:
    """Elementwise function that combines two background cues."""
    return np.maximum if settings.combine == "max" else np.minimum


def constant_background(constant: float | np.ndarray) -> np.float32 | np.ndarray:
    """The constant background cue, float32.

    Negative values are clipped: they would lose to the zero cues of absent classes.
    """
    return np.maximum(np.float32(constant), np.float32(0))


def power_background(strongest: np.ndarray, power: float | np.ndarray) -> np.ndarray:
    """The power background cue for the largest map value of each pixel, float32.

    Values are clipped at 1, which maps of other methods may exceed: the power would be NaN there.
    """
    return (np.float32(1) - np.minimum(strongest, np.float32(1))) ** np.float32(power)


def _one_background(
    kind: str, maps: np.ndarray, settings: CueSettings, saliency: np.ndarray | None,
) -> np.ndarray:
    if kind == "saliency":
        return np.float32(1) - _saliency_values(_checked(saliency, maps.shape[1:]), settings)
    if kind == "constant":
        return np.full(maps.shape[1:], constant_background(settings.constant), dtype=np.float32)
    if kind == "rest":
        return np.maximum(np.float32(1) - maps.sum(axis=0, dtype=np.float32), np.float32(0))
    return power_background(strongest_value(maps), settings.power)


def cue_probabilities(
    maps: np.ndarray, settings: CueSettings, saliency: np.ndarray | None = None,
) -> np.ndarray:
    """The cues of each pixel divided by their sum, background first: unary probabilities for a CRF.

    Parameters
    ----------
    maps : (K, H, W) float32 >= 0
    settings, saliency
        As in :func:`background_cue`.

    Returns
    -------
    (K + 1, H, W) float32 in [0, 1]
        Sums to 1; uniform where all cues are 0.

    Examples
    --------
    >>> settings = CueSettings(background="constant", constant=0.2)
    >>> cue_probabilities(np.float32([[[0.6, 0.1]]]), settings).round(2).tolist()
    [[[0.25, 1.0]], [[0.75, 0.0]]]
    """
    cues = np.concatenate([background_cue(maps, settings, saliency)[None], object_cue(maps, settings.alpha)])
    total = cues.sum(axis=0)
    return np.where(total > 0, cues / np.where(total > 0, total, 1), np.float32(1 / len(cues))).astype(np.float32)


def of_probabilities(settings: CueSettings, given: Collection[str]) -> CueSettings:
    """Settings suited to maps that are probabilities; fields named in ``given`` stay as they are.

    No value is too small to count, and background is what the objects leave.
    """
    suited: dict[str, Any] = {"alpha": 0.0, "background": "rest"}
    return replace(settings, **{name: value for name, value in suited.items() if name not in given})


def strongest_value(maps: np.ndarray) -> np.ndarray:
    """The largest map value of each pixel, 0 if there are no maps; (H, W) float32."""
    return maps.max(axis=0, initial=0).astype(np.float32, copy=False)


def certain_saliency(saliency: np.ndarray, settings: CueSettings) -> np.ndarray:
    """Mask of the pixels that are certainly salient.

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
        # saliency is certain above `conflict`, because grey values hardly ever reach 255.
        return _saliency_values(saliency, settings) > settings.conflict
    return saliency > settings.saliency_threshold


def pseudo_label(
    maps: np.ndarray, labels: Sequence[int], settings: CueSettings,
    saliency: np.ndarray | None = None, *, ignore_rules: bool = True,
    dtype: np.dtype | type = np.uint8, relabel: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """The label of the strongest cue of each pixel, or the ignore label where cues disagree.

    The module's docstring states the rule.

    Parameters
    ----------
    maps : (K, H, W) float32 >= 0
        Maps of the present classes; K may be 0.
    labels : K ints
        Their labels.
    settings
    saliency : (H, W) uint8 or None
        Needed only if ``settings.uses_saliency``; otherwise unused.
    ignore_rules
        Whether to apply the rules that ignore pixels.
    dtype
        Type of the labels, see :func:`drstool.labels.label_type`.
    relabel
        Improves the labels of the strongest cues before any pixel is ignored, for instance by a CRF.

    Returns
    -------
    (H, W) uint8 or uint16
        0, one of ``labels``, or the ignore label.

    Raises
    ------
    InputError
        The saliency map and the maps differ in size.
    UsageError
        The saliency map is missing.

    References
    ----------
    Kim, Han, Kim, AAAI 2021, section 3.4.

    Examples
    --------
    >>> maps = np.float32([[[0.7, 0.1, 0.7]]])
    >>> pseudo_label(maps, [15], CueSettings(), np.uint8([[255, 255, 0]])).tolist()
    [[15, 255, 0]]
    """
    label, rules = _apply(maps, labels, settings, saliency, dtype, relabel)
    if ignore_rules:
        for _, ignored in rules:
            label[ignored] = ignore_label(dtype)
    return label


def pseudo_label_with_reasons(
    maps: np.ndarray, labels: Sequence[int], settings: CueSettings,
    saliency: np.ndarray | None = None, *, ignore_rules: bool = True, dtype: np.dtype | type = np.uint8,
    relabel: Callable[[np.ndarray], np.ndarray] | None = None,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Like :func:`pseudo_label`, and which pixels each rule ignores.

    Returns
    -------
    label : (H, W) uint8 or uint16
    ignored : dict of str to (n,) int
        For each of ``IGNORE_RULES`` that applies, the labels of the strongest map at the pixels
        it ignores, 0 where no map is above 0. A pixel that meets several rules counts for the first.
    """
    label, rules = _apply(maps, labels, settings, saliency, dtype, relabel)
    # Only the rules give the ignore label, so it marks the pixels of earlier rules.
    ignore, ignored = ignore_label(dtype), {}
    for rule, where in rules if ignore_rules else ():
        where &= label != ignore
        label[where] = ignore
        ignored[rule] = _strongest_label(maps[:, where], labels)
    return label, ignored


def _apply(
    maps: np.ndarray, labels: Sequence[int], settings: CueSettings, saliency: np.ndarray | None,
    dtype: np.dtype | type, relabel: Callable[[np.ndarray], np.ndarray] | None,
) -> tuple[np.ndarray, Iterator[tuple[str, np.ndarray]]]:
    """The label of the strongest cue, and for each rule that applies the mask of pixels to ignore."""
    background = background_cue(maps, settings, saliency)
    label, strongest = strongest_cue(maps, labels, settings.alpha, dtype)
    label[strongest <= background] = BACKGROUND
    if relabel is not None:
        label = relabel(label)

    def rules() -> Iterator[tuple[str, np.ndarray]]:
        # The caller changes the label between two rules.
        unclaimed = label == BACKGROUND
        confident = (background > settings.conflict).astype(np.uint16)
        for values in maps:
            confident += (values >= settings.alpha) & (values > settings.conflict)
        yield IGNORE_RULES[0], confident > MAX_CONFIDENT
        for rule, doubtful in doubtful_background(maps, settings, saliency):
            yield rule, unclaimed & doubtful

    return label, rules()


def strongest_cue(
    maps: np.ndarray, labels: Sequence[int], alpha: float, dtype: np.dtype | type = np.uint8,
) -> tuple[np.ndarray, np.ndarray]:
    """The strongest object cue of each pixel: its label, the lowest on ties, and its value.

    Returns
    -------
    label : (H, W) uint8 or uint16
    value : (H, W) float32
        Both 0 where there is no cue.
    """
    label = np.full(maps.shape[1:], BACKGROUND, dtype=dtype)
    strongest = np.zeros(maps.shape[1:], dtype=np.float32)
    # Labels ascend and only a stronger cue wins, so ties go to the lowest label.
    for channel in np.argsort(np.asarray(labels, dtype=int), kind="stable"):
        cue = object_cue(maps[channel], alpha)
        np.copyto(label, label.dtype.type(labels[channel]), where=cue > strongest)
        np.maximum(strongest, cue, out=strongest)
    return label, strongest


def doubtful_background(
    maps: np.ndarray, settings: CueSettings, saliency: np.ndarray | None,
) -> Iterator[tuple[str, np.ndarray]]:
    """For each rule that applies, where it ignores pixels that no object claims; (H, W) bool."""
    if settings.uses_saliency:
        yield IGNORE_RULES[1], certain_saliency(saliency, settings)  # type: ignore[arg-type]
    # A value above 1 beats every background cue, so a threshold of 1 would ignore nothing.
    if settings.background_below < 1:
        yield IGNORE_RULES[2], strongest_value(maps) > settings.background_below


def _strongest_label(maps: np.ndarray, labels: Sequence[int]) -> np.ndarray:
    """Labels of the strongest of the (K, n) maps, lowest on ties, 0 where none is above 0; (n,) int."""
    order = np.argsort(np.asarray(labels, dtype=int), kind="stable")
    values = np.concatenate([np.zeros((1, maps.shape[1]), maps.dtype), maps[order]])
    return np.array([BACKGROUND, *(labels[channel] for channel in order)])[values.argmax(axis=0)]


def resize_maps(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Maps resized bilinearly, with corners aligned.

    Positions are computed in float32, as torch's ``interpolate(mode="bilinear",
    align_corners=True)`` does, so both give the same maps.

    Parameters
    ----------
    maps : (K, h, w) float32
    size
        (H, W) of the result.

    Returns
    -------
    (K, H, W) float32
        ``maps`` itself if the size is already right.

    Examples
    --------
    >>> resize_maps(np.float32([[[0, 1]]]), (1, 3)).tolist()
    [[[0.0, 0.5, 1.0]]]
    """
    maps = np.asarray(maps, dtype=np.float32)
    height, width = size
    # Columns first: gathering them is the expensive part, and there are fewer rows before upsampling.
    return _resize_axis(_resize_axis(maps, width, axis=2), height, axis=1)


def saliency_folder(folder: str | Path) -> Callable[[str], Path]:
    """A function from an image id to the path of its saliency map, ``folder/ID.png``.

    Raises
    ------
    InputError
        The folder does not exist; or, from the function, the file does not, or another folder has taken its place.
    """
    folder = Path(folder)
    if not is_folder(folder):
        raise InputError(folder, "no such folder", "expected a folder of saliency maps named ID.png")

    identity = FolderIdentity(folder, HEADER_NAME)

    def saliency_of(identifier: str) -> Path:
        path = folder / member_name(identifier, ".png")
        identity.check()
        if is_file(path):
            return path
        raise InputError(
            path, f"no saliency map for image '{identifier}'",
            likely_file(path) + "create it with 'drstool saliency', or use --background constant or power",
        )

    return saliency_of


def check_saliency_given(settings: CueSettings, given: bool) -> None:
    """Check, before any work is done, that saliency maps are given if the background cue needs them.

    Raises
    ------
    UsageError
        They are not, or the saliency is to be scaled but not used.
    """
    if settings.saliency_scale != 1 and not (settings.soft and settings.uses_saliency):
        raise UsageError("--saliency-scale", "applies to soft saliency only", "add --soft and --background saliency")
    if settings.uses_saliency and not given:
        raise UsageError(
            "--background", "saliency needs saliency maps",
            "pass their folder with --saliency, or use --background constant or power",
        )


def _checked(saliency: np.ndarray | None, size: tuple[int, ...]) -> np.ndarray:
    """The saliency map, once it is known to have the size of the maps."""
    check_saliency_given(CueSettings(), saliency is not None)
    assert saliency is not None
    if saliency.shape != size:
        raise InputError(
            "saliency map", f"has {shown_size(saliency.shape)} pixels, but the maps have {shown_size(size)}",
            "it must have the size of the image",
        )
    return saliency


def _saliency_values(saliency: np.ndarray, settings: CueSettings) -> np.ndarray:
    """Saliency in [0, 1]: scaled grey values, or 0 and 1 by the threshold; (H, W) float32."""
    if not settings.soft:
        return (saliency > settings.saliency_threshold).astype(np.float32)
    share = saliency.astype(np.float32) / np.float32(255)
    if settings.saliency_scale == 1:
        return share
    # An all-black map stays black.
    scale = settings.saliency_scale or 1 / max(share.max(), np.float32(1 / 255))
    return np.minimum(share * np.float32(scale), np.float32(1))


def _resize_axis(maps: np.ndarray, length: int, axis: int) -> np.ndarray:
    """Linear interpolation along one axis, with both ends aligned; float32."""
    old_length = maps.shape[axis]
    if old_length == length:
        return maps
    ratio = np.float32(old_length - 1) / np.float32(length - 1) if length > 1 else np.float32(0)
    position = np.arange(length, dtype=np.float32) * ratio
    # Rounding may put the last position past the last pixel.
    lower = np.minimum(position.astype(np.intp), old_length - 1)
    upper = np.minimum(lower + 1, old_length - 1)
    weight = np.clip(position - lower.astype(np.float32), 0, 1).astype(np.float32)
    weight = weight.reshape([-1 if i == axis else 1 for i in range(maps.ndim)])
    result = maps.take(lower, axis=axis)
    result *= 1 - weight
    rest = maps.take(upper, axis=axis)
    rest *= weight
    result += rest
    return result
