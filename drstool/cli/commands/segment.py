"""``segment``: label PNGs from a segmenter."""

from __future__ import annotations

import os
from typing import Annotated, Optional

import typer

from drstool.cli.artifact import Artifact
from drstool.cli.datasets import DataOptions
from drstool.cli.options import OutputOrStdout, PrecisionOptions, Weights, command
from drstool.cli.run import Run, plain, plain_crf
from drstool.errors import UsageError
from drstool.recipe import CrfSettings, SegmentSettings


@command(
    "segment", resume=True, shards=True, settings=SegmentSettings, crf="none",
    example="drstool segment --data demo --split val --weights seg.pt -o pred",
)
def segment(
    run: Run,
    settings: SegmentSettings,
    crf: CrfSettings | None,
    data: DataOptions,
    weights: Weights,
    output: OutputOrStdout = None,
    scores: Annotated[Optional[str], typer.Option(
        "--scores", rich_help_panel="Output", help="Also write the probabilities, as a map file.")] = None,
    *,
    network: PrecisionOptions,
) -> None:
    """Write label PNGs from a segmentation network."""
    from drstool.checkpoints.checkpoint import load_checkpoint
    from drstool.inputs import Images
    from drstool.stages import segment as stage

    if scores is not None:
        _check_apart(run.shard.output(output), run.shard.output(scores))
        scores = run.claim(scores, "maps")
    output = run.claim(output, "labels")
    segmenter = load_checkpoint(weights, "segmenter")
    dataset = data.read_as(run, segmenter.recipe.get("range"), weights).open(
        run, class_names=segmenter.class_names, images_only=True)
    artifact = Artifact(
        run, output, "labels", Images(dataset, run.shard), segmenter.class_names, upstream=segmenter.provenance,
        scores=scores, settings=plain(settings) | {"precision": network.precision} | plain_crf(crf), device=True,
        inputs={"checkpoint": run.digest(weights)}, used={"pixel_ground_truth": False})
    artifact.write_pairs(stage.segment(
        artifact.todo, segmenter, settings, scores=artifact.scores is not None, crf=crf,
        execution=network.execution(run), **artifact.work))
    artifact.done("label image")


def _check_apart(labels: str | None, scores: str | None) -> None:
    """Check that labels and scores do not go to one place."""
    names = [os.path.realpath("/dev/stdout" if name in (None, "-") else name) for name in (labels, scores)]
    if names[0] == names[1] or names[1].startswith(names[0] + os.sep):
        raise UsageError(
            "--scores", f"would go where the labels go, {labels or 'stdout'}", "give both -o and --scores a name")
