"""Saliency by a network of another project, as an ONNX model.

Models are run by onnxruntime, which computes a fixed set of operations. Files of torch that hold programs are not
read: TorchScript may read and write files, and torch.export's may hold pickles.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from drstool.errors import InputError, UsageError, is_shortage
from drstool.files import read_bytes
from drstool.pixels import shown_size
from drstool.recipe import NORMALIZE_MEAN, NORMALIZE_STD
from drstool.saliency import stretched

__all__ = ["CHANNELS", "PRESETS", "RANGES", "ModelSettings", "SaliencyModel"]

RANGES, CHANNELS = ("1", "255", "max"), ("rgb", "bgr")
# Of the image with which a model that takes any size is tried.
_TRIAL_SIDE = 256
_INPUT_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
# How far rounding may take an activation beyond [0, 1].
_ROUNDING = 1e-3


@dataclass(frozen=True)
class ModelSettings:
    """What a saliency model takes and gives.

    Attributes
    ----------
    size
        Side in pixels of the square to which images are resized; 0: their own size. None: as the model says.
    mean, std
        Subtracted from and dividing the three channels, in the model's order of channels.
    range
        What white is before that: ``1`` or ``255``; ``max``: 1 is the image's largest value.
    channels
        ``rgb`` or ``bgr``.
    output
        Name of the output that holds the map, or its number from 0.
    sigmoid
        Whether the output is logits.
    stretch
        Whether each map is shifted and scaled to fill [0, 1].
    """

    size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    range: str = "1"
    channels: str = "rgb"
    output: str = "0"
    sigmoid: bool = False
    stretch: bool = False


# As the published test code of xuebinqin/U-2-Net, xuebinqin/DIS and backseason/PoolNet.
PRESETS = {
    "u2net": ModelSettings(320, NORMALIZE_MEAN, NORMALIZE_STD, range="max", stretch=True),
    "isnet": ModelSettings(1024, (0.5, 0.5, 0.5), (1.0, 1.0, 1.0), stretch=True),
    "poolnet": ModelSettings(
        0, (104.00699, 116.66877, 122.67892), (1.0, 1.0, 1.0), range="255", channels="bgr", sigmoid=True),
}


class SaliencyModel:
    """An ONNX model that gives saliency maps of images; may be called from several threads.

    Parameters
    ----------
    path
    settings
    size_option
        Option that gave the size, named in errors.

    Attributes
    ----------
    settings
        With the size that the model says, where none was given.

    Raises
    ------
    UsageError
        onnxruntime is not installed, a setting is impossible, or one is missing that the file does not tell.
    InputError
        The file is not an ONNX model, or one that takes or gives something other than images and maps.
    """

    def __init__(self, path: str | Path, settings: ModelSettings, size_option: str = "--model-size") -> None:
        self._path, self._size_option = path, size_option
        _check(settings)
        self._session = _session(path)
        self.settings = replace(settings, size=self._side(settings.size))
        side = self.settings.size or _TRIAL_SIDE
        # What cannot work is found before the first image.
        trial = self._computed(np.zeros((side, side, 3), np.uint8))
        if 1 in trial.shape:
            raise InputError(path, f"gives values of shape {trial.shape}, no map", "a classifier gives no saliency; "
                             "give another model, or --model-output with one of: " + ", ".join(self._outputs))

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Saliency of each pixel.

        Parameters
        ----------
        image : (H, W, 3) uint8
            sRGB.

        Returns
        -------
        (H, W) uint8

        Raises
        ------
        InputError
            The model fails on it, or gives values that are no saliency.
        """
        found, how = self._computed(image), self.settings
        if not np.isfinite(found).all():
            raise InputError(self._path, "gives values that are not numbers", "check its normalisation, or the model")
        if how.sigmoid:
            # Equal to 1 / (1 + exp(-x)), and without overflow.
            found = 0.5 * (1 + np.tanh(found / 2))
        if not how.stretch and not -_ROUNDING <= found.min() <= found.max() <= 1 + _ROUNDING:
            raise InputError(
                self._path, f"gives values from {found.min():.3g} to {found.max():.3g}, not from 0 to 1",
                "give --model-sigmoid if these are logits, or --model-stretch")
        height, width = image.shape[:2]
        full = np.asarray(Image.fromarray(found).resize((width, height), Image.Resampling.BILINEAR))
        return np.rint(255 * (stretched(full) if how.stretch else full.clip(0, 1))).astype(np.uint8)

    def _computed(self, image: np.ndarray) -> np.ndarray:
        """The model's output for an image, ``(h, w) float32``."""
        output, given = self._output, {self._input.name: self._prepared(image)}
        try:
            (found,) = self._session.run([output], given)
        except Exception as error:  # onnxruntime's errors have no common class
            if is_shortage(error):
                raise
            raise InputError(
                self._path, f"fails on an image of {shown_size(image.shape[:2])} pixels: {_line(error)}",
                "give --model-size, or another model") from None
        found = np.asarray(found)
        if found.ndim < 2 or found.size == 0 or any(side != 1 for side in found.shape[:-2]) or found.dtype.kind != "f":
            raise InputError(
                self._path, f"gives {found.dtype} values of shape {found.shape} as its output {output!r}",
                "give --model-output with one of (1, 1, H, W); its outputs are " + ", ".join(self._outputs))
        return found.reshape(found.shape[-2:]).astype(np.float32)

    def _prepared(self, image: np.ndarray) -> np.ndarray:
        how = self.settings
        if how.size:
            image = np.asarray(Image.fromarray(image).resize((how.size, how.size), Image.Resampling.BILINEAR))
        values = image.astype(np.float32)
        if how.range != "255":
            values /= 255 if how.range == "1" else max(1, values.max())
        if how.channels == "bgr":
            values = values[..., ::-1]
        mean, std = (np.asarray(each, np.float32) for each in (how.mean, how.std))
        values = (values - mean) / std
        return np.ascontiguousarray(values.transpose(2, 0, 1)[None]).astype(_INPUT_TYPES[self._input.type])

    def _side(self, given: int | None) -> int:
        """The side of the square that the model takes; 0: any size."""
        shape = self._input.shape
        known = [side if isinstance(side, int) else None for side in shape]
        if len(known) != 4 or known[0] not in (None, 1) or known[1] not in (None, 3):
            raise InputError(self._path, f"takes an input of shape {shape}", "expected one image, (1, 3, H, W)")
        height, width = known[2:]
        if height != width:
            raise InputError(self._path, f"takes an input of shape {shape}", "expected a square, or any size")
        if height is None:
            if given is None:
                raise UsageError("--model-size", "is missing: the model takes any size",
                                 "give the side it was trained with, or 0 for each image's own size")
            return given
        if given not in (None, height):
            raise UsageError(
                self._size_option, f"the size is {given}, but the model takes {height}", f"give --model-size {height}")
        return height

    @cached_property
    def _input(self) -> Any:
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or inputs[0].type not in _INPUT_TYPES:
            told = ", ".join(f"{each.name} ({each.type})" for each in inputs)
            raise InputError(
                self._path, f"takes {told or 'nothing'}", "expected a single input of floating-point numbers")
        return inputs[0]

    @cached_property
    def _outputs(self) -> list[str]:
        return [each.name for each in self._session.get_outputs()]

    @cached_property
    def _output(self) -> str:
        named = self.settings.output
        if named in self._outputs:
            return named
        if named.isdecimal() and int(named) < len(self._outputs):
            return self._outputs[int(named)]
        raise UsageError(
            "--model-output", f"the model has no output {named!r}", "its outputs are " + ", ".join(self._outputs))


