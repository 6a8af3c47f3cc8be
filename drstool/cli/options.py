"""What commands share: their common options, and how a function becomes a command."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable, Collection
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Optional, get_type_hints

import typer

from drstool.cli.app import app
from drstool.cli.help import Command, in_panel, panel_rank
from drstool.cli.run import CommonOptions, Run
from drstool.errors import UsageError

if TYPE_CHECKING:
    from drstool.inference import Execution

__all__ = [
    "DTYPES", "Classes", "Data", "DataOrNone", "Dtype", "EmptyTags", "Images", "Init", "Labels", "LabelsOrNone",
    "MapOptions", "MapSize", "MapsIn", "MaskValues", "Masks", "NetworkOptions", "Output", "OutputOrStdout", "Precision",
    "PrecisionOptions", "Range", "Saliency", "Split", "TagSeparator", "Tags", "Weights", "command",
]

Data = Annotated[str, typer.Option(
    "--data",
    help="Dataset: images (a file, a folder, a quoted pattern); a VOC or SBD folder, one with one subfolder per class, "
    "or an annotation tool's export (COCO, YOLO, labelme, CVAT); a table (.jsonl, .csv, .tsv), a .txt list, "
    "COCO .json, YOLO .yaml; or - for a manifest on stdin.",
    show_default=False)]
DataOrNone = Annotated[Optional[str], typer.Option(
    "--data", help="Dataset, as in train-cls; without it, what the input says of its images is used.")]
Split = Annotated[Optional[str], typer.Option(
    "--split", help="Split of the dataset: its name or, for VOC, a file of image ids or paths.")]
Images = Annotated[Optional[str], typer.Option(
    "--images", help="Folder of the images that a table, a list or an export names; by default its own folder.")]
TagSeparator = Annotated[Optional[str], typer.Option(
    "--tag-separator", metavar="CHARACTER",
    help="Character between the tags in a cell of a table; by default the one of ; , | that occurs.")]
EmptyTags = Annotated[str, typer.Option(
    "--empty-tags", metavar="unknown|negative",
    help="What an empty cell of tags means: tags are unknown, or negative: the image holds no object.")]
Tags = Annotated[Optional[str], typer.Option(
    "--tags",
    help="File of image-level tags, which replace the dataset's: lines 'ID CLASS CLASS…', a manifest, or "
    "cls_labels.npy.")]
Classes = Annotated[Optional[str], typer.Option(
    "--classes", rich_help_panel="Data", help="File of object class names, one per line, in label order.")]
Masks = Annotated[Optional[str], typer.Option(
    "--masks",
    help="Folder of ground truth masks, one ID.png (or SBD's ID.mat) per image; replaces the dataset's masks.")]
MaskValues = Annotated[Optional[str], typer.Option(
    "--mask-values",
    help="Pixel values of background, class 1, … in mask files, such as 0,255 or 0,1,2,ignore=255, where they are not "
    "label values.")]
Range = Annotated[Optional[str], typer.Option(
    "--range",
    help="MIN,MAX: pixel values of images that become black and white, such as 0,4095 for 12 bits in 16-bit files, or "
    "percentiles such as 1%,99%. [default: as the network, maps or labels were made, or as the files say]")]
Weights = Annotated[str, typer.Option(
    "--weights", rich_help_panel="Data", help="Checkpoint to use.", show_default=False)]
Init = Annotated[str, typer.Option(
    "--init",
    help="Initial weights: imagenet (downloaded from torchvision), none (random), or a file: a "
    "state dict of torchvision, timm or Hugging Face, or a drstool checkpoint.")]
Labels = Annotated[str, typer.Option(
    "--labels", rich_help_panel="Data", help="Folder of label PNGs.", show_default=False)]
LabelsOrNone = Annotated[Optional[str], typer.Option(
    "--labels", rich_help_panel="Data", help="Label PNGs: a folder or a stream.")]
MapsIn = Annotated[Optional[str], typer.Argument(
    metavar="INPUT", help="Map file, stream or folder; by default, a stream on stdin.", show_default=False)]
Saliency = Annotated[Optional[str], typer.Option(
    "--saliency", rich_help_panel="Data", help="Folder of saliency maps, one ID.png per image.")]
Output = Annotated[str, typer.Option(
    "-o", "--output", rich_help_panel="Output", help="File or folder to write.", show_default=False)]
OutputOrStdout = Annotated[Optional[str], typer.Option(
    "-o", "--output", rich_help_panel="Output",
    help="File or folder to write; by default, a stream on stdout, for a pipe.")]
Precision = Annotated[str, typer.Option(
    "--precision", rich_help_panel="Running",
    help="Floating-point precision: float32, bfloat16, or auto (bfloat16 where the device is clearly "
    "faster with it; a CPU is measured).")]
# Unlike in training, the default is float32: maps must be the same on every device.
MapPrecision = Annotated[str, typer.Option(
    "--precision", rich_help_panel="Running",
    help="Floating-point precision: float32; bfloat16 (faster where the device multiplies it natively; maps differ by "
    "0.1 and more); on a GPU also float16 (maps differ by about 0.01); auto: float16 on a GPU.")]
Tf32 = Annotated[bool, typer.Option(
    "--tf32/--no-tf32", help="On a GPU, allow TF32 in float32 products (faster; as exact as float16).")]
Winograd = Annotated[bool, typer.Option(
    "--winograd/--no-winograd",
    help="On a CPU, use Winograd convolutions: up to twice as fast, last digits differ.")]
MapSize = Annotated[str, typer.Option(
    "--map-size", help="Size of the stored maps: square (the image size), image (its own size), or pixels.")]
DTYPES = ("uint8", "float16")
Dtype = Annotated[str, typer.Option(
    "--dtype", metavar="|".join(DTYPES), rich_help_panel="Output",
    help="How values are stored: uint8 is round(255 x); float16 is finer and larger.")]
Autotune = Annotated[bool, typer.Option(
    "--autotune/--no-autotune", help="On a GPU, find the fastest convolution algorithm once per input size.")]


@dataclass(frozen=True)
class PrecisionOptions:
    """In which precision a network computes that is not trained."""

    panel: ClassVar[str] = "Running"
    precision: MapPrecision = "float32"
    tf32: Tf32 = True

    def execution(self, run: Run, precision: str | None = None) -> Execution:
        """Where and how the network runs; ``precision`` replaces the one that was given."""
        from drstool.inference import Execution

        ways = {name: value for name, value in vars(self).items() if name != "precision"}
        return Execution(run.device, run.map_precision(precision or self.precision), workers=run.threads, **ways)


@dataclass(frozen=True)
class NetworkOptions(PrecisionOptions):
    """How a network computes maps."""

    autotune: Autotune = True
    winograd: Winograd = True


@dataclass(frozen=True)
class MapOptions:
    """How maps are stored."""

    panel: ClassVar[str] = "Output"
    map_size: MapSize = "square"
    dtype: Dtype = "uint8"


@dataclass(frozen=True)
class _Command:
    """How a function becomes a command; the fields are the parameters of :func:`command`."""

    name: str
    example: str
    settings: Any
    keep_going: bool
    resume: bool
    shards: bool
    crf: str | None
    crf_labels: bool
    joint: bool

    def register(self, function: Callable) -> Callable:
        """Register the function, and return it as it is."""
        taken = inspect.signature(function, eval_str=True).parameters
        groups: dict[str, Any] = {
            key: each.annotation for key, each in taken.items()
            if key not in _SUPPLIED and is_dataclass(each.annotation)
        }
        own = [
            each for parameter in taken.values() if parameter.name not in _SUPPLIED for each in _expanded(parameter)]
        wanted = {"shard": self.shards, "resume": self.resume, "keep_going": self.keep_going}
        common = [each for each in _fields_as_parameters(CommonOptions) if wanted.get(each.name, True)]
        parameters = sorted([*own, *self._method_parameters(), *common], key=panel_rank)

        @functools.wraps(function)
        def call(**values: Any) -> None:
            _check_filled(own, values)
            inputs = _inputs(values)
            for key, kind in groups.items():
                values[key] = kind(**{spec.name: values.pop(spec.name) for spec in fields(kind)})
            options = CommonOptions(**{each.name: values.pop(each.name) for each in common})
            with Run(self.name, sys.argv, options, joint=self.joint, shards=self.shards, inputs=inputs) as run:
                function(run=run, **self._with_settings(run, values, taken))

        call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        call.__annotations__ = {p.name: p.annotation for p in parameters}
        # \b: the example stays one line, fit to be copied.
        app.command(
            self.name, cls=Command, epilog=f"\b\nExample:\n  {self.example}",
            # There is none where Python was told to leave them out (-OO).
            short_help=(inspect.getdoc(function) or "").partition("\n")[0],
        )(call)
        return function

    def _method_parameters(self) -> list[inspect.Parameter]:
        """Parameters made of the fields of the settings, and of the CRF's."""
        if self.settings is None and self.crf is None:
            return []
        # Its import takes as long as that of all others together.
        from drstool.cli import numbers

        own = numbers.options(self.settings) if self.settings is not None else []
        crf = numbers.crf_options(self.crf) if self.crf is not None else []
        return [in_panel(each, "Method") for each in own] + [in_panel(each, "CRF") for each in crf]

    def _with_settings(self, run: Run, values: dict[str, Any], taken: Collection[str]) -> dict[str, Any]:
        """The values with settings in place of the parameters made of their fields."""
        if self.settings is None and self.crf is None:
            return values
        from drstool.cli import numbers

        if "given" in taken:
            values["given"] = numbers.given(self.settings, values)
        if "automatic" in taken:
            values["automatic"] = numbers.automatic(self.settings, values)
        if self.settings is not None:
            values["settings"] = numbers.chosen(self.settings, values)
        if self.crf is not None:
            values["crf"] = numbers.chosen_crf(values, self.crf_labels)
        if self.settings is not None:
            run.detail(numbers.summary(values["settings"]))
        return values


