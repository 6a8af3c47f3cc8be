"""``overlay``: pictures of labels and maps over their images."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from drstool.cli.options import DataOrNone, LabelsOrNone, Output, Split, command
from drstool.cli.parameters import check_split
from drstool.cli.run import Run, asdict_plain, list_of
from drstool.cli.unfinished import begin
from drstool.recipe import OverlaySettings


@command(
    "overlay",
    resume=True,
    settings=OverlaySettings,
    example="drstool overlay --data demo --split val --labels pred -o figures",
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
    from drstool.formats import Header, open_records, write_pictures
    from drstool.stages import overlay as stage

    if labels is None and maps is None and data is None:
        raise UsageError("overlay", "has nothing to draw", "give --data, --labels or --maps")
    check_split(split, data)
    run.reserve(output, folder=True)
    with ExitStack() as stack:
        sources = [stack.enter_context(open_records(path)) for path in (labels, maps) if path is not None]
        headers = [source.header for source in sources if source.header is not None]
        names = headers[0].class_names if headers else None
        dataset = open_dataset(data, split, class_names=names or None) if data is not None else None
        digests, piped = run.digests_of(
            **{name: path for name, path in (("labels", labels), ("maps", maps)) if path is not None}
        )
        told = {
            "settings": asdict_plain(settings) | {"target": target},
            "inputs": digests | list_of(dataset),
            "used": {"pixel_ground_truth": "drawn" if target and dataset is not None else False},
        }
        kept = begin(run, output, "figures", run.work(names or (), **told), None, piped=piped)
        pictures = stage.overlay(
            dataset,
            chain.from_iterable(source.records() for source in sources) if sources else None,
            settings=settings,
            class_names=names,
            targets=target,
            done=frozenset(kept.done if kept else ()),
            workers=run.threads,
            on_error=run.on_error,
            track=run.track,
        )
        chain_of = run.provenance(
            *[header.provenance for header in headers], **told, resumed=kept.sittings if kept else ()
        )
        header = Header("figures", names or (), chain_of)
        count = write_pictures(
            output, header, pictures, overwrite=run.overwrite, kept=kept, threads=run.threads)
    run.done(f"{count} pictures to {output}")
