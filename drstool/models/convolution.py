"""Winograd convolutions, 3×3, for inference on a CPU: up to twice as fast.

PyTorch ships NNPACK, which needs fewer multiplications (minimal filtering), but itself uses it only
for large batches; NNPACK is fastest one image at a time.

References
----------
Lavin, Gray: Fast algorithms for convolutional neural networks, CVPR 2016.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["convolved", "layout", "training_layout"]

# With fewer channels or pixels, the transforms cost more than the multiplications saved.
_LEAST_CHANNELS, _LEAST_SIDE = 32, 20


def convolved(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """``conv(x)``, by NNPACK where it applies and :mod:`torch.backends.nnpack` is not switched off.

    Parameters
    ----------
    conv
        NNPACK computes 3×3 kernels with stride 1, padding 1 and no dilation, and weights that are not channels last.
    x : (N, C, H, W) float
        NNPACK computes float32 on a CPU, without gradients.

    Returns
    -------
    (N, C', H, W) float
        NNPACK's values differ from PyTorch's own in the last digits of float32.
    """
    if not _applies(conv, x):
        return conv(x)
    return torch.cat([
        torch._nnpack_spatial_convolution(image.contiguous(), conv.weight, conv.bias, padding=1)
        for image in x.split(1)])


def layout(
    network: nn.Module, device: torch.device, precision: str = "float32", winograd: bool = True,
) -> torch.memory_format:
    """The memory layout in which a device computes a network fastest: contiguous for NNPACK, otherwise channels last.

    NNPACK does not use AVX-512. With it, NNPACK is still faster by a sixth on AMD's processors (Zen 4) and slower by a
    fifth on Intel's (Sapphire Rapids), which AMX tells apart: the choice must not depend on a measurement, because the
    last digits of the maps depend on it.
    """
    by_nnpack = (
        winograd and device.type == "cpu" and precision == "float32" and _is_on() and not _has_amx()
        and any(getattr(module, "calls_convolved", False) for module in network.modules()))
    return torch.contiguous_format if by_nnpack else torch.channels_last


def training_layout(network: nn.Module, device: torch.device, precision: str) -> torch.memory_format:
    """The memory layout in which a device trains a network fastest.

    On a GPU, channels last is for tensor cores. In float32 on a CPU, the backward pass of a plain stack
    of wide convolutions is a quarter faster in the contiguous layout (VGG-16 at 320 pixels, on AVX2).
    Networks of narrow, pointwise and depthwise convolutions are as fast or faster with channels last: those
    with batch norm or depthwise convolutions. Timing a single convolution does not tell: alone, it is as
    fast either way.
    """
    if device.type == "cuda":
        channels_last = precision == "bfloat16"
    else:
        channels_last = precision != "float32" or any(
            isinstance(layer, nn.BatchNorm2d) or getattr(layer, "groups", 1) > 1 for layer in network.modules())
    return torch.channels_last if channels_last else torch.contiguous_format


def _applies(conv: nn.Conv2d, x: Tensor) -> bool:
    # First, so that the sizes of an exported network stay open.
    if not _is_on():
        return False
    shape = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode)
    return (
        type(conv) is nn.Conv2d and shape == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros")
        and min(conv.weight.shape[:2]) >= _LEAST_CHANNELS
        and min(x.shape[2:]) >= _LEAST_SIDE and x.numel() > 0 and conv.weight.is_contiguous()
        and x.device.type == "cpu" and x.dtype == conv.weight.dtype == torch.float32 and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu"))


def _has_amx() -> bool:
    return bool(torch.cpu._is_amx_tile_supported())


def _is_on() -> bool:
    return torch.backends.nnpack.is_available() and torch._C._get_nnpack_enabled()
