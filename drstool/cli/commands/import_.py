"""``import``: other projects' files."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Optional

import typer

from drstool.cli.datasets import class_list
from drstool.cli.options import Classes, Output, command
from drstool.cli.parameters import check_choice
from drstool.cli.run import Run


@command("import", keep_going=False, example="drstool import --from drs best.pth -o cls.pt")
def import_(
    run: Run,
    file: Annotated[str, typer.Argument(metavar="FILE", help="The other project's file.", show_default=False)],
    output: Output,
    origin: Annotated[str, typer.Option(
        "--from", metavar="drs", help="The other project: drs, the authors' code (qjadud1994/DRS).")] = "drs",
    kind: Annotated[Optional[str], typer.Option(
        metavar="classifier|refiner", help="What the file holds; required if the file does not show it.")] = None,
    delta: Annotated[float, typer.Option(
        help="Bound of a fixed-DRS classifier, which the file does not say.", min=0.0, max=1.0)] = 0.55,
    classes: Classes = None,
) -> None:
    """Convert a checkpoint of the authors' code."""
    from drstool.checkpoints.checkpoint import save_checkpoint
    from drstool.stages import import_ as stage

    check_choice("--from", origin, ("drs",))
    run.reserve(output)
    names = class_list(run, classes)
    checkpoint = stage.import_drs(file, kind=kind, delta=delta, class_names=names)
    chain = run.history(run.job(inputs={"file": run.digest(file)}))
    save_checkpoint(output, replace(checkpoint, provenance=chain), overwrite=run.overwrite)
    run.done(f"wrote {output}, a {checkpoint.kind} of {len(checkpoint.class_names)} object classes")
