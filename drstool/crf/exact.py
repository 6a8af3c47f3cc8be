"""Gaussian kernels between all pairs of pixels, computed exactly and without holding the matrix.

A dense Gaussian filter is attention. With queries ``[f_i, 1]`` and keys ``[f_j, -|f_j|²/2]`` their
product is ``|f_i|²/2 - |f_i - f_j|²/2``; the softmax over j is then the kernel with its rows
divided by their sums, and the log-sum-exp that attention computes anyway gives the sums back. So
torch's fused attention does the work, in memory linear in the number of pixels.

On a GPU the fused kernels multiply 16-bit numbers, while the exponent, whose terms reach the
thousands, needs 32. So each feature is the sum of three bfloat16 parts, high, middle and low, and
the six products of parts that matter lie side by side along the head dimension, where the
hardware adds them up in float32.

References
----------
Krähenbühl, Koltun: Efficient inference in fully connected CRFs with Gaussian edge potentials, NIPS
2011, for the kernels. Dao et al.: FlashAttention, NeurIPS 2022, for attention in linear memory.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["AttentionKernel", "GridKernel"]

# Parts of a feature in queries and keys, by size: high, middle, low. The products of the other
# pairs of parts are below float32's own error.
_PAIRS = ((0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (2, 0))
_PARTS = 3

# Columns of queries, keys and values: fused kernels come in few widths, and in multiples of 8.
_SPLIT_WIDTH, _PLAIN_WIDTH = 64, 8


class AttentionKernel:
    """A normalised Gaussian kernel between all pairs of points, by attention.

    Applied to values q it gives ``N K N q`` with ``K_ij = exp(-|f_i - f_j|² / 2)`` and ``N`` the
    diagonal matrix of ``(sum_j K_ij)^(-1/2)``.

    Parameters
    ----------
    features : (d, N) float32 or float64
        The points' coordinates, each divided by its standard deviation.
    split
        Whether to multiply bfloat16 parts: as is needed, and the default, on a GPU.

    Examples
    --------
    >>> kernel = AttentionKernel(torch.zeros(2, 4))
    >>> [round(value, 5) for value in kernel(torch.tensor([[0.0], [0.0], [0.0], [4.0]])).flatten().tolist()]
    [1.0, 1.0, 1.0, 1.0]
    """

    def __init__(self, features: Tensor, *, split: bool | None = None) -> None:
        self._dtype = features.dtype
        split = features.device.type == "cuda" if split is None else split
        # Small numbers lose least; distances do not depend on the origin.
        centred = (features.double() - features.double().mean(dim=1, keepdim=True)).t()
        half_square = centred.square().sum(dim=1) / 2
        pack = _split_columns if split else _plain_columns
        self._queries, self._keys = pack(centred, half_square, self._dtype)
        _, log_sums = _attend(self._queries, self._keys, torch.zeros_like(self._queries))
        self._norm = torch.exp((half_square - log_sums) / 2).to(self._dtype)[:, None]

    def __call__(self, values: Tensor) -> Tensor:
        """The filtered values.

        Parameters
        ----------
        values : (N, K) float32 or float64

        Returns
        -------
        (N, K) of the same type
        """
        width = self._queries.shape[1]
        filtered = torch.empty_like(values)
        # Classes beyond the width wait for a second round.
        for start in range(0, values.shape[1], width):
            part = slice(start, start + width)
            padded = _padded(values[:, part] * self._norm, width).to(self._queries.dtype)
            mean, _ = _attend(self._queries, self._keys, padded)
            filtered[:, part] = mean[:, : values[:, part].shape[1]]
        # The sum is the mean times norm^-2; once more the norm itself remains.
        return filtered / self._norm


class GridKernel:
    """A normalised Gaussian kernel between all pixels by their places: exact, since it separates.

    Parameters
    ----------
    size
        (H, W) of the image.
    sigma
        Standard deviation, pixels.
    device, dtype
    """

    def __init__(self, size: tuple[int, int], sigma: float, device: torch.device, dtype: torch.dtype) -> None:
        self._size = size
        self._rows, self._columns = (_line_kernel(length, sigma, device).to(dtype) for length in size)

    def __call__(self, values: Tensor) -> Tensor:
        """The filtered values, ``(N, K)`` as they came, pixels row by row."""
        height, width = self._size
        grid = torch.matmul(self._rows, values.reshape(height, -1)).reshape(height, width, -1)
        return torch.matmul(self._columns, grid).reshape(values.shape)


def _line_kernel(length: int, sigma: float, device: torch.device) -> Tensor:
    place = torch.arange(length, dtype=torch.float64, device=device) / sigma
    kernel = torch.exp(-(place[:, None] - place).square() / 2)
    norm = kernel.sum(dim=1).rsqrt()
    return norm[:, None] * kernel * norm


def _plain_columns(features: Tensor, half_square: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Queries and keys of points ``(N, d) float64`` in one floating type."""
    one = torch.ones_like(half_square)[:, None]
    queries = torch.cat([features, one], dim=1)
    keys = torch.cat([features, -half_square[:, None]], dim=1)
    return _padded(queries, _PLAIN_WIDTH).to(dtype), _padded(keys, _PLAIN_WIDTH).to(dtype)


def _split_columns(features: Tensor, half_square: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Queries and keys of points ``(N, d) float64`` as bfloat16 parts, 33 of 64 columns for d = 5."""
    parts, biases = _bfloat16_parts(features), _bfloat16_parts(-half_square[:, None])
    ones = torch.ones_like(features[:, :1]).bfloat16().expand(-1, _PARTS)
    queries = torch.cat([parts[one] for one, _ in _PAIRS] + [ones], dim=1)
    keys = torch.cat([parts[other] for _, other in _PAIRS] + biases, dim=1)
    return _padded(queries, _SPLIT_WIDTH), _padded(keys, _SPLIT_WIDTH)


def _bfloat16_parts(values: Tensor) -> list[Tensor]:
    """Three bfloat16 tensors that add up to float64 values but for about 2^-24 of them."""
    parts = []
    for _ in range(_PARTS):
        parts.append(values.bfloat16())
        values = values - parts[-1].double()
    return parts


def _padded(columns: Tensor, width: int) -> Tensor:
    """Columns filled up with zeros to a multiple of a width."""
    return torch.nn.functional.pad(columns, (0, -columns.shape[1] % width))


def _attend(queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Attention of one head: means of the values ``(N, D)``, and the log-sum-exp of each row.

    torch's public function keeps the latter to itself; these are the two operators behind it.
    """
    heads = (queries[None, None], keys[None, None], values[None, None])
    if queries.device.type == "cuda":
        mean, log_sums = torch.ops.aten._scaled_dot_product_flash_attention(
            *heads, 0.0, False, False, scale=1.0)[:2]
    else:
        mean, log_sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            *heads, 0.0, False, scale=1.0)[:2]
    return mean[0, 0], log_sums[0, 0].double()
