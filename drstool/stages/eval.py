"""``eval``: scores of label images or maps against pixel ground truth.

This is the one stage whose result depends on pixel ground truth (``overlay`` only draws it, and
training uses it only if ``--select-on`` has this stage choose the epoch); each result says so, and
says how it was made. :func:`evaluate` scores one run, :func:`sweep` one at 256 thresholds,
:func:`compare` several on the same images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from drstool import cues
from drstool.artifacts.header import HEADER_NAME, Header
from drstool.data.decoding import load_saliency, load_target
from drstool.data.item import Dataset, Item
from drstool.data.masks import ValueMask, mask_place
from drstool.errors import DrstoolError, InputError, UsageError
from drstool.files import is_file, read_bytes
from drstool.formats.label_png import read_label_png
from drstool.formats.records import LabelRecord, LazyRecord, MapRecord, Record, load
from drstool.labels import as_label_type, check_class_names, check_label_values, ignore_label, label_type, num_classes
from drstool.metrics import (
    BOUNDARY_RATIO, GRIDS, BoundaryCounts, BoundaryMatrix, ConfusionMatrix, LabelCounts, StepCounts, SweepMatrix,
    at_thresholds, check_same_size, count_boundaries, count_labels, count_steps, label_steps, swept_numbers,
    swept_settings,
)
from drstool.parallel import OnError, Track, map_items, untracked
from drstool.recipe import CueSettings
from drstool.reports.empty_maps import has_object, objectless_lines, saliency_lines
from drstool.reports.ground_truth import GroundTruth, MaskSummary, summarize
from drstool.reports.scores import (
    Comparison, Coverage, Evaluation, PairedSweep, Protocol, Sweep, as_csv, as_json, as_table,
)
from drstool.text import SHOWN, listed

__all__ = [
    "Comparison", "Evaluation", "PairedSweep", "Scoring", "Sweep", "as_csv", "as_json", "as_table", "check_sweepable",
    "compare", "evaluate", "sweep",
]

# Kinds of records that hold labels, or maps from which labels follow.
_SCORED_KINDS = ("labels", "localization-maps", "refined-maps", "score-maps")

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Scoring:
    """How predictions are scored.

    Attributes
    ----------
    settings
        For maps: the object and background cues, the strongest of which is a pixel's label.
    saliency_of
        For maps: path of an image id's saliency map, needed where ``settings.uses_saliency``.
    ignored : "miss", "skip" or "background"
        What predicted ignore labels count as.
    ignore_rules
        For maps: ignore pixels by the rules that make pseudo labels. By default no pixel is
        ignored, since a map's score should not depend on those rules.
    strict
        Images without ground truth or prediction, and predictions of other images, are errors,
        whatever ``on_error``.
    boundary_ratio
        Also count boundary IoU, at this distance over the image's diagonal; not in a sweep.
    per_image
        Keep each image's counts; not in a sweep.
    largest_saliency
        Filled with the largest value of each saliency map.
    objects
        Filled, for each image with maps, with whether its labels got an object pixel; not in a sweep.
    """

    settings: CueSettings = CueSettings()
    saliency_of: Callable[[str], Path] | None = None
    ignored: str = "miss"
    ignore_rules: bool = False
    strict: bool = False
    boundary_ratio: float | None = None
    per_image: bool = False
    largest_saliency: list[int] = field(default_factory=list)
    objects: list[bool] = field(default_factory=list)

    def notices(self) -> list[str]:
        """Lines about labels without an object, and about odd saliency maps, once records are scored."""
        return [
            *objectless_lines(self.objects.count(False), len(self.objects)),
            *saliency_lines(self.largest_saliency, self.settings.saliency_range)]


def evaluate(
    records: Iterable[Record | LazyRecord], dataset: Dataset, *, header: Header | None = None,
    ids: Collection[str] | None = None, scoring: Scoring | None = None, workers: int = 1,
    on_error: OnError | None = None, track: Track = untracked,
) -> Evaluation:
    """Scores of the predictions against the dataset's ground truth, at full image size.

    The records are taken as they come and none is kept, so that memory does not grow with their
    number. Those whose id the dataset does not have, and images without ground truth, are counted,
    named and left out.

    Parameters
    ----------
    records
        Label images or maps, loaded or not.
    dataset
        Its items say which images are scored, and have the ground truth.
    header
        Of the predictions; its class names must be the dataset's. None: foreign files.
    ids
        Ids of the records if they are known beforehand, so that missing ones are reported before the work.
    scoring
        How predictions are scored; None: see the defaults of :class:`Scoring`.
    workers
        Number of threads; the scores do not depend on it.
    on_error
        None: the first error is raised, and each image that has ground truth must have a
        prediction. Otherwise called with each error, and the images concerned are left out and
        listed in the result.
    track
        Progress display.

    Raises
    ------
    InputError
        No image is common to both; images lack a prediction; class names differ or are unknown; a
        prediction differs from its target in size, appears twice, or holds values that are not labels; a
        file cannot be read.
    UsageError
        Maps without ``saliency_of`` where the background cue needs one.
    """
    scoring = scoring or Scoring()
    scored = _Pass(dataset, header, scoring, on_error)
    class_names, ratio = scored.class_names, scoring.boundary_ratio

    def count(record: Record, item: Item, target: np.ndarray) -> tuple[LabelCounts, BoundaryCounts | None]:
        names = {"target_name": f"ground truth {item.mask}", "prediction_name": f"prediction of image '{item.id}'"}
        prediction = as_label_type(_labels_of(record, scoring, target.dtype), len(class_names))
        counts = count_labels(target, prediction, class_names, **names)
        return counts, None if ratio is None else count_boundaries(target, prediction, ratio, scoring.ignored)

    matrix, boundaries, kept = ConfusionMatrix(class_names), BoundaryMatrix(class_names), {}
    for identifier, (counts, near) in scored.results(records, count, ids, workers, track):
        matrix.add(counts)
        if near is not None:
            boundaries.add(near)
        if scoring.per_image:
            kept[identifier] = counts
    return Evaluation(
        scores=matrix.scores(scoring.ignored), confusion=matrix, class_names=class_names, coverage=scored.coverage(),
        protocol=scored.protocol(), truth=scored.truth, boundary=None if ratio is None else boundaries.ious(),
        boundary_ratio=ratio or BOUNDARY_RATIO, counts=kept)


def sweep(
    records: Iterable[Record | LazyRecord], dataset: Dataset, parameter: str, *, report_on: Dataset | None = None,
    names: tuple[str, ...] | None = None, tolerance: float = 0.005, header: Header | None = None,
    ids: Collection[str] | None = None, scoring: Scoring | None = None, workers: int = 1,
    on_error: OnError | None = None, track: Track = untracked,
) -> Sweep | PairedSweep:
    """Scores of maps at 256 values of a number of the cue rule, from one pass over their pixels.

    They are exactly those that :func:`evaluate` gives at each of the values.

    Parameters
    ----------
    records
        Maps, loaded or not.
    dataset
        On its ground truth the best value is chosen.
    parameter
        A name of ``drstool.metrics.GRIDS``: ``alpha``, ``constant`` or ``power``. Sweeping one of
        the latter two puts that background cue in place, unless it is one of those combined. With
        ``,saliency-threshold`` behind it, at each of ``drstool.metrics.SALIENCY_THRESHOLDS``, too.
    report_on
        The images whose scores are reported, where those are others; one pass serves both.
    names
        What the two sets of images are called.
    tolerance
        See :class:`Sweep`.
    header, ids, scoring, workers, on_error, track
        See :func:`evaluate`.

    Raises
    ------
    InputError
        As :func:`evaluate`; also where the predictions are labels, which hold no values.
    UsageError
        As :func:`evaluate`; also where ``parameter`` is none, or the saliency threshold has no effect.

    References
    ----------
    Wang et al., Self-supervised Equivariant Attention Mechanism for Weakly Supervised Semantic
    Segmentation (SEAM), CVPR 2020, section 4.3: false positives and negatives by class as measures
    of over- and under-activation, there as ratios to the true positives.
    """
    parameter, thresholds = swept_numbers(parameter)
    scoring = scoring or Scoring()
    scoring = replace(scoring, settings=swept_settings(scoring.settings, parameter))
    _check_thresholds(scoring.settings, thresholds)
    sets = [dataset, report_on or dataset]
    scored = _Pass(sets[0].joined(sets[1]), header, scoring, on_error, needs_maps=True)
    count = partial(_count_sweep, scoring=scoring, parameter=parameter, thresholds=thresholds,
                    class_names=scored.class_names)
    sums = [[SweepMatrix(scored.class_names, parameter) for _ in thresholds] for _ in sets]
    members = [{item.id for item in each.items} for each in sets]
    found: list[set[str]] = [set(), set()]
    for identifier, counts in scored.results(records, count, ids, workers, track):
        for matrices, ids_of, done in zip(sums, members, found):
            if identifier in ids_of:
                for matrix, each in zip(matrices, counts, strict=True):
                    matrix.add(each)
                done.add(identifier)
    names = names or (sets[0].source, sets[1].source)
    for name, done in zip(names, found):
        if not done:
            raise InputError(name, "no prediction is of its images", "give maps of both splits")

    def at(threshold: int | None, chooses: SweepMatrix, reports: SweepMatrix) -> Sweep:
        protocol, chosen_by = scored.protocol(), tuple(chooses.scores(scoring.ignored))
        if threshold is not None:
            protocol = replace(protocol, settings=replace(scoring.settings, saliency_threshold=threshold))
        return Sweep(
            parameter=parameter, values=GRIDS[parameter], chosen_by=chosen_by,
            scores=chosen_by if found[0] == found[1] else tuple(reports.scores(scoring.ignored)), tolerance=tolerance,
            class_names=scored.class_names, coverage=scored.coverage(), protocol=protocol, truth=scored.truth,
            selected_on=(names[0], len(found[0])), reported_on=(names[1], len(found[1])),
            common=len(found[0] & found[1]), saliency_threshold=threshold)

    sweeps = tuple(map(at, thresholds, *sums))
    return sweeps[0] if thresholds == (None,) else PairedSweep(sweeps)


def _check_thresholds(settings: CueSettings, thresholds: tuple[int | None, ...]) -> None:
    """Check that the labels depend on a threshold of the saliency where several are tried."""
    if thresholds != (None,) and (settings.soft or not settings.uses_saliency):
        if settings.soft:
            raise UsageError("--sweep", "soft saliency has no threshold", "omit --soft")
        raise UsageError(
            "--sweep", f"the background cue is {settings.background}, without saliency", "add saliency to --background")


def _count_sweep(
    record: Record, item: Item, target: np.ndarray, *, scoring: Scoring, parameter: str,
    thresholds: tuple[int | None, ...], class_names: Sequence[str],
) -> list[StepCounts]:
    """Counts of one image along a sweep, at each threshold."""
    assert isinstance(record, MapRecord)
    check_same_size(target, np.broadcast_to(target[:1, :1], record.image_size), f"ground truth {item.mask}",
                    f"prediction of image '{item.id}'")
    maps, saliency = _maps_of(record, scoring)

    def made(settings: CueSettings) -> StepCounts:
        return count_steps(target, label_steps(
            maps, record.labels, settings, saliency, parameter, ignore_rules=scoring.ignore_rules, dtype=target.dtype),
            record.labels)

    counts = at_thresholds(scoring.settings, saliency, thresholds, made)
    if counts[0].rows[-1] > len(class_names):
        check_label_values(target, class_names, f"ground truth {item.mask}")
    return counts


def check_sweepable(is_maps: bool, where: object) -> None:
    """Check that predictions hold values of which a sweep can choose.

    Raises
    ------
    InputError
        They are labels.
    """
    if not is_maps:
        raise InputError(
            where, "holds labels, for which a threshold was already chosen",
            "--sweep needs maps, such as those of 'drstool cam', 'drstool refine' or 'drstool segment --scores'")


def compare(
    names: Sequence[str], evaluations: Sequence[Evaluation], *, resamples: int = 2000, level: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Differences between runs, by the paired bootstrap over the images that all of them have.

    Parameters
    ----------
    names
        Names of the runs.
    evaluations
        Two or more, of :func:`evaluate` with ``per_image``, against the same ground truth.
    resamples
        Number of bootstrap resamples.
    level
        Level of the confidence intervals, such as 0.95.
    seed

    Raises
    ------
    InputError
        The runs have no image in common, or different classes.

    References
    ----------
    See :mod:`drstool.metrics.bootstrap`.
    """
    # scipy's sparse matrices take a while to import.
    from drstool.metrics.bootstrap import bootstrap_mean_ious, interval, run_counts

    first = evaluations[0]
    for name, other in zip(names[1:], evaluations[1:]):
        if other.class_names != first.class_names:
            raise InputError(name, f"has other classes than {names[0]}", "compare runs with the same classes")
    common = sorted(set.intersection(*(set(each.counts) for each in evaluations)))
    if not common:
        raise InputError(names[1], f"has no images in common with {names[0]}", "compare runs on the same images")
    evaluations = [_restricted(each, common) for each in evaluations]
    ignored, classes = first.protocol.ignored, num_classes(first.class_names)
    runs = [run_counts([each.counts[i] for i in common], classes, ignored) for each in evaluations]
    values, draws = bootstrap_mean_ious(runs, resamples, seed)
    return Comparison(
        names=tuple(names), evaluations=tuple(replace(each, counts={}) for each in evaluations),
        mean_ious=tuple(interval(value, drawn, level) for value, drawn in zip(values, draws)),
        differences=tuple(
            interval(value - values[0], drawn - draws[0], level) for value, drawn in zip(values, draws)),
        level=level, resamples=resamples, seed=seed)


