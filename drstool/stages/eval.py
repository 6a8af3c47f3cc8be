"""``eval``: scores of label images or maps against pixel ground truth.

This is the one stage whose result rests on pixel ground truth (``overlay`` only draws it, and
training looks at it only where ``--select-on`` has this stage choose the epoch); each result says
so, and says how it was made. :func:`evaluate` scores one run, :func:`sweep` one at 256 thresholds,
:func:`compare` several on the same images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from drstool import cues
from drstool.artifacts.header import HEADER_NAME, Header
from drstool.data.decoding import load_saliency, load_target
from drstool.data.item import Dataset, Item
from drstool.errors import DrstoolError, InputError, UsageError
from drstool.files import read_bytes
from drstool.formats.label_png import read_label_png
from drstool.formats.records import LabelRecord, LazyRecord, MapRecord, load
from drstool.labels import as_label_type, check_class_names, check_label_values, ignore_label, label_type, num_classes
from drstool.metrics import (
    BOUNDARY_RATIO, GRIDS, BoundaryCounts, BoundaryMatrix, ConfusionMatrix, LabelCounts, StepCounts, SweepMatrix,
    check_same_size, count_boundaries, count_labels, count_steps, label_steps, swept_settings,
)
from drstool.parallel import OnError, Track, map_items, untracked
from drstool.recipe import CueSettings
from drstool.reports.scores import Comparison, Coverage, Evaluation, Protocol, Sweep, as_csv, as_json, as_table
from drstool.reports.text import SHOWN_IDS, listed

__all__ = [
    "Comparison", "Evaluation", "Sweep", "as_csv", "as_json", "as_table", "compare", "evaluate", "no_sweep_of_labels",
    "sweep",
]

# Kinds of records that hold labels, or maps from which labels follow.
_SCORED_KINDS = ("labels", "localization-maps", "refined-maps", "score-maps")

Record = MapRecord | LabelRecord
_Result = TypeVar("_Result")


def evaluate(
    records: Iterable[Record | LazyRecord], dataset: Dataset, *,
    header: Header | None = None, ids: Collection[str] | None = None,
    settings: CueSettings | None = None, saliency_of: Callable[[str], Path] | None = None,
    ignored: str = "miss", ignore_rules: bool = False, boundary_ratio: float | None = None,
    per_image: bool = False, strict: bool = False, workers: int = 1,
    on_error: OnError | None = None, track: Track = untracked,
) -> Evaluation:
    """Scores of the predictions against the dataset's ground truth, at full image size.

    The records are taken as they come and none is kept, so that memory does not grow with their
    number. Those whose id the dataset does not have, and images without ground truth, are counted,
    named and left out.

    Parameters
    ----------
    records
        Label images or maps, read or not. Maps are scored by the strongest cue at each pixel without the rules that
        ignore pixels, since a map's score should not depend on those.
    dataset
        Its items say which images are scored, and have the ground truth.
    header
        Of the predictions; its class names must be the dataset's. None: foreign files.
    ids
        Ids of the records if they are known beforehand, so that a lack is told before the work.
    settings, saliency_of
        For maps: the cues, and the path of an image id's saliency map, which is needed where
        ``settings.uses_saliency``.
    ignored : "miss", "skip" or "background"
        What predicted ignore labels count as.
    ignore_rules
        For maps: apply the rules that ignore pixels, as pseudo labels have them.
    boundary_ratio
        Also count boundary IoU, at this distance over the image's diagonal.
    per_image
        Keep each image's counts.
    strict
        Images without ground truth or prediction, and predictions of other images, are errors,
        whatever ``on_error``.
    workers
        Number of threads; the scores do not depend on it.
    on_error
        None: the first error is raised, and each image that has ground truth must have a
        prediction. Otherwise told of what is wrong, and the images concerned are left out and
        listed in the result.
    track
        Progress display.

    Raises
    ------
    InputError
        No image is common to both; images lack a prediction; class names differ or are unknown; a
        prediction is not of its target's size, comes twice, or holds values that are no label; a
        file cannot be read.
    UsageError
        Maps without ``saliency_of`` where the background cue needs one.
    """
    settings = settings or CueSettings()
    scoring = _Scoring(dataset, header, settings, saliency_of, strict, on_error)
    class_names = scoring.class_names

    def count(record: Record, item: Item, target: np.ndarray) -> tuple[LabelCounts, BoundaryCounts | None]:
        names = {"target_name": f"ground truth {item.mask}", "prediction_name": f"prediction of image '{item.id}'"}
        prediction = as_label_type(
            _labels_of(record, settings, saliency_of, ignore_rules, target.dtype), len(class_names))
        counts = count_labels(target, prediction, class_names, **names)
        if boundary_ratio is None:
            return counts, None
        return counts, count_boundaries(target, prediction, boundary_ratio, ignored)

    matrix, boundaries, kept = ConfusionMatrix(class_names), BoundaryMatrix(class_names), {}
    for identifier, (counts, near) in scoring.results(records, count, ids, workers, track):
        matrix.add(counts)
        if near is not None:
            boundaries.add(near)
        if per_image:
            kept[identifier] = counts
    return Evaluation(
        scores=matrix.scores(ignored), confusion=matrix, class_names=class_names, coverage=scoring.coverage(),
        protocol=scoring.protocol(ignored, ignore_rules),
        boundary=None if boundary_ratio is None else boundaries.ious(),
        boundary_ratio=boundary_ratio or BOUNDARY_RATIO, counts=kept)


def sweep(
    records: Iterable[Record | LazyRecord], dataset: Dataset, parameter: str, *, report_on: Dataset | None = None,
    names: tuple[str, str] | None = None, tolerance: float = 0.005,
    header: Header | None = None, ids: Collection[str] | None = None,
    settings: CueSettings | None = None, saliency_of: Callable[[str], Path] | None = None,
    ignored: str = "miss", ignore_rules: bool = False, strict: bool = False, workers: int = 1,
    on_error: OnError | None = None, track: Track = untracked,
) -> Sweep:
    """Scores of maps at 256 values of a number of the cue rule, from one pass over their pixels.

    They are exactly those that :func:`evaluate` gives at each of the values.

    Parameters
    ----------
    records
        Maps, read or not.
    dataset
        On its ground truth the best value is chosen.
    parameter
        A name of ``drstool.metrics.GRIDS``: ``alpha``, ``constant`` or ``power``. Sweeping one of
        the latter two puts that background cue in place, unless it is one of those combined.
    report_on
        The images whose scores are reported, where those are others; one pass serves both.
    names
        What the two parts are called.
    tolerance
        See :class:`Sweep`.
    header, ids, settings, saliency_of, ignored, ignore_rules, strict, workers, on_error, track
        See :func:`evaluate`.

    Raises
    ------
    InputError
        As :func:`evaluate`; also where the predictions are labels, which hold no values.
    UsageError
        As :func:`evaluate`.

    References
    ----------
    Wang et al., Self-supervised Equivariant Attention Mechanism for Weakly Supervised Semantic
    Segmentation (SEAM), CVPR 2020, section 4.3: false positives and negatives by class as measures
    of over- and under-activation, there as ratios to the true positives.
    """
    if parameter not in GRIDS:
        raise UsageError("--sweep", f"{parameter!r} cannot be swept", "one of " + ", ".join(GRIDS))
    settings = swept_settings(settings or CueSettings(), parameter)
    parts = [dataset, report_on or dataset]
    members = [{item.id for item in part.items} for part in parts]
    scoring = _Scoring(parts[0].joined(parts[1]), header, settings, saliency_of, strict, on_error, needs_maps=True)
    class_names = scoring.class_names

    def count(record: Record, item: Item, target: np.ndarray) -> StepCounts:
        assert isinstance(record, MapRecord)
        check_same_size(target, np.broadcast_to(target[:1, :1], record.image_size), f"ground truth {item.mask}",
                        f"prediction of image '{item.id}'")
        maps, saliency = _maps_of(record, settings, saliency_of)
        steps = label_steps(
            maps, record.labels, settings, saliency, parameter, ignore_rules=ignore_rules, dtype=target.dtype)
        counts = count_steps(target, steps, record.labels)
        if counts.rows[-1] > len(class_names):
            check_label_values(target, class_names, f"ground truth {item.mask}")
        return counts

    matrices = [SweepMatrix(class_names, parameter) for _ in parts]
    scored: list[set[str]] = [set(), set()]
    for identifier, counts in scoring.results(records, count, ids, workers, track):
        for matrix, ids_of, done in zip(matrices, members, scored):
            if identifier in ids_of:
                matrix.add(counts)
                done.add(identifier)
    names = names or (parts[0].source, parts[1].source)
    for name, done in zip(names, scored):
        if not done:
            raise InputError(name, "not one prediction is of its images", "give maps of both splits")
    chosen_by = tuple(matrices[0].scores(ignored))
    return Sweep(
        parameter=parameter, values=GRIDS[parameter], chosen_by=chosen_by,
        scores=chosen_by if scored[0] == scored[1] else tuple(matrices[1].scores(ignored)), tolerance=tolerance,
        class_names=class_names, coverage=scoring.coverage(), protocol=scoring.protocol(ignored, ignore_rules),
        selected_on=(names[0], len(scored[0])), reported_on=(names[1], len(scored[1])),
        common=len(scored[0] & scored[1]))


def compare(
    names: Sequence[str], evaluations: Sequence[Evaluation], *, resamples: int = 2000, level: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Runs against each other, by the paired bootstrap over the images that all of them have.

    Parameters
    ----------
    names
        Of the runs.
    evaluations
        Two or more, of :func:`evaluate` with ``per_image``, against the same ground truth.
    resamples
        Number of draws of the bootstrap.
    level
        Of the confidence intervals, such as 0.95.
    seed

    Raises
    ------
    InputError
        The runs have no image in common, or are scored with other classes or another ground truth.

    References
    ----------
    See :mod:`drstool.metrics.bootstrap`.
    """
    # scipy's sparse matrices take a while to import.
    from drstool.metrics.bootstrap import bootstrap_mean_ious, interval, run_counts

    first = evaluations[0]
    for name, other in zip(names[1:], evaluations[1:]):
        if other.class_names != first.class_names:
            raise InputError(name, f"is of other classes than {names[0]}", "compare runs of the same classes")
    common = sorted(set.intersection(*(set(each.counts) for each in evaluations)))
    if not common:
        raise InputError(names[1], f"has no image in common with {names[0]}", "compare runs on the same images")
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


