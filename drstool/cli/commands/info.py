"""``info``: what a file holds."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from drstool.cli.options import command
from drstool.cli.run import Run


@command("info", keep_going=False, example="drstool info cams.h5")
def info(
    run: Run,
    artifact: Annotated[
        Optional[str],
        typer.Argument(
            metavar="INPUT", help="Map file, stream, label folder or checkpoint; by default stdin.", show_default=False
        ),
    ] = None,
    json: Annotated[bool, typer.Option(
        "--json", rich_help_panel="Output", help="Print JSON, with the whole history.")] = False,
) -> None:
    """Print what a map file, stream, label folder or checkpoint holds."""
    from drstool.stages import info as stage

    description = stage.describe(artifact)
    run.write(stage.as_json(description) if json else stage.as_text(description))
