"""Where everything in a figure goes, in pixels from the top left: cells, titles, scores, legend, bars and caption.

Nothing is drawn here. How large a text is, the renderer tells (:data:`Measure`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from drstool.errors import UsageError
from drstool.figures.spec import Crop, FigureSpec
from drstool.reports.text import printable

__all__ = [
    "LINE", "Bar", "Box", "Key", "Layout", "Measure", "Placer", "RowPlan", "Text", "fitted", "name_texts", "note_texts",
    "wrapped",
]

# Width in pixels of a text of a size in points, and whether it is bold.
Measure = Callable[[str, float, bool], float]

# Of lines, in font sizes; and space between things, in points.
LINE, _PAD = 1.28, 2.0
_TITLE_LINES, _NOTE_LINES, _SCORE_LINES = 3, 4, 2
# Narrower columns show nothing.
_LEAST_COLUMN = 12
# Without an image, a cell is as high as this makes it: width over height.
_USUAL_ASPECT = 4 / 3
_BAR_SHARE, _SWATCH_RATIO, _HIGHEST_CROP = 0.22, 1.5, 1.25
# How much smaller the letters of a long id may be.
_LEAST_SHARE = 0.6


@dataclass(frozen=True)
class Box:
    """A rectangle, in pixels from the top left."""

    x: float
    y: float
    width: float
    height: float

    @property
    def right(self) -> float:
        """Its right edge."""
        return self.x + self.width

    @property
    def bottom(self) -> float:
        """Its lower edge."""
        return self.y + self.height

    def meets(self, other: Box) -> bool:
        """Whether two boxes have more than an edge in common."""
        return (self.x < other.right and other.x < self.right
                and self.y < other.bottom and other.y < self.bottom)


@dataclass(frozen=True)
class Text:
    """A line of text, centred in its box; ``upright`` ones read from the bottom up.

    ``back`` is the colour behind it, if there is one.
    """

    text: str
    box: Box
    size: float
    bold: bool = False
    upright: bool = False
    color: tuple[int, int, int] = (0, 0, 0)
    back: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class Key:
    """An entry of the legend."""

    name: str
    color: tuple[int, int, int]
    hatched: bool = False


@dataclass(frozen=True, eq=False)
class Bar:
    """A colour bar: ``(n, 3) uint8`` from low to high, what its ends stand for, and how values were scaled."""

    colors: np.ndarray
    low: str
    high: str
    words: str


@dataclass(frozen=True)
class RowPlan:
    """What must be known of a row to place it.

    Attributes
    ----------
    id
    size
        ``(H, W)`` of its image.
    scores
        By column: text and whether it is the best; None where there is none.
    crops
        Regions, each shown in a row of its own below.
    """

    id: str
    size: tuple[int, int] | None
    scores: tuple[tuple[str, bool] | None, ...] = ()
    crops: tuple[Crop, ...] = ()


@dataclass
class Layout:
    """A figure's boxes and texts.

    Attributes
    ----------
    width, height
        In whole pixels.
    cells, crops
        Boxes by row and column, and by row, number of the region and column.
    texts
    swatches, bars
        Of the legend: boxes and what they show.
    """

    width: int
    height: int = 0
    cells: dict[tuple[int, int], Box] = field(default_factory=dict)
    crops: dict[tuple[int, int, int], Box] = field(default_factory=dict)
    texts: list[Text] = field(default_factory=list)
    swatches: list[tuple[Box, Key]] = field(default_factory=list)
    bars: list[tuple[Box, Bar]] = field(default_factory=list)


class Placer:
    """Places the parts of one figure, from the top down.

    Parameters
    ----------
    spec
    measure
    """

    def __init__(self, spec: FigureSpec, measure: Measure) -> None:
        self.layout, self._settings, self._measure = Layout(spec.pixels()), spec.settings, measure
        self._columns = spec.columns
        self._point = spec.settings.dpi / 72
        self._line = spec.settings.font_size * LINE * self._point
        self._pad = _PAD * self._point
        self._gap = round(spec.settings.gap / 25.4 * spec.settings.dpi)
        self._left = round(self._line + self._pad) if spec.settings.row_ids else 0
        count = len(spec.columns)
        self._column = (self.layout.width - self._left - (count - 1) * self._gap) // count
        if self._column < _LEAST_COLUMN:
            raise UsageError(
                "--width", f"leaves {max(self._column, 0)} pixels for each of {count} columns",
                "make the figure wider, --dpi higher, or leave out columns")
        # Pixels that are left over widen gaps, so that all cells are of one size and reach both edges.
        used = self._left + count * self._column + (count - 1) * self._gap
        self._spare = self.layout.width - used if self._gap else 0
        self._row_boxes: list[Box] = []
        self._y = self._pad / 2

    def grid(self, rows: Sequence[RowPlan]) -> Layout:
        """Place titles and rows; crops, scores and ids with them."""
        if self._settings.titles:
            lines = [self._wrapped(column.title, self._column, _TITLE_LINES) for column in self._columns]
            if self._column < self._length("mmm") and any(texts[-1:] and texts[-1].endswith("…") for texts in lines):
                raise UsageError(
                    "--width", f"columns of {self._column} pixels are too narrow for their titles",
                    "make the figure wider, --font-size smaller, or add --no-titles")
            height = max(map(len, lines)) * self._line
            for column, texts in enumerate(lines):
                # The last lines of all titles are level.
                self._write(texts, self._x(column), self._y + height - len(texts) * self._line, self._column)
            self._y += height + self._pad / 2
        aspect = self._aspect(rows)
        for number, row in enumerate(rows):
            if number:
                self._y += self._gap
            self._row(number, row, aspect)
        if self._settings.row_ids:
            self._row_ids([printable(row.id) for row in rows])
        self.layout.height = round(self._y)
        return self.layout

    def foot(self, keys: Sequence[Sequence[Key]], bars: Sequence[Bar], caption: str) -> Layout:
        """Place legend, colour bars and caption below the rows; each group of the legend begins a line."""
        for group in keys:
            self._keys(group)
        self._bars(bars)
        if caption:
            self._y += self._pad
            lines = self._wrapped(caption, self.layout.width - 2 * self._pad, 100)
            self._write(lines, self._pad, self._y, self.layout.width - 2 * self._pad)
            self._y += len(lines) * self._line
        self.layout.height = int(np.ceil(self._y + self._pad / 2))
        return self.layout

    def _x(self, column: int) -> int:
        gaps = max(len(self._columns) - 1, 1)
        return self._left + column * (self._column + self._gap) + column * self._spare // gaps

    def _aspect(self, rows: Sequence[RowPlan]) -> float | None:
        """Width over height that all cells have; None where each row has its image's."""
        if self._settings.fit == "fit":
            return None
        found = [row.size[1] / row.size[0] for row in rows if row.size is not None]
        return self._settings.aspect or (float(np.median(found)) if found else _USUAL_ASPECT)

    def _row(self, number: int, row: RowPlan, aspect: float | None) -> None:
        own = row.size[1] / row.size[0] if row.size is not None else _USUAL_ASPECT
        height = max(1, round(self._column / (aspect or own)))
        top = self._y = round(self._y)
        for column in range(len(self._columns)):
            self.layout.cells[number, column] = Box(self._x(column), top, self._column, height)
        self._y += height
        self._row_boxes.append(Box(0, top, self._line, height))
        self._scores(row.scores)
        for place, crop in enumerate(row.crops):
            self._y = round(self._y + self._gap)
            height = round(self._column * min(crop.height / crop.width, _HIGHEST_CROP))
            for column in range(len(self._columns)):
                self.layout.crops[number, place, column] = Box(self._x(column), self._y, self._column, max(height, 1))
            self._y += max(height, 1)

    def _row_ids(self, ids: Sequence[str]) -> None:
        """Ids, in smaller letters where one is long; of a still longer one the end, in which ids differ."""
        shares = (box.height / max(self._length(text), 1) for text, box in zip(ids, self._row_boxes))
        size = self._settings.font_size * min(1.0, max(_LEAST_SHARE, min(shares, default=1.0)))
        for text, box in zip(ids, self._row_boxes):
            text = _clipped(text[::-1], box.height, lambda part: self._measure(part[::-1], size, False))[::-1]
            self.layout.texts.append(Text(text, box, size, upright=True))

    def _scores(self, scores: Sequence[tuple[str, bool] | None]) -> None:
        lines = [[] if score is None else self._wrapped(score[0], self._column, _SCORE_LINES, score[1])
                 for score in scores]
        for column, (score, texts) in enumerate(zip(scores, lines)):
            if score is not None and " ".join(texts) != score[0]:
                raise UsageError(
                    "--score", f"columns of {self._column} pixels are too narrow for it",
                    "make the figure wider, --font-size smaller, or leave out columns")
            self._write(texts, self._x(column), self._y, self._column, bold=score is not None and score[1])
        self._y += max(map(len, lines), default=0) * self._line

    def _keys(self, keys: Sequence[Key]) -> None:
        """A group of the legend, in as few lines as there is room for, all about as long, centred."""
        if not keys:
            return
        self._y += self._pad / 2
        swatch, room = self._line * 0.7 * _SWATCH_RATIO, self.layout.width
        entries, between = [], 3 * self._pad
        for key in keys:
            name = _clipped(printable(key.name), room - swatch - self._pad, self._length)
            entries.append((key, name, swatch + self._pad + self._length(name)))
        widths = [width for _, _, width in entries]
        shares = (room * share / 20 for share in range(1, 21))
        best = len(_lines(widths, room, between))
        limit = next(share for share in shares if len(_lines(widths, share, between)) == best)
        for first, last in _lines(widths, limit, between):
            used = sum(widths[first:last]) + between * (last - first - 1)
            self._key_line(entries[first:last], max(0.0, (room - used) / 2), between)

    def _key_line(self, line: Sequence[tuple[Key, str, float]], x: float, between: float) -> None:
        high = round(self._line * 0.7)
        for key, name, width in line:
            box = Box(round(x), round(self._y + (self._line - high) / 2), round(high * _SWATCH_RATIO), high)
            self.layout.swatches.append((box, key))
            left = box.x + self._line * 0.7 * _SWATCH_RATIO + self._pad
            self._put(name, Box(left, self._y, self._length(name), self._line))
            x += width + between
        self._y += self._line

    def _bars(self, bars: Sequence[Bar]) -> None:
        """Colour bars below each other, with their ends, and beside them, if there is room, how values were scaled."""
        length, height, room = round(self.layout.width * _BAR_SHARE), round(self._line * 0.6), self.layout.width
        low, high, more = (max(map(self._length, texts), default=0) for texts in (
            [bar.low for bar in bars], [bar.high for bar in bars], [f"{bar.high} {bar.words}" for bar in bars]))
        together = low + length + more + 2 * self._pad <= room
        used = low + length + (more if together else high) + 2 * self._pad
        left = round(max(0.0, (room - used) / 2) + low + self._pad)
        for bar in bars:
            self._y += self._pad
            before, after = self._length(bar.low), self._length(bar.high)
            self._put(bar.low, Box(left - self._pad - before, self._y, before, self._line))
            box = Box(left, round(self._y + (self._line - height) / 2), length, height)
            self.layout.bars.append((box, bar))
            self._put(bar.high, Box(box.right + self._pad, self._y, after, self._line))
            if together:
                start = box.right + self._pad + after + self._length(" ")
                self._put(bar.words, Box(start, self._y, self._length(bar.words), self._line))
            self._y += self._line
            if not together:
                lines = self._wrapped(bar.words, room, 10)
                self._write(lines, 0, self._y, room)
                self._y += len(lines) * self._line

    # --- text ----------------------------------------------------------------------------------

    def _length(self, text: str, bold: bool = False) -> float:
        return self._measure(text, self._settings.font_size, bold)

    def _wrapped(self, text: str, width: float, lines: int, bold: bool = False) -> list[str]:
        return wrapped(printable(text), width, lines, lambda part: self._length(part, bold))

    def _write(self, lines: Iterable[str], x: float, y: float, width: float, bold: bool = False) -> None:
        """Lines, centred, from a top edge down."""
        for number, line in enumerate(lines):
            own = self._length(line, bold)
            self._put(line, Box(x + (width - own) / 2, y + number * self._line, own, self._line), bold=bold)

    def _put(self, text: str, box: Box, *, bold: bool = False, upright: bool = False) -> None:
        self.layout.texts.append(Text(text, box, self._settings.font_size, bold, upright))


