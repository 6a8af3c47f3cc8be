"""Gaussian filtering of many points in linear time, by the permutohedral lattice.

The points' values are distributed to the vertices of the simplices around them (*splat*), smoothed
along the lattice's d + 1 directions (*blur*), and interpolated at the points again (*slice*). Each of
the three is a weighted gather (``embedding_bag``) without atomics, so that results are reproducible
to the bit on every device.

Embedding, order of directions and constants are those of Krähenbühl and Koltun's code, known as
pydensecrf, so that settings tuned with it keep their meaning.

References
----------
Adams, Baek, Davis: Fast high-dimensional filtering using the permutohedral lattice, Eurographics
2010. Krähenbühl, Koltun: Efficient inference in fully connected CRFs with Gaussian edge potentials,
NIPS 2011.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from drstool.errors import UsageError

__all__ = ["LatticeKernel", "LatticeSum"]

# Points processed at a time while the lattice is built, few enough to stay in the cache.
_PORTION = 32_768

# pydensecrf takes points four at a time and pads the last four with points at 0, whose vertices then
# are part of the lattice and affect the results.
_POINTS_AT_A_TIME = 4

# Avoids a division by zero for a point that nothing reaches (pydensecrf).
_TINY = 1e-20

# Packed coordinates are 32-bit integers if these are enough, otherwise 64-bit; one bit is reserved
# for the sign and one for sums.
_LARGEST_KEYS = {torch.int32: 2**30, torch.int64: 2**62}


class LatticeKernel:
    """A normalised Gaussian kernel between all pairs of points, approximated on the lattice.

    Applied to values q it gives ``N K N q`` with ``K_ij ~ exp(-|f_i - f_j|² / 2)`` and ``N`` the
    diagonal matrix of ``(sum_j K_ij)^(-1/2)``: the symmetric normalisation of pydensecrf.

    Parameters
    ----------
    features : (d, N) float32
        The points' coordinates, each divided by its standard deviation.

    Attributes
    ----------
    num_vertices : int
        Number of lattice points in use.

    Raises
    ------
    UsageError
        The points are so many standard deviations apart that 64 bits cannot number the lattice.

    Examples
    --------
    >>> kernel = LatticeKernel(torch.zeros(2, 4))
    >>> kernel(torch.tensor([[0.0], [0.0], [0.0], [4.0]])).flatten().tolist()
    [1.0, 1.0, 1.0, 1.0]
    """

    def __init__(self, features: Tensor) -> None:
        self._num_points = features.shape[1]
        if self._num_points % _POINTS_AT_A_TIME:
            features = torch.cat([features, features.new_zeros((len(features), 1))], dim=1)
        packing = _Packing(features)
        keys, weights = _corners(features, packing)
        vertices, slots = self._build_splat(keys, weights)
        self.num_vertices = sum(map(len, vertices))
        # One more vertex, always 0, stands for missing neighbours.
        dimensions = len(keys)
        self._blur = [self._neighbours(vertices, packing, direction) for direction in range(dimensions)]
        self._slice_index = slots[:, : self._num_points].t().reshape(-1)
        self._slice_weight = weights[:, : self._num_points].t().reshape(-1)
        self._slice_offset = _offsets(self._num_points, dimensions, features.device)
        self._blur_offset = _offsets(self.num_vertices + 1, 3, features.device)
        self._blur_weight = features.new_tensor([1.0, 0.5, 0.5]).repeat(self.num_vertices + 1)
        self._normalise(dimensions - 1)

    def __call__(self, values: Tensor) -> Tensor:
        """The filtered values.

        Parameters
        ----------
        values : (N, K) float32

        Returns
        -------
        (N, K) float32
        """
        return _gather(self.spread(values), self._slice_index, self._slice_offset, self._slice_weight)

    def spread(self, values: Tensor) -> Tensor:
        """The values (N, K), splatted and blurred: a row for each vertex, the last for the one that is always 0."""
        spread = _gather(values, self._splat_index, self._splat_offset, self._splat_weight)
        for index in self._blur:
            spread = _gather(spread, index, self._blur_offset, self._blur_weight)
        return spread

    def corners(self) -> tuple[Tensor, Tensor]:
        """Each point's vertices and their slicing weights, ``(N, d + 1)`` int32 and float32."""
        return self._slice_index.view(self._num_points, -1), self._slice_weight.view(self._num_points, -1)

    def _build_splat(self, keys: Tensor, weights: Tensor) -> tuple[list[Tensor], Tensor]:
        """Sort the corners by vertex; gives the keys of each colour's vertices, and each corner's vertex number."""
        vertices: list[Tensor] = []
        slots = torch.empty(keys.shape, dtype=torch.int32, device=keys.device)
        index, weight, offset = torch.empty_like(slots), torch.empty_like(weights), []
        count = 0
        # A vertex has one colour (its coordinates modulo d + 1), and the corners of a simplex have
        # different ones: colours are sorted separately, which is cheaper than all at once.
        for color, row in enumerate(keys):
            ordered, order = torch.sort(row, stable=True)
            first = torch.ones_like(ordered, dtype=torch.bool)
            torch.ne(ordered[1:], ordered[:-1], out=first[1:])
            start = first.nonzero().flatten()
            number = torch.cumsum(first, 0, dtype=torch.int32)
            slots[color].scatter_(0, order, number.add_(count - 1))
            vertices.append(ordered.index_select(0, start))
            index[color] = order
            torch.index_select(weights[color], 0, order, out=weight[color])
            offset.append(start.int() + color * len(row))
            count += len(start)
        self._splat_index, self._splat_weight = index.flatten(), weight.flatten()
        if keys.shape[1] > self._num_points:
            # The padding point has no value.
            padding = self._splat_index == self._num_points
            self._splat_index[padding], self._splat_weight[padding] = 0, 0
        # The empty last bag is the vertex that is always 0.
        end = torch.full((2,), keys.numel(), dtype=torch.int32, device=keys.device)
        self._splat_offset = torch.cat([*offset, end])
        return vertices, slots

    def _neighbours(self, vertices: list[Tensor], packing: _Packing, direction: int) -> Tensor:
        """Each vertex and its two neighbours along a direction, as rows of three vertex numbers."""
        missing, device = self.num_vertices, vertices[0].device
        begin = [0]
        for keys in vertices:
            begin.append(begin[-1] + len(keys))
        before = []
        for color, keys in enumerate(vertices):
            other = (color - 1) % len(vertices)
            wanted = keys + packing.steps(color)[direction]
            place = _search(vertices[other], wanted).clamp_(max=len(vertices[other]) - 1)
            found = vertices[other].index_select(0, place) == wanted
            before.append(torch.where(found, place + begin[other], missing))
        before.append(torch.full((1,), missing, device=device))
        self_, before_ = torch.arange(missing + 1, device=device), torch.cat(before)
        # The inverse: a vertex comes after the one before it.
        after = torch.full_like(self_, missing).scatter_(0, before_, self_)
        after[missing] = missing
        return torch.stack([self_, before_, after], dim=1).int().flatten()

    def _normalise(self, dimensions: int) -> None:
        """Multiply the norms into the weights, so that applying the kernel needs no further step."""
        # A constant of the reference code; the norms cancel it, except for the tiny number that is
        # added to them.
        self._slice_weight *= 1 / (1 + 2.0**-dimensions)
        ones = torch.ones((self._num_points, 1), device=self._slice_weight.device)
        norm = (self(ones).flatten() + _TINY).rsqrt()
        self._slice_weight.view(self._num_points, -1).mul_(norm[:, None])
        self._splat_weight *= norm.index_select(0, self._splat_index)


