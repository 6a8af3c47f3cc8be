"""Class names, and image-level tags checked against them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from drstool.annotations.labelmap import is_labelmap, read_labelmap
from drstool.annotations.simple_yaml import read_simple_yaml
from drstool.annotations.yolo import yolo_names
from drstool.data.cells import number_or_name
from drstool.data.item import RawDataset, RawItem
from drstool.errors import InputError
from drstool.labels import check_class_names, is_object_name, object_classes, plain_name
from drstool.text import quoted, read_lines

__all__ = [
    "about_joined_names", "about_numbers", "gather_names", "read_class_names", "read_names", "resolve_names",
    "resolve_tags",
]

_MAX_CLASS_LIST_BYTES = 1 << 20
# Before the names of a table: "id,name", or Roboflow's "Pixel Value, Class".
_HEADER = re.compile(
    r"(?:pixel value|\w*id|index|idx|value|label|number|class)\s*[,;\t]\s*\w*(?:name|class|label|category)s?", re.I)
_NUMBERED = re.compile(r"(\d{1,5})(\s*[:;,|=)]\s*|\.\s+|\s+)(\S.*)")
_ONE_A_LINE = "write one name per line, background's first or left out; a JSON list and YOLO's data.yaml are read, too"
_NUMBER_BEHIND = re.compile(r".*[,;\t]\s*[\d.]+")
# Between the names of several classes: a mark or a word, or else a space.
_JOINTS = (re.compile(r"\s*[+/&,;|]\s*|\s+(?:and|or|with|und|et)\s+", re.IGNORECASE), re.compile(r"[\s_-]+"))


def read_class_names(path: str | Path) -> tuple[tuple[str, ...], tuple[str, ...], bool]:
    """Object class names of a list of classes, in label order; notices; and whether it began with the background.

    Raises
    ------
    InputError
        It cannot be read, or the names are invalid (:func:`drstool.labels.object_classes`).
    """
    listed, told = read_names(path)
    names, background = object_classes(listed, path)
    return names, (*told, *background), bool(background)


def read_names(path: str | Path) -> tuple[list[str], tuple[str, ...]]:
    """Names in label order, background included where it is listed, and notices.

    Parameters
    ----------
    path
        A text file with one name per line, perhaps numbered; a JSON list; CVAT's ``labelmap.txt``; YOLO's
        ``data.yaml``; Roboflow's ``_classes.csv`` of pixel values and names.

    Raises
    ------
    InputError
        It cannot be read, or is damaged.
    """
    path = Path(path)
    if path.suffix.lower() in (".yaml", ".yml"):
        return list(yolo_names(read_simple_yaml(path), path)), ()
    lines = read_lines(path, _MAX_CLASS_LIST_BYTES)
    if is_labelmap(lines):
        return list(read_labelmap(path).values()), ()
    if lines and lines[0].startswith("["):
        names = _json_names(" ".join(lines), path)
    else:
        names = _numbered_names([line for line in lines if not line.startswith("# ")], path)
    return names, () if names == lines else (f"{path}: read as the classes {quoted(names)}",)


def _json_names(text: str, path: Path) -> list[str]:
    try:
        names = json.loads(text)
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(path, "is not a JSON list of names", 'write ["cat", "dog"], or one name per line')
    return names


def _numbered_names(lines: Sequence[str], path: Path) -> list[str]:
    """The names of lines, without the numbers that count them."""
    if not lines:
        return []
    rows = lines[1:] if _HEADER.fullmatch(lines[0]) else lines
    matches = [found for line in rows if (found := _NUMBERED.fullmatch(line))]
    if rows is not lines and not matches or _is_table(lines, path) and not (len(lines) == len(matches) == 1):
        raise InputError(path, f"is not a list of names: {lines[0]!r:.80}", _ONE_A_LINE)
    numbers, names = [int(found[1]) for found in matches], [found[3].strip() for found in matches]
    # Other numbers are part of the names: "1 euro", "2 euro", or "3 musketeers".
    partly = len(matches) < len(rows) or len(set(names)) < len(names)
    counts = not partly and numbers[0] <= 1 and numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    if rows is lines and all(map(is_object_name, names)) and (
            partly or numbers[0] > 1 and not any(found[2].strip() for found in matches)):
        return list(lines)
    if not counts:
        raise InputError(
            path, f"numbers its classes {', '.join(map(str, numbers[:6]))}, which does not count all lines from 0 or 1",
            "list all classes in the order of their labels, one name per line")
    return names


def _is_table(lines: Sequence[str], path: Path) -> bool:
    """Whether lines have more than a number and a name, or are of another kind of file."""
    least = 2 if len(lines) > 1 else 1
    counts = [{line.count(mark) for line in lines} for mark in ",;\t"]
    words = lines[0].split()
    return (
        path.suffix.lower() == ".pbtxt" or lines[0].startswith(("{", "item {"))
        or any(len(each) == 1 and min(each) >= least for each in counts)
        or all(line.endswith(",") or _NUMBER_BEHIND.fullmatch(line) for line in lines[1:] or lines)
        or len(lines) == 1 < len(words) and not is_object_name(words[0]))


def gather_names(tags: Iterable[Iterable[str | int] | None], where: object) -> tuple[str, ...] | None:
    """The class names that occur among the tags, sorted; None if no tag is a name.

    Raises
    ------
    InputError
        One is not valid, or two differ only in case, spaces or marks.
    """
    names = sorted({tag for known in tags if known for tag in known if isinstance(tag, str)})
    seen: dict[str, str] = {}
    for name in names:
        if (other := seen.setdefault(plain_name(name) or name, name)) != name:
            raise InputError(
                where, f"has the tags '{other}' and '{name}'",
                "write one of them everywhere; if they are two classes, list all with --classes FILE")
    return check_class_names(names, where) if names else None


def about_joined_names(names: Iterable[str], folders: bool = False) -> tuple[str, ...]:
    """A notice of names, perhaps of folders, that consist of others: several tags in one.

    Examples
    --------
    >>> about_joined_names(["cat", "cat + dog", "dog", "light", "traffic light"])
    ("the class 'cat + dog' looks like several tags; separate them with ;",)
    """
    known = frozenset(names)
    joined = sorted(name for name in known if any(
        len(parts := joint.split(name)) > 1 and known.issuperset(parts) for joint in _JOINTS))
    if not joined:
        return ()
    what = f"class {quoted(joined)} looks" if len(joined) == 1 else f"classes {quoted(joined)} look"
    return (f"the {what} like several tags; " + ("give them in a table" if folders else "separate them with ;"),)


def about_numbers(rows: Iterable[RawItem], names: Sequence[str] | None, background_first: bool) -> tuple[str, ...]:
    """Notices about tags that are class numbers.

    Parameters
    ----------
    rows
    names
        The object classes.
    background_first
        Their list began with the background, so that they may have been counted with it or without.

    Raises
    ------
    InputError
        They may have been.
    """
    numbers: set[int] = set()
    for row in rows:
        numbers |= (known := {tag for tag in row.tags or () if isinstance(tag, int)})
        if known and background_first:
            raise InputError(
                row.where, f"image {row.id!r} has class numbers, but the class list begins with the background",
                "use class names as tags, or leave the background out of the list and count the classes from 0")
    if names is None or 0 in numbers or len(names) - 1 not in numbers or len(names) < 2:
        return ()
    return (f"no image has the class number 0, '{names[0]}': class numbers are counted from 0, without the background",)


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
    return ", ".join(what + quoted(names) for what, names in (("it also has ", extra), ("it lacks ", missing)) if names)


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
        return None if row.tags is None else ()
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
    tag = number_or_name(str(tag))
    if isinstance(tag, int) and tag < len(channels):
        return tag
    alike = [name for name in channels if plain_name(name) == plain_name(str(tag))]
    right = f"did you mean '{alike[0]}'?" if alike else f"the classes are {quoted(list(channels))}"
    if isinstance(tag, int):
        right = (
            f"class numbers are 0 to {len(channels) - 1}, counted from 0 without the background: the classes of "
            f"--classes, the checkpoint, the maps or the data are {quoted(list(channels))}")
    raise InputError(where, f"image {identifier!r} has the tag {tag!r}, which is not a class", right)
