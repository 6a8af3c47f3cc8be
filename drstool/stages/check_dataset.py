"""``check --data``: what is wrong with a dataset, before hours of work on it."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from drstool.data import Dataset, Item, load_image, load_saliency, load_target, read_dataset
from drstool.data.decoding import stored_size
from drstool.data.image_notices import image_notices
from drstool.data.item import SeveralSplits
from drstool.data.masks import ValueMask, mask_place
from drstool.errors import DrstoolError, InputError
from drstool.files import walk
from drstool.identifiers import Names
from drstool.labels import check_label_values
from drstool.parallel import Track, map_items, untracked
from drstool.pixels import shown_size
from drstool.reports.empty_maps import saliency_lines
from drstool.reports.ground_truth import GroundTruth, MaskSummary, agreement_lines, summarize
from drstool.reports.text import counted
from drstool.text import listed

__all__ = ["DatasetReport", "as_json", "check_dataset"]

# The kinds of faults, most serious first: they stop the work, falsify its results, or are merely odd.
_ABSENT, _DAMAGED, _MASK, _SALIENCY, _CONTRADICTION, _REPEATED, _LACKING, _ODD = range(8)
# An image without a lighter pixel looks black.
_NEARLY_BLACK = 32
_MASK_SUFFIXES = (".png", ".mat")
_READ_BYTES = 1 << 20


@dataclass
class DatasetReport:
    """What was found in a dataset.

    Attributes
    ----------
    input
        As the user gave it.
    images
        Number of images.
    classes
        Number of images with each class among their tags; None where no tags are known.
    notices
        What was assumed in reading it.
    known
        Number of images with ``tags``, ``masks`` and ``saliency_maps``.
    missing
        Number of images that are listed but not there.
    """

    input: str
    images: int = 0
    classes: dict[str, int] | None = None
    notices: tuple[str, ...] = ()
    known: dict[str, int] = field(default_factory=dict)
    missing: int = 0
    _found: list[tuple[int, DrstoolError]] = field(default_factory=list)

    def add(self, rank: int, error: DrstoolError) -> None:
        """Add a fault of a kind."""
        self._found.append((rank, error))

    @property
    def problems(self) -> list[DrstoolError]:
        """An error for each fault, most serious first."""
        return [error for _, error in sorted(self._found, key=lambda each: each[0])]

    @property
    def contents(self) -> str:
        """What is known of the images, with the number of those of each class, and how many are missing."""
        counts = [f"{name} {number:,}" for name, number in (self.classes or {}).items()]
        more = {"tags": f" ({listed(counts)})" if counts else ""}
        parts = [f"{number or 'none'} with {what.replace('_', ' ')}{more.get(what, '')}"
                 for what, number in self.known.items()]
        return ", ".join(([f"{self.missing:,} missing"] if self.missing else []) + parts)


def as_json(report: DatasetReport) -> str:
    """The report as one line of JSON."""
    problems = [{"where": e.where, "what": e.what, "right": e.right} for e in report.problems]
    state = "damaged" if problems else "whole"
    return json.dumps({
        "input": report.input, "state": state, "kind": "dataset", "count": report.images, "missing": report.missing,
        **report.known, "classes": report.classes, "problems": problems}, ensure_ascii=False) + "\n"


def check_dataset(
    data: str, split: str | None = None, *, workers: int = 1, track: Track = untracked, **how: Any,
) -> DatasetReport:
    """What is wrong with a dataset, after decoding each image, mask and saliency map once.

    Parameters
    ----------
    data, split
        As of :func:`drstool.data.read_dataset`; without a split, all of them.
    workers
        Number of threads; the report does not depend on it.
    track
        Progress display.
    how
        Further parameters of :func:`drstool.data.read_dataset`.

    Raises
    ------
    UsageError
        The parameters do not go together.
    """
    report = DatasetReport(data)
    splits, whole = _read_splits(report, data, split, how)
    if not splits:
        return report
    # A list made of others names the same images.
    report.missing = len({error.what for dataset in splits.values() for error in dataset.missing})
    dataset = _joined(splits)
    report.images, report.notices = len(dataset), dataset.notices
    looks = list(track(
        map_items(lambda item: _look(item, dataset.class_names), dataset.items, workers, None), "check", len(dataset)))
    for look in looks:
        report._found += look.faults
    _check_masks(report, dataset, looks)
    _check_tags(report, dataset)
    _check_repetition(report, dataset, splits)
    if split is None and whole:
        _check_files(report, dataset)
    _check_values(report, dataset, looks, how)
    return report


def _read_splits(
    report: DatasetReport, data: str, split: str | None, how: dict[str, Any],
) -> tuple[dict[str, Dataset], bool]:
    """The split that is named, or all of them, and whether all can be read; what cannot is reported."""
    splits: dict[str, Dataset] = {}
    names: list[str | None] = [split]
    whole = True
    for name in names:
        try:
            dataset = splits[name or ""] = read_dataset(data, name, **how)
        except SeveralSplits as several:
            if name is not None:
                raise
            names += several.names
        except InputError as error:
            report.add(_ABSENT, error)
            whole = False
        else:
            for missing in dataset.missing:
                report.add(_ABSENT, missing)
    first = [dataset.class_names or () for dataset in splits.values()][:1]
    for label, dataset in splits.items():
        if [dataset.class_names or ()] != first:
            report.add(_CONTRADICTION, InputError(
                data, f"split {label} has other classes: {listed(dataset.class_names or ())}, not "
                + listed(first[0]), "list the classes of all splits with --classes FILE"))
    return splits, whole


def _joined(splits: dict[str, Dataset]) -> Dataset:
    """All images, each file once but where one split repeats it; with the split's name in an id that another has."""
    first = next(iter(splits.values()))
    if len(splits) == 1:
        return first
    items: dict[tuple[Path, int], Item] = {}
    ids: dict[str, Path] = {}
    for name, dataset in splits.items():
        times: Counter[Path] = Counter()
        for item in dataset.items:
            key, own = (item.image, times[item.image]), ids.setdefault(item.id, item.image) == item.image
            times[item.image] += 1
            known = items.get(key)
            # A list made of others, such as trainval, may have no tags.
            if known is None or known.tags is None and item.tags is not None:
                items[key] = item if own else replace(item, id=f"{name}/{item.id}")
    return replace(first, items=tuple(items.values()), notices=tuple(
        dict.fromkeys(line for dataset in splits.values() for line in dataset.notices)))


