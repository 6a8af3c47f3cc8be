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
    from drstool.data.value_range import recorded_range
    from drstool.files import content_digest
    from drstool.formats.label_folder import label_paths
    from drstool.stages import train_seg as stage

    training = TrainingRun(run, output, settings, options, bool(automatic))
    header, paths = label_paths(labels)
    known = header.class_names if header else None
    data = data.read_as(run, recorded_range(header.provenance) if header else None, labels)
    dataset = data.for_training(options.select_on).open(run, class_names=known)
    class_names = known or named_classes(dataset)
    present, notices = (None, []) if run.follows or len(dataset) < 2 else stage.check_labels(
        dataset, class_names, paths, foreign=header is None, workers=run.threads, track=run.track)
    learned = TrainingData(
        data, dataset, class_names, digests={"labels": lambda: content_digest(labels)},
        upstream=header.provenance if header else ())
    training.train(learned, lambda recipe, **how: stage.train_seg(
        dataset, class_names, paths, recipe, present=present, notices=notices, **how))
