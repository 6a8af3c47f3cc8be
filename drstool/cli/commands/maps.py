"""``cam`` and ``refine``: maps from networks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Optional

import typer

from drstool.cli.options import (
    Autotune, Data, DataOrNone, MapPrecision, MapsIn, OutputOrStdout, Split, Tf32, Weights, Winograd, command,
)
from drstool.cli.parameters import check_choice, check_split
from drstool.cli.run import Run, asdict_plain, list_of
from drstool.cli.shards import Shard, ShardOption, pick_shard
from drstool.cli.unfinished import begin, ids_of, rest_of
from drstool.recipe import CamSettings, RefineSettings

_DTYPES = ("uint8", "float16")

MapSize = Annotated[
    str,
    typer.Option(
        "--map-size", help="Size of the stored maps: square (the image size), image (its own size), or pixels."
    ),
]
Dtype = Annotated[
    str,
    typer.Option(
        "--dtype",
        metavar="|".join(_DTYPES),
        help="How values are stored: uint8 is round(255 x); float16 is finer and larger.",
    ),
]


@command(
    "cam",
    resume=True,
    settings=CamSettings,
    example="drstool cam --data demo --split train --weights cls.pt -o cams.h5",
)
def cam(
    run: Run,
    settings: CamSettings,
    data: Data,
    weights: Weights,
    output: OutputOrStdout = None,
    split: Split = None,
    tags: Annotated[
        str, typer.Option("--tags", help="given: the data's; predicted: by the classifier; or a file of tags.")
    ] = "given",
    tag_threshold: Annotated[
        float, typer.Option(help="Probability from which a predicted tag counts.", min=0.0, max=1.0)
    ] = 0.5,
    method: Annotated[
        Optional[str],
        typer.Option(
            metavar="drs|cam|grad-cam",
            help="The network's maps as trained, with suppression off, or Grad-CAM. "
            "[default: drs, or cam where nothing suppresses]",
        ),
    ] = None,
    layer: Annotated[int, typer.Option(help="Layer of Grad-CAM, 1 to 16.")] = 13,
    map_size: MapSize = "square",
    dtype: Dtype = "uint8",
    precision: MapPrecision = "float32",
    tf32: Tf32 = True,
    autotune: Autotune = True,
    winograd: Winograd = True,
    shard: ShardOption = None,
) -> None:
    """Write localization maps of the images' classes."""
    from drstool.checkpoints.checkpoint import load_checkpoint
    from drstool.data import open_dataset
    from drstool.formats import Header, open_sink
    from drstool.inference import Execution
    from drstool.stages import cam as stage

    check_choice("--dtype", dtype, _DTYPES)
    if method == "grad-cam" and precision == "auto":
        # Its gradients are too small for float16.
        precision = "float32"
    share = pick_shard(shard)
    output = share.output(output)
    run.reserve_sink(output, what="maps")
    checkpoint = load_checkpoint(weights, "classifier")
    settings = settings.for_network(checkpoint.recipe)
    method = method or stage.usual_method(checkpoint)
    predicted = tags == "predicted"
    dataset = open_dataset(
        data,
        split,
        tags=None if tags in ("given", "predicted") else tags,
        class_names=checkpoint.class_names,
        images_only=predicted,
    )
    chosen, part = share.of_dataset(dataset, settings.together)
    told = {
        "device": True,
        "settings": asdict_plain(settings)
        | {"method": method, "layer": layer, "tag_threshold": tag_threshold if predicted else None}
        | {"map_size": map_size, "dtype": dtype, "precision": precision},
        "inputs": {"checkpoint": run.digest(weights)} | list_of(dataset),
        "used": {"tags": "predicted" if predicted else dataset.tags_source, "pixel_ground_truth": False},
    }
    work, ids = run.work(checkpoint.class_names, **told, part=part), [item.id for item in chosen.items]
    kept = begin(run, output, "localization-maps", work, ids, unit=settings.together)
    items = rest_of(chosen.items, kept)
    records = stage.cam(
        items,
        checkpoint,
        settings,
        method=method,
        layer=layer,
        predict_tags=tag_threshold if predicted else None,
        map_size=map_size,
        dtype=dtype,
        execution=Execution(
            run.device, run.map_precision(precision), tf32=tf32, autotune=autotune, winograd=winograd,
            workers=run.threads),
        on_error=run.on_error,
        track=run.track,
        total=len(items),
    )
    chain = run.provenance(checkpoint.provenance, **told, resumed=kept.sittings if kept else ())
    part = run.marked(part, checkpoint.class_names, **told)
    header = Header("localization-maps", checkpoint.class_names, chain, part)
    with open_sink(output, header, overwrite=run.overwrite, what="maps", kept=kept, threads=run.threads) as sink:
        sink.write_all(records)
    run.done(f"{sink.count} images' maps to {output or 'stdout'}")


