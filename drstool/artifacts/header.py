"""What every artifact says about itself: its kind, its object classes and where it came from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from drstool.artifacts.shard import Shard
from drstool.errors import ForeignError, InputError
from drstool.labels import check_class_names

__all__ = [
    "END_NAME", "FORMAT", "HDF5_SIGNATURE", "HEADER_NAME", "KINDS", "MAX_HEADER_BYTES", "VERSION",
    "Header", "record_type", "check_plain", "json_bytes",
]

FORMAT = "drstool"
VERSION = 1
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"

# Of the header as JSON. A chain of a hundred commands takes some 100 KB; text of this size can be
# read into a GB of empty lists at the most.
MAX_HEADER_BYTES = 16 << 20

# Of settings and provenance: values in all, and values in values.
_MOST_VALUES, _DEEPEST = 1_000_000, 32
# Whole numbers of more digits cannot even be printed.
_LARGEST_WHOLE = 2**64

# First and last member of a stream, and of a folder of label images.
HEADER_NAME = "drstool.json"
END_NAME = "drstool.end.json"

# What each kind of artifact is made of.
KINDS = {
    "localization-maps": "maps",
    "refined-maps": "maps",
    "score-maps": "maps",
    "labels": "labels",
    "saliency": "labels",
    "figures": "figures",
    "gallery": "gallery",
    "dataset": "dataset",
    # Files in another project's format.
    "export": "export",
}
# Kinds that say something about an image without naming a class.
_CLASSLESS = ("saliency", "figures", "gallery", "dataset", "export")


@dataclass(frozen=True)
class Header:
    """Kind, object classes and provenance of an artifact.

    Parameters
    ----------
    kind
        One of ``KINDS``.
    class_names
        The C object classes; name ``c`` belongs to label ``c + 1``. May be empty for saliency maps
        and figures, which know no classes.
    provenance
        One entry a step, the oldest first (see :mod:`drstool.artifacts.provenance`).
    shard
        Which shard of a whole it is; None: it is whole.

    Examples
    --------
    >>> header = Header("labels", ("cat", "dog"))
    >>> Header.from_json(header.to_json(), "memory") == header
    True
    """

    kind: str
    class_names: tuple[str, ...]
    provenance: tuple[dict, ...] = ()
    shard: Shard | None = None

    def to_json(self) -> dict:
        """The header as a JSON object, format and version included."""
        # The key stays as earlier versions had it.
        shard = {} if self.shard is None else {"part": self.shard.to_json()}
        return {
            "format": FORMAT, "version": VERSION, "kind": self.kind, **shard,
            "class_names": list(self.class_names), "provenance": list(self.provenance),
        }

    @classmethod
    def from_json(cls, value: object, where: object) -> Header:
        """The header a JSON object holds.

        Parameters
        ----------
        value
            The object, or its JSON text.
        where
            Named in the error.

        Raises
        ------
        InputError
            It is not a JSON object, of another program, of a newer version, of an unknown kind, or
            its class names cannot be object classes.
        """
        if isinstance(value, (str, bytes)):
            value = _loaded(value, where)
        if not isinstance(value, Mapping) or value.get("format") != FORMAT:
            raise ForeignError(
                where, "was not written by drstool", f'its "format" should be "{FORMAT}"')
        _check_version(value.get("version"), where)
        kind = value.get("kind")
        if not isinstance(kind, str) or kind not in KINDS:
            raise InputError(
                where, f"has an unknown kind {kind!r}", "expected one of " + ", ".join(KINDS))
        shard = value.get("part")
        return cls(
            kind, _class_names(value, kind, where), _provenance(value, where),
            None if shard is None else Shard.from_json(shard, where))


def record_type(kind: str) -> str:
    """What the records of a kind are: ``"maps"``, ``"labels"`` (PNGs) or ``"figures"``.

    Examples
    --------
    >>> record_type("refined-maps")
    'maps'
    """
    return KINDS[kind]


def check_plain(value: object, where: object) -> None:
    """Check that a value can be shown and written as JSON, in reasonable time and space.

    Raises
    ------
    InputError
        It holds something else than texts, numbers, lists and objects named by texts, more than a
        million of them, or in one another more than 32 deep.

    Examples
    --------
    >>> check_plain({"lr": 0.1, "sizes": [256, 320]}, "memory")
    """
    pending: list[tuple[object, int]] = [(value, 0)]
    seen = 0
    while pending:
        item, depth = pending.pop()
        seen += 1
        if depth > _DEEPEST or seen + len(pending) > _MOST_VALUES:
            raise InputError(where, "is nested too deeply", "it is damaged")
        if isinstance(item, Mapping) and all(isinstance(key, str) for key in item):
            pending += [(inner, depth + 1) for inner in item.values()]
        elif isinstance(item, (list, tuple)):
            pending += [(inner, depth + 1) for inner in item]
        elif not (item is None or isinstance(item, (str, bool, float))
                  or isinstance(item, int) and abs(item) < _LARGEST_WHOLE):
            raise InputError(where, f"holds a {type(item).__name__} that is not a plain value", "it is damaged")


def json_bytes(value: object) -> bytes:
    """Readable JSON text of a value, the same bytes for the same value."""
    try:
        return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:
        # A file name that is not Unicode; JSON's own escapes carry it.
        return (json.dumps(value, indent=1) + "\n").encode()


def _loaded(text: str | bytes, where: object) -> object:
    if len(text) > MAX_HEADER_BYTES:
        raise InputError(where, f"has {len(text):,} bytes", f"a header has at most {MAX_HEADER_BYTES:,}")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(where, "is not valid JSON", "it is damaged or not drstool's") from error


def _check_version(version: object, where: object) -> None:
    if type(version) is not int or version < 1:
        raise InputError(where, f"has an invalid format version ({version!r})", f"expected 1 to {VERSION}")
    if version > VERSION:
        raise InputError(
            where, f"was written by a newer drstool (format version {version})",
            f"this one reads versions up to {VERSION}; update drstool",
        )


def _class_names(value: Mapping, kind: str, where: object) -> tuple[str, ...]:
    names = value.get("class_names")
    if not isinstance(names, (list, tuple)):
        raise InputError(where, "has no list of class names", "it is damaged")
    if not names and kind in _CLASSLESS:
        return ()
    return check_class_names(names, where)


def _provenance(value: Mapping, where: object) -> tuple[dict, ...]:
    chain = value.get("provenance", ())
    if not isinstance(chain, (list, tuple)) or not all(isinstance(entry, dict) for entry in chain):
        raise InputError(where, "has a provenance that is not a list of objects", "it is damaged")
    check_plain(chain, f"{where}: its provenance")
    return tuple(chain)
