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
from drstool.labels import (
    BACKGROUND, as_label_type, check_label_values, ignore_label, label_names, label_type, num_classes,
)
from drstool.pixels import shown_size

__all__ = [
    "IGNORED_AS", "ClassScore", "ConfusionMatrix", "LabelCounts", "Margins", "Scores",
    "check_same_size", "count_labels", "mean_of", "ratio", "scores_of",
]

# How a pixel counts where the prediction is the ignore label and the target is not: as missed (a
# false negative without a false positive), not at all, or as predicted background.
IGNORED_AS = ("miss", "skip", "background")

# If runs of equal values are shorter than this on average, counting runs is slower than counting pixels.
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
    """Means and per-class scores; NaN where there is nothing to average.

    Attributes
    ----------
    overall_acc, mean_acc, freqw_acc, mean_iou
        Each in [0, 1].
    classes
        By label value, background first.
    absent
        Names of the classes that are neither in the targets nor in the predictions; their scores
        are NaN and left out of the means.
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


@dataclass(frozen=True, eq=False)
class LabelCounts:
    """How often each pair of target and predicted labels occurs in one image; other pairs are left out.

    Attributes
    ----------
    target, prediction : (n,) int64
        The pairs, each once: a target label, and a predicted label or C + 1 for the ignore label.
    pixels : (n,) int64
        Number of pixels of each pair.
    ignored_target
        Number of pixels whose target is the ignore label; they are in no pair.
    """

    target: np.ndarray
    prediction: np.ndarray
    pixels: np.ndarray
    ignored_target: int = 0

    def margins(self, classes: int) -> Margins:
        """The sums that scores need, for ``classes`` classes including background."""
        target, prediction, pixels = self.target, self.prediction, self.pixels
        same, undecided = target == prediction, prediction == classes
        return Margins(
            hits=_summed(target[same], pixels[same], classes),
            in_target=_summed(target, pixels, classes),
            in_prediction=_summed(prediction[~undecided], pixels[~undecided], classes),
            undecided=_summed(target[undecided], pixels[undecided], classes))


@dataclass(frozen=True, eq=False)
class Margins:
    """Pixels by class, each (C + 1,) int64; all that scores need of a confusion matrix.

    Attributes
    ----------
    hits
        Of the class in both target and prediction.
    in_target
        Of the class in the target, whatever the prediction.
    in_prediction
        Of the class in the prediction, where the target is a class.
    undecided
        Of the class in the target, where the prediction is the ignore label.
    """

    hits: np.ndarray
    in_target: np.ndarray
    in_prediction: np.ndarray
    undecided: np.ndarray

    def counted(self, ignored: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Hits, target and prediction with predicted ignore labels counted as ``ignored`` says."""
        hits, in_target, in_prediction = self.hits, self.in_target, self.in_prediction
        if ignored == "skip":
            in_target = in_target - self.undecided
        elif ignored == "background":
            hits, in_prediction = hits.copy(), in_prediction.copy()
            hits[BACKGROUND] += self.undecided[BACKGROUND]
            in_prediction[BACKGROUND] += self.undecided.sum()
        elif ignored != "miss":
            raise ValueError(f"ignored is {ignored!r}; one of {', '.join(IGNORED_AS)}")
        return hits, in_target, in_prediction


