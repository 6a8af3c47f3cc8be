"""``import``: other projects' files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Optional

import typer

from drstool.cli.datasets import OptionalDataOptions, class_list
from drstool.cli.options import DTYPES, Classes, OutputOrStdout, command
from drstool.cli.parameters import check_choice
from drstool.cli.run import Run
from drstool.errors import UsageError
from drstool.reports.text import counted


@dataclass(frozen=True)
class _NetworkOptions:
    """What a checkpoint of another project does not say."""

    panel: ClassVar[str] = "Method"
    kind: Annotated[Optional[str], typer.Option(
        metavar="classifier|refiner|segmenter",
        help="What a checkpoint holds; required if the file does not show it.")] = None
    delta: Annotated[float, typer.Option(
        help="Bound of a fixed-DRS classifier, which the file does not say.", min=0.0, max=1.0)] = 0.55
    output_stride: Annotated[Optional[int], typer.Option(
        metavar="16|8", help="Output stride of a segmenter; by default, as the file's name says (_os16).")] = None


@dataclass(frozen=True)
class _MapsOptions:
    """How maps of another project are read."""

    panel: ClassVar[str] = "Output"
    dtype: Annotated[Optional[str], typer.Option(
        "--dtype", metavar="|".join(DTYPES), help="How map values are stored: uint8 is round(255 x), float16 is finer; "
        "by default uint8 where it is exact, else float16. Values below 0 or over 1 are errors without this option; "
        "with it they are clipped, except for those over 1 in float16.")] = None
    intersect: Annotated[bool, typer.Option(
        "--intersect", help="Leave out images that only the maps or only --data have.")] = False


@command("import", keep_going=False, example="drstool import --from drs best.pth -o cls.pt")
def import_(
    run: Run,
    file: Annotated[str, typer.Argument(
        metavar="FILE|FOLDER", help="The other project's files: a folder of maps, or a checkpoint.",
        show_default=False)],
    images: OptionalDataOptions,
    networks: _NetworkOptions,
    maps: _MapsOptions,
    output: OutputOrStdout = None,
    origin: Annotated[Optional[str], typer.Option(
        "--from", metavar="FORMAT",
        help="Format to read: drs (the authors' code), irn, psa, mctformer, puzzlecam, clip-es, oaa, wsss-bed, png, "
        "npz or hdf5 for maps; drs for checkpoints. By default, the content tells.", show_default=False)] = None,
    classes: Classes = None,
) -> None:
    """Convert maps or a checkpoint of another project."""
    from drstool.exchange.maps_in import MAP_FORMATS, holds_maps

    check_choice("--from", origin or "drs", tuple(MAP_FORMATS))
    are_maps = holds_maps(file) or origin not in (None, "drs")
    for option, value, needs_maps in (
            ("--kind", networks.kind, False), ("--data", images.data, True), ("--dtype", maps.dtype, True)):
        if value is not None and are_maps != needs_maps:
            raise UsageError(option, f"does not go with {'maps' if are_maps else 'checkpoints'}", "omit it")
    if are_maps:
        _import_maps(run, file, output, origin, images, classes, maps)
    else:
        _import_network(run, file, output, networks, classes)


def _import_maps(
    run: Run, file: str, output: str | None, origin: str | None, images: OptionalDataOptions, classes: str | None,
    options: _MapsOptions,
) -> None:
    from drstool.exchange.maps_in import open_maps
    from drstool.files import is_folder
    from drstool.formats import Header, open_sink
    from drstool.inputs import input_digests, list_digest

    if options.dtype is not None:
        check_choice("--dtype", options.dtype, DTYPES)
    output = run.claim(output, "maps")
    dataset = None if images.data is None else images.open(run, decodes=False, classes=classes)
    names = class_list(run, classes) if dataset is None else None
    with open_maps(file, origin, dataset=dataset, class_names=names, **vars(options)) as source:
        run.notes(source.notices)
        # Not the digest of a folder: all files would be read before the first one goes on.
        inputs = list_digest(dataset) | ({} if is_folder(file) else input_digests(maps=file)[0])
        job = run.job(source.class_names, settings={"from": source.format, **vars(options)}, inputs=inputs)
        header = Header("localization-maps", source.class_names, run.history(job))
        with open_sink(output, header, overwrite=run.overwrite, threads=run.threads) as sink:
            count = sink.write_all(source.records(run.threads, run.track))
        run.notes(source.notices)
    run.done(f"wrote maps of {counted(count, 'image')} to {output or 'stdout'}")


def _import_network(
    run: Run, file: str, output: str | None, options: _NetworkOptions, classes: str | None,
) -> None:
    from drstool.checkpoints.checkpoint import save_checkpoint
    from drstool.stages import import_ as stage

    if output is None:
        raise UsageError("-o", "is missing: a checkpoint is not written to stdout", "give -o FILE")
    if options.output_stride not in (None, 8, 16):
        raise UsageError("--output-stride", f"{options.output_stride} is not one of 16, 8")
    run.reserve(output)
    checkpoint = stage.import_drs(file, **vars(options), class_names=class_list(run, classes))
    chain = run.history(run.job(inputs={"file": run.digest(file)}))
    save_checkpoint(output, replace(checkpoint, provenance=chain), overwrite=run.overwrite)
    run.done(
        f"wrote {output}, a {checkpoint.kind} of {len(checkpoint.class_names)} object classes with output stride "
        f"{checkpoint.architecture['output_stride']}")
