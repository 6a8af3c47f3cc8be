"""What commands share: their common options, and options made from a recipe's fields."""

from __future__ import annotations

import functools
import inspect
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, fields, replace
from typing import Annotated, Any, Optional

import typer

from drstool.cli.app import app
from drstool.cli.run import Run
from drstool.errors import UsageError
from drstool.recipe import CRF_PRESETS, RECIPES, CrfSettings, named_recipe, override

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
    "check_choice",
    "check_split",
    "command",
    "number_list",
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


def check_choice(option: str, value: str, choices: Sequence[str]) -> None:
    """Check an option of a few words.

    Raises
    ------
    UsageError
        The value is none of them.
    """
    if value not in choices:
        raise UsageError(option, f"{value!r} is no choice", "one of " + ", ".join(choices))


def check_split(split: str | None, data: str | None) -> None:
    """Check that a split is one of something.

    Raises
    ------
    UsageError
        There is a --split without --data.
    """
    if split is not None and data is None:
        raise UsageError("--split", "is a part of --data, which is not given", "give --data, or leave it out")


def _common(keep_going: bool, resume: bool) -> list[inspect.Parameter]:
    """The options that every command has, and ``--keep-going`` and ``--resume`` where they mean something."""
    workers = "Images read or written at the same time; by default as the machine allows."
    options = [
        _option("device", str, "auto", "--device", help="auto, cpu, cuda or cuda:N."),
        _option("seed", int, 0, "--seed", help="Of everything random.", min=0, max=2**32 - 1),
        _option("workers", Optional[int], None, "--workers", help=workers, min=0, max=1024),
        _option("overwrite", bool, False, "--overwrite", help="Replace an existing output."),
        _option("resume", bool, False, "--resume", help="Go on with the same work where it was interrupted."),
        _option("keep_going", bool, False, "--keep-going", help="Leave out images that fail; the exit code is then 4."),
        _option(
            "no_provenance",
            bool,
            False,
            "--no-provenance",
            help="Write no history, so that the same work gives the same bytes.",
        ),
        _option("quiet", bool, False, "-q", "--quiet", help="Say nothing but errors."),
        _option("verbose", bool, False, "-v", "--verbose", help="Also say the settings, and where networks run."),
    ]
    wanted = {"keep_going": keep_going, "resume": resume}
    return [option for option in options if wanted.get(option.name, True)]


_COMMON_NAMES = ("device", "seed", "workers", "overwrite", "resume", "keep_going", "no_provenance", "quiet", "verbose")


def _option(name: str, kind: Any, default: Any, *flags: str, **more: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, typer.Option(*flags, **more)]
    )


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
        numbers = _recipe_options(settings) if settings else []
        named = settings is not None and any(settings in recipe for recipe in RECIPES.values())
        recipe = (
            [_option("recipe", str, "default", "--recipe", help="Named settings: " + ", ".join(RECIPES) + ".")]
            if named
            else []
        )

        @functools.wraps(function)
        def call(**values: Any) -> None:
            for parameter in own:
                value = values[parameter.name]
                if value == "" or isinstance(value, (list, tuple)) and "" in value:
                    raise UsageError(_shown_name(parameter), "is empty", "give a value, or leave it out")
            common = {key: values.pop(key, False) for key in _COMMON_NAMES}
            if takes_given:
                values["given"] = frozenset(
                    spec.name for spec in fields(settings) if values[_PREFIX + spec.name] is not None)
            with Run(command=name, arguments=sys.argv, joint=joint, **common) as run:
                if takes_automatic:
                    values["automatic"] = _automatic(settings, values)
                if settings is not None:
                    values["settings"] = _settings(settings, values)
                if crf is not None:
                    values["crf"] = _crf_settings(values, crf_labels)
                if settings is not None:
                    run.detail(", ".join(f"{k} {_shown(v)}" for k, v in vars(values["settings"]).items() if v != ()))
                function(run=run, **values)

        smoothing = _crf_options(crf) if crf is not None else []
        parameters = [*own, *recipe, *numbers, *smoothing, *_common(keep_going, resume)]
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


_PREFIX = "number_"
_KINDS: dict[str, Any] = {"int": int, "float": float, "bool": bool, "str": str}


def _recipe_options(settings: type) -> list[inspect.Parameter]:
    options = []
    for spec in fields(settings):
        flag = "--" + spec.name.replace("_", "-")
        kind = _KINDS.get(str(spec.type), str)
        flags = (f"{flag}/--no-{spec.name.replace('_', '-')}",) if kind is bool else (flag,)
        choices = spec.metadata.get("choices") or spec.metadata.get("parts")
        more: dict[str, Any] = {"help": f"{spec.metadata['help']} {_defaults(settings, spec)}", "show_default": False}
        if choices and kind is str:
            more["metavar"] = "|".join(choices)
        elif str(spec.type).startswith("tuple"):
            more["metavar"] = "N,N,…"
        elif spec.metadata.get("auto"):
            more |= {"metavar": "N|auto", "parser": _count_or_auto}
        options.append(_option(_PREFIX + spec.name, Optional[kind], None, *flags, **more))
    return options


