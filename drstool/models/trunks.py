"""The trunks of all networks: VGG-16, and torchvision's networks taken apart into a flat list of layers.

References
----------
Yu, Koltun: Multi-scale context aggregation by dilated convolutions, ICLR 2016, for strides replaced by dilation.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet
from torchvision.ops import SqueezeExcitation

from drstool.models.drs import FixedDRS, LearnableDRS
from drstool.models.vgg import BLOCKS, VGGWidths, torchvision_positions, vgg_layers
from drstool.recipe import NORMALIZE_MEAN, NORMALIZE_STD

__all__ = ["TRUNKS", "Trunk", "activations", "build_trunk", "output_channels"]


class _BasicBlock(resnet.BasicBlock):
    """torchvision's block with a module for each ReLU, so that DRS can be learned at each."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        del self.relu
        self.relu1, self.relu2 = nn.ReLU(inplace=True), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu2(y + (x if self.downsample is None else self.downsample(x)))


class _Bottleneck(resnet.Bottleneck):
    """As :class:`_BasicBlock`."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        del self.relu
        self.relu1, self.relu2, self.relu3 = (nn.ReLU(inplace=True) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.relu2(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu3(y + (x if self.downsample is None else self.downsample(x)))


def _resnet(block: type, *blocks: int) -> Callable[[], nn.Module]:
    return lambda: resnet.ResNet(block, list(blocks))


def _plain(name: str) -> Callable[[], nn.Module]:
    return lambda: getattr(torchvision.models, name)(weights=None)


@dataclass(frozen=True)
class Published:
    """How one of torchvision's networks is taken apart.

    Attributes
    ----------
    build
        Gives the network, randomly initialised.
    stages
        Modules of the stages that end at strides 2, 4, 8, 16 and 32, separated by spaces. ``a+b`` are one layer
        together, ``a*`` is a layer for each block in it, and a number is one of ``features``.
    widens
        Whether the last layer is a 1×1 convolution that widens the features for ImageNet's classes, which
        segmenters leave out, as DeepLabV3+ does.
    tensorflow
        Whether it pads and normalises as the original in TensorFlow, unlike torchvision's network.
    from_minus_one
        Whether it has learned from images in [-1, 1].
    """

    build: Callable[[], nn.Module]
    stages: tuple[str, str, str, str, str]
    widens: bool = False
    tensorflow: bool = False
    from_minus_one: bool = False


_RESNET = ("conv1+bn1+relu+maxpool", "layer1*", "layer2*", "layer3*", "layer4*")

# Activations and normalisation need no column: they are found by their types.
_PUBLISHED = {
    "resnet18": Published(_resnet(_BasicBlock, 2, 2, 2, 2), _RESNET),
    "resnet50": Published(_resnet(_Bottleneck, 3, 4, 6, 3), _RESNET),
    "resnet101": Published(_resnet(_Bottleneck, 3, 4, 23, 3), _RESNET),
    "mobilenet_v2": Published(
        _plain("mobilenet_v2"), ("0 1", "2 3", "4 5 6", "7 8 9 10 11 12 13", "14 15 16 17 18"), widens=True),
    "mobilenet_v3_large": Published(
        _plain("mobilenet_v3_large"), ("0 1", "2 3", "4 5 6", "7 8 9 10 11 12", "13 14 15 16"), widens=True),
    "efficientnet_b0": Published(_plain("efficientnet_b0"), ("0 1*", "2*", "3*", "4* 5*", "6* 7* 8"), widens=True),
    "convnext_tiny": Published(_plain("convnext_tiny"), ("", "0 1*", "2 3*", "4 5*", "6 7*")),
}
TRUNKS: dict[str, VGGWidths | Published] = {
    "vgg16": VGGWidths((64, 128, 256, 512, 512)),
    "vgg16_bn": VGGWidths((64, 128, 256, 512, 512), batch_norm=True),
    **_PUBLISHED,
    "tf_mobilenet_v2": replace(_PUBLISHED["mobilenet_v2"], tensorflow=True, from_minus_one=True),
    "tf_efficientnet_b0": replace(_PUBLISHED["efficientnet_b0"], tensorflow=True),
    # For the demo and the tests: trains from scratch within minutes on a CPU.
    "vgg16-small": VGGWidths((16, 32, 64, 64, 64), extra=64, batch_norm=True),
}


@dataclass(frozen=True)
class Trunk:
    """A trunk as a flat list of layers; a residual, inverted-residual, MBConv or ConvNeXt block is one layer.

    Attributes
    ----------
    layers
    stages
        Of each layer, 1 to 5: the block of VGG-16, or the stage that ends at stride 2 to the power of it.
    paths
        Of each layer, names in torchvision's network by names in the layer; an empty name is the layer itself.
    low
        Number of layers up to stride 4.
    widens
        As in :class:`Published`.
    """

    layers: Sequence[nn.Module]
    stages: list[int]
    paths: list[dict[str, str]]
    low: int
    widens: bool = False


def build_trunk(name: str, output_stride: int) -> Trunk:
    """A trunk, randomly initialised.

    Parameters
    ----------
    name
        A key of ``TRUNKS``.
    output_stride
        8 or 16; 32 is the published networks' own, which VGG-16 reaches only behind its last layer.
    """
    row = TRUNKS[name]
    if isinstance(row, VGGWidths):
        paths = [
            {"conv": f"features.{position}"} | ({"norm": f"features.{position + 1}"} if row.batch_norm else {})
            for position in torchvision_positions(row.batch_norm)]
        return Trunk(vgg_layers(row, output_stride), list(BLOCKS), paths, low=sum(block <= 3 for block in BLOCKS))
    network, layers, stages, paths = row.build(), [], [], []
    for stage, names in enumerate(row.stages, start=1):
        for layer, path in _layers(network, names):
            layers.append(layer)
            stages.append(stage)
            paths.append(path)
    _dilate(layers, stages, output_stride)
    if row.from_minus_one:
        _convolutions(layers[0])[0].register_forward_pre_hook(_scale_from_minus_one)
    if row.tensorflow:
        _compute_as_tensorflow(layers)
    return Trunk(layers, stages, paths, low=sum(stage <= 2 for stage in stages), widens=row.widens)


def _layers(network: nn.Module, names: str) -> Iterator[tuple[nn.Module, dict[str, str]]]:
    for name in names.split():
        path = "features." + name if name[0].isdecimal() else name
        if path.endswith("*"):
            path = path[:-1]
            yield from ((block, {"": f"{path}.{key}"}) for key, block in network.get_submodule(path).named_children())
        elif "+" in path:
            parts = path.split("+")
            yield (
                nn.Sequential(OrderedDict((part, network.get_submodule(part)) for part in parts)),
                {part: part for part in parts})
        else:
            yield network.get_submodule(path), {"": path}


def _dilate(layers: list[nn.Module], stages: list[int], output_stride: int) -> None:
    """Replace the strides beyond the output stride by dilation, in place.

    A convolution that loses its stride has the dilation of those before it; those after it, twice that. Their
    outputs hold those of the original network, and others between them.
    """
    dilation = 1
    for layer, stage in zip(layers, stages, strict=True):
        for conv in _convolutions(layer):
            if conv.kernel_size != (1, 1):
                conv.dilation = (dilation, dilation)
                conv.padding = tuple(dilation * int(padding) for padding in conv.padding)
            if conv.stride == (2, 2) and 2 ** stage > output_stride:
                conv.stride = (1, 1)
                if conv.kernel_size == (2, 2):
                    conv.register_forward_pre_hook(_pad_behind)
                # A block's shortcut loses its stride too.
                dilation = 2 ** stage // output_stride


def _pad_behind(conv: nn.Conv2d, inputs: tuple[Tensor]) -> Tensor:
    """ConvNeXt's 2×2 patches begin at their cell; without a stride, the last ones leave the image."""
    return F.pad(inputs[0], (0, conv.dilation[1], 0, conv.dilation[0]))


