"""Maps of other projects as records of ours: what format they are of, what they lack, and what cannot be kept."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from drstool.artifacts.header import HDF5_SIGNATURE
from drstool.data.files_by_id import FilesById, is_hidden
from drstool.data.sbd import CLASS_NAMES
from drstool.errors import InputError, UsageError
from drstool.exchange import class_pngs, clip_es, drs, irn, npz, psa, puzzlecam
from drstool.exchange.found import FoundMaps, ValueCounts, to_record
from drstool.files import is_folder, read_beginning, read_bytes, status, walk
from drstool.formats.records import MapRecord
from drstool.identifiers import check_id
from drstool.labels import check_class_names, label_of, object_classes
from drstool.parallel import Track, ordered_map, untracked
from drstool.pickles import load_npy
from drstool.reports.text import counted
from drstool.text import listed

if TYPE_CHECKING:
    from drstool.data import Dataset, Item
    from drstool.exchange.bare_hdf5 import BareHdf5

__all__ = ["MAP_FORMATS", "ForeignMaps", "holds_maps", "open_maps"]

# Formats whose files are .npy, each a module with fits() and maps_of(); a file is of the first one that fits.
_NPY: dict[str, ModuleType] = {"irn": irn, "clip-es": clip_es, "puzzlecam": puzzlecam, "drs": drs, "psa": psa}
# What --from takes, and the ending of the files. MCTformer's and SEAM's are PSA's; OAA's and WSSS-BED's are the same.
MAP_FORMATS = {
    **dict.fromkeys(_NPY, ".npy"), "mctformer": ".npy", "oaa": ".png", "wsss-bed": ".png", "png": ".png",
    "npz": ".npz", "hdf5": ".h5"}
_SAME_AS = {"mctformer": "psa", "oaa": "png", "wsss-bed": "png"}
_HDF5_START = HDF5_SIGNATURE[:4]
_HDF5_SUFFIXES = (".h5", ".hdf5", ".hdf", ".he5")
_RIGHT = "expected a folder of .npy, .npz or ID_CLASS.png files, one of them, or an HDF5 file; see examples/exchange.md"
# The ids of PASCAL VOC.
_VOC_ID = re.compile(r"20\d\d_\d{6}")
# Ids that a message names.
_MOST_NAMED = 3


def holds_maps(path: str) -> bool:
    """Whether a file or folder is read by :func:`open_maps`, by its name and beginning; others are networks.

    Raises
    ------
    InputError
        There is none.
    """
    if status(path) is None:
        raise InputError(path, "no such file or folder", "check the path")
    return is_folder(path) or Path(path).suffix.lower() in MAP_FORMATS.values() or (
        read_beginning(path, len(_HDF5_START)) == _HDF5_START)


@dataclass(frozen=True)
class _Place:
    """Where maps lie: a folder, or one file as if it were alone in a folder."""

    path: Path
    suffix: str
    files: dict[str, Path]
    others: int = 0


@dataclass
class ForeignMaps:
    """Another project's maps, opened; a context manager.

    Attributes
    ----------
    format
        A key of ``MAP_FORMATS``.
    class_names
        The C object classes.
    ids
        Of the images, in the dataset's order or else sorted.
    notices
        What was assumed, a line each; :meth:`records` adds what was changed or left out.
    """

    format: str
    class_names: tuple[str, ...]
    ids: tuple[str, ...]
    notices: list[str]
    _reader: _Reader
    _items: dict[str, Item]
    _dtype: str | None
    _counts: ValueCounts = field(default_factory=ValueCounts)
    _left_out: Counter[str] = field(default_factory=Counter)
    _other_tags: list[str] = field(default_factory=list)
    _without: list[str] = field(default_factory=list)
    _tagged: int = 0
    # What could be added to all class numbers to make them those of the tags.
    _shifts: set[int] = field(default_factory=lambda: {-1, 1})
    _unsized: int = 0

    def records(self, threads: int = 1, track: Track = untracked) -> Iterator[MapRecord]:
        """The records, each read when its turn comes.

        Raises
        ------
        InputError
            A file is damaged, or of another format; its classes, values or sizes cannot be right. After the last:
            the uint8 maps are masks of 0 and 1.
        """
        for record, found, counts in ordered_map(
                self._record, track(self.ids, "import", len(self.ids)), threads):
            self._counts.add(counts)
            self._left_out.update(found.left_out)
            item = self._items.get(record.id)
            self._unsized += item is None and not found.fills_image and found.image_size is None
            if item is not None and item.tags is not None:
                self._compare(record, {label_of(at) for at, name in enumerate(self.class_names) if name in item.tags})
            yield record
        if self._counts.largest_uint8 == 1:
            raise InputError(
                self._reader.place.path, "no value of its uint8 maps is above 1, but 255 stands for 1",
                "write masks with 0 and 255, or as floating-point numbers")
        self.notices += self._summary()

    def _compare(self, record: MapRecord, tags: set[int]) -> None:
        """Note whether an image's maps are those of its tags, which are labels here."""
        self._tagged += 1
        if tags and not record.labels:
            self._without.append(record.id)
            return
        if set(record.labels) != tags:
            self._other_tags.append(record.id)
        self._shifts = {shift for shift in self._shifts if {label + shift for label in record.labels} == tags}

    def _record(self, identifier: str) -> tuple[MapRecord, FoundMaps, ValueCounts]:
        from drstool.data import image_size

        item, where = self._items.get(identifier), self._reader.where(identifier)
        found = self._reader.read(identifier)
        known: dict[str, Any] = {} if item is None else {
            "image_size": image_size(item.image), "image": str(item.image), "tags": item.tags}
        record, counts = to_record(found, identifier, self.class_names, where, dtype=self._dtype, **known)
        return record, found, counts

    def _summary(self) -> list[str]:
        """What was done and left out."""
        lines = self._counts.lines(self._dtype)
        lines += [f"{what} of {counted(count, 'image')} was left out" for what, count in sorted(self._left_out.items())]
        if self._unsized:
            images = counted(self._unsized, "image")
            lines.append(f"the maps' size is taken for the image's in {images}; --data tells the image's")
        of = f"of {counted(self._tagged, 'image')}"
        if self._other_tags:
            fitting = "".join(f"; class numbers {'minus' if shift < 0 else 'plus'} 1 would fit all"
                              for shift in self._shifts)
            lines.append(f"the maps of {len(self._other_tags):,} {of} are not of their tags: "
                         + listed(self._other_tags, most=_MOST_NAMED) + fitting)
        if self._without:
            lines.append(f"tagged images without maps: {len(self._without):,} {of}: "
                         + listed(self._without, most=_MOST_NAMED))
        return lines

    def close(self) -> None:
        """Let go of what is open."""
        self._reader.close()

    def __enter__(self) -> ForeignMaps:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_maps(
    path: str, origin: str | None = None, *, dataset: Dataset | None = None,
    class_names: Sequence[str] | None = None, dtype: str | None = None, intersect: bool = False,
) -> ForeignMaps:
    """Another project's maps to read.

    Parameters
    ----------
    path
        A folder of files for each image or each of its classes, one such file, or an HDF5 file.
    origin
        A key of ``MAP_FORMATS``; None: what the files look like.
    dataset
        Says the size and path of each image, and the class names.
    class_names
        In place of the dataset's.
    dtype
        ``uint8`` or ``float16``, how values are stored; None: uint8 where that is exact.
    intersect
        Leave out images that are only in the dataset or only in the maps; otherwise there must be none.

    Raises
    ------
    InputError
        It is missing, empty or of no such format, or class names or images do not fit.
    UsageError
        The format must be named; an option does not go with the others.
    """
    if origin is not None and origin not in MAP_FORMATS:
        raise UsageError("--from", f"{origin!r} is not one of {', '.join(MAP_FORMATS)}")
    if intersect and dataset is None:
        raise UsageError("--intersect", "compares the maps with a dataset", "add --data, or omit it")
    place = _placed(Path(path), origin)
    reader = _reader(place, origin)
    try:
        if reader.format == "drs" and dataset is None:
            raise InputError(path, "holds maps of square images, and does not say the images' own sizes", "give --data")
        notices = []
        if place.others:
            notices.append(f"left out {counted(place.others, 'file')} with another ending than {place.suffix}")
        if origin is None:
            notices.append(f"{path}: read as maps of the format {reader.format}")
        names, about = _class_names(reader, dataset, class_names, path)
        ids, items, lacking = _ids(reader, dataset, intersect, path)
        return ForeignMaps(
            reader.format, names, ids, notices + reader.notices + about + lacking, reader, items, dtype)
    except BaseException:
        reader.close()
        raise


