"""Score files: what was scored, how, and the scores, as JSON, CSV or a table.

Scores can only be compared if they say how they were made. So each result here contains the images
that it covers (:class:`Coverage`) and the way it was made (:class:`Protocol`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from drstool.artifacts.provenance import method_of
from drstool.labels import label_names, num_classes
from drstool.metrics import BOUNDARY_RATIO, ClassScore, ConfusionMatrix, LabelCounts, Scores, mean_of
from drstool.recipe import CueSettings
from drstool.reports.blocks import bar
from drstool.reports.ground_truth import GroundTruth
from drstool.reports.text import (
    aligned, counted, csv_number, csv_text, json_number, json_text, lines_text, shown_number,
)
from drstool.text import listed

if TYPE_CHECKING:
    from drstool.metrics.bootstrap import Interval

__all__ = [
    "Comparison", "Coverage", "Evaluation", "ImageScore", "PairedSweep", "Protocol", "Sweep", "as_csv", "as_json",
    "as_table", "cue_words",
]

# The words for each of `metrics.IGNORED_AS`.
_IGNORED_WORDS = {"miss": "counted as missed", "skip": "not counted", "background": "counted as background"}
# With more classes, JSON has the confusion matrix as a list of the pairs that occur.
_MAX_MATRIX_CLASSES = 256
_RESIZING = "bilinear, corners aligned, before labels are taken"


@dataclass(frozen=True)
class ImageScore:
    """One image's scores.

    Attributes
    ----------
    id
    mean_iou
        Over the classes in the image's target or prediction; NaN if its whole target is ignored.
    overall_acc
    worst
        Name of the class with the lowest IoU; empty if there is none.
    pixels
        Number of target pixels, without ignored ones.
    """

    id: str
    mean_iou: float
    overall_acc: float
    worst: str
    pixels: int


@dataclass(frozen=True)
class Coverage:
    """Which images a result covers, and which it does not.

    Attributes
    ----------
    images
        Number of images in the scores.
    missing
        Ids of the dataset that have ground truth but no prediction.
    without_target
        Ids of the dataset that have no ground truth.
    failed
        Ids whose prediction or ground truth could not be used.
    extra
        Number of predictions whose id the dataset does not have.
    extra_ids
        The first few of these ids.
    """

    images: int
    missing: tuple[str, ...] = ()
    without_target: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    extra: int = 0
    extra_ids: tuple[str, ...] = ()

    def warnings(self) -> list[str]:
        """What the scores leave out, one line each."""
        notes = [
            f"{counted(len(ids), 'image')} {what}: {listed(ids)}"
            for ids, what in (
                (self.missing, "without prediction"), (self.without_target, "without ground truth"),
                (self.failed, "failed"))
            if ids]
        if self.extra:
            extra = listed(self.extra_ids, self.extra)
            notes.append(f"{counted(self.extra, 'prediction')} of other images left out: {extra}")
        return notes


@dataclass(frozen=True)
class Protocol:
    """How scores were made.

    Attributes
    ----------
    kind : "labels" or "maps"
        What was scored. The label of a map's pixel is its strongest cue.
    ignored
        What predicted ignore labels counted as, see :data:`drstool.metrics.IGNORED_AS`.
    ignore_label
        Value of the ignore label.
    settings
        For maps, settings of the cues; None for labels.
    ignore_rules
        Whether the rules that ignore pixels were applied to maps.
    dataset
        The dataset as the user named it.
    dataset_digest
        Digest of its ids and tags.
    target_digest
        Digest of the ground truth files that were scored against, in the order of the ids.
    provenance
        Provenance of the predictions.
    target_provenance
        Provenance of the dataset, if drstool made it.
    """

    kind: str
    ignored: str
    ignore_label: int
    settings: CueSettings | None = None
    ignore_rules: bool = False
    dataset: str = ""
    dataset_digest: str = ""
    target_digest: str = ""
    provenance: tuple[dict, ...] = ()
    target_provenance: tuple[dict, ...] = ()

    def to_json(self) -> dict:
        """As a JSON object, without the predictions' provenance."""
        maps = self.settings is not None
        undecided = "ignored where a rule says so" if self.ignore_rules else "none ignored"
        return {
            "size": "full",
            "resize": _RESIZING if maps else None,
            "ignore_label": self.ignore_label,
            "ignored_predictions": self.ignored,
            "predictions": self.kind,
            "label_of_maps": f"strongest cue, {undecided}" if maps else None,
            "cues": asdict(self.settings) if maps and self.settings is not None else None,
            "dataset": self.dataset,
            "dataset_digest": self.dataset_digest,
            "ground_truth_digest": self.target_digest,
            "pixel_ground_truth_used": True,
            "method": method_of(self.provenance),
            "dataset_provenance": list(self.target_provenance),
        }

    def notes(self, images: int) -> list[str]:
        """What a reader of the numbers must know, one line each."""
        shown = counted(images, "image")
        notes = [f"{shown} at full size, {self.kind} against the pixel ground truth of {self.dataset}"]
        if self.settings is not None:
            rules = "; with ignore rules" if self.ignore_rules else ""
            notes.append(f"labels of maps: the strongest cue, {cue_words(self.settings)}{rules}")
        return notes


