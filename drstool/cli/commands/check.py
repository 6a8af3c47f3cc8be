"""``check``: whether files and folders are whole, and what is wrong with a dataset."""

from __future__ import annotations

from typing import Annotated, Any, Optional

import typer

from drstool.cli.datasets import OptionalTagOptions
from drstool.cli.options import command
from drstool.cli.run import Run
from drstool.errors import InputError, UsageError


@command("check", keep_going=False, example="drstool check cams.h5 labels cls.pt")
def check(
    run: Run,
    data: OptionalTagOptions,
    artifacts: Annotated[Optional[list[str]], typer.Argument(
        metavar="INPUT...",
        help="Map files, streams, checkpoints, folders of labels, saliency maps or figures, datasets of "
        "'drstool demo'; by default stdin.",
        show_default=False)] = None,
    json: Annotated[bool, typer.Option(
        "--json", rich_help_panel="Output",
        help="Print one JSON object per input, whole or not; also with -q.")] = False,
) -> None:
    """Check that files and folders are complete and undamaged, or with --data a dataset, before work on it.

    Prints one line per problem, of a dataset the most serious first, and exits with 3 if there are any.
    """
    from drstool.stages import check as stage

    if data.data is not None:
        if artifacts:
            raise UsageError("check", "takes files and folders, or --data, not both", "check them one after the other")
        _check_dataset(run, data, json)
        return
    problems = 0
    for artifact in artifacts or ["-"]:
        report = stage.check(artifact, workers=run.threads, track=run.track)
        problems += len(report.problems)
        _tell(run, report, stage.as_json(report) if json else None)
        if report.state == "whole":
            run.detail(f"{report.input} is whole: {report.kind}, {report.count}")
    if problems:
        raise typer.Exit(InputError.exit_code)
    run.done("no problems found")


def _check_dataset(run: Run, data: OptionalTagOptions, json: bool) -> None:
    from drstool.reports.text import counted
    from drstool.stages import check_dataset as stage

    report = stage.check_dataset(**vars(data), workers=run.threads, track=run.track)
    run.notes(report.notices)
    _tell(run, report, stage.as_json(report) if json else None)
    found = counted(len(report.problems), "problem") if report.problems else "no problems"
    run.done(f"{found} found in {counted(report.images, 'image')}{': ' * bool(report.contents)}{report.contents},")
    if report.problems:
        raise typer.Exit(InputError.exit_code)


def _tell(run: Run, report: Any, text: str | None) -> None:
    """Print a report as JSON, or its problems."""
    if text is not None:
        run.write(text)
    else:
        run.answer("".join(f"{error}\n" for error in report.problems))
