"""``overlay --curves``: a figure of training logs and sweeps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from drstool.artifacts.atomic import new_file
from drstool.errors import UsageError
from drstool.figures.curves import draw_curves, read_curves
from drstool.figures.render import check_format
from drstool.files import is_file

__all__ = ["write_curves"]


def write_curves(files: Sequence[str], output: str, overwrite: bool = False, width: float | None = None) -> int:
    """Draw the curves of files into one figure; the number of curves.

    Parameters
    ----------
    files
        Training logs, and scores of sweeps, each perhaps as ``TITLE=PATH``.
    output
        Its ending says the format.
    overwrite
        Replace a figure.
    width
        Of the figure, in inches; None: by the number of its panels.

    Raises
    ------
    InputError
        A file is neither.
    OutputError, UsageError
        The output exists, cannot be written, or does not end like a figure, or two files have the same title.
    """
    format_ = check_format(output, "-o")
    titles = [("", text) if is_file(text) or "=" not in text else text.partition("=")[::2] for text in files]
    stems = Counter(title or Path(path).stem for title, path in titles)
    names = [title or (Path(path).stem if stems[Path(path).stem] == 1 else path) for title, path in titles]
    if len(set(names)) < len(names):
        raise UsageError("--curves", "two files have the same title", "give each its own as TITLE=PATH")
    curves = {name: read_curves(path) for name, (_, path) in zip(names, titles)}
    figure = draw_curves(curves, format_, width)
    with new_file(output, overwrite) as partial:
        partial.write_bytes(figure)
    return sum(map(len, curves.values()))
