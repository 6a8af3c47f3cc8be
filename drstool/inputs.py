"""What a command works on: images of a dataset, records of a file or pipe, or pictures to draw."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from drstool.artifacts.provenance import merge
from drstool.artifacts.shard import ShardChoice
from drstool.data.item import Dataset
from drstool.data.value_range import ValueRange
from drstool.errors import UsageError
from drstool.files import content_digest, status
from drstool.formats import RecordSource, open_records

__all__ = ["Images", "Pictures", "Records", "input_digests", "list_digest", "range_input"]

Chain = tuple[dict, ...]


class Images:
    """Images of a dataset to work on; the other two kinds of input have the same attributes.

    Attributes
    ----------
    ids
        Of this shard's images, in order; None where they are not known beforehand.
    shard
        Which shard of the whole these are, if any.
    unit
        Images of one batch, which are never made apart.
    inputs
        Digests of what is read.
    upstream
        History of what is read.
    piped
        Whether it comes through a pipe, so that nobody knows whether it is the same again.
    """

    upstream: Chain = ()
    piped = False

    def __init__(self, dataset: Dataset, shard: ShardChoice = ShardChoice(), unit: int = 1) -> None:
        self._items, self.unit = shard.of_items(dataset.items, unit), unit
        self.ids = tuple(item.id for item in self._items)
        self.shard = shard.of_ids([item.id for item in dataset.items])
        self.inputs = list_digest(dataset)

    def remaining(self, finished: Sequence[str]) -> tuple[Iterable, int | None]:
        """What is still to do, and how many, if that is known."""
        known = frozenset(finished)
        items = [item for item in self._items if item.id not in known]
        return items, len(items)


class Records:
    """Records of a file or pipe to work on; see :class:`Images`.

    Parameters
    ----------
    source, path
        Open, and as the user named it.
    shard, unit
    resume
        Whether a saved stream is read for its ids, which only resuming needs.
    convert
        What to make of the records, such as the images they are about.
    value_range
        With which those images are read.

    Raises
    ------
    UsageError
        A shard of a stream, or of what is a shard already.
    """

    def __init__(
        self, source: RecordSource, path: str | None, shard: ShardChoice = ShardChoice(), unit: int = 1, *,
        resume: bool = False, convert: Callable[[Iterable], Iterable] = iter,
        value_range: ValueRange | None = None,
    ) -> None:
        self._source, self._convert, self.unit = source, convert, unit
        self.inputs, self.piped = input_digests(maps=path)
        self.inputs |= range_input(value_range)
        self.upstream: Chain = source.header.provenance if source.header is not None else ()
        ids = source.ids()
        self.shard = source.header.shard if source.header is not None else None
        if shard.of > 1:
            if ids is None:
                raise UsageError(
                    "--shard", f"{source.where} is a stream, whose number of images is only known at its end",
                    "save it first: drstool cat -o FILE")
            if self.shard is not None:
                raise UsageError(
                    "--shard", f"{source.where} is shard {self.shard} already",
                    "merge the shards with 'drstool cat' first")
            self.shard = shard.of_ids(ids)
        self._searchable = ids is not None
        if ids is None and resume and not self.piped:
            with open_records(path) as again:
                ids = tuple(record.id for record in again.records())
        self.ids = None if ids is None else tuple(shard.of_items(ids, unit))

    def remaining(self, finished: Sequence[str]) -> tuple[Iterable, int | None]:
        known, records = frozenset(finished), self._source.lazy_records()
        if not self._searchable:
            return self._convert(record for record in records if record.id not in known), None
        chosen = frozenset(self.ids or ()) - known
        return self._convert(record for record in records if record.id in chosen), len(chosen)


class Pictures:
    """Records of several inputs to draw, or None for all images of a dataset; see :class:`Images`.

    Parameters
    ----------
    sources
        By what they are: ``labels`` or ``maps``, or where there are several of these ``labels NAME``; and the paths the
        user named.
    dataset
    value_range
        With which the images are read.
    """

    ids, shard, unit = None, None, 1

    def __init__(
        self, sources: Mapping[str, RecordSource], paths: Mapping[str, str], dataset: Dataset | None,
        value_range: ValueRange | None = None,
    ) -> None:
        digests, self.piped = input_digests(**paths)
        self.inputs, self._sources = digests | list_digest(dataset) | range_input(value_range), sources
        headers = [source.header for source in sources.values() if source.header is not None]
        self.upstream = merge(*(header.provenance for header in headers))

    def remaining(self, finished: Sequence[str]) -> tuple[Any, int | None]:
        """Pairs of the source's name, which may be empty, and a record."""
        records = (
            (key.partition(" ")[2], record) for key, source in self._sources.items() for record in source.records())
        return (records if self._sources else None), None


def input_digests(**paths: str | None) -> tuple[dict[str, str], bool]:
    """Digests of large inputs, by what they are, and whether one of them is a pipe.

    Parameters
    ----------
    paths
        Files or folders; None or ``-`` is the standard input.
    """
    known = {name: path for name, path in paths.items() if path not in (None, "-") and not _is_pipe(str(path))}
    return {name: content_digest(str(path)) for name, path in known.items()}, len(known) < len(paths)


def _is_pipe(path: str) -> bool:
    found = status(path)
    return found is not None and not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode)


def list_digest(dataset: Dataset | None) -> dict[str, str]:
    """The digest of a dataset's images and tags, and how the images are read, as a job's input."""
    if dataset is None:
        return {}
    return {"list": f"sha256:{dataset.digest()}"} | range_input(dataset.value_range)


def range_input(value_range: ValueRange | None) -> dict[str, str]:
    """A range of the images' values as a job's input; empty where there is none."""
    return {} if value_range is None else {"range": str(value_range)}
