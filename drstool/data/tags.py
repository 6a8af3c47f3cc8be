"""Image-level tags and class names: reading lists of them, and checking one against the other."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from drstool.data.item import RawDataset, RawItem
from drstool.data.text import read_lines
from drstool.errors import InputError
from drstool.labels import check_class_names, object_classes

__all__ = ["gather_names", "read_class_names", "read_tag_list", "resolve_names", "resolve_tags", "split_id"]

# The longest path on common systems; a line may be longer in a file that is not a list.
_LONGEST_ID = 4096
_MAX_CLASS_LIST_BYTES = 1 << 20


def read_class_names(path: str | Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Object class names from a text file with one name per line, in label order, and notices.

    Raises
    ------
    InputError
        It cannot be read, or the names are invalid (:func:`drstool.labels.object_classes`).
    """
    return object_classes(read_lines(path, _MAX_CLASS_LIST_BYTES), path)


def split_id(line: str, ids: Collection[str]) -> tuple[str, str]:
    """The image id at the start of a line, and the rest of the line.

    The id ends at a tab. In a line without one it is the longest beginning, up to a space, that is
    among ``ids``; if there is none, the first column.

    Examples
    --------
    >>> split_id("my photo 3 14", {"my photo"})
    ('my photo', '3 14')
    >>> split_id("2007_000032 0 14", set())
    ('2007_000032', '0 14')
    """
    if "\t" in line:
        identifier, _, rest = line.partition("\t")
        return identifier.strip(), rest.strip()
    end = len(line) if len(line) <= _LONGEST_ID else line.rfind(" ", 0, _LONGEST_ID)
    while end > 0:
        if line[:end] in ids:
            return line[:end], line[end:].strip()
        end = line.rfind(" ", 0, end)
    identifier, *rest = line.split(maxsplit=1)
    return identifier, rest[0] if rest else ""


def read_tag_list(path: str | Path, ids: Collection[str]) -> dict[str, tuple[str | int, ...]]:
    """Tags by image id from lines ``id class class …`` (VOC's ``_cls.txt`` form).

    Parameters
    ----------
    path
        Text file. Classes are names, or numbers counted from 0.
    ids
        Ids of the dataset, by which the end of an id with spaces is found.

    Raises
    ------
    InputError
        It cannot be read, is empty, or lists an id twice.
    """
    tags: dict[str, tuple[str | int, ...]] = {}
    for line in read_lines(path):
        identifier, rest = split_id(line, ids)
        if identifier in tags:
            raise InputError(path, f"lists id {identifier!r} twice", "list each image once")
        tags[identifier] = tuple(_number_or_name(column) for column in rest.split())
    if not tags:
        raise InputError(path, "is empty", "each line is an id and its classes: 2007_000032 0 14")
    return tags


def _number_or_name(text: str) -> str | int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else text


def gather_names(tags: Iterable[Iterable[str | int] | None], where: object) -> tuple[str, ...] | None:
    """The class names that occur among the tags, sorted; None if no tag is a name."""
    names = {tag for known in tags if known for tag in known if isinstance(tag, str)}
    return check_class_names(sorted(names), where) if names else None


def resolve_names(
    found: RawDataset, given: Sequence[str] | None, where: str, *, listed: Sequence[str] | None = None,
) -> tuple[str, ...] | None:
    """The class names to use: those of a checkpoint or map file, or of ``--classes``, or of the data.

    Parameters
    ----------
    found
        The data.
    given
        Names of a checkpoint or map file.
    where
        The data's name, for messages.
    listed
        Names the user lists for these data (``--classes``).

    Raises
    ------
    InputError
        The sources contradict each other.
    """
    names, stated = (listed, True) if listed is not None else (found.class_names, found.stated)
    if given is None:
        return None if names is None else tuple(names)
    given = check_class_names(given, where)
    if names is None or not stated or tuple(names) == given:
        return given
    if set(names) != set(given):
        raise InputError(
            where, f"has other classes: {_difference(names, given)}",
            "use data with the classes of the checkpoint or maps")
    if not found.reorder:
        raise InputError(
            where, "has the classes of the checkpoint or maps in another order",
            "list them in the same order, or the label values would differ")
    return given


def _difference(names: Sequence[str], given: Sequence[str]) -> str:
    extra = [name for name in names if name not in given]
    missing = [name for name in given if name not in names]
    return ", ".join(what + _some(some) for what, some in (("it also has ", extra), ("it lacks ", missing)) if some)


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(f"'{name}'" for name in names[:most]) + (", …" if len(names) > most else "")


def resolve_tags(row: RawItem, channels: Mapping[str, int] | None) -> tuple[str, ...] | None:
    """Tags of an image as class names, in class order, each once.

    Parameters
    ----------
    row
        The image.
    channels
        Object channel of each class name, in class order; None where the classes have no names.

    Raises
    ------
    InputError
        A tag is not a class.
    """
    if not row.tags:
        return row.tags
    where = row.where or row.id
    if channels is None:
        raise InputError(
            where, f"image {row.id!r} has class numbers, but the classes have no names",
            "name them with --classes FILE, one per line")
    names = list(channels)
    present = {_channel(tag, channels, row.id, where) for tag in set(row.tags)}
    return tuple(names[channel] for channel in sorted(present))


def _channel(tag: str | int, channels: Mapping[str, int], identifier: str, where: str) -> int:
    # Names first: a class may be called '7'.
    if str(tag) in channels:
        return channels[str(tag)]
    tag = _number_or_name(str(tag))
    if isinstance(tag, int) and tag < len(channels):
        return tag
    right = f"the classes are {_some(list(channels))}"
    if isinstance(tag, int):
        right = f"class numbers are 0 to {len(channels) - 1}"
    raise InputError(where, f"image {identifier!r} has the tag {tag!r}, which is not a class", right)
