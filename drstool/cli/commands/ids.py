"""``ids``: the images of a dataset, one a line."""

from __future__ import annotations

from drstool.cli.datasets import TagOptions
from drstool.cli.options import command
from drstool.cli.run import Run


@command("ids", keep_going=False, example="drstool ids --data demo --split train | head -n 3")
def ids(run: Run, data: TagOptions) -> None:
    """Print a dataset's images and tags, one JSON object a line: a manifest."""
    from drstool.stages import ids as stage

    for line in stage.ids(data.open(run, decodes=False)):
        run.write(line + "\n")
