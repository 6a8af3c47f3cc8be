"""``train-cls``: a classification network from images and tags."""

from __future__ import annotations

from drstool.cli.datasets import TagOptions
from drstool.cli.options import Output, command
from drstool.cli.run import Run
from drstool.cli.training import ClassifierTrainingOptions, TrainingData, TrainingRun, named_classes
from drstool.recipe import ClassifierRecipe


@command(
    "train-cls",
    keep_going=False,
    resume=True,
    joint=True,
    settings=ClassifierRecipe,
    example="drstool train-cls --data demo --split train --backbone vgg16-small --init none --optimizer adam "
    "--image-size 144 --lr 0.002 --new-lr-factor 1 -o cls.pt",
)
def train_cls(
    run: Run,
    settings: ClassifierRecipe,
    automatic: frozenset[str],
    data: TagOptions,
    output: Output,
    *,
    options: ClassifierTrainingOptions,
) -> None:
    """Train a classification network with DRS, from images and tags."""
    from drstool.data import require_tags
    from drstool.stages.train_cls import train_cls as stage

    training = TrainingRun(run, output, settings, options, bool(automatic))
    images = data.for_training(options.select_on)
    dataset = images.open(run)
    require_tags(dataset)
    class_names = named_classes(dataset)
    val = None
    if options.val_split:
        val = images.of_split("--val-split", options.val_split).open(run, class_names=class_names)
    training.train(
        TrainingData(data, dataset, class_names, tags=dataset.tags_source),
        lambda recipe, **how: stage(dataset, class_names, recipe, val=val, **how),
    )
