"""``overlay``: pictures of labels, maps and ground truth over their images."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from drstool.cli.artifact import Artifact
from drstool.cli.datasets import OptionalTruthOptions
from drstool.cli.options import LabelsOrNone, Output, command
from drstool.cli.run import Run, plain
from drstool.errors import UsageError
from drstool.recipe import OverlaySettings

if TYPE_CHECKING:
    from drstool.formats import RecordSource


@command(
    "overlay", resume=True, settings=OverlaySettings,
    example="drstool overlay --data demo --split val --labels pred -o figures",
)
def overlay(
    run: Run,
    settings: OverlaySettings,
    output: Output,
    data: OptionalTruthOptions,
    labels: LabelsOrNone = None,
    maps: Annotated[Optional[str], typer.Option(
        "--maps", help="Maps, drawn as heat over the image: a map file or stream.")] = None,
    target: Annotated[bool, typer.Option("--target/--no-target", help="Draw ground truth where there is some.")] = True,
) -> None:
    """Write pictures of images with labels, ground truth and maps over them."""
    from drstool.formats import open_records
    from drstool.inputs import Pictures
    from drstool.reports.empty_maps import EmptyMaps
    from drstool.stages import overlay as stage

    paths = {name: path for name, path in (("labels", labels), ("maps", maps)) if path is not None}
    if not paths and data.data is None:
        raise UsageError("overlay", "has nothing to draw", "give --data, --labels or --maps")
    run.reserve(output, folder=True)
    with ExitStack() as stack:
        sources = {name: stack.enter_context(open_records(path)) for name, path in paths.items()}
        names = next((source.header.class_names for source in sources.values() if source.header is not None), None)
        data = _read_as(run, data, sources)
        dataset = data.open(run, class_names=names or None) if data.data is not None else None
        artifact = Artifact(
            run, output, "figures", Pictures(sources, paths, dataset, data.value_range), names or (),
            settings=plain(settings) | {"target": target},
            used={"pixel_ground_truth": "drawn" if target and dataset is not None else False})
        empty = EmptyMaps()
        records = None if artifact.todo is None else empty.counted(artifact.todo)
        artifact.write_pictures(stage.overlay(
            dataset, records, settings=settings, class_names=names, value_range=data.value_range, targets=target,
            done=frozenset(artifact.finished), workers=run.threads, **artifact.work))
    run.notes(empty.lines(names or ()))
    artifact.done("picture")


def _read_as(run: Run, data: OptionalTruthOptions, sources: Mapping[str, RecordSource]) -> OptionalTruthOptions:
    """The images, read as those that the maps or labels were made of."""
    from drstool.data.value_range import recorded_range

    for name, source in sources.items():
        if source.header is not None and source.header.provenance:
            return data.read_as(run, recorded_range(source.header.provenance), f"the {name}")
    return data