def fitted(size: tuple[int, int], box: Box, fit: str) -> tuple[tuple[int, int, int, int], Box]:
    """Which part of a picture is shown in a box, and where.

    Parameters
    ----------
    size
        ``(H, W)`` of the picture.
    box
    fit
        ``crop``: fill the box; otherwise show all of the picture. Its aspect is kept.

    Returns
    -------
    tuple
        ``(x, y, width, height)`` in the picture, and the box, of whole pixels.

    Examples
    --------
    >>> fitted((50, 100), Box(0, 0, 60, 60), "pad")
    ((0, 0, 100, 50), Box(x=0, y=15, width=60, height=30))
    >>> fitted((50, 100), Box(0, 0, 60, 60), "crop")
    ((25, 0, 50, 50), Box(x=0, y=0, width=60, height=60))
    """
    height, width = size
    if fit == "crop":
        wide = min(width, max(1, round(height * box.width / box.height)))
        high = min(height, max(1, round(width * box.height / box.width)))
        return ((width - wide) // 2, (height - high) // 2, wide, high), box
    scale = min(box.width / width, box.height / height)
    # One pixel of difference is rounding: the row was made as high as its image.
    wide, high = max(1, round(width * scale)), max(1, round(height * scale))
    wide, high = (int(full) if full - side <= 1 else side for side, full in ((wide, box.width), (high, box.height)))
    return (0, 0, width, height), Box(
        box.x + (box.width - wide) // 2, box.y + (box.height - high) // 2, wide, high)


def note_texts(note: str, box: Box, size: float, line: float, measure: Measure, *, top: bool = False) -> list[Text]:
    """Words in a cell, on white: in its middle, or ``top``: along its upper edge; smaller where they do not fit."""
    def length(text: str) -> float:
        return measure(text, size, False)

    note, ratio = printable(note), line / size
    for size in (share * size for share in (1.0, 0.9, 0.8, 0.7, _LEAST_SHARE)):
        line = size * ratio
        most, room = max(1, min(_NOTE_LINES, int(box.height // line))), box.width - line / 2
        lines = wrapped(note, room, most, length)
        if " ".join(lines) == note:
            break
    # As narrow as it can be with so many lines, so that no word stands alone.
    shares = (room * share / 10 for share in range(4, 11))
    lines = next((narrow for share in shares if len(narrow := wrapped(note, share, most, length))
                  == len(lines) and " ".join(narrow) == " ".join(lines)), lines)
    y = box.y + line / 4 if top else box.y + (box.height - len(lines) * line) / 2
    width = min(max(map(length, lines), default=0) + line / 3, box.width)
    x = box.x + (box.width - width) / 2
    return [Text(text, Box(x, y + number * line, width, line), size, back=(255, 255, 255))
            for number, text in enumerate(lines)]


def name_texts(
    labels: np.ndarray, names: Mapping[int, str], colors: np.ndarray, box: Box, size: float, line: float,
    measure: Measure,
) -> list[Text]:
    """The names of the classes in a label image, each in the middle of its largest part, none over another.

    A name that would hide most of the part stands beside it, and one for which there is no room is left out.
    """
    from scipy.ndimage import distance_transform_edt, label as components

    found: list[Text] = []
    for label, name in names.items():
        inside = np.pad(labels == label, 1)
        y, x = np.unravel_index(distance_transform_edt(inside).argmax(), inside.shape)
        parts, _ = components(inside)
        rows = (parts == parts[y, x]).sum(axis=1)
        text = _clipped(printable(name), box.width - line / 2, lambda part: measure(part, size, False))
        width, (high, wide) = measure(text, size, False) + line / 3, labels.shape
        left = box.x + (x - 0.5) / wide * box.width - width / 2
        left = min(max(left, box.x), box.right - width)
        middle = box.y + (y - 0.5) / high * box.height - line / 2
        above, below = box.y + (rows.nonzero()[0][[0, -1]] - (1, 0)) / high * box.height
        is_small = rows.sum() / (high * wide) * box.width * box.height < 2 * width * line
        beside = [top for top in (above - line, below) if is_small and box.y <= top <= box.bottom - line]
        tops = sorted(np.arange(box.y, box.bottom - line, max(line / 4, 1)), key=lambda top: abs(top - middle))
        places = (Box(left, float(top), width, line)
                  for top in (*beside, min(max(middle, box.y), box.bottom - line), *tops))
        place = next((each for each in places if not any(each.meets(other.box) for other in found)), None)
        if place is not None and text:
            red, green, blue = (int(value) for value in colors[min(label, len(colors) - 1)])
            bright = 0.299 * red + 0.587 * green + 0.114 * blue > 140
            color = (0, 0, 0) if bright else (255, 255, 255)
            found.append(Text(text, place, size, color=color, back=(red, green, blue)))
    return found


def wrapped(text: str, width: float, lines: int, length: Callable[[str], float]) -> list[str]:
    """A text in lines of at most a width, broken between words where that is possible; the last may be cut short.

    Examples
    --------
    >>> wrapped("refined maps of the second network", 12, 2, len)
    ['refined maps', 'of the seco…']
    >>> wrapped("2007_000033", 6, 3, len)
    ['2007_', '000033']
    """
    found: list[str] = []
    rest = [text] if length(text) <= width else _pieces(text)
    while rest and len(found) < lines:
        line = ""
        while rest and length((line + rest[0]).rstrip()) <= width:
            line += rest.pop(0)
        if not line.strip() and rest:
            # Not even one piece fits: as much of it as does.
            count = max(1, _count_fitting(rest[0], width, length))
            line, rest[0] = rest[0][:count], rest[0][count:]
            rest = [part for part in rest if part]
        found.append(line)
    if rest and found:
        found[-1] = _clipped(found[-1] + "".join(rest), width, length)
    return [line.strip() for line in found if line.strip()]


def _lines(widths: Sequence[float], room: float, between: float) -> list[tuple[int, int]]:
    """First and last number, exclusive, of what stands in each line."""
    found, first, used = [], 0, 0.0
    for number, width in enumerate(widths):
        if number > first and used + width > room:
            found.append((first, number))
            first, used = number, 0.0
        used += width + between
    return [*found, (first, len(widths))]


def _pieces(text: str) -> list[str]:
    """Between these a line may end: after spaces and joints, and beside letters that are words of their own."""
    parts = re.findall(r"[^\s_/\-.,]*[\s_/\-.,]+|[^\s_/\-.,]+", text)
    found: list[str] = []
    for part in parts:
        if any(unicodedata.east_asian_width(letter) in "WF" for letter in part):
            found += list(part)
        else:
            found.append(part)
    return found


def _count_fitting(text: str, width: float, length: Callable[[str], float]) -> int:
    """How many of the first letters fit."""
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if length(text[:middle]) <= width else (low, middle - 1)
    return low


def _clipped(text: str, width: float, length: Callable[[str], float]) -> str:
    """The text, or as much of its beginning as fits together with an ellipsis."""
    if length(text) <= width:
        return text
    return text[:_count_fitting(text, max(width - length("…"), 0), length)].rstrip() + "…"
