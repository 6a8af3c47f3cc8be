"""``check``: whether files and folders are whole."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from drstool.cli.options import command
from drstool.cli.run import Run
from drstool.errors import InputError


@command("check", keep_going=False, example="drstool check cams.h5 labels cls.pt")
def check(
    run: Run,
    artifacts: Annotated[Optional[list[str]], typer.Argument(
        metavar="INPUT...",
        help="Map files, streams, checkpoints, folders of labels, saliency maps or figures, datasets of "
        "'drstool demo'; by default stdin.",
        show_default=False)] = None,
    json: Annotated[bool, typer.Option(
        "--json", rich_help_panel="Output",
        help="Print one JSON object per input, whole or not; also with -q.")] = False,
) -> None:
    """Check that files and folders are complete and undamaged: print one line per problem, and exit with 3 if any."""
    from drstool.stages import check as stage

    problems = 0
    for artifact in artifacts or ["-"]:
        report = stage.check(artifact, workers=run.threads, track=run.track)
        problems += len(report.problems)
        if json:
            run.write(stage.as_json(report))
        else:
            run.answer("".join(f"{error}\n" for error in report.problems))
        if report.state == "whole":
            run.detail(f"{report.input} is whole: {report.kind}, {report.count}")
    if problems:
        raise typer.Exit(InputError.exit_code)
    run.done("no problems found")