class _Scoring:
    """One pass over predictions: which are scored, against what, and which are not."""

    def __init__(
        self, dataset: Dataset, header: Header | None, settings: CueSettings,
        saliency_of: Callable[[str], Path] | None, strict: bool, on_error: OnError | None,
        *, needs_maps: bool = False,
    ) -> None:
        self.class_names = _class_names(dataset, header)
        self._dataset, self._header, self._settings = dataset, header, settings
        self._on_error = on_error
        self._tally = _Tally(dataset, settings, saliency_of, on_error, strict, needs_maps)
        self._scored: dict[str, bytes] = {}

    def results(
        self, records: Iterable[Record | LazyRecord], work: Callable[[Record, Item, np.ndarray], _Result],
        ids: Collection[str] | None, workers: int, track: Track,
    ) -> Iterator[tuple[str, _Result]]:
        """What the work makes of each record and its target, by id; complete once this has ended."""
        tally, number = self._tally, len(self.class_names)
        if ids is not None:
            known = set(ids)
            tally.check_matched(len(tally.items.keys() & known), len(ids), self._dataset)
            tally.check_missing([i for i in tally.items if i not in known], tell=False)

        def scored(pair: tuple[Record | LazyRecord, Item]) -> tuple[str, bytes, _Result]:
            record, item = load(pair[0]), pair[1]
            target, digest = _target_of(item)
            return item.id, digest, work(record, item, as_label_type(target, number))

        pairs = tally.matching(records)
        for identifier, digest, result in track(
                map_items(scored, pairs, workers, self._on_error), "eval", len(tally.items)):
            self._scored[identifier] = digest
            yield identifier, result
        tally.check_matched(len(tally.seen), len(tally.seen) + tally.extra, self._dataset)
        tally.check_missing(self._missing(), tell=True)
        tally.check_extra()
        if not self._scored:
            raise InputError(self._dataset.source, "not one prediction could be scored", "see the errors of the images")

    def coverage(self) -> Coverage:
        """Which images were scored, and which were not."""
        tally = self._tally
        return Coverage(
            images=len(self._scored), missing=tuple(self._missing()),
            without_target=tuple(item.id for item in self._dataset.items if item.mask is None),
            failed=tuple(i for i in tally.seen if i not in self._scored),
            extra=tally.extra, extra_ids=tuple(tally.extra_ids))

    def protocol(self, ignored: str, ignore_rules: bool) -> Protocol:
        """How the scores were made."""
        maps = self._tally.maps
        digest = hashlib.sha256(b"".join(self._scored[i] for i in sorted(self._scored)))
        return Protocol(
            kind="maps" if maps else "labels", ignored=ignored,
            ignore_label=ignore_label(label_type(len(self.class_names))),
            settings=self._settings if maps else None, ignore_rules=maps and ignore_rules,
            dataset=self._dataset.source, dataset_digest=self._dataset.digest(), target_digest=digest.hexdigest(),
            provenance=() if self._header is None else tuple(self._header.provenance),
            target_provenance=_dataset_provenance(self._dataset))

    def _missing(self) -> list[str]:
        return [i for i in self._tally.items if i not in self._tally.seen]


