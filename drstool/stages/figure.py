"""``overlay --figure``: one figure of several images and methods."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from drstool.data.item import Dataset
from drstool.errors import DrstoolError
from drstool.figures import fonts as figure_fonts, render
from drstool.figures.cells import Cell, Painter
from drstool.figures.colors import CROP_COLORS, ERRORS, IGNORED, difference_colors
from drstool.figures.columns import Content, Inputs, Row, read_cell
from drstool.figures.layout import LINE, Bar, Box, Key, Layout, Placer, RowPlan, Text, fitted, name_texts, note_texts
from drstool.figures.spec import Crop, FigureSpec
from drstool.labels import label_names
from drstool.parallel import Track, ordered_map, untracked
from drstool.text import listed

__all__ = ["Figure", "draw_figure", "score_texts"]

_EMPTY = (240, 240, 240)
_MARKER_WIDTH, _DIAGONAL_WIDTH = 1.0, 1.0
_WHITE = (255, 255, 255)
# Names at the objects are smaller than other text.
_NAME_SHARE = 0.85


@dataclass(frozen=True)
class Figure:
    """A figure, and what a user should know about it.

    Attributes
    ----------
    data
        The file's bytes.
    cells
        Number of cells.
    errors
        Of the cells that show nothing.
    notes
        Lines about it.
    layout, texts
        Where everything is.
    """

    data: bytes
    cells: int
    errors: tuple[DrstoolError, ...]
    notes: tuple[str, ...]
    layout: Layout
    texts: tuple[Text, ...]


def draw_figure(
    spec: FigureSpec, inputs: Inputs, dataset: Dataset, format_: str, *,
    scores: Mapping[tuple[str, int], float] | None = None, baseline: int | None = None, caption: str = "",
    history: Sequence[dict] = (), workers: int = 1, track: Track = untracked,
) -> Figure:
    """Draw a figure.

    Parameters
    ----------
    spec
        With the ids of its rows.
    inputs
        The open files of its columns.
    dataset
    format_
        A value of :data:`drstool.figures.render.FORMATS`.
    scores
        By image id and number of the column.
    baseline
        Number of the column to which the others' scores tell the difference.
    caption, history
        See :func:`drstool.figures.render.draw`.
    workers
        Number of threads; the figure does not depend on it.
    track
        Progress display over the rows.

    Raises
    ------
    DrstoolError
        The figure would be too large or too narrow.
    """
    with render.quiet_matplotlib():
        return _Drawing(spec, inputs, dataset, format_, scores or {}, baseline, workers, track).figure(caption, history)


class _Drawing:
    """One figure in the making."""

    def __init__(
        self, spec: FigureSpec, inputs: Inputs, dataset: Dataset, format_: str,
        scores: Mapping[tuple[str, int], float], baseline: int | None, workers: int, track: Track,
    ) -> None:
        self._spec, self._format, self._workers = spec, format_, workers
        self._scores, self._baseline = scores, baseline
        self._point = spec.settings.dpi / 72
        self._names = label_names(inputs.class_names)
        items = {item.id: item for item in dataset.items}
        rows = [Row(identifier, items.get(identifier)) for identifier in spec.ids]
        read = partial(_read_row, spec=spec, inputs=inputs)
        self._contents = list(track(ordered_map(read, rows, workers), "overlay", len(rows)))
        self._painter = self._make_painter(len(inputs.class_names))
        self._outlines: list[render.Outline] = []
        self._texts: list[Text] = []
        self._notes: list[str] = []

    def figure(self, caption: str, history: Sequence[dict]) -> Figure:
        """Draw it."""
        settings = self._spec.settings
        fonts = figure_fonts.Fonts(settings.font, self._all_texts(caption))
        self._measure = lambda text, size, bold: fonts.width(text, size, bold) * self._point
        placer = Placer(self._spec, self._measure)
        layout = placer.grid(self._plans())
        jobs = [*self._cell_jobs(layout), *self._crop_jobs(layout)]
        cells = list(ordered_map(lambda job: self._painted(*job), jobs, self._workers))
        pictures = list(ordered_map(
            lambda pair: render.placed(pair[0], pair[1], self._format),
            [(cell, box) for cell, (_, _, box) in zip(cells, jobs)], self._workers))
        self._decorate(layout, cells, jobs)
        placer.foot(self._keys(cells), self._bars(), caption)
        texts = (*layout.texts, *self._texts)
        data = render.draw(
            layout, pictures, self._outlines, texts, fonts=fonts, dpi=settings.dpi, format_=self._format,
            ignored=settings.ignored_pixels, history=history)
        errors = tuple(each.error for row in self._contents for each in row if each.error is not None)
        return Figure(data, len(layout.cells), errors, (*self._notes, *_letter_notes(fonts)), layout, texts)

    def _all_texts(self, caption: str) -> list[str]:
        """Whatever may be written, so that fonts are found for it."""
        notes = [content.note for row in self._contents for content in row]
        ids = self._spec.ids if self._spec.settings.row_ids else ()
        return [caption, *notes, *self._names, *ids, *(column.title for column in self._spec.columns),
                "0123456789.,+−–×…|()≤≥", *(bar.words for bar in self._bars())]

    def _make_painter(self, class_names: int) -> Painter:
        """The painter, with what all maps have in common."""
        contents = [half for row in self._contents for each in row for half in (each.halves or (each,))]
        heat = [each.highest for each in contents if each.show == "heat"]
        # Of all values, those above the end of the colour bar too.
        self._most = {show: max((float(np.abs(each.values).max(initial=0)) for each in contents
                                 if each.show == show and each.values is not None), default=0.0)
                      for show in ("heat", "difference")}
        self._shared = {"shared": max(heat, default=0.0), "none": 1.0}.get(self._spec.settings.normalize)
        self._has_heat = any(value > 0 for value in heat)
        self._difference = max((each.highest for each in contents if each.show == "difference"), default=0.0)
        return Painter(self._spec.settings, class_names, self._shared, self._difference)

    # --- what is where -------------------------------------------------------------------------

    def _plans(self) -> list[RowPlan]:
        spec, columns, plans = self._spec, range(len(self._spec.columns)), []
        for identifier, contents in zip(spec.ids, self._contents):
            size = next((each.picture.shape[:2] for each in contents
                         if each.picture is not None and each.show != "picture"), None)
            size = size or next((each.picture.shape[:2] for each in contents if each.picture is not None), None)
            scores = [self._scores.get((identifier, column)) for column in columns]
            crops = tuple(crop for crop in spec.crops if crop.id == identifier)
            plans.append(RowPlan(identifier, size, score_texts(scores, self._baseline), crops))
        return plans

    def _cell_jobs(self, layout: Layout) -> Iterator[tuple[Content, tuple[int, int, int, int], Box]]:
        """Of each cell: what it shows, which part of it, and where."""
        for (row, column), cell in layout.cells.items():
            content = self._contents[row][column]
            if content.picture is None:
                yield content, (0, 0, 1, 1), cell
            else:
                region, box = fitted(content.picture.shape[:2], cell, self._spec.settings.fit)
                yield content, region, box

    def _crop_jobs(self, layout: Layout) -> Iterator[tuple[Content, tuple[int, int, int, int], Box]]:
        for (row, place, column), cell in layout.crops.items():
            content, crop = self._contents[row][column], self._crop(row, place)
            if content.picture is None:
                yield content, (0, 0, 1, 1), cell
                continue
            _, box = fitted((crop.height, crop.width), cell, "pad")
            yield content, (crop.x, crop.y, crop.width, crop.height), box

    def _crop(self, row: int, place: int) -> Crop:
        return [crop for crop in self._spec.crops if crop.id == self._spec.ids[row]][place]

    def _painted(self, content: Content, region: tuple[int, int, int, int], box: Box) -> Cell:
        if content.picture is None:
            return Cell(np.full((int(box.height), int(box.width), 3), _EMPTY, np.uint8), note=content.note)
        return self._painter.paint(content.region(*region), region[2] / box.width * self._point)

    # --- what is over the pictures -------------------------------------------------------------

    def _decorate(self, layout: Layout, cells: Sequence[Cell], jobs: Sequence[tuple]) -> None:
        """Notes, names, frames, diagonals, and markers of regions."""
        settings = self._spec.settings
        size, line = settings.font_size, settings.font_size * LINE * self._point
        crops = list(layout.crops)
        for number, (cell, (content, _, box)) in enumerate(zip(cells, jobs)):
            is_crop = number >= len(layout.cells)
            if cell.split:
                self._outlines.append(render.Outline(box, _WHITE, _DIAGONAL_WIDTH, diagonal=True))
            if settings.frame:
                self._outlines.append(render.Outline(box, (0, 0, 0), settings.frame))
            if cell.note and not is_crop:
                self._texts += note_texts(cell.note, box, size, line, self._measure, top=content.picture is not None)
            if settings.legend == "names" and cell.labels is not None and not is_crop:
                names = {label: self._name(label) for label in sorted(cell.classes)}
                smaller = size * _NAME_SHARE, line * _NAME_SHARE
                self._texts += name_texts(cell.labels, names, self._painter.colors, box, *smaller, self._measure)
            if is_crop:
                self._mark(layout, crops[number - len(layout.cells)], box, content)

    def _mark(self, layout: Layout, key: tuple[int, int, int], box: Box, content: Content) -> None:
        """Frame an enlarged region, and mark it in the row's image; the first states its factor."""
        row, place, column = key
        color = CROP_COLORS[place % len(CROP_COLORS)]
        self._outlines.append(render.Outline(box, color, _MARKER_WIDTH))
        columns = self._spec.columns
        if content.picture is None or column != next((n for n, c in enumerate(columns) if c.show == "image"), 0):
            return
        crop, whole = self._crop(row, place), content.picture.shape[:2]
        (x, y, wide, _), image = fitted(whole, layout.cells[row, column], self._spec.settings.fit)
        scale = image.width / wide
        marker = Box(image.x + (crop.x - x) * scale, image.y + (crop.y - y) * scale, crop.width * scale,
                     crop.height * scale)
        left, top = max(marker.x, image.x), max(marker.y, image.y)
        right, bottom = min(marker.right, image.right), min(marker.bottom, image.bottom)
        if right > left and bottom > top:
            self._outlines.append(render.Outline(Box(left, top, right - left, bottom - top), color, _MARKER_WIDTH))
        else:
            self._notes.append(f"--crop {crop}: is not marked in its image: --fit crop cuts that region off")
        text, size = f"×{box.width / crop.width / scale:.1f}", self._spec.settings.font_size
        line = size * LINE * self._point
        length = self._measure(text, size, False) + line / 3
        edge = _MARKER_WIDTH * self._point
        self._texts.append(Text(text, Box(box.x + edge, box.bottom - edge - line, length, line), size, back=_WHITE))

    def _name(self, label: int) -> str:
        return self._names[label] if label < len(self._names) else f"class {label}"

    def _keys(self, cells: Sequence[Cell]) -> list[list[Key]]:
        """Entries of the legend, classes apart from errors: just what is seen."""
        if self._spec.settings.legend == "none":
            return []
        keys: list[Key] = []
        for label in sorted(frozenset().union(*(cell.classes for cell in cells))):
            red, green, blue = self._painter.colors[min(label, len(self._painter.colors) - 1)].tolist()
            keys.append(Key(self._name(label), (red, green, blue)))
        if self._spec.settings.legend == "names":
            keys = []
        errors = frozenset().union(*(cell.errors for cell in cells))
        others = [Key(name, color) for name, color in ERRORS.items() if name in errors]
        ignored = [Key("ignored", IGNORED, hatched=True)] if any(cell.ignored for cell in cells) else []
        return [keys, [*others, *ignored]] if others else [[*keys, *ignored]]

    def _bars(self) -> list[Bar]:
        settings, bars = self._spec.settings, []
        if not settings.colorbar:
            return []
        percentile = f"{_ordinal(settings.percentile)} percentile" if settings.percentile < 100 else "maximum"
        if self._has_heat:
            high = percentile if self._shared is None else _bound("≥ ", self._most["heat"], self._shared)
            shared = "shared by all maps" if percentile == "maximum" else f"the highest {percentile} of the maps"
            words = {"own": "of each map", "shared": f"({shared})", "none": "(as stored)"}[settings.normalize]
            bars.append(Bar(self._painter.heat, "0", high, words))
        if self._difference > 0:
            most, limit = self._most["difference"], self._difference
            low, high = _bound("≤ ", most, limit, "−"), _bound("≥ ", most, limit, "+")
            bars.append(Bar(difference_colors(), low, high, "(difference of maps)"))
        return bars


