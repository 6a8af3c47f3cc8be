"""``ids``: the images of a dataset, one a line."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from drstool.cli.datasets import TagOptions
from drstool.cli.options import command
from drstool.cli.run import Run


@command("ids", keep_going=False, example="drstool ids --data demo --split train | head -n 3")
def ids(
    run: Run,
    data: TagOptions,
    without: Annotated[Optional[list[str]], typer.Option(
        "--except", metavar="LIST", help="Leave out the images of this list of ids. May be given several times.",
        show_default=False)] = None,
    summary: Annotated[bool, typer.Option(
        "--summary", help="Print a table of the classes and their numbers of images instead.")] = False,
) -> None:
    """Print a dataset's images and tags, one JSON object a line: a manifest."""
    from drstool.reports import classes
    from drstool.stages import ids as stage

    dataset = stage.without(data.open(run, decodes=False), without or ())
    counts, _, unknown = classes.tag_counts(dataset)
    if summary:
        run.notes(classes.warnings_of_absent(counts, "no image") if unknown < len(dataset) else ())
        run.write(classes.summary_table(dataset))
        return
    for line in stage.ids(dataset):
        run.write(line + "\n")
