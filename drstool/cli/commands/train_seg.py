"""``train-seg``: a segmentation network from images and labels."""

from __future__ import annotations

from drstool.cli.datasets import ClassOptions
from drstool.cli.options import Labels, Output, command
from drstool.cli.run import Run
from drstool.cli.training import TrainingData, TrainingOptions, TrainingRun, named_classes
from drstool.recipe import SegmenterRecipe


@command(
    "train-seg",
    keep_going=False,
    resume=True,
    joint=True,
    settings=SegmenterRecipe,
    example="drstool train-seg --data demo --split train --labels labels --backbone vgg16-small --init refiner.pt "
    "--image-size 176 --epochs 5 -o seg.pt",
)
def train_seg(
    run: Run,
    settings: SegmenterRecipe,
    automatic: frozenset[str],
    data: ClassOptions,
    labels: Labels,
    output: Output,
    *,
    options: TrainingOptions,
) -> None:
    """Train DeepLabV3+ from images and label PNGs."""
    from drstool.files import content_digest
    from drstool.formats.label_folder import label_paths
    from drstool.stages.train_seg import train_seg as stage

    training = TrainingRun(run, output, settings, options, bool(automatic))
    header, paths = label_paths(labels)
    known = header.class_names if header else None
    dataset = data.open(run, class_names=known)
    class_names = known or named_classes(dataset)
    learned = TrainingData(
        data, dataset, class_names, digests={"labels": lambda: content_digest(labels)},
        upstream=header.provenance if header else ())
    training.train(learned, lambda recipe, **how: stage(dataset, class_names, paths, recipe, **how))
