"""Pictures and bars made of characters, for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from drstool.formats.records import MapRecord, Record
from drstool.labels import BACKGROUND, channel_of, colorize, ignore_label, label_names, label_type

__all__ = ["BLOCKS", "Drawing", "bar", "drawings"]

# From one to eight eighths of a character's width.
BLOCKS = " ▏▎▍▌▋▊▉█"
# Map values from 0 to 1 in a plain terminal, and labels: background first, then the objects, again and again.
_SHADES = " .:-=+*#%@"
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_GROUND, _IGNORED = ".", "?"


def bar(value: float, width: int = 10) -> str:
    """A bar as long as a value in [0, 1], in eighths of a character; of spaces for NaN.

    Examples
    --------
    >>> bar(0.5, 4), bar(0.3, 4), bar(float("nan"), 4)
    ('██  ', '█▎  ', '    ')
    """
    eighths = 0 if np.isnan(value) else int(8 * width * min(max(value, 0.0), 1.0) + 0.5)
    full, rest = divmod(eighths, 8)
    return (BLOCKS[8] * full + (BLOCKS[rest] if rest else "")).ljust(width)


@dataclass(frozen=True, eq=False)
class Drawing:
    """A picture for a terminal.

    Attributes
    ----------
    title
    colors : (2 R, W, 3) uint8
        Two pixels for each of R rows of characters, one above the other.
    letters : R texts
        The same without colours.
    legend
        Of each label in it: name, colour and letter.
    """

    title: str
    colors: np.ndarray
    letters: tuple[str, ...]
    legend: tuple[tuple[str, tuple[int, ...], str], ...] = ()


def drawings(record: Record, class_names: Sequence[str], heat: np.ndarray, columns: int, rows: int) -> list[Drawing]:
    """Pictures of a label image, or of each map.

    Parameters
    ----------
    record
    class_names
        The C object classes; without, their numbers stand for them.
    heat : (256, 3) uint8
        Colours of map values.
    columns, rows
        Characters for which there is room.
    """
    if isinstance(record, MapRecord):
        values = np.clip(np.nan_to_num(record.as_float()), 0, 1)
        return [_of_map(each, _name(label, class_names), record.image_size, heat, columns, rows)
                for each, label in zip(values, record.labels)]
    labels = _sampled(record.labels, record.labels.shape, columns, rows)
    ignore = ignore_label(labels.dtype)
    found = [int(label) for label in np.unique(labels)]
    signs = {label: _sign(label, ignore) for label in found}
    legend = tuple(
        (_name(label, class_names, ignore), tuple(colorize(np.array([[label]], labels.dtype))[0, 0].tolist()),
         signs[label]) for label in found)
    letters = tuple("".join(signs[int(label)] for label in line) for line in labels[::2])
    return [Drawing(record.id, colorize(labels), letters, legend)]


def _of_map(
    values: np.ndarray, name: str, size: tuple[int, int], heat: np.ndarray, columns: int, rows: int,
) -> Drawing:
    few = _sampled(values, size, columns, rows)
    shades = np.rint(few[::2] * (len(_SHADES) - 1)).astype(int)
    title = f"{name}, from {values.min():.2f} to {values.max():.2f}"
    letters = tuple("".join(_SHADES[shade] for shade in line) for line in shades)
    return Drawing(title, heat[np.rint(few * 255).astype(np.uint8)], letters)


def _sampled(values: np.ndarray, size: tuple[int, ...], columns: int, rows: int) -> np.ndarray:
    """Values in the middles of the half characters; (2 R, W), of the image's aspect, as each is about square."""
    height, width = size
    scale = min(columns / width, 2 * rows / height)
    shape = 2 * max(1, round(height * scale / 2)), max(1, round(width * scale))
    places = [(np.arange(new) * 2 + 1) * old // (2 * new) for old, new in zip(values.shape, shape)]
    return values[np.ix_(*places)]


def _sign(label: int, ignore: int) -> str:
    if label in (BACKGROUND, ignore):
        return _GROUND if label == BACKGROUND else _IGNORED
    return _LETTERS[channel_of(label) % len(_LETTERS)]


def _name(label: int, class_names: Sequence[str], ignore: int | None = None) -> str:
    if ignore is None:
        ignore = ignore_label(label_type(len(class_names)))
    if label == ignore:
        return "ignored"
    names = label_names(class_names)
    return names[label] if label < len(names) else f"class {label}"