def score_texts(
    scores: Sequence[float | None], baseline: int | None = None,
) -> tuple[tuple[str, bool] | None, ...]:
    """What stands below the cells of a row, and whether it is the best.

    Parameters
    ----------
    scores
        By column, in [0, 1]; None where there is none, NaN where it is undefined.
    baseline
        The column to which the others tell the difference.

    Examples
    --------
    >>> score_texts([None, 0.25, 0.5], baseline=1)
    (None, ('0.250', False), ('0.500 (+0.250)', True))
    """
    known = [round(score, 3) for score in scores if score is not None and score == score]
    first = scores[baseline] if baseline is not None else None
    found: list[tuple[str, bool] | None] = []
    for column, score in enumerate(scores):
        if score is None:
            found.append(None)
            continue
        text = f"{score:.3f}" if score == score else "–"
        if first is not None and column != baseline and score - first == score - first:
            text += f" ({score - first:+.3f})".replace("-", "−")
        found.append((text, len(known) > 1 and round(score, 3) == max(known)))
    return tuple(found) if any(each is not None for each in found) else ()


def _read_row(row: Row, spec: FigureSpec, inputs: Inputs) -> list[Content]:
    """What the cells of a row show; its regions are within the image."""
    contents = [read_cell(column, row, inputs) for column in spec.columns]
    return [_within(content, spec, row) for content in contents]


