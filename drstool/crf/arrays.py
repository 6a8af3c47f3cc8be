"""The CRF applied to arrays of the classes present in an image: to probabilities, or to labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from drstool.crf.meanfield import DenseCRF, label_unary, probability_unary
from drstool.errors import InputError
from drstool.pixels import shown_size
from drstool.recipe import CrfSettings

__all__ = ["check_size", "one_thread", "smooth_labels", "smooth_probabilities"]


def smooth_probabilities(
    image: np.ndarray, probabilities: np.ndarray, settings: CrfSettings, *,
    device: torch.device = torch.device("cpu"), where: object = "CRF",
) -> np.ndarray:
    """Class probabilities after the CRF.

    Parameters
    ----------
    image : (H, W, 3) uint8
    probabilities : (K, H, W) float32 in [0, 1]
        Of the classes present, summing to 1.
    settings
        With ``unary="labels"``, the CRF starts from the most probable class of each pixel.
    device
    where
        Named in errors.

    Returns
    -------
    (K, H, W) float32 in [0, 1]
        Summing to 1.

    Raises
    ------
    InputError
        Image and probabilities differ in size, or the values are not probabilities.
    """
    check_size(image, probabilities.shape[1:], where)
    unary = probability_unary(probabilities, where)
    if settings.unary == "labels":
        unary = label_unary(probabilities.argmax(axis=0), len(probabilities), settings.confidence)
    return DenseCRF(image, settings, device)(unary)


def smooth_labels(
    image: np.ndarray, labels: np.ndarray, present: Sequence[int], settings: CrfSettings, *,
    device: torch.device = torch.device("cpu"), where: object = "CRF",
) -> np.ndarray:
    """A label image after the CRF, given that each label is right with probability ``settings.confidence``.

    Parameters
    ----------
    image : (H, W, 3) uint8
    labels : (H, W) int
    present
        The label values of the image's classes; pixels with other values are unknown.
    settings, device, where
        As in :func:`smooth_probabilities`.

    Returns
    -------
    (H, W) of the labels' type
        Only values of ``present``.

    Raises
    ------
    InputError
        Image and labels differ in size.
    """
    check_size(image, labels.shape, where)
    index = np.full(labels.shape, -1)
    for number, label in enumerate(present):
        index[labels == label] = number
    found = DenseCRF(image, settings, device)(label_unary(index, len(present), settings.confidence))
    return np.asarray(present, dtype=labels.dtype)[found.argmax(axis=0)]


def check_size(image: np.ndarray, size: tuple[int, ...], where: object) -> None:
    """Check that a photograph has the size of the image that its maps or labels describe.

    Raises
    ------
    InputError
        It does not.
    """
    if image.shape[:2] != tuple(size):
        raise InputError(
            where,
            f"the photograph is {shown_size(image.shape[:2])} pixels, but the maps describe one of {shown_size(size)}",
            "both must be of the same image")


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit torch to one thread in a block, for workers that each process an image of their own.

    Several workers of several threads each would mostly wait for one another.
    """
    before = torch.get_num_threads()
    # Holds for the calling thread, and for threads that are started meanwhile.
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
