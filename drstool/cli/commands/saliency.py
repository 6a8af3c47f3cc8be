"""``saliency``: saliency maps from images alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from drstool.cli.artifact import Artifact
from drstool.cli.datasets import DataOptions
from drstool.cli.options import OutputOrStdout, command
from drstool.cli.parameters import check_choice
from drstool.cli.run import Run
from drstool.errors import UsageError

if TYPE_CHECKING:
    from drstool.exchange.saliency_model import SaliencyModel


@dataclass(frozen=True)
class ModelOptions:
    """A network to run, and what it takes and gives."""

    model: Annotated[Optional[str], typer.Option(
        metavar="FILE", help="ONNX model of a salient object network to run instead (needs onnxruntime).")] = None
    preset: Annotated[Optional[str], typer.Option(
        metavar="u2net|isnet|poolnet",
        help="Prepare images and read maps as this network's published code does; --model-* options replace "
        "single settings.")] = None
    model_size: Annotated[Optional[int], typer.Option(
        min=0, help="Side of the square to which images are resized, in pixels; 0: each image's own size. "
        "[default: as the model says]")] = None
    model_mean: Annotated[Optional[str], typer.Option(
        metavar="A,B,C", help="Mean to subtract from each channel.")] = None
    model_std: Annotated[Optional[str], typer.Option(
        metavar="A,B,C", help="Standard deviation to divide each channel by.")] = None
    model_range: Annotated[Optional[str], typer.Option(
        metavar="1|255|max", help="Value of white before normalisation; max: each image's largest value becomes 1. "
        "[default: 1]")] = None
    model_channels: Annotated[Optional[str], typer.Option(
        metavar="rgb|bgr", help="Order of the colour channels. [default: rgb]")] = None
    model_output: Annotated[Optional[str], typer.Option(
        help="Output that holds the map: its name, or its number from 0. [default: 0]")] = None
    model_sigmoid: Annotated[Optional[bool], typer.Option(
        "--model-sigmoid/--no-model-sigmoid", help="Apply a sigmoid to the model's output.")] = None
    model_stretch: Annotated[Optional[bool], typer.Option(
        "--model-stretch/--no-model-stretch", help="Stretch each map to fill 0 to 255.")] = None

    def open(self) -> SaliencyModel | None:
        """The model; None where there is none."""
        given = {name.removeprefix("model_"): value for name, value in vars(self).items() if value is not None}
        path, preset = given.pop("model", None), given.pop("preset", None)
        if path is None:
            if given or preset:
                raise UsageError("--model", "is missing, but its settings are given", "give --model FILE, or omit them")
            return None
        from drstool.exchange.saliency_model import PRESETS, ModelSettings, SaliencyModel

        if preset is not None:
            check_choice("--preset", preset, tuple(PRESETS))
        for name in ("mean", "std"):
            if name in given:
                given[name] = _numbers(f"--model-{name}", given[name])
        size_option = f"--preset {preset}" if preset and "size" not in given else "--model-size"
        return SaliencyModel(path, replace(PRESETS[preset] if preset else ModelSettings(), **given), size_option)


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(option, f"{text!r} is not a list of numbers", "expected something like 0.5,0.5,0.5") from None


@command(
    "saliency", resume=True, shards=True, example="drstool saliency --data demo --split train -o saliency_map",
)
def saliency(
    run: Run,
    data: DataOptions,
    output: OutputOrStdout = None,
    method: Annotated[Optional[str], typer.Option(
        metavar="mbd|rbd",
        help="Minimum barrier distance (better on photographs), or robust background detection. "
        "[default: mbd]")] = None,
    *,
    network: ModelOptions,
) -> None:
    """Write saliency maps of images, by a published method that needs no training, or by a model."""
    from drstool.formats import LabelRecord
    from drstool.inputs import Images
    from drstool.stages import saliency as stage

    output = run.claim(output, "labels")
    model = network.open()
    if method is not None and model is not None:
        raise UsageError("--method", "has no meaning with --model", "give only one of them")
    method = method or "mbd"
    settings: dict[str, Any] = {"method": method} if model is None else {"model": asdict(model.settings)}
    artifact = Artifact(
        run, output, "saliency", Images(data.open(run), run.shard), settings=settings,
        inputs={} if network.model is None else {"model": run.digest(network.model)},
        used={"pixel_ground_truth": False})
    maps = stage.saliency(artifact.todo, method=method, model=model, workers=run.threads, **artifact.work)
    artifact.write(LabelRecord(identifier, values) for identifier, values in maps)
    artifact.done("saliency map")
