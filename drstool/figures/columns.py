"""Columns of a figure: which files they show, and what is in each of their cells."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from drstool import cues
from drstool.data.decoding import load_image, load_saliency, load_target
from drstool.data.item import Item
from drstool.errors import DrstoolError, InputError, UsageError
from drstool.files import is_file, is_folder, status
from drstool.formats.pictures import picture_files, read_marker
from drstool.formats.records import LabelRecord, MapRecord
from drstool.formats.sources import RecordSource, open_records
from drstool.labels import as_label_type, check_label_values, label_of
from drstool.pixels import shown_size
from drstool.recipe import CueSettings
from drstool.reports.text import counted
from drstool.text import listed

__all__ = ["KINDS", "Column", "Content", "Inputs", "Row", "check_size", "default_title", "image_of", "parse_column",
           "read_cell"]

# What a column can show, and of how many files.
KINDS = {"image": 0, "target": 0, "labels": 1, "heat": 1, "error": 1, "picture": 1, "difference": 2, "split": 2}
_PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm")
_PLACE = "{id}"
_EXPECTED = (
    "a column is image, target, a map file, a folder of labels or of pictures, or KIND:PATH with a kind of "
    + ", ".join(kind for kind, paths in KINDS.items() if paths))


@dataclass(frozen=True)
class Column:
    """What one column shows.

    Attributes
    ----------
    show
        One of ``KINDS``, or empty: what the file holds.
    title
    paths
        The files.
    object_class
        The class whose map is shown; empty: the strongest at each pixel.
    """

    show: str
    title: str
    paths: tuple[str, ...] = ()
    object_class: str = ""


def parse_column(text: str, show: str = "") -> Column:
    """A column as the command line writes it: ``[TITLE=][KIND:]PATH[#CLASS]``.

    What precedes the first ``=`` is a title, unless all of it names something on disk.

    Parameters
    ----------
    text
    show
        What the file is known to hold.

    Raises
    ------
    UsageError
        It is empty, or lacks a path.

    Examples
    --------
    >>> parse_column("CAM=cam.h5#cat")
    Column(show='', title='CAM', paths=('cam.h5',), object_class='cat')
    >>> parse_column("error:runs/pred").title
    'pred, errors'
    """
    title, equals, rest = text.partition("=")
    if not equals or status(_first_path(text)) is not None:
        title, rest = "", text
    kind, colon, paths = rest.partition(":")
    if rest in ("image", "target"):
        return Column(rest, title or default_title(rest))
    if not (colon and KINDS.get(kind)):
        kind, paths = show, rest
    paths, _, name = paths.partition("#")
    parts = tuple(paths.split(":")) if KINDS.get(kind) == 2 else (paths,)
    if len(parts) != KINDS.get(kind, 1) or not all(parts):
        raise UsageError(
            "--columns", f"{text!r} names {counted(len(list(filter(None, parts))), 'file')}",
            f"{kind} takes {KINDS.get(kind, 1)}, as in {kind}:A:B" if KINDS.get(kind) == 2 else _EXPECTED)
    return Column(kind, title or default_title(kind, parts, name), parts, name)


def _first_path(text: str) -> str:
    """The first path of a column without a title."""
    kind, _, rest = text.partition(":")
    path = rest.partition(":")[0] if KINDS.get(kind) else text
    return path.partition("#")[0]


def titled_as_each_other(columns: Sequence[Column]) -> list[Column]:
    """The columns, those of errors without a title named after the column of the same labels.

    Examples
    --------
    >>> [column.title for column in titled_as_each_other([parse_column("ours=pred"), parse_column("error:pred")])]
    ['ours', 'ours, errors']
    """
    titles = {column.paths: column.title for column in columns if column.show != "error" and column.paths}
    return [
        replace(column, title=titles[column.paths] + ", errors")
        if column.show == "error" and column.title == default_title("error", column.paths) and column.paths in titles
        else column for column in columns]


def default_title(show: str, paths: Sequence[str] = (), object_class: str = "") -> str:
    """The title of a column that is given none."""
    if not paths:
        return {"target": "ground truth"}.get(show, show)
    names = [Path(path).stem or path for path in paths]
    joined = {"difference": " − ", "split": " | "}.get(show, "").join(names)
    return joined + {"error": ", errors"}.get(show, "") + (f", {object_class}" if object_class else "")


@dataclass(frozen=True, eq=False)
class Content:
    """What one cell shows, before it is coloured.

    Attributes
    ----------
    show
        One of ``KINDS``.
    picture : (H, W, 3) uint8 or None
        The image, or the picture itself; None: there is nothing to show.
    labels, target : (H, W) uint8 or uint16, or None
    values : (H, W) float32 or None
        Of a map, or of a difference of two.
    highest
        The largest of them, in absolute value, or a percentile of them; also of a region's whole.
    halves
        Of a split cell, the contents of the two halves.
    error
        Why there is nothing to show.
    note
        The same in two or three words, to be written into the cell.
    """

    show: str
    picture: np.ndarray | None = None
    labels: np.ndarray | None = None
    target: np.ndarray | None = None
    values: np.ndarray | None = None
    highest: float = 0.0
    halves: tuple[Content, ...] = ()
    error: DrstoolError | None = None
    note: str = ""

    def region(self, x: int, y: int, width: int, height: int) -> Content:
        """A rectangle of it, in pixels of the image."""
        part = np.s_[y:y + height, x:x + width]
        cut = {name: value[part] for name in ("picture", "labels", "target", "values")
               if (value := getattr(self, name)) is not None}
        return replace(self, halves=tuple(half.region(x, y, width, height) for half in self.halves), **cut)


@dataclass(frozen=True)
class Inputs:
    """The files that the columns show, open.

    Attributes
    ----------
    sources
        Maps and labels by path.
    class_names
        The C object classes; empty where unknown.
    settings, saliency_of
        How labels are made of maps; see :class:`drstool.recipe.CueSettings`.
    percentile
        Of the values of a map, taken for its maximum.
    """

    sources: Mapping[str, RecordSource]
    class_names: tuple[str, ...] = ()
    settings: CueSettings = CueSettings()
    saliency_of: Callable[[str], Path] | None = None
    percentile: float = 100.0

    def cues_of(self, path: str) -> CueSettings:
        """How labels are made of the maps of a file, which may be probabilities."""
        if self.sources[path].kind != "score-maps":
            return self.settings
        given = [name for name, value in vars(self.settings).items() if value != getattr(CueSettings(), name)]
        return cues.of_probabilities(self.settings, given)

    @classmethod
    def open(cls, columns: Sequence[Column], stack: ExitStack) -> tuple[Inputs, tuple[Column, ...]]:
        """The files of the columns, and the columns with what they show.

        Raises
        ------
        InputError
            A file is missing or of the wrong kind, or two have different classes.
        """
        sources: dict[str, RecordSource] = {}
        known = tuple(_with_kind(column, sources, stack) for column in columns)
        return cls(sources, _common_classes(sources, known)), known


def _with_kind(column: Column, sources: dict[str, RecordSource], stack: ExitStack) -> Column:
    """The column with what it shows; its files are opened."""
    show = column.show
    if not show and _is_pictures(column.paths[0]):
        show = "picture"
    if show == "picture" and _PLACE not in column.paths[0] and not is_folder(column.paths[0]):
        raise InputError(column.paths[0], "no such folder", f"give a folder of pictures, or a path with {_PLACE} in it")
    for path in column.paths if show != "picture" else ():
        if path not in sources:
            if not is_file(path) and not is_folder(path):
                raise InputError(path, "no such file or folder", _EXPECTED)
            sources[path] = stack.enter_context(open_records(path))
            if sources[path].ids() is None:
                sources[path].read("")  # says that a stream cannot be searched
        maps = sources[path].is_maps
        if not maps and (show in ("heat", "difference") or column.object_class):
            raise InputError(path, "holds labels", f"'{column.title}' needs a map file")
        show = show or ("heat" if maps else "labels")
    return replace(column, show=show)


def _is_pictures(path: str) -> bool:
    """Whether a path is that of pictures to be shown as they are, rather than of maps or labels."""
    if _PLACE in path:
        return True
    if not is_folder(path):
        return False
    header = read_marker(Path(path))[0]
    if header is not None:
        return header.kind in ("figures", "saliency")
    files = picture_files(Path(path))
    if not files:
        return False
    if files[0].suffix.lower() != ".png":
        return True
    from PIL import Image

    with files[0].open("rb") as file, Image.open(file, formats=["PNG"]) as picture:
        mode = picture.mode
    if mode not in ("P", "RGB", "RGBA"):
        raise InputError(
            path, "holds grey PNGs, which may be labels or pictures",
            f"write labels:{path} or picture:{path}")
    return mode != "P"


def _common_classes(sources: Mapping[str, RecordSource], columns: Sequence[Column]) -> tuple[str, ...]:
    """The classes of all files, which must be the same."""
    named = {path: source.header.class_names for path, source in sources.items()
             if source.header is not None and source.header.class_names}
    if not named:
        return ()
    first, names = next(iter(named.items()))
    for path, others in named.items():
        if tuple(others) != tuple(names):
            raise InputError(
                path, f"has {counted(len(others), 'class')} ({listed(others)}), but {first} has {len(names)} "
                f"({listed(names)})",
                "the columns of a figure must have the same classes in the same order")
    for column in columns:
        if column.object_class and column.object_class not in names:
            raise InputError(
                column.paths[0], f"has no class '{column.object_class}'", f"its classes are {', '.join(names)}")
    return tuple(names)


@dataclass
class Row:
    """One image, with what its cells have in common read once.

    Attributes
    ----------
    id
    item
        None: the dataset has no such image.
    """

    id: str
    item: Item | None
    _records: dict[str, MapRecord | LabelRecord] = field(default_factory=dict)

    @cached_property
    def image(self) -> np.ndarray:
        """(H, W, 3) uint8."""
        if self.item is None:
            raise InputError(f"image '{self.id}'", "is not in the dataset", "check --ids, --data and --split")
        return load_image(self.item.image, self.item.value_range)

    @cached_property
    def target(self) -> np.ndarray:
        """(H, W) uint8 or uint16."""
        if self.item is None or self.item.mask is None:
            raise InputError(f"image '{self.id}'", "has no ground truth", "leave out the columns that need it")
        return load_target(self.item, self.image.shape[:2])

    def record(self, path: str, source: RecordSource) -> MapRecord | LabelRecord:
        """The record of a file, of the image's size."""
        if path not in self._records:
            found = source.read(self.id)
            check_size(found, self.image, f"{path}: {self.id}")
            self._records[path] = found
        return self._records[path]


def image_of(item: Item) -> np.ndarray:
    """An item's image, (H, W, 3) uint8.

    Raises
    ------
    InputError
        It is missing or unreadable, or the item is that of a record that does not name its image.
    """
    if item.image == Path():  # made of an empty name
        raise InputError(item.id, "has maps or labels that do not name its image", "name the images with --data")
    return load_image(item.image, item.value_range)


def check_size(record: MapRecord | LabelRecord, image: np.ndarray, where: object) -> None:
    """Check that a record is of the size of an image, (H, W, 3) uint8.

    Raises
    ------
    InputError
        It is not.
    """
    what, size = ("map's image", record.image_size) if isinstance(record, MapRecord) else (
        "label image", record.labels.shape)
    if tuple(size) != image.shape[:2]:
        raise InputError(
            where, f"the {what} is {shown_size(size)} pixels, but the image is {shown_size(image.shape)}",
            "use the images that the maps or labels were made from")


def read_cell(column: Column, row: Row, inputs: Inputs) -> Content:
    """What a cell shows; where that cannot be read, why."""
    note = "no image"
    try:
        if column.show == "picture":
            note = "no picture"
            return Content("picture", load_image(_picture_path(column.paths[0], row.id)))
        picture = row.image
        for path in column.paths:
            noun = "map" if inputs.sources[path].is_maps else "labels"
            is_there = row.id in (inputs.sources[path].ids() or ())
            note = "unreadable, or of another size" if is_there else f"no {noun}"
            row.record(path, inputs.sources[path])
        lacks_target = column.show in ("target", "error") and row.item is not None and row.item.mask is None
        note = "no ground truth" if lacks_target else "cannot be shown"
        return _content(column, row, inputs, picture)
    except InputError as error:
        return Content(column.show, error=error, note=note)


def _content(column: Column, row: Row, inputs: Inputs, picture: np.ndarray) -> Content:
    """What a cell shows whose image and records are there."""
    if column.show == "split":
        halves = tuple(
            _content(replace(column, show="heat" if inputs.sources[path].is_maps else "labels", paths=(path,)), row,
                     inputs, picture) for path in column.paths)
        return Content("split", picture, halves=halves)
    if column.show == "target":
        return Content("target", picture, labels=_checked(row.target, inputs, f"ground truth of '{row.id}'"))
    if column.show in ("heat", "difference"):
        maps = [_map_of(column, row, path, inputs) for path in column.paths]
        values = maps[0] if len(maps) == 1 else maps[0] - maps[1]
        lacks = column.object_class and any(
            label_of(inputs.class_names.index(column.object_class)) not in row.record(path, inputs.sources[path]).labels
            for path in column.paths)
        return Content(column.show, picture, values=values, highest=_peak(np.abs(values), inputs.percentile),
                       note=f"no map of {column.object_class}" if lacks else "")
    if column.show == "image":
        return Content("image", picture)
    labels = _labels_of(column.paths[0], row, inputs)
    target = _checked(row.target, inputs, f"ground truth of '{row.id}'") if column.show == "error" else None
    return Content(column.show, picture, labels=labels, target=target)


def _map_of(column: Column, row: Row, path: str, inputs: Inputs) -> np.ndarray:
    """A class's map, or the largest value of all, at the image's size; (H, W) float32."""
    record = row.record(path, inputs.sources[path])
    maps = record.as_float()  # type: ignore[union-attr]
    if column.object_class:
        label = label_of(inputs.class_names.index(column.object_class))
        maps = maps[[place for place, each in enumerate(record.labels) if each == label]]  # type: ignore[union-attr]
    return cues.resize_maps(maps, record.image_size).max(axis=0, initial=0)  # type: ignore[union-attr]


def _peak(values: np.ndarray, percentile: float) -> float:
    """A percentile of values, or their maximum where that is 0."""
    highest = float(values.max(initial=0))
    return highest if percentile == 100 else float(np.percentile(values, percentile)) or highest


def _labels_of(path: str, row: Row, inputs: Inputs) -> np.ndarray:
    """A label image; of maps, the labels that ``eval`` scores."""
    record = row.record(path, inputs.sources[path])
    if isinstance(record, LabelRecord):
        return _checked(record.labels, inputs, f"{path}: {row.id}")
    saliency, settings = None, inputs.cues_of(path)
    if settings.uses_saliency:
        cues.check_saliency_given(settings, inputs.saliency_of is not None)
        saliency = load_saliency(inputs.saliency_of(row.id), record.image_size, settings.saliency_range)  # type: ignore[misc]
    maps = cues.resize_maps(record.as_float(), record.image_size)
    labels = cues.pseudo_label(maps, record.labels, settings, saliency, ignore_rules=False)
    return as_label_type(labels, len(inputs.class_names))


def _checked(labels: np.ndarray, inputs: Inputs, where: str) -> np.ndarray:
    if not inputs.class_names:
        return labels
    labels = as_label_type(labels, len(inputs.class_names))
    check_label_values(labels, inputs.class_names, where)
    return labels


def _picture_path(place: str, identifier: str) -> Path:
    """The picture of an image: ``{id}`` in the path stands for its id, or else it is a folder of ``ID.png``."""
    if _PLACE in place:
        return Path(place.replace(_PLACE, identifier))
    paths = [Path(place, identifier + ending) for ending in _PICTURE_ENDINGS]
    return next((path for path in paths if is_file(path)), paths[0])