class _Look(NamedTuple):
    """What was found in the files of one image."""

    item: Item
    faults: list[tuple[int, DrstoolError]]
    largest: int | None
    mask: MaskSummary | None
    saliency: list[int]


def _look(item: Item, class_names: Sequence[str] | None) -> _Look:
    faults: list[tuple[int, DrstoolError]] = []
    size = largest = mask = None
    saliency: list[int] = []
    try:
        image = load_image(item.image, item.value_range)
        size, largest = image.shape[:2], int(image.max())
    except InputError as error:
        faults.append((_DAMAGED, error))
    if item.mask is not None:
        try:
            target = load_target(item)
            mask = summarize(target, mask_place(item), item.tags)
            if size is not None and target.shape != size:
                faults.append((_MASK, _misfit(item, target.shape, size)))
            if class_names is not None:
                check_label_values(target, class_names, item.mask)
        except InputError as error:
            faults.append((_MASK, error))
    if item.saliency is not None:
        try:
            load_saliency(item.saliency, size, largest=saliency)
        except InputError as error:
            faults.append((_SALIENCY, error))
    return _Look(item, faults, largest, mask, saliency)


def _misfit(item: Item, shape: tuple[int, ...], size: tuple[int, int]) -> InputError:
    """The error for a mask of another size than its image."""
    turned = stored_size(item.image) == shape != size
    return InputError(
        item.mask, f"is {shown_size(shape)} pixels, but its image is {shown_size(size)}"
        + (", turned by EXIF" if turned else ""),
        "turn the mask as the image" if turned else "the mask must have the image's size")


