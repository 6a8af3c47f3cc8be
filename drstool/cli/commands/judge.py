"""``eval``: scores of what the others made."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from drstool.cli.options import Classes, Data, Saliency, Split, command
from drstool.cli.parameters import check_choice
from drstool.cli.run import Run
from drstool.recipe import CueSettings

if TYPE_CHECKING:
    from pathlib import Path

    from drstool.data import Dataset
    from drstool.formats import RecordSource

Predictions = Annotated[
    Optional[list[str]],
    typer.Argument(
        metavar="[INPUT]...",
        help="Map file, stream or folder; by default what comes on stdin. Several are compared on the same images.",
        show_default=False,
    ),
]


@command("eval", settings=CueSettings, example="drstool eval pred --data demo --split val")
def evaluate(
    run: Run,
    settings: CueSettings,
    given: frozenset[str],
    data: Data,
    predictions: Predictions = None,
    split: Split = None,
    classes: Classes = None,
    saliency: Saliency = None,
    ignored: Annotated[
        str, typer.Option(metavar="miss|skip|background", help="What predicted ignore labels (255) count as.")
    ] = "miss",
    ignore_rules: Annotated[
        bool, typer.Option("--ignore-rules/--no-ignore-rules", help="For maps: ignore pixels as pseudo-label does.")
    ] = False,
    boundary: Annotated[
        bool, typer.Option("--boundary/--no-boundary", help="Also boundary IoU (Cheng et al., CVPR 2021); slower.")
    ] = False,
    boundary_ratio: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Its distance from a contour, over the image's diagonal.")
    ] = 0.02,
    per_image: Annotated[bool, typer.Option("--per-image", help="List the images, worst first.")] = False,
    sweep: Annotated[
        Optional[str],
        typer.Option(
            metavar="alpha|constant|power", help="For maps: scores at 256 values of this number, from one pass."
        ),
    ] = None,
    tolerance: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="--sweep: mean IoU lost at most on the plateau around the best.")
    ] = 0.005,
    select_on: Annotated[
        Optional[str], typer.Option(help="--sweep: split on whose ground truth the best value is chosen.")
    ] = None,
    report_on: Annotated[Optional[str], typer.Option(help="--sweep: split whose scores are then reported.")] = None,
    resamples: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="Several inputs: draws of the bootstrap over images.")
    ] = 2000,
    level: Annotated[
        float, typer.Option(min=0.01, max=0.9999, help="Several inputs: of the confidence intervals.")
    ] = 0.95,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict", help="Fail where an image lacks ground truth or a prediction, or a prediction its image."
        ),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """Print the scores of label PNGs or maps against ground truth; of several, their differences."""
    from drstool.metrics import IGNORED_AS
    from drstool.stages import eval as stage

    check_choice("--ignored", ignored, IGNORED_AS)
    names = predictions or ["-"]
    _check_eval(names, data, split, sweep, select_on, report_on, per_image, boundary, json and csv)
    shared: dict[str, Any] = {
        "settings": settings,
        "ignored": ignored,
        "ignore_rules": ignore_rules,
        "strict": strict,
        "workers": run.threads,
        "on_error": run.on_error,
        "track": run.track,
    }
    if sweep is not None:
        splits = (select_on or split, report_on or split)
        result = _sweep(names[0], data, splits, classes, saliency, sweep, tolerance, shared, given)
    else:
        shared |= {"boundary_ratio": boundary_ratio if boundary else None, "per_image": per_image or len(names) > 1}
        runs = [_evaluate(name, data, split, classes, saliency, shared, given) for name in names]
        several = {"resamples": resamples, "level": level, "seed": run.seed}
        result = stage.compare(names, runs, **several) if len(names) > 1 else runs[0]
    write = stage.as_json if json else stage.as_csv if csv else stage.as_table
    run.write(write(result))
    if json or csv:
        # A table tells it itself.
        for line in result.warnings():
            run.say(f"eval: {line}")


def _check_eval(
    names: list[str],
    data: str,
    split: str | None,
    sweep: str | None,
    select_on: str | None,
    report_on: str | None,
    per_image: bool,
    boundary: bool,
    two_forms: bool,
) -> None:
    """Check that options of ``eval`` go together."""
    from drstool.errors import UsageError
    from drstool.metrics import GRIDS

    if two_forms:
        raise UsageError("eval", "prints JSON or CSV, not both", "leave --json or --csv out")
    if names.count("-") + (data == "-") > 1:
        raise UsageError("eval", "is to read two things from stdin", "name a file for all but one")
    if per_image and (len(names) > 1 or sweep is not None):
        raise UsageError("--per-image", "lists the images of one run", "score one input, without --sweep")
    if (select_on is None) != (report_on is None):
        raise UsageError("--select-on", "and --report-on go together", "give both, perhaps the same split")
    if sweep is None:
        if select_on is not None:
            raise UsageError("--select-on", "chooses a value of a sweep", "give --sweep alpha, constant or power")
        return
    check_choice("--sweep", sweep, tuple(GRIDS))
    if len(names) > 1:
        raise UsageError("--sweep", "is of one input", "name one map file, or leave --sweep out to compare")
    if boundary:
        raise UsageError("--boundary", "is not counted along a sweep", "score the best value again with it")
    if select_on is not None and split is not None:
        raise UsageError("--split", "has no part in --select-on and --report-on", "leave it out")
    if select_on is not None and data == "-":
        raise UsageError("--data", "stdin cannot be read once for each split", "save the manifest to a file")


def _evaluate(
    name: str,
    data: str,
    split: str | None,
    classes: str | None,
    saliency: str | None,
    shared: dict[str, Any],
    given: frozenset[str],
) -> Any:
    """Scores of one input."""
    from drstool.cues import check_saliency_given
    from drstool.formats import open_records
    from drstool.stages import eval as stage

    with open_records(name) as source:
        shared = _fitting(source, shared, given)
        dataset, saliency_of = _targets(source, data, (split,), classes, saliency)
        if source.is_maps:
            check_saliency_given(shared["settings"], saliency_of is not None)
        return stage.evaluate(
            source.lazy_records(), dataset[0], header=source.header, ids=source.ids(), saliency_of=saliency_of, **shared
        )


def _sweep(
    name: str,
    data: str,
    splits: tuple[str | None, str | None],
    classes: str | None,
    saliency: str | None,
    parameter: str,
    tolerance: float,
    shared: dict[str, Any],
    given: frozenset[str],
) -> Any:
    """Scores of one map file at 256 values."""
    from drstool.formats import open_records
    from drstool.stages import eval as stage

    with open_records(name) as source:
        if not source.is_maps:
            raise stage.no_sweep_of_labels(source.where)
        shared = _fitting(source, shared, given)
        parts, saliency_of = _targets(source, data, tuple(dict.fromkeys(splits)), classes, saliency)
        return stage.sweep(
            source.lazy_records(),
            parts[0],
            parameter,
            report_on=parts[-1],
            names=tuple(data if split is None else f"{data} split {split}" for split in splits),
            tolerance=tolerance,
            header=source.header,
            ids=source.ids(),
            saliency_of=saliency_of,
            **shared,
        )


def _fitting(source: RecordSource, shared: dict[str, Any], given: frozenset[str]) -> dict[str, Any]:
    """The same with the cue settings of what the source holds: scores are probabilities."""
    from drstool.cues import of_probabilities

    if source.kind != "score-maps":
        return shared
    return shared | {"settings": of_probabilities(shared["settings"], given)}


def _targets(
    source: RecordSource, data: str, splits: tuple[str | None, ...], classes: str | None, saliency: str | None
) -> tuple[list[Dataset], Callable[[str], Path] | None]:
    """The splits that have the ground truth, and where their saliency maps are."""
    from drstool.cues import saliency_folder
    from drstool.data import open_dataset, saliency_of_items
    from drstool.formats import check_folder

    if saliency:
        check_folder(saliency)
    known = source.header.class_names if source.header is not None else None
    parts = [open_dataset(data, split, classes=classes, class_names=known or None) for split in splits]
    # A folder that is named wins; otherwise the dataset's own saliency maps serve.
    return parts, saliency_folder(saliency) if saliency else saliency_of_items(parts[0].joined(parts[-1]))
