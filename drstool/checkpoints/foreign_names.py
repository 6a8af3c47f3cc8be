"""State dicts of timm and of Hugging Face transformers under torchvision's names.

They are recognised by the names of their tensors. timm names VGG-16 and ResNets as torchvision does. What is not
recognised is left as it is, for the network to refuse.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping
from typing import TYPE_CHECKING

from drstool.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["torchvision_names"]

# Hugging Face's ResNet: patterns, and what they become with the numbers in them and then each of these plus one.
_RESNET = (
    (r"(?:resnet\.)?embedder\.embedder\.convolution\.", "conv1."),
    (r"(?:resnet\.)?embedder\.embedder\.normalization\.", "bn1."),
    (r"(?:resnet\.)?encoder\.stages\.(\d)\.layers\.(\d+)\.shortcut\.convolution\.", "layer{2}.{1}.downsample.0."),
    (r"(?:resnet\.)?encoder\.stages\.(\d)\.layers\.(\d+)\.shortcut\.normalization\.", "layer{2}.{1}.downsample.1."),
    (r"(?:resnet\.)?encoder\.stages\.(\d)\.layers\.(\d+)\.layer\.(\d)\.convolution\.", "layer{3}.{1}.conv{5}."),
    (r"(?:resnet\.)?encoder\.stages\.(\d)\.layers\.(\d+)\.layer\.(\d)\.normalization\.", "layer{3}.{1}.bn{5}."))
# The parts of a ConvNeXt block: torchvision's, timm's and Hugging Face's names.
_CONVNEXT_BLOCK = (
    ("block.0", "conv_dw", "dwconv"), ("block.2", "norm", "layernorm"), ("block.3", "mlp.fc1", "pwconv1"),
    ("block.5", "mlp.fc2", "pwconv2"))
# Modules of Hugging Face's MobileNetV2 and EfficientNet, in blocks and outside, and timm's names of them.
_TENSORFLOW = {
    "conv_stem.first_conv.convolution": "conv_stem", "conv_stem.first_conv.normalization": "bn1",
    "conv_stem.conv_3x3.convolution": "blocks.0.0.conv_dw", "conv_stem.conv_3x3.normalization": "blocks.0.0.bn1",
    "conv_stem.reduce_1x1.convolution": "blocks.0.0.conv_pw", "conv_stem.reduce_1x1.normalization": "blocks.0.0.bn2",
    "expand_1x1.convolution": "conv_pw", "expand_1x1.normalization": "bn1", "conv_3x3.convolution": "conv_dw",
    "conv_3x3.normalization": "bn2", "reduce_1x1.convolution": "conv_pwl", "reduce_1x1.normalization": "bn3",
    "conv_1x1.convolution": "conv_head", "conv_1x1.normalization": "bn2",
    "embeddings.convolution": "conv_stem", "embeddings.batchnorm": "bn1", "expansion.expand_conv": "conv_pw",
    "expansion.expand_bn": "bn1", "depthwise_conv.depthwise_conv": "conv_dw", "depthwise_conv.depthwise_norm": "bn2",
    "squeeze_excite.reduce": "se.conv_reduce", "squeeze_excite.expand": "se.conv_expand",
    "projection.project_conv": "conv_pwl", "projection.project_bn": "bn3",
    "encoder.top_conv": "conv_head", "encoder.top_bn": "bn2"}
# EfficientNet's first block does not expand; and the numbers of its stages' first blocks.
_FIRST_BLOCK = {"bn2": "bn1", "conv_pwl": "conv_pw", "bn3": "bn2"}
_STAGE_STARTS = (0, 1, 3, 5, 8, 11, 15)
# Names that only the originals' state dicts have, and their backbone.
_ORIGINALS = {
    r"(mobilenet_v2\.)?conv_stem\.first_conv\.": "tf_mobilenet_v2",
    r"(efficientnet\.)?embeddings\.convolution\.": "tf_efficientnet_b0"}
_BATCH_NORM_EPSILON, _V3_EPSILON = 1e-5, 1e-3


def torchvision_names(weights: Mapping[str, Tensor], where: object, backbone: str) -> Mapping[str, Tensor]:
    """A state dict with torchvision's names, in whose networks the tensors give the same.

    Parameters
    ----------
    weights
        Names are those of torchvision, timm or Hugging Face transformers.
    where
        Named in errors.
    backbone
        The one that they are to initialise.

    Raises
    ------
    InputError
        They are known to be of a network that pads otherwise than the backbone.
    """
    # DataParallel's prefix, torch.compile's, and that of Hugging Face's wrapper of timm's networks.
    weights = {re.sub(r"^((module|_orig_mod|timm_model)\.)*", "", name): value for name, value in weights.items()}
    original = next(
        (original for pattern, original in _ORIGINALS.items() if any(re.match(pattern, name) for name in weights)), "")
    # timm has an EfficientNet of either kind, with the same names.
    is_plain = "features.0.0.weight" in weights or "conv_stem.weight" in weights and backbone == "tf_mobilenet_v2"
    if original not in ("", backbone):
        raise InputError(
            where, "holds a network of Hugging Face that pads images as TensorFlow does, unlike torchvision's",
            f"give --backbone {original}, or weights of torchvision or timm")
    if backbone in _ORIGINALS.values() and is_plain:
        raise InputError(
            where, "holds a network that pads images as torchvision's does, unlike TensorFlow's",
            f"give --backbone {backbone.removeprefix('tf_')}, or weights of Hugging Face")
    if original:
        weights = {_of_tensorflow(name): value for name, value in weights.items()}
    if "conv_stem.weight" in weights and any(name.startswith("blocks.0.0.") for name in weights):
        return _of_timm_blocks(weights)
    if any("embedder.embedder.convolution." in name for name in weights):
        return {_translated(name): value for name, value in weights.items()}
    if "stem.0.weight" in weights or any("embeddings.patch_embeddings." in name for name in weights):
        return {name: value for each in weights for name, value in [_of_convnext(each, weights[each])]}
    return weights


def _translated(name: str) -> str:
    for pattern, new in _RESNET:
        if match := re.match(pattern, name):
            numbers = [int(group) for group in match.groups()]
            return new.format(*numbers, *(number + 1 for number in numbers)) + name[match.end():]
    return name


def _of_tensorflow(name: str) -> str:
    """timm's name of a tensor of Hugging Face's MobileNetV2 or EfficientNet."""
    module, _, tensor = re.sub(r"^(mobilenet_v2|efficientnet)\.", "", name).rpartition(".")
    block, number = "", -1
    if match := re.match(r"(layer|encoder\.blocks)\.(\d+)\.", module):
        number, module = int(match[2]), module[match.end():]
        if match[1] == "layer":
            # The first block is part of the stem.
            block, number = f"blocks.{number + 1}.0.", number + 1
        else:
            stage = bisect_right(_STAGE_STARTS, number) - 1
            block = f"blocks.{stage}.{number - _STAGE_STARTS[stage]}."
    if module not in _TENSORFLOW:
        return name
    found = _TENSORFLOW[module]
    return f"{block}{_FIRST_BLOCK.get(found, found) if number == 0 else found}.{tensor}"


def _of_convnext(name: str, value: Tensor) -> tuple[str, Tensor]:
    name = name.removeprefix("convnext.")
    for old, new in (("stem.", "features.0."), ("embeddings.patch_embeddings.", "features.0.0."),
                     ("embeddings.layernorm.", "features.0.1.")):
        if name.startswith(old):
            return new + name[len(old):], value
    if match := re.match(r"(?:encoder\.)?stages\.(\d)\.(?:downsample|downsampling_layer)\.", name):
        return f"features.{2 * int(match[1])}." + name[match.end():], value
    if match := re.match(r"(?:encoder\.)?stages\.(\d)\.(?:blocks|layers)\.(\d+)\.", name):
        block, rest = f"features.{2 * int(match[1]) + 1}.{match[2]}.", name[match.end():]
        if rest in ("gamma", "layer_scale_parameter"):
            return block + "layer_scale", value.reshape(-1, 1, 1)
        for new, *olds in _CONVNEXT_BLOCK:
            for old in olds:
                if rest.startswith(old + "."):
                    return block + new + rest[len(old):], value
    return name, value


def _of_timm_blocks(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """MobileNetV2, MobileNetV3 and EfficientNet, which differ in where blocks have squeeze-and-excitation."""
    found = (re.match(r"(blocks\.(\d+)\.(\d+))\.", name) for name in weights)
    blocks = sorted({(int(match[2]), int(match[3]), match[1]) for match in found if match})
    parts = {block: {name[len(block) + 1:].partition(".")[0] for name in weights if name.startswith(block + ".")}
             for *_, block in blocks}
    excited = sum("se" in names for names in parts.values())
    kind = "v2" if not excited else "efficientnet" if excited == len(blocks) else "v3"
    last = f"features.{blocks[-1][0] + 2 if kind == 'efficientnet' else len(blocks) + 1}"
    names = {"conv_stem": "features.0.0", "bn1": "features.0.1"}
    if kind != "v3":
        # MobileNetV3's is part of its classifier.
        names |= {"conv_head": f"{last}.0", "bn2": f"{last}.1"}
    for position, (stage, number, block) in enumerate(blocks, start=1):
        place = f"features.{stage + 1}.{number}" if kind == "efficientnet" else f"features.{position}"
        names |= {f"{block}.{old}": f"{place}.{new}" for old, new in _block_names(parts[block], kind == "v2").items()}
    renamed = {}
    for name, value in weights.items():
        module, _, tensor = name.rpartition(".")
        renamed[f"{names[module]}.{tensor}" if module in names else name] = value
    return _with_epsilon_of_v3(renamed) if kind == "v3" else renamed


def _block_names(parts: set[str], v2: bool) -> dict[str, str]:
    """torchvision's names of a block's modules, by timm's."""
    if "conv" in parts:
        return {"conv": "0", "bn1": "1"}
    expands = "conv_pwl" in parts
    convs = (("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl", "bn3")) if expands else (
        ("conv_dw", "bn1"), ("conv_pw", "bn2"))
    names: dict[str, str] = {}
    position = 0
    for conv, norm in convs:
        is_last = (conv, norm) == convs[-1]
        if is_last and "se" in parts:
            names |= {"se.conv_reduce": f"block.{position}.fc1", "se.conv_expand": f"block.{position}.fc2"}
            position += 1
        if v2:
            names |= {conv: f"conv.{position}", norm: f"conv.{position + 1}"} if is_last else {
                conv: f"conv.{position}.0", norm: f"conv.{position}.1"}
        else:
            names |= {conv: f"block.{position}.0", norm: f"block.{position}.1"}
        position += 1
    return names


def _with_epsilon_of_v3(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Batch norm's scales for torchvision's MobileNetV3, which adds another number to variances than timm's."""
    scaled = dict(weights)
    for name, variance in weights.items():
        scale = name.removesuffix("running_var") + "weight"
        if name.startswith("features.") and name.endswith(".running_var") and scale in weights:
            variance = variance.double()
            factor = ((variance + _V3_EPSILON) / (variance + _BATCH_NORM_EPSILON)).sqrt()
            scaled[scale] = (weights[scale].double() * factor).to(weights[scale].dtype)
    return scaled