def cue_words(settings: CueSettings) -> str:
    """By what rule labels are made of maps.

    Examples
    --------
    >>> cue_words(CueSettings(background="saliency+constant"))
    'alpha 0.2, background saliency+constant, saliency > 50, constant 0.2'
    """
    shown = f"alpha {settings.alpha:g}, background {settings.background}"
    if settings.uses_saliency:
        shown += ", soft saliency" if settings.soft else f", saliency > {settings.saliency_threshold}"
    for name in ("constant", "power"):
        if name in settings.backgrounds:
            shown += f", {name} {getattr(settings, name):g}"
    return shown


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Scores of one run, and how they were made.

    Attributes
    ----------
    scores
    confusion
        Pixel counts of all images together.
    class_names
        The C object classes.
    coverage, protocol, truth
    boundary : (C + 1,) float64 or None
        Boundary IoU by class, if requested.
    boundary_ratio
        Its distance over the image's diagonal.
    counts
        Pixel counts of each image by id, if requested.
    """

    scores: Scores
    confusion: ConfusionMatrix = field(repr=False)
    class_names: tuple[str, ...]
    coverage: Coverage
    protocol: Protocol
    truth: GroundTruth = field(repr=False)
    boundary: np.ndarray | None = None
    boundary_ratio: float = BOUNDARY_RATIO
    counts: dict[str, LabelCounts] = field(default_factory=dict, repr=False)

    def warnings(self) -> list[str]:
        """What the scores leave out, and what is probably wrong with the ground truth, one line each."""
        return self.coverage.warnings() + self.truth.warnings()

    def per_image(self) -> list[ImageScore]:
        """Each image's scores, worst first; images without a labelled pixel last."""
        rows = [_image_score(i, counts, self.class_names, self.protocol.ignored) for i, counts in self.counts.items()]
        return sorted(rows, key=lambda row: (math.isnan(row.mean_iou), row.mean_iou, row.id))

    def to_json(self) -> dict:
        """Everything, ready for :func:`json.dumps`; NaN becomes None."""
        scores = self.scores
        total = self.confusion.total()
        result = {
            "overall_acc": json_number(scores.overall_acc),
            "mean_acc": json_number(scores.mean_acc),
            "freqw_acc": json_number(scores.freqw_acc),
            "mean_iou": json_number(scores.mean_iou),
            "mean_boundary_iou": None if self.boundary is None else json_number(mean_of(self.boundary)),
            "classes": self._classes_json(),
            "absent_classes": list(scores.absent),
            "ignored_share": json_number(scores.ignored_share),
            "pixels": int(total.pixels.sum()),
            "ignored_target_pixels": total.ignored_target,
            "ground_truth": self.truth.to_json(),
            **asdict(self.coverage),
            "frequencies": self._frequencies(),
            "confusion": self._confusion_json(total),
        }
        if self.counts:
            result["per_image"] = [_plain(asdict(row)) for row in self.per_image()]
        boundary = None if self.boundary is None else {"distance": f"{self.boundary_ratio:g} of the image's diagonal"}
        protocol = {**self.protocol.to_json(), "classes_left_out": list(scores.absent), "boundary_iou": boundary}
        return {**result, "protocol": protocol, "provenance": list(self.protocol.provenance)}

    def to_rows(self) -> list[list[Any]]:
        """A row per class, followed by the means, whose ``label`` is empty; or a row per image."""
        if self.counts:
            head = ["id", "mean_iou", "overall_acc", "worst_class", "pixels"]
            return [head, *([row.id, csv_number(row.mean_iou), csv_number(row.overall_acc), row.worst, row.pixels]
                            for row in self.per_image())]
        scores = self.scores
        rows: list[list[object]] = [["label", "name", "iou", "acc", "fp_rate", "fn_rate", "pixels"]]
        for label, row in enumerate(scores.classes):
            rates = map(csv_number, (row.iou, row.acc, row.fp_rate, row.fn_rate))
            rows.append([label, row.name, *rates, row.pixels])
        pixels = sum(row.pixels for row in scores.classes)
        means = (_class_mean(scores.classes, rate) for rate in ("fp_rate", "fn_rate"))
        rows += [
            ["", "Mean", *map(csv_number, (scores.mean_iou, scores.mean_acc, *means)), pixels],
            ["", "Overall Acc", "", csv_number(scores.overall_acc), "", "", pixels],
            ["", "FreqW Acc", csv_number(scores.freqw_acc), "", "", "", pixels]]
        if self.boundary is not None:
            extra = ["boundary_iou", *map(csv_number, self.boundary), csv_number(mean_of(self.boundary)), "", ""]
            rows = [[*row, value] for row, value in zip(rows, extra)]
        return rows

    def to_text(self, bars: bool = False) -> str:
        """Aligned plain text: the means, a table of the classes or images, and notes on how they were made."""
        scores = self.scores
        means = [
            ("Overall Acc", scores.overall_acc), ("Mean Acc", scores.mean_acc),
            ("FreqW Acc", scores.freqw_acc), ("Mean IoU", scores.mean_iou)]
        if self.boundary is not None:
            means.append(("Boundary IoU", mean_of(self.boundary)))
        head = aligned([[name, shown_number(value)] for name, value in means])
        table = self._image_table(bars) if self.counts else _class_table(scores.classes, self.boundary, bars)
        return lines_text([*head, "", *table, "", *self.footnotes()])

    def _image_table(self, bars: bool) -> list[str]:
        images = self.per_image()
        rows = [[row.id, shown_number(row.mean_iou), shown_number(row.overall_acc), row.worst or "-"]
                for row in images]
        rows = [["Image, worst first", "Mean IoU", "Acc", "Worst class"], *rows]
        return aligned(_with_bars(rows, [row.mean_iou for row in images]) if bars else rows)

    def _classes_json(self) -> list[dict]:
        rows = [{"label": label, **_plain(asdict(row))} for label, row in enumerate(self.scores.classes)]
        if self.boundary is not None:
            rows = [{**row, "boundary_iou": json_number(float(iou))} for row, iou in zip(rows, self.boundary)]
        return rows

    def _frequencies(self) -> list[dict]:
        """How often each class occurs in ground truth and predictions, in pixels and in images."""
        margins, images = self.confusion.margins(), self.confusion.images
        total = int(margins.in_target.sum())
        return [
            {"label": label, "name": name, "pixels": int(pixels), "share": pixels / total if total else None,
             "images": int(found), "predicted_pixels": int(predicted),
             "predicted_share": predicted / total if total else None, "predicted_images": int(predicted_in),
             "image_share": found / images}
            for label, (name, pixels, found, predicted, predicted_in) in enumerate(zip(
                label_names(self.class_names), margins.in_target.tolist(), self.confusion.target_images.tolist(),
                margins.in_prediction.tolist(), self.confusion.prediction_images.tolist()))]

    def _confusion_json(self, total: LabelCounts) -> dict:
        """The confusion matrix as a table; with many classes, as the pairs that occur."""
        classes = num_classes(self.class_names)
        axes = {"rows": "target", "columns": "prediction, the last one ignored"}
        if classes <= _MAX_MATRIX_CLASSES:
            return {**axes, "counts": self.confusion.counts.tolist()}
        pairs = zip(total.target.tolist(), total.prediction.tolist(), total.pixels.tolist())
        return {**axes, "pairs": [list(pair) for pair in pairs], "ignored_prediction": classes}

    def footnotes(self) -> list[str]:
        """What a reader of the numbers must know, one line each."""
        notes = self.protocol.notes(self.coverage.images) + self.truth.notes()
        if self.boundary is not None:
            notes.append(f"boundary IoU: pixels within {self.boundary_ratio:g} × the image's diagonal from a contour")
        if self.scores.ignored_share > 0:
            ignored = _IGNORED_WORDS[self.protocol.ignored]
            notes.append(f"{self.scores.ignored_share:.2%} of the pixels are predicted as ignored and {ignored}")
        return notes + _absent_note(self.scores) + self.warnings()