class ConfusionMatrix:
    """Counts of (target, prediction) label pairs, of any number of classes.

    Parameters
    ----------
    class_names
        The C object classes.

    Attributes
    ----------
    images
        Number of images counted.
    ignored_target
        Number of pixels whose target is the ignore label; they are in no pair.
    target_images, prediction_images : (C + 1,) int64
        Number of images that have the class in the target, or in the prediction.

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
        self._classes = num_classes(class_names)
        # By pair, because with thousands of classes a table would not fit into memory.
        self._pixels: dict[tuple[int, int], int] = {}
        self.images = self.ignored_target = 0
        self.target_images, self.prediction_images = np.zeros((2, self._classes), dtype=np.int64)

    def update(self, target: np.ndarray, prediction: np.ndarray) -> None:
        """Count one image; see :func:`count_labels`."""
        self.add(count_labels(target, prediction, self.class_names))

    def add(self, counts: LabelCounts) -> None:
        """Add the counts of one image, from :func:`count_labels`."""
        # Pairs are few, so that plain numbers are faster than arrays.
        pairs = list(zip(counts.target.tolist(), counts.prediction.tolist()))
        for pair, pixels in zip(pairs, counts.pixels.tolist()):
            self._pixels[pair] = self._pixels.get(pair, 0) + pixels
        self.images += 1
        self.ignored_target += counts.ignored_target
        self.target_images[list({target for target, _ in pairs})] += 1
        self.prediction_images[[label for label in {label for _, label in pairs} if label < self._classes]] += 1

    def total(self) -> LabelCounts:
        """All pairs of all images, ascending."""
        pairs = sorted(self._pixels)
        table = np.array(pairs, dtype=np.int64).reshape(-1, 2)
        pixels = np.array([self._pixels[pair] for pair in pairs], dtype=np.int64)
        return LabelCounts(table[:, 0], table[:, 1], pixels, self.ignored_target)

    @property
    def counts(self) -> np.ndarray:
        """The whole matrix, (C + 1, C + 2) int64, which must fit into memory.

        Rows are target labels; columns are predicted labels, the last one the ignore label.
        """
        matrix = np.zeros((self._classes, self._classes + 1), dtype=np.int64)
        for pair, pixels in self._pixels.items():
            matrix[pair] = pixels
        return matrix

    def margins(self) -> Margins:
        """Pixels by class."""
        return self.total().margins(self._classes)

    def scores(self, ignored: str = "miss") -> Scores:
        """Scores of everything counted so far.

        Parameters
        ----------
        ignored : "miss", "skip" or "background"
            What a predicted ignore label counts as, see ``IGNORED_AS``.
        """
        return scores_of(self.margins(), self.class_names, ignored)


def scores_of(margins: Margins, class_names: Sequence[str], ignored: str = "miss") -> Scores:
    """Scores from pixel counts by class; see :meth:`ConfusionMatrix.scores`."""
    hits, in_target, in_prediction = margins.counted(ignored)
    union = in_target + in_prediction - hits
    iou, acc = ratio(hits, union), ratio(hits, in_target)
    fp_rate, fn_rate = ratio(in_prediction - hits, union), ratio(in_target - hits, union)
    total = in_target.sum()
    names = label_names(class_names)
    return Scores(
        overall_acc=float(ratio(hits.sum(), total)),
        mean_acc=mean_of(acc),
        freqw_acc=float(ratio((in_target * np.nan_to_num(iou)).sum(), total)),
        mean_iou=mean_of(iou),
        classes=tuple(
            ClassScore(name, *rates)
            for name, *rates in zip(
                names, iou.tolist(), acc.tolist(), fp_rate.tolist(), fn_rate.tolist(), in_target.tolist())),
        absent=tuple(name for name, size in zip(names, union) if size == 0),
        ignored_share=float(ratio(margins.undecided.sum(), margins.in_target.sum())),
    )


def count_labels(
    target: np.ndarray, prediction: np.ndarray, class_names: Sequence[str],
    target_name: object = "target", prediction_name: object = "prediction",
) -> LabelCounts:
    """How often each pair of target and predicted labels occurs in one image.

    Parameters
    ----------
    target, prediction : (H, W) uint8 or uint16
        Labels 0 .. C and the ignore label of the type.
    class_names
        The C object classes.
    target_name, prediction_name
        Named in errors.

    Raises
    ------
    InputError
        The sizes differ, or a value is not a label.
    """
    check_same_size(target, prediction, target_name, prediction_name)
    classes = num_classes(class_names)
    target, prediction = (as_label_type(labels, len(class_names)) for labels in (target, prediction))
    runs = _runs(target.ravel(), prediction.ravel())
    few = target.dtype == prediction.dtype == np.uint8
    first, second, pixels = (_count_few_pairs(*runs, classes) if few else None) or _count_pairs(*runs)
    ignored = first == ignore_label(target.dtype)
    undecided = second == ignore_label(prediction.dtype)
    # The types differ if a value did not fit.
    wrong = ((first >= classes) & ~ignored) | ((second >= classes) & ~undecided)
    if wrong.any() or not target.dtype == prediction.dtype == label_type(len(class_names)):
        check_label_values(target, class_names, target_name)
        check_label_values(prediction, class_names, prediction_name)
    second = np.where(undecided, classes, second)
    kept = ~ignored
    return LabelCounts(first[kept], second[kept], pixels[kept], int(pixels[ignored].sum()))


def check_same_size(target: np.ndarray, prediction: np.ndarray, target_name: object, prediction_name: object) -> None:
    """Check that the prediction has its target's size.

    Raises
    ------
    InputError
        It has not.
    """
    if target.shape == prediction.shape:
        return
    turned = target.shape == prediction.shape[::-1]
    raise InputError(
        prediction_name, f"is {shown_size(prediction.shape)} pixels, but {target_name} is {shown_size(target.shape)}",
        "if the image is rotated by EXIF, rotate its ground truth too" if turned else "both must have the image's size",
    )


def _runs(target: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Labels of runs of equal pairs, and the runs' lengths; if runs are short, all labels and None.

    Label images consist of long runs of one value: adding a run's length once is several times
    faster than adding each pixel.
    """
    last = np.ones(target.size, dtype=bool)
    np.not_equal(target[1:], target[:-1], out=last[:-1])
    last[:-1] |= prediction[1:] != prediction[:-1]
    ends = last.nonzero()[0]
    if ends.size * _MIN_MEAN_RUN > target.size:
        return target, prediction, None
    lengths = ends.copy()
    lengths[1:] -= ends[:-1]
    lengths[:1] += 1
    return target[ends], prediction[ends], lengths


