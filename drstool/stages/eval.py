"""``eval``: scores of label images or maps against pixel ground truth.

This is the one stage whose result rests on pixel ground truth (``overlay`` only draws it, and
training looks at it only where ``--select-on`` has this stage choose the epoch); an
:class:`Evaluation` says so, and says how it was made.
"""

from __future__ import annotations

import csv
import io
import json
import math
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from drstool import cues
from drstool.data.decoding import load_saliency, load_target
from drstool.data.item import Dataset, Item
from drstool.errors import DrstoolError, InputError
from drstool.formats.header import Header
from drstool.formats.label_png import LabelRecord
from drstool.formats.maps import MapRecord
from drstool.labels import IGNORE, check_class_names
from drstool.metrics import ConfusionMatrix, Scores, count_labels
from drstool.parallel import OnError, Track, map_items, untracked
from drstool.recipe import CueSettings

__all__ = ["Evaluation", "as_csv", "as_json", "as_table", "evaluate"]

# Kinds of records that hold labels, or maps from which labels follow.
_SCORED_KINDS = ("labels", "localization-maps", "refined-maps", "score-maps")
# Ids named in an error or counted by name; a message stays one line.
_SHOWN_IDS = 5
# How the ignored share is told in words, by `metrics.IGNORED_AS`.
_IGNORED_WORDS = {
    "miss": "counted as missed", "skip": "not counted", "background": "counted as background",
}


@dataclass(frozen=True)
class Evaluation:
    """Scores, and how they were made.

    Attributes
    ----------
    scores
    confusion : (C + 1, C + 2) int64
        See :attr:`drstool.metrics.ConfusionMatrix.counts`.
    class_names
        The C object classes.
    kind : "labels" or "maps"
        What was scored. Maps are scored by their strongest cue at each pixel, without the rules
        that ignore pixels.
    ignored
        What predicted ignore labels counted as, see :data:`drstool.metrics.IGNORED_AS`.
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
    settings
        Of the cues, for maps; None for labels.
    dataset
        What the user called the dataset.
    dataset_digest
        Over its ids and tags.
    provenance
        Chain of the predictions.
    """

    scores: Scores
    confusion: np.ndarray = field(repr=False, compare=False)
    class_names: tuple[str, ...]
    kind: str
    ignored: str
    images: int
    missing: tuple[str, ...] = ()
    without_target: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    extra: int = 0
    extra_ids: tuple[str, ...] = ()
    settings: CueSettings | None = None
    dataset: str = ""
    dataset_digest: str = ""
    provenance: tuple[dict, ...] = ()

    def to_json(self) -> dict:
        """Everything but the confusion matrix, ready for :func:`json.dumps`; NaN becomes None."""
        scores = self.scores
        return {
            "overall_acc": _number(scores.overall_acc),
            "mean_acc": _number(scores.mean_acc),
            "freqw_acc": _number(scores.freqw_acc),
            "mean_iou": _number(scores.mean_iou),
            "classes": [
                {"label": label, **{key: _number(value) for key, value in asdict(row).items()}}
                for label, row in enumerate(scores.classes)],
            "absent_classes": list(scores.absent),
            "images": self.images,
            "missing": list(self.missing),
            "without_target": list(self.without_target),
            "failed": list(self.failed),
            "extra": self.extra,
            "extra_ids": list(self.extra_ids),
            "ignored_share": _number(scores.ignored_share),
            "protocol": {
                "size": "full",
                "ignore_label": IGNORE,
                "ignored_predictions": self.ignored,
                "predictions": self.kind,
                "label_of_maps": None if self.settings is None else "strongest cue, none ignored",
                "cues": None if self.settings is None else asdict(self.settings),
                "dataset": self.dataset,
                "dataset_digest": self.dataset_digest,
                "pixel_ground_truth_used": True,
            },
            "provenance": list(self.provenance),
        }


