"""``overlay --gallery``: a page to look at all images of a run, with their labels, maps and scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from drstool import cues, gallery
from drstool.data.decoding import load_saliency, load_target
from drstool.data.item import Dataset, Item
from drstool.data.value_range import ValueRange
from drstool.errors import InputError
from drstool.figures.colors import class_colors
from drstool.figures.columns import check_size, image_of
from drstool.formats import MapRecord, RecordSource
from drstool.labels import MAX_NARROW_CLASSES, as_label_type, check_label_values, label_of, label_type
from drstool.metrics import LabelCounts, SweepMatrix, count_steps, label_steps, swept_settings
from drstool.parallel import OnError, Track, map_items, untracked
from drstool.recipe import CueSettings
from drstool.reports.text import json_number

__all__ = ["Sources", "gallery_files"]

# Numbers of the cue rule that the page lets the user move.
_SWEPT = ("alpha", "constant")


@dataclass(frozen=True)
class Sources:
    """What is looked at.

    Attributes
    ----------
    dataset
        The images; None: those that the records name.
    labels, maps
        Label images and maps by the names that the page gives them; they can be read by id.
    class_names
        The C object classes; None: the dataset's, or else the label values.
    saliency_of
        Path of an image id's saliency map, for the background cue of the maps; None: a constant takes its place.
    value_range
        Pixel values that become black and white in images that the records name.
    targets
        Whether ground truth is shown, and scored against.
    title
        Of the page; empty: what the dataset or the records are called.
    """

    dataset: Dataset | None
    labels: Mapping[str, RecordSource]
    maps: Mapping[str, RecordSource]
    class_names: Sequence[str] | None = None
    saliency_of: Callable[[str], Path] | None = None
    value_range: ValueRange | None = None
    targets: bool = True
    title: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The object classes, or numbers in place of their names."""
        known = self.class_names or (self.dataset.class_names if self.dataset is not None else None)
        return tuple(known or (f"class {label_of(channel)}" for channel in range(MAX_NARROW_CLASSES)))

    @property
    def settings(self) -> dict[str, CueSettings]:
        """The settings of the cue rule at which each map layer is scored, and the page begins."""
        plain = CueSettings(background="saliency" if self.saliency_of is not None else "constant")
        return {
            name: cues.of_probabilities(plain, ()) if source.kind == "score-maps" else plain
            for name, source in self.maps.items()}

    def items(self) -> list[Item]:
        """The images, in order.

        Raises
        ------
        InputError
            The dataset has none of the images of the records, or the records are a stream.
        """
        known: dict[str, RecordSource] = {}
        for source in (*self.labels.values(), *self.maps.values()):
            ids = source.ids()
            if ids is None:
                raise InputError(source.where, "is a stream, which cannot be searched for an image",
                                 "save it first: drstool cat -o FILE")
            known |= {identifier: source for identifier in ids if identifier not in known}
        if self.dataset is None:
            return [Item(i, Path(str(source.info(i).get("image", ""))), value_range=self.value_range)
                    for i, source in known.items()]
        if known and not any(item.id in known for item in self.dataset.items):
            raise InputError(
                self.dataset.source, f"has none of the images of the maps or labels, such as '{next(iter(known))}'",
                f"its ids look like '{self.dataset.items[0].id}'; check --data and --split")
        return list(self.dataset.items)


