"""``train-cls``, ``refine-train``, ``train-seg``: networks from images."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from drstool.cli.options import Classes, Data, Init, Labels, Output, Precision, Saliency, Split, Tags, command
from drstool.cli.run import Run
from drstool.recipe import ClassifierRecipe, RefinerRecipe, SegmenterRecipe

SelectOn = Annotated[
    Optional[str],
    typer.Option(
        "--select-on",
        help="Split whose pixel ground truth chooses the epoch, by mIoU; by default the last epoch is the result.",
    ),
]

if TYPE_CHECKING:
    from collections.abc import Callable

    from drstool.data import Dataset
    from drstool.formats.checkpoint import Checkpoint


@command(
    "train-cls",
    keep_going=False,
    settings=ClassifierRecipe,
    example="drstool train-cls --data demo --split train --backbone vgg16-small --init none --optimizer adam "
    "--image-size 144 --lr 0.002 --new-lr-factor 1 -o cls.pt",
)
def train_cls(
    run: Run,
    settings: ClassifierRecipe,
    data: Data,
    output: Output,
    split: Split = None,
    tags: Tags = None,
    classes: Classes = None,
    init: Init = "imagenet",
    precision: Precision = "auto",
    select_on: SelectOn = None,
    saliency: Saliency = None,
) -> None:
    """Train a classification network with DRS, from images and tags."""
    from drstool.data import open_dataset
    from drstool.formats import check_writable
    from drstool.stages import train_cls as stage

    check_writable(output, run.overwrite)
    dataset = open_dataset(data, split, tags=tags, classes=classes)
    checkpoint = stage.train_cls(
        dataset,
        _class_names(dataset),
        settings,
        **_training(run, settings, init, precision),
        select=_selector(run, data, select_on, saliency),
    )
    _save(run, output, checkpoint, dataset, init, precision, select_on, tags=dataset.tags_source)


@command(
    "refine-train",
    keep_going=False,
    settings=RefinerRecipe,
    example="drstool refine-train --data demo --split train --maps cams.h5 --backbone vgg16-small --init cls.pt "
    "--image-size 176 -o refiner.pt",
)
def refine_train(
    run: Run,
    settings: RefinerRecipe,
    data: Data,
    maps: Annotated[
        str, typer.Option("--maps", help="Map file with localization maps of the images.", show_default=False)
    ],
    output: Output,
    split: Split = None,
    init: Init = "imagenet",
    precision: Precision = "auto",
    select_on: SelectOn = None,
    saliency: Saliency = None,
) -> None:
    """Train a refinement network that regresses localization maps."""
    from drstool.data import open_dataset
    from drstool.formats import check_writable
    from drstool.formats.maps import MapFileReader
    from drstool.stages import refine_train as stage

    check_writable(output, run.overwrite)
    with MapFileReader(maps) as reader:
        header = reader.header
    dataset = open_dataset(data, split, class_names=header.class_names)
    checkpoint = stage.refine_train(
        dataset,
        header.class_names,
        maps,
        settings,
        **_training(run, settings, init, precision),
        select=_selector(run, data, select_on, saliency),
    )
    _save(run, output, checkpoint, dataset, init, precision, select_on, header.provenance, maps=run.digest(maps))


@command(
    "train-seg",
    keep_going=False,
    settings=SegmenterRecipe,
    example="drstool train-seg --data demo --split train --labels labels --backbone vgg16-small --init refiner.pt "
    "--image-size 176 --epochs 5 -o seg.pt",
)
def train_seg(
    run: Run,
    settings: SegmenterRecipe,
    data: Data,
    labels: Labels,
    output: Output,
    split: Split = None,
    classes: Classes = None,
    init: Init = "imagenet",
    precision: Precision = "auto",
    select_on: SelectOn = None,
) -> None:
    """Train DeepLabV3+ from images and label PNGs."""
    from drstool.data import open_dataset
    from drstool.formats import check_writable
    from drstool.formats.label_png import label_paths
    from drstool.stages import train_seg as stage

    check_writable(output, run.overwrite)
    header, paths = label_paths(labels)
    known = header.class_names if header else None
    dataset = open_dataset(data, split, classes=classes, class_names=known)
    checkpoint = stage.train_seg(
        dataset,
        known or _class_names(dataset),
        paths,
        settings,
        **_training(run, settings, init, precision),
        select=_selector(run, data, select_on),
    )
    _save(run, output, checkpoint, dataset, init, precision, select_on, header.provenance if header else ())


def _class_names(dataset: Dataset) -> tuple[str, ...]:
    from drstool.errors import InputError

    if dataset.class_names is None:
        raise InputError(
            dataset.source,
            "does not say the names of its object classes",
            "--classes FILE with one name a line, or a classes.txt beside the images' folder",
        )
    return dataset.class_names


def _training(run: Run, settings: Any, init: str, precision: str) -> dict[str, Any]:
    """What every training stage is told in the same way."""
    from drstool.formats.pretrained import initial_weights

    # With 0 epochs the initialised network is written, pretrained weights included.
    return {
        "weights": initial_weights(init, settings.backbone, progress=run.shows_progress),
        "weights_name": f"--init {init}",
        "seed": run.seed,
        "device": run.device,
        "precision": run.precision(precision),
        "workers": run.loader_processes,
        "on_epoch": run.on_epoch,
        "track": run.track,
    }


def _selector(
    run: Run, data: str, split: str | None, saliency: str | None = None
) -> Callable[[Checkpoint], float] | None:
    """Scores a network on a split's ground truth: its mIoU, of labels or of maps with a background cue."""
    if split is None:
        return None
    from drstool.cues import saliency_folder
    from drstool.data import open_dataset, saliency_of_items
    from drstool.recipe import CamSettings, CueSettings, RefineSettings, SegmentSettings
    from drstool.stages import cam, refine, segment
    from drstool.stages.eval import evaluate


    def score(checkpoint: Checkpoint) -> float:
        dataset = open_dataset(data, split, class_names=checkpoint.class_names)
        saliency_of = saliency_folder(saliency) if saliency else saliency_of_items(dataset)
        cues = CueSettings(background="saliency" if saliency_of else "constant")
        where = {"device": run.device, "workers": run.threads}
        if checkpoint.kind == "classifier":
            records = cam.cam(dataset.items, checkpoint, CamSettings(), **where)
        elif checkpoint.kind == "refiner":
            records = refine.refine(dataset.items, checkpoint, RefineSettings(), **where)
        else:
            records = (labels for labels, _ in segment.segment(dataset.items, checkpoint, SegmentSettings(), **where))
        return evaluate(records, dataset, settings=cues, saliency_of=saliency_of, strict=True).scores.mean_iou

    return score