# --- what lies where ---------------------------------------------------------------------------


def _placed(path: Path, origin: str | None) -> _Place:
    """The files at a path, of the ending that the format has, or that all have."""
    wanted = None if origin is None else MAP_FORMATS[origin]
    if not is_folder(path):
        found = ".h5" if path.suffix.lower() in _HDF5_SUFFIXES or (
            read_beginning(path, len(_HDF5_START)) == _HDF5_START) else path.suffix.lower()
        if status(path) is None:
            raise InputError(path, "no such file or folder", _RIGHT)
        if found not in MAP_FORMATS.values() or wanted not in (None, found):
            raise InputError(path, f"is not a {wanted or 'map'} file", _RIGHT)
        return _Place(path, found, {path.stem: path})
    if wanted == ".h5":
        raise InputError(path, "is a folder", "expected one HDF5 file with the maps of all images")
    suffixes = Counter(
        Path(name).suffix.lower() for _, _, names in walk(path) for name in names if not is_hidden(name))
    # What export itself puts beside the files.
    suffixes.pop(".json", None)
    usable = [suffix for suffix in (".npy", ".npz", ".png") if suffixes[suffix]]
    if wanted is None and len(usable) > 1:
        raise InputError(path, f"holds {' and '.join(usable)} files", "say which to read with --from FORMAT")
    suffix = wanted or (usable[0] if usable else "")
    if suffix not in usable:
        raise InputError(path, f"holds no {suffix or '.npy, .npz or .png'} files", _RIGHT)
    files = FilesById(path, (suffix,))
    ids = {identifier: files.find(identifier) for identifier in files.ids(unique=True)}
    return _Place(path, suffix, ids, suffixes.total() - len(ids))  # type: ignore[arg-type]


