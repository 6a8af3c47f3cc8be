"""``saliency``: saliency maps from images alone."""

from __future__ import annotations

from typing import Annotated

import typer

from drstool.cli.artifact import Artifact
from drstool.cli.datasets import DataOptions
from drstool.cli.options import OutputOrStdout, command
from drstool.cli.run import Run


@command(
    "saliency", resume=True, shards=True, example="drstool saliency --data demo --split train -o saliency_map",
)
def saliency(
    run: Run,
    data: DataOptions,
    output: OutputOrStdout = None,
    method: Annotated[
        str,
        typer.Option(
            metavar="mbd|rbd",
            help="Minimum barrier distance (better on photographs), or robust background detection.",
        ),
    ] = "mbd",
) -> None:
    """Write saliency maps of images, by a published method that needs no training."""
    from drstool.formats import LabelRecord
    from drstool.inputs import Images
    from drstool.stages import saliency as stage

    output = run.claim(output, "labels")
    artifact = Artifact(
        run, output, "saliency", Images(data.open(run), run.shard), settings={"method": method},
        used={"pixel_ground_truth": False})
    maps = stage.saliency(artifact.todo, method=method, workers=run.threads, **artifact.work)
    artifact.write(LabelRecord(identifier, values) for identifier, values in maps)
    artifact.done("saliency map")