def _check_masks(report: DatasetReport, dataset: Dataset, looks: Sequence[_Look]) -> None:
    """Find ground truth that is ignored, lacks classes or contradicts the tags."""
    masks = {look.item.id: look.mask for look in looks if look.mask is not None}
    if not masks:
        return
    values = next((str(item.mask.values) for item in dataset.items if isinstance(item.mask, ValueMask)), "")
    truth = GroundTruth(dataset.class_names or ("object",), values, masks)
    try:
        truth.check()
    except InputError as error:
        report.add(_MASK, error)
        return
    if dataset.class_names is None:
        return
    if truth.unseen:
        report.add(_LACKING, InputError(
            listed(truth.places), f"has no pixel of {truth.unseen_text}", "check the masks, or the list of classes"))
    lines = agreement_lines(masks.values(), dataset.class_names)
    for line in lines:
        report.add(_CONTRADICTION, InputError(dataset.source, line))
    names = ("background", *dataset.class_names)
    held = {i: {names[label] for label in mask.labels if 0 < label < len(names)} for i, mask in masks.items()}
    extra = [i for i, mask in masks.items() if mask.tags is not None and held[i] - set(mask.tags)]
    short = [i for i, mask in masks.items() if mask.tags is not None and set(mask.tags) - held[i]]
    if extra and not lines:
        report.add(_CONTRADICTION, InputError(
            dataset.source, f"masks of {counted(len(extra), 'image')} hold classes that their tags do not: "
            + listed(extra), "add the tags, or mend the masks"))
    if short and not lines:
        report.add(_ODD, InputError(
            dataset.source, f"masks of {counted(len(short), 'image')} lack classes of their tags: {listed(short)}",
            "check tags and masks"))


def _check_tags(report: DatasetReport, dataset: Dataset) -> None:
    """Find images without tags, and classes without images."""
    untagged = [item.id for item in dataset.items if item.tags is None]
    report.known = {"tags": len(dataset) - len(untagged)}
    if len(untagged) < len(dataset):
        counts = Counter(tag for item in dataset.items for tag in item.tags or ())
        report.classes = {name: counts[name] for name in dataset.class_names or ()}
        empty = [name for name, number in report.classes.items() if not number]
        if empty:
            report.add(_LACKING, InputError(
                dataset.source, f"no image has the tag {listed(empty)}", "add images, or remove the class"))
        _lacking(report, dataset, untagged, "tags", "add them, or --empty-tags negative if they hold no object")
    for kind in ("mask", "saliency map"):
        lacking = [item.id for item in dataset.items if getattr(item, kind.split()[0]) is None]
        report.known[f"{kind}s".replace(" ", "_")] = len(dataset) - len(lacking)
        if len(lacking) < len(dataset):
            _lacking(report, dataset, lacking, f"{kind}s")
    if len(tags := {item.tags for item in dataset.items if item.tags is not None}) < 2:
        report.notices += (f"{dataset.source}: " + (
            "all images with tags have the same: train-cls has nothing to tell apart" if tags else
            "no image has tags, from which train-cls learns; see --tags"),)


def _lacking(
    report: DatasetReport, dataset: Dataset, ids: Sequence[str], what: str, right: str = "add them",
) -> None:
    if ids:
        report.add(_LACKING, InputError(
            dataset.source, f"{counted(len(ids), 'image')} without {what}, which others have: {listed(ids)}",
            right))


