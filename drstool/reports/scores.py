"""Score files: what was scored, how, and the scores, as JSON, CSV or a table.

A score that does not say how it was made cannot be compared with another; so each result here holds
the images it rests on (:class:`Coverage`) and the way it was made (:class:`Protocol`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from drstool.artifacts.provenance import method_of
from drstool.labels import label_names, num_classes
from drstool.metrics import BOUNDARY_RATIO, ClassScore, ConfusionMatrix, LabelCounts, Scores, mean_of
from drstool.recipe import CueSettings
from drstool.reports.text import aligned, csv_number, csv_text, json_number, json_text, listed, shown_number

if TYPE_CHECKING:
    from drstool.metrics.bootstrap import Interval

__all__ = [
    "Comparison", "Coverage", "Evaluation", "ImageScore", "Protocol", "Sweep", "as_csv", "as_json", "as_table",
]

# How the ignored share is told in words, by `metrics.IGNORED_AS`.
_IGNORED_WORDS = {
    "miss": "counted as missed", "skip": "not counted", "background": "counted as background",
}
# Of more classes JSON gives the confusion matrix as a list of the pairs that occur.
_MOST_CLASSES_OF_A_TABLE = 256
_RESIZING = "bilinear, corners aligned, before labels are taken"


@dataclass(frozen=True)
class ImageScore:
    """One image's scores.

    Attributes
    ----------
    id
    mean_iou
        Over the classes that are in the image's target or prediction; NaN if its target is ignored.
    overall_acc
    worst
        Name of the class of lowest IoU; empty where there is none.
    pixels
        Of the target, without ignored ones.
    """

    id: str
    mean_iou: float
    overall_acc: float
    worst: str
    pixels: int


@dataclass(frozen=True)
class Coverage:
    """Which images a result rests on, and which it does not.

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
        The first few of them.
    """

    images: int
    missing: tuple[str, ...] = ()
    without_target: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    extra: int = 0
    extra_ids: tuple[str, ...] = ()

    def warnings(self) -> list[str]:
        """What is not in the scores, a line each."""
        notes = []
        if self.missing:
            notes.append(f"{len(self.missing)} images without prediction: {listed(self.missing)}")
        if self.without_target:
            notes.append(f"{len(self.without_target)} images without ground truth: {listed(self.without_target)}")
        if self.failed:
            notes.append(f"{len(self.failed)} images failed: {listed(self.failed)}")
        if self.extra:
            notes.append(f"{self.extra} predictions of other images left out: "
                         + ", ".join(self.extra_ids) + (", …" if self.extra > len(self.extra_ids) else ""))
        return notes

    def to_json(self) -> dict:
        """As a JSON object."""
        return {
            "images": self.images, "missing": list(self.missing), "without_target": list(self.without_target),
            "failed": list(self.failed), "extra": self.extra, "extra_ids": list(self.extra_ids),
        }


@dataclass(frozen=True)
class Protocol:
    """How scores were made.

    Attributes
    ----------
    kind : "labels" or "maps"
        What was scored. Maps are scored by their strongest cue at each pixel.
    ignored
        What predicted ignore labels counted as, see :data:`drstool.metrics.IGNORED_AS`.
    ignore_label
        Value of the ignore label.
    settings
        Of the cues, for maps; None for labels.
    ignore_rules
        Whether the rules that ignore pixels were applied to maps.
    dataset
        What the user called the dataset.
    dataset_digest
        Over its ids and tags.
    target_digest
        Over the files of the ground truth that was scored, in the order of the ids.
    provenance
        Chain of the predictions.
    target_provenance
        Chain of the dataset, where it is drstool's.
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
        """As a JSON object, but for the predictions' own chain."""
        maps = self.settings is not None
        undecided = "ignored where a rule says so" if self.ignore_rules else "none ignored"
        return {
            "size": "full",
            "resize": _RESIZING if maps else None,
            "ignore_label": self.ignore_label,
            "ignored_predictions": self.ignored,
            "predictions": self.kind,
            "label_of_maps": f"strongest cue, {undecided}" if maps else None,
            "cues": asdict(self.settings) if self.settings is not None else None,
            "dataset": self.dataset,
            "dataset_digest": self.dataset_digest,
            "ground_truth_digest": self.target_digest,
            "pixel_ground_truth_used": True,
            "method": method_of(self.provenance),
            "dataset_provenance": list(self.target_provenance),
        }

    def words(self, images: int) -> list[str]:
        """What a reader of the numbers must know, a line each."""
        notes = [f"{images} images at full size, {self.kind} against pixel ground truth of {self.dataset}"]
        if self.settings is not None:
            shown = f"alpha {self.settings.alpha:g}, background {self.settings.background}"
            for name in ("constant", "power"):
                if name in self.settings.backgrounds:
                    shown += f", {name} {getattr(self.settings, name):g}"
            rules = "; the ignore rules applied" if self.ignore_rules else ""
            notes.append(f"label of maps: the strongest cue, {shown}{rules}")
        return notes


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Scores of one run, and how they were made.

    Attributes
    ----------
    scores
    confusion
        All counts of all images.
    class_names
        The C object classes.
    coverage, protocol
    boundary : (C + 1,) float64 or None
        Boundary IoU by class, where it was asked for.
    boundary_ratio
        Its distance over the image's diagonal.
    counts
        By id, of each image, where they were asked for.
    """

    scores: Scores
    confusion: ConfusionMatrix = field(repr=False)
    class_names: tuple[str, ...]
    coverage: Coverage
    protocol: Protocol
    boundary: np.ndarray | None = None
    boundary_ratio: float = BOUNDARY_RATIO
    counts: dict[str, LabelCounts] = field(default_factory=dict, repr=False)

    def warnings(self) -> list[str]:
        """What is not in the scores, a line each."""
        return self.coverage.warnings()

    def per_image(self) -> list[ImageScore]:
        """Each image's scores, the worst first; images without a labelled pixel last."""
        rows = [_image_score(i, counts, self.class_names, self.protocol.ignored) for i, counts in self.counts.items()]
        return sorted(rows, key=lambda row: (math.isnan(row.mean_iou), row.mean_iou, row.id))

    def to_json(self) -> dict:
        """Everything, ready for :func:`json.dumps`; NaN becomes None."""
        scores = self.scores
        total = self.confusion.total()
        told = {
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
            **self.coverage.to_json(),
            "frequencies": self._frequencies(),
            "confusion": self._confusion_json(total),
        }
        if self.counts:
            told["per_image"] = [_plain(asdict(row)) for row in self.per_image()]
        boundary = None if self.boundary is None else {"distance": f"{self.boundary_ratio:g} of the image's diagonal"}
        protocol = {**self.protocol.to_json(), "classes_left_out": list(scores.absent), "boundary_iou": boundary}
        return {**told, "protocol": protocol, "provenance": list(self.protocol.provenance)}

    def to_rows(self) -> list[list[object]]:
        """A row a class, and below them the means, whose ``label`` is empty; or a row an image."""
        if self.counts:
            head = ["id", "mean_iou", "overall_acc", "worst_class", "pixels"]
            return [head, *([row.id, csv_number(row.mean_iou), csv_number(row.overall_acc), row.worst, row.pixels]
                            for row in self.per_image())]
        scores, with_boundary = self.scores, self.boundary is not None
        rows: list[list[object]] = []
        for label, row in enumerate(scores.classes):
            rates = map(csv_number, (row.iou, row.acc, row.fp_rate, row.fn_rate))
            rows.append([label, row.name, *rates, row.pixels])
        pixels = sum(row.pixels for row in scores.classes)
        fp_rate, fn_rate = (csv_number(_class_mean(scores.classes, rate)) for rate in ("fp_rate", "fn_rate"))
        means = [csv_number(scores.mean_iou), csv_number(scores.mean_acc), fp_rate, fn_rate]
        rows += [
            ["", "Mean", *means, pixels],
            ["", "Overall Acc", "", csv_number(scores.overall_acc), "", "", pixels],
            ["", "FreqW Acc", csv_number(scores.freqw_acc), "", "", "", pixels]]
        rows.insert(0, ["label", "name", "iou", "acc", "fp_rate", "fn_rate", "pixels"])
        if with_boundary:
            extra = ["boundary_iou", *map(csv_number, self.boundary), csv_number(mean_of(self.boundary)), "", ""]
            rows = [[*row, value] for row, value in zip(rows, extra)]
        return rows

    def to_text(self) -> str:
        """Aligned plain text: the means, a table of the classes or images, and how they were made."""
        scores = self.scores
        means = [
            ("Overall Acc", scores.overall_acc), ("Mean Acc", scores.mean_acc),
            ("FreqW Acc", scores.freqw_acc), ("Mean IoU", scores.mean_iou)]
        if self.boundary is not None:
            means.append(("Boundary IoU", mean_of(self.boundary)))
        head = aligned([[name, shown_number(value)] for name, value in means])
        table = self._image_table() if self.counts else _class_table(scores.classes, self.boundary)
        return "\n".join([*head, "", *table, "", *self.footnotes()]) + "\n"

    def _image_table(self) -> list[str]:
        rows = [[row.id, shown_number(row.mean_iou), shown_number(row.overall_acc), row.worst or "-"]
                for row in self.per_image()]
        return aligned([["Image, worst first", "Mean IoU", "Acc", "Worst class"], *rows])

    def _classes_json(self) -> list[dict]:
        rows = [{"label": label, **_plain(asdict(row))} for label, row in enumerate(self.scores.classes)]
        if self.boundary is not None:
            rows = [{**row, "boundary_iou": json_number(float(iou))} for row, iou in zip(rows, self.boundary)]
        return rows

    def _frequencies(self) -> list[dict]:
        """How often each class is in the ground truth and in the predictions, by pixels and images."""
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
        """The confusion matrix as a table, or as the pairs that occur where there are many classes."""
        classes = num_classes(self.class_names)
        told = {"rows": "target", "columns": "prediction, the last one ignored"}
        if classes <= _MOST_CLASSES_OF_A_TABLE:
            return {**told, "counts": self.confusion.counts.tolist()}
        pairs = zip(total.target.tolist(), total.prediction.tolist(), total.pixels.tolist())
        return {**told, "pairs": [list(pair) for pair in pairs], "ignored_prediction": classes}

    def footnotes(self) -> list[str]:
        """What a reader of the numbers must know, a line each."""
        scores, absent = self.scores, self.scores.absent
        notes = self.protocol.words(self.coverage.images)
        if self.boundary is not None:
            notes.append(f"boundary IoU within {self.boundary_ratio:g} of the image's diagonal from a contour")
        if scores.ignored_share > 0:
            notes.append(f"{scores.ignored_share:.2%} of the pixels predicted as ignored, "
                         + _IGNORED_WORDS[self.protocol.ignored])
        if absent:
            notes.append(f"in no mean, for want of a pixel: {', '.join(absent)}")
        return notes + self.warnings()


