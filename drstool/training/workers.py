"""Processes that read a training's images: how they begin, what they tell, how they end."""

from __future__ import annotations

import contextlib
import ctypes
import signal
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from drstool.errors import DrstoolError

__all__ = ["Telling", "begin_worker", "collated", "from_workers", "stopping_workers"]


@contextlib.contextmanager
def stopping_workers(loader: torch.utils.data.DataLoader) -> Iterator[Iterable]:
    """The loader's batches; its worker processes end with the block, also after an error."""
    # They begin with these signals held back, until they ignore them: they are another's to end.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        batches = iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield batches
    finally:
        shutdown = getattr(batches, "_shutdown_workers", None)
        if shutdown is not None:
            shutdown()


def from_workers(batches: Iterable) -> Iterator:
    """The batches; where the connection to a worker is gone, that is told as torch tells of dead workers."""
    try:
        yield from batches
    except (ConnectionError, EOFError) as error:
        raise RuntimeError(f"a DataLoader worker is gone: {error}") from error


class Telling:
    """Samples whose errors are told as values: torch would make tracebacks of those of its workers."""

    def __init__(self, samples: Any) -> None:
        self._samples = samples

    def __getitem__(self, key: tuple[int, int]) -> tuple[str, Any] | DrstoolError:
        try:
            return self._samples[key]
        except DrstoolError as error:
            return error


def collated(samples: list) -> list | DrstoolError:
    """A batch of samples, or the first error among them."""
    error = next((sample for sample in samples if isinstance(sample, DrstoolError)), None)
    return error if error is not None else torch.utils.data.default_collate(samples)


def begin_worker(worker: int) -> None:
    """Prepare a worker process for its life."""
    # Ctrl-C reaches every process of the terminal, and a scheduler's SIGTERM every one of the job; the
    # one that trains ends the others.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    _end_with_parent()
    # What fails in a sample is told as a value, or by torch; this shows only that the thread which hands
    # tensors over finds nobody to take them, as the one that trains is going.
    sys.excepthook = lambda *_: None
    torch.set_num_threads(1)


def _end_with_parent() -> None:
    """Let the system end this process when the one that trains is killed, which cannot end it any more."""
    # PR_SET_PDEATHSIG; elsewhere than on Linux torch's own watch ends a worker some seconds later.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
