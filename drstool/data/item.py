"""The images of a dataset and what is known about each of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from drstool.data.value_range import ValueRange
from drstool.errors import InputError

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Dataset", "Item", "Rasterizable", "RawDataset", "RawItem", "each_or_error"]

Entry = TypeVar("Entry")


class Rasterizable(Protocol):
    """Ground truth that is rasterised on demand; its ``str()`` says where it comes from.

    Where it does not know the image's size, its class has the attribute ``needs_size``.
    """

    def rasterize(self, size: Any, /) -> np.ndarray: ...


@dataclass(frozen=True)
class Item:
    """One image and what is known about it.

    Attributes
    ----------
    id
        Unique in its dataset, and usable as a file name (:func:`drstool.identifiers.check_id`).
    image
        As the user gave it: a relative path stays relative.
    tags
        Names of the object classes in the image, in class order, each once; None when not known.
    mask
        Ground truth, or None.
    saliency
        Saliency picture, or None.
    value_range
        Pixel values that become black and white; None: those that the image's file says, or all.
    """

    id: str
    image: Path
    tags: tuple[str, ...] | None = None
    mask: Path | Rasterizable | None = None
    saliency: Path | None = None
    value_range: ValueRange | None = None

    def to_json(self) -> dict[str, object]:
        """The known fields; one line of a JSON-lines manifest.

        Examples
        --------
        >>> Item("a/1", Path("a/1.jpg"), tags=("cat",)).to_json()
        {'id': 'a/1', 'image': 'a/1.jpg', 'tags': ['cat']}
        """
        known: dict[str, object] = {"id": self.id, "image": str(self.image)}
        if self.tags is not None:
            known["tags"] = list(self.tags)
        paths = {"mask": self.mask, "saliency": self.saliency}
        return known | {name: str(path) for name, path in paths.items() if path is not None}


@dataclass(frozen=True)
class Dataset:
    """The images to work on, in order.

    Attributes
    ----------
    items
        At least one.
    class_names
        Object classes in label order; None if unknown.
    source
        What the user typed, for messages.
    tags_source
        Where the tags come from: ``annotations`` (VOC's XML, an annotation tool's files), ``list``
        (VOC's ``_cls.txt``), ``manifest``, ``folder``, ``coco``, ``file`` (``--tags``) or ``none``.
    notices
        What was assumed in reading it; each a line for the user.
    missing
        An error for each image that is listed but cannot be used; :func:`drstool.data.open_dataset` raises the first.
    """

    items: tuple[Item, ...]
    class_names: tuple[str, ...] | None
    source: str
    tags_source: str
    notices: tuple[str, ...] = ()
    missing: tuple[InputError, ...] = ()

    def __len__(self) -> int:
        return len(self.items)

    @property
    def value_range(self) -> ValueRange | None:
        """That of its images, which is the same for all."""
        return self.items[0].value_range

    def joined(self, other: Dataset) -> Dataset:
        """The images of both, each once, in order."""
        known = {item.id for item in self.items}
        return replace(self, items=(*self.items, *(item for item in other.items if item.id not in known)))

    def digest(self) -> str:
        """SHA-256 (hex) over the ids and tags in order, for provenance; paths do not count."""
        digest = hashlib.sha256()
        for item in self.items:
            digest.update(json.dumps([item.id, item.tags]).encode() + b"\n")
        return digest.hexdigest()


@dataclass(frozen=True)
class RawItem:
    """An image as the reader of a dataset layout finds it, its tags not checked yet.

    A tag is a class name, or a class number counted from 0.
    """

    id: str
    image: Path
    tags: tuple[str | int, ...] | None = None
    mask: Path | Rasterizable | None = None
    saliency: Path | None = None
    where: str = ""


@dataclass(frozen=True)
class RawDataset:
    """What the reader of a dataset layout finds.

    Attributes
    ----------
    rows
        The images of the split, in order.
    class_names
        In label order, or None.
    stated
        The dataset itself lists the class names, so that the list is complete. Otherwise they
        are gathered from the tags of these images.
    tags_source
        See :class:`Dataset`.
    reorder
        The masks name their classes, so that the same names may have another order.
    notices, missing
        See :class:`Dataset`.
    background_first
        The list of class names began with the background.
    """

    rows: list[RawItem]
    class_names: tuple[str, ...] | None
    stated: bool
    tags_source: str
    reorder: bool = False
    notices: tuple[str, ...] = ()
    background_first: bool = False
    missing: tuple[InputError, ...] = ()

    def told(self, where: object, what: str) -> RawDataset:
        """The same with a notice of what was taken for what, for layouts that are recognised by guess."""
        masks = sum(row.mask is not None for row in self.rows)
        counts = [f"{len(self.rows)} image{'s' * (len(self.rows) != 1)}"]
        if self.class_names is not None:
            counts.append(f"{len(self.class_names)} class{'es' * (len(self.class_names) != 1)}")
        counts += [f"{masks} with ground truth"] if masks else []
        return replace(self, notices=(f"{where}: read as {what}: {', '.join(counts)}", *self.notices))


def each_or_error(
    entries: Iterable[Entry], read: Callable[[Entry], RawItem],
) -> tuple[list[RawItem], tuple[InputError, ...]]:
    """The images that are read from entries of a list, and the errors of the others; see ``Dataset.missing``."""
    rows, errors = [], []
    for entry in entries:
        try:
            rows.append(read(entry))
        except InputError as error:
            errors.append(error)
    return rows, tuple(errors)
