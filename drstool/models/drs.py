"""Discriminative region suppression (DRS), and nothing else.

A classifier's strongest responses sit on an object's most discriminative part. DRS bounds every
channel's response by a fraction ``k`` of its own spatial maximum, so that weaker responses nearby
gain weight and the classifier learns to use the whole object::

    r = relu(x)        y = min(r, k * max_spatial(r))        k in [0, 1], per image and channel

Since ``0 <= k * max``, this is one clamp of ``x`` to ``[0, k * max]``.

References
----------
Kim, Han, Kim: Discriminative Region Suppression for Weakly-Supervised Semantic Segmentation,
AAAI 2021, section 3.1, equations 1-3.
"""

from __future__ import annotations

from math import inf

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

__all__ = ["FixedDRS", "LearnableDRS", "set_strength", "suppress"]


# `grad` where `values` is above zero, elsewhere 0; in one pass and without a mask tensor.
_where_positive = torch.ops.aten.threshold_backward


class _Suppress(torch.autograd.Function):
    """The clamp, with the same gradients as autograd of the formula.

    The only tensor of the size of ``x`` that is saved for the backward pass is the output, which the
    next convolution saves anyway. ``k`` is given, or computed from ``controller`` and the mean, and then eased.
    """

    @staticmethod
    def forward(ctx, x: Tensor, k: Tensor | None, controller: Tensor | None, strength: float) -> Tensor:
        maximum, where = _peaks(x)
        maximum = maximum.clamp_min(0)
        mean = None
        if controller is not None:
            mean = _mean(torch.relu(x), controller.dtype)
            k = _controlled(mean, controller)
        assert k is not None
        bound = (_eased(k, strength) * maximum).to(x.dtype)[..., None, None]
        y = torch.clamp(x, min=torch.zeros_like(bound), max=bound)
        ctx.save_for_backward(y, bound, maximum, where, k, mean, controller)
        ctx.strength = strength
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        y, bound, maximum, where, k, mean, controller = ctx.saved_tensors
        # A response strictly between 0 and the bound receives its gradient itself; of one that was
        # clamped the bound receives it. In a dead channel (maximum 0) nothing is above 0.
        through = _where_positive(grad, y, 0)
        grad_x = _where_positive(through, bound - y, 0)
        grad_bound = through.sub_(grad_x).sum(dim=(2, 3), dtype=torch.promote_types(through.dtype, k.dtype)).to(k.dtype)
        grad_k, grad_controller = grad_bound * maximum * ctx.strength, None
        if controller is not None:
            grad_logit = grad_k * k * (1 - k)
            grad_controller = grad_logit.T @ mean
            grad_mean = (grad_logit @ controller / (y.shape[2] * y.shape[3])).to(grad.dtype)
            grad_x += _where_positive(grad_mean[..., None, None].expand_as(y), y, 0)
        _add_at(grad_x, where, grad_bound * _eased(k, ctx.strength))
        return grad_x, grad_k if ctx.needs_input_grad[1] else None, grad_controller, None


def _suppressed(x: Tensor, k: Tensor | None, controller: Tensor | None, strength: float) -> Tensor:
    """The same values without gradients; overwrites ``x``."""
    x = torch.relu_(x)
    maximum = x.amax(dim=(2, 3))
    if controller is not None:
        k = _controlled(_mean(x, controller.dtype), controller)
    assert k is not None
    return torch.clamp_max_(x, (_eased(k, strength) * maximum).to(x.dtype)[..., None, None])


def _eased(k: Tensor, strength: float) -> Tensor:
    """``1 - strength * (1 - k)``: no bound at strength 0, and ``k`` itself at 1."""
    return k if strength == 1 else 1 - strength * (1 - k)


def _mean(positive: Tensor, dtype: torch.dtype) -> Tensor:
    """Spatial mean of responses after the ReLU, (N, C), in the controller's dtype."""
    # The sum of a hundred thousand responses would overflow float16.
    total = positive.sum(dim=(2, 3), dtype=torch.promote_types(positive.dtype, dtype))
    return total.to(dtype) / (positive.shape[2] * positive.shape[3])


def _controlled(mean: Tensor, controller: Tensor) -> Tensor:
    """``k = sigmoid(W mean)``, (N, C); in W's precision also under autocast."""
    with torch.autocast(mean.device.type, enabled=False):
        return torch.sigmoid(mean @ controller.T)


