"""Which classes have maps that are zero everywhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from drstool.formats.records import MapRecord
from drstool.labels import label_names
from drstool.reports.text import counted

__all__ = ["EmptyMaps"]

# Classes that are named, worst first; of a thousand classes nobody would read all.
_NAMED = 20


@dataclass
class EmptyMaps:
    """Counts maps, and those without a value above 0.

    Attributes
    ----------
    maps, empty
        Numbers of both by label.
    """

    maps: Counter[int] = field(default_factory=Counter)
    empty: Counter[int] = field(default_factory=Counter)

    def count(self, record: MapRecord) -> None:
        """Count the maps of an image."""
        for label, values in zip(record.labels, record.values, strict=True):
            self.maps[label] += 1
            self.empty[label] += not (values > 0).any()

    def counted(self, records: Iterable[MapRecord]) -> Iterator[MapRecord]:
        """The records, each counted as it passes."""
        for record in records:
            self.count(record)
            yield record

    def add(self, other: EmptyMaps) -> None:
        """Add another report's counts."""
        self.maps.update(other.maps)
        self.empty.update(other.empty)

    def lines(self, class_names: Sequence[str]) -> list[str]:
        """A line for each class more than half of whose maps are empty, worst first.

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
        return lines + ([f"and {counted(rest, 'more class')} like these"] if rest > 0 else [])