@dataclass(frozen=True, eq=False)
class Sweep:
    """Scores at the 256 values of one number of the cue rule, and the best of them.

    Attributes
    ----------
    parameter
        ``"alpha"``, ``"constant"`` or ``"power"``.
    values
        Its 256 values, ascending.
    chosen_by
        Scores by value of the images on which the best value is chosen.
    scores
        Scores by value of the images that are reported on; the same where those are the same.
    tolerance
        Mean IoU that a value may lose against the best and still belong to the plateau.
    class_names
    coverage
        Of all images concerned.
    protocol
    selected_on, reported_on
        Names of the two parts, and how many images each scored.
    common
        Number of images that are in both.
    """

    parameter: str
    values: tuple[float, ...]
    chosen_by: tuple[Scores, ...] = field(repr=False)
    scores: tuple[Scores, ...] = field(repr=False)
    tolerance: float
    class_names: tuple[str, ...]
    coverage: Coverage
    protocol: Protocol
    selected_on: tuple[str, int]
    reported_on: tuple[str, int]
    common: int

    def warnings(self) -> list[str]:
        """What is not in the scores, a line each."""
        return self.coverage.warnings()

    @property
    def best(self) -> int:
        """Index of the value of highest mean IoU on the choosing images, the lowest of equals."""
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
        return replace(self.protocol, settings=replace(settings, **{self.parameter: self.values[self.best]}))

    def selection(self) -> str:
        """Whose ground truth chose the value, and what that means for the scores."""
        where, images = self.selected_on
        said = f"{self.parameter} was chosen on the pixel ground truth of {where} ({images} images)"
        if self.selected_on == self.reported_on and self.common == images:
            return said + "; the scores are of the same images, and so are the best that can be had on them"
        said += f"; the scores are of {self.reported_on[0]} ({self.reported_on[1]} images)"
        return said + (f", {self.common} of which are in both" if self.common else "")

    def to_json(self) -> dict:
        """Everything, ready for :func:`json.dumps`; NaN becomes None."""
        best, plateau = self.best, self.plateau
        return {
            "sweep": self.parameter,
            "best": self._row(best),
            "plateau": {"from": self.values[plateau[0]], "to": self.values[plateau[1]], "tolerance": self.tolerance},
            "classes": [{"label": label, **_plain(asdict(row))}
                        for label, row in enumerate(self.scores[best].classes)],
            "absent_classes": list(self.scores[best].absent),
            "selection": {
                "said": self.selection(), "selected_on": self.selected_on[0], "selected_images": self.selected_on[1],
                "reported_on": self.reported_on[0], "reported_images": self.reported_on[1],
                "common_images": self.common},
            "rows": [self._row(index) for index in range(len(self.values))],
            **self.coverage.to_json(),
            "protocol": self.protocol_at_best.to_json(),
            "provenance": list(self.protocol.provenance),
        }

    def to_rows(self) -> list[list[object]]:
        """A row a value."""
        head = [self.parameter, "mean_iou", "overall_acc", "mean_acc", "freqw_acc", "over_activation",
                "under_activation", "chosen_by_mean_iou"]
        rows = [self._row(index) for index in range(len(self.values))]
        return [head, *([f"{row['value']:.6f}", *("" if row[key] is None else f"{row[key]:.6f}" for key in head[1:])]
                        for row in rows)]

    def to_text(self) -> str:
        """Aligned plain text: the best value, its plateau and its scores."""
        best, (first, last) = self.best, self.plateau
        scores, row = self.scores[best], self._row(best)
        value = "{:.4f}".format
        head = aligned([
            [f"Best {self.parameter}", value(self.values[best])],
            ["Plateau", f"{value(self.values[first])} to {value(self.values[last])}"],
            ["Mean IoU", shown_number(scores.mean_iou)],
            ["Over-activation", shown_number(_nan(row["over_activation"]))],
            ["Under-activation", shown_number(_nan(row["under_activation"]))]])
        notes = [
            self.selection(),
            f"plateau: values around the best whose mean IoU is at most {self.tolerance:g} below it",
            "over- and under-activation: mean over object classes of false positives and of false negatives, "
            "as shares of the union",
            *self.protocol_at_best.words(self.reported_on[1])]
        if scores.absent:
            notes.append(f"in no mean, for want of a pixel: {', '.join(scores.absent)}")
        table = _class_table(scores.classes, None)
        return "\n".join([*head, "", *table, "", *notes, *self.warnings()]) + "\n"

    def _row(self, index: int) -> dict:
        scores = self.scores[index]
        objects = scores.classes[1:]
        numbers = {
            "value": self.values[index], "mean_iou": scores.mean_iou, "overall_acc": scores.overall_acc,
            "mean_acc": scores.mean_acc, "freqw_acc": scores.freqw_acc,
            "over_activation": _class_mean(objects, "fp_rate"), "under_activation": _class_mean(objects, "fn_rate"),
            "chosen_by_mean_iou": self.chosen_by[index].mean_iou,
        }
        return {**_plain(numbers), "iou": [json_number(row.iou) for row in scores.classes]}


