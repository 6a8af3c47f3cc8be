"""Maps that are zero everywhere, label images without an object, and saliency maps that mean little."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from drstool.formats.records import LabelRecord, Record
from drstool.labels import BACKGROUND, ignore_label, label_names
from drstool.reports.text import counted

if TYPE_CHECKING:
    import numpy as np

__all__ = ["EmptyMaps", "has_object", "objectless_lines", "saliency_lines"]

# Classes that are named, worst first; of a thousand classes nobody would read all.
_NAMED = 20
# Up to this share, some without an object are usual.
_NOTICEABLE = 0.1


@dataclass
class EmptyMaps:
    """Counts maps, and those without a value above 0; label images, and those without an object.

    Attributes
    ----------
    maps, empty
        Numbers of both by label.
    labels, objectless
        Numbers of label images, and of those without a pixel of an object.
    """

    maps: Counter[int] = field(default_factory=Counter)
    empty: Counter[int] = field(default_factory=Counter)
    labels: int = 0
    objectless: int = 0

    def count(self, record: Record) -> None:
        """Count the maps, or the label image, of an image."""
        if isinstance(record, LabelRecord):
            self.labels += 1
            self.objectless += not has_object(record.labels)
            return
        for label, values in zip(record.labels, record.values, strict=True):
            self.maps[label] += 1
            self.empty[label] += not (values > 0).any()

    def counted(self, records: Iterable[Record]) -> Iterator[Record]:
        """The records, each counted as it passes."""
        for record in records:
            self.count(record)
            yield record

    def add(self, other: EmptyMaps) -> None:
        """Add another report's counts."""
        self.maps.update(other.maps)
        self.empty.update(other.empty)
        self.labels += other.labels
        self.objectless += other.objectless

    def lines(self, class_names: Sequence[str]) -> list[str]:
        """A line for each class more than half of whose maps are empty, worst first, and one about label images.

        Examples
        --------
        >>> EmptyMaps(Counter({1: 8, 2: 4}), Counter({1: 8, 2: 2})).lines(("cat", "dog"))
        ['cat: 0 of 8 images have a value above 0']
        """
        names = label_names(class_names)
        shares = {label: self.empty[label] / number for label, number in self.maps.items()}
        worst = sorted((label for label in shares if shares[label] > 0.5), key=lambda label: (-shares[label], label))
        lines = [
            f"{names[label]}: {self.maps[label] - self.empty[label]:,} of {self.maps[label]:,} "
            f"{'images have' if self.maps[label] > 1 else 'image has'} a value above 0" for label in worst[:_NAMED]]
        rest = len(worst) - _NAMED
        lines += [f"and {counted(rest, 'more class')} like these"] if rest > 0 else []
        return lines + objectless_lines(self.objectless, self.labels)


def has_object(labels: np.ndarray) -> bool:
    """Whether a label image has a pixel of an object class.

    Examples
    --------
    >>> import numpy as np
    >>> has_object(np.uint8([[0, 255]])), has_object(np.uint8([[0, 1]]))
    (False, True)
    """
    return bool(((labels != BACKGROUND) & (labels != ignore_label(labels.dtype))).any())


def objectless_lines(objectless: int, images: int) -> list[str]:
    """A line about images without an object pixel, unless they are few.

    Examples
    --------
    >>> objectless_lines(37, 60), objectless_lines(1, 60)
    (['37 of 60 images got no object pixel'], [])
    """
    return [f"{objectless:,} of {images:,} images got no object pixel"] if objectless > _NOTICEABLE * images else []


def saliency_lines(largest: Sequence[int], value_range: Sequence[int] = ()) -> list[str]:
    """Lines about saliency maps that are black, or whose values are read on the wrong scale.

    Parameters
    ----------
    largest
        The largest value of each map.
    value_range
        The values that mean not salient and salient, if the user gave them.

    Examples
    --------
    >>> saliency_lines([0, 200, 0])
    ['black saliency maps: 2 of 3']
    >>> saliency_lines([1, 1, 0])  # doctest: +NORMALIZE_WHITESPACE
    ['black saliency maps: 1 of 3', 'no value of 3 saliency maps is above 1, but 255 means salient; if 1 does, give
    --saliency-range 0,1']
    """
    black = sum(value == 0 for value in largest)
    lines = [f"black saliency maps: {black:,} of {len(largest):,}"] if (
        black > _NOTICEABLE * len(largest)) else []
    if not value_range and max(largest, default=0) == 1:
        lines.append(
            f"no value of {counted(len(largest), 'saliency map')} is above 1, but 255 means salient; if 1 does, give "
            "--saliency-range 0,1")
    return lines
