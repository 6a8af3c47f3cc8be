"""``info``, ``check``, ``ids``: what files and datasets hold; they start at once."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from drstool.cli.options import Classes, Data, Split, Tags, command
from drstool.cli.run import Run
from drstool.errors import InputError


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
