"""Tags as people write them: several in a cell, a column of 0 and 1 per class, or numbers."""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from drstool.data.table import is_housekeeping
from drstool.errors import InputError, UsageError
from drstool.labels import check_class_names, plain_name
from drstool.text import listed, quoted

__all__ = [
    "SEPARATORS", "ListedTags", "RawTags", "TagForm", "about_zeros", "number_or_name", "read_columns", "read_numbers",
    "some_columns", "split_cells", "without_blanks",
]

# A tag is a class name, or a class number counted from 0; None: it is not known which classes an image has.
RawTags = tuple[str | int, ...] | None
Word = TypeVar("Word", str, str | int)

SEPARATORS = (";", ",", "|")
# That an image has a class or not, as programs write it; and people, and spreadsheets of several languages.
_PLAIN = frozenset(("0", "0.0", "false", "1", "1.0", "true"))
_ZERO = frozenset(("0", "0.0", "0,0", "false", "no", "n", "falsch", "nein", "faux", "non", "falso"))
_ONE = frozenset(("1", "1.0", "1,0", "true", "yes", "y", "wahr", "ja", "vrai", "oui", "verdadero", "vero"))
# These mark the images that have a class, and the cells of the others are empty.
_MARKS = frozenset(("x", "✓", "✔"))
# How columns say it, in the order in which one is preferred, and what they may hold; -1 is "not" or "uncertain".
_NUMBERS = _PLAIN | {"0,0", "1,0", "-1", "-1.0"}
_STYLES = (_NUMBERS, _ZERO | _ONE | _NUMBERS, _MARKS)
_NUMBER = re.compile(r"(\d{1,9})(?:\.0+)?", re.ASCII)
# Cells without a value, as programs write them: in any case, but for "NA", as "Na" is sodium.
_BLANKS = frozenset(("nan", "none", "null", "nil", "n/a", "#n/a", "<na>", "-", "--"))


@dataclass(frozen=True)
class TagForm:
    """What is known beforehand of how tags are written.

    Attributes
    ----------
    class_names
        The classes, if something lists them.
    separator
        Between the tags of a cell; None: found in the cells.
    empty_cells
        What an empty cell means: ``unknown`` tags, or ``negative``, an image without an object.
    replaced
        Whether ``--tags`` gives the tags, so that a table need not have them.
    """

    class_names: tuple[str, ...] | None = None
    separator: str | None = None
    empty_cells: str = "unknown"
    replaced: bool = False

    def __post_init__(self) -> None:
        if self.empty_cells not in ("unknown", "negative"):
            raise UsageError("--empty-tags", f"{self.empty_cells!r} is not one of unknown, negative")
        if self.separator is not None and (len(self.separator) != 1 or self.separator.isalnum()):
            raise UsageError("--tag-separator", f"{self.separator!r} is not a mark", "give one character, such as ';'")

    @property
    def empty(self) -> tuple[str, ...] | None:
        """The tags of an empty cell."""
        return () if self.empty_cells == "negative" else None


@dataclass(frozen=True)
class ListedTags:
    """The tags that a file lists, by image id.

    Attributes
    ----------
    tags
    class_names
        In label order, where the file lists them; else None.
    notices
        What was assumed in reading it; each a line for the user.
    """

    tags: dict[str, RawTags]
    class_names: tuple[str, ...] | None = None
    notices: tuple[str, ...] = ()

    def of_images(self, ids: Collection[str], where: object, *, needed: bool = True) -> ListedTags:
        """The same with a notice of ids that no image has: they may be misspelt, or those of other images.

        Parameters
        ----------
        ids
            Of the images.
        where
            The file's name.
        needed
            Whether the user asked for these tags.

        Raises
        ------
        InputError
            No image has any of the ids, and they are needed.
        """
        others = [identifier for identifier in self.tags if identifier not in ids]
        if needed and len(others) == len(self.tags):
            what = f": its ids are such as {others[0]!r:.80}" if others else ", as it lists none"
            raise InputError(
                where, "has tags for none of the images" + what,
                about_zeros(others, ids) or f"the images' ids are such as {next(iter(ids))!r:.80}")
        lost = about_zeros(others, ids)
        notice = f"{where}: {len(others):,} of {len(self.tags):,} ids are not among the images: {quoted(others)}" + (
            f"; {lost}" if lost else "")
        return replace(self, notices=(*self.notices, notice)) if others else self


