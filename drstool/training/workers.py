"""Processes that read a training's images: how they begin, what they return, how they end."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing.queues
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from drstool.errors import DrstoolError

__all__ = ["load_batches"]


@contextlib.contextmanager
def load_batches(
    samples: Any, keys: Iterable[list[Any]], workers: int, pin_memory: bool,
) -> Iterator[Iterator[list]]:
    """The batches of samples; worker processes end with the block, also after an error.

    Parameters
    ----------
    samples
        By key. Their own errors come out of the iterator as they are.
    keys
        Of each batch.
    workers
        Processes that read the samples; 0 reads them when they are asked for.
    pin_memory
        Whether the tensors go to a GPU.
    """
    loader: torch.utils.data.DataLoader = torch.utils.data.DataLoader(
        _ErrorsAsValues(samples), batch_sampler=keys, num_workers=workers, collate_fn=_collate,
        pin_memory=pin_memory, worker_init_fn=_begin_worker)
    with _blocked_signals():
        try:
            batches = iter(loader)
        except BaseException:
            # Not all could be started.
            _kill_workers()
            raise
    try:
        yield _checked(batches)
    finally:
        shutdown = getattr(batches, "_shutdown_workers", None)
        if shutdown is not None:
            shutdown()
        _kill_workers()


def _kill_workers() -> None:
    """End those that are left: they ignore the signal to end, and Python would wait for them at exit."""
    for process in torch.multiprocessing.active_children():
        process.kill()


@contextlib.contextmanager
def _blocked_signals() -> Iterator[None]:
    """A block in which workers begin with these signals blocked, until they ignore them: another process ends them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))


def _checked(batches: Iterable) -> Iterator[list]:
    """The batches, or the error that one is in place of."""
    try:
        for batch in batches:
            if isinstance(batch, DrstoolError):
                raise batch
            yield batch
    except (ConnectionError, EOFError) as error:
        # In torch's words about dead workers.
        raise RuntimeError(f"a DataLoader worker is gone: {error}") from error


class _ErrorsAsValues(torch.utils.data.Dataset):
    """Samples whose errors are returned: torch would make tracebacks of those raised in its workers."""

    def __init__(self, samples: Any) -> None:
        self._samples = samples

    def __getitem__(self, key: Any) -> Any:
        try:
            return self._samples[key]
        except DrstoolError as error:
            return error


def _collate(samples: list) -> list | DrstoolError:
    """A batch of samples, or the first error among them."""
    error = next((sample for sample in samples if isinstance(sample, DrstoolError)), None)
    return error if error is not None else torch.utils.data.default_collate(samples)


def _end_worker(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _begin_worker(worker: int) -> None:
    # Ctrl-C reaches every process of the terminal, and a scheduler's SIGTERM every one of the job; the
    # one that trains ends the others.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # Killed, the one that trains cannot end this process: the system does (PR_SET_PDEATHSIG). Elsewhere than on
    # Linux torch's own watch does so some seconds later.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    # Errors in samples are returned, or reported by torch. What else is told here is that the one that trains is
    # going, or that threads cannot be started, of which it learns as this process ends.
    sys.excepthook = lambda *_: None
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    # A batch that cannot be handed over would be waited for without end.
    multiprocessing.queues.Queue._on_queue_feeder_error = _end_worker  # type: ignore[attr-defined]
    torch.set_num_threads(1)