def gallery_files(
    sources: Sources, *, workers: int = 1, on_error: OnError | None = None, track: Track = untracked,
) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of the gallery's files; what the page knows of all images comes last.

    Parameters
    ----------
    sources
    workers
        Number of threads; the files do not depend on it.
    on_error
        Called with the error of each image that fails, which is then left out; None: it is raised.
    track
        Progress display.

    Raises
    ------
    InputError
        An image, mask, label image or map is missing, unreadable, or not of its image's size; see also
        :meth:`Sources.items`.
    """
    items, names = sources.items(), sources.names
    yield from gallery.page_files()
    painter, rows, targets = _Painter(sources), [], False
    sweeps = [{name: SweepMatrix(names, name) for name in _SWEPT} for _ in sources.maps]
    for row, files, steps in track(
            map_items(painter, enumerate(items), workers, on_error), "overlay", len(items)):
        yield from files
        rows.append(row)
        targets |= row["target"]
        for matrices, counts in zip(sweeps, steps):
            for name, each in counts.items():
                matrices[name].add(each)
    if not rows:
        raise InputError("--gallery", "no image is left to show", "see the errors of the images")
    curves = [
        {name: [json_number(each.mean_iou) for each in matrix.scores()] for name, matrix in matrices.items()}
        for matrices in sweeps] if targets else []
    title = sources.title or (
        sources.dataset.source if sources.dataset is not None else ", ".join((*sources.labels, *sources.maps)))
    yield gallery.index_file(
        title, names, tuple(sources.labels), sources.settings, rows, targets=targets, sweeps=curves)


class _Painter:
    """Makes the files of one image; called from several threads."""

    def __init__(self, sources: Sources) -> None:
        self._sources, self._names, self._settings = sources, sources.names, sources.settings
        self._colors = class_colors(len(self._names))
        self._channels = {name: channel for channel, name in enumerate(self._names)}
        self._ids = {id(source): frozenset(source.ids() or ())
                     for source in (*sources.labels.values(), *sources.maps.values())}

    def __call__(self, numbered: tuple[int, Item]) -> tuple[dict, list[tuple[str, bytes]], list[dict[str, Any]]]:
        number, item = numbered
        layers = self._layers(item)
        scored, steps = list(layers.labels), []
        for record, settings in zip(layers.maps, self._settings.values()):
            labels, swept = self._labels_of(record, settings, layers)
            scored.append(labels)
            steps.append(swept)
        counts: list[LabelCounts | None] = [
            None if each is None else gallery.count_pairs(layers.target, each, self._names) for each in scored]
        tags = None if item.tags is None else [label_of(self._channels[tag]) for tag in item.tags]
        row = gallery.row(number, item.id, tags, layers, counts)
        return row, gallery.image_files(number, layers, scored, self._colors), steps

    def _layers(self, item: Item) -> gallery.Layers:
        """All that there is of an image, its sizes and values checked."""
        sources = self._sources
        image = image_of(item)
        size = image.shape[:2]
        target = load_target(item, size) if sources.targets and item.mask is not None else None
        if target is not None:
            target = self._checked(target, item.mask)
        labels = [self._record(source, item) for source in sources.labels.values()]
        maps = [self._record(source, item) for source in sources.maps.values()]
        for record in (*labels, *maps):
            if record is not None:
                check_size(record, image, item.id)
        uses = any(each.uses_saliency for each in self._settings.values())
        saliency = load_saliency(sources.saliency_of(item.id), size) if uses else None  # type: ignore[misc]
        return gallery.Layers(
            image, target, [None if each is None else self._checked(each.labels, item.id) for each in labels], maps,
            saliency)

    def _record(self, source: RecordSource, item: Item) -> Any:
        return source.read(item.id) if item.id in self._ids[id(source)] else None

    def _checked(self, labels: np.ndarray, where: object) -> np.ndarray:
        labels = as_label_type(labels, len(self._names))
        check_label_values(labels, self._names, where)
        return labels

    def _labels_of(
        self, record: MapRecord | None, settings: CueSettings, layers: gallery.Layers,
    ) -> tuple[np.ndarray | None, dict[str, Any]]:
        """Labels of maps as ``eval`` takes them and, against a target, what their scores are at other settings."""
        if record is None:
            return None, {}
        maps, dtype = cues.resize_maps(record.as_float(), record.image_size), label_type(len(self._names))
        labels = cues.pseudo_label(
            maps, record.labels, settings, layers.saliency, ignore_rules=False, dtype=dtype)
        steps = {} if layers.target is None else {
            name: count_steps(layers.target, label_steps(
                maps, record.labels, swept_settings(settings, name), layers.saliency, name, dtype=dtype),
                record.labels)
            for name in _SWEPT}
        return labels, steps
