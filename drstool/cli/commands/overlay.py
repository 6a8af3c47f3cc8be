"""``overlay``: pictures of labels, maps and ground truth over their images, pages to look at them, and curves."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from drstool.cli.artifact import Artifact
from drstool.cli.datasets import OptionalDataOptions
from drstool.cli.options import LabelsOrNone, Output, Saliency, command
from drstool.cli.run import Run, plain
from drstool.errors import UsageError
from drstool.recipe import OverlaySettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from drstool.data import Dataset
    from drstool.formats import RecordSource


@dataclass(frozen=True)
class OtherOptions:
    """What is written instead of single pictures."""

    gallery: Annotated[Optional[str], typer.Option(
        "--gallery", metavar="DIR", help="Write a page to look at all images into this folder; open its index.html in "
        "a browser.")] = None
    saliency: Saliency = None
    curves: Annotated[bool, typer.Option(
        "--curves", help="Draw the curves of training logs (--log) and of sweeps (eval --sweep --json).")] = False
    logs: Annotated[Optional[list[str]], typer.Argument(
        metavar="[LOG]...", help="For --curves: the files.", show_default=False)] = None

    def check(self, output: str | None, others: Mapping[str, object], resume: bool) -> None:
        """Check that the options go together, ``others`` being those of pictures."""
        if self.logs and not self.curves:
            raise UsageError(self.logs[0], "is a file of curves to draw", "add --curves, or give --labels or --maps")
        if self.gallery is not None and (output is not None or self.curves):
            raise UsageError("--gallery", "names the folder to write", "omit -o and --curves")
        if self.saliency is not None and self.gallery is None:
            raise UsageError("--saliency", "serves the maps of a gallery", "add --gallery, or omit it")
        if self.gallery is None and output is None:
            raise UsageError("-o", "is missing", "give -o NAME, or --gallery DIR")
        if resume and (self.gallery is not None or self.curves):
            raise UsageError("--resume", "is for folders of pictures", "omit it; what is unfinished is made anew")
        given = [f"--{name}" for name, value in others.items() if value is not None]
        if self.curves and (given or not self.logs):
            raise UsageError(
                "--curves", f"does not go with {given[0]}" if given else "has no file to draw",
                "give training logs, or files of eval --sweep --json, such as --curves a.jsonl b.jsonl -o curves.pdf")


@command(
    "overlay", resume=True, settings=OverlaySettings,
    example="drstool overlay --data demo --split val --labels pred -o figures",
)
def overlay(
    run: Run,
    settings: OverlaySettings,
    data: OptionalDataOptions,
    other: OtherOptions,
    output: Annotated[Optional[str], Output.__metadata__[0]] = None,
    labels: LabelsOrNone = None,
    maps: Annotated[Optional[str], typer.Option(
        "--maps", help="Maps, drawn as heat over the image: a map file or stream.")] = None,
    target: Annotated[bool, typer.Option("--target/--no-target", help="Draw ground truth where there is some.")] = True,
) -> None:
    """Write pictures of images with labels, ground truth and maps over them; or a page, or curves.

    With --gallery the page shows all images with their scores, confusions, labels and maps. It needs no server.
    """
    other.check(output, {"labels": labels, "maps": maps, "data": data.data}, run.resume)
    if other.curves:
        return _write_curves(run, output, other.logs)
    paths = {name: path for name, path in (("labels", labels), ("maps", maps)) if path is not None}
    if not paths and data.data is None:
        raise UsageError("overlay", "has nothing to draw", "give --data, --labels or --maps")
    run.reserve(other.gallery or output, folder=True)
    with ExitStack() as stack:
        shown = _Shown(run, data, paths, target, stack)
        if other.gallery is not None:
            return shown.write_gallery(other.gallery, other.saliency)
        shown.write_pictures(output, settings)


def _write_curves(run: Run, output: str, logs: list[str]) -> None:
    """Write a figure of curves."""
    from drstool.figures.extra import figure_format
    from drstool.reports.text import counted
    from drstool.stages.curves import write_curves

    figure_format(output)
    run.reserve(output, picture=True)
    count = write_curves(logs, output, run.overwrite)
    run.done(f"wrote {counted(count, 'curve')} of {counted(len(logs), 'file')} to {output}")


class _Shown:
    """What is drawn: records, and the dataset that they are about."""

    def __init__(
        self, run: Run, data: OptionalDataOptions, paths: Mapping[str, str], target: bool, stack: ExitStack,
    ) -> None:
        from drstool.formats import open_records

        self._run, self._paths, self._target = run, paths, target
        self._title = ", ".join(Path(part).stem for part in (data.data, data.split) if part)
        self.sources: dict[str, RecordSource] = {
            name: stack.enter_context(open_records(path)) for name, path in paths.items()}
        headers = (source.header for source in self.sources.values())
        self.names = next((header.class_names for header in headers if header is not None), None) or None
        self.dataset: Dataset | None = data.open(class_names=self.names) if data.data is not None else None

    def _job(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        drawn = self._target and self.dataset is not None
        return {"settings": {**settings, "target": self._target},
                "used": {"pixel_ground_truth": "drawn" if drawn else False}}

    def write_pictures(self, output: str, settings: OverlaySettings) -> None:
        """Write pictures, as many for each image as there are things to draw."""
        from drstool.inputs import Pictures
        from drstool.stages import overlay as stage

        artifact = Artifact(
            self._run, output, "figures", Pictures(self.sources, self._paths, self.dataset), self.names or (),
            **self._job(plain(settings)))
        artifact.write_pictures(stage.overlay(
            self.dataset, artifact.todo, settings=settings, class_names=self.names, targets=self._target,
            done=frozenset(artifact.finished), workers=self._run.threads, **artifact.work))
        artifact.done("picture")

    def write_gallery(self, output: str, saliency: str | None) -> None:
        """Write a page with all images."""
        from drstool.artifacts.header import Header
        from drstool.cues import saliency_folder
        from drstool.data import saliency_of_items
        from drstool.formats import check_folder, write_files
        from drstool.inputs import Pictures
        from drstool.reports.text import counted
        from drstool.stages import gallery as stage
        from drstool.stages.overlay import heat_colors

        if saliency is not None:
            check_folder(saliency)
        own = saliency_of_items(self.dataset) if self.dataset is not None else None
        shown = stage.Sources(
            self.dataset, *({Path(self._paths[kind]).name or kind: source for kind, source in self.sources.items()
                             if kind == each} for each in ("labels", "maps")),
            class_names=self.names, saliency_of=saliency_folder(saliency) if saliency is not None else own,
            targets=self._target, title=self._title)
        pictures = Pictures(self.sources, self._paths, self.dataset)
        history = self._run.history(
            self._run.job(self.names or (), inputs=pictures.inputs, **self._job({})), pictures.upstream)
        written = write_files(output, Header("gallery", tuple(self.names or ()), history), stage.gallery_files(
            shown, heat_colors(), workers=self._run.threads, on_error=self._run.on_error, track=self._run.track),
            overwrite=self._run.overwrite)
        count = sum(name.startswith("images/") for name in written)
        self._run.done(f"wrote {counted(count, 'image')} to {output}/index.html, to be opened in a browser,")

