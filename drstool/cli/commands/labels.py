"""``pseudo-label`` and ``segment``: label images."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Annotated, Optional

import typer

from drstool.cli.commands.train import asdict_plain
from drstool.cli.options import Data, MapPrecision, MapsIn, OutputOrStdout, Saliency, Split, Tf32, Weights, command
from drstool.cli.run import Run
from drstool.cli.shards import ShardOption, pick_shard
from drstool.recipe import CueSettings, SegmentSettings


@command(
    "pseudo-label",
    settings=CueSettings,
    example="drstool pseudo-label refined.h5 --saliency demo/saliency_map -o labels",
)
def pseudo_label(
    run: Run,
    settings: CueSettings,
    maps: MapsIn = None,
    saliency: Saliency = None,
    output: OutputOrStdout = None,
    shard: ShardOption = None,
) -> None:
    """Write label PNGs from maps: object cues against a background cue."""
    from drstool.cues import check_saliency_given, saliency_folder
    from drstool.errors import InputError
    from drstool.formats import Header, check_folder, check_sink, open_records, open_sink
    from drstool.stages import pseudo_label as stage

    check_saliency_given(settings, saliency is not None)
    share = pick_shard(shard)
    output = share.output(output)
    check_sink(output, run.overwrite, what="labels")
    if saliency:
        check_folder(saliency)
    with open_records(maps) as source:
        if not source.is_maps:
            raise InputError(
                source.where, f"holds {source.kind}", "pseudo-label reads maps, as 'drstool cam' or 'refine' write them"
            )
        chosen, total, part = share.of_records(source)
        records = stage.pseudo_label(
            chosen,
            settings,
            saliency_of=saliency_folder(saliency) if saliency else None,
            workers=run.threads,
            on_error=run.on_error,
            track=run.track,
            total=total,
        )
        chain = run.provenance(
            source.header.provenance,
            settings=asdict_plain(settings),
            used={"saliency": settings.uses_saliency, "pixel_ground_truth": False},
        )
        header = Header("labels", source.header.class_names, chain, part)
        with open_sink(output, header, overwrite=run.overwrite, what="labels", threads=run.threads) as sink:
            count = sink.write_all(records)
    run.done(f"{count} label images to {output or 'stdout'}")


@command(
    "segment", settings=SegmentSettings, example="drstool segment --data demo --split val --weights seg.pt -o pred"
)
def segment(
    run: Run,
    settings: SegmentSettings,
    data: Data,
    weights: Weights,
    output: OutputOrStdout = None,
    split: Split = None,
    scores: Annotated[
        Optional[str], typer.Option("--scores", help="Also write the probabilities, as a map file.")
    ] = None,
    precision: MapPrecision = "float32",
    tf32: Tf32 = True,
    shard: ShardOption = None,
) -> None:
    """Write label PNGs from a segmentation network."""
    from drstool.data import open_dataset
    from drstool.formats import Header, check_sink, open_sink, write_both
    from drstool.formats.checkpoint import load_checkpoint
    from drstool.stages import segment as stage

    share = pick_shard(shard)
    output = share.output(output)
    if scores is not None:
        scores = share.output(scores)
        _check_apart(output, scores)
        check_sink(scores, run.overwrite, what="maps")
    check_sink(output, run.overwrite, what="labels")
    checkpoint = load_checkpoint(weights, "segmenter")
    dataset = open_dataset(data, split, class_names=checkpoint.class_names, images_only=True)
    chosen, part = share.of_dataset(dataset)
    records = stage.segment(
        chosen.items,
        checkpoint,
        settings,
        scores=scores is not None,
        device=run.device,
        precision=run.map_precision(precision),
        tf32=tf32,
        workers=run.threads,
        on_error=run.on_error,
        track=run.track,
        total=len(chosen),
    )
    chain = run.provenance(
        checkpoint.provenance,
        device=True,
        settings=asdict_plain(settings) | {"precision": precision},
        inputs={"checkpoint": run.digest(weights), "list": f"sha256:{dataset.digest()}"},
        used={"pixel_ground_truth": False},
    )
    header = Header("labels", checkpoint.class_names, chain, part)
    labels = open_sink(output, header, overwrite=run.overwrite, what="labels", threads=run.threads)
    if scores is None:
        with labels as sink:
            count = sink.write_all(record for record, _ in records)
    else:
        header = replace(header, kind="score-maps")
        maps = open_sink(scores, header, overwrite=run.overwrite, what="maps", threads=run.threads)
        with labels as sink, maps as map_sink:
            count = write_both(sink, map_sink, records)
    run.done(f"{count} label images to {output or 'stdout'}")


def _check_apart(labels: str | None, scores: str) -> None:
    """Check that labels and scores do not go to one place."""
    from drstool.errors import UsageError

    names = [os.path.realpath("/dev/stdout" if name in (None, "-") else name) for name in (labels, scores)]
    if names[0] == names[1]:
        raise UsageError(
            "--scores", f"would go where the labels go, {labels or 'stdout'}", "give both -o and --scores a name"
        )
