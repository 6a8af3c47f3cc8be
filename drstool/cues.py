"""Object cues against the background cue: which label each pixel gets. The rule, once.

Dense form of the rule, over background and all C object classes::

    cue[0]     = background cue
    cue[c + 1] = map[c] where map[c] >= alpha, else 0        (an absent class: 0)
    label      = argmax(cue)                                 (ties: the lowest label)
    label      = what a CRF makes of it, if one is asked for
    label      = ignore where more than two of the cues exceed `conflict`
    label      = ignore where label = background and the saliency is certain
    label      = ignore where label = background and a map exceeds `background_below`

Here only the K present classes are touched. That gives the same labels, since an absent class's
cue is 0: it never exceeds ``conflict`` >= 0, and never wins, because the background cue is at
least 0 and comes first on ties.

The background cue may itself be several, of which at each pixel the strongest counts (an object
must then be stronger than each), or the weakest. A constant background of 0.30 with
``background_below`` 0.05 is the rule of two thresholds of Ahn et al.

References
----------
Kim, Han, Kim, Discriminative Region Suppression for Weakly-Supervised Semantic Segmentation,
AAAI 2021, section 3.4. Ahn, Cho, Kwak, Weakly Supervised Learning of Instance Segmentation with
Inter-pixel Relations (IRN), CVPR 2019, and its published code: two thresholds.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path

import numpy as np

from drstool.errors import InputError, UsageError
from drstool.files import unreadable
from drstool.identifiers import member_name
from drstool.labels import BACKGROUND, ignore_label
from drstool.recipe import CueSettings

__all__ = [
    "IGNORE_RULES", "MAX_CONFIDENT", "background_cue", "certain_saliency", "check_saliency_given",
    "combiner", "confident_cues", "constant_background", "cue_probabilities", "doubtful_background",
    "object_cue", "of_probabilities", "power_background", "pseudo_label", "pseudo_label_with_reasons", "resize_maps",
    "saliency_folder", "strongest_cue", "strongest_value",
]

# What gives a pixel the ignore label, in the order in which the rules are asked.
IGNORE_RULES = ("conflict", "certain saliency", "between thresholds")

# This many confident cues, background counted, may meet at a pixel; more are a conflict.
MAX_CONFIDENT = 2


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
        ``background`` chooses among ``1 - saliency``, a constant and ``(1 - max(maps)) ^ power``;
        of several, ``combine`` takes the strongest or the weakest at each pixel.
    saliency : (H, W) uint8 or None
        Needed only where ``settings.uses_saliency``.

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
    >>> both = CueSettings(background="saliency+power", power=2)
    >>> background_cue(maps, both, np.uint8([[0, 50, 51]])).tolist()
    [[1.0, 1.0, 0.25]]
    """
    cues = [_one_background(kind, maps, settings, saliency) for kind in settings.backgrounds]
    return reduce(combiner(settings), cues)


def combiner(settings: CueSettings) -> np.ufunc:
    """What makes one background cue of two, elementwise."""
    return np.maximum if settings.combine == "max" else np.minimum


def constant_background(constant: float | np.ndarray) -> np.float32 | np.ndarray:
    """The constant background cue, float32.

    Under 0 it would lose to the zero cue of any class, absent ones too.
    """
    return np.maximum(np.float32(constant), np.float32(0))


def power_background(strongest: np.ndarray, power: float | np.ndarray) -> np.ndarray:
    """The power background cue of the strongest map value at each pixel, float32.

    Maps of other methods may exceed 1, where the power would not be a number.
    """
    return (np.float32(1) - np.minimum(strongest, np.float32(1))) ** np.float32(power)


def _one_background(
    kind: str, maps: np.ndarray, settings: CueSettings, saliency: np.ndarray | None,
) -> np.ndarray:
    if kind == "saliency":
        return np.float32(1) - _saliency_share(_checked(saliency, maps.shape[1:]), settings)
    if kind == "constant":
        return np.full(maps.shape[1:], constant_background(settings.constant), dtype=np.float32)
    if kind == "rest":
        return np.maximum(np.float32(1) - maps.sum(axis=0, dtype=np.float32), np.float32(0))
    return power_background(strongest_value(maps), settings.power)


