"""``cat``: merge, convert, filter and fuse map files, streams and label folders."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from drstool.artifacts.provenance import merge
from drstool.artifacts.shard import Shard
from drstool.errors import InputError, UsageError
from drstool.formats import Header, MapRecord, RecordSource
from drstool.formats.records import Record, encode_values
from drstool.labels import label_of
from drstool.pixels import shown_size
from drstool.text import listed

__all__ = ["FUSIONS", "cat", "fuse", "in_order", "keep_classes", "merged_header", "read_ids"]

FUSIONS = ("max", "mean")
# Shards named in an error.
_SHOWN = 5


def in_order(sources: Sequence[RecordSource], *, incomplete: bool = False) -> list[RecordSource]:
    """The sources in reading order: shards by their number, others as given.

    Parameters
    ----------
    sources
        At least one.
    incomplete
        Whether shards may be missing.

    Raises
    ------
    InputError
        They are shards of different outputs, one comes twice, some are missing, or only some are shards.
    """
    shards = [(_shard(source), source) for source in sources]
    if all(shard is None for shard, _ in shards):
        return list(sources)
    first, leader = next((shard, source) for shard, source in shards if shard is not None)
    seen: dict[int, RecordSource] = {}
    for shard, source in shards:
        if shard is None:
            raise InputError(
                source.where, f"is not a shard, but {leader.where} is shard {first}", "merge shards with shards")
        if shard.of != first.of or shard.ids != first.ids:
            what = f"shard {shard}" if shard.of != first.of else f"shard {shard} of another list of images"
            raise InputError(
                source.where, f"is {what}, but {leader.where} is shard {first}", "merge the shards of one output")
        if shard.number in seen:
            raise InputError(
                source.where, f"is shard {shard}, and so is {seen[shard.number].where}", "give each shard once")
        seen[shard.number] = source
    missing = [number for number in range(1, first.of + 1) if number not in seen]
    if missing and not incomplete:
        raise InputError(
            "cat", f"lacks {len(missing)} of {first.of} shards: "
            + listed([f"{number}/{first.of}" for number in missing], most=_SHOWN),
            "make them with --shard, or merge the others with --incomplete")
    return [seen[number] for number in sorted(seen)]


def merged_header(
    sources: Sequence[RecordSource], class_names: Sequence[str] | None = None, *, fused: bool = False
) -> Header:
    """Header of the merged output; its provenance joins those of the sources.

    Parameters
    ----------
    sources
        At least one, shards in their order.
    class_names
        For folders that do not record them.
    fused
        Whether the sources are maps to be fused: they may then differ in kind, of which the first one's is
        taken, and where all are the same shard, the result is that shard.

    Raises
    ------
    InputError
        Kinds or class names differ or are unknown, or shards were not made in the same way.
    """
    headers = [_header(source, class_names) for source in sources]
    first, leader = headers[0], sources[0]
    for header, source in zip(headers, sources, strict=True):
        if not (fused and source.is_maps and leader.is_maps) and header.kind != first.kind:
            raise InputError(
                source.where, f"holds {header.kind}, but {leader.where} holds {first.kind}", "merge files of one kind")
        if header.class_names != first.class_names:
            raise InputError(
                source.where, f"its classes are not those of {leader.where}", "merge files with the same classes")
    shards = {header.shard for header in headers}
    if not fused:
        _check_same_job(headers, sources)
    return Header(
        first.kind, first.class_names, merge(*(header.provenance for header in headers)),
        first.shard if fused and len(shards) == 1 else None)


def cat(sources: Iterable[RecordSource], *, ids: Collection[str] | None = None) -> Iterator[Record]:
    """The records of one source after another.

    Parameters
    ----------
    sources
        Those that are closed are opened one at a time.
    ids
        Images to keep; None keeps all.

    Raises
    ------
    InputError
        An image is in two sources, or one of ``ids`` in none; a record is damaged.
    """
    wanted = None if ids is None else dict.fromkeys(ids)
    return _all_found(_in_turn(sources, wanted), wanted)


def fuse(
    sources: Sequence[RecordSource], how: str = "max", factors: Sequence[float] = (), *,
    ids: Collection[str] | None = None,
) -> Iterator[MapRecord]:
    """The maps of several sources fused image by image, in the first one's order.

    A class that a source lacks counts as 0 there. The result is uint8 where all sources are, else float16.

    Parameters
    ----------
    sources
        Of maps; streams must have the first one's order.
    how
        ``max``: the largest value at each pixel; ``mean``: the weighted mean.
    factors
        For ``mean``, one weight per source; empty: equal weights.
    ids
        Images to keep; None keeps all.

    Raises
    ------
    InputError
        An image is not in all sources, or its maps differ in size.
    UsageError
        The factors do not fit.
    """
    if how not in FUSIONS:
        raise UsageError("--fuse", f"{how!r} is not one of {', '.join(FUSIONS)}")
    if factors and how != "mean":
        raise UsageError("--factors", f"has no effect with --fuse {how}", "use --fuse mean")
    if factors and len(factors) != len(sources):
        raise UsageError("--factors", f"has {len(factors)} values for {len(sources)} inputs", "give one per input")
    for source in sources:
        if not source.is_maps:
            raise InputError(source.where, f"holds {source.kind}", "only maps can be fused")
    _check_same_images(sources)
    weights = np.array(factors or [1] * len(sources), dtype=np.float32)
    wanted = None if ids is None else dict.fromkeys(ids)
    return _all_found(_fused(sources, how, weights / weights.sum(), wanted), wanted)  # type: ignore[return-value]


def keep_classes(
    records: Iterable[Record], only: Collection[str], class_names: Sequence[str]
) -> Iterator[MapRecord]:
    """The records with the maps of the given classes only; images without any are left out.

    Parameters
    ----------
    records
        Maps.
    only
        Names of the classes.
    class_names
        The C object classes.

    Raises
    ------
    UsageError
        A class is unknown, or the records are not maps.
    """
    unknown = [name for name in only if name not in class_names]
    if unknown:
        raise UsageError("--only", f"there is no class {unknown[0]!r}", "expected one of " + ", ".join(class_names))
    labels = {label_of(class_names.index(name)) for name in only}
    return (kept for record in records if (kept := _with_labels(record, labels)).labels)


def read_ids(lines: Iterable[str]) -> list[str]:
    """Image ids, one per line, each plain or in a JSON object as ``drstool ids`` prints it.

    Examples
    --------
    >>> read_ids(["p0", '{"id": "p 1", "image": "p1.jpg"}', ""])
    ['p0', 'p 1']
    """
    return [_id_of(line.strip()) for line in lines if line.strip()]


def _id_of(line: str) -> str:
    if line.startswith("{"):
        try:
            identifier = json.loads(line)["id"]
        except (ValueError, KeyError, RecursionError):
            return line
        if isinstance(identifier, str):
            return identifier
    return line


def _shard(source: RecordSource) -> Shard | None:
    return source.header.shard if source.header is not None else None


def _header(source: RecordSource, class_names: Sequence[str] | None) -> Header:
    if source.header is not None:
        if class_names is not None and source.header.class_names != tuple(class_names):
            raise InputError(source.where, "its classes are not those of --classes", "omit --classes")
        return source.header
    if class_names is None:
        raise InputError(source.where, "does not record its class names", "give them with --classes FILE")
    return Header(source.kind, tuple(class_names))


def _check_same_job(headers: Sequence[Header], sources: Sequence[RecordSource]) -> None:
    """Check that shards were made by one job (:meth:`drstool.artifacts.job.Job.digest`)."""
    jobs = [(header.shard.made, source.where) for header, source in zip(headers, sources, strict=True)
            if header.shard and header.shard.made]
    for job, where in jobs[1:]:
        if job != jobs[0][0]:
            raise InputError(
                where, f"was made with other settings or inputs than {jobs[0][1]}", "make all shards in the same way")


def _in_turn(sources: Iterable[RecordSource], wanted: Collection[str] | None) -> Iterator[Record]:
    seen: dict[str, str] = {}
    for source in sources:
        with source.reopened() as opened:
            for record in _records(opened, wanted):
                if record.id in seen:
                    raise InputError(
                        source.where, f"contains '{record.id}', and so does {seen[record.id]}",
                        "remove it from one, or combine maps with --fuse")
                seen[record.id] = source.where
                yield record


def _all_found(records: Iterable[Record], wanted: Collection[str] | None) -> Iterator[Record]:
    """The records; at the end, an error if one that was wanted is missing."""
    lacking = dict.fromkeys(wanted or ())
    for record in records:
        lacking.pop(record.id, None)
        yield record
    if lacking:
        raise InputError("--ids", f"lists '{next(iter(lacking))}', which is in no input", "list images that are there")


def _records(source: RecordSource, wanted: Collection[str] | None) -> Iterator[Any]:
    ids = source.ids()
    if wanted is None:
        return source.records()
    if ids is not None:
        return (source.read(identifier) for identifier in ids if identifier in wanted)
    return (record for record in source.records() if record.id in wanted)


def _with_labels(record: Record, labels: set[int]) -> MapRecord:
    if not isinstance(record, MapRecord):
        raise UsageError("--only", f"'{record.id}' is a label image", "--only works on maps")
    kept = [k for k, label in enumerate(record.labels) if label in labels]
    return MapRecord(
        record.id, record.values[kept], tuple(record.labels[k] for k in kept), record.image_size, record.image)


def _fused(
    sources: Sequence[RecordSource], how: str, weights: np.ndarray, wanted: Collection[str] | None,
) -> Iterator[MapRecord]:
    first, *others = sources
    finders = [_finder(source, first.where, wanted) for source in others]
    for record in _records(first, wanted):
        records = [record, *(find(record.id) for find in finders)]
        for other, source in zip(records[1:], others, strict=True):
            _check_same_size(record, other, source.where, first.where)
        yield _fused_record(records, how, weights)
    for find in finders:
        find(None)


def _check_same_images(sources: Sequence[RecordSource]) -> None:
    """Check that the sources whose ids are known beforehand have the same images."""
    known = [(source, ids) for source in sources if (ids := source.ids()) is not None]
    for source, ids in known[1:]:
        leader, expected = known[0]
        other = set(ids)
        lacking = next((identifier for identifier in expected if identifier not in other), None)
        if lacking is not None:
            raise _lack(source.where, lacking, leader.where)
        extra = other - set(expected)
        if extra:
            raise _lack(leader.where, min(extra), source.where)


def _finder(
    source: RecordSource, leader: str, wanted: Collection[str] | None,
) -> Callable[[str | None], Any]:
    """A function that returns a source's record by id; given None, it checks that a stream has ended."""
    if source.ids() is not None:
        return lambda identifier: None if identifier is None else source.read(identifier)
    records = _records(source, wanted)

    def find(identifier: str | None) -> MapRecord | None:
        record = next(records, None)
        if identifier is None and record is not None:
            raise _lack(leader, record.id, source.where)
        if identifier is not None and (record is None or record.id != identifier):
            found = "nothing more" if record is None else f"'{record.id}'"
            raise InputError(
                source.where, f"has {found}, but {leader} has '{identifier}'",
                "streams need the same images in the same order; save this one first with 'drstool cat -o FILE'")
        return record  # type: ignore[return-value]

    return find


