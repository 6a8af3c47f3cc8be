"""``eval``: scores of labels and maps against pixel ground data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from drstool.cli.datasets import TagOptions
from drstool.cli.options import Saliency, command
from drstool.cli.parameters import check_choice
from drstool.cli.run import Run
from drstool.errors import UsageError
from drstool.recipe import CueSettings

if TYPE_CHECKING:
    from pathlib import Path

    from drstool.artifacts.header import Header
    from drstool.data import Dataset
    from drstool.reports.scores import Evaluation, PairedSweep, Sweep

Predictions = Annotated[Optional[list[str]], typer.Argument(
    metavar="[INPUT]...",
    help="Map file, stream or folder; by default what comes on stdin. Several are compared on the same images.",
    show_default=False)]


@dataclass(frozen=True)
class EvalOptions:
    """How predictions are scored, and how the scores are printed."""

    saliency: Saliency = None
    ignored: Annotated[str, typer.Option(
        metavar="miss|skip|background", help="What predicted ignore labels (255) count as.")] = "miss"
    ignore_rules: Annotated[bool, typer.Option(
        "--ignore-rules/--no-ignore-rules", help="For maps: ignore pixels as pseudo-label does.")] = False
    boundary: Annotated[bool, typer.Option(
        "--boundary/--no-boundary", help="Also compute boundary IoU (Cheng et al., CVPR 2021); slower.")] = False
    boundary_ratio: Annotated[float, typer.Option(
        min=0.0, max=1.0, help="Boundary IoU: distance from a contour, over the image's diagonal.")] = 0.02
    per_image: Annotated[bool, typer.Option(
        "--per-image", rich_help_panel="Output", help="List the images, worst first.")] = False
    sweep: Annotated[
        Optional[str],
        typer.Option(
            metavar="alpha|constant|power",
            help="For maps: compute scores at 256 values of this number, in one pass; alpha,saliency-threshold: also "
            "at 16 thresholds of the saliency."),
    ] = None
    tolerance: Annotated[float, typer.Option(
        min=0.0, max=1.0, help="--sweep: largest loss of mean IoU on the plateau around the best.")] = 0.005
    select_on: Annotated[Optional[str], typer.Option(
        help="--sweep: split on whose ground truth the best value is chosen.")] = None
    report_on: Annotated[Optional[str], typer.Option(help="--sweep: split whose scores are then reported.")] = None
    resamples: Annotated[int, typer.Option(
        min=1, max=1_000_000, help="Several inputs: bootstrap resamples of the images.")] = 2000
    level: Annotated[float, typer.Option(
        min=0.01, max=0.9999, help="Several inputs: level of the confidence intervals.")] = 0.95
    strict: Annotated[bool, typer.Option(
        "--strict", help="Fail if an image has no ground truth or prediction, or a prediction no image.")] = False
    json: Annotated[bool, typer.Option(
        "--json", rich_help_panel="Output", help="Print JSON.")] = False
    csv: Annotated[bool, typer.Option(
        "--csv", rich_help_panel="Output", help="Print CSV.")] = False

    def check(self, names: list[str], data: TagOptions) -> None:
        """Check that the options go together, and with the inputs."""
        from drstool.metrics import IGNORED_AS, swept_numbers

        check_choice("--ignored", self.ignored, IGNORED_AS)
        if self.json and self.csv:
            raise UsageError("eval", "prints JSON or CSV, not both", "omit --json or --csv")
        if names.count("-") + (data.data == "-") > 1:
            raise UsageError("eval", "cannot read two things from stdin", "name a file for all but one")
        if self.per_image and (len(names) > 1 or self.sweep is not None):
            raise UsageError("--per-image", "lists the images of one run", "score one input, without --sweep")
        if (self.select_on is None) != (self.report_on is None):
            raise UsageError("--select-on", "and --report-on go together", "give both, perhaps with the same split")
        if self.select_on is not None and self.sweep is None:
            raise UsageError("--select-on", "chooses a value of a sweep", "give --sweep alpha, constant or power")
        if self.select_on is not None and data.split is not None:
            raise UsageError("--split", "is replaced by --select-on and --report-on", "omit it")
        if data.data == "-" and (self.select_on is not None or len(names) > 1):
            each = "split" if self.select_on is not None else "input"
            raise UsageError("--data", f"stdin cannot be read once for each {each}", "save the manifest to a file")
        if self.sweep is None:
            return
        swept_numbers(self.sweep)
        if len(names) > 1:
            raise UsageError("--sweep", "takes one input", "name one map file, or omit --sweep to compare")
        if self.boundary:
            raise UsageError("--boundary", "cannot be combined with --sweep", "evaluate once more at the best value")


@command("eval", settings=CueSettings, example="drstool eval pred --data demo --split val")
def evaluate(
    run: Run, settings: CueSettings, given: frozenset[str], data: TagOptions, options: EvalOptions,
    predictions: Predictions = None,
) -> None:
    """Print the scores of label PNGs or maps against ground truth; for several inputs, also their differences."""
    from drstool.stages import eval as stage

    names = predictions or ["-"]
    options.check(names, data)
    results: list[Any] = [_scored(run, name, data, options, settings, given, len(names) > 1) for name in names]
    result = results[0] if len(names) == 1 else stage.compare(
        names, results, resamples=options.resamples, level=options.level, seed=run.seed)
    write = stage.as_json if options.json else stage.as_csv if options.csv else partial(
        stage.as_table, bars=run.shows_blocks)
    run.write(write(result), exact=options.csv)
    if options.json or options.csv:
        # A table contains them.
        for line in result.warnings():
            run.say(f"eval: {line}")


def _scored(
    run: Run, name: str, data: TagOptions, options: EvalOptions, settings: CueSettings, given: frozenset[str],
    compared: bool,
) -> Evaluation | PairedSweep | Sweep:
    """Scores of one input, or those of a sweep."""
    from drstool.cues import of_probabilities
    from drstool.formats import open_records
    from drstool.stages import eval as stage

    with open_records(name) as source:
        if source.kind == "score-maps":
            settings = of_probabilities(settings, given)
        if options.sweep is not None:
            stage.check_sweepable(source.is_maps, source.where)
        splits = (options.select_on or data.split, options.report_on or data.split)
        datasets, saliency_of = _ground_truth(
            run, data, options.saliency, source.header, tuple(dict.fromkeys(splits)))
        scoring = stage.Scoring(
            settings, saliency_of, options.ignored, options.ignore_rules, options.strict,
            options.boundary_ratio if options.boundary else None, options.per_image or compared)
        score: Any = stage.evaluate if options.sweep is None else partial(
            stage.sweep, parameter=options.sweep, report_on=datasets[-1], tolerance=options.tolerance,
            names=tuple(data.data if split is None else f"{data.data} split {split}" for split in splits))
        result = score(
            source.lazy_records(), datasets[0], header=source.header, ids=source.ids(), scoring=scoring,
            workers=run.threads, on_error=run.on_error, track=run.track)
        run.notes(scoring.notices())
        return result


def _ground_truth(
    run: Run, data: TagOptions, saliency: str | None, header: Header | None, splits: tuple[str | None, ...],
) -> tuple[list[Dataset], Callable[[str], Path] | None]:
    """The splits, checked against the predictions' header, and where their saliency maps are."""
    from drstool.cues import saliency_folder
    from drstool.data import saliency_of_items
    from drstool.formats import check_folder

    if saliency:
        check_folder(saliency)
    known = (header.class_names if header is not None else None) or None
    datasets = [replace(data, split=split).open(run, decodes=False, class_names=known) for split in splits]
    # A folder that is named wins; otherwise the dataset's own saliency maps serve.
    if saliency:
        return datasets, saliency_folder(saliency)
    return datasets, saliency_of_items(datasets[0].joined(datasets[-1]))
