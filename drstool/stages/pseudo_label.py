"""``pseudo-label``: label images from maps and a background cue.

The rule itself is in :mod:`drstool.cues`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from drstool import cues
from drstool.data.decoding import load_saliency
from drstool.data.photographs import ImageOf, images_of, load_photograph
from drstool.errors import InputError
from drstool.formats.records import LabelRecord, LazyRecord, MapRecord, Record, load
from drstool.labels import BACKGROUND, label_names, label_type
from drstool.parallel import OnError, Track, map_items, untracked
from drstool.recipe import CrfSettings, CueSettings, PseudoLabelSettings
from drstool.reports.empty_maps import EmptyMaps, objectless_lines, saliency_lines

if TYPE_CHECKING:
    import torch

__all__ = ["IgnoreReport", "Relabelling", "pseudo_label"]

# Up to this many labels are counted faster one by one than all at once.
_FEW_LABELS = 10


@dataclass
class IgnoreReport:
    """Counts of labelled pixels, and of pixels ignored by each rule; filled while labels are made.

    Attributes
    ----------
    images, pixels
        Numbers of both.
    labelled
        Number of pixels by label, without ignored ones.
    ignored
        For each rule of :data:`drstool.cues.IGNORE_RULES`, the number of ignored pixels by the label of
        the strongest map there.
    empty
        Maps without a value above 0.
    images_with_maps, images_without_object
        Number of images that have a map, and of those of them that got no object pixel.
    largest_saliency
        The largest value of each saliency map.
    """

    images: int = 0
    pixels: int = 0
    labelled: Counter[int] = field(default_factory=Counter)
    ignored: dict[str, Counter[int]] = field(default_factory=lambda: {rule: Counter() for rule in cues.IGNORE_RULES})
    empty: EmptyMaps = field(default_factory=EmptyMaps)
    images_with_maps: int = 0
    images_without_object: int = 0
    largest_saliency: list[int] = field(default_factory=list)

    def add(self, other: IgnoreReport) -> None:
        """Add another report's counts."""
        self.images += other.images
        self.pixels += other.pixels
        self.labelled += other.labelled
        for rule, pixels in other.ignored.items():
            self.ignored[rule] += pixels
        self.empty.add(other.empty)
        self.images_with_maps += other.images_with_maps
        self.images_without_object += other.images_without_object
        self.largest_saliency += other.largest_saliency

    def to_json(self, class_names: Sequence[str]) -> dict:
        """Shares of ignored pixels, overall and by class.

        A class's share is relative to the pixels that have its label or are ignored where its map is
        the strongest. Ignored pixels without any map count as background.
        """
        lost = sum(self.ignored.values(), Counter())
        return {
            "images": self.images,
            "images_with_maps": self.images_with_maps,
            "images_without_object": self.images_without_object,
            "pixels": self.pixels,
            "ignored_share": _share(lost.total(), self.pixels),
            "ignored_share_by_rule": {
                rule: _share(pixels.total(), self.pixels) for rule, pixels in self.ignored.items()},
            "classes": [
                {"label": label, "name": name, "pixels": self.labelled[label], "ignored": lost[label],
                 "ignored_share": _share(lost[label], self.labelled[label] + lost[label]),
                 "ignored_by_rule": {rule: pixels[label] for rule, pixels in self.ignored.items()},
                 "maps": self.empty.maps[label], "empty_maps": self.empty.empty[label]}
                for label, name in enumerate(label_names(class_names))],
        }

    def empty_lines(self, class_names: Sequence[str], saliency_range: tuple[int, ...] = ()) -> list[str]:
        """What is to be said of classes whose maps are empty, of images without an object, and of saliency maps."""
        return [
            *self.empty.lines(class_names), *objectless_lines(self.images_without_object, self.images_with_maps),
            *saliency_lines(self.largest_saliency, saliency_range)]

    def words(self, class_names: Sequence[str], most: int = 3) -> str:
        """The shares in one line, with the classes that have the largest ones."""
        shares = self.to_json(class_names)
        text = f"{shares['ignored_share'] or 0:.1%} of the pixels ignored"
        rules = [f"{rule} {share:.1%}" for rule, share in shares["ignored_share_by_rule"].items() if share]
        rows = sorted((row for row in shares["classes"] if row["ignored"]), key=lambda row: -row["ignored_share"])
        classes = [f"{row['name']} {row['ignored_share']:.1%}" for row in rows[:most]]
        return text + (f" ({', '.join(rules)}; of {', '.join(classes)})" if rules else "")


@dataclass(frozen=True)
class Relabelling:
    """A CRF that relabels the pixels before any is ignored.

    With ``unary="labels"``, as IRN does, it starts from the labels of the strongest cues; otherwise, as
    PSA does, from the cues themselves, divided by their sum.

    Attributes
    ----------
    crf
    image_of
        Path of a record's image; by default the one that the record names.
    device
        Where the CRF runs; by default on the CPU.
    """

    crf: CrfSettings
    image_of: ImageOf | None = None
    device: torch.device | None = None


