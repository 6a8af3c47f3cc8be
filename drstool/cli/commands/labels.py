"""``pseudo-label``, ``segment`` and ``crf``: label images, and probabilities that follow edges."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from drstool.cli.options import Data, MapPrecision, MapsIn, OutputOrStdout, Saliency, Split, Tf32, Weights, command
from drstool.cli.parameters import check_choice, check_split
from drstool.cli.run import Run, asdict_plain, list_of
from drstool.cli.shards import ShardOption, pick_shard
from drstool.cli.unfinished import begin, ids_of, is_finished, rest_of
from drstool.recipe import CrfSettings, CueSettings, SegmentSettings

if TYPE_CHECKING:
    from drstool.data import Dataset

CrfData = Annotated[
    Optional[str],
    typer.Option("--data", help="Images for the CRF, as in the other commands; by default those that the maps name."),
]


@command(
    "pseudo-label",
    resume=True,
    settings=CueSettings,
    crf="none",
    crf_labels=True,
    example="drstool pseudo-label refined.h5 --saliency demo/saliency_map -o labels",
)
def pseudo_label(
    run: Run,
    settings: CueSettings,
    given: frozenset[str],
    crf: CrfSettings | None,
    maps: MapsIn = None,
    saliency: Saliency = None,
    data: CrfData = None,
    split: Split = None,
    output: OutputOrStdout = None,
    shard: ShardOption = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print what the rules ignored, in all and by class, as JSON; needs -o.")
    ] = False,
) -> None:
    """Write label PNGs from maps: object cues against a background cue.

    A CRF (--crf) relabels the pixels before any is ignored. With irn's settings it starts from the labels of the
    strongest cues, as IRN's does; otherwise from the cues themselves, divided by their sum, as PSA's does.
    """
    from drstool.cues import check_saliency_given, of_probabilities, saliency_folder
    from drstool.data.photographs import images_of
    from drstool.errors import InputError, UsageError
    from drstool.formats import Header, check_folder, goes_to_disk, open_records, open_sink
    from drstool.reports.text import json_text
    from drstool.stages import pseudo_label as stage

    if crf is None and data is not None:
        raise UsageError("--data", "is where a CRF finds the images, and there is none", "give --crf, or leave it out")
    if "background" in given:
        check_saliency_given(settings, saliency is not None)
    share = pick_shard(shard)
    output = share.output(output)
    if json and output in (None, "-", "/dev/stdout"):
        raise UsageError("--json", "would go to stdout, where the labels go", "give -o a name")
    report = stage.IgnoreReport()
    run.reserve_sink(output, what="labels")
    if saliency:
        check_folder(saliency)
    with open_records(maps) as source:
        if not source.is_maps:
            raise InputError(
                source.where, f"holds {source.kind}", "pseudo-label reads maps, as 'drstool cam' or 'refine' write them"
            )
        if source.kind == "score-maps":
            settings = of_probabilities(settings, given)
        check_saliency_given(settings, saliency is not None)
        dataset = _dataset_of(data, split, source.header.class_names)
        digests, piped = run.digests_of(maps=maps)
        told = {
            "device": crf is not None,
            "settings": asdict_plain(settings) | _told(crf),
            "inputs": digests | (run.digests_of(saliency=saliency)[0] if saliency else {}) | list_of(dataset),
            "used": {"saliency": settings.uses_saliency, "pixel_ground_truth": False},
        }
        part = share.part_of(source)
        work = run.work(source.header.class_names, **told, part=part)
        ids = share.of_ids(ids_of(source, maps, run.resume))
        kept = begin(run, output, "labels", work, ids, piped=piped)
        chosen, total = share.of_records(source, without=kept.done if kept else ())
        # What an earlier sitting ignored is not counted again.
        since = " since going on" if kept and kept.done else ""
        chain = run.provenance(source.header.provenance, **told, resumed=kept.sittings if kept else ())
        header = Header("labels", source.header.class_names, chain, run.marked(part, source.header.class_names, **told))
        with open_sink(output, header, overwrite=run.overwrite, what="labels", kept=kept) as sink:
            made = stage.pseudo_label(
                chosen,
                settings,
                saliency_of=saliency_folder(saliency) if saliency else None,
                relabelling=None if crf is None else stage.Relabelling(crf, images_of(dataset), run.device),
                workers=run.threads,
                on_error=run.on_error,
                track=run.track,
                total=total,
                num_object_classes=len(source.header.class_names),
                report=report,
                finish=sink.prepare,
                # A pipe is to flow at both of its ends.
                batched=total is not None and goes_to_disk(output),
            )
            sink.put_all(made)
    names = source.header.class_names
    if json:
        run.write(json_text(report.to_json(names)))
    run.done(f"{sink.count} label images to {output or 'stdout'}, {report.words(names)}{since},")


@command(
    "segment",
    resume=True,
    settings=SegmentSettings,
    crf="none",
    example="drstool segment --data demo --split val --weights seg.pt -o pred",
)
def segment(
    run: Run,
    settings: SegmentSettings,
    crf: CrfSettings | None,
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
    from drstool.checkpoints.checkpoint import load_checkpoint
    from drstool.data import open_dataset
    from drstool.formats import Header, open_sink, write_both
    from drstool.inference import Execution
    from drstool.stages import segment as stage

    share = pick_shard(shard)
    output = share.output(output)
    if scores is not None:
        scores = share.output(scores)
        _check_apart(output, scores)
        run.reserve_sink(scores, what="maps")
    run.reserve_sink(output, what="labels")
    checkpoint = load_checkpoint(weights, "segmenter")
    dataset = open_dataset(data, split, class_names=checkpoint.class_names, images_only=True)
    chosen, part = share.of_dataset(dataset)
    told = {
        "device": True,
        "settings": asdict_plain(settings) | {"precision": precision} | _told(crf),
        "inputs": {"checkpoint": run.digest(weights)} | list_of(dataset),
        "used": {"pixel_ground_truth": False},
    }
    work, ids = run.work(checkpoint.class_names, **told, part=part), [item.id for item in chosen.items]
    if scores is not None and is_finished(run, scores, "score-maps", work, ids):
        # They come to be before the labels do; now only those are missing.
        kept_scores, scores = None, None
    kept = begin(run, output, "labels", work, ids, silent=scores is not None)
    if scores is not None:
        kept_scores = _begin_scores(run, scores, kept, work, ids)
    items = rest_of(chosen.items, kept)
    records = stage.segment(
        items,
        checkpoint,
        settings,
        scores=scores is not None,
        crf=crf,
        execution=Execution(run.device, run.map_precision(precision), tf32=tf32, workers=run.threads),
        on_error=run.on_error,
        track=run.track,
        total=len(items),
    )
    chain = run.provenance(checkpoint.provenance, **told, resumed=kept.sittings if kept else ())
    header = Header("labels", checkpoint.class_names, chain, run.marked(part, checkpoint.class_names, **told))
    labels = open_sink(output, header, overwrite=run.overwrite, what="labels", kept=kept, threads=run.threads)
    if scores is None:
        with labels as sink:
            sink.write_all(record for record, _ in records)
    else:
        header = replace(header, kind="score-maps")
        maps = open_sink(
            scores, header, overwrite=run.overwrite, what="maps", kept=kept_scores, threads=run.threads
        )
        with labels as sink, maps as map_sink:
            write_both(sink, map_sink, records)
    run.done(f"{sink.count} label images to {output or 'stdout'}")


def _begin_scores(run: Run, scores: str, kept: Any, work: Any, ids: list[str]) -> Any:
    """What is finished of the scores; labels and scores then have the same images."""
    if kept is None:
        # Of labels that went to a pipe, nothing is.
        return None
    begun = begin(run, scores, "score-maps", work, ids, among=kept.done)
    kept.keep_only(begun.done if begun is not None else ())
    return begun


@command(
    "crf",
    resume=True,
    settings=CueSettings,
    crf="deeplab",
    example="drstool crf refined.h5 --background power -o smooth.h5",
)
def crf_(
    run: Run,
    settings: CueSettings,
    given: frozenset[str],
    crf: CrfSettings | None,
    maps: MapsIn = None,
    saliency: Saliency = None,
    data: CrfData = None,
    split: Split = None,
    output: OutputOrStdout = None,
    dtype: Annotated[
        str,
        typer.Option(
            "--dtype",
            metavar="uint8|float16",
            help="How probabilities are stored: uint8 is round(255 x); float16 is finer and larger.",
        ),
    ] = "uint8",
    shard: ShardOption = None,
) -> None:
    """Write class probabilities that follow the images' edges, from probabilities or maps.

    Of localization and refined maps the probabilities are the cues, background included, divided by their sum.
    """
    from drstool.cues import check_saliency_given, of_probabilities, saliency_folder
    from drstool.data.photographs import images_of
    from drstool.errors import InputError, UsageError
    from drstool.formats import Header, open_records, open_sink
    from drstool.inference import Execution
    from drstool.stages import crf as stage

    if crf is None:
        raise UsageError("--crf", "none leaves nothing to do", "give irn, deeplab or psa")
    check_choice("--dtype", dtype, ("uint8", "float16"))
    share = pick_shard(shard)
    output = share.output(output)
    run.reserve_sink(output, what="maps")
    with open_records(maps) as source:
        if not source.is_maps:
            raise InputError(
                source.where, f"holds {source.kind}", "crf reads maps, as 'drstool segment --scores' or 'refine' write"
            )
        scores = source.kind == "score-maps"
        if scores:
            settings = of_probabilities(settings, given)
        check_saliency_given(settings, saliency is not None)
        dataset = _dataset_of(data, split, source.header.class_names)
        digests, piped = run.digests_of(maps=maps)
        told = {
            "device": True,
            "settings": asdict_plain(settings) | _told(crf) | {"dtype": dtype},
            "inputs": digests | (run.digests_of(saliency=saliency)[0] if saliency else {}) | list_of(dataset),
            "used": {"saliency": settings.uses_saliency, "pixel_ground_truth": False},
        }
        part = share.part_of(source)
        work = run.work(source.header.class_names, **told, part=part)
        ids = share.of_ids(ids_of(source, maps, run.resume))
        kept = begin(run, output, "score-maps", work, ids, piped=piped)
        chosen, total = share.of_records(source, without=kept.done if kept else ())
        records = stage.crf(
            chosen,
            crf,
            settings,
            scores=scores and settings.background == "rest",
            saliency_of=saliency_folder(saliency) if saliency else None,
            image_of=images_of(dataset),
            dtype=dtype,
            execution=Execution(run.device, workers=run.threads),
            on_error=run.on_error,
            track=run.track,
            total=total,
        )
        chain = run.provenance(source.header.provenance, **told, resumed=kept.sittings if kept else ())
        part = run.marked(part, source.header.class_names, **told)
        header = Header("score-maps", source.header.class_names, chain, part)
        with open_sink(output, header, overwrite=run.overwrite, what="maps", kept=kept, threads=run.threads) as sink:
            sink.write_all(records)
    run.done(f"{sink.count} images' probabilities to {output or 'stdout'}")


def _told(crf: CrfSettings | None) -> dict:
    """The CRF as provenance tells it."""
    return {} if crf is None else {"crf": asdict_plain(crf)}


def _dataset_of(data: str | None, split: str | None, class_names: tuple[str, ...]) -> Dataset | None:
    """Where the CRF finds the photographs, unless the maps say so."""
    from drstool.data import open_dataset

    check_split(split, data)
    return None if data is None else open_dataset(data, split, class_names=class_names, images_only=True)


def _check_apart(labels: str | None, scores: str) -> None:
    """Check that labels and scores do not go to one place."""
    from drstool.errors import UsageError

    names = [os.path.realpath("/dev/stdout" if name in (None, "-") else name) for name in (labels, scores)]
    if names[0] == names[1]:
        raise UsageError(
            "--scores", f"would go where the labels go, {labels or 'stdout'}", "give both -o and --scores a name"
        )
