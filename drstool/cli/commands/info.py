"""``info``: what a file holds."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from drstool.cli.options import command
from drstool.cli.run import Run
from drstool.errors import UsageError


@command("info", keep_going=False, example="drstool info cams.h5")
def info(
    run: Run,
    artifact: Annotated[
        Optional[str],
        typer.Argument(
            metavar="INPUT", help="Map file, stream, label folder, checkpoint, figure or gallery; by default stdin.",
            show_default=False
        ),
    ] = None,
    json: Annotated[bool, typer.Option(
        "--json", rich_help_panel="Output", help="Print JSON, with the whole history.")] = False,
    show: Annotated[Optional[str], typer.Option(
        "--show", metavar="ID", rich_help_panel="Output", help="Draw the maps or labels of this image: in colour on a "
        "terminal that has some, else in letters.")] = None,
) -> None:
    """Print what a map file, stream, label folder, checkpoint, figure or gallery holds, and how it was made."""
    from drstool.stages import info as stage

    if show is not None:
        return _draw(run, artifact, show, json)
    description = stage.describe(artifact)
    run.write(stage.as_json(description) if json else stage.as_text(description))


def _draw(run: Run, artifact: str | None, show: str, json: bool) -> None:
    from shutil import get_terminal_size

    from drstool.stages import info as stage
    from drstool.figures.colors import heat_colors

    if json:
        raise UsageError("--show", "draws, and --json prints", "omit one of them")
    size = get_terminal_size()
    run.draw(stage.drawn(artifact, show, heat_colors(), min(size.columns, 100), max(size.lines - 4, 8)))
