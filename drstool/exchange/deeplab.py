"""DeepLabV3+ checkpoints of the DRS authors' code, whose segmentation part is VainF/DeepLabV3Plus-Pytorch."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from drstool.checkpoints.checkpoint import Checkpoint
from drstool.errors import InputError, UsageError
from drstool.models.build import build_network

__all__ = ["STRIDES", "deeplab_checkpoint"]

STRIDES = (8, 16)
# By the number of blocks in their third layer.
_RESNETS = {6: "resnet50", 23: "resnet101"}
# Beginnings of their names, and ours.
_PLACES = {
    "backbone.conv1.": "backbone.low.0.", "backbone.bn1.": "backbone.low.1.", "backbone.layer1.": "backbone.low.4.",
    "backbone.layer2.": "backbone.high.0.", "backbone.layer3.": "backbone.high.1.",
    "backbone.layer4.": "backbone.high.2.", "classifier.project.": "low_projection.", "classifier.aspp.": "aspp.",
    "classifier.classifier.0.": "decoder.0.0.", "classifier.classifier.1.": "decoder.0.1.",
    "classifier.classifier.3.": "decoder.1."}
_OUTPUT = "classifier.classifier.3.weight"


def deeplab_checkpoint(
    state: Mapping[str, Tensor], path: str, class_names: tuple[str, ...], output_stride: int | None = None,
) -> Checkpoint:
    """Their segmenter as a drstool checkpoint, without provenance; it computes the same.

    Parameters
    ----------
    state
        Their ``model_state``.
    path
        Of the file; its name may tell the output stride, as theirs do: ``…_os16.pth``.
    class_names
        The object classes; the network's first label is the background.
    output_stride
        16 or 8, which their file does not record; None: as its name says.

    Raises
    ------
    UsageError
        The output stride is missing.
    InputError
        It is not DeepLabV3+ with a ResNet, or has another number of classes.
    """
    backbone = _RESNETS.get(len({name.split(".")[2] for name in state if name.startswith("backbone.layer3.")}))
    if any(name.startswith("backbone.low_level_features.") for name in state):
        raise InputError(
            path, "holds a MobileNetV2 that pads its blocks' inputs, unlike torchvision's and drstool's",
            "give one with a ResNet")
    if any(".body." in name for name in state):
        raise InputError(path, "was trained with --separable_conv", "give one with plain convolutions")
    if backbone is None or _OUTPUT not in state:
        raise InputError(
            path, "its model_state is not a DeepLabV3+ with ResNet-50 or ResNet-101",
            "give a file like best_deeplabv3plus_resnet101_voc_os16.pth")
    outputs = len(state[_OUTPUT])
    if outputs != len(class_names) + 1:
        raise InputError(
            path, f"has {outputs} labels, the background included, but there are {len(class_names)} class names",
            "give --classes FILE with one name per class")
    architecture: dict[str, Any] = {"backbone": backbone, "output_stride": output_stride or _stride_in_name(path)}
    weights = {_our_name(name): value.detach().clone() for name, value in state.items()}
    model, _ = build_network("segmenter", architecture, class_names)
    try:
        model.load_state_dict(weights)
    except RuntimeError:
        raise InputError(
            path, f"its tensors are not those of DeepLabV3+ with {backbone}", "give a checkpoint of theirs") from None
    return Checkpoint("segmenter", class_names, architecture, {"imported": "qjadud1994/DRS"}, weights)


def _stride_in_name(path: str) -> int:
    match = re.search(r"_os(\d+)(?=\D|$)", os.path.basename(path))
    if match is None or int(match[1]) not in STRIDES:
        raise UsageError(
            "--output-stride", "is missing: neither the file nor its name says it",
            "give --output-stride 16 or 8, as it was trained")
    return int(match[1])


def _our_name(name: str) -> str:
    for theirs, ours in _PLACES.items():
        if name.startswith(theirs):
            return ours + name[len(theirs):]
    return name