# Parameters that name files and folders to read.
_INPUTS = (
    "inputs", "logs", "file", "data", "images", "weights", "maps", "labels", "saliency", "model", "init", "ids", "tags",
    "classes", "masks")
# Parameters of a command's function that are made of options, or of what the user typed.
_SUPPLIED = ("run", "settings", "given", "automatic", "crf")


def command(
    name: str, *, example: str, settings: type | None = None, keep_going: bool = True, resume: bool = False,
    shards: bool = False, crf: str | None = None, crf_labels: bool = False, joint: bool = False,
) -> Callable:
    """Register a function as a command.

    The function is called with ``run`` (the common options at work), with ``settings`` (an
    instance of the given dataclass, each of whose fields has become an option), ``given`` (names
    of those fields that the user has set), ``automatic`` (names of those whose value drstool should
    find) and ``crf`` (settings of the CRF, or None) if it takes them, and with its own parameters. A
    parameter of a dataclass's type stands for the parameters that its fields are, annotated and with
    defaults as parameters are; the function is given an instance. Its ``panel`` is their heading in the
    help, by default ``Method``; an option's own ``rich_help_panel`` comes first.

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
        Whether an interrupted job can be resumed.
    shards
        Whether several calls, or the processes of ``torchrun``, do a shard of the images each.
    crf
        Default of ``--crf``; None: there is no such option.
    crf_labels
        Whether the CRF may start from labels because the named settings say so.
    joint
        Whether the processes of ``torchrun`` do one job together.
    """
    return _Command(
        name, example, settings, keep_going, resume, shards, crf, crf_labels, joint).register


