"""What commands share: their common options, and how a function becomes a command."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from typing import Annotated, Any, Optional, get_type_hints

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
        help="Images: a VOC folder, a manifest (.jsonl, .csv, .tsv), a folder with one "
        "subfolder per class, a COCO instances JSON, or - for a manifest on stdin.",
        show_default=False,
    ),
]
DataOrNone = Annotated[
    Optional[str],
    typer.Option("--data", help="Images, as in the other commands; by default those that the input names."),
]
Split = Annotated[Optional[str], typer.Option("--split", help="Part of the data: a name, or for VOC a file of ids.")]
Tags = Annotated[
    Optional[str],
    typer.Option("--tags", help="File of image-level tags, 'id class class…' a line, in place of the data's own."),
]
Classes = Annotated[
    Optional[str], typer.Option("--classes", help="File of object class names, one a line, in label order.")
]
Weights = Annotated[str, typer.Option("--weights", help="Checkpoint.", show_default=False)]
Init = Annotated[
    str,
    typer.Option(
        "--init",
        help="Weights to start from: imagenet (torchvision's download), none, or a file: a "
        "state dict of torchvision's network, or a drstool checkpoint.",
    ),
]
Labels = Annotated[str, typer.Option("--labels", help="Folder of label PNGs.", show_default=False)]
LabelsOrNone = Annotated[Optional[str], typer.Option("--labels", help="Label PNGs: a folder, or a stream.")]
MapsIn = Annotated[
    Optional[str],
    typer.Argument(
        metavar="INPUT", help="Map file, stream or folder; by default what comes on stdin.", show_default=False
    ),
]
Saliency = Annotated[Optional[str], typer.Option("--saliency", help="Folder of saliency PNGs, ID.png each.")]
Output = Annotated[str, typer.Option("-o", "--output", help="File or folder to write.", show_default=False)]
OutputOrStdout = Annotated[
    Optional[str],
    typer.Option("-o", "--output", help="File or folder to write; by default a stream on stdout, for a pipe."),
]
Precision = Annotated[
    str, typer.Option("--precision", help="float32, bfloat16, or auto: bfloat16 where the device has it.")
]
# Of results from networks, unlike of training: they must be the same on every device.
MapPrecision = Annotated[
    str,
    typer.Option(
        "--precision",
        help="float32; on a GPU also float16 (faster, and maps differ by about 1/100) and bfloat16 (by up to 1/10); "
        "auto: float16 on a GPU.",
    ),
]
Tf32 = Annotated[
    bool, typer.Option("--tf32/--no-tf32", help="On a GPU, round float32 factors to TF32 where it does so: as float16.")
]
Winograd = Annotated[
    bool,
    typer.Option("--winograd/--no-winograd", help="On a CPU, convolve by Winograd's way: equal but for last digits."),
]
Autotune = Annotated[
    bool, typer.Option("--autotune/--no-autotune", help="On a GPU, try which convolution is fastest, once a size.")
]


def _common(keep_going: bool, resume: bool) -> list[inspect.Parameter]:
    """The options that every command has, and ``--keep-going`` and ``--resume`` where they mean something."""
    workers = "Images read or written at the same time; by default as the machine allows."
    options = [
        option("device", str, "auto", "--device", help="auto, cpu, cuda or cuda:N."),
        option("seed", int, 0, "--seed", help="Of everything random.", min=0, max=2**32 - 1),
        option("workers", Optional[int], None, "--workers", help=workers, min=0, max=1024),
        option("overwrite", bool, False, "--overwrite", help="Replace an existing output."),
        option("resume", bool, False, "--resume", help="Go on with the same work where it was interrupted."),
        option("keep_going", bool, False, "--keep-going", help="Leave out images that fail; the exit code is then 4."),
        option(
            "no_provenance",
            bool,
            False,
            "--no-provenance",
            help="Write no history, so that the same work gives the same bytes.",
        ),
        option("quiet", bool, False, "-q", "--quiet", help="Say nothing but errors."),
        option("verbose", bool, False, "-v", "--verbose", help="Also say the settings, and where networks run."),
    ]
    wanted = {"keep_going": keep_going, "resume": resume}
    return [each for each in options if wanted.get(each.name, True)]


_COMMON_NAMES = ("device", "seed", "workers", "overwrite", "resume", "keep_going", "no_provenance", "quiet", "verbose")

# Parameters of a command's function that are made of options, or of what the user typed.
_SUPPLIED = ("run", "settings", "given", "automatic", "crf")


def command(
    name: str, *, example: str, settings: type | None = None, keep_going: bool = True, resume: bool = False,
    crf: str | None = None, crf_labels: bool = False, joint: bool = False,
) -> Callable:
    """Register a function as a command.

    The function is called with ``run`` (the common options at work), with ``settings`` (an
    instance of the given dataclass, each of whose fields has become an option), ``given`` (names
    of those fields that the user has set), ``automatic`` (names of those that are to be lowered
    where they do not do) and ``crf`` (settings of the CRF, or None) if it takes them, and with its
    own parameters. A parameter of a dataclass's type stands for the parameters that its fields
    are, annotated and with defaults as parameters are; the function is given an instance.

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
        taken = inspect.signature(function, eval_str=True).parameters
        groups = {
            key: each.annotation for key, each in taken.items()
            if key not in _SUPPLIED and is_dataclass(each.annotation)
        }
        own = [
            each for parameter in taken.values() if parameter.name not in _SUPPLIED
            for each in _expanded(parameter)
        ]
        # Whose import takes as long as that of all others together.
        if settings is not None or crf is not None:
            from drstool.cli import numbers

        @functools.wraps(function)
        def call(**values: Any) -> None:
            _check_filled(own, values)
            for key, kind in groups.items():
                values[key] = kind(**{spec.name: values.pop(spec.name) for spec in fields(kind)})
            common = {key: values.pop(key, False) for key in _COMMON_NAMES}
            if "given" in taken:
                values["given"] = numbers.given(settings, values)
            with Run(command=name, arguments=sys.argv, joint=joint, **common) as run:
                if "automatic" in taken:
                    values["automatic"] = numbers.automatic(settings, values)
                if settings is not None:
                    values["settings"] = numbers.chosen(settings, values)
                if crf is not None:
                    values["crf"] = numbers.chosen_crf(values, crf_labels)
                if settings is not None:
                    run.detail(numbers.told(values["settings"]))
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


def _expanded(parameter: inspect.Parameter) -> list[inspect.Parameter]:
    """The parameter itself; for one of a dataclass's type, a parameter for each field."""
    kind = parameter.annotation
    if not is_dataclass(kind):
        return [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)]
    hints = get_type_hints(kind, include_extras=True)
    return [
        inspect.Parameter(
            spec.name, inspect.Parameter.KEYWORD_ONLY, annotation=hints[spec.name],
            default=inspect.Parameter.empty if spec.default is MISSING else spec.default)
        for spec in fields(kind)
    ]


def _check_filled(parameters: list[inspect.Parameter], values: dict[str, Any]) -> None:
    """Check that no value is an empty text."""
    for parameter in parameters:
        value = values[parameter.name]
        if value == "" or isinstance(value, (list, tuple)) and "" in value:
            raise UsageError(_shown_name(parameter), "is empty", "give a value, or leave it out")


def _shown_name(parameter: inspect.Parameter) -> str:
    """How a user knows a parameter: its option, or its name."""
    told = parameter.annotation.__metadata__[0]
    # In an Annotated, typer takes the first flag for the default.
    flags = [flag for flag in (told.default, *(told.param_decls or ())) if str(flag).startswith("-")]
    return flags[0] if flags else parameter.name.upper()


