"""``--shard I/N``: which shard of the images a command works on, and what its output is called."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, TypeVar

from drstool.errors import UsageError

if TYPE_CHECKING:
    from drstool.artifacts.shard import Shard
    from drstool.formats import RecordSource

__all__ = ["ShardChoice", "is_first", "is_one_of_several", "pick_shard"]

_Each = TypeVar("_Each")


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
        from drstool.artifacts.shard import shard_slice

        return items[shard_slice(self.number, self.of, len(items), unit)]

    def of_ids(self, ids: Sequence[str]) -> Shard | None:
        """What the output says of itself, out of a whole of these ids; None where it is the whole."""
        from drstool.artifacts.shard import Shard, ids_digest

        return None if self.of == 1 else Shard(self.number, self.of, ids_digest(ids))

    def of_source(self, source: RecordSource) -> Shard | None:
        """What the output says of itself, where records of a source are worked on.

        Raises
        ------
        UsageError
            The source is a stream, or is a shard itself.
        """
        ids, header = source.ids(), source.header
        own = header.part if header is not None else None
        if self.of == 1:
            return own
        if ids is None:
            raise UsageError(
                "--shard", f"{source.where} is a stream, whose number of images is only known at its end",
                "save it first: drstool cat -o FILE")
        if own is not None:
            raise UsageError(
                "--shard", f"{source.where} is shard {own} already", "merge the shards with 'drstool cat' first")
        return self.of_ids(ids)


def pick_shard(option: str | None, environment: Mapping[str, str] = os.environ) -> ShardChoice:
    """The shard that ``--shard`` names, or else ``torchrun``, or else the whole.

    Raises
    ------
    UsageError
        It is out of range, or not a shard.

    Examples
    --------
    >>> pick_shard("2/4", {}), pick_shard(None, {"RANK": "0", "WORLD_SIZE": "2"})
    (ShardChoice(number=2, of=4, launched=False), ShardChoice(number=1, of=2, launched=True))
    """
    if option is not None:
        return ShardChoice(*_parsed("--shard", option))
    rank, size = environment.get("RANK"), environment.get("WORLD_SIZE")
    if rank is None or size is None:
        return ShardChoice()
    number = str(int(rank) + 1) if rank.isdecimal() else rank
    shard = ShardChoice(*_parsed("RANK/WORLD_SIZE", f"{number}/{size}"))
    return replace(shard, launched=shard.of > 1)


def is_one_of_several(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether ``torchrun`` started other processes beside this one.

    Raises
    ------
    UsageError
        It does not say properly which one this is.
    """
    return pick_shard(None, environment).launched


def is_first(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process speaks for all that ``torchrun`` started, or is the only one."""
    return environment.get("RANK", "0") == "0" or environment.get("WORLD_SIZE", "1") == "1"


def _parsed(where: str, text: str) -> tuple[int, int]:
    from drstool.artifacts.shard import MOST_SHARDS

    first, slash, last = text.partition("/")
    if not slash or not _is_number(first) or not _is_number(last):
        raise UsageError(where, f"{text!r} is not a shard", "expected I/N, such as 2/4 for the second of four")
    number, of = int(first), int(last)
    if not 1 <= of <= MOST_SHARDS:
        raise UsageError(where, f"{of} shards", f"expected 1 to {MOST_SHARDS:,}")
    if not 1 <= number <= of:
        raise UsageError(where, f"there is no shard {number} of {of}", f"expected 1/{of} to {of}/{of}")
    return number, of


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 20