@dataclass(frozen=True, eq=False)
class Comparison:
    """Runs scored on the same images, with confidence intervals.

    Attributes
    ----------
    names
        Of the runs.
    evaluations
        On the images that all runs have.
    mean_ious, differences : tuple of Interval
        Mean IoU of each run, and what each has over the first one.
    level, resamples, seed
        Of the bootstrap.
    """

    names: tuple[str, ...]
    evaluations: tuple[Evaluation, ...]
    mean_ious: tuple[Interval, ...]
    differences: tuple[Interval, ...]
    level: float
    resamples: int
    seed: int

    def warnings(self) -> list[str]:
        """What is not in the scores, a line each."""
        return [f"{name}: {line}" for name, each in zip(self.names, self.evaluations) for line in each.warnings()]

    def to_json(self) -> dict:
        """Everything, ready for :func:`json.dumps`."""
        return {
            "runs": [
                {"name": name, "mean_iou": mean.to_json(), "difference": difference.to_json(),
                 "evaluation": evaluation.to_json()}
                for name, mean, difference, evaluation in zip(
                    self.names, self.mean_ious, self.differences, self.evaluations)],
            "bootstrap": {
                "method": "paired, over images, percentile interval", "level": self.level,
                "resamples": self.resamples, "seed": self.seed,
                "images": self.evaluations[0].coverage.images},
        }

    def to_rows(self) -> list[list[object]]:
        """A row a run."""
        head = ["run", "images", "mean_iou", "low", "high", "difference", "difference_low", "difference_high"]
        return [head, *(
            [name, evaluation.coverage.images, *(csv_number(value) for part in (mean, difference)
                                                 for value in (part.value, part.low, part.high))]
            for name, evaluation, mean, difference in zip(
                self.names, self.evaluations, self.mean_ious, self.differences))]

    def to_text(self) -> str:
        """Aligned plain text."""
        rows = [["Run", "Mean IoU", f"{self.level:.0%} interval", "Difference", f"{self.level:.0%} interval"]]
        for number, (name, mean, difference) in enumerate(zip(self.names, self.mean_ious, self.differences)):
            rows.append([name, shown_number(mean.value), f"{mean.low:.4f} to {mean.high:.4f}"])
            rows[-1] += [f"{difference.value:+.4f}", f"{difference.low:+.4f} to {difference.high:+.4f}"] if number \
                else ["", ""]
        notes = [
            f"differences from {self.names[0]}; paired bootstrap over {self.evaluations[0].coverage.images} images, "
            f"{self.resamples} resamples, seed {self.seed}"]
        for name, evaluation in zip(self.names, self.evaluations):
            notes += [f"{name}: {note}" for note in evaluation.footnotes()]
        return "\n".join([*aligned(rows), "", *notes]) + "\n"


