"""``export``: files for other projects."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Optional

import typer

from drstool.cli.datasets import OptionalDataOptions, class_list
from drstool.cli.options import Classes, Output, command
from drstool.cli.parameters import check_choice
from drstool.cli.run import Run
from drstool.errors import UsageError


@command("export", keep_going=False, example="drstool export --to irn cams.h5 -o irn-cams")
def export(
    run: Run,
    images: OptionalDataOptions,
    output: Output,
    to: Annotated[str, typer.Option(
        "--to", metavar="FORMAT", show_default=False,
        help="Format to write: irn, psa, drs, png or npz for maps; mmseg, coco, geojson, cvat, labelme or "
        "voc-server for labels; onnx, torch-export or safetensors for a checkpoint.")],
    file: Annotated[Optional[str], typer.Argument(
        metavar="INPUT", help="What to export; by default, a stream on stdin.", show_default=False)] = None,
    classes: Classes = None,
) -> None:
    """Write maps, labels or networks in the formats of other projects."""
    from drstool.exchange.exports import EXPORTS, Export
    from drstool.inputs import input_digests

    check_choice("--to", to, tuple(EXPORTS))
    if images.range is not None and not EXPORTS[to].holds_images:
        raise UsageError("--range", f"the format {to} holds no images", "omit it")
    run.reserve(output, folder=EXPORTS[to].is_folder)
    job = run.job(settings={"to": to}, inputs=input_digests(file=file)[0])
    written = EXPORTS[to].write(Export(
        file, output, run.overwrite, class_list(run, classes),
        None if images.data is None else partial(images.open, run), images.split,
        partial(run.history, job), run.notes, run.threads, run.track, images.value_range))
    run.done(f"wrote {written} to {output}")
