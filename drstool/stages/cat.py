"""``cat``: map files, streams and label folders made into one: packed, merged, filtered or fused."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

import numpy as np

from drstool.artifacts.provenance import merge
from drstool.artifacts.shard import Shard
from drstool.errors import InputError, UsageError
from drstool.formats import Header, LabelRecord, MapRecord, RecordSource
from drstool.formats.records import encode_values
from drstool.labels import label_of

__all__ = ["FUSIONS", "cat", "fuse", "in_order", "keep_classes", "merged_header", "read_ids"]

FUSIONS = ("max", "mean")
# Parts named in an error.
_SHOWN = 5

Record = MapRecord | LabelRecord


def in_order(sources: Sequence[RecordSource], *, incomplete: bool = False) -> list[RecordSource]:
    """The sources in the order in which they are to be read: as they are, parts by their number.

    Parameters
    ----------
    sources
        At least one.
    incomplete
        Whether parts may be missing.

    Raises
    ------
    InputError
        They are parts of different wholes, one comes twice, some are missing, or only some are parts.
    """
    parts = [(_part(source), source) for source in sources]
    if all(part is None for part, _ in parts):
        return list(sources)
    first, leader = next((part, source) for part, source in parts if part is not None)
    seen: dict[int, RecordSource] = {}
    for part, source in parts:
        if part is None:
            raise InputError(
                source.where, f"is no part of the whole that {leader.where} is part {first} of",
                "merge parts with parts")
        if part.of != first.of or part.ids != first.ids:
            what = f"part {part}" if part.of != first.of else f"part {part} of another list of images"
            raise InputError(
                source.where, f"is {what}, and {leader.where} is part {first}", "merge the parts of one whole")
        if part.number in seen:
            raise InputError(
                source.where, f"is part {part}, and so is {seen[part.number].where}", "give each part once")
        seen[part.number] = source
    missing = [number for number in range(1, first.of + 1) if number not in seen]
    if missing and not incomplete:
        listed = ", ".join(f"{number}/{first.of}" for number in missing[:_SHOWN])
        more = ", …" if len(missing) > _SHOWN else ""
        raise InputError(
            "cat", f"{len(missing)} of {first.of} parts are missing: {listed}{more}",
            "make them with --shard, or merge what there is with --incomplete")
    return [seen[number] for number in sorted(seen)]


def merged_header(
    sources: Sequence[RecordSource], class_names: Sequence[str] | None = None, *, fused: bool = False
) -> Header:
    """What the merged artefact says about itself; its history is all that of the sources.

    Parameters
    ----------
    sources
        At least one, parts in their order.
    class_names
        Of folders that do not say them.
    fused
        Whether the sources are maps to be fused: their kinds may then differ, and the first one's is
        taken; and where all of them are the same part, the result is that part.

    Raises
    ------
    InputError
        Kinds or class names differ or are not known, or parts were not made in the same way.
    """
    headers = [_header(source, class_names) for source in sources]
    first, leader = headers[0], sources[0]
    for header, source in zip(headers, sources, strict=True):
        if not (fused and source.is_maps and leader.is_maps) and header.kind != first.kind:
            raise InputError(
                source.where, f"holds {header.kind}, and {leader.where} holds {first.kind}", "give one kind")
        if header.class_names != first.class_names:
            raise InputError(
                source.where, f"its classes are not those of {leader.where}", "merge what has the same class names")
    parts = {header.part for header in headers}
    if not fused:
        _check_made_alike(headers, sources)
    return Header(
        first.kind, first.class_names, merge(*(header.provenance for header in headers)),
        first.part if fused and len(parts) == 1 else None)


def cat(sources: Iterable[RecordSource], *, ids: Collection[str] | None = None) -> Iterator[Record]:
    """The records of one source after the other, each as it comes.

    Parameters
    ----------
    sources
    ids
        Images to keep; None: all.

    Raises
    ------
    InputError
        An image is in two sources, or a wanted one in none; a record is damaged.
    """
    wanted = None if ids is None else dict.fromkeys(ids)
    return _all_found(_in_turn(sources, wanted), wanted)


def fuse(
    sources: Sequence[RecordSource], how: str = "max", factors: Sequence[float] = (), *,
    ids: Collection[str] | None = None,
) -> Iterator[MapRecord]:
    """Maps of several sources made into one, image by image in the first one's order.

    A class that one of them does not have counts as 0 there. The result is uint8 where all are.

    Parameters
    ----------
    sources
        Of maps; streams must come in the same order as the first.
    how
        ``max``: the largest value at each pixel; ``mean``: the weighted mean.
    factors
        One weight a source for ``mean``; none: equal ones.
    ids
        Images to keep; None: all.

    Raises
    ------
    InputError
        An image is not in all of them, or its maps are not of one size.
    UsageError
        Factors that do not fit.
    """
    if how not in FUSIONS:
        raise UsageError("--fuse", f"{how!r} is no choice", "one of " + ", ".join(FUSIONS))
    if factors and how != "mean":
        raise UsageError("--factors", f"are of no use with --fuse {how}", "--fuse mean")
    if factors and len(factors) != len(sources):
        raise UsageError("--factors", f"{len(factors)} factors for {len(sources)} inputs", "one each")
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
    """The records with the maps of some classes; images with none of them are left out.

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
        One is no class, or the records are no maps.
    """
    unknown = [name for name in only if name not in class_names]
    if unknown:
        raise UsageError("--only", f"there is no class {unknown[0]!r}", "one of " + ", ".join(class_names))
    labels = {label_of(class_names.index(name)) for name in only}
    return (kept for record in records if (kept := _with_labels(record, labels)).labels)


def read_ids(lines: Iterable[str]) -> list[str]:
    """Image ids from lines: an id each, or a manifest's JSON object each, as ``drstool ids`` prints.

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