def _count_or_auto(text: str) -> int:
    """A number of at least 1; 0 for ``auto``."""
    if text == "auto":
        return 0
    if not text.isdecimal() or int(text) < 1:
        # The command line's parser makes its one line of it.
        raise ValueError(f"{text!r} is neither a number above 0 nor auto")
    return int(text)


def _defaults(settings: type, spec: Field) -> str:
    assert spec.default is not MISSING
    if spec.metadata.get("auto") and not spec.default:
        return "[default: auto]"
    shown = {name: _shown(getattr(named_recipe(name, settings), spec.name)) for name in RECIPES}
    if shown["default"] == "":
        return ""
    if len(set(shown.values())) == 1:
        return f"[default: {shown['default']}]"
    return "[" + "; ".join(f"{name}: {value}" for name, value in shown.items()) + "]"


def _shown(value: Any) -> str:
    return (
        ",".join(map(str, value))
        if isinstance(value, tuple)
        else str(value).lower()
        if isinstance(value, bool)
        else str(value)
    )


def _automatic(kind: type, values: dict[str, Any]) -> frozenset[str]:
    """Names of the fields that the user left to the machine, which are then at first the recipe's."""
    names = [spec.name for spec in fields(kind) if spec.metadata.get("auto") and values[_PREFIX + spec.name] == 0]
    values.update({_PREFIX + name: None for name in names})
    return frozenset(names)


def _settings(kind: type, values: dict[str, Any]) -> Any:
    """The dataclass from the recipe's name and the options given; takes them out of ``values``."""
    base = named_recipe(values.pop("recipe", "default"), kind)
    changes = {}
    for spec in fields(kind):
        value = values.pop(_PREFIX + spec.name)
        if value is not None:
            changes[spec.name] = _numbers(spec, value) if str(spec.type).startswith("tuple") else value
    return override(base, changes)


_CRF_PREFIX = "crf_"
_CRF_FIELDS = [spec for spec in fields(CrfSettings) if "help" in spec.metadata]


def _crf_options(default: str) -> list[inspect.Parameter]:
    """``--crf`` and an option for each number of the CRF."""
    names = [*CRF_PRESETS, "none"]
    told = "Dense CRF with the published settings of that project, which the --crf- options change."
    options = [_option("crf", str, default, "--crf", metavar="|".join(names), help=told)]
    for spec in _CRF_FIELDS:
        values = {name: _shown(getattr(preset, spec.name)) for name, preset in CRF_PRESETS.items()}
        same = len(set(values.values())) == 1
        shown = f"default: {next(iter(values.values()))}" if same else "; ".join(f"{n}: {v}" for n, v in values.items())
        more: dict[str, Any] = {"help": f"{spec.metadata['help']} [{shown}]", "show_default": False}
        if choices := spec.metadata.get("choices"):
            more["metavar"] = "|".join(choices)
        flag = "--crf-" + spec.name.replace("_", "-")
        options.append(_option(_CRF_PREFIX + spec.name, Optional[_KINDS[str(spec.type)]], None, flag, **more))
    return options


def _crf_settings(values: dict[str, Any], from_labels: bool) -> CrfSettings | None:
    """The CRF asked for; takes its options out of ``values``."""
    name = values.pop("crf")
    changes = {spec.name: values.pop(_CRF_PREFIX + spec.name) for spec in _CRF_FIELDS}
    changes = {field: value for field, value in changes.items() if value is not None}
    check_choice("--crf", name, [*CRF_PRESETS, "none"])
    if name == "none":
        if changes:
            option = "--crf-" + next(iter(changes)).replace("_", "-")
            right = "give --crf " + " or ".join(CRF_PRESETS)
            raise UsageError(option, "is a setting of the CRF, and there is none", right)
        return None
    preset = CRF_PRESETS[name] if from_labels else replace(CRF_PRESETS[name], unary="probabilities")
    return override(preset, changes, prefix="crf-")


def _numbers(spec: Field, text: str) -> tuple:
    if spec.name == "decay_epochs" and not text.strip():
        return ()
    kind = int if "int" in str(spec.type) else float
    return number_list("--" + spec.name.replace("_", "-"), text, kind, like=_shown(spec.default))


def number_list(option: str, text: str, kind: type, like: str = "") -> tuple:
    """Positive numbers from a list with commas.

    Raises
    ------
    UsageError
        The text is no such list.
    """
    try:
        found = tuple(kind(part) for part in text.split(",") if part.strip())
    except ValueError:
        found = ()
    if not found or not all(0 < number < math.inf for number in found):
        example = like or ("256,320,384" if kind is int else "2,1")
        raise UsageError(option, f"{text!r} is no list of positive numbers", f"like {example}")
    return found
