"""Fonts of figures: how wide a text is, and which installed fonts have its letters."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from functools import cache
from typing import Any

from drstool.errors import UsageError
from drstool.files import is_file

__all__ = ["Fonts"]

# matplotlib has a font whose every letter is a box.
_NO_FONT = "Last Resort"


class Fonts:
    """The font of a figure, and others for letters that it lacks.

    Parameters
    ----------
    font
        Name of an installed font, or a file.
    texts
        All that is to be written.

    Attributes
    ----------
    families
        Names of fonts, each for the letters that those before it lack.
    missing
        Letters that no installed font has.

    Raises
    ------
    UsageError
        There is no such font.
    """

    def __init__(self, font: str, texts: Iterable[str]) -> None:
        from matplotlib.font_manager import FontProperties, findfont, fontManager

        if is_file(font):
            try:
                fontManager.addfont(font)
            except (RuntimeError, OSError) as error:
                raise UsageError(
                    "--font", f"{font} is not a font: {error}", "give a TrueType or OpenType file") from error
            font = FontProperties(fname=font).get_name()
        try:
            path = findfont(font, fallback_to_default=False)
        except ValueError as error:
            raise UsageError("--font", f"{font!r} is not installed", "give the file of a font, or omit it") from error
        needed = {ord(letter) for text in texts for letter in text if _is_drawn(letter)}
        self.families, needed = [font], needed - _letters(path)
        while needed and (best := _best_font(needed)) is not None:
            self.families.append(best[0])
            needed -= _letters(best[1])
        self.missing = "".join(map(chr, sorted(needed)))

    def width(self, text: str, size: float, bold: bool) -> float:
        """Width of a text of a size in points, in points."""
        from matplotlib.textpath import text_to_path

        return text_to_path.get_text_width_height_descent(text, self.properties(size, bold), ismath=False)[0]

    def properties(self, size: float, bold: bool) -> Any:
        """matplotlib's description of the font."""
        return _properties(tuple(self.families), size, bold)


@cache
def _properties(families: tuple[str, ...], size: float, bold: bool) -> Any:
    from matplotlib.font_manager import FontProperties

    return FontProperties(family=list(families), size=size, weight="bold" if bold else "normal")


def _is_drawn(letter: str) -> bool:
    """Whether a letter needs something in a font; spaces and marks of direction do not."""
    return unicodedata.category(letter) not in ("Zs", "Cf", "Cc")


@cache
def _letters(path: str) -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(path).get_charmap())
    except RuntimeError:  # Not a font after all.
        return frozenset()


def _best_font(needed: set[int]) -> tuple[str, str] | None:
    """Name and file of the installed font with most of the letters; of equal ones, the first by name."""
    from matplotlib.font_manager import fontManager

    plain = sorted(
        {(entry.name, entry.fname) for entry in fontManager.ttflist
         if entry.style == "normal" and str(entry.weight) in ("400", "normal", "regular")
         and _NO_FONT not in entry.name})
    best = max(plain, key=lambda each: len(needed & _letters(each[1])), default=None)
    return best if best is not None and needed & _letters(best[1]) else None