def as_json(result: Evaluation | Sweep | Comparison) -> str:
    """The scores and how they were made, as indented JSON."""
    return json_text(result.to_json())


def as_csv(result: Evaluation | Sweep | Comparison) -> str:
    """The scores as CSV; NaN is empty.

    Of classes, the overall accuracy stands in column ``acc``, the frequency-weighted one, which is
    a weighted mean of IoU, in column ``iou``.
    """
    return csv_text(result.to_rows())


def as_table(result: Evaluation | Sweep | Comparison) -> str:
    """The scores and how they were made, as aligned plain text."""
    return result.to_text()


def _image_score(identifier: str, counts: LabelCounts, class_names: tuple[str, ...], ignored: str) -> ImageScore:
    matrix = ConfusionMatrix(class_names)
    matrix.add(counts)
    scores = matrix.scores(ignored)
    known = [row for row in scores.classes if not math.isnan(row.iou)]
    worst = min(known, key=lambda row: row.iou).name if known else ""
    return ImageScore(
        identifier, scores.mean_iou, scores.overall_acc, worst, sum(row.pixels for row in scores.classes))


def _class_table(classes: Sequence[ClassScore], boundary: np.ndarray | None) -> list[str]:
    rows = [["Class", "IoU", "Acc", "FP rate", "FN rate"]]
    rows += [[row.name, *map(shown_number, (row.iou, row.acc, row.fp_rate, row.fn_rate))] for row in classes]
    if boundary is not None:
        rows = [[*row, text] for row, text in zip(rows, ["Boundary IoU", *map(shown_number, boundary)])]
    return aligned(rows)


def _class_mean(classes: Sequence[ClassScore], rate: str) -> float:
    """Mean of a rate over the classes that have it; NaN if none has."""
    values = [value for row in classes if not math.isnan(value := getattr(row, rate))]
    return math.fsum(values) / len(values) if values else math.nan


def _plain(values: dict) -> dict:
    """The values with NaN as None."""
    return {key: json_number(value) for key, value in values.items()}


def _nan(value: float | None) -> float:
    return math.nan if value is None else value
