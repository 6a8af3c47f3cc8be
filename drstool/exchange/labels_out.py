"""Label images to be exported: their classes checked, and each with its image where a format names it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from drstool.artifacts.header import Header
from drstool.data import Dataset
from drstool.data.decoding import image_size
from drstool.data.value_range import ValueRange, recorded_range
from drstool.errors import InputError
from drstool.exchange.exports import Export
from drstool.formats import LabelRecord, RecordSource, load, open_records
from drstool.labels import MAX_NARROW_CLASSES, as_label_type, check_class_names, check_label_values, ignore_label
from drstool.parallel import ordered_map
from drstool.pixels import shown_size
from drstool.reports.text import counted
from drstool.text import listed

__all__ = ["Labelled", "LabelsToExport", "open_labels"]

_Made = TypeVar("_Made")


class Labelled(NamedTuple):
    """The labels of one image.

    Attributes
    ----------
    id
    labels : (H, W) uint8 or uint16
        0 background, 1 .. C object classes, the highest value of the type ignored.
    image
        The image's file, of the same size; None where the format does not name images.
    """

    id: str
    labels: np.ndarray
    image: Path | None

    @property
    def ignored(self) -> np.ndarray:
        """Where the ignore label is, (H, W) bool."""
        return self.labels == ignore_label(self.labels.dtype)


class LabelsToExport:
    """The label images of an export.

    Attributes
    ----------
    class_names
        The C object classes.
    where
        For messages.
    """

    def __init__(self, export: Export, source: RecordSource, dataset: Dataset | None, names_images: bool) -> None:
        self._export, self._source, self._dataset, self._names_images = export, source, dataset, names_images
        self.where, self.class_names = source.where, _class_names(export, source, dataset)
        self._images = None if dataset is None else {item.id: item.image for item in dataset.items}
        self.count = self.with_ignored = 0

    @property
    def header(self) -> Header:
        """What a folder says about itself."""
        upstream = () if self._source.header is None else self._source.header.provenance
        return Header("export", self.class_names, self._export.history(upstream))

    @property
    def value_range(self) -> ValueRange | None:
        """The range with which images are read: that of ``--range``, or else that of the labels' history."""
        recorded = recorded_range(self._source.header.provenance) if self._source.header is not None else None
        return self._export.value_range or recorded and ValueRange.parse("--range", recorded) or None

    def check_narrow(self, reader: str) -> None:
        """Check that the labels have 8 bits.

        Raises
        ------
        InputError
            There are too many classes.
        """
        if len(self.class_names) > MAX_NARROW_CLASSES:
            raise InputError(
                self.where, f"has {len(self.class_names)} classes, but {reader} reads labels of 8 bits",
                f"at most {MAX_NARROW_CLASSES} can be exported")

    def each(self, encode: Callable[[Labelled], _Made]) -> Iterator[tuple[Labelled, _Made]]:
        """Each image's labels and what is made of them, in threads and in order; complete once this has ended.

        Raises
        ------
        InputError
            A record is damaged or has values that are no labels; an image is missing or of another size; the labels
            are of images that the dataset does not have; there are none.
        """
        def work(record: Any) -> tuple[Labelled, _Made, bool]:
            labelled = self._labelled(load(record))
            return labelled, encode(labelled), bool(labelled.ignored.any())

        known = (record for record in self._source.lazy_records() if self._is_known(record.id))
        self._unknown: list[str] = []
        seen = set()
        for labelled, made, ignored in ordered_map(
                work, self._export.track(known, "export", None), self._export.threads):
            self.count += 1
            self.with_ignored += ignored
            seen.add(labelled.id)
            yield labelled, made
        self._check_matched(seen)

    def tell_ignored(self, what: str) -> None:
        """Tell the user what became of ignored pixels, if there were any."""
        if self.with_ignored:
            self._export.notify([f"{counted(self.with_ignored, 'image')} with ignored pixels: {what}"])

    def _is_known(self, identifier: str) -> bool:
        known = self._images is None or identifier in self._images
        if not known:
            self._unknown.append(identifier)
        return known

    def _check_matched(self, seen: set[str]) -> None:
        if self._unknown:
            assert self._dataset is not None
            raise InputError(
                self.where, f"{counted(len(self._unknown), 'label image')} of no image of {self._dataset.source}: "
                + listed(self._unknown), "check --data and --split, or leave them out with 'drstool cat --ids'")
        if not self.count:
            raise InputError(self.where, "holds no label image", "there is nothing to export")
        if self._images is not None and (lacking := [name for name in self._images if name not in seen]):
            self._export.notify([f"{counted(len(lacking), 'image')} without labels left out: {listed(lacking)}"])

    def _labelled(self, record: LabelRecord) -> Labelled:
        labels = as_label_type(record.labels, len(self.class_names))
        check_label_values(labels, self.class_names, f"{self.where}: {record.id}")
        image = self._image_of(record) if self._names_images else None
        return Labelled(record.id, labels, image)

    def _image_of(self, record: LabelRecord) -> Path:
        """The image's file, which must be there and have the labels' size."""
        if self._images is None and not record.image:
            raise InputError(
                f"{self.where}: {record.id}", "does not name its image, which the format needs", "give --data")
        path = Path(record.image) if self._images is None else self._images[record.id]
        size = image_size(path)
        if size != record.labels.shape:
            raise InputError(
                path, f"is {shown_size(size)} pixels, but its label image {shown_size(record.labels.shape)}",
                "give the images that the labels were made for")
        return path


@contextmanager
def open_labels(export: Export, *, names_images: bool) -> Iterator[LabelsToExport]:
    """The label images of an export.

    Parameters
    ----------
    export
    names_images
        Whether the format names the images, or holds them: they come from ``--data``, or else the labels name them.

    Raises
    ------
    InputError
        The source holds no labels, or its classes are unknown or not those of ``--classes``.
    """
    with open_records(export.source) as source:
        if source.is_maps or source.kind != "labels":
            raise InputError(
                source.where, f"holds {source.kind}, and the format holds labels",
                "make labels of maps with 'drstool pseudo-label'" if source.is_maps else "give label images")
        known = source.header.class_names if source.header is not None else export.class_names
        dataset = None if export.dataset is None else export.dataset(
            class_names=known, images_only=known is not None)
        yield LabelsToExport(export, source, dataset, names_images)


def _class_names(export: Export, source: RecordSource, dataset: Dataset | None) -> tuple[str, ...]:
    own = source.header.class_names if source.header is not None else None
    names = own or export.class_names or (dataset.class_names if dataset is not None else None)
    if not names:
        raise InputError(source.where, "does not name its classes", "list them with --classes FILE, one per line")
    for option, other in (("--classes", export.class_names), ("--data", dataset.class_names if dataset else None)):
        if other is not None and tuple(other) != tuple(names):
            raise InputError(
                source.where, f"has the classes {listed(names)}, but {option} has {listed(other)}",
                "both must have the same classes in the same order")
    return check_class_names(names, source.where)
