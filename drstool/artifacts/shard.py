"""Shards: which of several parts of a whole an artifact is, so that a merge can tell what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TypeVar

from drstool.errors import InputError, UsageError

__all__ = ["MOST_SHARDS", "Shard", "ShardChoice", "ids_digest", "shard_slice"]

_Each = TypeVar("_Each")
MOST_SHARDS = 1_000_000


@dataclass(frozen=True)
class Shard:
    """One of several artifacts that together make a whole.

    Attributes
    ----------
    number
        From 1; shards in this order hold the images in the order of the whole.
    of
        How many there are.
    ids
        Digest of all images' ids, the same in every shard (see :func:`ids_digest`).
    made
        Digest of the job, the same in every shard (:meth:`drstool.artifacts.job.Job.digest`); None:
        not known.

    Examples
    --------
    >>> str(Shard(2, 4, "sha256:0"))
    '2/4'
    >>> Shard.from_json(Shard(2, 4, "sha256:0").to_json(), "memory") == Shard(2, 4, "sha256:0")
    True
    """

    number: int
    of: int
    ids: str
    made: str | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def to_json(self) -> dict:
        """The shard as a JSON object."""
        known = {"number": self.number, "of": self.of, "ids": self.ids}
        return known if self.made is None else known | {"made": self.made}

    @classmethod
    def from_json(cls, value: object, where: object) -> Shard:
        """The shard that a JSON object describes.

        Raises
        ------
        InputError
            It describes none.
        """
        known = value if isinstance(value, Mapping) else {}
        number, of, ids = (known.get(name) for name in ("number", "of", "ids"))
        if type(number) is not int or type(of) is not int or not isinstance(ids, str):
            raise InputError(where, "claims to be a shard but does not say which", "the file is damaged")
        if not 1 <= number <= of <= MOST_SHARDS:
            raise InputError(where, f"claims to be shard {number} of {of}", "the file is damaged")
        made = known.get("made")
        return cls(number, of, ids, made if isinstance(made, str) else None)


@dataclass(frozen=True)
class ShardChoice:
    """The shard of the images that this process works on.

    Attributes
    ----------
    number, of
        From 1; 1 of 1 is all.
    launched
        Whether ``torchrun`` chose it: all its processes share one command line, and so one ``-o``.
    """

    number: int = 1
    of: int = 1
    launched: bool = False

    def output(self, name: str | None) -> str | None:
        """The name of this shard's output.

        Raises
        ------
        UsageError
            Under ``torchrun``, standard output: the processes share one.

        Examples
        --------
        >>> ShardChoice(2, 4, launched=True).output("maps/cams.h5"), ShardChoice(2, 4).output("cams.h5")
        ('maps/cams.2-of-4.h5', 'cams.h5')
        """
        if not self.launched:
            return name
        if name is None or name in ("-", "/dev/stdout"):
            raise UsageError("torchrun", "its processes cannot share stdout", "use -o NAME")
        # Not PurePath.suffix: a folder may be called 'labels.v2'.
        suffix = next((end for end in (".h5", ".hdf5", ".tar") if name.endswith(end)), "")
        return f"{str(PurePath(name)).removesuffix(suffix)}.{self.number}-of-{self.of}{suffix}"

    def of_items(self, items: Sequence[_Each], unit: int = 1) -> Sequence[_Each]:
        """This shard's items, in order; see :func:`drstool.artifacts.shard.shard_slice`."""
        return items[shard_slice(self.number, self.of, len(items), unit)]

    def of_ids(self, ids: Sequence[str]) -> Shard | None:
        """What the output says of itself, out of a whole of these ids; None where it is the whole."""
        return None if self.of == 1 else Shard(self.number, self.of, ids_digest(ids))


def shard_slice(number: int, of: int, count: int, unit: int = 1) -> slice:
    """Where a shard lies in ``count`` images: contiguous, and sizes differ by little.

    Parameters
    ----------
    number, of
        Which shard, from 1.
    count
        Images of the whole.
    unit
        Images that stay together, a network's batch: float sums may depend on who shares a batch,
        and the shards must equal the whole to the last bit.

    Examples
    --------
    >>> [list(range(10))[shard_slice(number, 4, 10)] for number in (1, 2, 3, 4)]
    [[0, 1], [2, 3, 4], [5, 6], [7, 8, 9]]
    >>> [list(range(10))[shard_slice(number, 2, 10, unit=4)] for number in (1, 2)]
    [[0, 1, 2, 3], [4, 5, 6, 7, 8, 9]]
    """
    units = -(-count // unit)
    start, end = ((each * units // of) * unit for each in (number - 1, number))
    return slice(start, min(end, count))


def ids_digest(ids: Iterable[str]) -> str:
    """``sha256:`` and the digest of ids in their order."""
    # Takes several milliseconds to import, which no start of the program needs.
    import hashlib

    digest = hashlib.sha256()
    for identifier in ids:
        # No id holds a line end.
        digest.update(identifier.encode("utf-8", "surrogateescape") + b"\n")
    return f"sha256:{digest.hexdigest()}"