def about_zeros(texts: Iterable[str], known: Iterable[str]) -> str:
    """What to do where numbers differ from known ones only in zeros at their beginning; else nothing.

    Examples
    --------
    >>> about_zeros(["7", "12"], ["012"])
    "'12' may be '012' without its zeros, which spreadsheets drop: format the column as text"
    """
    stripped = {name.lstrip("0"): name for name in known if name.startswith("0")}
    found = next((text for text in texts if text.isdigit() and text in stripped), None)
    return "" if found is None else (
        f"{found!r} may be {stripped[found]!r} without its zeros, which spreadsheets drop: format the column as text")


def number_or_name(text: str) -> str | int:
    """A class number if the text is one, else the name that it is."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else text


def split_cells(
    cells: Sequence[str | None], where: object, form: TagForm,
) -> tuple[list[Sequence[str] | None], tuple[str, ...]]:
    """The tags in each of the cells of a column, as they are written, and notices; for :func:`read_numbers`.

    Parameters
    ----------
    cells
        Tags separated by ``;``, ``,`` or ``|``, or lists as Python and JSON write them; None: no such cell.
    where
        Named in errors and notices.
    form

    Raises
    ------
    InputError
        Cells have different separators.

    Examples
    --------
    >>> split_cells(["cat; dog", "", "[]"], "m.csv", TagForm())
    ([('cat', 'dog'), None, ()], ())
    """
    texts = ["" if cell is None else cell.strip() for cell in cells]
    separator = form.separator
    notices: tuple[str, ...] = ()
    if separator is None:
        separator = _separator({text for text in texts if not _is_list(text)}, where, form.class_names)
        if separator not in (None, SEPARATORS[0]):
            notices = (f"{where}: tags are separated by '{separator}' (--tag-separator names another)",)
    return [_cell(text, separator, where, form) for text in texts], notices


def _is_list(text: str) -> bool:
    return text.startswith("[") and text.endswith("]")


def _cell(text: str, separator: str | None, where: object, form: TagForm) -> tuple[str, ...] | None:
    if not text:
        return form.empty
    if _is_list(text):
        quote = "'" if "'" in text and '"' not in text else '"'
        rows = list(csv.reader([text[1:-1]], quotechar=quote, skipinitialspace=True))
        tags = [tag.strip() for row in rows for tag in row]
        if any(mark in tag for tag in tags for mark in "'\"[]"):
            raise InputError(where, f"{text!r:.60} is not a list of tags", 'write ["cat", "dog"], or cat;dog')
        return tuple(filter(None, tags))
    if text in (form.class_names or ()):
        return (text,)
    return tuple(_parts(text, separator))


def _parts(text: str, separator: str | None) -> list[str]:
    return [part for each in (text.split(separator) if separator else [text]) if (part := each.strip())]


def _separator(texts: Iterable[str], where: object, class_names: Sequence[str] | None) -> str | None:
    """The one separator of all cells; None if there is none. A class name may contain another."""
    names = frozenset(class_names or ())
    texts = [text for text in texts if text not in names]
    found = [mark for mark in SEPARATORS if any(mark in text for text in texts)]
    if len(found) > 1 and names:
        fitting = [mark for mark in found if all(names.issuperset(_parts(text, mark)) for text in texts)]
        found = fitting if len(fitting) == 1 else found
    if len(found) > 1:
        raise InputError(
            where, f"separates tags by {' and by '.join(map(repr, found))}",
            "use one mark, or name the one that separates with --tag-separator")
    return found[0] if found else None


def read_columns(
    columns: Mapping[str, Sequence[str]], places: Sequence[str], where: object, form: TagForm,
) -> tuple[tuple[str, ...], list[RawTags], tuple[str, ...]]:
    """The classes that are columns of 0 and 1, else of yes and no, else of marks; each row's tags; and notices.

    Parameters
    ----------
    columns
        Cells of each column whose name means nothing else, without spaces at their ends.
    places
        Each row's place, for messages.
    where
        The file's name.
    form

    Raises
    ------
    InputError
        A column holds 0 and 1, yes and no, or marks, and something else too, but no counts; some classes have a
        column and some have none.

    Examples
    --------
    >>> read_columns({"cat": ["1", "0"], "width": ["640", "480"]}, ["2", "3"], "m.csv", TagForm())
    (('cat',), [('cat',), ()], ("m.csv: the columns of 0 and 1 are taken for classes: 'cat'",))
    """
    styles = {name: style for name, cells in columns.items()
              if (style := _style(cells)) is not None and not is_housekeeping(name)}
    # Others are about the image or its annotation, such as "reviewed" or "comment".
    likely = [name for name, style in styles.items() if style == min(styles.values())]
    chosen = likely if form.class_names is None else [name for name in form.class_names if name in columns]
    missing = [name for name in form.class_names or () if name not in columns]
    alike = {plain_name(name) for name in missing}.intersection(map(plain_name, likely))
    if missing and (chosen or alike):
        raise InputError(
            where, f"has columns of 0 and 1 ({quoted(chosen or likely)}), but none for class '{missing[0]}'",
            "name the columns as the classes of --classes or of the checkpoint are")
    if not chosen:
        return (), [None] * len(places), ()
    present = [_flags(columns[name], name, places) for name in chosen]
    tags: list[RawTags] = [
        tuple(name for name, flag in zip(chosen, flags, strict=True) if flag) for flags in zip(*present, strict=True)]
    held = dict.fromkeys(cell for name in chosen for cell in columns[name])
    values = "0 and 1" if _PLAIN.issuperset(map(str.casefold, held)) else quoted(list(held))
    notice = f"{where}: the columns of {values} are taken for classes: {quoted(chosen)}"
    return check_class_names(chosen, where), tags, () if form.class_names else (notice,)


def some_columns(columns: Mapping[str, Sequence[str]]) -> str:
    """The first few names of columns, each with some of its values, as a message shows them.

    Examples
    --------
    >>> some_columns({"cat": ["likely", "", "rarely", "likely"], "dog": ["", "", "", ""]})
    "'cat' (likely, rarely), 'dog' (empty)"
    """
    return listed([
        f"'{name}' ({listed([f'{cell:.20}' for cell in dict.fromkeys(cells) if cell], most=3) or 'empty'})"
        for name, cells in columns.items()])


def _style(cells: Sequence[str]) -> int | None:
    """The index of what at least half of a column's cells are, if none counts; half of its marks and other words."""
    words = [cell.casefold() for cell in cells]
    filled = list(filter(None, words))
    counts = any((number := _NUMBER.fullmatch(word)) and int(number[1]) > 1 for word in words)
    if not filled or counts:
        return None
    if len(words) <= 2 * sum(word in _STYLES[1] for word in words):
        return 1 if _NUMBERS.isdisjoint(words) else 0
    return 2 if len(filled) <= 2 * sum(word in _MARKS for word in filled) else None