def _save(
    run: Run,
    output: str,
    checkpoint: Checkpoint,
    dataset: Dataset,
    init: str,
    precision: str,
    select_on: str | None,
    upstream: tuple[dict, ...] = (),
    *,
    tags: Optional[str] = None,
    **inputs: str,
) -> None:
    from drstool.formats.checkpoint import save_checkpoint

    digests = {"list": f"sha256:{dataset.digest()}", **inputs}
    if Path(init).is_file():
        digests["init"] = run.digest(init)
    truth = f"epoch chosen on split {select_on}" if select_on else False
    used = {"pixel_ground_truth": truth} | ({"tags": tags} if tags else {})
    settings = asdict_plain(checkpoint.recipe) | {"precision": run.precision(precision)}
    chain = run.provenance(upstream, inputs=digests, used=used, settings=settings, device=True, seed=True)
    save_checkpoint(output, replace(checkpoint, provenance=chain), overwrite=run.overwrite)
    run.done(
        f"wrote {output}, a {checkpoint.kind} of {len(checkpoint.class_names)} object classes "
        f"from {len(dataset)} images"
    )


def asdict_plain(recipe: Any) -> dict[str, Any]:
    """A recipe as plain JSON values."""
    values = recipe if isinstance(recipe, dict) else asdict(recipe)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