def _expanded(parameter: inspect.Parameter) -> list[inspect.Parameter]:
    """The parameter itself; for one of a dataclass's type, a parameter for each field."""
    if is_dataclass(parameter.annotation):
        return _fields_as_parameters(parameter.annotation)
    return [in_panel(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY), "Method")]


def _fields_as_parameters(kind: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(kind, include_extras=True)
    parameters = [
        inspect.Parameter(
            spec.name, inspect.Parameter.KEYWORD_ONLY, annotation=hints[spec.name],
            default=inspect.Parameter.empty if spec.default is MISSING else spec.default)
        for spec in fields(kind)
    ]
    return [in_panel(each, getattr(kind, "panel", "Method")) for each in parameters]


def _check_filled(parameters: list[inspect.Parameter], values: dict[str, Any]) -> None:
    """Check that no value is an empty text."""
    for parameter in parameters:
        value = values[parameter.name]
        if value == "" or isinstance(value, (list, tuple)) and "" in value:
            raise UsageError(_shown_name(parameter), "is empty", "give a value, or omit it")


def _inputs(values: dict[str, Any]) -> list[str]:
    """What a command line names to be read; some of it may be a word of another meaning."""
    named = [values.get(name) for name in _INPUTS]
    # A split is a name or a file, and a folder of that name something else.
    split = values.get("split")
    named += [split] if split is not None and os.path.isfile(split) else []
    return [str(path) for each in named if each is not None for path in (each if isinstance(each, list) else [each])]


def _shown_name(parameter: inspect.Parameter) -> str:
    """How a user knows a parameter: its option, or an argument's name."""
    declared = parameter.annotation.__metadata__[0]
    if isinstance(declared, typer.models.ArgumentInfo):
        return (declared.metavar or parameter.name.upper()).strip("[].")
    # In an Annotated, typer takes the first flag for the default.
    flags = [flag for flag in (declared.default, *(declared.param_decls or ())) if str(flag).startswith("-")]
    return flags[0] if flags else "--" + parameter.name.replace("_", "-")