@dataclass(frozen=True, eq=False)
class Sweep:
    """Scores at 256 values of one number of the cue rule, and the best of them.

    Attributes
    ----------
    parameter
        ``"alpha"``, ``"constant"`` or ``"power"``.
    values
        Its 256 values, ascending.
    chosen_by
        At each value, the scores on the images that the best value is chosen on.
    scores
        At each value, the scores on the images that are reported on; perhaps the same.
    tolerance
        Mean IoU that a value may lose against the best and still belong to the plateau.
    class_names
    coverage
        Of all these images.
    protocol
    truth
        Of all these images.
    selected_on, reported_on
        Names of the two sets of images, and how many of each were scored.
    common
        Number of images in both sets.
    saliency_threshold
        Where that was swept, too: the one at which these scores are.
    """

    parameter: str
    values: tuple[float, ...]
    chosen_by: tuple[Scores, ...] = field(repr=False)
    scores: tuple[Scores, ...] = field(repr=False)
    tolerance: float
    class_names: tuple[str, ...]
    coverage: Coverage
    protocol: Protocol
    truth: GroundTruth = field(repr=False)
    selected_on: tuple[str, int]
    reported_on: tuple[str, int]
    common: int
    saliency_threshold: int | None = None

    def warnings(self) -> list[str]:
        """What the scores leave out, and what is probably wrong with the ground truth, one line each."""
        return self.coverage.warnings() + self.truth.warnings()

    @property
    def best(self) -> int:
        """Index of the value with the highest mean IoU in ``chosen_by``; of equal ones, the first."""
        return int(np.nanargmax([each.mean_iou for each in self.chosen_by]))

    @property
    def plateau(self) -> tuple[int, int]:
        """First and last index of the values around the best that lose at most the tolerance."""
        limit = self.chosen_by[self.best].mean_iou - self.tolerance
        first = last = self.best
        while first > 0 and self.chosen_by[first - 1].mean_iou >= limit:
            first -= 1
        while last + 1 < len(self.values) and self.chosen_by[last + 1].mean_iou >= limit:
            last += 1
        return first, last

    @property
    def protocol_at_best(self) -> Protocol:
        """How the scores at the best value are made."""
        settings = self.protocol.settings
        assert settings is not None
        best: dict[str, Any] = {self.parameter: self.values[self.best]}
        return replace(self.protocol, settings=replace(settings, **best))

    def selection(self) -> str:
        """On whose ground truth the value was chosen, and what that means for the scores."""
        where, images = self.selected_on
        chosen = "was" if self.saliency_threshold is None else "and the saliency threshold were"
        note = f"{self.parameter} {chosen} chosen on the pixel ground truth of {where} ({counted(images, 'image')})"
        if self.selected_on == self.reported_on and self.common == images:
            return note + "; the scores are on the same images, and so optimistic"
        note += f"; the scores are on {self.reported_on[0]} ({counted(self.reported_on[1], 'image')})"
        return note + (f", {self.common} of them in both" if self.common else "")

    def to_json(self) -> dict:
        """Everything, ready for :func:`json.dumps`; NaN becomes None."""
        best, plateau = self.best, self.plateau
        return {
            "sweep": self.parameter,
            "best": self._row(best),
            "plateau": {"from": self.values[plateau[0]], "to": self.values[plateau[1]], "tolerance": self.tolerance},
            "classes": [
                {"label": label, **_plain(asdict(row))} for label, row in enumerate(self.scores[best].classes)],
            "absent_classes": list(self.scores[best].absent),
            "selection": {
                "said": self.selection(), "selected_on": self.selected_on[0], "selected_images": self.selected_on[1],
                "reported_on": self.reported_on[0], "reported_images": self.reported_on[1],
                "common_images": self.common},
            "rows": self.all_rows(),
            "ground_truth": self.truth.to_json(),
            **asdict(self.coverage),
            "protocol": self.protocol_at_best.to_json(),
            "provenance": list(self.protocol.provenance),
        }

    def to_rows(self) -> list[list[Any]]:
        """A row per value."""
        head = [self.parameter, "mean_iou", "overall_acc", "mean_acc", "freqw_acc", "over_activation",
                "under_activation", "chosen_by_mean_iou"]
        rows = [[f"{row['value']:.6f}", *("" if row[key] is None else f"{row[key]:.6f}" for key in head[1:])]
                for row in self.all_rows()]
        if self.saliency_threshold is None:
            return [head, *rows]
        return [["saliency_threshold", *head], *([self.saliency_threshold, *row] for row in rows)]

    def all_rows(self) -> list[dict]:
        """The scores at each value, ready for JSON."""
        return [self._row(index) for index in range(len(self.values))]

    def to_text(self, bars: bool = False) -> str:
        """Aligned plain text: the best value, its plateau and its scores."""
        scores, (first, last) = self.scores[self.best], self.plateau
        objects = scores.classes[1:]
        head = aligned([
            *([] if self.saliency_threshold is None else [["Best saliency threshold", str(self.saliency_threshold)]]),
            [f"Best {self.parameter}", shown_number(self.values[self.best])],
            ["Plateau", f"{shown_number(self.values[first])} to {shown_number(self.values[last])}"],
            ["Mean IoU", shown_number(scores.mean_iou)],
            ["Over-activation", shown_number(_class_mean(objects, "fp_rate"))],
            ["Under-activation", shown_number(_class_mean(objects, "fn_rate"))]])
        notes = [
            self.selection(),
            f"plateau: values around the best whose mean IoU is at most {self.tolerance:g} below it",
            "over- and under-activation: false positives and false negatives over the union, means of object classes",
            *self.protocol_at_best.notes(self.reported_on[1]), *self.truth.notes(), *_absent_note(scores),
            *self.warnings()]
        return lines_text([*head, "", *_class_table(scores.classes, None, bars), "", *notes])

    def _row(self, index: int) -> dict:
        scores = self.scores[index]
        objects = scores.classes[1:]
        numbers = {
            **({} if self.saliency_threshold is None else {"saliency_threshold": self.saliency_threshold}),
            "value": self.values[index], "mean_iou": scores.mean_iou, "overall_acc": scores.overall_acc,
            "mean_acc": scores.mean_acc, "freqw_acc": scores.freqw_acc,
            "over_activation": _class_mean(objects, "fp_rate"), "under_activation": _class_mean(objects, "fn_rate"),
            "chosen_by_mean_iou": self.chosen_by[index].mean_iou,
        }
        return {**_plain(numbers), "iou": [json_number(row.iou) for row in scores.classes]}