class _Pass:
    """One pass over predictions: which are scored, against what, and which are left out."""

    def __init__(
        self, dataset: Dataset, header: Header | None, scoring: Scoring, on_error: OnError | None,
        *, needs_maps: bool = False,
    ) -> None:
        self.class_names = _class_names(dataset, header)
        self._dataset, self._header, self._scoring = dataset, header, scoring
        self._on_error, self._needs_maps = on_error, needs_maps
        self._items = {item.id: item for item in dataset.items if item.mask is not None}
        self._without_target = tuple(item.id for item in dataset.items if item.mask is None)
        self._seen: dict[str, None] = {}  # in order of arrival
        self._scored: dict[str, bytes] = {}  # digests of the ground truth
        self._extra, self._extra_ids = 0, list[str]()
        self._maps = False
        values = next((str(item.mask.values) for item in dataset.items if isinstance(item.mask, ValueMask)), "")
        self.truth = GroundTruth(self.class_names, values)
        if header is not None and header.kind != "labels":
            self._accept_maps()
        if self._without_target and (scoring.strict or not self._items):
            raise InputError(
                dataset.source, f"{len(self._without_target)} of {len(dataset)} images have no ground truth: "
                + listed(self._without_target), "add masks, or remove those images from the dataset")

    def results(
        self, records: Iterable[Record | LazyRecord], work: Callable[[Record, Item, np.ndarray], _Result],
        ids: Collection[str] | None, workers: int, track: Track,
    ) -> Iterator[tuple[str, _Result]]:
        """What the work makes of each record and its target, by id; complete once this has ended."""
        number = len(self.class_names)
        if ids is not None:
            known = set(ids)
            self._check_matched(len(self._items.keys() & known), len(ids))
            if self._on_error is None or self._scoring.strict:
                self._report_missing([i for i in self._items if i not in known])

        def scored(pair: tuple[Record | LazyRecord, Item]) -> tuple[str, bytes, MaskSummary, _Result]:
            lazy, item = pair
            record: Record = load(lazy)
            target, digest = _target_of(item)
            summary = summarize(target, mask_place(item), item.tags)
            return item.id, digest, summary, work(record, item, as_label_type(target, number))

        found = map_items(scored, self._matching(records), workers, self._on_error)
        for identifier, digest, summary, result in track(found, "eval", len(self._items)):
            self._scored[identifier] = digest
            self.truth.masks[identifier] = summary
            yield identifier, result
        self._check_matched(len(self._seen), len(self._seen) + self._extra)
        self._report_missing(self._missing())
        if self._scoring.strict and self._extra:
            raise InputError(
                "predictions", f"{self._extra} belong to no image of the dataset: "
                + listed(self._extra_ids, self._extra), "check --data and --split, or omit --strict")
        if not self._scored:
            raise InputError(self._dataset.source, "no prediction could be scored", "see the errors of the images")
        self.truth.check()

    def coverage(self) -> Coverage:
        """Which images were scored, and which were not."""
        return Coverage(
            images=len(self._scored), missing=tuple(self._missing()), without_target=self._without_target,
            failed=tuple(i for i in self._seen if i not in self._scored),
            extra=self._extra, extra_ids=tuple(self._extra_ids))

    def protocol(self) -> Protocol:
        """How the scores were made."""
        digest = hashlib.sha256(b"".join(self._scored[i] for i in sorted(self._scored)))
        return Protocol(
            kind="maps" if self._maps else "labels", ignored=self._scoring.ignored,
            ignore_label=ignore_label(label_type(len(self.class_names))),
            settings=self._scoring.settings if self._maps else None,
            ignore_rules=self._maps and self._scoring.ignore_rules,
            dataset=self._dataset.source, dataset_digest=self._dataset.digest(), target_digest=digest.hexdigest(),
            provenance=() if self._header is None else tuple(self._header.provenance),
            target_provenance=_dataset_provenance(self._dataset))

    def _matching(self, records: Iterable[Record | LazyRecord]) -> Iterator[tuple[Record | LazyRecord, Item]]:
        """The records that are to be scored, each with its item; the others are counted."""
        without_target = set(self._without_target)
        for record in records:
            is_maps = record.is_maps if isinstance(record, LazyRecord) else isinstance(record, MapRecord)
            if self._needs_maps:
                check_sweepable(is_maps, f"prediction of image '{record.id}'")
            if record.id in self._seen:
                self._report(InputError(
                    f"prediction of image '{record.id}'", "appears twice", "give one prediction per image"))
            elif record.id in self._items:
                self._seen[record.id] = None
                if is_maps:
                    self._accept_maps()
                yield record, self._items[record.id]
            elif record.id not in without_target:
                self._extra += 1
                if len(self._extra_ids) < SHOWN:
                    self._extra_ids.append(record.id)

    def _accept_maps(self) -> None:
        """Note that maps are scored; at first, check that what their cues need is there."""
        if not self._maps:
            self._maps = True
            cues.check_saliency_given(self._scoring.settings, self._scoring.saliency_of is not None)

    def _missing(self) -> list[str]:
        return [i for i in self._items if i not in self._seen]

    def _check_matched(self, matched: int, predictions: int) -> None:
        """Raise an error if no prediction is of an image of the dataset."""
        if not matched:
            first = f" (the first is '{self._extra_ids[0]}')" if self._extra_ids else ""
            raise InputError(
                self._dataset.source, f"has none of the {predictions} predicted images{first}"
                if predictions else "there is no prediction to score",
                f"its ids look like '{next(iter(self._items))}'; check --data and --split")

    def _report_missing(self, missing: list[str]) -> None:
        """Report images that have no prediction, if there are any."""
        if missing:
            instead = ", or score the others with --keep-going" if self._on_error is None else ""
            self._report(InputError(
                "predictions", f"missing for {len(missing)} of {len(self._items)} images: {listed(missing)}",
                f"predict the whole split{instead}"), always_raise=self._scoring.strict)

    def _report(self, error: DrstoolError, always_raise: bool = False) -> None:
        if self._on_error is None or always_raise:
            raise error
        self._on_error(error)