def _check_repetition(report: DatasetReport, dataset: Dataset, splits: dict[str, Dataset]) -> None:
    """Find ids that are one file name on some systems, images of the same bytes, and splits that overlap."""
    names = Names(dataset.source)
    for item in dataset.items:
        try:
            names.add(item.id)
        except InputError as error:
            report.add(_REPEATED, error)
    for first, *others in _same_files(dataset.items):
        same = listed([other.id for other in others])
        alike = len({item.tags for item in (first, *others)} - {None}) < 2
        report.add(_REPEATED, InputError(
            first.image, f"has the same bytes as {same}" + ("" if alike else ", which has other tags"),
            "remove all but one" if alike else "list it once with the tags of all, in a table or by --tags"))
    roles = {name: role for name in splits if (role := _role(name))}
    for one, other in combinations(roles, 2):
        known = {item.image for item in splits[one].items}
        shared = [item.id for item in splits[other].items if item.image in known]
        if shared and roles[one] != roles[other]:
            report.add(_REPEATED, InputError(
                dataset.source, f"splits {one} and {other} share {counted(len(shared), 'image')}: {listed(shared)}",
                "results on one are then not about new images"))


def _role(split: str) -> str:
    """What a split is for, by its name; empty for those that are made of others, such as trainval."""
    if split.startswith("trainval"):
        return ""
    return next((role for role in ("train", "val", "test") if split.startswith(role)), "")


def _same_files(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Groups of images whose files have the same bytes."""
    by_size: dict[int, list[Item]] = defaultdict(list)
    for item in items:
        by_size[_length(item.image)].append(item)
    for size, alike in by_size.items():
        by_digest: dict[bytes, list[Item]] = defaultdict(list)
        for item in alike if size > 0 and len(alike) > 1 else ():
            by_digest[_digest(item.image)].append(item)
        yield from (group for group in by_digest.values() if len(group) > 1)


def _length(path: Path) -> int:
    try:
        return os.path.getsize(path)
    except OSError:  # That it cannot be read is told already.
        return 0


def _digest(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return str(path).encode(errors="surrogateescape")


def _check_files(report: DatasetReport, dataset: Dataset) -> None:
    """Find masks and saliency maps of no image, in folders whose files are named after the images."""
    known = {item.id for item in dataset.items}
    known.update(name for place in _folders(dataset.items, "image") for name in _names_below(place))
    for place in (*_folders(dataset.items, "mask"), *_folders(dataset.items, "saliency")):
        extra = [name for name in _names_below(place, _MASK_SUFFIXES) if name not in known]
        if extra:
            report.add(_ODD, InputError(
                place, f"{counted(len(extra), 'file')} of no image: {listed(extra)}", "check their names"))


def _folders(items: Iterable[Item], kind: str) -> list[str]:
    """The folders that hold each image's file of a kind under its id."""
    found: dict[str, None] = {}
    for item in items:
        path = str(getattr(item, kind))
        place = mask_place(Item(item.id, item.image, mask=Path(path)))
        if PurePath(path).with_suffix("") == PurePath(place, item.id):
            found[place] = None
    return list(found)


def _names_below(folder: str, suffixes: tuple[str, ...] = ("",)) -> list[str]:
    """Names, without endings, of the files in a folder and its subfolders; hidden ones are left out."""
    paths = [Path(below, name) for below, _, names in walk(folder) for name in names
             if name.lower().endswith(suffixes) and not name.startswith(".")]
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in paths)


def _check_values(report: DatasetReport, dataset: Dataset, looks: Sequence[_Look], how: dict[str, Any]) -> None:
    """Find images that come out dark, and saliency maps that mean little."""
    lines = image_notices(dataset)
    for line in lines:
        report.add(_ODD, InputError(dataset.source, line))
    black = [look.item.id for look in looks if look.largest is not None and look.largest < _NEARLY_BLACK]
    if black and how.get("range") is None:
        report.add(_ODD, InputError(
            dataset.source, f"{counted(len(black), 'image')} nearly black, without a value of {_NEARLY_BLACK} in 255: "
            + listed(black), "check them; --range stretches their values"))
    for line in saliency_lines([value for look in looks for value in look.saliency]):
        report.add(_ODD, InputError(dataset.source, line))
