"""``demo``: a small dataset to try everything on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drstool.cli.options import command
from drstool.cli.run import Run


@command("demo", keep_going=False, example="drstool demo demo")
def demo(
    run: Run,
    folder: Annotated[Path, typer.Argument(help="Folder to write.", show_default=False)],
    train: Annotated[int, typer.Option(
        rich_help_panel="Data", help="Number of training pictures.", max=1_000_000)] = 300,
    val: Annotated[int, typer.Option(
        rich_help_panel="Data", help="Number of validation pictures.", max=1_000_000)] = 100,
    size: Annotated[int, typer.Option(
        rich_help_panel="Data", help="Approximate side of a picture, in pixels.", max=4000)] = 176,
) -> None:
    """Draw a small dataset to try everything on, in VOC layout with masks, tags and saliency."""
    from drstool.artifacts.atomic import new_folder
    from drstool.data import open_dataset
    from drstool.formats import Header, LabelRecord, open_sink, write_end, write_marker
    from drstool.stages import demo as stage, saliency as saliency_stage

    run.reserve(folder, folder=True, dataset=True)
    with new_folder(folder, run.overwrite, dataset=True) as making:
        # Marks the folder as ours, so that --overwrite may replace it.
        header = Header("dataset", (), run.history(run.job(seed=True)))
        write_marker(making, header)
        stage.render_demo(making, seed=run.seed, train=train, val=val, size=size, workers=run.threads, track=run.track)
        dataset = open_dataset(str(making), "trainval")
        # Of the two measures, the better one on these drawings.
        maps = saliency_stage.saliency(
            dataset.items, method="rbd", workers=run.threads, track=run.track, total=len(dataset)
        )
        with open_sink(str(making / "saliency_map"), Header("saliency", ())) as sink:
            sink.write_all(LabelRecord(identifier, values) for identifier, values in maps)
        write_end(making, header, len(dataset))
    run.done(f"drew {train} + {val} pictures into {folder}")
