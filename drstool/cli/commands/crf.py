"""``crf``: probabilities that follow the edges of their images."""

from __future__ import annotations

from drstool.cli.artifact import Artifact
from drstool.cli.cues import CrfImages, CueFiles, open_cues
from drstool.cli.options import DTYPES, Dtype, OutputOrStdout, command
from drstool.cli.parameters import check_choice
from drstool.cli.run import Run, plain, plain_crf
from drstool.errors import UsageError
from drstool.recipe import CrfSettings, CueSettings


@command(
    "crf", resume=True, shards=True, settings=CueSettings, crf="deeplab",
    example="drstool crf refined.h5 --background power -o smooth.h5",
)
def crf_(
    run: Run,
    settings: CueSettings,
    given: frozenset[str],
    crf: CrfSettings | None,
    files: CueFiles,
    images: CrfImages,
    output: OutputOrStdout = None,
    dtype: Dtype = "uint8",
) -> None:
    """Write class probabilities that follow the images' edges, from probabilities or maps.

    For localization and refined maps, the probabilities are the cues, background included, divided by their sum.
    """
    from drstool.inference import Execution
    from drstool.reports.empty_maps import saliency_lines
    from drstool.stages import crf as stage

    if crf is None:
        raise UsageError("--crf", "none leaves nothing to do", "expected irn, deeplab or psa")
    check_choice("--dtype", dtype, DTYPES)
    output = run.claim(output, "maps")
    largest: list[int] = []
    with open_cues(run, files, images, settings, given) as cues:
        artifact = Artifact(
            run, output, "score-maps", cues.records, cues.classes, inputs=cues.inputs, used=cues.used, device=True,
            settings=plain(cues.settings) | plain_crf(crf) | {"dtype": dtype})
        artifact.write(stage.crf(
            artifact.todo, crf, cues.settings, scores=cues.are_scores and cues.settings.background == "rest",
            saliency_of=cues.saliency_of, image_of=cues.image_of, dtype=dtype, largest=largest,
            execution=Execution(run.device, workers=run.threads), **artifact.work))
    run.notes(saliency_lines(largest, settings.saliency_range))
    artifact.done("image", before="probabilities of ")