def _count_few_pairs(
    left: np.ndarray, right: np.ndarray, lengths: np.ndarray | None, classes: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """The pairs of 8-bit labels that occur, and how often: three (n,) int64; None if a value is not a label."""
    # Adding 1 turns the ignore label into 0 and the others into 1 .. C + 1, for a small table of pairs.
    left, right, side = left + np.uint8(1), right + np.uint8(1), classes + 1
    if max(left.max(initial=0), right.max(initial=0)) >= side:
        return None
    pairs = left.astype(np.intp)
    pairs *= side
    pairs += right
    # bincount's weights are float64, which is exact: an image has far fewer than 2 ** 53 pixels.
    counts = np.bincount(pairs, lengths, side * side)
    found = counts.nonzero()[0]
    first, second = (shifted.astype(np.uint8) - np.uint8(1) for shifted in np.divmod(found, side))
    return first.astype(np.int64), second.astype(np.int64), counts[found].astype(np.int64)


def _count_pairs(
    left: np.ndarray, right: np.ndarray, lengths: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As :func:`_count_few_pairs`, for any values: pairs are sorted instead of counted in a table."""
    pairs = left.astype(np.uint32)
    pairs <<= 16
    pairs |= right
    found, place = np.unique(pairs, return_inverse=True)
    counts = np.bincount(place, lengths, found.size).astype(np.int64)
    return (found >> 16).astype(np.int64), (found & 0xFFFF).astype(np.int64), counts


def _summed(labels: np.ndarray, pixels: np.ndarray, classes: int) -> np.ndarray:
    """Pixels by label: (classes,) int64."""
    total = np.zeros(classes, dtype=np.int64)
    np.add.at(total, labels, pixels)
    return total


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, NaN where whole is 0; float64."""
    part, whole = np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64)
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole != 0)


def mean_of(values: np.ndarray) -> float:
    """Mean of the values that are not NaN; NaN if there are none."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")
