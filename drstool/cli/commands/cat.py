"""``cat``: several map files, streams or label folders made into one."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from drstool.cli.datasets import class_list
from drstool.cli.options import Classes, OutputOrStdout, command
from drstool.cli.parameters import number_list
from drstool.cli.run import Run
from drstool.errors import UsageError
from drstool.reports.text import counted

if TYPE_CHECKING:
    from drstool.formats import RecordSource


@command("cat", keep_going=False, example="drstool cat cams.h5 -o cams.tar")
def cat(
    run: Run,
    inputs: Annotated[Optional[list[str]], typer.Argument(
        metavar="INPUT", help="Map files, streams or label folders; by default what comes on stdin.",
        show_default=False)] = None,
    output: OutputOrStdout = None,
    ids: Annotated[
        Optional[str],
        typer.Option(
            "--ids",
            metavar="FILE|-",
            help="Keep only these images: a file, or - for stdin, with one id per line or the output of 'drstool ids'.",
        ),
    ] = None,
    only: Annotated[Optional[str], typer.Option(
        "--only", metavar="NAME,NAME,…", help="Keep the maps of these classes only, and images with one.")] = None,
    fuse: Annotated[Optional[str], typer.Option(
        "--fuse", metavar="max|mean", help="Make one map of several of the same images, pixel by pixel.")] = None,
    factors: Annotated[Optional[str], typer.Option(
        "--factors", metavar="X,X,…", help="Weights of the inputs for --fuse mean.")] = None,
    incomplete: Annotated[bool, typer.Option(
        "--incomplete", help="Merge shards although some of them are missing.")] = False,
    classes: Classes = None,
) -> None:
    """Merge, convert, filter or fuse map files, streams and label folders.

    Shards are merged in their original order, regardless of the order given.
    """
    from drstool.artifacts.header import record_type
    from drstool.formats import open_sink
    from drstool.stages import cat as stage

    names = inputs or ["-"]
    _check_options(names, ids, fuse, factors, incomplete)
    weights = number_list("--factors", factors, float) if factors is not None else ()
    with ExitStack() as stack:
        sources = [_opened(name, stack, stays_open=fuse is not None) for name in names]
        if fuse is None:
            sources = stage.in_order(sources, incomplete=incomplete)
        header = stage.merged_header(sources, class_list(run, classes), fused=fuse is not None)
        output = run.claim(output, record_type(header.kind))
        wanted, chosen = _read_ids(ids), [name.strip() for name in only.split(",")] if only is not None else None
        records = stage.cat(sources, ids=wanted) if fuse is None else stage.fuse(sources, fuse, weights, ids=wanted)
        if chosen is not None:
            records = stage.keep_classes(records, chosen, header.class_names)
        settings = {"fuse": fuse, "factors": list(weights), "only": chosen, "ids": wanted and len(wanted)}
        job = run.job(settings={name: value for name, value in settings.items() if value})
        header = replace(header, provenance=run.history(job, header.provenance))
        with open_sink(output, header, overwrite=run.overwrite, threads=run.threads) as sink:
            count = sink.write_all(run.track(records, "cat", None))
    run.done(f"wrote {header.kind.replace('-', ' ')} of {counted(count, 'image')} to {output or 'stdout'}")


def _check_options(
    names: list[str], ids: str | None, fuse: str | None, factors: str | None, incomplete: bool
) -> None:
    """Check that options of ``cat`` go together."""
    if names.count("-") + (ids == "-") > 1:
        raise UsageError("stdin", "can only be read once", "name a file")
    if factors is not None and fuse is None:
        raise UsageError("--factors", "are weights for --fuse", "give --fuse mean, or omit --factors")
    if fuse is not None and incomplete:
        raise UsageError("--incomplete", "is about shards, which --fuse does not merge", "omit one of them")


def _opened(name: str, stack: ExitStack, *, stays_open: bool) -> RecordSource:
    """An input that is read when its turn comes: until then, what can be opened again takes no handle."""
    from drstool.formats import open_records

    source = open_records(name)
    if stays_open or source.path is None:
        return stack.enter_context(source)
    source.close()
    return source


def _read_ids(name: str | None) -> list[str] | None:
    from drstool.stages.cat import read_ids
    from drstool.text import read_lines, read_stdin_text

    if name is None:
        return None
    return read_ids(read_stdin_text().split("\n") if name == "-" else read_lines(name))
