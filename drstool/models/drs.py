"""Discriminative region suppression: the method's idea, and nothing else.

A classifier's strongest responses sit on an object's most discriminative part. DRS bounds every
channel's response by a share ``k`` of its own spatial maximum, so that neighbouring, weaker
responses gain weight and the classifier learns to use the whole object::

    r = relu(x)        y = min(r, k * max_spatial(r))        k in [0, 1], per image and channel

Since ``0 <= k * max``, this is one clamp of ``x`` to ``[0, k * max]``.

References
----------
Kim, Han, Kim: Discriminative Region Suppression for Weakly-Supervised Semantic Segmentation,
AAAI 2021, section 3.1, equations 1-3.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["FixedDRS", "LearnableDRS", "suppress"]


class _Suppress(torch.autograd.Function):
    """The clamp with the one gradient that autograd of the written-out formula gives.

    Only the result is kept for the backward pass, and the next convolution keeps that one anyway.
    """

    @staticmethod
    def forward(ctx, x: Tensor, k: Tensor) -> Tensor:
        maximum, where = x.flatten(2).max(dim=2)
        maximum = maximum.clamp_min(0)
        bound = (k * maximum).to(x.dtype)
        y = torch.clamp(x, min=torch.zeros_like(bound)[..., None, None], max=bound[..., None, None])
        ctx.save_for_backward(y, bound, maximum, where, k)
        return y

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor | None]:
        y, bound, maximum, where, k = ctx.saved_tensors
        cut = y >= bound[..., None, None]
        # A dead channel is cut everywhere (0 >= 0), but neither k nor x can move its zero maximum.
        alive = maximum > 0
        exact = torch.promote_types(grad.dtype, torch.float32)
        grad_bound = torch.where(cut, grad, 0).sum(dim=(2, 3), dtype=exact) * alive
        grad_x = torch.where((y > 0) & ~cut, grad, 0)
        at_maximum = (grad_bound * k).to(grad.dtype)
        # Under channels-last a flattened view does not exist, so the index is split into row, column.
        n, c = where.shape
        width = y.shape[3]
        rows = torch.arange(n, device=y.device)[:, None].expand(n, c)
        channels = torch.arange(c, device=y.device)[None].expand(n, c)
        position = (rows, channels, where // width, where % width)
        grad_x[position] = grad_x[position] + at_maximum
        grad_k = (grad_bound * maximum).to(k.dtype) if ctx.needs_input_grad[1] else None
        return grad_x, grad_k


def suppress(x: Tensor, k: Tensor) -> Tensor:
    """``min(relu(x), k * max_spatial(relu(x)))``, per image and channel.

    Parameters
    ----------
    x : (N, C, h, w) float
        Responses before the ReLU.
    k : (N, C) float in [0, 1]
        Upper bound as a share of the channel's maximum; broadcast to that shape before the call.

    Returns
    -------
    (N, C, h, w) float
        In ``[0, k * max]``.

    Examples
    --------
    >>> x = torch.tensor([[[[-1.0, 1.0], [3.0, 4.0]]]])
    >>> suppress(x, torch.tensor([[0.5]])).flatten().tolist()
    [0.0, 1.0, 2.0, 2.0]
    """
    return _Suppress.apply(x, k)


class FixedDRS(nn.Module):
    """ReLU and suppression with one bound for all channels, ``k = delta``.

    Parameters
    ----------
    delta
        In [0, 1]; 1 is a plain ReLU.
    """

    def __init__(self, delta: float) -> None:
        super().__init__()
        self.delta = delta

    def forward(self, x: Tensor) -> Tensor:
        return suppress(x, x.new_full(x.shape[:2], self.delta, dtype=torch.float32))

    def extra_repr(self) -> str:
        return f"delta={self.delta}"


class LearnableDRS(nn.Module):
    """ReLU and suppression with ``k = sigmoid(W mean_spatial(relu(x)))``, one bound a channel.

    Parameters
    ----------
    channels
        C; ``W`` is ``(C, C)`` without bias, initialised from N(0, 0.01).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.controller = nn.Linear(channels, channels, bias=False)
        nn.init.normal_(self.controller.weight, std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        mean = torch.relu(x).mean(dim=(2, 3), dtype=torch.float32)
        return suppress(x, torch.sigmoid(self.controller(mean).float()))