def _class_names(dataset: Dataset, header: Header | None) -> tuple[str, ...]:
    """The object classes of dataset and predictions, which must be the same."""
    if header is not None and header.kind not in _SCORED_KINDS:
        raise InputError("predictions", f"hold {header.kind}, which cannot be scored", "expected label images or maps")
    predicted = header.class_names if header is not None else ()
    names = dataset.class_names or predicted
    if not names:
        raise InputError(
            dataset.source, "has no class names, and neither have the predictions",
            "list them with --classes FILE, one per line")
    if predicted and tuple(predicted) != tuple(names):
        raise InputError(
            "predictions", f"have {len(predicted)} classes ({listed(predicted)}), but "
            f"{dataset.source} has {len(names)} ({listed(names)})",
            "both must have the same classes in the same order")
    return check_class_names(names, dataset.source)


def _labels_of(record: Record, scoring: Scoring, dtype: np.dtype) -> np.ndarray:
    """The predicted label image, (H, W)."""
    if isinstance(record, LabelRecord):
        return record.labels
    maps, saliency = _maps_of(record, scoring)
    labels = cues.pseudo_label(
        maps, record.labels, scoring.settings, saliency, ignore_rules=scoring.ignore_rules, dtype=dtype)
    if len(record.labels):
        scoring.objects.append(has_object(labels))
    return labels


