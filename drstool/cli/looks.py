"""``overlay --gallery`` and ``--curves``: a page to look at a run, and a figure of its curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from drstool.cli.datasets import OptionalDataOptions
from drstool.cli.options import Saliency
from drstool.cli.run import Run
from drstool.errors import UsageError
from drstool.reports.text import counted

if TYPE_CHECKING:
    from drstool.formats import RecordSource
    from drstool.recipe import FigureSettings
    from drstool.stages.gallery import Sources

__all__ = ["LookOptions", "write_curves", "write_gallery"]


@dataclass(frozen=True)
class LookOptions:
    """What is written in place of single pictures and figures."""

    gallery: Annotated[Optional[str], typer.Option(
        "--gallery", metavar="DIR", rich_help_panel="Output",
        help="Folder to write with a page that shows all images, their scores, confusions, labels and maps: open its "
        "index.html in a browser.")] = None
    saliency: Saliency = None
    curves: Annotated[bool, typer.Option(
        "--curves", help="Draw curves of the files named: training logs (--log) and sweeps (eval --sweep --json); "
        "-o names a figure that ends in .pdf, .svg, .png or .jpg.")] = False
    logs: Annotated[Optional[list[str]], typer.Argument(
        metavar="[LOG]...", help="With --curves: logs or sweeps, each optionally as TITLE=PATH.",
        show_default=False)] = None

    @property
    def wanted(self) -> bool:
        """Whether there is a page or a figure of curves to write."""
        return self.gallery is not None or self.curves

    def check(self, run: Run, others: Mapping[str, object]) -> None:
        """Check that the options go together; ``others`` are those that are not for both."""
        if self.logs and not self.curves:
            raise UsageError(self.logs[0], "is a file of curves", "add --curves, or name it with --labels or --maps")
        if self.saliency is not None and self.gallery is None:
            raise UsageError("--saliency", "serves the maps of a gallery", "add --gallery DIR, or omit it")
        if not self.wanted:
            return
        ours = "--curves" if self.curves else "--gallery"
        given = {"gallery": self.curves and self.gallery, **others}
        for name in (name for name, value in given.items() if value):
            raise UsageError(f"--{name}", f"does not go together with {ours}", "run the command once for each")
        if run.resume:
            raise UsageError("--resume", f"cannot be used with {ours}", "run the command again without it")
        if self.curves and not self.logs:
            raise UsageError("--curves", "names no file", "such as: --curves a.jsonl b.jsonl -o curves.pdf")


def write_curves(run: Run, logs: Sequence[str], output: str | None, settings: FigureSettings | None) -> None:
    """Write a figure of curves, as wide as the settings say, if there are any."""
    from drstool.figures.render import check_format, check_installed
    from drstool.figures.spec import FigureSpec
    from drstool.stages.curves import write_curves as write

    if output is None:
        raise UsageError("--curves", "has nowhere to write", "give -o FILE, such as -o curves.pdf")
    check_format(output, "-o")
    check_installed("--curves")
    run.reserve(output)
    width = None if settings is None else FigureSpec(settings=settings).pixels() / settings.dpi
    count = write(logs, output, run.overwrite, width)
    run.done(f"wrote {counted(count, 'curve')} of {counted(len(logs), 'file')} to {output}")


def write_gallery(
    run: Run, look: LookOptions, data: OptionalDataOptions, labels: Sequence[str], maps: Sequence[str], targets: bool,
) -> None:
    """Write a page that shows all images."""
    from drstool.artifacts.header import Header
    from drstool.formats import write_files
    from drstool.inputs import Pictures
    from drstool.stages import gallery as stage

    if not labels and not maps and data.data is None:
        raise UsageError("--gallery", "has nothing to show", "give --data, --labels or --maps")
    run.reserve(str(look.gallery), folder=True)
    with ExitStack() as stack:
        sources = _sources(run, look, data, labels, maps, targets, stack)
        drawn = targets and sources.dataset is not None
        paths = {str(source.path): source for source in (*sources.labels.values(), *sources.maps.values())}
        pictures = Pictures(paths, {path: path for path in paths}, sources.dataset)
        job = run.job(sources.names, inputs=pictures.inputs, used={"pixel_ground_truth": "scored" if drawn else False})
        header = Header("gallery", sources.names, run.history(job, pictures.upstream))
        files = stage.gallery_files(sources, workers=run.threads, on_error=run.on_error, track=run.track)
        written = write_files(str(look.gallery), header, files, overwrite=run.overwrite)
    count = sum(name.startswith("images/") for name in written)
    run.done(f"wrote {counted(count, 'image')} to {look.gallery}/index.html")


def _sources(
    run: Run, look: LookOptions, data: OptionalDataOptions, labels: Sequence[str], maps: Sequence[str], targets: bool,
    stack: ExitStack,
) -> Sources:
    """What is looked at, opened."""
    from drstool.cues import saliency_folder
    from drstool.data import saliency_of_items
    from drstool.formats import check_folder
    from drstool.stages import gallery as stage

    if look.saliency is not None:
        check_folder(look.saliency)
    found = {kind: _opened(kind, texts, stack) for kind, texts in (("labels", labels), ("maps", maps))}
    opened = {f"the {kind} {name}": source for kind, sources in found.items() for name, source in sources.items()}
    data = data.read_as_made(run, opened)
    headers = (source.header for source in opened.values())
    names = next((header.class_names for header in headers if header is not None), None) or None
    dataset = data.open_with(run, opened.values()) if data.data is not None else None
    saliency = saliency_folder(look.saliency) if look.saliency is not None else (
        saliency_of_items(dataset) if dataset is not None else None)
    title = ", ".join(Path(part).stem for part in (data.data, data.split) if part)
    return stage.Sources(
        dataset, **found, class_names=names, saliency_of=saliency, value_range=data.value_range, targets=targets,
        title=title)


def _opened(kind: str, texts: Sequence[str], stack: ExitStack) -> dict[str, RecordSource]:
    """Files by the names that the page gives them."""
    from drstool.figures.columns import parse_column
    from drstool.formats import open_records

    found: dict[str, RecordSource] = {}
    for text in texts:
        column = parse_column(text, "heat" if kind == "maps" else "labels")
        if column.title in found:
            raise UsageError(f"--{kind}", f"several have the name '{column.title}'", f"give them as --{kind} NAME=PATH")
        source = found[column.title] = stack.enter_context(open_records(column.paths[0]))
        if source.is_maps != (kind == "maps"):
            raise UsageError(f"--{kind}", f"{source.where} holds {source.kind}",
                             f"give it as --{'labels' if kind == 'maps' else 'maps'}")
    return found