def cue_probabilities(
    maps: np.ndarray, settings: CueSettings, saliency: np.ndarray | None = None,
) -> np.ndarray:
    """The cues of a pixel as shares of their sum, background first: what a CRF starts from.

    Parameters
    ----------
    maps : (K, H, W) float32 >= 0
    settings, saliency
        As in :func:`background_cue`.

    Returns
    -------
    (K + 1, H, W) float32 in [0, 1]
        Summing to 1; all the same where there is no cue at all.

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
    """The settings for maps that are probabilities, but for those the user has given.

    No value is too small to count, and background is what the objects leave.
    """
    fitting = {"alpha": 0.0, "background": "rest"}
    return replace(settings, **{name: value for name, value in fitting.items() if name not in given})


def strongest_value(maps: np.ndarray) -> np.ndarray:
    """The strongest map value at each pixel, 0 where there is no map; (H, W) float32."""
    return maps.max(axis=0, initial=0).astype(np.float32, copy=False)


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
    dtype: np.dtype | type = np.uint8, relabel: Callable[[np.ndarray], np.ndarray] | None = None,
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
        Needed only where ``settings.uses_saliency``; otherwise not looked at.
    ignore_rules
        False leaves out the rules that give the ignore label.
    dtype
        Of the result, see :func:`drstool.labels.label_type`.
    relabel
        Makes better labels of those of the strongest cues, such as by a CRF, before pixels are
        ignored.

    Returns
    -------
    (H, W) uint8 or uint16
        0, one of ``labels``, or the ignore label.

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
    label, reasons = _decided(maps, labels, settings, saliency, dtype, relabel)
    if ignore_rules:
        for _, ignored in reasons:
            label[ignored] = ignore_label(dtype)
    return label


def pseudo_label_with_reasons(
    maps: np.ndarray, labels: Sequence[int], settings: CueSettings,
    saliency: np.ndarray | None = None, *, dtype: np.dtype | type = np.uint8,
    relabel: Callable[[np.ndarray], np.ndarray] | None = None,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """As :func:`pseudo_label`, and which pixels each rule ignores.

    Returns
    -------
    label : (H, W) uint8 or uint16
    ignored : dict of str to (n,) int
        By rule of ``IGNORE_RULES``: of each pixel that it ignores, the label of the strongest map
        there, 0 where none is above 0. A pixel that several rules ignore counts for the first.
    """
    label, reasons = _decided(maps, labels, settings, saliency, dtype, relabel)
    # Nothing else gives this value, so that the pixels of earlier rules are known by it.
    ignore, ignored = ignore_label(dtype), {}
    for rule, where in reasons:
        where &= label != ignore
        label[where] = ignore
        ignored[rule] = _strongest_label(maps[:, where], labels)
    return label, ignored


def _decided(
    maps: np.ndarray, labels: Sequence[int], settings: CueSettings, saliency: np.ndarray | None,
    dtype: np.dtype | type, relabel: Callable[[np.ndarray], np.ndarray] | None,
) -> tuple[np.ndarray, Iterator[tuple[str, np.ndarray]]]:
    """The label of the strongest cue, and for each rule that applies the pixels to be ignored."""
    background = background_cue(maps, settings, saliency)
    label, strongest = strongest_cue(maps, labels, settings.alpha, dtype)
    label[strongest <= background] = BACKGROUND
    if relabel is not None:
        label = relabel(label)

    def reasons() -> Iterator[tuple[str, np.ndarray]]:
        # Rules are asked one after the other, while the label already changes.
        unclaimed = label == BACKGROUND
        confident = confident_cues(maps, settings) + (background > settings.conflict)
        yield IGNORE_RULES[0], confident > MAX_CONFIDENT
        for rule, doubtful in doubtful_background(maps, settings, saliency):
            yield rule, unclaimed & doubtful

    return label, reasons()


def strongest_cue(
    maps: np.ndarray, labels: Sequence[int], alpha: float, dtype: np.dtype | type = np.uint8,
) -> tuple[np.ndarray, np.ndarray]:
    """The strongest object cue at each pixel: its label, the lowest on ties, and its value.

    Returns
    -------
    label : (H, W) uint8 or uint16
        0 where there is no cue.
    value : (H, W) float32
        0 where there is no cue.
    """
    label = np.full(maps.shape[1:], BACKGROUND, dtype=dtype)
    strongest = np.zeros(maps.shape[1:], dtype=np.float32)
    # Ascending, and only a stronger cue takes over: ties stay with the lowest label.
    for channel in np.argsort(np.asarray(labels, dtype=int), kind="stable"):
        cue = object_cue(maps[channel], alpha)
        np.copyto(label, label.dtype.type(labels[channel]), where=cue > strongest)
        np.maximum(strongest, cue, out=strongest)
    return label, strongest


def confident_cues(maps: np.ndarray, settings: CueSettings) -> np.ndarray:
    """How many object cues exceed ``conflict`` at each pixel, (H, W) uint16."""
    count = np.zeros(maps.shape[1:], dtype=np.uint16)
    for values in maps:
        count += (values >= settings.alpha) & (values > settings.conflict)
    return count


def doubtful_background(
    maps: np.ndarray, settings: CueSettings, saliency: np.ndarray | None,
) -> Iterator[tuple[str, np.ndarray]]:
    """For each rule that applies, where a pixel that no object claims is ignored; (H, W) bool."""
    if settings.uses_saliency:
        yield IGNORE_RULES[1], certain_saliency(saliency, settings)  # type: ignore[arg-type]
    # A cue beyond 1 beats every background cue, so that nothing is left for a threshold of 1.
    if settings.background_below < 1:
        yield IGNORE_RULES[2], strongest_value(maps) > settings.background_below


def _strongest_label(maps: np.ndarray, labels: Sequence[int]) -> np.ndarray:
    """The label of the strongest of the maps (K, n), lowest on ties, 0 where none is above 0; (n,) int."""
    order = np.argsort(np.asarray(labels, dtype=int), kind="stable")
    values = np.concatenate([np.zeros((1, maps.shape[1]), maps.dtype), maps[order]])
    return np.array([BACKGROUND, *(labels[channel] for channel in order)])[values.argmax(axis=0)]


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
        try:
            found = stat.S_ISREG(path.stat().st_mode)
        except (FileNotFoundError, NotADirectoryError):
            found = False
        except OSError as error:
            raise unreadable(path, error, "check its permissions") from error
        if not found:
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
    if settings.saliency_scale != 1 and not (settings.soft and settings.uses_saliency):
        raise UsageError("--saliency-scale", "scales the soft saliency, which is not in use", "give --soft")
    if settings.uses_saliency and not given:
        raise UsageError(
            "--background", "saliency needs saliency maps",
            "give their folder with --saliency, or take --background constant or power",
        )


def _checked(saliency: np.ndarray | None, size: tuple[int, ...]) -> np.ndarray:
    """The saliency map, if it is one of the maps' size."""
    check_saliency_given(CueSettings(), saliency is not None)
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
    """Saliency in [0, 1]: the grey values, scaled, or 0 and 1 by the threshold; (H, W) float32."""
    if not settings.soft:
        return (saliency > settings.saliency_threshold).astype(np.float32)
    share = saliency.astype(np.float32) / np.float32(255)
    if settings.saliency_scale == 1:
        return share
    # A picture without any salient pixel stays so.
    scale = settings.saliency_scale or 1 / max(share.max(), np.float32(1 / 255))
    return np.minimum(share * np.float32(scale), np.float32(1))


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