def _peaks(x: Tensor) -> tuple[Tensor, Tensor]:
    """Each channel's maximum and the flat spatial index of its first occurrence: two (N, C)."""
    if x.device.type != "cpu":
        return _peaks_by_reduction(x)
    maximum, where = F.adaptive_max_pool2d(x, 1, return_indices=True)
    return maximum.flatten(1), where.flatten(1)


def _peaks_by_reduction(x: Tensor) -> tuple[Tensor, Tensor]:
    """As :func:`_peaks`, for GPUs, where pooling to one pixel uses a single thread per channel.

    Pooling would also copy channels-last tensors, of which this takes a view; on a CPU their long strides are slower.
    """
    if x.is_contiguous():
        return x.flatten(2).max(dim=2)
    return x.permute(0, 2, 3, 1).flatten(1, 2).max(dim=1)


def _add_at(maps: Tensor, where: Tensor, values: Tensor) -> None:
    """Add ``(N, C)`` values to maps ``(N, C, h, w)``, in place, at flat spatial indices ``(N, C)``.

    Channels-last maps have no flattened view, hence rows and columns.
    """
    n, c, _, width = maps.shape
    images = torch.arange(n, device=maps.device)[:, None]
    channels = torch.arange(c, device=maps.device)[None]
    rows = torch.div(where, width, rounding_mode="floor")
    maps[images, channels, rows, where % width] += values.to(maps.dtype)


def suppress(x: Tensor, k: Tensor) -> Tensor:
    """``min(relu(x), k * max_spatial(relu(x)))``, per image and channel.

    Parameters
    ----------
    x : (N, C, h, w) float
        Responses before the ReLU.
    k : (N, C) float in [0, 1]
        Upper bound as a fraction of the channel's maximum; broadcast to that shape before the call.

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
    return _Suppress.apply(x, k, None, 1.0)


def _capped(x: Tensor, ceiling: float) -> Tensor:
    """``min(x, ceiling)``; overwrites ``x`` where gradients are disabled."""
    if ceiling == inf:
        return x
    return x.clamp_max(ceiling) if torch.is_grad_enabled() else x.clamp_max_(ceiling)


class _DRS(nn.Module):
    """ReLU and suppression.

    Attributes
    ----------
    strength : float in [0, 1]
        How much of the suppression acts in training: the bound is ``1 - strength * (1 - k)``, so that 0 is a plain
        ReLU and 1 the method. In evaluation mode all of it acts. No part of the network's state.
    ceiling : float
        Of the responses before they are suppressed: 6 where DRS follows ReLU6.
    """

    strength = 1.0
    ceiling = inf

    def _suppress(self, x: Tensor, k: Tensor | None, controller: Tensor | None) -> Tensor:
        function = _Suppress.apply if torch.is_grad_enabled() else _suppressed
        return function(_capped(x, self.ceiling), k, controller, self.strength if self.training else 1.0)


class FixedDRS(_DRS):
    """ReLU and suppression with the same ``k = delta`` for all channels.

    With gradients disabled, the input is overwritten.

    Parameters
    ----------
    delta
        In [0, 1]; 1 is a plain ReLU.
    ceiling
        Of the responses before they are suppressed: 6 where DRS follows ReLU6.
    """

    def __init__(self, delta: float, ceiling: float = inf) -> None:
        super().__init__()
        self.delta, self.ceiling = delta, ceiling

    def forward(self, x: Tensor) -> Tensor:
        return self._suppress(x, x.new_full(x.shape[:2], self.delta, dtype=torch.float32), None)

    def extra_repr(self) -> str:
        return f"delta={self.delta}, ceiling={self.ceiling}"


class LearnableDRS(_DRS):
    """ReLU and suppression with ``k = sigmoid(W mean_spatial(relu(x)))`` for each channel.

    With gradients disabled, the input is overwritten.

    Parameters
    ----------
    channels
        C; ``W`` is ``(C, C)`` without bias, initialised from N(0, 0.01).
    ceiling
        As in :class:`FixedDRS`.
    """

    def __init__(self, channels: int, ceiling: float = inf) -> None:
        super().__init__()
        self.ceiling = ceiling
        self.controller = nn.Linear(channels, channels, bias=False)
        nn.init.normal_(self.controller.weight, std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        return self._suppress(x, None, self.controller.weight)


def set_strength(network: nn.Module, strength: float) -> None:
    """Set how much of its suppression acts in training, in [0, 1]; see :attr:`FixedDRS.strength`."""
    for module in network.modules():
        if isinstance(module, _DRS):
            module.strength = strength
