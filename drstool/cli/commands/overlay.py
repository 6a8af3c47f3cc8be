"""``overlay``: pictures of labels, maps and ground truth over images, figures of them, pages and curves."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, fields
from typing import Annotated, Optional

import typer

from drstool.cli.artifact import Artifact
from drstool.cli.datasets import OptionalTruthOptions
from drstool.cli.figures import FigureOptions, make_figure
from drstool.cli.looks import LookOptions, write_curves, write_gallery
from drstool.cli.options import command
from drstool.cli.run import Run
from drstool.errors import UsageError
from drstool.recipe import FigureSettings, OverlaySettings

OutputOrNone = Annotated[Optional[str], typer.Option(
    "-o", "--output", rich_help_panel="Output",
    help="Folder to write with a picture of each image, its labels and its maps.")]


@dataclass(frozen=True)
class PictureOptions:
    """What is drawn over the images."""

    labels: Annotated[Optional[list[str]], typer.Option(
        "--labels", metavar="[NAME=]PATH", rich_help_panel="Data",
        help="Label PNGs: a folder or a stream; may be repeated.")] = None
    maps: Annotated[Optional[list[str]], typer.Option(
        "--maps", metavar="[NAME=]PATH", rich_help_panel="Data",
        help="Maps, drawn as heat over the image: a map file or stream; may be repeated.")] = None
    target: Annotated[bool, typer.Option("--target/--no-target", help="Draw ground truth where there is some.")] = True


@command(
    "overlay", resume=True, settings=FigureSettings,
    example="drstool overlay --data demo --split val --labels pred -o figures",
)
def overlay(
    run: Run, settings: FigureSettings, given: frozenset[str], data: OptionalTruthOptions, pictures: PictureOptions,
    figure: FigureOptions, look: LookOptions, output: OutputOrNone = None,
) -> None:
    """Write pictures of images with labels, ground truth and maps over them, a figure of several, or a page of all."""
    drawn = {"labels": pictures.labels, "maps": pictures.maps, "data": data.data}
    look.check(run, {"figure": figure.wanted, **(drawn if look.curves else {"output": output})})
    if look.wanted:
        figure.check_unused(given - {"width"} if look.curves else given)
        if look.curves:
            return write_curves(run, look.logs or (), output, settings if "width" in given else None)
        return write_gallery(run, look, data, pictures.labels or (), pictures.maps or (), pictures.target)
    if figure.wanted:
        if output is not None:
            raise UsageError("-o", "does not go together with --figure", "run the command once for each")
        spec = figure.described(settings, given, data, pictures.maps or [], pictures.labels or [])
        make_figure(run, figure, spec, type(data))
        return
    figure.check_unused(given)
    if output is None:
        raise UsageError("overlay", "has nowhere to write", "give -o FOLDER, --figure FILE or --gallery FOLDER")
    _write_pictures(run, settings, data, pictures, output)


def _write_pictures(
    run: Run, settings: FigureSettings, data: OptionalTruthOptions, pictures: PictureOptions, output: str,
) -> None:
    """A folder with a picture of each image, of each label image and of each map."""
    from drstool.formats import open_records
    from drstool.inputs import Pictures
    from drstool.reports.empty_maps import EmptyMaps
    from drstool.stages import overlay as stage

    paths = stage.named_paths(maps=pictures.maps or (), labels=pictures.labels or ())
    if not paths and data.data is None:
        raise UsageError("overlay", "has nothing to draw", "give --data, --labels or --maps")
    run.reserve(output, folder=True)
    with ExitStack() as stack:
        sources = {name: stack.enter_context(open_records(path)) for name, path in paths.items()}
        names = next((source.header.class_names for source in sources.values() if source.header is not None), None)
        data = data.read_as_made(run, {f"the {name}": source for name, source in sources.items()})
        dataset = data.open_with(run, sources.values()) if data.data is not None else None
        chosen = OverlaySettings(**{spec.name: getattr(settings, spec.name) for spec in fields(OverlaySettings)})
        artifact = Artifact(
            run, output, "figures", Pictures(sources, paths, dataset, data.value_range), names or (),
            settings=vars(chosen) | {"target": pictures.target},
            used={"pixel_ground_truth": "drawn" if pictures.target and dataset is not None else False})
        empty = EmptyMaps()
        artifact.write_pictures(stage.overlay(
            dataset, artifact.todo, settings=chosen, class_names=names, value_range=data.value_range, empty=empty,
            targets=pictures.target, done=frozenset(artifact.finished), workers=run.threads, **artifact.work))
    run.notes(empty.lines(names or ()))
    artifact.done("picture")
