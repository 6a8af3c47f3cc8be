"""Batch norm folded into the convolutions before it, for inference."""

from __future__ import annotations

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

__all__ = ["fold_batch_norm"]


def fold_batch_norm(network: nn.Module) -> None:
    """Fold each batch norm into the convolution whose output it takes, in place; equal but for the last digits.

    Parameters
    ----------
    network
        In evaluation mode. A batch norm takes the output of the convolution that its parent names just before it,
        as in torchvision's networks and ours.
    """
    for parent in list(network.modules()):
        before: tuple[str, nn.Module | None] = "", None
        for name, child in list(parent.named_children()):
            conv = before[1]
            if isinstance(child, nn.BatchNorm2d) and isinstance(conv, nn.Conv2d) \
                    and conv.out_channels == child.num_features:
                setattr(parent, before[0], fuse_conv_bn_eval(conv, child))
                setattr(parent, name, nn.Identity())
            before = name, child
