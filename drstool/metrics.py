"""Scores of label images, all from one confusion matrix.

With n_t the pixels of a class in the target, n_p in the prediction, tp in both and
union = n_t + n_p - tp::

    IoU     = tp / union            FP rate = (n_p - tp) / union
    Acc     = tp / n_t              FN rate = (n_t - tp) / union        IoU + FP + FN = 1

    Overall Acc = sum tp / sum n_t                 Mean Acc, Mean IoU = means over the classes
    FreqW Acc   = sum n_t * IoU / sum n_t
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from drstool.errors import InputError
from drstool.labels import BACKGROUND, IGNORE, check_label_values, label_names, num_classes

__all__ = ["IGNORED_AS", "ClassScore", "ConfusionMatrix", "Scores", "count_labels"]

# What a pixel counts as where the prediction is the ignore label and the target is not:
# missed (of no class: a false negative), not counted at all, or predicted as background.
IGNORED_AS = ("miss", "skip", "background")

# A label image has one byte a pixel.
_VALUES = 256
# Under this many pixels between changes of value, counting runs costs more than counting pixels.
_MIN_MEAN_RUN = 4


@dataclass(frozen=True)
class ClassScore:
    """One class's scores, each in [0, 1], NaN where its denominator is 0.

    Attributes
    ----------
    name
    iou, acc, fp_rate, fn_rate
        See the module's text.
    pixels
        Pixels of the class in the target.
    """

    name: str
    iou: float
    acc: float
    fp_rate: float
    fn_rate: float
    pixels: int


@dataclass(frozen=True)
class Scores:
    """Means and per-class scores; NaN where nothing is to be averaged.

    Attributes
    ----------
    overall_acc, mean_acc, freqw_acc, mean_iou
        Each in [0, 1].
    classes
        By label value, background first.
    absent
        Names of the classes that are neither in the targets nor in the predictions; their scores
        are NaN, and no mean counts them.
    ignored_share
        Share of the target's labelled pixels at which the prediction is the ignore label.
    """

    overall_acc: float
    mean_acc: float
    freqw_acc: float
    mean_iou: float
    classes: tuple[ClassScore, ...]
    absent: tuple[str, ...]
    ignored_share: float


class ConfusionMatrix:
    """Counts of (target, prediction) label pairs.

    Parameters
    ----------
    class_names
        The C object classes.

    Attributes
    ----------
    counts : (C + 1, C + 2) int64
        Row: the target's label; column: the predicted label, the last one the ignore label.
        Pixels whose target is the ignore label are not in it.

    Examples
    --------
    >>> matrix = ConfusionMatrix(["cat"])
    >>> matrix.update(np.uint8([[0, 1, 1, 255]]), np.uint8([[0, 1, 0, 1]]))
    >>> matrix.counts.tolist()
    [[1, 0, 0], [1, 1, 0]]
    >>> matrix.scores().mean_iou
    0.5
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        self.class_names = tuple(class_names)
        classes = num_classes(class_names)
        self.counts = np.zeros((classes, classes + 1), dtype=np.int64)

    def update(self, target: np.ndarray, prediction: np.ndarray) -> None:
        """Count one image; see :func:`count_labels`."""
        self.add(count_labels(target, prediction, self.class_names))

    def add(self, counts: np.ndarray) -> None:
        """Add what :func:`count_labels` has counted, ``(C + 1, C + 2) int64``."""
        self.counts += counts

    def scores(self, ignored: str = "miss") -> Scores:
        """Scores of everything counted so far.

        Parameters
        ----------
        ignored : "miss", "skip" or "background"
            What a predicted ignore label counts as, see ``IGNORED_AS``.
        """
        if ignored not in IGNORED_AS:
            raise ValueError(f"ignored is {ignored!r}; one of {', '.join(IGNORED_AS)}")
        square, undecided = self.counts[:, :-1].copy(), self.counts[:, -1]
        if ignored == "background":
            square[:, BACKGROUND] += undecided
        hits = np.diagonal(square)
        in_target = square.sum(axis=1) + (undecided if ignored == "miss" else 0)
        in_prediction = square.sum(axis=0)
        union = in_target + in_prediction - hits
        iou, acc = _ratio(hits, union), _ratio(hits, in_target)
        fp_rate, fn_rate = _ratio(in_prediction - hits, union), _ratio(in_target - hits, union)
        total = in_target.sum()
        names = label_names(self.class_names)
        return Scores(
            overall_acc=float(_ratio(hits.sum(), total)),
            mean_acc=_mean(acc),
            freqw_acc=float(_ratio((in_target * np.nan_to_num(iou)).sum(), total)),
            mean_iou=_mean(iou),
            classes=tuple(
                ClassScore(name, *map(float, rates), int(pixels))
                for name, *rates, pixels in zip(names, iou, acc, fp_rate, fn_rate, in_target)),
            absent=tuple(name for name, size in zip(names, union) if size == 0),
            ignored_share=float(_ratio(undecided.sum(), self.counts.sum())),
        )


def count_labels(
    target: np.ndarray, prediction: np.ndarray, class_names: Sequence[str],
    target_name: object = "target", prediction_name: object = "prediction",
) -> np.ndarray:
    """How often each predicted label meets each target label in one image.

    Parameters
    ----------
    target, prediction : (H, W) uint8
        Labels 0 .. C and 255.
    class_names
        The C object classes.
    target_name, prediction_name
        Named in errors.

    Returns
    -------
    (C + 1, C + 2) int64
        As :attr:`ConfusionMatrix.counts`.

    Raises
    ------
    InputError
        The sizes differ, or a value is no label.
    """
    if target.shape != prediction.shape:
        sizes = [" x ".join(str(side) for side in reversed(labels.shape))
                 for labels in (prediction, target)]
        turned = target.shape == prediction.shape[::-1]
        raise InputError(
            prediction_name, f"is {sizes[0]} pixels, but {target_name} is {sizes[1]}",
            "if the image is rotated by EXIF, rotate its ground truth too" if turned
            else "both must be of the image's own size",
        )
    pairs = _count_pairs(target, prediction)
    classes = num_classes(class_names)
    kept = pairs[:classes, [*range(classes), IGNORE]]
    # What is neither in the matrix nor under an ignored target has a value that is no label.
    if kept.sum() + pairs[IGNORE].sum() != target.size or pairs[IGNORE, classes:IGNORE].any():
        check_label_values(target, class_names, target_name)
        check_label_values(prediction, class_names, prediction_name)
    return kept


def _count_pairs(target: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Histogram of (target, prediction) byte pairs: (256, 256) int64.

    Label images are made of long runs of one value: adding a run's length once is several times
    quicker than adding each pixel.
    """
    pairs = target.ravel().astype(np.uint16)
    pairs <<= 8
    pairs |= prediction.ravel()
    ends = np.flatnonzero(pairs[1:] != pairs[:-1])
    if ends.size * _MIN_MEAN_RUN > pairs.size:
        counts = np.bincount(pairs, minlength=_VALUES * _VALUES)
    else:
        ends = np.append(ends, pairs.size - 1)
        lengths = np.diff(ends, prepend=-1)
        # bincount's weights are float64: exact, an image has far fewer than 2 ** 53 pixels.
        counts = np.bincount(pairs[ends], lengths, _VALUES * _VALUES).astype(np.int64)
    return counts.reshape(_VALUES, _VALUES)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, NaN where whole is 0; float64."""
    part, whole = np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64)
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole != 0)


def _mean(values: np.ndarray) -> float:
    """Mean of the values that are numbers; NaN if none is."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")
