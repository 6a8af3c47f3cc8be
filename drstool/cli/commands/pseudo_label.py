"""``pseudo-label``: label PNGs from maps."""

from __future__ import annotations

from typing import Annotated

import typer

from drstool.cli.artifact import Artifact
from drstool.cli.cues import CrfImages, CueFiles, check_together, open_cues
from drstool.cli.options import OutputOrStdout, command
from drstool.cli.run import Run, plain, plain_crf
from drstool.errors import UsageError
from drstool.recipe import CrfSettings, PseudoLabelSettings


@command(
    "pseudo-label", resume=True, shards=True, settings=PseudoLabelSettings, crf="none", crf_labels=True,
    example="drstool pseudo-label refined.h5 --saliency demo/saliency_map -o labels",
)
def pseudo_label(
    run: Run,
    settings: PseudoLabelSettings,
    given: frozenset[str],
    crf: CrfSettings | None,
    files: CueFiles,
    images: CrfImages,
    output: OutputOrStdout = None,
    json: Annotated[bool, typer.Option(
        "--json", rich_help_panel="Output",
        help="Print what the rules ignored, and empty maps, by class, as JSON; needs -o.")] = False,
) -> None:
    """Write label PNGs from maps: object cues against a background cue.

    A CRF (--crf) relabels the pixels before any is ignored. With irn's settings it starts from the labels of the
    strongest cues, as IRN's does; otherwise from the cues themselves, divided by their sum, as PSA's does.
    """
    from drstool.reports.text import json_text
    from drstool.stages import pseudo_label as stage

    check_together(settings, given, crf, images)
    output = run.claim(output, "labels")
    if json and output in (None, "-", "/dev/stdout"):
        raise UsageError("--json", "would go to stdout, where the labels go", "give -o NAME")
    report = stage.IgnoreReport()
    with open_cues(run, files, images, settings, given, crf=crf is not None) as cues:
        artifact = Artifact(
            run, output, "labels", cues.records, cues.classes, settings=plain(cues.settings) | plain_crf(crf),
            inputs=cues.inputs, used=cues.used, device=crf is not None)
        with artifact.open() as sink:
            sink.put_all(stage.pseudo_label(
                artifact.todo, cues.settings, saliency_of=cues.saliency_of, workers=run.threads, report=report,
                relabelling=None if crf is None else stage.Relabelling(crf, cues.image_of, run.device),
                num_object_classes=len(cues.classes), finish=sink.prepare, **artifact.work))
    if json:
        run.write(json_text(report.to_json(cues.classes)))
    run.notes(report.empty_lines(cues.classes, settings.saliency_range))
    since = " since resuming" if artifact.finished else ""
    artifact.done("label image", note=f", {report.words(cues.classes)}{since},")
