"""A fully connected CRF over the pixels of an image, by mean-field inference.

Energies, kernels and updates are pydensecrf's: a spatial Gaussian kernel and a bilateral one, of
position and colour, Potts compatibility, symmetric normalisation, parallel updates, and messages
that include a pixel's own.

References
----------
Krähenbühl, Koltun: Efficient inference in fully connected CRFs with Gaussian edge potentials, NIPS
2011, algorithm 1 and section 3.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drstool.crf.exact import AttentionKernel, GridKernel
from drstool.crf.lattice import LatticeKernel, LatticeSum
from drstool.errors import InputError
from drstool.pixels import shown_size
from drstool.recipe import CrfSettings

__all__ = ["DenseCRF", "label_unary", "mean_field", "probability_unary"]

# Filters each column of (N, K) values.
Kernel = Callable[[Tensor], Tensor]

# Smaller probabilities are raised to this, as the energy of 0 would be infinite (pydensecrf).
_LEAST_PROBABILITY = 1e-5
# How far the sum of a pixel's probabilities may be from 1.
_SUM_TOLERANCE = 1e-3

# Between minus this and this, exp neither overflows nor makes a row's sum 0.
_SAFE_ENERGY = 80.0

# Spatial kernels are the same for all images of a size, and few sizes make up most of a dataset.
_SIZES_KEPT = 8


class DenseCRF:
    """Mean-field inference on one image.

    Parameters
    ----------
    image : (H, W, 3) uint8
        RGB.
    settings
    device

    Raises
    ------
    UsageError
        The standard deviations are too small for the lattice.

    Examples
    --------
    >>> image = np.zeros((2, 3, 3), np.uint8)
    >>> unary = probability_unary(np.full((2, 2, 3), 0.5, np.float32))
    >>> DenseCRF(image, CrfSettings())(unary)[0].tolist()
    [[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]]
    """

    def __init__(
        self, image: np.ndarray, settings: CrfSettings, device: torch.device = torch.device("cpu"),
    ) -> None:
        self._size, self._iterations, self._device = image.shape[:2], settings.iterations, device
        with torch.no_grad():
            self._terms = _terms(image, settings, device)

    def __call__(self, unary: np.ndarray) -> np.ndarray:
        """The classes' probabilities at each pixel.

        Parameters
        ----------
        unary : (K, H, W) float32
            Energies: negative logarithms of probabilities.

        Returns
        -------
        (K, H, W) float32 in [0, 1]
            Summing to 1 over the classes.
        """
        if unary.shape[1:] != self._size:
            raise ValueError(f"unary of {shown_size(unary.shape[1:])} pixels for an image of {shown_size(self._size)}")
        rows = torch.from_numpy(unary).to(self._device).flatten(1).t().contiguous()
        with torch.no_grad():
            found = mean_field(rows, self._terms, self._iterations)
        return found.t().reshape(unary.shape).cpu().numpy()


def mean_field(unary: Tensor, terms: list[tuple[float, Kernel]], iterations: int) -> Tensor:
    """Marginals after a number of parallel updates.

    Parameters
    ----------
    unary : (N, K) float
        Energies.
    terms
        Pairs of weight and kernel.
    iterations
        0 gives the softmax of the negative unary energies.

    Returns
    -------
    (N, K) float
        Rows sum to 1.
    """
    marginals = _softmax(-unary)
    for _ in range(iterations):
        energy = -unary
        for weight, kernel in terms:
            energy.add_(kernel(marginals), alpha=weight)
        marginals = _softmax(energy)
    return marginals


def probability_unary(probabilities: np.ndarray, where: object = "CRF") -> np.ndarray:
    """Unary energies of class probabilities: their negative logarithms.

    Parameters
    ----------
    probabilities : (K, H, W) float32 in [0, 1]
        Summing to 1 over the classes.
    where
        Named in the error.

    Returns
    -------
    (K, H, W) float32 in [0, 11.6]

    Raises
    ------
    InputError
        Values are not finite, not in [0, 1], or do not sum to 1.

    Examples
    --------
    >>> probability_unary(np.float32([[[0.0]], [[1.0]]])).round(2).flatten().tolist()
    [11.51..., -0.0]
    """
    if not np.isfinite(probabilities).all():
        raise InputError(where, "has probabilities that are not finite", "give numbers from 0 to 1")
    low, high = probabilities.min(initial=0), probabilities.max(initial=0)
    if low < 0 or high > 1 + _SUM_TOLERANCE:
        raise InputError(where, f"has probabilities from {low:.3g} to {high:.3g}", "expected 0 to 1")
    total = probabilities.sum(axis=0)
    worst = total.flat[np.abs(total - 1).argmax()]
    if abs(worst - 1) > _SUM_TOLERANCE:
        raise InputError(
            where, f"has a pixel whose probabilities sum to {worst:.4g}",
            "over all classes, background included, they must sum to 1")
    return -np.log(np.clip(probabilities, _LEAST_PROBABILITY, 1).astype(np.float32))


def label_unary(index: np.ndarray, num_classes: int, confidence: float) -> np.ndarray:
    """Unary energies of a label image whose labels are right with a given probability.

    Parameters
    ----------
    index : (H, W) int
        0 .. K - 1; negative where the label is unknown and every class equally likely.
    num_classes
        K.
    confidence
        Probability in (0, 1) that a label is right; the others share the rest.

    Returns
    -------
    (K, H, W) float32

    Examples
    --------
    >>> np.exp(-label_unary(np.array([[0, -1]]), 2, 0.75)).round(2).tolist()
    [[[0.75, 0.5]], [[0.25, 0.5]]]
    """
    if num_classes == 1:
        return np.zeros((1, *index.shape), np.float32)
    wrong = -np.log((1 - confidence) / (num_classes - 1))
    unary = np.full((num_classes, *index.shape), wrong, np.float32)
    for number in range(num_classes):
        unary[number][index == number] = -np.log(confidence)
    unary[:, index < 0] = np.log(num_classes)
    return unary


def _terms(image: np.ndarray, settings: CrfSettings, device: torch.device) -> list[tuple[float, Kernel]]:
    """Pairs of weight and kernel for an image, (H, W, 3) uint8."""
    exact, size = settings.mode == "exact", image.shape[:2]
    terms: list[tuple[float, Any]] = []
    if settings.gaussian_compat:
        make = _grid_kernel if exact else _spatial_lattice
        terms.append((settings.gaussian_compat, make(size, settings.gaussian_sxy, device)))
    if settings.bilateral_compat:
        features = _bilateral_features(
            torch.from_numpy(image).to(device), settings.bilateral_sxy, settings.bilateral_srgb)
        terms.append((settings.bilateral_compat, AttentionKernel(features) if exact else LatticeKernel(features)))
    return terms if exact or len(terms) < 2 else [(1.0, LatticeSum(terms))]


def _softmax(energy: Tensor) -> Tensor:
    """Softmax of rows, which may overwrite them; on a CPU torch's own is slow for rows as short as these."""
    if energy.device.type != "cpu" or not energy.numel():
        return torch.softmax(energy, dim=1)
    low, high = torch.aminmax(energy)
    if float(low) < -_SAFE_ENERGY or float(high) > _SAFE_ENERGY:
        return torch.softmax(energy, dim=1)
    raised = energy.exp_()
    # A product with ones is the fastest sum.
    return raised.div_(raised @ raised.new_ones((raised.shape[1], 1)))