def _part(source: RecordSource) -> Shard | None:
    return source.header.part if source.header is not None else None


def _header(source: RecordSource, class_names: Sequence[str] | None) -> Header:
    if source.header is not None:
        if class_names is not None and source.header.class_names != tuple(class_names):
            raise InputError(source.where, "its classes are not those of --classes", "leave --classes out")
        return source.header
    if class_names is None:
        raise InputError(source.where, "does not say the names of its object classes", "--classes FILE")
    return Header(source.kind, tuple(class_names))


def _shared(step: dict, name: str) -> dict:
    """What all parts of a whole have alike: all but the maps they were made of, which may be parts too."""
    return {key: value for key, value in (step.get(name) or {}).items() if (name, key) != ("inputs", "maps")}


def _check_made_alike(headers: Sequence[Header], sources: Sequence[RecordSource]) -> None:
    """Parts of one whole come from one command line but for the shard: same settings, same inputs."""
    told = [(h.provenance[-1], s) for h, s in zip(headers, sources, strict=True) if h.part and h.provenance]
    for step, source in told[1:]:
        first, leader = told[0]
        for name in ("settings", "inputs"):
            if _shared(step, name) != _shared(first, name):
                raise InputError(
                    source.where, f"was made with other {name} than {leader.where}", "make the parts in the same way")
    # Where no history tells what differs, a digest tells that something does.
    known = [(h.part.made, s) for h, s in zip(headers, sources, strict=True) if h.part and h.part.made]
    for made, source in known[1:]:
        if made != known[0][0]:
            raise InputError(
                source.where, f"was made in another way than {known[0][1].where}", "make the parts in the same way")


def _in_turn(sources: Iterable[RecordSource], wanted: Collection[str] | None) -> Iterator[Record]:
    seen: dict[str, str] = {}
    for source in sources:
        for record in _records(source, wanted):
            if record.id in seen:
                raise InputError(
                    source.where, f"holds '{record.id}', and so does {seen[record.id]}",
                    "leave it out of one, or fuse maps with --fuse")
            seen[record.id] = source.where
            yield record


def _all_found(records: Iterable[Record], wanted: Collection[str] | None) -> Iterator[Record]:
    """The records; at their end, an error if one that was wanted did not come."""
    lacking = dict.fromkeys(wanted or ())
    for record in records:
        lacking.pop(record.id, None)
        yield record
    if lacking:
        raise InputError("--ids", f"lists '{next(iter(lacking))}', which no input holds", "list images that are there")


def _records(source: RecordSource, wanted: Collection[str] | None) -> Iterator[Record]:
    ids = source.ids()
    if wanted is None:
        return source.records()
    if ids is not None:
        return (source.read(identifier) for identifier in ids if identifier in wanted)
    return (record for record in source.records() if record.id in wanted)


def _with_labels(record: Record, labels: set[int]) -> MapRecord:
    if not isinstance(record, MapRecord):
        raise UsageError("--only", f"'{record.id}' comes as a label image", "--only chooses among maps")
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
    """Check that the sources which tell their ids beforehand have the same images."""
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
) -> Callable[[str | None], MapRecord | None]:
    """Gives a source's record of an id; with None, checks that a stream has come to its end."""
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
                source.where, f"has {found} where {leader} has '{identifier}'",
                "a stream must have the same images in the same order; save it first with 'drstool cat -o FILE'")
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
                f"{where}: {record.id}", f"has {what} of {found[0]}×{found[1]}, and {leader} of "
                f"{expected[0]}×{expected[1]}", "make both with the same --map-size, of the same images")


def _lack(where: str, identifier: str, other: str) -> InputError:
    return InputError(where, f"lacks '{identifier}', which {other} holds", "fuse maps of the same images")
