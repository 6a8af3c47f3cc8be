"""``ids``: the images of a dataset, one a line."""

from __future__ import annotations

from drstool.cli.options import Classes, Data, Split, Tags, command
from drstool.cli.run import Run


@command("ids", keep_going=False, example="drstool ids --data demo --split train | head -n 3")
def ids(run: Run, data: Data, split: Split = None, tags: Tags = None, classes: Classes = None) -> None:
    """Print a dataset's images and tags, one JSON object a line: a manifest."""
    from drstool.data import open_dataset
    from drstool.stages import ids as stage

    dataset = open_dataset(data, split, tags=tags, classes=classes)
    for line in stage.ids(dataset):
        run.write(line + "\n")