def _fused_record(records: Sequence[MapRecord], how: str, weights: np.ndarray) -> MapRecord:
    first = records[0]
    labels = tuple(sorted({label for record in records for label in record.labels}))
    total = np.zeros((len(labels), *first.values.shape[1:]), dtype=np.float32)
    for record, weight in zip(records, weights, strict=True):
        places = [labels.index(label) for label in record.labels]
        values = record.as_float()
        if how == "max":
            total[places] = np.maximum(total[places], values)
        else:
            total[places] += weight * values
    dtype = "uint8" if all(record.values.dtype == np.uint8 for record in records) else "float16"
    return MapRecord(first.id, encode_values(total, dtype), labels, first.image_size, first.image)


def _check_same_size(record: MapRecord, other: MapRecord, where: str, leader: str) -> None:
    for what, found, expected in (
        ("maps", other.values.shape[1:], record.values.shape[1:]),
        ("an image", other.image_size, record.image_size),
    ):
        if tuple(found) != tuple(expected):
            raise InputError(
                f"{where}: {record.id}", f"has {what} of {shown_size(found)} pixels, but {leader} of "
                f"{shown_size(expected)}", "create both with the same --map-size")


def _lack(where: str, identifier: str, other: str) -> InputError:
    return InputError(where, f"lacks '{identifier}', which is in {other}", "fuse maps of the same images")