@dataclass(frozen=True, eq=False)
class PairedSweep:
    """Scores at pairs of values: a sweep at each of several thresholds of the saliency, and the best of all.

    Attributes
    ----------
    sweeps
        One or more, by ascending ``saliency_threshold``.
    """

    sweeps: tuple[Sweep, ...]

    @property
    def best(self) -> Sweep:
        """The sweep with the highest mean IoU in ``chosen_by``; of equal ones, the first."""
        return self.sweeps[int(np.nanargmax([_best_choice(each) for each in self.sweeps]))]

    def warnings(self) -> list[str]:
        """What the scores leave out, one line each."""
        return self.best.warnings()

    def to_json(self) -> dict:
        """As :meth:`Sweep.to_json` of the best one, with the rows of all of them."""
        return self.best.to_json() | {
            "sweep": f"{self.best.parameter},saliency-threshold",
            "best_by_saliency_threshold": [each.all_rows()[each.best] for each in self.sweeps],
            "rows": [row for each in self.sweeps for row in each.all_rows()]}

    def to_rows(self) -> list[list[Any]]:
        """A row per pair of values."""
        return [self.sweeps[0].to_rows()[0], *(row for each in self.sweeps for row in each.to_rows()[1:])]

    def to_text(self, bars: bool = False) -> str:
        """Aligned plain text: the best value at each saliency threshold, then the best of all as in a single sweep."""
        rows = [["Saliency threshold", f"Best {self.best.parameter}", "Mean IoU", "where it was chosen"]]
        rows += [[str(each.saliency_threshold), shown_number(each.values[each.best]),
                  shown_number(each.scores[each.best].mean_iou), shown_number(_best_choice(each))]
                 for each in self.sweeps]
        if all(each.scores is each.chosen_by for each in self.sweeps):
            rows = [row[:3] for row in rows]
        return lines_text([*aligned(rows), ""]) + self.best.to_text(bars)


