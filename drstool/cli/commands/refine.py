"""``refine``: refined maps from a refiner."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING

from drstool.cli.artifact import Artifact
from drstool.cli.datasets import OptionalDataOptions
from drstool.cli.options import (
    DTYPES, Dtype, MapOptions, MapSize, MapsIn, NetworkOptions, OutputOrStdout, Weights, command,
)
from drstool.cli.parameters import check_choice
from drstool.cli.run import Run, plain
from drstool.errors import InputError, UsageError
from drstool.recipe import RefineSettings

if TYPE_CHECKING:
    from drstool.inputs import Images, Records


@dataclass(frozen=True)
class RefinedMapOptions(MapOptions):
    """How refined maps are stored."""

    map_size: MapSize = "image"
    dtype: Dtype = "float16"


@command(
    "refine", resume=True, shards=True, settings=RefineSettings,
    example="drstool refine --data demo --split train --weights refiner.pt -o refined.h5",
)
def refine(
    run: Run,
    settings: RefineSettings,
    weights: Weights,
    maps: MapsIn = None,
    output: OutputOrStdout = None,
    *,
    data: OptionalDataOptions,
    stored: RefinedMapOptions,
    network: NetworkOptions,
) -> None:
    """Write refined maps of the images' classes.

    The images come from --data, or are those that a map file or stream names.
    """
    from drstool.checkpoints.checkpoint import load_checkpoint
    from drstool.stages import refine as stage

    if maps is not None and data.data is not None:
        raise UsageError("refine", "takes images from --data or from maps, not both", "omit one of them")
    check_choice("--dtype", stored.dtype, DTYPES)
    output = run.claim(output, "maps")
    refiner = load_checkpoint(weights, "refiner")
    settings = settings.for_network(refiner.recipe, refiner.architecture)
    data = data.read_as(run, refiner.recipe.get("range"), weights)
    with _images(run, data, maps, refiner.class_names, settings.together) as images:
        artifact = Artifact(
            run, output, "refined-maps", images, refiner.class_names, upstream=refiner.provenance, device=True,
            settings=plain(settings) | asdict(stored) | {"precision": network.precision},
            inputs={"checkpoint": run.digest(weights)}, used={"pixel_ground_truth": False})
        artifact.write_maps(stage.refine(
            artifact.todo, refiner, settings, map_size=stored.map_size, dtype=stored.dtype,
            execution=network.execution(run), **artifact.work))
    artifact.done("image", before="maps of ")


@contextmanager
def _images(
    run: Run, data: OptionalDataOptions, maps: str | None, class_names: tuple[str, ...], unit: int,
) -> Iterator[Images | Records]:
    """The images to refine: of a dataset, or those that maps name."""
    from drstool.formats import open_records
    from drstool.inputs import Images, Records
    from drstool.stages.refine import items_of_maps

    if data.data is not None:
        yield Images(data.open(run, class_names=class_names), run.shard, unit)
        return
    with open_records(maps) as source:
        if not source.is_maps:
            raise InputError(source.where, f"holds {source.kind}", "expected maps, which name their images; or --data")
        assert source.header is not None
        if source.header.class_names != class_names:
            raise InputError(
                source.where, "its classes are not the refiner's", "use a refiner trained on the same classes")
        yield Records(
            source, maps, run.shard, unit, resume=run.resume, value_range=data.value_range,
            convert=partial(items_of_maps, class_names=class_names, value_range=data.value_range))