def _reader(place: _Place, origin: str | None) -> _Reader:
    origin = _SAME_AS.get(origin or "", origin)
    if place.suffix == ".npy":
        return _NpyReader(place, origin)
    if place.suffix == ".npz":
        return _NpzReader(place)
    return _PngReader(place) if place.suffix == ".png" else _Hdf5Reader(place)


class _Reader:
    """Reads the maps of one image after another; the formats differ in what a file is."""

    format = ""
    ids: tuple[str, ...] = ()
    class_names: tuple[str, ...] | None = None
    # The highest class number and its file, where the names of the files tell them.
    highest: int | None = None
    highest_file: Path | None = None

    def __init__(self, place: _Place) -> None:
        self.place = place
        self.ids = tuple(check_id(name, place.path) for name in place.files)
        self.notices: list[str] = []

    def where(self, identifier: str) -> Path:
        """Named in errors."""
        return self.place.files.get(identifier, self.place.path)

    def read(self, identifier: str) -> FoundMaps:
        """The maps of one image; raises InputError where they are damaged."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of what is open."""


class _NpyReader(_Reader):
    def __init__(self, place: _Place, origin: str | None) -> None:
        super().__init__(place)
        if origin is None:
            first = next(iter(place.files.values()))
            content = self._content(first)
            fitting = self._format_of(content)
            if fitting is None:
                raise InputError(first, f"holds {_shown(content)}, no maps of a known format",
                                 f"expected those of {', '.join(_NPY)}; see examples/exchange.md")
            origin = fitting
        self.format = origin

    @staticmethod
    def _content(path: Path) -> Any:
        return load_npy(read_bytes(path), path, what="does not hold maps", right="expected a file of arrays")

    @staticmethod
    def _format_of(content: Any) -> str | None:
        return next((name for name, module in _NPY.items() if module.fits(content)), None)

    def read(self, identifier: str) -> FoundMaps:
        path = self.place.files[identifier]
        content = self._content(path)
        if not _NPY[self.format].fits(content):
            other = self._format_of(content)
            raise InputError(
                path, f"is not of the format {self.format}, but " + (f"of {other}" if other else _shown(content)),
                "import the files of one format at a time")
        return _told(path, partial(_NPY[self.format].maps_of, content))


class _NpzReader(_Reader):
    format = "npz"

    def __init__(self, place: _Place) -> None:
        super().__init__(place)
        first = next(iter(place.files.values()))
        self.class_names = npz.class_names(npz.load(first))

    def read(self, identifier: str) -> FoundMaps:
        path = self.place.files[identifier]
        content = npz.load(path)
        if npz.class_names(content) != self.class_names:
            raise InputError(path, "has other class names than the first file", "import files of the same classes")
        return _told(path, partial(npz.maps_of, content))