def pseudo_label(
    records: Iterable[MapRecord | LazyRecord], settings: CueSettings, *,
    saliency_of: Callable[[str], Path] | None = None, relabelling: Relabelling | None = None, workers: int = 1,
    on_error: OnError | None = None, track: Track = untracked, total: int | None = None,
    num_object_classes: int = 1, report: IgnoreReport | None = None,
    finish: Callable[[LabelRecord], Any] = lambda label: label,
) -> Iterator[Any]:
    """Pseudo labels of the records, in their order and at the images' size.

    Parameters
    ----------
    records
        Maps of the present classes; consumed one by one.
    settings
        Of the cues; a :class:`PseudoLabelSettings` may also say that no pixel is ignored.
    saliency_of
        Path of an image id's saliency map, as :func:`drstool.cues.saliency_folder` gives it; needed
        for ``background="saliency"``, otherwise not used.
    relabelling
        By a CRF; None: pixels keep the labels of their strongest cues.
    workers
        Number of threads; the labels do not depend on it.
    on_error
        Called with the error of each image that fails and is then left out; None: the error is raised.
    track, total
        Progress display, and the number of records if it is known.
    num_object_classes
        Determines the data type of the labels, see :func:`drstool.labels.label_type`.
    report
        Filled with the counts of ignored pixels.
    finish
        Applied to each label record in its thread, for example to compress it; its results are yielded.

    Raises
    ------
    InputError
        A saliency map, or an image for the CRF, is missing, unreadable or of the wrong size, or a
        record is not a map record.
    UsageError
        No ``saliency_of`` where the background cue needs one.

    References
    ----------
    Kim, Han, Kim, AAAI 2021, section 3.4. Ahn, Cho, Kwak, CVPR 2019 (IRN), and Ahn, Kwak, CVPR 2018
    (PSA), with their published code, for what the CRF starts from.
    """
    # Checked now; in a generator it would be checked only when the first label is asked for.
    cues.check_saliency_given(settings, saliency_of is not None)
    relabeller = None if relabelling is None else _Relabeller(relabelling, settings, workers)
    labelled = partial(
        _labelled, settings=settings, saliency_of=saliency_of, dtype=label_type(num_object_classes),
        reported=report is not None, relabeller=relabeller)

    def work(record: MapRecord | LazyRecord) -> tuple[Any, IgnoreReport | None]:
        label, part = labelled(load(record))
        return finish(label), part

    return _reporting(track(map_items(work, records, workers, on_error), "pseudo-label", total), report)


def _reporting(
    made: Iterable[tuple[Any, IgnoreReport | None]], report: IgnoreReport | None,
) -> Iterator[Any]:
    for label, part in made:
        if report is not None and part is not None:
            report.add(part)
        yield label


def _labelled(
    record: Record, settings: CueSettings, saliency_of: Callable[[str], Path] | None, dtype: np.dtype | type,
    reported: bool, relabeller: _Relabeller | None = None,
) -> tuple[LabelRecord, IgnoreReport | None]:
    if not isinstance(record, MapRecord):
        raise InputError(
            f"image {record.id!r}", "is a label image", "give maps, as 'drstool cam' or 'drstool refine' write them")
    saliency, largest = None, list[int]()
    if settings.uses_saliency and saliency_of is not None:
        saliency = load_saliency(saliency_of(record.id), record.image_size, settings.saliency_range, largest)
    maps = cues.resize_maps(record.as_float(), record.image_size)
    relabel = None if relabeller is None else partial(relabeller, record=record, maps=maps, saliency=saliency)
    how: dict[str, Any] = {
        "dtype": dtype, "relabel": relabel,
        "ignore_rules": not isinstance(settings, PseudoLabelSettings) or settings.ignore}
    if not reported:
        labels = cues.pseudo_label(maps, record.labels, settings, saliency, **how)
        return LabelRecord(id=record.id, labels=labels, image=record.image), None
    labels, ignored = cues.pseudo_label_with_reasons(maps, record.labels, settings, saliency, **how)
    present = (BACKGROUND, *record.labels)
    report = IgnoreReport(images=1, pixels=labels.size, labelled=_counted(labels, present), largest_saliency=largest)
    for rule, strongest in ignored.items():
        report.ignored[rule] = _counted(strongest, present)
    report.empty.count(record)
    report.images_with_maps = int(bool(record.labels))
    report.images_without_object = int(bool(record.labels) and not any(map(report.labelled.get, record.labels)))
    return LabelRecord(id=record.id, labels=labels, image=record.image), report


def _counted(labels: np.ndarray, present: Sequence[int]) -> Counter[int]:
    """Number of pixels of each of the given labels that occurs."""
    if len(present) > _FEW_LABELS:
        counts = np.bincount(labels.ravel(), minlength=max(present) + 1)[list(present)].tolist()
    else:
        counts = [np.count_nonzero(labels == label) for label in present]
    return Counter({label: int(count) for label, count in zip(present, counts) if count})


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


class _Relabeller:
    """The CRF as the rule of the cues sees it: labels in, labels out."""

    def __init__(self, relabelling: Relabelling, settings: CueSettings, workers: int) -> None:
        import torch

        from drstool.crf import one_thread

        self._crf, self._image_of = relabelling.crf, relabelling.image_of or images_of()
        self._device = relabelling.device or torch.device("cpu")
        self._settings = settings
        self._threads = one_thread if workers > 1 else nullcontext

    def __call__(
        self, label: np.ndarray, *, record: MapRecord, maps: np.ndarray, saliency: np.ndarray | None,
    ) -> np.ndarray:
        from drstool.crf import smooth_labels, smooth_probabilities

        image = load_photograph(record, self._image_of)
        present = (BACKGROUND, *record.labels)
        where: dict[str, Any] = {"device": self._device, "where": f"image {record.id!r}"}
        with self._threads():
            if self._crf.unary == "labels":
                return smooth_labels(image, label, present, self._crf, **where)
            probabilities = cues.cue_probabilities(maps, self._settings, saliency)
            found = smooth_probabilities(image, probabilities, self._crf, **where).argmax(axis=0)
        return np.asarray(present, dtype=label.dtype)[found]