def _compute_as_tensorflow(layers: list[nn.Module]) -> None:
    """Give convolutions the padding "same" of TensorFlow, and batch norm its epsilon, in place.

    Without a stride, "same" is what torchvision's networks pad by themselves.
    """
    for module in nn.ModuleList(layers).modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-3
        elif isinstance(module, nn.Conv2d) and module.stride == (2, 2):
            module.padding = (0, 0)
            module.register_forward_pre_hook(_pad_less_before)


def _scale_from_minus_one(conv: nn.Conv2d, inputs: tuple[Tensor]) -> Tensor:
    """Images in [-1, 1], given those normalised by ImageNet's mean and standard deviation."""
    mean, std = (inputs[0].new_tensor(each)[:, None, None] for each in (NORMALIZE_MEAN, NORMALIZE_STD))
    return inputs[0] * (2 * std) + (2 * mean - 1)


def _pad_less_before(conv: nn.Conv2d, inputs: tuple[Tensor]) -> Tensor:
    """With a stride of 2, "same" pads sides of an even length by one less before than behind."""
    (height, width), (rows, columns) = inputs[0].shape[2:], (side // 2 for side in conv.kernel_size)
    return F.pad(inputs[0], (columns - 1 + width % 2, columns, rows - 1 + height % 2, rows))


def _convolutions(layer: nn.Module) -> list[nn.Conv2d]:
    return [module for module in layer.modules() if isinstance(module, nn.Conv2d)]


def output_channels(layer: nn.Module) -> int:
    """Number of channels of a layer's output."""
    return _convolutions(layer)[-1].out_channels


def activations(layer: nn.Module) -> Iterator[tuple[nn.Module, str, int]]:
    """A layer's activations that cannot be negative, where DRS can stand or stands.

    Those of squeeze-and-excitation are none of them: they are of a single pixel.

    Yields
    ------
    tuple of (nn.Module, str, int)
        The module whose attribute the activation is, the attribute's name, and the number of channels.
    """
    for parent in layer.modules():
        before: Any = None
        if isinstance(parent, SqueezeExcitation):
            continue
        for name, child in parent.named_children():
            if isinstance(child, (nn.ReLU, nn.ReLU6, FixedDRS, LearnableDRS)):
                residual = isinstance(parent, (_BasicBlock, _Bottleneck))
                yield parent, name, (getattr(parent, "bn" + name[-1]) if residual else before).weight.shape[0]
            elif isinstance(child, (nn.Conv2d, nn.modules.batchnorm._BatchNorm)):
                before = child
