"""DeepLabV3+ on the trunks of :mod:`drstool.models.trunks` and torchvision's ASPP.

References
----------
Chen, Zhu, Papandreou, Schroff, Adam: Encoder-decoder with atrous separable convolution for
semantic image segmentation, ECCV 2018.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.segmentation.deeplabv3 import ASPP

from drstool.models.network import MapNetwork
from drstool.models.trunks import output_channels
from drstool.models.vgg import Layer

__all__ = ["DeepLabV3Plus", "build_segmenter"]

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
    output_stride
        Of the backbone's last features.
    """

    def __init__(
        self, backbone: Backbone, num_classes: int, rates: tuple[int, int, int], channels: int = 256,
        output_stride: int = 16,
    ) -> None:
        super().__init__()
        self.backbone, self.output_stride = backbone, output_stride
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


def build_segmenter(
    backbone: str, num_classes: int, output_stride: int = 16
) -> tuple[DeepLabV3Plus, nn.Module]:
    """A segmenter and the whole network that its backbone is part of, both randomly initialised.

    Both share their tensors. The second has them under the names of the published weights, so
    pretrained weights are loaded into it.

    Parameters
    ----------
    backbone
        A key of ``TRUNKS``.
    num_classes
        Including the background.
    output_stride
        16 or 8; ``vgg16-small`` always has 8.
    """
    small = backbone == "vgg16-small"
    network = MapNetwork(backbone, 1, "paper" if small else "plain", 8 if small else output_stride)
    layers, low = list(network.layers), network.low_layers
    # As in DeepLabV3+: a last layer that only widens the features for ImageNet's classes is left out.
    layers = layers[:len(layers) - network.last_layers]
    features = Backbone(
        _sequence(layers[:low], network.paths[:low]), _sequence(layers[low:], network.paths[low:]),
        output_channels(layers[low - 1]), output_channels(layers[-1]))
    if small:
        # For small images: atrous rates that fit into about 20 cells, and a head as narrow as the backbone.
        return DeepLabV3Plus(features, num_classes, (3, 6, 9), channels=64, output_stride=8), network
    # DeepLabV3+ paper, section 3.1: rates 6, 12, 18 at stride 16, doubled at stride 8.
    rates = (6, 12, 18) if output_stride == 16 else (12, 24, 36)
    model = DeepLabV3Plus(features, num_classes, rates, output_stride=output_stride)
    # Authors' code: slowly moving batch statistics in the backbone, since batches are small.
    for module in features.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.01
    return model, network


def _sequence(layers: list[nn.Module], paths: list[dict[str, str]]) -> nn.Sequential:
    """Consecutive layers as one module, under the names that checkpoints have.

    Those are the positions in torchvision's ``features``, or in a list of the network's modules.
    """
    if isinstance(layers[0], Layer):
        return nn.Sequential(OrderedDict(layers=nn.Sequential(*layers)))
    parts: dict[str, nn.Module] = {}
    for layer, names in zip(layers, paths, strict=False):
        for own, path in names.items():
            parent, _, child = path.removeprefix("features.").partition(".")
            if child:
                parts.setdefault(parent, nn.Sequential()).add_module(child, layer)
            else:
                parts[parent] = layer.get_submodule(own)
    return nn.Sequential(OrderedDict(
        (name if name.isdecimal() else str(index), part) for index, (name, part) in enumerate(parts.items())))