def _maps_of(record: MapRecord, scoring: Scoring) -> tuple[np.ndarray, np.ndarray | None]:
    """The maps at the image's own size, (K, H, W) float32, and the saliency map where one is used."""
    saliency = None
    if scoring.settings.uses_saliency and scoring.saliency_of is not None:
        saliency = load_saliency(
            scoring.saliency_of(record.id), record.image_size, scoring.settings.saliency_range,
            scoring.largest_saliency)
    return cues.resize_maps(record.as_float(), record.image_size), saliency


def _restricted(evaluation: Evaluation, ids: Sequence[str]) -> Evaluation:
    """The evaluation on some of its images."""
    if len(ids) == len(evaluation.counts):
        return evaluation
    matrix = ConfusionMatrix(evaluation.class_names)
    for identifier in ids:
        matrix.add(evaluation.counts[identifier])
    return replace(
        evaluation, confusion=matrix, truth=evaluation.truth.of(ids), boundary=None,
        scores=matrix.scores(evaluation.protocol.ignored),
        coverage=replace(evaluation.coverage, images=len(ids)))


def _target_of(item: Item) -> tuple[np.ndarray, bytes]:
    """An image's ground truth, and the digest of its file; of what is drawn or read otherwise, of its labels."""
    if isinstance(item.mask, Path):
        content = read_bytes(item.mask)
        return read_label_png(content, item.mask, foreign=True), hashlib.sha256(content).digest()
    target = load_target(item)
    return target, hashlib.sha256(target.tobytes()).digest()


def _dataset_provenance(dataset: Dataset) -> tuple[dict, ...]:
    """The provenance of a dataset that drstool made; empty for any other."""
    path = Path(dataset.source, HEADER_NAME)
    if is_file(path):
        content = read_bytes(path)
        with suppress(InputError):
            return Header.from_json(content, path).provenance
    return ()