class LatticeSum:
    """A weighted sum of lattice kernels over the same points, sliced in a single step.

    Parameters
    ----------
    terms
        Pairs of weight and kernel.
    """

    def __init__(self, terms: Sequence[tuple[float, LatticeKernel]]) -> None:
        self._kernels = [kernel for _, kernel in terms]
        indices, weights, begin = [], [], 0
        for weight, kernel in terms:
            index, share = kernel.corners()
            indices.append(index + begin)
            weights.append(share * weight)
            begin += kernel.num_vertices + 1
        index = torch.cat(indices, dim=1)
        self._index, self._weight = index.flatten(), torch.cat(weights, dim=1).flatten()
        self._offset = _offsets(index.shape[0], index.shape[1], index.device)

    def __call__(self, values: Tensor) -> Tensor:
        """The weighted sum of the kernels' results for values ``(N, K) float32``."""
        spread = torch.cat([kernel.spread(values) for kernel in self._kernels])
        return _gather(spread, self._index, self._offset, self._weight)


class _Packing:
    """Packs a lattice point's d coordinates into one integer, in mixed radix.

    Integers can be sorted and searched, and a step along the lattice is the addition of a constant.
    The coordinates of a vertex are all equal modulo d + 1; the remainder is the vertex's colour, and
    the quotients are packed.

    Attributes
    ----------
    dtype
        Of the packed integers.
    origin, strides
        A vertex with quotients a is packed as ``sum((a - origin) * strides)``.
    """

    def __init__(self, features: Tensor) -> None:
        self._dimensions = len(features)
        # Row by row, which is ten times as fast.
        low, high = zip(*(map(float, torch.aminmax(row)) for row in features), strict=True)
        colors = self._dimensions + 1
        bounds = [_elevated_bounds(low, high, axis) for axis in range(self._dimensions)]
        # Margins for rounding, the other corners of a simplex, and their neighbours: each less than d + 1.
        self.origin = [math.floor(lowest / colors) - 3 for lowest, _ in bounds]
        radices = [math.ceil(highest / colors) + 4 - origin
                   for (_, highest), origin in zip(bounds, self.origin, strict=True)]
        fitting = [dtype for dtype, largest in _LARGEST_KEYS.items() if math.prod(radices) < largest]
        if not fitting:
            raise UsageError("CRF", "the standard deviations are too small for this image", "increase them")
        self.dtype = fitting[0]
        self.strides = [math.prod(radices[axis + 1:]) for axis in range(self._dimensions)]

    def steps(self, color: int) -> list[int]:
        """What to add to a vertex of a colour for the vertex before it, along each of d + 1 directions.

        A step subtracts 1 from every coordinate and adds d + 1 to one of them; the last coordinate
        is not packed, as it follows from the others.
        """
        # From colour 0 a step leads to colour d, with quotients that are less by 1.
        back = 0 if color else -sum(self.strides)
        return [back + stride for stride in (*self.strides, 0)]


