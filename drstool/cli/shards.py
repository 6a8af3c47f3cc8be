"""``--shard I/N``: which shard of the images a command works on, and what its output is called."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace

from drstool.artifacts.shard import MOST_SHARDS, ShardChoice
from drstool.errors import UsageError

__all__ = ["is_first", "is_one_of_several", "pick_shard"]


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
