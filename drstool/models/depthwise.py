"""Depthwise convolutions whose gradients a CPU computes several times faster; values as PyTorch's own.

For the gradients of dilated depthwise convolutions, and in bfloat16 of strided and large ones, PyTorch on a CPU
falls back to plain loops. Both have equals that it computes fast.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

__all__ = ["DepthwiseConv2d", "use_fast_gradients"]


def use_fast_gradients(network: nn.Module) -> None:
    """Make the depthwise convolutions of a network :class:`DepthwiseConv2d`, in place; names and weights stay."""
    for module in network.modules():
        if type(module) is nn.Conv2d and module.groups == module.in_channels == module.out_channels > 1 \
                and module.padding_mode == "zeros" and not isinstance(module.padding, str):
            module.__class__ = DepthwiseConv2d


class DepthwiseConv2d(nn.Conv2d):
    """A convolution of each channel by itself, with zero padding."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002 (torch's name)
        if input.device.type != "cpu" or not torch.is_grad_enabled():
            return super()._conv_forward(input, weight, bias)
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            input, weight = input.to(dtype), weight.to(dtype)
            bias = None if bias is None else bias.to(dtype)
        return _Depthwise.apply(input, weight, bias, self.stride, self.padding, self.dilation)


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], padding: tuple[int, int],
        dilation: tuple[int, int],
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = stride, padding, dilation
        return F.conv2d(x, weight, bias, stride, padding, dilation, len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        stride, padding, dilation = ctx.geometry
        dtype = x.dtype
        if dtype == torch.bfloat16 and (max(stride) > 1 or max(weight.shape[2:]) > 3):
            grad, x, weight = grad.float(), x.float(), weight.float()
        step, wanted = dilation[0], ctx.needs_input_grad[:3]
        same_size = all(pad == step * (side // 2) and side % 2 for pad, side in zip(padding, weight.shape[2:]))
        if step > 1 and dilation == (step, step) and stride == (1, 1) and same_size:
            # Between pixels that are `dilation` apart this is a convolution without dilation.
            once = weight.shape[2] // 2, weight.shape[3] // 2
            of_x, of_weight, of_bias = _gradients(
                _phases(grad, step), _phases(x, step), weight, stride, once, (1, 1), wanted)
            of_x = None if of_x is None else _from_phases(of_x, step, x.shape[2:])
        else:
            of_x, of_weight, of_bias = _gradients(grad, x, weight, stride, padding, dilation, wanted)
        return *(None if each is None else each.to(dtype) for each in (of_x, of_weight, of_bias)), None, None, None


def _gradients(
    grad: Tensor, x: Tensor, weight: Tensor, stride: tuple[int, ...], padding: tuple[int, ...],
    dilation: tuple[int, ...], wanted: tuple[bool, ...],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    channels = len(weight)
    return torch.ops.aten.convolution_backward(
        grad, x, weight, [channels], stride, padding, dilation, False, [0, 0], channels, wanted)


def _phases(maps: Tensor, step: int) -> Tensor:
    """Every ``step``-th pixel of maps ``(N, C, H, W)``, from each first one: ``(step² N, C, H / step, W / step)``.

    Zeros are appended where a side is no multiple of the step. The result is channels last.
    """
    n, c, height, width = maps.shape
    maps = F.pad(maps, (0, -width % step, 0, -height % step)).permute(0, 2, 3, 1)
    rows, columns = maps.shape[1] // step, maps.shape[2] // step
    grid = maps.reshape(n, rows, step, columns, step, c).permute(2, 4, 0, 1, 3, 5)
    return grid.reshape(-1, rows, columns, c).permute(0, 3, 1, 2)


def _from_phases(phases: Tensor, step: int, size: tuple[int, ...]) -> Tensor:
    """Inverse of :func:`_phases`, without what was appended."""
    c, rows, columns = phases.shape[1:]
    grid = phases.permute(0, 2, 3, 1).reshape(step, step, -1, rows, columns, c).permute(2, 3, 0, 4, 1, 5)
    return grid.reshape(-1, rows * step, columns * step, c)[:, :size[0], :size[1]].permute(0, 3, 1, 2)
