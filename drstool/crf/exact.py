"""Gaussian kernels between all pairs of pixels, computed exactly and without storing the matrix.

A dense Gaussian filter is attention. With queries ``[f_i, -|f_i|²/2, 1]`` and keys
``[f_j, 1, -|f_j|²/2]`` their product is ``-|f_i - f_j|²/2``; the softmax over j is then the kernel
with its rows divided by their sums, and the log-sum-exp that attention computes anyway gives the
sums back. So torch's fused attention does the work, in memory linear in the number of pixels.

On a GPU the fused kernels multiply and return 16-bit numbers, while the exponent, whose terms reach
the thousands, needs 32 bits. So each feature is the sum of two float16 parts, high and low, and the
four products of parts are placed along the head dimension, where the hardware sums them in float32.
Values are split likewise. There remain the rounding errors of attention itself, of weights and
results, 2^-12 each. The parts are float16, not bfloat16, whose range is not needed once everything
is scaled and whose rounding errors are eight times as large.

References
----------
Krähenbühl, Koltun: Efficient inference in fully connected CRFs with Gaussian edge potentials, NIPS
2011, for the kernels. Dao et al.: FlashAttention, NeurIPS 2022, for attention in linear memory.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from drstool.errors import UsageError

__all__ = ["AttentionKernel", "GridKernel"]

# Products of high (0) and low (1) parts of features. Halved squares, whose errors add up fully, have
# one part more.
_PAIRS = ((0, 0), (0, 1), (1, 0), (1, 1))
_PARTS, _SQUARE_PARTS = 2, 3

# Columns of queries, keys and values: fused kernels exist for few widths, all multiples of 8.
_SPLIT_WIDTH, _PLAIN_WIDTH = 32, 8

# The largest float16 is 65504; halved squares and values are scaled to these, so that their low
# parts, too, are far above its smallest numbers.
_LARGEST_SQUARE, _LARGEST_VALUE = 2.0**14, 2.0**10

# Exponents are differences of halved squared distances from the centre; beyond this distance, their
# rounding in float32 changes the kernel by more than 1 %.
_MOST_DEVIATIONS = 1000

# Number of differently scaled copies of the values: they are rounded differently, and their mean is
# more accurate than each of them.
_MOST_COPIES = 4


class AttentionKernel:
    """A normalised Gaussian kernel between all pairs of points, by attention.

    Applied to values q it gives ``N K N q`` with ``K_ij = exp(-|f_i - f_j|² / 2)`` and ``N`` the
    diagonal matrix of ``(sum_j K_ij)^(-1/2)``.

    Parameters
    ----------
    features : (d, N) float32 or float64
        The points' coordinates, each divided by its standard deviation.
    split
        Whether to multiply float16 parts, as is needed, and the default, on a GPU.

    Raises
    ------
    UsageError
        The points span too many standard deviations for float32.

    Examples
    --------
    >>> kernel = AttentionKernel(torch.zeros(2, 4))
    >>> [round(value, 5) for value in kernel(torch.tensor([[0.0], [0.0], [0.0], [4.0]])).flatten().tolist()]
    [1.0, 1.0, 1.0, 1.0]
    """

    def __init__(self, features: Tensor, *, split: bool | None = None) -> None:
        self._split = features.device.type == "cuda" if split is None else split
        # Distances do not depend on the origin, and small numbers are rounded least.
        points = (features.double() - features.double().mean(dim=1, keepdim=True)).t()
        self._scale = 1.0
        extent = math.sqrt(float(points.square().sum(dim=1).max()))
        if extent > _MOST_DEVIATIONS:
            raise UsageError(
                "CRF", f"the image extends {extent:,.0f} standard deviations of its bilateral kernel to each side of "
                f"the mean, and the exact mode computes up to {_MOST_DEVIATIONS:,}",
                "raise --crf-bilateral-sxy or --crf-bilateral-srgb, or use --crf-mode lattice")
        if self._split:
            unit = _unit(points)
            points, self._scale = points * unit, unit**-2
        columns = _split_columns(points) if self._split else _plain_columns(points, features.dtype)
        self._queries, self._keys = columns
        _, log_sums = self._attend(torch.zeros_like(self._queries))
        self._norm = torch.exp(-log_sums / 2).to(features.dtype)[:, None]

    def __call__(self, values: Tensor) -> Tensor:
        """The filtered values.

        Parameters
        ----------
        values : (N, K) float32 or float64

        Returns
        -------
        (N, K) of the same type
        """
        columns = self._queries.shape[1] // (_PARTS if self._split else 1)
        means = self._split_means if self._split else self._means
        # Classes beyond the width are filtered in further rounds.
        filtered = [means(part) for part in (values * self._norm).split(columns, dim=1)]
        # Attention gives the sum times norm², and the symmetric kernel is the sum times norm.
        return torch.cat(filtered, dim=1) / self._norm

    def _means(self, values: Tensor) -> Tensor:
        """Means of values, weighted by each point's kernel."""
        mean, _ = self._attend(_padded(values, self._queries.shape[1]))
        return mean[:, : values.shape[1]]

    def _split_means(self, values: Tensor) -> Tensor:
        """As :meth:`_means`, of float16 parts."""
        top = values.abs().amax(dim=0).clamp_min_(torch.finfo(values.dtype).tiny)
        copies = min(_MOST_COPIES, self._queries.shape[1] // (_PARTS * values.shape[1]))
        factors = [_LARGEST_VALUE * (1 + number / copies) for number in range(copies)]
        columns = [part for factor in factors for part in _float16_parts((values / top).double() * factor, _PARTS)]
        means = self._means(torch.cat(columns, dim=1)).to(values.dtype)
        each = means.unflatten(1, (copies, _PARTS, values.shape[1])).sum(dim=2)
        return (each / each.new_tensor(factors)[:, None]).mean(dim=1) * top

    def _attend(self, values: Tensor) -> tuple[Tensor, Tensor]:
        return _attend(self._queries, self._keys, values, self._scale)


class GridKernel:
    """A normalised Gaussian kernel between all pixels by their positions; exact, as it is separable.

    It computes in float64, which costs little and is not subject to TF32.

    Parameters
    ----------
    size
        (H, W) of the image.
    sigma
        Standard deviation, pixels.
    device
    """

    def __init__(self, size: tuple[int, int], sigma: float, device: torch.device) -> None:
        self._size = size
        self._rows, self._columns = (_line_kernel(length, sigma, device) for length in size)

    def __call__(self, values: Tensor) -> Tensor:
        """The filtered values, ``(N, K)`` of the same type, pixels row by row."""
        height, width = self._size
        grid = torch.matmul(self._rows, values.double().reshape(height, -1)).reshape(height, width, -1)
        return torch.matmul(self._columns, grid).reshape(values.shape).to(values.dtype)


def _line_kernel(length: int, sigma: float, device: torch.device) -> Tensor:
    place = torch.arange(length, dtype=torch.float64, device=device) / sigma
    kernel = torch.exp(-(place[:, None] - place).square() / 2)
    norm = kernel.sum(dim=1).rsqrt()
    return norm[:, None] * kernel * norm


def _unit(points: Tensor) -> float:
    """The power of 2 that scales points ``(N, d)`` to the range where float16 is most accurate."""
    largest = float(points.square().sum(dim=1).max()) / 2
    return 2.0 ** math.floor(math.log2(_LARGEST_SQUARE / largest) / 2) if largest else 1.0


def _plain_columns(points: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Queries and keys of points ``(N, d) float64`` in one floating type."""
    bias = -points.square().sum(dim=1, keepdim=True) / 2
    one = torch.ones_like(bias)
    queries, keys = torch.cat([points, bias, one], dim=1), torch.cat([points, one, bias], dim=1)
    return _padded(queries, _PLAIN_WIDTH).to(dtype), _padded(keys, _PLAIN_WIDTH).to(dtype)


def _split_columns(points: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys of points ``(N, d) float64`` as float16 parts, 26 of 32 columns for d = 5."""
    parts = _float16_parts(points, _PARTS)
    biases = _float16_parts(-points.square().sum(dim=1, keepdim=True) / 2, _SQUARE_PARTS)
    ones = [torch.ones_like(bias) for bias in biases]
    # The largest terms, which nearly cancel, come first.
    queries = torch.cat([*biases, *ones, *(parts[one] for one, _ in _PAIRS)], dim=1)
    keys = torch.cat([*ones, *biases, *(parts[other] for _, other in _PAIRS)], dim=1)
    return _padded(queries, _SPLIT_WIDTH), _padded(keys, _SPLIT_WIDTH)


def _float16_parts(values: Tensor, count: int) -> list[Tensor]:
    """Float16 tensors whose sum is the float64 values, up to 2^-11 of the last tensor."""
    parts = []
    for _ in range(count):
        parts.append(values.half())
        values = values - parts[-1].double()
    return parts


def _padded(columns: Tensor, width: int) -> Tensor:
    """Columns padded with zero columns to a multiple of ``width``."""
    return torch.nn.functional.pad(columns, (0, -columns.shape[1] % width))


def _attend(queries: Tensor, keys: Tensor, values: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Attention of one head: means of the values ``(N, D)``, and the log-sum-exp of each row.

    torch's public function does not return the latter; these are the two operators behind it.
    """
    heads = (queries[None, None], keys[None, None], values[None, None])
    if queries.device.type == "cuda":
        mean, log_sums = torch.ops.aten._scaled_dot_product_flash_attention(
            *heads, 0.0, False, False, scale=scale)[:2]
    else:
        mean, log_sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            *heads, 0.0, False, scale=scale)[:2]
    return mean[0, 0], log_sums[0, 0].double()
