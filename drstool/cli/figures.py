"""``overlay --figure``: from options or a file to a figure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from drstool.cli.datasets import OptionalDataOptions
from drstool.cli.run import Run, plain
from drstool.errors import DrstoolError, InputError, ItemsFailed, UsageError
from drstool.recipe import FigureSettings, OverlaySettings
from drstool.reports.text import counted
from drstool.text import listed

if TYPE_CHECKING:
    from drstool.data import Dataset
    from drstool.figures.columns import Column, Inputs
    from drstool.figures.spec import FigureSpec
    from drstool.reports.scores import Evaluation

__all__ = ["FigureOptions", "make_figure"]


@dataclass(frozen=True)
class FigureOptions:
    """What one figure shows, and where it is written."""

    figure: Annotated[Optional[str], typer.Option(
        "--figure", rich_help_panel="Output", help="File of a figure to write: .png, .jpg, .pdf or .svg.")] = None
    columns: Annotated[Optional[list[str]], typer.Option(
        "--columns", metavar="COLUMN,…",
        help="With --figure: its columns, separated by commas: image, target, a map file, a folder of labels or "
        "pictures, each perhaps as TITLE=PATH; maps of one class as PATH#CLASS; error:PATH, difference:A:B, split:A:B "
        "(two methods in a cell), picture:FOLDER; may be repeated.")] = None
    ids: Annotated[Optional[str], typer.Option(
        "--ids", help="With --figure: its rows, image ids separated by commas or a file of them.")] = None
    pick: Annotated[Optional[str], typer.Option(
        "--pick", metavar="worst|best|median|random|even:N",
        help="With --figure: choose N images by their mean IoU (worst, best, median), at random (see --seed) or evenly "
        "spaced; around:CLASS:N chooses those whose IoU of a class is nearest to its median.")] = None
    by: Annotated[Optional[str], typer.Option(
        "--by", metavar="TITLE|PATH",
        help="Column whose scores --pick goes by; by default, the last with scores.")] = None
    crop: Annotated[Optional[list[str]], typer.Option(
        "--crop", metavar="ID:X,Y,W,H",
        help="With --figure: show this region of an image, in pixels, enlarged below its row; may be repeated.")] = None
    cues: Annotated[Optional[str], typer.Option(
        "--cues", metavar="NAME=VALUE,…",
        help="With --figure: settings of 'drstool eval' for labels of maps, such as background=constant,constant=0.3.",
    )] = None
    spec: Annotated[Optional[str], typer.Option(
        "--spec", metavar="FILE", help="TOML file that describes a figure; options replace what it says.")] = None
    write_spec: Annotated[Optional[str], typer.Option(
        "--write-spec", metavar="FILE", rich_help_panel="Output",
        help="Write the TOML file of the figure that this command line describes.",
    )] = None
    strict: Annotated[bool, typer.Option(
        "--strict", help="With --figure: fail if an image lacks what a cell should show.")] = False

    @property
    def wanted(self) -> bool:
        """Whether there is a figure to draw or to describe."""
        return any(value is not None for value in (self.figure, self.spec, self.write_spec))

    def check_unused(self, given: Collection[str]) -> None:
        """Check that no option of figures is given without one."""
        ours = [name for name, value in vars(self).items() if value]
        settings = {spec.name for spec in fields(FigureSettings)} - {spec.name for spec in fields(OverlaySettings)}
        for name in (*ours, *sorted(settings & set(given))):
            raise UsageError(f"--{name.replace('_', '-')}", "has no effect without a figure", "add --figure FILE")

    def described(
        self, settings: FigureSettings, given: Collection[str], data: OptionalDataOptions, maps: list[str],
        labels: list[str],
    ) -> FigureSpec:
        """The figure that the options describe, on top of that of ``--spec``."""
        from drstool.figures.columns import parse_column, titled_as_each_other
        from drstool.figures.rows import named_ids
        from drstool.figures.spec import FigureSpec, parse_crop, parse_cues, read_spec
        from drstool.recipe import override

        spec = read_spec(self.spec, [each.name for each in fields(data)]) if self.spec is not None else FigureSpec()
        columns = [parse_column(part) for text in self.columns or () for part in text.split(",") if part]
        columns = titled_as_each_other(columns)
        more = [parse_column(text, "heat") for text in maps] + [parse_column(text, "labels") for text in labels]
        if more and not columns and not spec.columns:
            columns = [parse_column("image"), parse_column("target")]
        changes: dict[str, Any] = {name: value for name, value in {
            "figure": self.figure, "ids": named_ids(self.ids) if self.ids else (), "pick": self.pick, "by": self.by,
            "crops": tuple(map(parse_crop, self.crop or ())), "columns": (*columns, *more)}.items() if value}
        if "ids" in changes or "pick" in changes:
            changes = {"ids": (), "pick": "", "by": "" if "ids" in changes else spec.by} | changes
        # What an option is by default replaces nothing.
        chosen = {each.name: value for each in fields(data) if (value := getattr(data, each.name)) != each.default}
        return replace(
            spec, **changes, data={**spec.data, **chosen},
            settings=override(spec.settings, {name: getattr(settings, name) for name in given}),
            cues=parse_cues(self.cues or "", spec.cues))


def make_figure(run: Run, options: FigureOptions, spec: FigureSpec, kind: type[OptionalDataOptions]) -> None:
    """Write a figure, or the file that describes it, or both."""
    from drstool.figures import render
    from drstool.figures.spec import spec_text

    _check_together(run, spec)
    only_describe = options.write_spec is not None and options.figure is None
    for path in filter(None, ("" if only_describe else spec.figure, options.write_spec)):
        run.reserve(path)
    if options.write_spec is not None:
        _write(run, options.write_spec, spec_text(spec).encode())
    if only_describe:
        run.done(f"wrote {options.write_spec}")
        return
    if not spec.figure:
        raise UsageError("--figure", "is missing", "give --figure FILE, or 'figure' in the file of --spec")
    render.check_installed()
    file_format = render.check_format(spec.figure)
    if "data" not in spec.data:
        raise UsageError("--figure", "needs a dataset", "give --data")
    with ExitStack() as stack:
        _draw(run, options, spec, kind(**spec.data), file_format, stack)


def _check_together(run: Run, spec: FigureSpec) -> None:
    """Check that what a figure shows goes together."""
    if not spec.columns:
        raise UsageError("--columns", "there are none", "give --columns image,target,NAME=PATH,…")
    if spec.ids and spec.pick:
        raise UsageError("--pick", "chooses rows that --ids names already", "omit one of the two")
    if run.resume:
        raise UsageError("--resume", "cannot be used with --figure", "run the command again without it")
    for option, name, other, needed in (
            ("--by", spec.by, "--pick", spec.pick),
            ("--baseline", spec.settings.baseline, "--score", spec.settings.score)):
        if name and not needed:
            raise UsageError(option, f"has no effect without {other}", f"add {other}, or omit it")


def _draw(
    run: Run, options: FigureOptions, spec: FigureSpec, data: OptionalDataOptions, file_format: str, stack: ExitStack,
) -> None:
    from drstool.data import saliency_of_items
    from drstool.figures.columns import Inputs
    from drstool.stages.figure import draw_figure

    inputs, columns = Inputs.open(spec.columns, stack)
    data = data.read_as_made(run, inputs.sources)
    dataset = data.open_with(run, inputs.sources.values())
    if options.columns is None and options.spec is None and all(item.mask is None for item in dataset.items):
        # Nobody asked for ground truth.
        columns = tuple(column for column in columns if column.show != "target")
    inputs = replace(
        inputs, class_names=inputs.class_names or dataset.class_names or (), settings=spec.cues,
        saliency_of=saliency_of_items(dataset), percentile=spec.settings.percentile)
    spec = replace(spec, columns=columns)
    baseline = _scored_column(spec, "--baseline", name)[0] if (name := spec.settings.baseline) else None
    spec, words = _with_rows(run, options, spec, inputs, dataset)
    scores, unscored = _scores(run, spec, inputs, dataset) if spec.settings.score else ({}, [])
    figure = draw_figure(
        spec, inputs, dataset, file_format, scores=scores, baseline=baseline,
        caption=_caption(spec, inputs, words, bool(scores)) if spec.settings.caption else "",
        history=_history(run, spec, inputs, dataset, words, bool(scores)), workers=run.threads, track=run.track)
    known = {error.what for error in figure.errors}
    run.notes(dict.fromkeys(map(str, (*figure.errors, *(error for error in unscored if error.what not in known)))))
    empty = f"{counted(len(figure.errors), 'cell')} of {figure.cells} have nothing to show"
    if figure.errors and options.strict:
        raise InputError("overlay", empty, "see the messages above, or omit --strict")
    run.notes([f"rows: {words}"] if words else [])
    run.notes(figure.notes)
    _write(run, spec.figure, figure.data)
    run.done(f"wrote {counted(figure.cells, 'cell')} to {spec.figure}")
    if figure.errors:
        raise ItemsFailed("overlay", empty, "see the messages above, and the figure")


def _caption(spec: FigureSpec, inputs: Inputs, words: str, scored: bool) -> str:
    """By what the rows were chosen, and what the scores are of."""
    from drstool.reports.scores import cue_words

    shown = [column for _, column in _scored(spec) if scored or column.show != "heat"]
    rules: dict[str, list[str]] = {}
    for column in shown:
        if inputs.sources[column.paths[0]].is_maps:
            rules.setdefault(cue_words(inputs.cues_of(column.paths[0])), []).append(column.title)
    lines = [f"Rows: {words}."] if words else []
    lines += ["Below the cells: mean IoU."] if scored else []
    lines += [f"Labels of {'maps' if len(rules) == 1 else listed(of)}: {rule}." for rule, of in rules.items()]
    return " ".join(lines)


def _with_rows(
    run: Run, options: FigureOptions, spec: FigureSpec, inputs: Inputs, dataset: Dataset,
) -> tuple[FigureSpec, str]:
    """The figure with the ids of its rows, and by what they were chosen."""
    from drstool.data.lists import split_id
    from drstool.figures.rows import MOST_ROWS, parse_pick

    known = [item.id for item in dataset.items]
    if spec.ids:
        # A line of a file may have more behind the id, which may hold spaces.
        named = Counter(split_id(line, set(known))[0] for line in spec.ids)
        run.notes([f"--ids: names '{name}' {times} times; it is one row" for name, times in named.items() if times > 1])
        spec = replace(spec, ids=tuple(named))
        if not set(spec.ids) & set(known):
            raise InputError(
                dataset.source, f"has none of the rows, such as '{spec.ids[0]}'",
                f"its ids look like '{known[0]}'; check --ids, --data and --split")
    elif not spec.pick:
        if len(known) > MOST_ROWS:
            raise UsageError(
                "--figure", f"would have {len(known)} rows", "choose them with --ids or --pick, such as --pick even:8")
        spec = replace(spec, ids=tuple(known))
    words = ""
    if not spec.ids:
        pick = parse_pick(spec.pick)
        if spec.by and not pick.needs_scores:
            raise UsageError("--by", f"has no effect with --pick {spec.pick}", "omit it")
        column = _scored_column(spec, "--by", spec.by)[1] if pick.needs_scores else None
        unscored: list[DrstoolError] = []
        spec = replace(spec, ids=pick.unscored(dataset, run.seed) if column is None else pick.scored(
            _evaluation(run, column.paths[0], inputs, dataset, unscored)))
        run.notes([f"--pick: not all images have a score: {error}" for error in unscored[:1]])
        # There may be fewer images than were asked for.
        words = replace(pick, count=len(spec.ids)).words(column.title if column is not None else "", len(known))
    if options.crop is None and (options.ids or options.pick):
        run.notes([
            f"--crop {crop}: left out: the figure has no such row" for crop in spec.crops if crop.id not in spec.ids])
        spec = replace(spec, crops=tuple(crop for crop in spec.crops if crop.id in spec.ids))
    for crop in spec.crops:
        if crop.id not in spec.ids:
            raise UsageError("--crop", f"'{crop.id}' is not a row of the figure", f"its rows are {', '.join(spec.ids)}")
    return spec, words


def _scored(spec: FigureSpec) -> list[tuple[int, Column]]:
    """The columns that have scores, with their numbers."""
    shown = [(number, column) for number, column in enumerate(spec.columns) if not column.object_class]
    paths = {column.paths for _, column in shown if column.show in ("labels", "heat")}
    # An error map belongs to a prediction that is perhaps shown as well.
    return [(number, column) for number, column in shown if column.show in ("labels", "heat")
            or column.show == "error" and column.paths not in paths]


def _scored_column(spec: FigureSpec, option: str, name: str) -> tuple[int, Column]:
    """Number and column of what has scores and a title or, if none has it, a path or file name; without one, the last.

    Raises
    ------
    UsageError
        There is none, or several.
    """
    scored = _scored(spec)
    if not scored:
        raise UsageError(option, "no column has scores", "give a column of labels or maps")
    if not name:
        return scored[-1]
    found = [each for each in scored if each[1].title == name] or [
        each for each in scored if name in ((path := Path(each[1].paths[0])).stem, path.name, each[1].paths[0])]
    if len({column.paths for _, column in found}) != 1:
        raise UsageError(
            option, f"{'several columns' if found else 'no column'} with scores {'are' if found else 'is'} called "
            f"'{name}'", f"those that have scores are {', '.join(column.title for _, column in scored)}")
    return found[0]


def _scores(
    run: Run, spec: FigureSpec, inputs: Inputs, dataset: Dataset,
) -> tuple[Mapping[tuple[str, int], float], list[DrstoolError]]:
    """Mean IoU by image and number of the column, and why there is none."""
    found: dict[tuple[str, int], float] = {}
    errors: list[DrstoolError] = []
    columns = _scored(spec)
    for path in dict.fromkeys(column.paths[0] for _, column in columns):
        ids = set(inputs.sources[path].ids() or ())
        shown = replace(dataset, items=tuple(item for item in dataset.items if item.id in ids & set(spec.ids)))
        if any(item.mask is not None for item in shown.items):
            try:
                evaluation = _evaluation(run, path, inputs, shown, errors)
            except InputError as error:
                errors.append(error)
            else:
                found |= {(row.id, number): row.mean_iou for row in evaluation.per_image()
                          for number, column in columns if column.paths[0] == path}
    return found, errors


def _evaluation(run: Run, path: str, inputs: Inputs, dataset: Dataset, errors: list[DrstoolError]) -> Evaluation:
    """Scores of a file, as ``eval`` computes them; ``errors`` takes those of images, the first raised if all fail."""
    from drstool.stages import eval as stage

    source, before = inputs.sources[path], len(errors)
    wanted = {item.id for item in dataset.items}
    scoring = stage.Scoring(inputs.cues_of(path), inputs.saliency_of, per_image=True)

    def failed(error: DrstoolError) -> None:
        errors.append(InputError(f"{path}: {error.where}", error.what, error.right))

    try:
        return stage.evaluate(
            (record for record in source.lazy_records() if record.id in wanted), dataset, header=source.header,
            scoring=scoring, workers=run.threads, on_error=failed, track=run.track)
    except InputError as error:
        raise (errors[before] if len(errors) > before else error) from None


def _history(
    run: Run, spec: FigureSpec, inputs: Inputs, dataset: Dataset, words: str, scored: bool,
) -> tuple[dict, ...]:
    """The history of the figure, without the time, so that the same command gives the same bytes."""
    from drstool.figures.rows import parse_pick
    from drstool.inputs import input_digests, list_digest

    settings = plain(spec.settings) | {
        "columns": [asdict(column) for column in spec.columns], "ids": list(spec.ids), "chosen": words,
        "crop": list(map(str, spec.crops)), "cues": plain(spec.cues)}
    scored = scored or bool(spec.pick) and parse_pick(spec.pick).needs_scores
    target = "scored" if scored else any(each.show in ("target", "error") for each in spec.columns) and "drawn"
    digests = input_digests(**{path: path for path in inputs.sources})[0]
    job = run.job(
        inputs.class_names, settings=settings, inputs=digests | list_digest(dataset),
        used={"pixel_ground_truth": target}, seed=spec.pick.startswith("random"))
    chains = (source.header.provenance for source in inputs.sources.values() if source.header is not None)
    *before, own = run.history(job, *chains) or (None,)
    return () if own is None else (*before, {name: value for name, value in own.items() if name != "time"})


def _write(run: Run, path: str, data: bytes) -> None:
    from drstool.artifacts.atomic import new_file

    with new_file(path, run.overwrite) as making:
        Path(making).write_bytes(data)