@command(
    "refine",
    resume=True,
    settings=RefineSettings,
    example="drstool refine --data demo --split train --weights refiner.pt -o refined.h5",
)
def refine(
    run: Run,
    settings: RefineSettings,
    weights: Weights,
    maps: MapsIn = None,
    data: DataOrNone = None,
    output: OutputOrStdout = None,
    split: Split = None,
    map_size: MapSize = "image",
    dtype: Dtype = "float16",
    precision: MapPrecision = "float32",
    tf32: Tf32 = True,
    autotune: Autotune = True,
    winograd: Winograd = True,
    shard: ShardOption = None,
) -> None:
    """Write refined maps of the images' classes.

    The images come from --data, or are those that a map file or stream names.
    """
    from drstool.checkpoints.checkpoint import load_checkpoint
    from drstool.errors import UsageError
    from drstool.formats import Header, open_sink
    from drstool.inference import Execution
    from drstool.stages import refine as stage

    if maps is not None and data is not None:
        raise UsageError("refine", "takes images from --data or from maps, not both", "leave one out")
    check_split(split, data)
    check_choice("--dtype", dtype, _DTYPES)
    share = pick_shard(shard)
    output = share.output(output)
    run.reserve_sink(output, what="maps")
    checkpoint = load_checkpoint(weights, "refiner")
    settings = settings.for_network(checkpoint.recipe)
    with _Images(run, data, split, maps, checkpoint.class_names, share, settings.together) as images:
        told = {
            "device": True,
            "settings": asdict_plain(settings) | {"map_size": map_size, "dtype": dtype, "precision": precision},
            "inputs": {"checkpoint": run.digest(weights)} | images.digests,
            "used": {"pixel_ground_truth": False},
        }
        work = run.work(checkpoint.class_names, **told, part=images.part)
        kept = begin(
            run, output, "refined-maps", work, images.ids, unit=settings.together, piped=images.piped)
        items, total = images.rest(kept)
        records = stage.refine(
            items,
            checkpoint,
            settings,
            map_size=map_size,
            dtype=dtype,
            execution=Execution(
                run.device, run.map_precision(precision), tf32=tf32, autotune=autotune, winograd=winograd,
                workers=run.threads),
            on_error=run.on_error,
            track=run.track,
            total=total,
        )
        chain = run.provenance(
            checkpoint.provenance, images.upstream, **told, resumed=kept.sittings if kept else ())
        part = run.marked(images.part, checkpoint.class_names, **told)
        header = Header("refined-maps", checkpoint.class_names, chain, part)
        with open_sink(output, header, overwrite=run.overwrite, what="maps", kept=kept, threads=run.threads) as sink:
            sink.write_all(records)
    run.done(f"{sink.count} images' maps to {output or 'stdout'}")


class _Images:
    """Items to refine; from a dataset, or those that maps name.

    Attributes
    ----------
    ids
        Where they are known beforehand.
    part
        Which part of the whole they are.
    digests
        Of the list, or of the maps.
    upstream
        Provenance of the maps.
    piped
        Whether they come through a pipe.
    """

    def __init__(
        self,
        run: Run,
        data: str | None,
        split: str | None,
        maps: str | None,
        class_names: tuple[str, ...],
        share: Shard,
        unit: int,
    ) -> None:
        self._run, self._data, self._split, self._maps, self._class_names = run, data, split, maps, class_names
        self._share, self._unit = share, unit
        self._source: Any = None
        self._chosen: Any = None
        self.upstream: tuple[dict, ...] = ()
        self.digests: dict[str, str] = {}
        self.piped = False

    def __enter__(self) -> _Images:
        if self._data is not None:
            from drstool.data import open_dataset

            dataset = open_dataset(self._data, self._split, class_names=self._class_names)
            self._chosen, self.part = self._share.of_dataset(dataset, self._unit)
            self.ids: Any = [item.id for item in self._chosen.items]
            self.digests = list_of(dataset)
            return self
        from drstool.errors import InputError
        from drstool.formats import open_records

        self._source = source = open_records(self._maps)
        if not source.is_maps:
            raise InputError(source.where, f"holds {source.kind}", "maps name the images to refine; or use --data")
        if source.header.class_names != self._class_names:
            raise InputError(
                source.where, "its classes are not the refiner's", "use a refiner trained on the same classes"
            )
        self.part = self._share.part_of(source)
        self.upstream = source.header.provenance
        self.digests, self.piped = self._run.digests_of(maps=self._maps)
        self.ids = self._share.of_ids(ids_of(source, self._maps, self._run.resume), self._unit)
        return self

    def rest(self, kept: Any) -> tuple[Iterable, int | None]:
        """The items but those that are finished, and their number where it is known."""
        if self._chosen is not None:
            items = rest_of(self._chosen.items, kept)
            return items, len(items)
        from drstool.stages.refine import items_of_maps

        records, total = self._share.of_records(self._source, self._unit, without=kept.done if kept else ())
        return items_of_maps(records, self._class_names), total

    def __exit__(self, *error: object) -> None:
        if self._source is not None:
            self._source.close()
