"""``eval``, ``overlay``, ``info``, ``check``, ``ids``: numbers and pictures of what the others made."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from drstool.cli.commands.train import asdict_plain
from drstool.cli.options import (
    Classes,
    Data,
    DataOrNone,
    LabelsOrNone,
    MapsIn,
    Output,
    Saliency,
    Split,
    Tags,
    check_choice,
    command,
)
from drstool.cli.run import Run
from drstool.errors import InputError
from drstool.recipe import CueSettings, OverlaySettings


@command("eval", settings=CueSettings, example="drstool eval pred --data demo --split val")
def evaluate(
    run: Run,
    settings: CueSettings,
    data: Data,
    prediction: MapsIn = None,
    split: Split = None,
    classes: Classes = None,
    saliency: Saliency = None,
    ignored: Annotated[
        str, typer.Option(metavar="miss|skip|background", help="What predicted ignore labels (255) count as.")
    ] = "miss",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """Print the scores of label PNGs or maps against ground truth."""
    from drstool.cues import check_saliency_given, saliency_folder
    from drstool.data import open_dataset, saliency_of_items
    from drstool.errors import UsageError
    from drstool.formats import check_folder, open_records
    from drstool.metrics import IGNORED_AS
    from drstool.stages import eval as stage

    check_choice("--ignored", ignored, IGNORED_AS)
    if json and csv:
        raise UsageError("eval", "prints JSON or CSV, not both", "leave --json or --csv out")
    if saliency:
        check_folder(saliency)
    with open_records(prediction) as source:
        known = source.header.class_names if source.header is not None else None
        dataset = open_dataset(data, split, classes=classes, class_names=known or None)
        # A folder that is named wins; otherwise the dataset's own saliency maps serve.
        saliency_of = saliency_folder(saliency) if saliency else saliency_of_items(dataset)
        if source.is_maps:
            check_saliency_given(settings, saliency_of is not None)
        result = stage.evaluate(
            source.records(),
            dataset,
            header=source.header,
            ids=source.ids(),
            settings=settings,
            saliency_of=saliency_of,
            ignored=ignored,
            workers=run.threads,
            on_error=run.on_error,
            track=run.track,
        )
    write = stage.as_json if json else stage.as_csv if csv else stage.as_table
    run.write(write(result))


@command(
    "overlay", settings=OverlaySettings, example="drstool overlay --data demo --split val --labels pred -o figures"
)
def overlay(
    run: Run,
    settings: OverlaySettings,
    output: Output,
    data: DataOrNone = None,
    split: Split = None,
    labels: LabelsOrNone = None,
    maps: Annotated[
        Optional[str], typer.Option("--maps", help="Maps, drawn as heat over the image: a map file or stream.")
    ] = None,
    target: Annotated[bool, typer.Option("--target/--no-target", help="Draw ground truth where there is some.")] = True,
) -> None:
    """Write pictures of images with labels, ground truth and maps over them."""
    from contextlib import ExitStack
    from itertools import chain

    from drstool.data import open_dataset
    from drstool.errors import UsageError
    from drstool.formats import Header, check_writable, open_records, write_pictures
    from drstool.stages import overlay as stage

    if labels is None and maps is None and data is None:
        raise UsageError("overlay", "has nothing to draw", "give --data, --labels or --maps")
    if split is not None and data is None:
        raise UsageError("--split", "is a part of --data, which is not given", "give --data, or leave it out")
    check_writable(output, run.overwrite, folder=True)
    with ExitStack() as stack:
        sources = [stack.enter_context(open_records(path)) for path in (labels, maps) if path is not None]
        headers = [source.header for source in sources if source.header is not None]
        names = headers[0].class_names if headers else None
        dataset = open_dataset(data, split, class_names=names or None) if data is not None else None
        pictures = stage.overlay(
            dataset,
            chain.from_iterable(source.records() for source in sources) if sources else None,
            settings=settings,
            class_names=names,
            targets=target,
            workers=run.threads,
            on_error=run.on_error,
            track=run.track,
        )
        chain_of = run.provenance(
            *[header.provenance for header in headers],
            settings=asdict_plain(settings),
            used={"pixel_ground_truth": "drawn" if target and dataset is not None else False},
        )
        count = write_pictures(output, Header("figures", names or (), chain_of), pictures, overwrite=run.overwrite)
    run.done(f"{count} pictures to {output}")


@command("info", keep_going=False, example="drstool info cams.h5")
def info(
    run: Run,
    artefact: Annotated[
        Optional[str],
        typer.Argument(
            metavar="INPUT", help="Map file, stream, label folder or checkpoint; by default stdin.", show_default=False
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, with the whole history.")] = False,
) -> None:
    """Print what a map file, stream, label folder or checkpoint holds."""
    from drstool.stages import info as stage

    told = stage.describe(artefact)
    run.write(stage.as_json(told) if json else stage.as_text(told))


@command("check", keep_going=False, example="drstool check cams.h5 labels cls.pt")
def check(
    run: Run,
    artefacts: Annotated[
        Optional[list[str]],
        typer.Argument(
            metavar="INPUT...",
            help="Map files, streams, checkpoints, folders of labels, saliency maps or figures, datasets of "
            "'drstool demo'; by default stdin.",
            show_default=False,
        ),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object a line for each input, whole or not; also with -q.")
    ] = False,
) -> None:
    """Tell whether files and folders are whole: a line on stdout for each thing wrong, and exit code 3."""
    from drstool.stages import check as stage

    problems = 0
    for artefact in artefacts or ["-"]:
        report = stage.check(artefact, workers=run.threads, track=run.track)
        problems += len(report.problems)
        if json:
            run.write(stage.as_json(report))
        else:
            run.answer("".join(f"{error}\n" for error in report.problems))
        if report.state == "whole":
            run.detail(f"{report.input} is whole: {report.kind}, {report.count}")
    if problems:
        raise typer.Exit(InputError.exit_code)
    run.done("nothing wrong")


@command("ids", keep_going=False, example="drstool ids --data demo --split train | head -n 3")
def ids(run: Run, data: Data, split: Split = None, tags: Tags = None, classes: Classes = None) -> None:
    """Print a dataset's images and tags, one JSON object a line: a manifest."""
    from drstool.data import open_dataset
    from drstool.stages import ids as stage

    dataset = open_dataset(data, split, tags=tags, classes=classes)
    for line in stage.ids(dataset):
        run.write(line + "\n")
