"""``overlay --curves``: a figure of training logs and sweeps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from drstool.artifacts.atomic import new_file
from drstool.figures.curves import draw_curves, read_curves
from drstool.figures.render import check_format

__all__ = ["write_curves"]


def write_curves(paths: Sequence[str], output: str, overwrite: bool = False) -> int:
    """Draw the curves of files into one figure; the number of curves.

    Parameters
    ----------
    paths
        Training logs, and scores of sweeps.
    output
        Its ending says the format.
    overwrite
        Replace a figure.

    Raises
    ------
    InputError
        A file is neither.
    OutputError, UsageError
        The output exists, cannot be written, or does not end like a figure.
    """
    format_ = check_format(output, "-o")
    stems = Counter(Path(path).stem for path in paths)
    files = {(Path(path).stem if stems[Path(path).stem] == 1 else path): read_curves(path) for path in paths}
    figure = draw_curves(files, format_)
    with new_file(output, overwrite) as partial:
        partial.write_bytes(figure)
    return sum(map(len, files.values()))