def _flags(cells: Sequence[str], name: str, places: Sequence[str]) -> list[bool]:
    """Whether each image has the class of a column."""
    words = [cell.casefold() for cell in cells]
    marks = not any(words) or _style(cells) == _STYLES.index(_MARKS)
    zero, one = (frozenset(("",)), _MARKS) if marks else (_ZERO, _ONE)
    wrong = next((at for at, word in enumerate(words) if word not in zero | one), None)
    if wrong is not None:
        values, yes, no = ("x or nothing", "x", "leave the cell empty") if marks else ("0 or 1", "1", "0")
        raise InputError(
            places[wrong], f"has {cells[wrong]!r:.40} in the column '{name}', which should hold {values}",
            f"write {yes} if the image has the class, else {no}; if the column is not a class, list the classes with "
            "--classes")
    return [word in one for word in words]


def without_blanks(
    rows: Sequence[Sequence[Word] | None], where: object, form: TagForm,
) -> tuple[list[Sequence[Word] | None], tuple[str, ...]]:
    """The rows, with empty ones for words that mean an empty cell, such as pandas's ``nan``; and a notice of them.

    Raises
    ------
    InputError
        A row has such a word and others.

    Examples
    --------
    >>> without_blanks([["cat"], ["NaN"]], "m.csv", TagForm())[1]
    ("m.csv: tags 'NaN' are taken for empty cells (1 of 2 rows), which mean unknown tags (--empty-tags)",)
    """
    names = form.class_names or ()
    blanks: dict[str, None] = {}
    kept: list[Sequence[Word] | None] = []
    count = 0
    for words in rows:
        found = [str(word) for word in words or () if word not in names and (
            word == "NA" or str(word).casefold() in _BLANKS)]
        if found and len(found) < len(words or ()):
            raise InputError(
                where, f"has {found[0]!r} among other tags: {listed(words or ())}",
                "leave it out; if it is a class, list the classes with --classes")
        blanks |= dict.fromkeys(found)
        count += bool(found)
        kept.append(form.empty if found else words)
    means = "unknown" if form.empty is None else "no"
    notice = (f"{where}: tags {quoted(list(blanks))} are taken for empty cells ({count:,} of {len(rows):,} rows), "
              f"which mean {means} tags (--empty-tags)")
    return kept, (notice,) if blanks else ()


