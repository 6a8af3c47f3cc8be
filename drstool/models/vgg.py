"""VGG-16's convolutions as a flat list of layers, fully convolutional.

References
----------
Simonyan, Zisserman: Very deep convolutional networks, ICLR 2015, configuration D;
DRS (AAAI 2021), section 4.1, for the changes.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from drstool.models.convolution import convolved

__all__ = ["BLOCKS", "Layer", "VGGWidths", "torchvision_positions", "vgg_layers"]

# The block of each layer, counted from 1.
BLOCKS = (1, 1, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5)


@dataclass(frozen=True)
class VGGWidths:
    """Channels of the five blocks and of the head's extra layers, and whether layers have batch norm."""

    blocks: tuple[int, int, int, int, int]
    extra: int = 512
    batch_norm: bool = False


class Layer(nn.Module):
    """[pooling] 3×3 convolution [batch norm] ReLU, initialised after He et al."""

    # For :func:`drstool.models.convolution.layout`.
    calls_convolved = True

    def __init__(
        self, inputs: int, outputs: int, batch_norm: bool, *, pool: nn.Module | None = None, dilation: int = 1
    ) -> None:
        super().__init__()
        self.pool = pool
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation, bias=not batch_norm)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)
        self.norm = nn.BatchNorm2d(outputs) if batch_norm else None
        # In place, as nothing else uses the convolution's output. DRS takes its place, and checkpoints
        # hold DRS's tensors under this name.
        self.rectifier: nn.Module = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is not None:
            x = self.pool(x)
        x = convolved(self.conv, x)
        if self.norm is not None:
            x = self.norm(x)
        return self.rectifier(x)


def vgg_layers(widths: VGGWidths, output_stride: int) -> list[Layer]:
    """The 13 layers, randomly initialised; the fifth pooling, behind the last of them, is left out.

    Parameters
    ----------
    widths
    output_stride
        8, as in the paper: the fourth pooling keeps the resolution, and the layers behind it are dilated.
        16: both are VGG-16's own.
    """
    layers, inputs = [], 3
    for index, block in enumerate(BLOCKS):
        outputs, last = widths.blocks[block - 1], block == 5
        pool = None
        if index and block > BLOCKS[index - 1]:
            pool = nn.MaxPool2d(3, stride=1, padding=1) if last and output_stride == 8 else nn.MaxPool2d(2)
        layers.append(Layer(
            inputs, outputs, widths.batch_norm, pool=pool, dilation=2 if last and output_stride == 8 else 1))
        inputs = outputs
    return layers


def torchvision_positions(batch_norm: bool) -> list[int]:
    """Positions of the convolutions in ``features`` of torchvision's ``vgg16`` or ``vgg16_bn``.

    Examples
    --------
    >>> torchvision_positions(batch_norm=False)
    [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
    """
    # Each layer has a ReLU and may have batch norm; a pooling follows each block.
    return [index * (3 if batch_norm else 2) + block - 1 for index, block in enumerate(BLOCKS)]
