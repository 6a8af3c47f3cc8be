"""One training by several processes, as ``torchrun`` starts them: what they share, and how they end together.

Every process holds the same network, sees its own images of each step, and does the same step.
What the processes tell each other goes through gloo, on the CPU, where the end of one is noticed by
the others at once; gradients go through NCCL on GPUs.
"""

from __future__ import annotations

import contextlib
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed as dist, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from drstool.errors import DrstoolError, ReportedByPeer, UsageError, signal_behind

__all__ = ["ProcessLost", "Team"]

Result = TypeVar("Result")

# How long a process waits for the others in a step, and while the first one scores an epoch.
_WAIT, _LONG_WAIT = timedelta(minutes=30), timedelta(days=1)

# What gloo, NCCL and the sockets say when the other side is gone.
_GONE = ("gloo", "NCCL", "nccl", "onnection", "ocket", "peer", "imed out", "imeout")


class ProcessLost(DrstoolError):
    """Another process of the training ended in the middle of it."""


class Team:
    """The processes of one training; by itself this one alone, which need not ask anybody.

    Parameters
    ----------
    rank, size
        Number of this process, from 0, and of all.
    local_rank, local_size
        The same among the processes of this machine.

    Attributes
    ----------
    rank, size
    is_first
        Whether this process writes the files and talks to the user.
    started
        Whether all processes have said that they can begin.
    """

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0, local_size: int = 1) -> None:
        self.rank, self.size, self.is_first = rank, size, rank == 0
        self.started = size == 1
        self._local_rank, self._local_size = local_rank, local_size

    # --- beginning and end ---------------------------------------------------------------------

    def start(self, device: torch.device | None = None, error: DrstoolError | None = None) -> None:
        """Begin together, or not at all; raises as :meth:`agree`.

        Parameters
        ----------
        device
        error
            Why this process cannot begin; it is raised.

        Raises
        ------
        UsageError
            The processes are on different kinds of device, or several on one GPU.
        """
        if not self.started:
            _interruptibly(self._connect)
            self.started = True
        self.agree(_raise, error)
        if device is not None:
            self.agree(self._check_device, device, self.broadcast(device.type))

    def _connect(self) -> None:
        try:
            store, _, _ = next(iter(rendezvous("env://", timeout=_WAIT)))
            dist.init_process_group("gloo", store=store, rank=self.rank, world_size=self.size, timeout=_WAIT)
            self._patient: Any = dist.new_group(backend="gloo", timeout=_LONG_WAIT)
        except ValueError as error:
            raise UsageError("torchrun", str(error), "start the processes with torchrun") from None
        except RuntimeError as error:
            raise ProcessLost("torchrun", f"the processes cannot connect to each other: {_reason(error)}") from None
        self._gradients: Any = dist.group.WORLD

    def _check_device(self, device: torch.device, kind: str) -> None:
        """Check that all processes have a device of one kind, and each a GPU of its own."""
        if device.type != kind:
            raise UsageError(
                "--device", f"is {device.type} for process {self.rank}, and {kind} for process 0",
                "--device cpu, or --device cuda where each has a GPU")
        if self.size == 1 or kind != "cuda":
            return
        gpus = torch.cuda.device_count()
        if self._local_size > gpus:
            raise UsageError(
                "torchrun", f"{self._local_size} processes, and this machine has {gpus} GPU(s)",
                f"--nproc-per-node {gpus}")
        if device.index not in (None, self._local_rank):
            raise UsageError("--device", f"{device} is one GPU for several processes", "cuda: each takes its own")

    def leave(self) -> None:
        """Part from the others, with nothing under way between them."""
        if self.size > 1 and dist.is_initialized():
            # A process that has already ended does not matter.
            with contextlib.suppress(RuntimeError):
                dist.destroy_process_group()

    # --- talking -------------------------------------------------------------------------------

    def agree(self, work: Callable[..., Result], *arguments: Any, slow: bool = False) -> Result:
        """What the work of this process gives, after all have done theirs; where it fails in one, all end.

        Parameters
        ----------
        work, arguments
        slow
            Whether the others wait for longer than they would in a step.

        Raises
        ------
        ReportedByPeer
            It failed in another process, which says why; of several the first one does.
        ProcessLost
            Another process is gone.
        """
        failure, result, own = None, None, 0
        try:
            result = work(*arguments)
        except BaseException as error:
            failure, code = error, getattr(error, "exit_code", signal_behind(error) or 1)
            # The first of those that fail has the largest number; a real failure comes before a quiet end.
            own = bool(code) << 30 | (self.size - self.rank) << 8 | code
        largest = self._all_max(own, slow)
        if failure is not None and largest == own:
            raise failure
        if largest:
            raise ReportedByPeer(largest & 0xFF)
        return result  # type: ignore[return-value]

    def _all_max(self, number: int, slow: bool) -> int:
        if self.size == 1:
            return number
        numbers = torch.tensor(number)
        with self.watching_peers():
            dist.all_reduce(numbers, dist.ReduceOp.MAX, self._patient if slow else None)
        return int(numbers)

    def broadcast(self, value: Any) -> Any:
        """The first process's value: plain values and tensors on the CPU; raises :class:`ProcessLost`."""
        values = [value]
        if self.size > 1:
            with self.watching_peers():
                dist.broadcast_object_list(values, 0, self._patient)
        return values[0]

    def from_first(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """What the work of the first process gives, for all; raises as :meth:`agree`."""
        return self.broadcast(self.agree(work if self.is_first else lambda *_: None, *arguments, slow=True))

    @contextlib.contextmanager
    def watching_peers(self) -> Iterator[None]:
        """In the block the loss of another process is a :class:`ProcessLost`."""
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            if self.size == 1 or not any(word in str(error) for word in _GONE):
                raise
            raise ProcessLost(
                "training",
                f"process {self.rank} of {self.size} lost the connection to another process ({_reason(error)})",
                "--resume continues from the last saved state") from None

    # --- the network ---------------------------------------------------------------------------

    def wrap(self, model: nn.Module, device: torch.device) -> nn.Module:
        """The network as one that all processes train together, beginning with the first one's weights."""
        if self.size == 1:
            return model
        if device.type == "cuda":
            torch.cuda.set_device(device)
            self._gradients = dist.new_group(backend="nccl", timeout=_WAIT)
            nn.SyncBatchNorm.convert_sync_batchnorm(model, self._gradients)
        # Of weights of 1×1 convolutions torch cannot tell their layouts apart, and warns.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        with self.watching_peers():
            return DistributedDataParallel(
                model, device_ids=[device] if device.type == "cuda" else None, process_group=self._gradients,
                forward_sync_buffers=False, gradient_as_bucket_view=True)

    def vary_random_numbers(self) -> None:
        """Let each process draw random numbers of its own, the first one as if it were alone."""
        if self.rank:
            torch.manual_seed(int(torch.randint(1 << 62, ())) + self.rank)

    def rows(self, count: int) -> slice:
        """Which of so many images of a step are this process's; perhaps none.

        Examples
        --------
        >>> [Team(rank, 3).rows(4) for rank in range(3)]
        [slice(0, 2, None), slice(2, 3, None), slice(3, 4, None)]
        """
        return slice(-(-count * self.rank // self.size), -(-count * (self.rank + 1) // self.size))

    def backward(self, loss: Tensor, weight: Tensor) -> Tensor:
        """The loss of all images of a step, whose gradients the parameters have now.

        Parameters
        ----------
        loss
            Mean over this process's images.
        weight : () int64
            Number of what it is the mean of.
        """
        if self.size == 1:
            loss.backward()
            return loss.detach()
        share = (weight.double() / self._total(weight).clamp_min(1)).to(loss.dtype)
        # The mean of nothing is not a number.
        part = torch.where(weight > 0, loss, torch.zeros_like(loss)) * share
        # Gradients are averaged over the processes, and wanted is their sum.
        (part * self.size).backward()
        return self._total(part.detach())

    def _total(self, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total, group=self._gradients)
        return total


def _raise(error: Exception | None) -> None:
    if error is not None:
        raise error


def _interruptibly(function: Callable[[], None]) -> None:
    """Call a function that may wait for long where no signal gets through, and let signals through."""
    outcome: Future = Future()

    def call() -> None:
        try:
            function()
            outcome.set_result(None)
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    outcome.result()


def _reason(error: Exception) -> str:
    """What went wrong, without where in a library's source, and without its advice.

    Examples
    --------
    >>> _reason(RuntimeError("[/x/pair.cc:561] Connection closed by peer [10.0.0.1]:88. This is typical."))
    'Connection closed by peer [10.0.0.1]:88'
    """
    last = (str(error).strip().splitlines() or ["no reason given"])[-1].strip()
    return re.sub(r"^\[[^]]*\] *", "", last).partition(". ")[0] or last