def _elevated_bounds(low: Sequence[float], high: Sequence[float], axis: int) -> tuple[float, float]:
    """Bounds of one lattice coordinate, given the bounds of the features."""
    scales = _scales(len(low))
    later = range(axis, len(low))
    lowest = sum(low[i] * scales[i] for i in later)
    highest = sum(high[i] * scales[i] for i in later)
    if axis:
        lowest -= axis * high[axis - 1] * scales[axis - 1]
        highest -= axis * low[axis - 1] * scales[axis - 1]
    return lowest, highest


def _scales(dimensions: int) -> list[float]:
    """Factors of the features with which blurring has unit standard deviation, rounded to float32.

    Adams et al. 2010, sections 3 and 4: the diagonal of the elevation, times the lattice's width.
    """
    width = float(torch.tensor(math.sqrt(2 / 3) * (dimensions + 1), dtype=torch.float32))
    return torch.tensor(
        [width / math.sqrt((i + 2) * (i + 1)) for i in range(dimensions)], dtype=torch.float32).tolist()


def _corners(features: Tensor, packing: _Packing) -> tuple[Tensor, Tensor]:
    """The simplex around each point: its corners' packed coordinates, and the point's weights there.

    Returns
    -------
    keys : (d + 1, N) int32 or int64
        The corner of colour r in row r.
    weights : (d + 1, N) float32
        Barycentric coordinates; columns sum to 1.
    """
    shape = (len(features) + 1, features.shape[1])
    keys = torch.empty(shape, dtype=packing.dtype, device=features.device)
    weights = torch.empty(shape, dtype=torch.float32, device=features.device)
    portion = _PORTION if features.device.type == "cpu" else features.shape[1]
    for start in range(0, features.shape[1], portion):
        part = slice(start, start + portion)
        _place(features[:, part], packing, keys[:, part], weights[:, part])
    return keys, weights


