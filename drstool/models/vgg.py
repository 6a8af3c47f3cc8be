"""VGG-16 as a fully convolutional network of stride 8: classifier and refiner share it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from drstool.models.convolution import convolved
from drstool.models.drs import FixedDRS, LearnableDRS

__all__ = [
    "NUM_ACTIVATIONS", "TRUNK_LAYERS", "VGG", "VGG_BACKBONES", "build_classifier", "build_refiner",
    "image_scores", "load_torchvision_features", "without_suppression",
]

TRUNK_LAYERS = 13
EXTRA_LAYERS = 3
NUM_ACTIVATIONS = TRUNK_LAYERS + EXTRA_LAYERS

# Indices of the layers that begin a block of VGG-16 and so take a pooled input. The fourth pooling
# keeps the resolution; the fifth, after layer 12, is left out.
_HALVING = (2, 4, 7)
_KEEPING = (10,)
_BLOCK_OF_LAYER = (0, 0, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4)
# Positions of the convolutions in torchvision's `vgg16().features`.
TORCHVISION_POSITIONS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)


@dataclass(frozen=True)
class VGGWidths:
    """Channels of the five blocks and of the extra layers, and whether layers have batch norm."""

    blocks: tuple[int, int, int, int, int]
    extra: int
    batch_norm: bool


VGG_BACKBONES: dict[str, VGGWidths] = {
    "vgg16": VGGWidths((64, 128, 256, 512, 512), 512, batch_norm=False),
    # For the demo and the tests: trains from scratch within minutes on a CPU.
    "vgg16-small": VGGWidths((16, 32, 64, 64, 64), 64, batch_norm=True),
}


class Layer(nn.Module):
    """[pooling] convolution [batch norm] activation: one of the 16 layers."""

    # For :func:`drstool.models.convolution.layout`.
    calls_convolved = True

    def __init__(
        self, index: int, inputs: int, outputs: int, batch_norm: bool, activation: nn.Module
    ) -> None:
        super().__init__()
        self.pool: nn.Module | None = None
        if index in _HALVING:
            self.pool = nn.MaxPool2d(2)
        elif index in _KEEPING:
            self.pool = nn.MaxPool2d(3, stride=1, padding=1)
        dilation = 2 if 10 <= index < TRUNK_LAYERS else 1
        self.conv = nn.Conv2d(
            inputs, outputs, 3, padding=dilation, dilation=dilation, bias=not batch_norm)
        self.norm = nn.BatchNorm2d(outputs) if batch_norm else None
        # Checkpoints hold tensors under this name.
        self.rectifier = activation

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is not None:
            x = self.pool(x)
        x = convolved(self.conv, x)
        if self.norm is not None:
            x = self.norm(x)
        return self.rectifier(x)


class VGG(nn.Module):
    """13 VGG-16 layers, 3 extra ones and a 1×1 convolution; output stride 8.

    Parameters
    ----------
    backbone
        A key of ``VGG_BACKBONES``.
    outputs
        C, the number of object classes.
    activation
        Makes the activation of a layer from its index (0..15) and its channels.

    References
    ----------
    Simonyan, Zisserman: Very deep convolutional networks, ICLR 2015, configuration D;
    DRS (AAAI 2021), section 4.1, for the changes.
    """

    def __init__(
        self, backbone: str, outputs: int, activation: Callable[[int, int], nn.Module]
    ) -> None:
        super().__init__()
        widths = VGG_BACKBONES[backbone]
        channels = [widths.blocks[block] for block in _BLOCK_OF_LAYER] + [widths.extra] * EXTRA_LAYERS
        self.layers = nn.ModuleList(
            Layer(i, 3 if i == 0 else channels[i - 1], c, widths.batch_norm, activation(i, c))
            for i, c in enumerate(channels))
        self.output = nn.Conv2d(channels[-1], outputs, 1)
        self.backbone = backbone

    def features(self, x: Tensor, first: int = 0, last: int = NUM_ACTIVATIONS) -> Tensor:
        """Activations of layer ``last - 1``, given the input of layer ``first``."""
        for layer in self.layers[first:last]:
            x = layer(x)
        return x

    def forward(self, images: Tensor) -> Tensor:
        """Class maps of normalised images.

        Parameters
        ----------
        images : (N, 3, H, W) float
            RGB, normalised by ImageNet's mean and standard deviation.

        Returns
        -------
        (N, C, H // 8, W // 8) float
            Unbounded; channel c is object class c.
        """
        return self.output(self.features(images))


def image_scores(maps: Tensor) -> Tensor:
    """Classification logits of class maps: their spatial mean.

    Parameters
    ----------
    maps : (N, C, h, w) float

    Returns
    -------
    (N, C) float32
    """
    return maps.float().mean(dim=(2, 3))


def build_classifier(
    backbone: str, outputs: int, suppression: str = "learnable", delta: float = 0.55,
    drs_layers: Sequence[int] = range(NUM_ACTIVATIONS),
) -> VGG:
    """A classifier with DRS at the chosen activations, randomly initialised.

    Parameters
    ----------
    backbone, outputs
        As for :class:`VGG`.
    suppression
        ``fixed``, ``learnable`` or ``none``.
    delta
        Bound of the fixed suppression, in [0, 1].
    drs_layers
        Indices 0..15 of the activations that suppress; the others are plain ReLUs.
    """

    def activation(index: int, channels: int) -> nn.Module:
        if suppression == "none" or index not in drs_layers:
            # In place, as nothing else uses the convolution's output.
            return nn.ReLU(inplace=True)
        return FixedDRS(delta) if suppression == "fixed" else LearnableDRS(channels)

    model = VGG(backbone, outputs, activation)
    for conv in _convolutions(model):
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
    return model


def build_refiner(backbone: str, outputs: int) -> VGG:
    """A refiner, randomly initialised: the same network without suppression.

    The new layers are drawn from a normal distribution with standard deviation 0.01, as in the
    authors' code, so that the regression begins near zero; before batch norm the scale does not
    matter, and they are initialised as in a classifier.
    """
    model = build_classifier(backbone, outputs, suppression="none")
    new = [layer.conv for layer in model.layers[TRUNK_LAYERS:] if layer.norm is None]
    for conv in [*new, model.output]:
        nn.init.normal_(conv.weight, std=0.01)
    return model


def without_suppression(model: VGG) -> VGG:
    """The same weights with plain ReLUs: a DRS classifier as a plain CAM network."""
    plain = VGG(model.backbone, model.output.out_channels, lambda index, channels: nn.ReLU(inplace=True))
    plain.load_state_dict(
        {name: value for name, value in model.state_dict().items() if ".rectifier." not in name})
    return plain.to(next(model.parameters()).device).train(model.training)


def load_torchvision_features(model: VGG, weights: Mapping[str, Tensor]) -> frozenset[str]:
    """Copy the 13 convolutions of torchvision's VGG-16 (``features.N.weight``/``.bias``).

    Returns
    -------
    frozenset of str
        Names, in the model's state dict, of the tensors that were loaded.

    Raises
    ------
    KeyError
        A tensor is missing.
    ValueError
        A tensor has the wrong shape.
    """
    filled = set()
    for index, (layer, position) in enumerate(zip(model.layers[:TRUNK_LAYERS], TORCHVISION_POSITIONS, strict=True)):
        for name, target in (("weight", layer.conv.weight), ("bias", layer.conv.bias)):
            key = f"features.{position}.{name}"
            source = weights[key]
            if target is None or source.shape != target.shape:
                raise ValueError(f"{key!r} has shape {tuple(source.shape)}")
            with torch.no_grad():
                target.copy_(source)
            filled.add(f"layers.{index}.conv.{name}")
    return frozenset(filled)


def _convolutions(model: VGG) -> list[nn.Conv2d]:
    return [layer.conv for layer in model.layers] + [model.output]