class _PngReader(_Reader):
    format = "png"

    def __init__(self, place: _Place) -> None:
        super().__init__(place)
        self._numbers = class_pngs.by_image(place.files, place.path)
        self.ids = tuple(sorted(self._numbers))
        self.highest, owner = max((numbers[-1], identifier) for identifier, numbers in self._numbers.items())
        self.highest_file = place.files[f"{owner}_{self.highest}"]

    def where(self, identifier: str) -> Path:
        return self.place.files[f"{identifier}_{self._numbers[identifier][0]}"]

    def read(self, identifier: str) -> FoundMaps:
        return class_pngs.maps_of(
            {number: self.place.files[f"{identifier}_{number}"] for number in self._numbers[identifier]})


class _Hdf5Reader(_Reader):
    format = "hdf5"

    def __init__(self, place: _Place) -> None:
        # It takes longer to import than the others together.
        from drstool.exchange.bare_hdf5 import BareHdf5

        super().__init__(place)
        self._file: BareHdf5 = BareHdf5(place.path)
        names = self._file.class_names
        self.ids, self.class_names = self._file.ids, None if names is None else tuple(names)
        if self._file.others:
            self.notices.append(f"left out what is not (K, H, W): {listed(self._file.others, most=_MOST_NAMED)}")

    def where(self, identifier: str) -> Path:
        return Path(f"{self.place.path}: {identifier}")

    def read(self, identifier: str) -> FoundMaps:
        return self._file.read(identifier)

    def close(self) -> None:
        self._file.close()


def _shown(content: Any) -> str:
    """What a file holds, in words."""
    if isinstance(content, dict):
        return f"a dictionary with the keys {', '.join(map(repr, content))}"[:100]
    if hasattr(content, "shape"):
        return f"an array of {content.dtype} and shape {content.shape}"
    return f"a {type(content).__name__}"


def _told(path: Path, read: partial[FoundMaps]) -> FoundMaps:
    """What is read of a file, of which a format's module says what is wrong."""
    try:
        return read()
    except ValueError as error:
        raise InputError(path, f"cannot be read: {error}", "see examples/exchange.md") from None


# --- what the files do not say -----------------------------------------------------------------


def _class_names(
    reader: _Reader, dataset: Dataset | None, given: Sequence[str] | None, path: str,
) -> tuple[tuple[str, ...], list[str]]:
    """The class names, and a line on where they come from if nobody said them."""
    known = tuple(given) if given is not None else None if dataset is None else dataset.class_names
    own, notices = (None, ()) if reader.class_names is None else object_classes(reader.class_names, path)
    if known is not None and own not in (None, known):
        raise InputError(path, f"its classes are not those of {'--data' if given is None else '--classes'}",
                         f"its own begin with {own[0]!r}")  # type: ignore[index]
    if known is None and own is None:
        if (reader.highest or 0) >= len(CLASS_NAMES) or not all(map(_VOC_ID.fullmatch, reader.ids)):
            raise InputError(path, "does not say its class names", "give --data, or --classes FILE")
        known, notices = CLASS_NAMES, ("by the ids, the class numbers are taken for those of PASCAL VOC; others are "
                                        "named with --classes",)
    known = known or own
    if (reader.highest or 0) >= len(known):  # type: ignore[arg-type]
        raise InputError(
            reader.highest_file, f"has a map of class number {reader.highest}, but there are {len(known)} "  # type: ignore
            f"classes (numbers 0 to {len(known) - 1})", "name all classes with --classes")  # type: ignore[arg-type]
    return check_class_names(known, path), list(notices)  # type: ignore[arg-type]


def _ids(
    reader: _Reader, dataset: Dataset | None, intersect: bool, path: str,
) -> tuple[tuple[str, ...], dict[str, Item], list[str]]:
    """Ids of the images to read, what the dataset knows of them, and lines on those left out."""
    if dataset is None:
        return reader.ids, {}, []
    known, items = set(reader.ids), {item.id: item for item in dataset.items}
    lines = []
    for found, where, other in (
            ([name for name in items if name not in known], dataset.source, path),
            ([name for name in reader.ids if name not in items], path, dataset.source)):
        if found:
            lines.append(f"{other} lacks {counted(len(found), 'image')} of {where}: {listed(found, most=_MOST_NAMED)}")
    both = tuple(name for name in items if name in known)
    if not both:
        raise InputError(path, f"has maps of none of the images of {dataset.source}",
                         f"its ids are like {reader.ids[0]!r}, those of the data like {dataset.items[0].id!r}")
    if lines and not intersect:
        raise InputError(path, "; ".join(lines), "leave these out with --intersect, or choose another --split")
    return both, items, lines
