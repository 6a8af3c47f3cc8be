"""``demo`` and ``saliency``: what can be made from nothing, and from images alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drstool.cli.options import Data, OutputOrStdout, Split, command
from drstool.cli.run import Run, list_of
from drstool.cli.shards import ShardOption, pick_shard
from drstool.cli.unfinished import begin, rest_of

Method = Annotated[
    str, typer.Option(
        "--method",
        metavar="mbd|rbd",
        help="Minimum barrier distance (better on photographs), or robust background detection.",
    )
]


@command("demo", keep_going=False, example="drstool demo demo")
def demo(
    run: Run,
    folder: Annotated[Path, typer.Argument(help="Folder to write.", show_default=False)],
    train: Annotated[int, typer.Option(help="Training pictures.", max=1_000_000)] = 300,
    val: Annotated[int, typer.Option(help="Validation pictures.", max=1_000_000)] = 100,
    size: Annotated[int, typer.Option(help="Pixels a side, about.", max=4000)] = 176,
) -> None:
    """Draw a small dataset to try everything on, in VOC layout with masks, tags and saliency."""
    from drstool.artifacts.atomic import new_folder
    from drstool.data import open_dataset
    from drstool.formats import Header, open_sink, write_end, write_marker
    from drstool.formats.records import LabelRecord
    from drstool.stages import demo as stage, saliency as saliency_stage

    run.reserve(folder, folder=True, dataset=True)
    with new_folder(folder, run.overwrite, dataset=True) as making:
        stage.render_demo(making, seed=run.seed, train=train, val=val, size=size, workers=run.threads, track=run.track)
        dataset = open_dataset(str(making), "trainval")
        # Of the two measures, the better one on these drawings.
        maps = saliency_stage.saliency(
            dataset.items, method="rbd", workers=run.threads, track=run.track, total=len(dataset)
        )
        with open_sink(str(making / "saliency_map"), Header("saliency", ()), what="labels") as sink:
            sink.write_all(LabelRecord(identifier, values) for identifier, values in maps)
        # Marks the folder as ours, so that --overwrite may replace it.
        header = Header("dataset", (), run.provenance(seed=True))
        write_marker(making, header)
        write_end(making, header, len(dataset))
    run.done(f"{train} + {val} pictures to {folder}")


@command("saliency", resume=True, example="drstool saliency --data demo --split train -o saliency_map")
def saliency(
    run: Run,
    data: Data,
    output: OutputOrStdout = None,
    split: Split = None,
    method: Method = "mbd",
    shard: ShardOption = None,
) -> None:
    """Write saliency maps of images, by a published measure that learns nothing."""
    from drstool.data import open_dataset
    from drstool.formats import Header, open_sink
    from drstool.formats.records import LabelRecord
    from drstool.stages import saliency as stage

    share = pick_shard(shard)
    output = share.output(output)
    run.reserve_sink(output, what="labels")
    dataset = open_dataset(data, split)
    chosen, part = share.of_dataset(dataset)
    told = {
        "settings": {"method": method},
        "inputs": list_of(dataset),
        "used": {"pixel_ground_truth": False},
    }
    kept = begin(run, output, "saliency", run.work((), **told, part=part), [item.id for item in chosen.items])
    items = rest_of(chosen.items, kept)
    maps = stage.saliency(
        items, method=method, workers=run.threads, on_error=run.on_error, track=run.track, total=len(items)
    )
    chain = run.provenance(**told, resumed=kept.sittings if kept else ())
    header = Header("saliency", (), chain, run.marked(part, (), **told))
    with open_sink(output, header, overwrite=run.overwrite, what="labels", kept=kept, threads=run.threads) as sink:
        sink.write_all(LabelRecord(identifier, values) for identifier, values in maps)
    run.done(f"{sink.count} saliency maps to {output or 'stdout'}")