def evaluate(
    records: Iterable[MapRecord | LabelRecord], dataset: Dataset, *,
    header: Header | None = None, ids: Collection[str] | None = None,
    settings: CueSettings | None = None, saliency_of: Callable[[str], Path] | None = None,
    ignored: str = "miss", workers: int = 1, on_error: OnError | None = None,
    track: Track = untracked,
) -> Evaluation:
    """Scores of the predictions against the dataset's ground truth, at full image size.

    The records are taken as they come and none is kept, so that memory does not grow with their
    number. Those whose id the dataset does not have are counted and left out.

    Parameters
    ----------
    records
        Label images; or maps, scored by the strongest cue at each pixel without the rules that
        ignore pixels, since a map's score should not depend on those.
    dataset
        Its items say which images are scored, and have the ground truth.
    header
        Of the predictions; its class names must be the dataset's. None: foreign files.
    ids
        Ids of the records if they are known beforehand, so that a lack is told before the work.
    settings, saliency_of
        For maps: the cues, and the path of an image id's saliency map, which is needed for
        ``background="saliency"``.
    ignored : "miss", "skip" or "background"
        What predicted ignore labels count as.
    workers
        Number of threads; the scores do not depend on it.
    on_error
        None: the first error is raised, and each image of the dataset must have a prediction
        and ground truth. Otherwise told of what is wrong, and the images concerned are left out
        and listed in the result.
    track
        Progress display.

    Raises
    ------
    InputError
        No image is common to both; images lack a prediction or ground truth; class names differ
        or are unknown; a prediction is not of its target's size, comes twice, or holds values
        that are no label; a file cannot be read.
    UsageError
        Maps without ``saliency_of`` where the background cue needs one.
    """
    class_names = _class_names(dataset, header)
    settings = settings or CueSettings()
    tally = _Tally(_items_with_target(dataset, on_error), settings, saliency_of, on_error)
    if ids is not None:
        tally.check_matched(len(tally.items.keys() & set(ids)), len(ids), dataset)
        tally.check_missing([i for i in tally.items if i not in set(ids)], tell=False)

    def count(pair: tuple[MapRecord | LabelRecord, Item]) -> tuple[str, np.ndarray]:
        record, item = pair
        prediction = _labels_of(record, settings, saliency_of)
        counts = count_labels(
            load_target(item), prediction, class_names,
            target_name=f"ground truth {item.mask}",
            prediction_name=f"prediction of image '{item.id}'")
        return item.id, counts

    matrix, scored = ConfusionMatrix(class_names), set()
    pairs = tally.matching(records)
    for identifier, counts in track(
            map_items(count, pairs, workers, on_error), "eval", len(tally.items)):
        matrix.add(counts)
        scored.add(identifier)
    tally.check_matched(len(tally.seen), len(tally.seen) + tally.extra, dataset)
    missing = [i for i in tally.items if i not in tally.seen]
    tally.check_missing(missing, tell=True)
    if not scored:
        raise InputError(dataset.source, "not one prediction could be scored",
                         "see the errors of the images")
    return Evaluation(
        scores=matrix.scores(ignored), confusion=matrix.counts, class_names=class_names,
        kind="maps" if tally.maps else "labels", ignored=ignored, images=len(scored),
        missing=tuple(missing),
        without_target=tuple(item.id for item in dataset.items if item.mask is None),
        failed=tuple(i for i in tally.seen if i not in scored),
        extra=tally.extra, extra_ids=tuple(tally.extra_ids),
        settings=settings if tally.maps else None,
        dataset=dataset.source, dataset_digest=dataset.digest(),
        provenance=() if header is None else tuple(header.provenance))


