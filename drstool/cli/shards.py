"""``--shard i/n``: which part of the images a command works on, and what that part is called."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from drstool.errors import UsageError

if TYPE_CHECKING:
    from drstool.artifacts.parts import Part
    from drstool.data import Dataset
    from drstool.formats import RecordSource

__all__ = ["Shard", "ShardOption", "is_first", "is_one_of_several", "pick_shard"]

ShardOption = Annotated[
    Optional[str],
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Work on the I-th of N parts only; 'drstool cat' merges the parts. By default all, or under torchrun the "
        "rank's part, whose output is then named like NAME.1-of-4.h5.",
    ),
]


@dataclass(frozen=True)
class Shard:
    """The part of the images that this process works on.

    Attributes
    ----------
    number, of
        From 1; 1 of 1 is all.
    launched
        Whether ``torchrun`` says so: all its processes then share one command line, and so one ``-o``.
    """

    number: int = 1
    of: int = 1
    launched: bool = False

    def output(self, name: str | None) -> str | None:
        """The name of this part's output.

        Raises
        ------
        UsageError
            Under ``torchrun``, standard output: the processes have one in common.

        Examples
        --------
        >>> Shard(2, 4, launched=True).output("maps/cams.h5"), Shard(2, 4).output("cams.h5")
        ('maps/cams.2-of-4.h5', 'cams.h5')
        """
        if not self.launched:
            return name
        if name is None or name in ("-", "/dev/stdout"):
            raise UsageError("torchrun", "its processes cannot write to one stdout", "give -o NAME")
        # Not PurePath.suffix: a folder may be called 'labels.v2'.
        suffix = next((end for end in (".h5", ".hdf5", ".tar") if name.endswith(end)), "")
        return f"{str(PurePath(name)).removesuffix(suffix)}.{self.number}-of-{self.of}{suffix}"

    def of_dataset(self, dataset: Dataset, unit: int = 1) -> tuple[Dataset, Part | None]:
        """The dataset with this part's images only, and what the output says of itself.

        Parameters
        ----------
        dataset
        unit
            Images that stay together (see :func:`drstool.artifacts.parts.span`).
        """
        part = self._part(item.id for item in dataset.items)
        return replace(dataset, items=dataset.items[self._span(len(dataset), unit)]), part

    def of_records(
        self, source: RecordSource, unit: int = 1, without: Sequence[str] = (),
    ) -> tuple[Iterable, int | None]:
        """This part's records but those of some ids, perhaps unread, and their number, if it is known.

        Parameters
        ----------
        source
            See :meth:`part_of`.
        unit
            As in :meth:`of_dataset`.
        without
            Ids of this part.
        """
        left, ids = frozenset(without), self.of_ids(source.ids(), unit)
        if ids is None:
            return (record for record in source.lazy_records() if record.id not in left), None
        chosen = frozenset(ids) - left
        return (record for record in source.lazy_records() if record.id in chosen), len(chosen)

    def of_ids(self, ids: tuple[str, ...] | None, unit: int = 1) -> tuple[str, ...] | None:
        """This part's ids, where any are known."""
        return None if ids is None else ids[self._span(len(ids), unit)]

    def part_of(self, source: RecordSource) -> Part | None:
        """What the output says of itself, where this part's records are worked on.

        Raises
        ------
        UsageError
            The source is a stream, or is a part itself.
        """
        ids, header = source.ids(), source.header
        own = header.part if header is not None else None
        if self.of == 1:
            return own
        if ids is None:
            raise UsageError(
                "--shard", f"{source.where} is a stream, which tells only at its end how many images it holds",
                "save it first: drstool cat -o FILE")
        if own is not None:
            raise UsageError(
                "--shard", f"{source.where} is part {own} already", "merge the parts with 'drstool cat' before")
        return self._part(ids)

    def _span(self, count: int, unit: int) -> slice:
        from drstool.artifacts.parts import span

        return span(self.number, self.of, count, unit)

    def _part(self, ids: Iterable[str]) -> Part | None:
        from drstool.artifacts.parts import Part, ids_digest

        return None if self.of == 1 else Part(self.number, self.of, ids_digest(ids))


def pick_shard(option: str | None, environment: Mapping[str, str] = os.environ) -> Shard:
    """The shard that ``--shard`` names, or else ``torchrun``, or else the whole.

    Raises
    ------
    UsageError
        It is out of range, or no shard.

    Examples
    --------
    >>> pick_shard("2/4", {}), pick_shard(None, {"RANK": "0", "WORLD_SIZE": "2"})
    (Shard(number=2, of=4, launched=False), Shard(number=1, of=2, launched=True))
    """
    if option is not None:
        return Shard(*_parsed("--shard", option))
    rank, size = environment.get("RANK"), environment.get("WORLD_SIZE")
    if rank is None or size is None:
        return Shard()
    number = str(int(rank) + 1) if rank.isdecimal() else rank
    shard = Shard(*_parsed("RANK/WORLD_SIZE", f"{number}/{size}"))
    return replace(shard, launched=shard.of > 1)


def is_one_of_several(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether ``torchrun`` started other processes beside this one.

    Raises
    ------
    UsageError
        It does not say properly which this one is.
    """
    return pick_shard(None, environment).launched


def is_first(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this is the process that speaks for all that ``torchrun`` started, or the only one."""
    return environment.get("RANK", "0") == "0" or environment.get("WORLD_SIZE", "1") == "1"


def _parsed(where: str, text: str) -> tuple[int, int]:
    from drstool.artifacts.parts import MOST_PARTS

    first, slash, last = text.partition("/")
    if not slash or not _is_number(first) or not _is_number(last):
        raise UsageError(where, f"{text!r} is no shard", "like 2/4, the second of four")
    number, of = int(first), int(last)
    if not 1 <= of <= MOST_PARTS:
        raise UsageError(where, f"{of} parts", f"1 to {MOST_PARTS:,}")
    if not 1 <= number <= of:
        raise UsageError(where, f"there is no part {number} of {of}", f"1/{of} to {of}/{of}")
    return number, of


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 20