@lru_cache(maxsize=_SIZES_KEPT)
def _spatial_lattice(size: tuple[int, int], sigma: float, device: torch.device) -> LatticeKernel:
    return LatticeKernel(torch.stack(_positions(size, sigma, device)))


@lru_cache(maxsize=_SIZES_KEPT)
def _grid_kernel(size: tuple[int, int], sigma: float, device: torch.device) -> GridKernel:
    return GridKernel(size, sigma, device)


def _positions(size: tuple[int, int], sigma: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Positions of the pixels in standard deviations: x, then y, each ``(N,) float32``."""
    rows, columns = (torch.arange(length, dtype=torch.float32, device=device) / _float32(sigma) for length in size)
    return columns.repeat(size[0]), rows.repeat_interleave(size[1])


def _bilateral_features(image: Tensor, sxy: float, srgb: float) -> Tensor:
    """Positions and colours of the pixels in standard deviations, ``(5, N) float32``: x, y, R, G, B."""
    positions = _positions((image.shape[0], image.shape[1]), sxy, image.device)
    colors = image.reshape(-1, 3).t().float() / _float32(srgb)
    return torch.cat([torch.stack(positions), colors])


def _float32(value: float) -> float:
    """A number rounded to float32, as the reference divides by float32 numbers."""
    return float(np.float32(value))
