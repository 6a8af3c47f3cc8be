"""matplotlib, which only figures need: an optional extra, used so that the same figure gives the same bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from drstool.errors import DrstoolError, UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FORMATS", "drawing", "figure_format", "save"]

FORMATS = ("pdf", "svg", "png")
# What says when and by which release a file was made.
_METADATA = {
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None}, "svg": {"Date": None, "Creator": None},
    "png": {"Software": None}}


def figure_format(output: str) -> str:
    """The format of a figure, by the ending of its name.

    Raises
    ------
    UsageError
        It is none.

    Examples
    --------
    >>> figure_format("curves.PDF")
    'pdf'
    """
    ending = Path(output).suffix.lower().removeprefix(".")
    if ending not in FORMATS:
        raise UsageError("-o", f"{output!r} does not end like a figure", "give a name that ends in .pdf, .svg or .png")
    return ending


@contextmanager
def drawing() -> Iterator[ModuleType]:
    """matplotlib, in the block with its own defaults in place of the user's, and text that stays text.

    Raises
    ------
    DrstoolError
        It is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise DrstoolError(
            "matplotlib", "is not installed", "install it with: pip install 'drstool[figures]'") from None
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({"pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "drstool"})
        yield matplotlib


def save(figure: Figure, path: Path, ending: str, dpi: int = 300) -> None:
    """Write a figure; the same one gives the same bytes.

    Parameters
    ----------
    figure
    path
    ending
        One of ``FORMATS``.
    dpi
        Of pixels, where there are any.
    """
    figure.savefig(path, format=ending, dpi=dpi, metadata=_METADATA[ending])
