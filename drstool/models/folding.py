"""Batch norm folded into the convolutions before it: for inference, and where it is frozen in training."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from drstool.models.depthwise import DepthwiseConv2d

__all__ = ["fold_batch_norm", "fold_frozen_norm"]


def fold_batch_norm(network: nn.Module) -> None:
    """Fold each batch norm into the convolution whose output it takes, in place; equal but for the last digits.

    Parameters
    ----------
    network
        In evaluation mode. A batch norm takes the output of the convolution that its parent names just before it,
        as in torchvision's networks and ours.
    """
    for parent, (conv_name, conv), (norm_name, norm) in list(_pairs(network)):
        setattr(parent, conv_name, fuse_conv_bn_eval(conv, norm))
        setattr(parent, norm_name, nn.Identity())


def fold_frozen_norm(network: nn.Module) -> None:
    """Let convolutions apply the batch norm behind them, where its parameters are frozen, while it is not training.

    Its passes over all responses, forward and backward, become one over the weights. Names, weights and
    gradients stay.
    """
    for _, (_, conv), (_, norm) in list(_pairs(network)):
        if type(norm) is nn.BatchNorm2d and type(conv) in _FOLDING \
                and norm.track_running_stats and not any(each.requires_grad for each in norm.parameters()):
            conv.__class__, norm.__class__ = _FOLDING[type(conv)], _FoldedNorm
            # Not as a submodule: the norm's names stay its own.
            conv.__dict__["norm_behind"] = norm


def _pairs(network: nn.Module) -> Iterator[tuple[nn.Module, tuple[str, nn.Conv2d], tuple[str, nn.BatchNorm2d]]]:
    for parent in network.modules():
        name_before: str = ""
        before: nn.Module | None = None
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d) and isinstance(before, nn.Conv2d) \
                    and before.out_channels == child.num_features:
                yield parent, (name_before, before), (name, child)
            name_before, before = name, child


class _FoldedNorm(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's name)
        return super().forward(input) if self.training else input


class _FoldingConv2d(nn.Conv2d):
    norm_behind: nn.BatchNorm2d

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002
        norm = self.norm_behind
        if not norm.training:
            assert norm.running_var is not None and norm.running_mean is not None
            scale = torch.rsqrt(norm.running_var + norm.eps)
            scale = scale if norm.weight is None else scale * norm.weight
            shift = -norm.running_mean if bias is None else bias - norm.running_mean
            bias = shift * scale if norm.bias is None else shift * scale + norm.bias
            weight = weight * scale[:, None, None, None]
        return super()._conv_forward(input, weight, bias)


class _FoldingDepthwiseConv2d(_FoldingConv2d, DepthwiseConv2d):
    pass


_FOLDING: dict[type, type] = {nn.Conv2d: _FoldingConv2d, DepthwiseConv2d: _FoldingDepthwiseConv2d}
