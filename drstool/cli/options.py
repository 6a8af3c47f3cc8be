"""What commands share: their common options, and how a function becomes a command."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Annotated, Any, Optional

import typer

from drstool.cli.app import app
from drstool.cli.parameters import option
from drstool.cli.run import Run
from drstool.errors import UsageError

__all__ = [
    "Autotune",
    "Classes",
    "Data",
    "DataOrNone",
    "Init",
    "Labels",
    "LabelsOrNone",
    "MapPrecision",
    "MapsIn",
    "Output",
    "OutputOrStdout",
    "Precision",
    "Saliency",
    "Split",
    "Tags",
    "Tf32",
    "Weights",
    "Winograd",
    "command",
]

Data = Annotated[
    str,
    typer.Option(
        "--data",
        help="Dataset: a VOC folder, a manifest (.jsonl, .csv, .tsv), a folder with one "
        "subfolder per class, a COCO instances JSON, or - for a manifest on stdin.",
        show_default=False,
    ),
]
DataOrNone = Annotated[
    Optional[str],
    typer.Option("--data", help="Dataset, as in the other commands; by default, the images named in the input."),
]
Split = Annotated[
    Optional[str], typer.Option("--split", help="Split of the dataset: its name or, for VOC, a file of image ids.")
]
Tags = Annotated[
    Optional[str],
    typer.Option(
        "--tags", help="File of image-level tags, a line 'ID CLASS CLASS…' per image; replaces the dataset's tags."
    ),
]
Classes = Annotated[
    Optional[str], typer.Option("--classes", help="File of object class names, one per line, in label order.")
]
Weights = Annotated[str, typer.Option("--weights", help="Checkpoint to use.", show_default=False)]
Init = Annotated[
    str,
    typer.Option(
        "--init",
        help="Initial weights: imagenet (downloaded from torchvision), none (random), or a file: a "
        "torchvision state dict or a drstool checkpoint.",
    ),
]
Labels = Annotated[str, typer.Option("--labels", help="Folder of label PNGs.", show_default=False)]
LabelsOrNone = Annotated[Optional[str], typer.Option("--labels", help="Label PNGs: a folder or a stream.")]
MapsIn = Annotated[
    Optional[str],
    typer.Argument(
        metavar="INPUT", help="Map file, stream or folder; by default, a stream on stdin.", show_default=False
    ),
]
Saliency = Annotated[Optional[str], typer.Option("--saliency", help="Folder of saliency maps, one ID.png per image.")]
Output = Annotated[str, typer.Option("-o", "--output", help="File or folder to write.", show_default=False)]
OutputOrStdout = Annotated[
    Optional[str],
    typer.Option("-o", "--output", help="File or folder to write; by default, a stream on stdout, for a pipe."),
]
Precision = Annotated[
    str,
    typer.Option(
        "--precision", help="Floating-point precision: float32, bfloat16, or auto (bfloat16 if the device supports it)."
    ),
]
# Unlike in training, the default is float32: maps must be the same on every device.
MapPrecision = Annotated[
    str,
    typer.Option(
        "--precision",
        help="Floating-point precision: float32; on a GPU also float16 (faster; maps differ by about 0.01) or bfloat16 "
        "(differ by up to 0.1); auto: float16 on a GPU.",
    ),
]
Tf32 = Annotated[
    bool,
    typer.Option("--tf32/--no-tf32", help="On a GPU, allow TF32 in float32 products (faster; as exact as float16)."),
]
Winograd = Annotated[
    bool,
    typer.Option(
        "--winograd/--no-winograd",
        help="On a CPU, use Winograd convolutions: about twice as fast, last digits differ.",
    ),
]
Autotune = Annotated[
    bool,
    typer.Option(
        "--autotune/--no-autotune", help="On a GPU, find the fastest convolution algorithm once per input size."
    ),
]


def _common(keep_going: bool, resume: bool) -> list[inspect.Parameter]:
    """The options that every command has, plus ``--keep-going`` and ``--resume`` if it supports them."""
    workers = "Number of images to read or write in parallel; by default, chosen to suit the machine."
    options = [
        option("device", str, "auto", "--device", help="Device to run on: auto, cpu, cuda or cuda:N."),
        option("seed", int, 0, "--seed", help="Random seed.", min=0, max=2**32 - 1),
        option("workers", Optional[int], None, "--workers", help=workers, min=0, max=1024),
        option("overwrite", bool, False, "--overwrite", help="Replace an existing output."),
        option("resume", bool, False, "--resume", help="Resume an interrupted run of the same command."),
        option("keep_going", bool, False, "--keep-going", help="Skip images that fail; the exit code is then 4."),
        option(
            "no_provenance",
            bool,
            False,
            "--no-provenance",
            help="Record no history in the output, so that identical runs give identical bytes.",
        ),
        option("quiet", bool, False, "-q", "--quiet", help="Print nothing but errors."),
        option("verbose", bool, False, "-v", "--verbose", help="Also print the settings and the device."),
    ]
    wanted = {"keep_going": keep_going, "resume": resume}
    return [each for each in options if wanted.get(each.name, True)]


_COMMON_NAMES = ("device", "seed", "workers", "overwrite", "resume", "keep_going", "no_provenance", "quiet", "verbose")


def command(
    name: str, *, example: str, settings: type | None = None, keep_going: bool = True, resume: bool = False,
    crf: str | None = None, crf_labels: bool = False, joint: bool = False,
) -> Callable:
    """Register a function as a command.

    The function is called with ``run`` (the common options at work), with ``settings`` (an
    instance of the given dataclass, each of whose fields has become an option), ``given`` (names
    of those fields that the user has set), ``automatic`` (names of those that are to be lowered
    where they do not do) and ``crf`` (settings of the CRF, or None) if it takes them, and with its
    own parameters.

    Parameters
    ----------
    name
        Of the command.
    example
        A command line that runs, shown at the end of the help.
    settings
        A dataclass of :mod:`drstool.recipe`.
    keep_going
        Whether single images may fail and be left out.
    resume
        Whether the work can be gone on with after an interruption.
    crf
        What ``--crf`` is by default; None where there is no such option.
    crf_labels
        Whether the CRF may start from labels because the named settings say so.
    joint
        Whether the processes of ``torchrun`` do the work together.
    """

    def register(function: Callable) -> Callable:
        own = [
            p.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for p in inspect.signature(function, eval_str=True).parameters.values()
            if p.name not in ("run", "settings", "given", "automatic", "crf")
        ]
        takes_given, takes_automatic = (
            name in inspect.signature(function).parameters for name in ("given", "automatic"))
        # Whose import takes as long as that of all others together.
        if settings is not None or crf is not None:
            from drstool.cli import numbers

        @functools.wraps(function)
        def call(**values: Any) -> None:
            for parameter in own:
                value = values[parameter.name]
                if value == "" or isinstance(value, (list, tuple)) and "" in value:
                    raise UsageError(_shown_name(parameter), "is empty", "give a value, or leave it out")
            common = {key: values.pop(key, False) for key in _COMMON_NAMES}
            if takes_given:
                values["given"] = numbers.given(settings, values)
            with Run(command=name, arguments=sys.argv, joint=joint, **common) as run:
                if takes_automatic:
                    values["automatic"] = numbers.automatic(settings, values)
                if settings is not None:
                    values["settings"] = numbers.chosen(settings, values)
                if crf is not None:
                    values["crf"] = numbers.chosen_crf(values, crf_labels)
                if settings is not None:
                    run.detail(numbers.summary(values["settings"]))
                function(run=run, **values)

        chosen = numbers.options(settings) if settings is not None else []
        smoothing = numbers.crf_options(crf) if crf is not None else []
        parameters = [*own, *chosen, *smoothing, *_common(keep_going, resume)]
        call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        call.__annotations__ = {p.name: p.annotation for p in parameters}
        # \b: the example stays one line, fit to be copied.
        app.command(name, epilog=f"\b\nExample:\n  {example}", short_help=inspect.getdoc(function).splitlines()[0])(
            call
        )
        return function

    return register


def _shown_name(parameter: inspect.Parameter) -> str:
    """How a user knows a parameter: its option, or its name."""
    told = parameter.annotation.__metadata__[0]
    # In an Annotated, typer takes the first flag for the default.
    flags = [flag for flag in (told.default, *(told.param_decls or ())) if str(flag).startswith("-")]
    return flags[0] if flags else parameter.name.upper()