def _best_choice(sweep: Sweep) -> float:
    return sweep.chosen_by[sweep.best].mean_iou


@dataclass(frozen=True, eq=False)
class Comparison:
    """Runs scored on the same images, with confidence intervals.

    Attributes
    ----------
    names
        Names of the runs.
    evaluations
        Their scores on the images that all of them have.
    mean_ious, differences : tuple of Interval
        Mean IoU of each run, and its difference from that of the first run.
    level, resamples, seed
        Settings of the bootstrap.
    """

    names: tuple[str, ...]
    evaluations: tuple[Evaluation, ...]
    mean_ious: tuple[Interval, ...]
    differences: tuple[Interval, ...]
    level: float
    resamples: int
    seed: int

    def warnings(self) -> list[str]:
        """What the scores leave out, one line each."""
        return [f"{name}: {line}" for name, each in zip(self.names, self.evaluations) for line in each.warnings()]

    def to_json(self) -> dict:
        """Everything, ready for :func:`json.dumps`."""
        return {
            "runs": [
                {"name": name, "mean_iou": asdict(mean), "difference": asdict(difference),
                 "evaluation": evaluation.to_json()}
                for name, mean, difference, evaluation in zip(
                    self.names, self.mean_ious, self.differences, self.evaluations)],
            "bootstrap": {
                "method": "paired, over images, percentile interval", "level": self.level,
                "resamples": self.resamples, "seed": self.seed,
                "images": self.evaluations[0].coverage.images},
        }

    def to_rows(self) -> list[list[Any]]:
        """A row per run."""
        head = ["run", "images", "mean_iou", "low", "high", "difference", "difference_low", "difference_high"]
        return [head, *(
            [name, evaluation.coverage.images, *(csv_number(value) for part in (mean, difference)
                                                 for value in (part.value, part.low, part.high))]
            for name, evaluation, mean, difference in zip(
                self.names, self.evaluations, self.mean_ious, self.differences))]

    def to_text(self, bars: bool = False) -> str:
        """Aligned plain text."""
        rows = [["Run", "Mean IoU", f"{self.level:.0%} interval", "Difference", f"{self.level:.0%} interval"]]
        for name, mean, difference in zip(self.names, self.mean_ious, self.differences):
            rows.append([
                name, shown_number(mean.value), f"{mean.low:.4f} to {mean.high:.4f}",
                f"{difference.value:+.4f}", f"{difference.low:+.4f} to {difference.high:+.4f}"])
        rows[1][3:] = ["", ""]  # the first run, from which the others differ
        images = counted(self.evaluations[0].coverage.images, "image")
        notes = [
            f"differences from {self.names[0]}; paired bootstrap over {images}, {self.resamples} resamples, "
            f"seed {self.seed}"]
        for name, evaluation in zip(self.names, self.evaluations):
            notes += [f"{name}: {note}" for note in evaluation.footnotes()]
        return lines_text([*aligned(rows), "", *notes])


