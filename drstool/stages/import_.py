"""``import``: checkpoints of the authors' code (qjadud1994/DRS)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from drstool.checkpoints.checkpoint import Checkpoint, load_tensors
from drstool.errors import InputError, UsageError
from drstool.models.build import build_network
from drstool.models.vgg import NUM_ACTIVATIONS, TRUNK_LAYERS

__all__ = ["import_drs"]

# The authors' code knows one dataset: the 20 classes of PASCAL VOC, in its own order.
_VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)
# Their names of our layers 0..15, less the kind: "layer1_conv1", "layer1_relu1", ….
_BLOCK_LENGTHS = (2, 2, 3, 3, 3)
_THEIR_LAYERS = tuple(
    [(f"layer{block}_", number) for block, length in enumerate(_BLOCK_LENGTHS, 1) for number in range(1, length + 1)]
    + [("extra_", number) for number in (1, 2, 3)])
_CONTROLLER = re.compile(r"_relu\d+\.fc\.0\.weight$")


def import_drs(
    path: str, *, kind: str | None = None, delta: float = 0.55,
    class_names: tuple[str, ...] | None = None,
) -> Checkpoint:
    """The authors' classifier or refiner as a checkpoint of ours, without provenance.

    Parameters
    ----------
    path
        Their ``best.pth``: ``{"model": state dict, …}``, or the state dict alone.
    kind
        ``classifier`` or ``refiner``. Only a classifier with learnable DRS can be told from the
        rest by its tensors, so otherwise it must be given.
    delta
        Bound of a fixed-DRS classifier: their file does not hold it.
    class_names
        The object classes; None: those of PASCAL VOC.

    Raises
    ------
    UsageError
        The kind is needed, or is none.
    InputError
        The file is none of theirs, or the number of classes is another.
    """
    if kind not in (None, "classifier", "refiner"):
        raise UsageError("--kind", f"{kind!r} is no choice", "classifier or refiner")
    state = _state(path)
    learnable = any(_CONTROLLER.search(name) for name in state)
    if kind is None and not learnable:
        raise UsageError(
            "--kind", f"{path} may be a refiner or a fixed-DRS classifier: their tensors have the same names",
            "say --kind refiner, or --kind classifier with its --delta")
    if kind == "refiner" and learnable:
        raise UsageError("--kind", f"{path} holds DRS controllers, so it is no refiner", "--kind classifier")
    kind = kind or "classifier"
    outputs = _tensor(state, "extra_conv4.weight", path).shape[0]
    names = class_names or _VOC_CLASSES
    if outputs != len(names):
        raise InputError(
            path, f"has {outputs} object classes, and {len(names)} names are known",
            "--classes FILE with a name for each")
    architecture: dict[str, Any] = {"backbone": "vgg16"}
    if kind == "classifier":
        architecture |= {
            "suppression": "learnable" if learnable else "fixed", "delta": delta,
            "drs_layers": list(range(NUM_ACTIVATIONS))}
    weights = _translated(state, learnable, path)
    model, _ = build_network(kind, architecture, names)
    try:
        model.load_state_dict(weights)
    except RuntimeError:
        raise InputError(
            path, "its tensors are not of the shapes of VGG-16", "a checkpoint of qjadud1994/DRS") from None
    return Checkpoint(kind, tuple(names), architecture, {"imported": "qjadud1994/DRS"}, weights)


def _state(path: str) -> Mapping[str, Tensor]:
    content = load_tensors(path, allowed=_numpy_scalars())
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        content = content["model"]
    if not isinstance(content, dict) or not all(
            isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()):
        raise InputError(path, "is no checkpoint of qjadud1994/DRS", "a file {'model': state dict}, as its best.pth")
    # DataParallel puts a word before every name.
    return {name.removeprefix("module."): value for name, value in content.items()}


def _numpy_scalars() -> list:
    """What a NumPy number is pickled as: their file holds its validation score as one."""
    import numpy as np

    # NumPy moved this function between its modules, and files of either age are read.
    scalar = np.float64(0).__reduce__()[0]
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    types: list = [*((scalar, name) for name in names), np.dtype]
    return types + [type(np.dtype(kind)) for kind in ("float64", "float32", "int64")]


def _tensor(state: Mapping[str, Tensor], name: str, path: str) -> Tensor:
    if name not in state:
        raise InputError(
            path, f"is no checkpoint of qjadud1994/DRS: there is no tensor '{name}'",
            "a file {'model': state dict}, as its best.pth")
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
    assert len(_THEIR_LAYERS) == TRUNK_LAYERS + 3
    for part in ("weight", "bias"):
        weights[f"output.{part}"] = _tensor(state, f"extra_conv4.{part}", path)
    return weights
