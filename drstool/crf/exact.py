"""Gaussian kernels between all pairs of pixels, computed exactly and without holding the matrix.

A dense Gaussian filter is attention. With queries ``[f_i, -|f_i|²/2, 1]`` and keys
``[f_j, 1, -|f_j|²/2]`` their product is ``-|f_i - f_j|²/2``; the softmax over j is then the kernel
with its rows divided by their sums, and the log-sum-exp that attention computes anyway gives the
sums back. So torch's fused attention does the work, in memory linear in the number of pixels.

On a GPU the fused kernels multiply 16-bit numbers, and give such back, while the exponent, whose
terms reach the thousands, needs 32. So each feature is the sum of two float16 parts, high and low,
and the four products of parts lie side by side along the head dimension, where the hardware adds
them up in float32. Values are split likewise. What is left are the roundings of attention itself,
of the weights and of the results, 2^-12 of each; float16 and not bfloat16, whose range is not
needed once all is scaled, and whose roundings are eight times as large.

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

# Parts of a feature in queries and keys, by size: high and low; and of the halved squares, whose
# error counts in full.
_PAIRS = ((0, 0), (0, 1), (1, 0), (1, 1))
_PARTS, _SQUARE_PARTS = 2, 3

# Columns of queries, keys and values: fused kernels come in few widths, and in multiples of 8.
_SPLIT_WIDTH, _PLAIN_WIDTH = 32, 8

# Float16 ends at 65504; halved squares and values are scaled to these, so that low parts, too, are
# far from its smallest numbers.
_LARGEST_SQUARE, _LARGEST_VALUE = 2.0**14, 2.0**10

# Exponents are differences of half the squares of distances from the middle: beyond, their rounding in float32
# is above one part in a hundred of the kernel.
_MOST_DEVIATIONS = 1000

# Scaled copies of values, each rounded in its own way, whose mean is nearer than any of them.
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
        Whether to multiply float16 parts: as is needed, and the default, on a GPU.

    Raises
    ------
    UsageError
        The points span more standard deviations than can be told apart.

    Examples
    --------
    >>> kernel = AttentionKernel(torch.zeros(2, 4))
    >>> [round(value, 5) for value in kernel(torch.tensor([[0.0], [0.0], [0.0], [4.0]])).flatten().tolist()]
    [1.0, 1.0, 1.0, 1.0]
    """

    def __init__(self, features: Tensor, *, split: bool | None = None) -> None:
        self._split = features.device.type == "cuda" if split is None else split
        # Small numbers lose least; distances do not depend on the origin.
        points = (features.double() - features.double().mean(dim=1, keepdim=True)).t()
        self._scale = 1.0
        extent = math.sqrt(float(points.square().sum(dim=1).max()))
        if extent > _MOST_DEVIATIONS:
            raise UsageError(
                "CRF", f"the image spans {extent:,.0f} standard deviations of its kernel on each side, beyond what the "
                f"exact mode can tell apart ({_MOST_DEVIATIONS:,})",
                "raise --crf-bilateral-sxy or --crf-bilateral-srgb, or take --crf-mode lattice")
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
        # Classes beyond the width wait for a second round.
        filtered = [means(part) for part in (values * self._norm).split(columns, dim=1)]
        # The sum is the mean times norm^-2; once more the norm itself remains.
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
    """A normalised Gaussian kernel between all pixels by their places: exact, since it separates.

    Its products are float64's, which costs little, and which TF32 leaves alone.

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
        """The filtered values, ``(N, K)`` as they came, pixels row by row."""
        height, width = self._size
        grid = torch.matmul(self._rows, values.double().reshape(height, -1)).reshape(height, width, -1)
        return torch.matmul(self._columns, grid).reshape(values.shape).to(values.dtype)


def _line_kernel(length: int, sigma: float, device: torch.device) -> Tensor:
    place = torch.arange(length, dtype=torch.float64, device=device) / sigma
    kernel = torch.exp(-(place[:, None] - place).square() / 2)
    norm = kernel.sum(dim=1).rsqrt()
    return norm[:, None] * kernel * norm


def _unit(points: Tensor) -> float:
    """The power of 2 that brings points ``(N, d)`` to the size that suits float16 best."""
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
    # What is largest, and nearly cancels, comes first.
    queries = torch.cat([*biases, *ones, *(parts[one] for one, _ in _PAIRS)], dim=1)
    keys = torch.cat([*ones, *biases, *(parts[other] for _, other in _PAIRS)], dim=1)
    return _padded(queries, _SPLIT_WIDTH), _padded(keys, _SPLIT_WIDTH)


def _float16_parts(values: Tensor, count: int) -> list[Tensor]:
    """Float16 tensors that add up to float64 values, but for 2^-11 of the last of them at most."""
    parts = []
    for _ in range(count):
        parts.append(values.half())
        values = values - parts[-1].double()
    return parts


def _padded(columns: Tensor, width: int) -> Tensor:
    """Columns filled up with zeros to a multiple of a width."""
    return torch.nn.functional.pad(columns, (0, -columns.shape[1] % width))


def _attend(queries: Tensor, keys: Tensor, values: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Attention of one head: means of the values ``(N, D)``, and the log-sum-exp of each row.

    torch's public function keeps the latter to itself; these are the two operators behind it.
    """
    heads = (queries[None, None], keys[None, None], values[None, None])
    if queries.device.type == "cuda":
        mean, log_sums = torch.ops.aten._scaled_dot_product_flash_attention(
            *heads, 0.0, False, False, scale=scale)[:2]
    else:
        mean, log_sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            *heads, 0.0, False, scale=scale)[:2]
    return mean[0, 0], log_sums[0, 0].double()