class _Tally:
    """Which predictions have come, of which kind, and which belong to no image of the dataset."""

    def __init__(
        self, items: dict[str, Item | None], settings: CueSettings,
        saliency_of: Callable[[str], Path] | None, on_error: OnError | None,
    ) -> None:
        self.items = {i: item for i, item in items.items() if item is not None}
        self.without_target = items.keys() - self.items.keys()
        self.settings, self.saliency_of, self.on_error = settings, saliency_of, on_error
        self.seen: dict[str, None] = {}  # in the order of coming
        self.extra = 0
        self.extra_ids: list[str] = []
        self.maps = False

    def matching(
        self, records: Iterable[MapRecord | LabelRecord],
    ) -> Iterator[tuple[MapRecord | LabelRecord, Item]]:
        """The records that are to be scored, each with its item; the others are counted."""
        for record in records:
            if record.id in self.seen:
                self._tell(InputError(
                    f"prediction of image '{record.id}'", "comes twice",
                    "give one prediction an image"))
            elif record.id in self.items:
                self.seen[record.id] = None
                if isinstance(record, MapRecord) and not self.maps:
                    self.maps = True
                    cues.check_saliency_given(self.settings, self.saliency_of is not None)
                yield record, self.items[record.id]
            elif record.id not in self.without_target:
                self.extra += 1
                if len(self.extra_ids) < _SHOWN_IDS:
                    self.extra_ids.append(record.id)

    def check_matched(self, matched: int, predictions: int, dataset: Dataset) -> None:
        """Raise an error if no prediction is of an image of the dataset."""
        if not matched:
            first = f" (the first is '{self.extra_ids[0]}')" if self.extra_ids else ""
            raise InputError(
                dataset.source, f"has none of the {predictions} predicted images{first}"
                if predictions else "there is not one prediction to score",
                f"its ids are like '{next(iter(self.items))}'; check --data and --split")

    def check_missing(self, missing: list[str], tell: bool) -> None:
        """Raise or, if asked to, report an error if images have no prediction."""
        if missing and (tell or self.on_error is None):
            self._tell(InputError(
                "predictions", f"{len(missing)} of {len(self.items)} images have none: "
                + _listed(missing),
                "predict the whole split, or score what there is with --keep-going"))

    def _tell(self, error: DrstoolError) -> None:
        if self.on_error is None:
            raise error
        self.on_error(error)


def _class_names(dataset: Dataset, header: Header | None) -> tuple[str, ...]:
    """The object classes of dataset and predictions, which must be the same."""
    if header is not None and header.kind not in _SCORED_KINDS:
        raise InputError("predictions", f"hold {header.kind}, which cannot be scored",
                         "give label images or maps")
    predicted = header.class_names if header is not None else ()
    names = dataset.class_names or predicted
    if not names:
        raise InputError(
            dataset.source, "does not say its class names, nor do the predictions",
            "give them with --classes FILE, one a line")
    if predicted and tuple(predicted) != tuple(names):
        raise InputError(
            "predictions", f"are of {len(predicted)} classes ({_listed(predicted)}), but "
            f"{dataset.source} has {len(names)} ({_listed(names)})",
            "both must name the same classes in the same order")
    return check_class_names(names, dataset.source)


def _items_with_target(dataset: Dataset, on_error: OnError | None) -> dict[str, Item | None]:
    """The dataset's items by id, None for those without ground truth; at least one has it."""
    items: dict[str, Item | None] = {}
    for item in dataset.items:
        items[item.id] = item if item.mask is not None else None
    lacking = [identifier for identifier, item in items.items() if item is None]
    if not lacking:
        return items
    error = InputError(
        dataset.source, f"{len(lacking)} of {len(items)} images have no ground truth: "
        + _listed(lacking), "give masks with the data, or leave those images out")
    if on_error is None or len(lacking) == len(items):
        raise error
    on_error(error)
    return items


def _labels_of(
    record: MapRecord | LabelRecord, settings: CueSettings,
    saliency_of: Callable[[str], Path] | None,
) -> np.ndarray:
    """The predicted label image, (H, W) uint8."""
    if isinstance(record, LabelRecord):
        return record.labels
    saliency = None
    if settings.uses_saliency and saliency_of is not None:
        saliency = load_saliency(saliency_of(record.id), record.image_size)
    maps = cues.resize_maps(record.as_float(), record.image_size)
    return cues.pseudo_label(maps, record.labels, settings, saliency, ignore_rules=False)


