"""``cam``: localization maps from a classifier."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Optional

import typer

from drstool.cli.artifact import Artifact
from drstool.cli.datasets import DataOptions
from drstool.cli.options import DTYPES, MapOptions, NetworkOptions, OutputOrStdout, Weights, command
from drstool.cli.parameters import check_choice
from drstool.cli.run import Run, plain
from drstool.recipe import CamSettings


@dataclass(frozen=True)
class Method:
    """Which maps are made of whose tags."""

    tags: Annotated[str, typer.Option(
        "--tags", rich_help_panel="Data",
        help="given: the data's; predicted: by the classifier; or a file of tags.")] = "given"
    tag_threshold: Annotated[float, typer.Option(
        help="Probability from which a predicted tag counts.", min=0.0, max=1.0)] = 0.5
    method: Annotated[Optional[str], typer.Option(
        metavar="drs|cam|grad-cam",
        help="The network's maps as trained, with suppression off, or Grad-CAM. "
        "[default: drs, or cam for a classifier without suppression]")] = None
    layer: Annotated[Optional[int], typer.Option(
        help="Layer of Grad-CAM, counted from 1. [default: the last layer of the backbone]")] = None

    @property
    def threshold(self) -> float | None:
        """Probability from which a tag is predicted; None where tags are given."""
        return self.tag_threshold if self.tags == "predicted" else None

    @property
    def tag_file(self) -> str | None:
        """File of tags, if they come from one."""
        return None if self.tags in ("given", "predicted") else self.tags


@command(
    "cam", resume=True, shards=True, settings=CamSettings,
    example="drstool cam --data demo --split train --weights cls.pt -o cams.h5",
)
def cam(
    run: Run,
    settings: CamSettings,
    data: DataOptions,
    weights: Weights,
    output: OutputOrStdout = None,
    *,
    how: Method,
    maps: MapOptions,
    network: NetworkOptions,
) -> None:
    """Write localization maps of the images' classes."""
    from drstool.checkpoints.checkpoint import load_checkpoint
    from drstool.inputs import Images
    from drstool.stages import cam as stage

    check_choice("--dtype", maps.dtype, DTYPES)
    output = run.claim(output, "maps")
    classifier = load_checkpoint(weights, "classifier")
    settings = settings.for_network(classifier.recipe, classifier.architecture)
    method = how.method or stage.usual_method(classifier)
    layer = stage.usual_layer(classifier) if how.layer is None else how.layer
    # Gradients are too small for float16.
    precision = "float32" if (method, network.precision) == ("grad-cam", "auto") else network.precision
    dataset = data.read_as(run, classifier.recipe.get("range"), weights).open(
        run, tags=how.tag_file, class_names=classifier.class_names, images_only=how.threshold is not None)
    artifact = Artifact(
        run, output, "localization-maps", Images(dataset, run.shard, settings.together), classifier.class_names,
        upstream=classifier.provenance, inputs={"checkpoint": run.digest(weights)}, device=True,
        settings=plain(settings) | {"method": method, "layer": layer, "tag_threshold": how.threshold}
        | asdict(maps) | {"precision": precision},
        used={"tags": dataset.tags_source if how.threshold is None else "predicted", "pixel_ground_truth": False})
    artifact.write_maps(stage.cam(
        artifact.todo, classifier, settings, method=method, layer=layer, predict_tags=how.threshold,
        map_size=maps.map_size, dtype=maps.dtype, execution=network.execution(run, precision), **artifact.work))
    artifact.done("image", before="maps of ")
