"""Parts of a whole: which of several shards an artefact is, so that a merge can tell what is missing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from drstool.errors import InputError

__all__ = ["MOST_PARTS", "Part", "ids_digest", "span"]

MOST_PARTS = 1_000_000


@dataclass(frozen=True)
class Part:
    """One of several artefacts that together are one.

    Attributes
    ----------
    number
        From 1; the parts in this order have the images in the order of the whole.
    of
        How many there are.
    ids
        Digest of all images' ids, the same in every part (see :func:`ids_digest`).
    made
        Digest of how it was made, the same in every part; None: nobody knows.

    Examples
    --------
    >>> str(Part(2, 4, "sha256:0"))
    '2/4'
    >>> Part.from_json(Part(2, 4, "sha256:0").to_json(), "memory") == Part(2, 4, "sha256:0")
    True
    """

    number: int
    of: int
    ids: str
    made: str | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def to_json(self) -> dict:
        """The part as a JSON object."""
        told = {"number": self.number, "of": self.of, "ids": self.ids}
        return told if self.made is None else told | {"made": self.made}

    @classmethod
    def from_json(cls, value: object, where: object) -> Part:
        """The part that a JSON object tells of.

        Raises
        ------
        InputError
            It tells of none.
        """
        told = value if isinstance(value, Mapping) else {}
        number, of, ids = (told.get(name) for name in ("number", "of", "ids"))
        if type(number) is not int or type(of) is not int or not isinstance(ids, str):
            raise InputError(where, "is said to be a part, but not which", "it is damaged")
        if not 1 <= number <= of <= MOST_PARTS:
            raise InputError(where, f"is said to be part {number} of {of}", "it is damaged")
        made = told.get("made")
        return cls(number, of, ids, made if isinstance(made, str) else None)


def span(number: int, of: int, count: int, unit: int = 1) -> slice:
    """Where a part lies in ``count`` images: neighbours stay together, and sizes differ little.

    Parameters
    ----------
    number, of
        Which part, from 1.
    count
        Images of the whole.
    unit
        Images that are not parted, a network's batch: float sums may depend on who shares a batch,
        and the parts are to equal the whole to the last bit.

    Examples
    --------
    >>> [list(range(10))[span(number, 4, 10)] for number in (1, 2, 3, 4)]
    [[0, 1], [2, 3, 4], [5, 6], [7, 8, 9]]
    >>> [list(range(10))[span(number, 2, 10, unit=4)] for number in (1, 2)]
    [[0, 1, 2, 3], [4, 5, 6, 7, 8, 9]]
    """
    units = -(-count // unit)
    start, end = ((share * units // of) * unit for share in (number - 1, number))
    return slice(start, min(end, count))


def ids_digest(ids: Iterable[str]) -> str:
    """``sha256:`` and the digest of ids in their order."""
    digest = hashlib.sha256()
    for identifier in ids:
        # No id holds a line end.
        digest.update(identifier.encode("utf-8", "surrogateescape") + b"\n")
    return f"sha256:{digest.hexdigest()}"