def _place(features: Tensor, packing: _Packing, keys: Tensor, weights: Tensor) -> None:
    """As :func:`_corners`, into the given tensors."""
    dimensions = len(features)
    colors = dimensions + 1
    inverse = float(torch.tensor(1 / colors, dtype=torch.float32))
    elevated = _elevate(features)
    # The nearest point of colour 0, in units of d + 1.
    nearest = torch.round(elevated * inverse)
    rank = _ranks(elevated - nearest * colors) + nearest.sum(dim=0).to(torch.int8)
    # Where that point is off the plane, the coordinates that were rounded most are shifted by one.
    shift = (rank < 0).to(torch.int8) - (rank > dimensions).to(torch.int8)
    rank += shift * colors
    nearest += shift
    rank = rank.long()
    rest = torch.empty_like(elevated).scatter_(0, rank, (elevated - nearest * colors) * inverse)
    torch.sub(rest[:-1].flip(0), rest[1:].flip(0), out=weights[1:])
    torch.add(rest[-1], 1 - rest[0], out=weights[0])
    keys[0] = -sum(o * s for o, s in zip(packing.origin, packing.strides, strict=True))
    for axis, stride in enumerate(packing.strides):
        keys[0].add_(nearest[axis].to(keys.dtype), alpha=stride)
    # From one corner to the next, every coordinate increases by 1, and the one of the next rank also
    # decreases by d + 1: its quotient by 1.
    strides = torch.tensor([*packing.strides, 0], dtype=keys.dtype, device=keys.device)
    by_rank = torch.empty_like(keys).scatter_(0, rank, strides[:, None].expand(rank.shape))
    for color in range(1, colors):
        torch.sub(keys[color - 1], by_rank[colors - color], out=keys[color])


def _elevate(features: Tensor) -> Tensor:
    """The points embedded in the lattice's plane, where coordinates sum to 0; ``(d + 1, N) float32``."""
    elevated = features.new_empty((len(features) + 1, features.shape[1]))
    total = torch.zeros_like(features[0])
    # This order of additions gives the reference's coordinates to the bit.
    for axis, scale in reversed(list(enumerate(_scales(len(features)), start=1))):
        scaled = features[axis - 1] * scale
        torch.sub(total, scaled * axis, out=elevated[axis])
        total += scaled
    elevated[0] = total
    return elevated


def _ranks(rest: Tensor) -> Tensor:
    """Rank of each coordinate among its point's, the largest first, ``(d + 1, N) int8``; ties in order."""
    rank = torch.arange(len(rest), dtype=torch.int8, device=rest.device)[:, None].repeat(1, rest.shape[1])
    for one in range(len(rest)):
        for other in range(one + 1, len(rest)):
            smaller = (rest[one] < rest[other]).view(torch.int8)
            rank[one] += smaller
            rank[other] -= smaller
    return rank


def _search(ordered: Tensor, wanted: Tensor) -> Tensor:
    """Positions in a sorted tensor at which the values of another sorted tensor are, or would be inserted; int64."""
    if ordered.device.type != "cpu":
        return torch.searchsorted(ordered, wanted)
    # NumPy begins each search where the last one ended, and so is twice as fast as torch here.
    return torch.from_numpy(np.searchsorted(ordered.numpy(), wanted.numpy()))


def _offsets(bags: int, length: int, device: torch.device) -> Tensor:
    """Offsets of bags of one length, and the end."""
    return torch.arange(0, bags * length + 1, length, dtype=torch.int32, device=device)


def _gather(values: Tensor, index: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of rows: row b is the sum of ``weights[i] * values[index[i]]`` over bag b."""
    return embedding_bag(
        index, values, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True)