class _Tally:
    """Which predictions have come, of which kind, and which belong to no image of the dataset."""

    def __init__(
        self, dataset: Dataset, settings: CueSettings, saliency_of: Callable[[str], Path] | None,
        on_error: OnError | None, strict: bool, needs_maps: bool,
    ) -> None:
        self.items = {item.id: item for item in dataset.items if item.mask is not None}
        self.without_target = {item.id for item in dataset.items} - self.items.keys()
        self.settings, self.saliency_of, self.on_error = settings, saliency_of, on_error
        self.strict, self.needs_maps = strict, needs_maps
        self.seen: dict[str, None] = {}  # in the order of coming
        self.extra = 0
        self.extra_ids: list[str] = []
        self.maps = False
        if self.without_target and (strict or not self.items):
            lacking = [item.id for item in dataset.items if item.mask is None]
            raise InputError(
                dataset.source, f"{len(lacking)} of {len(dataset.items)} images have no ground truth: "
                + listed(lacking), "give masks with the data, or leave those images out")

    def matching(self, records: Iterable[Record | LazyRecord]) -> Iterator[tuple[Record | LazyRecord, Item]]:
        """The records that are to be scored, each with its item; the others are counted."""
        for record in records:
            is_maps = record.is_maps if isinstance(record, LazyRecord) else isinstance(record, MapRecord)
            if self.needs_maps and not is_maps:
                raise no_sweep_of_labels("predictions")
            if record.id in self.seen:
                self._tell(InputError(
                    f"prediction of image '{record.id}'", "comes twice",
                    "give one prediction an image"))
            elif record.id in self.items:
                self.seen[record.id] = None
                if is_maps and not self.maps:
                    self.maps = True
                    cues.check_saliency_given(self.settings, self.saliency_of is not None)
                yield record, self.items[record.id]
            elif record.id not in self.without_target:
                self.extra += 1
                if len(self.extra_ids) < SHOWN_IDS:
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
        if missing and (tell or self.on_error is None or self.strict):
            instead = ", or score what there is with --keep-going" if self.on_error is None else ""
            error = InputError(
                "predictions", f"{len(missing)} of {len(self.items)} images have none: {listed(missing)}",
                f"predict the whole split{instead}")
            if self.strict:
                raise error
            self._tell(error)

    def check_extra(self) -> None:
        """Raise an error, if strict, if there are predictions of other images."""
        if self.strict and self.extra:
            raise InputError(
                "predictions", f"{self.extra} are of no image of the dataset: {', '.join(self.extra_ids)}"
                + (", …" if self.extra > len(self.extra_ids) else ""),
                "check --data and --split, or leave --strict out")

    def _tell(self, error: DrstoolError) -> None:
        if self.on_error is None:
            raise error
        self.on_error(error)