def as_json(result: Evaluation | Sweep | PairedSweep | Comparison) -> str:
    """The scores and how they were made, as indented JSON."""
    return json_text(result.to_json())


def as_csv(result: Evaluation | Sweep | PairedSweep | Comparison) -> str:
    """The scores as CSV; NaN is empty.

    In a table of classes, the overall accuracy is in column ``acc``, and the frequency-weighted
    accuracy, which is a weighted mean of IoU, in column ``iou``.
    """
    return csv_text(result.to_rows())


def as_table(result: Evaluation | Sweep | PairedSweep | Comparison, bars: bool = False) -> str:
    """The scores and how they were made, as aligned plain text; for a terminal, ``bars`` show IoU by class or image."""
    return result.to_text(bars)


def _image_score(identifier: str, counts: LabelCounts, class_names: tuple[str, ...], ignored: str) -> ImageScore:
    matrix = ConfusionMatrix(class_names)
    matrix.add(counts)
    scores = matrix.scores(ignored)
    known = [row for row in scores.classes if not math.isnan(row.iou)]
    worst = min(known, key=lambda row: row.iou).name if known else ""
    return ImageScore(
        identifier, scores.mean_iou, scores.overall_acc, worst, sum(row.pixels for row in scores.classes))


def _class_table(classes: Sequence[ClassScore], boundary: np.ndarray | None, bars: bool = False) -> list[str]:
    rows = [["Class", "IoU", "Acc", "FP rate", "FN rate"]]
    rows += [[row.name, *map(shown_number, (row.iou, row.acc, row.fp_rate, row.fn_rate))] for row in classes]
    if boundary is not None:
        rows = [[*row, text] for row, text in zip(rows, ["Boundary IoU", *map(shown_number, boundary)])]
    return aligned(_with_bars(rows, [row.iou for row in classes]) if bars else rows)


def _with_bars(rows: Sequence[Sequence[str]], values: Sequence[float]) -> list[list[str]]:
    """The rows of a table, the first of which is its head, with bars behind the second column."""
    return [[*row[:2], shown, *row[2:]] for row, shown in zip(rows, ["", *map(bar, values)])]


def _absent_note(scores: Scores) -> list[str]:
    return [f"left out of the means (no pixels): {', '.join(scores.absent)}"] if scores.absent else []


def _class_mean(classes: Sequence[ClassScore], rate: str) -> float:
    """Mean of a rate over the classes for which it is defined; NaN if there are none."""
    values = [value for row in classes if not math.isnan(value := getattr(row, rate))]
    return math.fsum(values) / len(values) if values else math.nan


def _plain(values: dict) -> dict:
    """The values with NaN as None."""
    return {key: json_number(value) for key, value in values.items()}
