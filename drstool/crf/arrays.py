"""The CRF on arrays of the classes present in an image: probabilities, or labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from drstool.crf.meanfield import DenseCRF, label_unary, probability_unary
from drstool.errors import InputError
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
        With ``unary="labels"`` the CRF starts from the most probable class of each pixel.
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
        Image and probabilities differ in size, or these are none.
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
    """A label image after the CRF, each label taken to be right with ``settings.confidence``.

    Parameters
    ----------
    image : (H, W, 3) uint8
    labels : (H, W) int
    present
        The label values that are classes of the image; elsewhere nothing is known.
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


def check_size(image: np.ndarray, size: Sequence[int], where: object) -> None:
    """Check that an image is of the size of what is said about its pixels.

    Raises
    ------
    InputError
        It is not.
    """
    if image.shape[:2] != tuple(size):
        raise InputError(
            where, f"its photograph is {_shown(image.shape[:2])} pixels, its maps are of one of {_shown(size)}",
            "they must be of the same image")


@contextmanager
def one_thread() -> Iterator[None]:
    """Let the block's tensor work use one thread: for workers that each have an image of their own.

    Several workers with several threads each would wait for one another most of the time.
    """
    before = torch.get_num_threads()
    # Counts for the calling thread, and for threads that begin meanwhile.
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _shown(size: Sequence[int]) -> str:
    return f"{size[1]} x {size[0]}"