def _within(content: Content, spec: FigureSpec, row: Row) -> Content:
    """The content, or why a region to be enlarged is not in it."""
    from drstool.errors import UsageError
    from drstool.pixels import shown_size

    for crop in spec.crops:
        if crop.id == row.id and content.picture is not None:
            height, width = content.picture.shape[:2]
            if crop.x + crop.width > width or crop.y + crop.height > height:
                raise UsageError("--crop", f"'{crop}' leaves the image", f"it has {shown_size((height, width))} pixels")
    return content


def _bound(beyond: str, most: float, limit: float, sign: str = "") -> str:
    """What an end of a colour bar stands for; ``beyond`` goes before it where values go on beyond it."""
    return f"{beyond if most > limit else ''}{sign}{limit:.3g}"


def _ordinal(number: float) -> str:
    """A number as in "90th percentile"."""
    endings: dict[float, str] = {1: "st", 2: "nd", 3: "rd"}
    ending = "th" if number % 100 in (11, 12, 13) else endings.get(number % 10, "th")
    return f"{number:g}{ending}"


def _letter_notes(fonts: figure_fonts.Fonts) -> tuple[str, ...]:
    if not fonts.missing:
        return ()
    return (f"no installed font has the letters {listed(fonts.missing)}: "
            "give one that has them (--font FILE), or install it, such as Noto Sans CJK",)
