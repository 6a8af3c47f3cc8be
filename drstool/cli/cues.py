"""Maps with everything that turns them into labels or probabilities, as ``pseudo-label`` and ``crf`` read them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Optional

import typer

from drstool.cli.datasets import OptionalDataOptions
from drstool.cli.options import MapsIn, Saliency
from drstool.cli.run import Run
from drstool.errors import InputError, UsageError
from drstool.recipe import CrfSettings, CueSettings, PseudoLabelSettings

if TYPE_CHECKING:
    from drstool.data.photographs import ImageOf
    from drstool.inputs import Records

__all__ = ["CrfImages", "CueFiles", "Cues", "check_together", "open_cues"]


@dataclass(frozen=True)
class CueFiles:
    """Where the maps and saliency maps are."""

    panel: ClassVar[str] = "Data"
    maps: MapsIn = None
    saliency: Saliency = None


@dataclass(frozen=True)
class CrfImages(OptionalDataOptions):
    """Where the images are."""

    data: Annotated[Optional[str], typer.Option(
        "--data", help="Images for the CRF, as in the other commands; by default those that the maps name.")] = None


@dataclass(frozen=True)
class Cues:
    """Maps to read, and what else their labels depend on.

    Attributes
    ----------
    records, classes
        The maps, and their object classes.
    are_scores
        Whether they are probabilities.
    settings
        Those of the cue rule that fit the maps.
    saliency_of, image_of
        Paths of an image id's saliency map, and of a record's image.
    inputs, used
        As :class:`drstool.artifacts.job.Job` has them, without those of the maps.
    """

    records: Records
    classes: tuple[str, ...]
    are_scores: bool
    settings: CueSettings
    saliency_of: Callable[[str], Path] | None
    image_of: ImageOf
    inputs: dict[str, str]
    used: dict[str, Any]


def check_together(
    settings: PseudoLabelSettings, given: frozenset[str], crf: CrfSettings | None, images: CrfImages,
) -> None:
    """Check that ``pseudo-label`` is given no images without a CRF, and no rule to ignore pixels where none is ignored.

    Raises
    ------
    UsageError
        It is.
    """
    for option in ("data", "range"):
        if crf is None and getattr(images, option) is not None:
            raise UsageError(
                f"--{option}", "is about the CRF's images, but there is no CRF", f"give --crf, or omit --{option}")
    unused = sorted({"conflict", "background_below"} & given) if not settings.ignore else ()
    if unused:
        raise UsageError(
            "--" + unused[0].replace("_", "-"), "has no effect with --no-ignore, which ignores no pixel", "omit one")


@contextmanager
def open_cues(
    run: Run, files: CueFiles, images: CrfImages, settings: CueSettings, given: frozenset[str], *, crf: bool = True,
) -> Iterator[Cues]:
    """The cues that a command line names; ``given`` are the settings that the user set.

    Without a ``crf`` no images are read.

    Raises
    ------
    InputError, UsageError
        Something is missing, or does not go together.
    """
    from drstool.cues import check_saliency_given, of_probabilities, saliency_folder
    from drstool.data.photographs import images_of
    from drstool.data.value_range import recorded_range
    from drstool.formats import check_folder, open_records
    from drstool.inputs import Records, input_digests, list_digest, range_input

    if "background" in given:
        check_saliency_given(settings, files.saliency is not None)
    if files.saliency:
        check_folder(files.saliency)
    with open_records(files.maps) as source:
        if not source.is_maps:
            raise InputError(
                source.where, f"holds {source.kind}",
                f"{run.command} reads maps, as 'drstool cam', 'refine' or 'import' write")
        assert source.header is not None
        are_scores, classes = source.kind == "score-maps", source.header.class_names
        if are_scores:
            settings = of_probabilities(settings, given)
        check_saliency_given(settings, files.saliency is not None)
        dataset = None
        if crf:
            images = images.read_as(run, recorded_range(source.header.provenance), source.where)
        if images.data is not None:
            dataset = images.open(run, class_names=classes, images_only=True)
        saliency = input_digests(saliency=files.saliency)[0] if files.saliency else {}
        yield Cues(
            Records(source, files.maps, run.shard, resume=run.resume), classes, are_scores, settings,
            saliency_folder(files.saliency) if files.saliency else None, images_of(dataset, images.value_range),
            saliency | list_digest(dataset) | range_input(images.value_range),
            {"saliency": settings.uses_saliency, "pixel_ground_truth": False})