def read_numbers(
    rows: Sequence[Sequence[str] | None], where: object, form: TagForm,
) -> tuple[list[RawTags], tuple[str, ...]]:
    """The tags of each row's words: names, class numbers, or a 0 or 1 for each class; and notices.

    Words are names unless all of them are numbers: a class may be called "7", but not each of them.

    Parameters
    ----------
    rows
        Words of each image; None where its tags are unknown.
    where
        Named in errors.
    form
        With class names, whose number tells rows of 0 and 1 from class numbers.

    Raises
    ------
    InputError
        Rows of 0 and 1 do not have one column for each class; a class number is repeated; as of
        :func:`without_blanks`.

    Examples
    --------
    >>> read_numbers([["1", "0"], ["1", "1"], None], "t.txt", TagForm(("cat", "dog")))
    ([('cat',), ('cat', 'dog'), None], ('t.txt: rows of 0 and 1 are taken for one column per class',))
    >>> read_numbers([["0", "14"], ["2"]], "train_cls.txt", TagForm())
    ([(0, 14), (2,)], ())
    """
    rows, notices = without_blanks(rows, where, form)
    words = {word for words in rows for word in words or ()}
    numbers = all(map(_NUMBER.fullmatch, words))
    flags = all(word.casefold() in _ZERO | _ONE for word in words)
    if not numbers and (not flags or words.issubset(form.class_names or ())):
        return [None if words is None else tuple(words) for words in rows], notices
    if numbers:
        # Programs write numbers as 1.0 where others are missing.
        rows = [None if words is None else [word.partition(".")[0] for word in words] for words in rows]
    written = [words for words in rows if words]
    repeated = next((words for words in written if len(set(words)) < len(words) or not numbers), None)
    names = form.class_names or ()
    widths, classes = {len(words) for words in written}, len(names)
    if flags and widths == {classes}:
        # As class numbers these are possible, too: each image has each class.
        if set(map(tuple, written)) not in ({("0",)}, {("0", "1")}, {("1", "0")}):
            tags: list[RawTags] = [
                None if words is None else tuple(names[i] for i, word in enumerate(words) if word.casefold() in _ONE)
                for words in rows]
            meaning = "not having or having the class" if classes == 1 else "one column per class"
            return tags, (*notices, f"{where}: rows of 0 and 1 are taken for {meaning}")
        if classes == 1:
            notices += (f"{where}: the 0 of every image is taken for the number of class {quoted(names)}",)
        if classes == 2:
            raise InputError(
                where, f"has {' '.join(written[0])!r} for every image: the numbers of both classes, or one of two?",
                "write class names")
    if repeated is not None:
        expected = f"here {classes}, for each image" if classes else "which --classes names"
        right = f"rows of 0 and 1 need a column per class, {expected}" if flags else "list each class once per image"
        if not numbers and widths == {1}:
            found = " and ".join(f"'{word}'" for word in sorted(words, reverse=True))
            right = f"if {found} {'are the' if len(words) > 1 else 'is one of the'} classes, list them with --classes"
        what = "repeats a number" if numbers else "has yes or no instead of classes"
        raise InputError(where, f"{what} in the tags {' '.join(repeated[:8])!r:.60}", right)
    return [None if words is None else tuple(map(number_or_name, words)) for words in rows], notices
