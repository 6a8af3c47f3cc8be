"""``refine-train``: a refinement network from images and localization maps."""

from __future__ import annotations

from typing import Annotated

import typer

from drstool.cli.datasets import TruthOptions
from drstool.cli.options import Output, command
from drstool.cli.run import Run
from drstool.cli.training import MapTrainingOptions, TrainingData, TrainingRun
from drstool.recipe import RefinerRecipe


@command(
    "refine-train",
    keep_going=False,
    resume=True,
    joint=True,
    settings=RefinerRecipe,
    example="drstool refine-train --data demo --split train --maps cams.h5 --backbone vgg16-small --init cls.pt "
    "--image-size 176 -o refiner.pt",
)
def refine_train(
    run: Run,
    settings: RefinerRecipe,
    automatic: frozenset[str],
    data: TruthOptions,
    maps: Annotated[str, typer.Option(
        "--maps", rich_help_panel="Data", help="Map file with localization maps of the images.", show_default=False)],
    output: Output,
    *,
    options: MapTrainingOptions,
) -> None:
    """Train a refinement network that regresses localization maps."""
    from drstool.data.value_range import recorded_range
    from drstool.formats.map_file import MapFileReader
    from drstool.stages.refine_train import refine_train as stage

    training = TrainingRun(run, output, settings, options, bool(automatic))
    with MapFileReader(maps) as reader:
        header = reader.header
    data = data.read_as(run, recorded_range(header.provenance), maps)
    dataset = data.for_training(options.select_on).open(run, class_names=header.class_names)
    learned = TrainingData(
        data, dataset, header.class_names, digests={"maps": lambda: run.digest(maps)}, upstream=header.provenance)
    training.train(learned, lambda recipe, **how: stage(dataset, header.class_names, maps, recipe, **how))
