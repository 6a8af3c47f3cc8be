"""``import``: convert checkpoints of the authors' code (qjadud1994/DRS)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from drstool.checkpoints.checkpoint import KINDS, Checkpoint, load_tensors
from drstool.data.sbd import CLASS_NAMES
from drstool.errors import InputError, UsageError
from drstool.exchange.deeplab import deeplab_checkpoint
from drstool.models.build import build_network

__all__ = ["import_drs"]

# Their prefixes and numbers of our layers 0..15: "layer1_conv1", "layer1_relu1", …, "extra_conv3".
_BLOCKS = {"layer1_": 2, "layer2_": 2, "layer3_": 3, "layer4_": 3, "layer5_": 3, "extra_": 3}
_THEIR_LAYERS = [(block, number) for block, length in _BLOCKS.items() for number in range(1, length + 1)]
_CONTROLLER = re.compile(r"_relu\d+\.fc\.0\.weight$")


def import_drs(
    path: str, *, kind: str | None = None, delta: float = 0.55, output_stride: int | None = None,
    class_names: tuple[str, ...] | None = None,
) -> Checkpoint:
    """The authors' classifier, refiner or segmenter as a drstool checkpoint, without provenance.

    Parameters
    ----------
    path
        Their ``best.pth``: ``{"model": state dict, …}``, or the state dict alone; of DeepLabV3+
        ``{"model_state": state dict, …}``.
    kind
        ``classifier``, ``refiner`` or ``segmenter``; may be None for a segmenter and for a classifier with
        learnable DRS, which their tensors give away.
    delta
        Bound of a fixed-DRS classifier, which their file does not record.
    output_stride
        Of a segmenter; see :func:`drstool.exchange.deeplab.deeplab_checkpoint`.
    class_names
        The object classes; None: those of PASCAL VOC.

    Raises
    ------
    UsageError
        The kind is missing, unknown or not that of the file.
    InputError
        The file is not one of theirs, or has another number of classes.
    """
    if kind not in (None, *KINDS):
        raise UsageError("--kind", f"{kind!r} is not one of {', '.join(KINDS)}")
    state = _state(path)
    # The only dataset of the authors' code is PASCAL VOC.
    names = class_names or CLASS_NAMES
    is_segmenter = any(name.startswith("backbone.") for name in state)
    if is_segmenter != (kind == "segmenter") and kind is not None:
        raise UsageError("--kind", f"{path} is {'' if is_segmenter else 'not '}a segmenter", "omit it, or give another")
    if is_segmenter:
        return deeplab_checkpoint(state, path, names, output_stride)
    if output_stride is not None:
        raise UsageError("--output-stride", f"{path} is not a segmenter", "omit it: their others always have 8")
    learnable = any(_CONTROLLER.search(name) for name in state)
    if kind is None and not learnable:
        raise UsageError(
            "--kind", f"{path} could be a refiner or a fixed-DRS classifier, whose tensors have the same names",
            "give --kind refiner, or --kind classifier and its --delta")
    if kind == "refiner" and learnable:
        raise UsageError("--kind", f"{path} has DRS controllers, so it is not a refiner", "give --kind classifier")
    kind = kind or "classifier"
    outputs = _tensor(state, "extra_conv4.weight", path).shape[0]
    if outputs != len(names):
        raise InputError(
            path, f"has {outputs} object classes, but there are {len(names)} names",
            "give --classes FILE with one name per class")
    architecture: dict[str, Any] = {"backbone": "vgg16", "head": "paper", "output_stride": 8}
    if kind == "classifier":
        architecture |= {
            "suppression": "learnable" if learnable else "fixed", "delta": delta,
            "drs_layers": list(range(len(_THEIR_LAYERS)))}
    weights = _translated(state, learnable, path)
    model, _ = build_network(kind, architecture, names)
    try:
        model.load_state_dict(weights)
    except RuntimeError:
        raise InputError(
            path, "its tensors do not have the shapes of VGG-16", "give a checkpoint of qjadud1994/DRS") from None
    return Checkpoint(kind, tuple(names), architecture, {"imported": "qjadud1994/DRS"}, weights)


def _state(path: str) -> Mapping[str, Tensor]:
    content = load_tensors(path, allowed=_numpy_scalars())
    for key in ("model", "model_state"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(
            isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()):
        raise InputError(path, "is not a checkpoint of qjadud1994/DRS", "give a file like its best.pth")
    # DataParallel prefixes every name.
    return {name.removeprefix("module."): value for name, value in content.items()}


def _numpy_scalars() -> list:
    """The types in a pickled NumPy number, as which their file holds its validation score."""
    import numpy as np

    # NumPy has moved this function; files with either name are read.
    scalar = np.float64(0).__reduce__()[0]
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    types: list = [*((scalar, name) for name in names), np.dtype]
    return types + [type(np.dtype(kind)) for kind in ("float64", "float32", "int64")]


def _tensor(state: Mapping[str, Tensor], name: str, path: str) -> Tensor:
    if name not in state:
        raise InputError(
            path, f"is not a checkpoint of qjadud1994/DRS: it has no tensor '{name}'", "give a file like its best.pth")
    return state[name].detach().to(torch.float32)


def _translated(state: Mapping[str, Tensor], learnable: bool, path: str) -> dict[str, Tensor]:
    """Their tensors under our names; their second copy of the trunk (``features.N``) is left out."""
    weights = {}
    for index, (block, number) in enumerate(_THEIR_LAYERS):
        for part in ("weight", "bias"):
            weights[f"layers.{index}.conv.{part}"] = _tensor(state, f"{block}conv{number}.{part}", path)
        if learnable:
            controller = _tensor(state, f"{block}relu{number}.fc.0.weight", path)
            weights[f"layers.{index}.rectifier.controller.weight"] = controller
    for part in ("weight", "bias"):
        weights[f"output.{part}"] = _tensor(state, f"extra_conv4.{part}", path)
    return weights
