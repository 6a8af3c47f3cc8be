"""Curves of training logs and of sweeps: what is in the files, and the figure of them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drstool.errors import InputError, UsageError
from drstool.figures.render import file_of, quiet_matplotlib
from drstool.files import read_bytes
from drstool.reports.text import counted, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Curve", "draw_curves", "read_curves"]

# Colours that differ in lightness too, after Okabe and Ito; with line styles and markers they are told apart in grey.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#000000", "#cc79a7", "#e69f00", "#56b4e9")
_LINES = ("-", "--", "-.", (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5, 1, 1.5)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_MARKED = 8
# A panel's width and height, in inches, and the height of a line of the legend.
_PANEL, _LEGEND_LINE = (3.0, 2.3), 0.17
_DPI = 300
# Panels beside each other, and letters of a name for which a legend has room under one of them.
_COLUMNS, _LEGEND_LETTERS = 3, 32
# Names of an epoch's numbers, in what they are and of which images.
_METRICS = {"map": ("mAP", "training images"), "val_map": ("mAP", "other images (--val-split)"),
            "mean_iou": ("mean IoU", "other images (--select-on)")}
_EXPECTED = "give files of a training's --log, or of eval --sweep --json"


@dataclass(frozen=True)
class Curve:
    """One curve of a file.

    Attributes
    ----------
    panel
        What its values are, and what they depend on: names of the two axes.
    points
        ``(x, y)``, ascending.
    role
        What distinguishes it from the file's other curves in the panel; empty for the main one.
    """

    panel: tuple[str, str]
    points: tuple[tuple[float, float], ...]
    role: str = ""


def read_curves(path: str) -> list[Curve]:
    """The curves of a training log or of the scores of a sweep.

    Raises
    ------
    InputError
        It is neither, damaged, or has no point yet.
    """
    lines = [line for line in read_bytes(Path(path)).split(b"\n") if line.strip()]
    try:
        start = json.loads(lines[0]) if len(lines) == 1 or lines[:1] and b'"training-log"' in lines[0] else json.loads(
            b"\n".join(lines))
        is_log = isinstance(start, dict) and start.get("kind") == "training-log"
        # The last line of a training that runs may be cut short.
        events = [start, *map(json.loads, lines[1:-1]), *_last(lines[1:])] if is_log else []
        curves = _of_log(events) if is_log else _of_sweep(start)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        raise InputError(path, "is neither a training log nor the scores of a sweep", _EXPECTED) from None
    curves = [curve for curve in curves if curve.points]
    if not curves:
        raise InputError(path, "has no step or score to draw", _EXPECTED)
    return curves


def _last(lines: Sequence[bytes]) -> list[Any]:
    try:
        return [json.loads(lines[-1])]
    except (ValueError, IndexError):
        return []


def _points(pairs: Sequence[tuple[Any, Any]]) -> tuple[tuple[float, float], ...]:
    """Pairs of numbers, without those whose second is missing or infinite."""
    numbers = [(float(x), float(y)) for x, y in pairs if y is not None]
    return tuple((x, y) for x, y in numbers if math.isfinite(x) and math.isfinite(y))


def _of_log(events: Sequence[Mapping[str, Any]]) -> list[Curve]:
    """Loss and baseline by step, those of the epochs if there are a few; and the scores of epochs."""
    epochs = [line for line in events if line["event"] == "epoch"]
    steps = [line for line in events if line["event"] == "step"]
    told = epochs if len(epochs) > 2 else steps
    curves = [Curve(("loss", "step"), _points([(line["step"], line["loss"]) for line in told]))]
    found = [(line["step"], line.get("baseline")) for line in epochs]
    curves.append(Curve(("loss", "step"), _points(found), "baseline"))
    for key, (name, role) in _METRICS.items():
        curves.append(Curve((name, "step"), _points([(line["step"], line.get(key)) for line in epochs]), role))
    return curves


def _of_sweep(scores: Mapping[str, Any]) -> list[Curve]:
    best, name = scores["best"], str(scores["sweep"])
    # Of a sweep of two numbers, the curve through the best pair.
    threshold = best.get("saliency_threshold")
    rows = [row for row in scores["rows"] if row.get("saliency_threshold") == threshold]
    points = _points([(row["value"], row["mean_iou"]) for row in rows])
    panel = ("mean IoU", name if threshold is None else f"{name.partition(',')[0]} (saliency threshold {threshold})")
    return [Curve(panel, points), Curve(panel, _points([(best["value"], best["mean_iou"])]), "best")]


def draw_curves(files: Mapping[str, Sequence[Curve]], format_: str, width: float | None = None) -> bytes:
    """The file of a figure with the curves of files, by the name of each, and a panel for what has the same axes.

    Parameters
    ----------
    files
    format_
        A value of :data:`drstool.figures.render.FORMATS`.
    width
        In inches; None: as many as the panels take.

    Raises
    ------
    UsageError
        It leaves less than an inch for a panel.
    """
    panels = list(dict.fromkeys(curve.panel for curves in files.values() for curve in curves))
    roles = list(dict.fromkeys(curve.role for curves in files.values() for curve in curves if curve.role))
    columns = min(len(panels), _COLUMNS)
    rows = -(-len(panels) // columns)
    width = width or _PANEL[0] * columns
    if width < columns:
        raise UsageError("--width", f"is too narrow for {counted(columns, 'panel')}", "give an inch (25.4mm) for each")
    beside = columns if max(map(len, (*files, *roles))) <= _LEGEND_LETTERS * width / (columns * _PANEL[0]) else 1
    with quiet_matplotlib():
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        matplotlib.rcParams.update({
            "font.size": 8, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25,
            "grid.linewidth": 0.5, "lines.linewidth": 1.3, "lines.markersize": 4})
        height = _PANEL[1] * rows + _LEGEND_LINE * -(-(len(files) + len(roles)) // beside)
        figure = Figure(dpi=_DPI, figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        axes = dict(zip(panels, figure.subplots(rows, columns, squeeze=False).flat))
        for spare in list(figure.axes)[len(panels):]:
            spare.remove()
        for number, curves in enumerate(files.values()):
            for curve in curves:
                _plot(axes[curve.panel], curve, number)
        for (y, x), axis in axes.items():
            axis.set(xlabel=x, ylabel=y)
            if x == "step":
                axis.xaxis.get_major_locator().set_params(integer=True)
        _add_legend(figure, list(files), roles, beside)
        return file_of(figure, format_, _DPI)


def _style(number: int) -> dict[str, Any]:
    color, line, marker = (choices[number % len(choices)] for choices in (_COLORS, _LINES, _MARKERS))
    return {"color": color, "linestyle": line, "marker": marker}


def _role_style(role: str) -> dict[str, Any]:
    """How a file's other curves differ from its main one."""
    if role == "baseline":
        return {"linestyle": ":", "marker": "", "linewidth": 0.9}
    if role == "best":
        return {"linestyle": "", "markersize": 8, "markerfacecolor": "none", "markeredgewidth": 1.2}
    return {} if role in ("", "training images") else {"markerfacecolor": "white"}


def _plot(axis: Axes, curve: Curve, number: int) -> None:
    style = _style(number) | _role_style(curve.role)
    every = max(1, len(curve.points) // _MARKED)
    # Markers of different files lie beside each other.
    start = number * every // 3 % every
    axis.plot(*zip(*curve.points), **style, markevery=(start, every))


def _add_legend(figure: Figure, names: Sequence[str], roles: Sequence[str], columns: int) -> None:
    """A legend below: a line for each file, and in grey what is drawn in another way."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], **_style(number), label=printable(name)) for number, name in enumerate(names)]
    handles += [
        Line2D([], [], **({"color": "#777777", "marker": "o", "linestyle": "-"} | _role_style(role)), label=role)
        for role in roles]
    figure.legend(handles=handles, loc="outside lower left", frameon=False, handlelength=3.5, ncols=columns)