def as_json(evaluation: Evaluation) -> str:
    """The scores and how they were made, as indented JSON."""
    return json.dumps(evaluation.to_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def as_csv(evaluation: Evaluation) -> str:
    """One row a class, and below them the means, whose ``label`` is empty; NaN is empty.

    The overall accuracy stands in column ``acc``, the frequency-weighted one, which is a weighted
    mean of IoU, in column ``iou``.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["label", "name", "iou", "acc", "fp_rate", "fn_rate", "pixels"])
    scores = evaluation.scores
    for label, row in enumerate(scores.classes):
        rates = map(_csv_number, (row.iou, row.acc, row.fp_rate, row.fn_rate))
        writer.writerow([label, row.name, *rates, row.pixels])
    pixels = sum(row.pixels for row in scores.classes)
    fp_rate, fn_rate = (_csv_number(_class_mean(scores, rate)) for rate in ("fp_rate", "fn_rate"))
    means = [_csv_number(scores.mean_iou), _csv_number(scores.mean_acc), fp_rate, fn_rate]
    writer.writerow(["", "Mean", *means, pixels])
    writer.writerow(["", "Overall Acc", "", _csv_number(scores.overall_acc), "", "", pixels])
    writer.writerow(["", "FreqW Acc", _csv_number(scores.freqw_acc), "", "", "", pixels])
    return text.getvalue()


def as_table(evaluation: Evaluation) -> str:
    """Aligned plain text: the four means, a table of the classes, and how they were made."""
    scores = evaluation.scores
    means = [
        ("Overall Acc", scores.overall_acc), ("Mean Acc", scores.mean_acc),
        ("FreqW Acc", scores.freqw_acc), ("Mean IoU", scores.mean_iou)]
    head = _aligned([[name, _shown_number(value)] for name, value in means])
    rows = [[row.name, *map(_shown_number, (row.iou, row.acc, row.fp_rate, row.fn_rate))]
            for row in scores.classes]
    table = _aligned([["Class", "IoU", "Acc", "FP rate", "FN rate"], *rows])
    return "\n".join([*head, "", *table, "", *_footnotes(evaluation)]) + "\n"


def _footnotes(evaluation: Evaluation) -> list[str]:
    """What a reader of the numbers must know, a line each."""
    absent, lacking = evaluation.scores.absent, len(evaluation.missing)
    notes = [(f"{evaluation.images} images at full size, {evaluation.kind} against pixel ground "
              f"truth of {evaluation.dataset}")]
    if evaluation.settings is not None:
        notes.append(f"label of maps: the strongest cue, alpha {evaluation.settings.alpha}, "
                     f"background {evaluation.settings.background}")
    if evaluation.scores.ignored_share > 0:
        notes.append(f"{evaluation.scores.ignored_share:.4f} of the pixels predicted as ignored, "
                     + _IGNORED_WORDS[evaluation.ignored])
    if absent:
        notes.append(f"in no mean, for want of a pixel: {', '.join(absent)}")
    if lacking:
        notes.append(f"{lacking} images without prediction: {_listed(evaluation.missing)}")
    if evaluation.without_target:
        notes.append(f"{len(evaluation.without_target)} images without ground truth: "
                     + _listed(evaluation.without_target))
    if evaluation.failed:
        notes.append(f"{len(evaluation.failed)} images failed: {_listed(evaluation.failed)}")
    if evaluation.extra:
        notes.append(f"{evaluation.extra} predictions of other images left out")
    return notes


def _aligned(rows: list[list[str]]) -> list[str]:
    """The rows as lines: the first column flush left, the others flush right."""
    widths = [max(map(_width, column)) for column in zip(*rows)]
    lines = []
    for first, *others in rows:
        line = first + " " * (widths[0] - _width(first))
        for text, width in zip(others, widths[1:]):
            line += "  " + " " * (width - _width(text)) + text
        lines.append(line)
    return lines


def _width(text: str) -> int:
    """Columns the text takes on a terminal: East Asian letters two, combining marks none."""
    return sum(
        0 if unicodedata.combining(letter)
        else 2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def _listed(names: Iterable[str]) -> str:
    """The first few names."""
    names = list(names)
    return ", ".join(names[:_SHOWN_IDS]) + (", …" if len(names) > _SHOWN_IDS else "")


def _class_mean(scores: Scores, rate: str) -> float:
    """Mean of a rate over the classes that have it; NaN if none has."""
    values = [getattr(row, rate) for row in scores.classes]
    values = [value for value in values if not math.isnan(value)]
    return math.fsum(values) / len(values) if values else math.nan


def _number(value: object) -> object:
    """The value, or None for NaN, which JSON does not have."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _shown_number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"


def _csv_number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6f}"
