"""``overlay``: pictures of labels, maps and ground truth over their images."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Annotated, Optional

import typer

from drstool.cli.artifact import Artifact
from drstool.cli.datasets import OptionalDataOptions
from drstool.cli.options import LabelsOrNone, Output, command
from drstool.cli.run import Run, plain
from drstool.errors import UsageError
from drstool.recipe import OverlaySettings


@command(
    "overlay", resume=True, settings=OverlaySettings,
    example="drstool overlay --data demo --split val --labels pred -o figures",
)
def overlay(
    run: Run,
    settings: OverlaySettings,
    output: Output,
    data: OptionalDataOptions,
    labels: LabelsOrNone = None,
    maps: Annotated[Optional[str], typer.Option(
        "--maps", rich_help_panel="Data", help="Maps, drawn as heat over the image: a map file or stream.")] = None,
    target: Annotated[bool, typer.Option("--target/--no-target", help="Draw ground truth where there is some.")] = True,
) -> None:
    """Write pictures of images with labels, ground truth and maps over them."""
    from drstool.formats import open_records
    from drstool.inputs import Pictures
    from drstool.stages import overlay as stage

    paths = {name: path for name, path in (("labels", labels), ("maps", maps)) if path is not None}
    if not paths and data.data is None:
        raise UsageError("overlay", "has nothing to draw", "give --data, --labels or --maps")
    run.reserve(output, folder=True)
    with ExitStack() as stack:
        sources = {name: stack.enter_context(open_records(path)) for name, path in paths.items()}
        names = next((source.header.class_names for source in sources.values() if source.header is not None), None)
        dataset = data.open(run, class_names=names or None) if data.data is not None else None
        artifact = Artifact(
            run, output, "figures", Pictures(sources, paths, dataset), names or (),
            settings=plain(settings) | {"target": target},
            used={"pixel_ground_truth": "drawn" if target and dataset is not None else False})
        artifact.write_pictures(stage.overlay(
            dataset, artifact.todo, settings=settings, class_names=names, targets=target,
            done=frozenset(artifact.finished), workers=run.threads, **artifact.work))
    artifact.done("picture")
