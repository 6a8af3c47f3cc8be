"""DeepLabV3+ on torchvision's backbones and ASPP.

References
----------
Chen, Zhu, Papandreou, Schroff, Adam: Encoder-decoder with atrous separable convolution for
semantic image segmentation, ECCV 2018.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.segmentation.deeplabv3 import ASPP

from drstool.models.vgg import NUM_ACTIVATIONS, VGG, build_classifier

__all__ = ["DEEPLAB_BACKBONES", "DeepLabV3Plus", "build_segmenter"]

# Channels of the stride-4 features after their projection (paper, section 4.1).
_LOW_LEVEL_CHANNELS = 48


class Backbone(nn.Module):
    """A feature network, split at stride 4 into ``low`` and ``high``.

    Attributes
    ----------
    low_channels, high_channels
        Output channels of each half.
    """

    def __init__(self, low: nn.Module, high: nn.Module, low_channels: int, high_channels: int) -> None:
        super().__init__()
        self.low, self.high = low, high
        self.low_channels, self.high_channels = low_channels, high_channels

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        low = self.low(images)
        return low, self.high(low)


class DeepLabV3Plus(nn.Module):
    """Backbone, ASPP over its last features, decoder over its stride-4 features.

    Parameters
    ----------
    backbone
    num_classes
        Including the background.
    rates
        Atrous rates of ASPP's three dilated branches.
    channels
        Output channels of ASPP and decoder.
    """

    def __init__(
        self, backbone: Backbone, num_classes: int, rates: tuple[int, int, int], channels: int = 256
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.aspp = ASPP(backbone.high_channels, list(rates), channels)
        # Paper: not given / authors' code: dropout 0.1 / torchvision's ASPP: 0.5 / here: the authors' 0.1.
        self.aspp.project[3].p = 0.1
        self.low_projection = _conv_norm_relu(backbone.low_channels, _LOW_LEVEL_CHANNELS, 1)
        self.decoder = nn.Sequential(
            _conv_norm_relu(channels + _LOW_LEVEL_CHANNELS, channels, 3),
            nn.Conv2d(channels, num_classes, 1))
        for part in (self.aspp, self.low_projection, self.decoder):
            for module in part.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Class logits of normalised images.

        Parameters
        ----------
        images : (N, 3, H, W) float

        Returns
        -------
        (N, num_classes, H, W) float
            Channel c is label c; channel 0 is background.
        """
        low, high = self.backbone(images)
        context = self.aspp(high)
        context = F.interpolate(context, size=low.shape[2:], mode="bilinear", align_corners=False)
        logits = self.decoder(torch.cat([self.low_projection(low), context], dim=1))
        return F.interpolate(logits, size=images.shape[2:], mode="bilinear", align_corners=False)


def _conv_norm_relu(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True))


def _resnet(name: str, output_stride: int) -> tuple[Backbone, nn.Module]:
    network = getattr(torchvision.models, name)(
        weights=None, replace_stride_with_dilation=(False, output_stride == 8, True))
    low = nn.Sequential(
        network.conv1, network.bn1, network.relu, network.maxpool, network.layer1)
    high = nn.Sequential(network.layer2, network.layer3, network.layer4)
    return Backbone(low, high, 256, 2048), network


# Positions in MobileNetV2's `features` of the blocks that go to strides 16 and 32.
_MOBILENET_TO_16, _MOBILENET_TO_32, _MOBILENET_LAST = 7, 14, 18


def _mobilenet_v2(name: str, output_stride: int) -> tuple[Backbone, nn.Module]:
    network = getattr(torchvision.models, name)(weights=None)
    features = network.features
    halving = [_MOBILENET_TO_32] if output_stride == 16 else [_MOBILENET_TO_16, _MOBILENET_TO_32]
    dilation = 1
    for position in range(halving[0], _MOBILENET_LAST):
        depthwise = features[position].conv[1][0]
        if position in halving:
            # Without its stride, this block has the dilation of those before it; those after it double it.
            depthwise.stride = (1, 1)
            _dilate(depthwise, dilation)
            dilation *= 2
        else:
            _dilate(depthwise, dilation)
    return Backbone(features[:4], features[4:_MOBILENET_LAST], 24, 320), network


def _dilate(conv: nn.Conv2d, dilation: int) -> None:
    conv.dilation = (dilation, dilation)
    conv.padding = (dilation, dilation)


class _VGGLayers(nn.Module):
    """Consecutive layers of a VGG as a module."""

    def __init__(self, network: VGG, first: int, last: int) -> None:
        super().__init__()
        self.layers = network.layers[first:last]

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


# Index of the VGG-16 layer that goes from stride 4 to stride 8.
_VGG_TO_8 = 7


def _vgg(name: str, output_stride: int) -> tuple[Backbone, nn.Module]:
    network = build_classifier(name, outputs=1, suppression="none")
    low, high = _VGGLayers(network, 0, _VGG_TO_8), _VGGLayers(network, _VGG_TO_8, NUM_ACTIVATIONS)
    channels = [layer.conv.out_channels for layer in network.layers]
    return Backbone(low, high, channels[_VGG_TO_8 - 1], channels[-1]), network


DEEPLAB_BACKBONES: dict[str, Callable[[str, int], tuple[Backbone, nn.Module]]] = {
    "resnet50": _resnet,
    "resnet101": _resnet,
    "mobilenet_v2": _mobilenet_v2,
    "vgg16-small": _vgg,
}


def build_segmenter(
    backbone: str, num_classes: int, output_stride: int = 16
) -> tuple[DeepLabV3Plus, nn.Module]:
    """A segmenter and the whole network that its backbone is part of, both randomly initialised.

    Both share their tensors. The second has them under the names of the published weights, so
    pretrained weights are loaded into it.

    Parameters
    ----------
    backbone
        A key of ``DEEPLAB_BACKBONES``.
    num_classes
        Including the background.
    output_stride
        16 or 8; ``vgg16-small`` always has 8.
    """
    features, network = DEEPLAB_BACKBONES[backbone](backbone, output_stride)
    if backbone == "vgg16-small":
        # For small images: atrous rates that fit into about 20 cells, and a head as narrow as the backbone.
        return DeepLabV3Plus(features, num_classes, (3, 6, 9), channels=64), network
    # DeepLabV3+ paper, section 3.1: rates 6, 12, 18 at stride 16, doubled at stride 8.
    rates = (6, 12, 18) if output_stride == 16 else (12, 24, 36)
    model = DeepLabV3Plus(features, num_classes, rates)
    # Authors' code: slowly moving batch statistics in the backbone, since batches are small.
    for module in features.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.01
    return model, network