def _check(settings: ModelSettings) -> None:
    """Check that settings are complete and possible."""
    for option, values in (("--model-mean", settings.mean), ("--model-std", settings.std)):
        if values is None:
            raise UsageError(
                option, "is missing: an ONNX model does not say how its images are normalised",
                "give three numbers, or --preset " + "|".join(PRESETS))
        if len(values) != 3 or not np.isfinite(values).all():
            raise UsageError(option, f"{values} are not three numbers", "give one for each channel")
    if 0 in (settings.std or ()):
        raise UsageError("--model-std", "is 0", "give numbers to divide by")
    for option, value, known in (
            ("--model-range", settings.range, RANGES), ("--model-channels", settings.channels, CHANNELS)):
        if value not in known:
            raise UsageError(option, f"{value!r} is not one of {', '.join(known)}")


def _session(path: str | Path) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise UsageError("--model", "needs onnxruntime", "install it: pip install 'drstool[onnx]'") from error
    content = read_bytes(path)
    if content.startswith((b"PK\3\4", b"\x80")):
        raise InputError(path, "is a file of torch, which may hold a program", "convert it with torch.onnx.export")
    options = onnxruntime.SessionOptions()
    # Images are shared out to threads; results then do not depend on their number.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common class
        if is_shortage(error):
            raise
        raise InputError(
            path, f"is not an ONNX model, or is damaged: {_line(error)}", "copy it again or export it again") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200].rstrip(".")