def no_sweep_of_labels(where: object) -> InputError:
    """The error of a sweep over label images."""
    return InputError(
        where, "holds labels, for which a threshold was chosen already",
        "--sweep needs maps, as 'drstool cam', 'refine' or 'segment --scores' write them")


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
            "predictions", f"are of {len(predicted)} classes ({listed(predicted)}), but "
            f"{dataset.source} has {len(names)} ({listed(names)})",
            "both must name the same classes in the same order")
    return check_class_names(names, dataset.source)


def _labels_of(
    record: Record, settings: CueSettings, saliency_of: Callable[[str], Path] | None, ignore_rules: bool,
    dtype: np.dtype,
) -> np.ndarray:
    """The predicted label image, (H, W)."""
    if isinstance(record, LabelRecord):
        return record.labels
    maps, saliency = _maps_of(record, settings, saliency_of)
    return cues.pseudo_label(maps, record.labels, settings, saliency, ignore_rules=ignore_rules, dtype=dtype)


def _maps_of(
    record: MapRecord, settings: CueSettings, saliency_of: Callable[[str], Path] | None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """The maps at the image's own size, (K, H, W) float32, and the saliency map where one is used."""
    saliency = None
    if settings.uses_saliency and saliency_of is not None:
        saliency = load_saliency(saliency_of(record.id), record.image_size)
    return cues.resize_maps(record.as_float(), record.image_size), saliency


def _restricted(evaluation: Evaluation, ids: Sequence[str]) -> Evaluation:
    """The evaluation on some of its images."""
    if len(ids) == len(evaluation.counts):
        return evaluation
    matrix = ConfusionMatrix(evaluation.class_names)
    for identifier in ids:
        matrix.add(evaluation.counts[identifier])
    return replace(
        evaluation, confusion=matrix, scores=matrix.scores(evaluation.protocol.ignored), boundary=None,
        coverage=replace(evaluation.coverage, images=len(ids)))


def _target_of(item: Item) -> tuple[np.ndarray, bytes]:
    """An image's ground truth, and the digest of it as it is stored; of annotations, of their name."""
    if isinstance(item.mask, Path):
        content = read_bytes(item.mask)
        return read_label_png(content, item.mask), hashlib.sha256(content).digest()
    return load_target(item), hashlib.sha256(str(item.mask).encode()).digest()


def _dataset_provenance(dataset: Dataset) -> tuple[dict, ...]:
    """The chain of a dataset that drstool made; empty for any other."""
    with suppress(OSError, ValueError, DrstoolError):
        path = Path(dataset.source, HEADER_NAME)
        return Header.from_json(path.read_bytes(), path).provenance
    return ()
