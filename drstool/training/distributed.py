"""One training by several processes, as ``torchrun`` starts them: what they share, and how they end together.

Every process holds the same network, sees its share of each step's images, and does the same step.
What the processes say to each other goes through gloo, on the CPU, where the end of one is noticed
by the others at once; gradients go through NCCL on GPUs.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from drstool.errors import DrstoolError, ToldElsewhere, UsageError

__all__ = ["ProcessLost", "Team"]

# How long one process waits for the others' next word, and for the first one to score an epoch.
_WAIT, _LONG_WAIT = timedelta(minutes=30), timedelta(days=1)

# What gloo, NCCL and the sockets say when the other side is gone.
_GONE = ("gloo", "NCCL", "nccl", "onnection", "ocket", "peer", "imed out", "imeout")


class ProcessLost(DrstoolError):
    """Another process of the training ended in the middle of it."""


class Team:
    """The processes of one training.

    Parameters
    ----------
    rank, size
        Number of this process, from 0, and of all.
    local_rank, on_this_machine
        Number of this process among those of this machine, and how many these are.

    Attributes
    ----------
    rank, size
    is_first
        Whether this process writes the files and speaks to the user.
    is_mustered
        Whether all processes have said that they can begin.
    """

    def __init__(self, rank: int, size: int, local_rank: int, on_this_machine: int) -> None:
        self.rank, self.size, self.is_first = rank, size, rank == 0
        self.is_mustered = False
        self._local_rank, self._on_this_machine = local_rank, on_this_machine
        self._rows, self._count = slice(0, 0), 0

    # --- beginning and end ---------------------------------------------------------------------

    def muster(
        self, device: torch.device | None = None, error: DrstoolError | None = None, finished: bool = False,
    ) -> None:
        """The first word of every process to the others: whether it can begin, and on what device.

        Parameters
        ----------
        device
        error
            Why this process cannot begin.
        finished
            Whether the first process has nothing left to do.

        Raises
        ------
        ToldElsewhere
            The training does not begin, and another process says why.
        UsageError
            The processes are on different kinds of device, or several on one GPU.
        ProcessLost
            A process ended before it began.
        """
        if error is None and device is not None and device.type == "cuda":
            error = self._gpu_problem(device)
        _interruptibly(self._connect)
        self.is_mustered = True
        told = self._gathered({
            "error": None if error is None else str(error), "code": 0 if error is None else error.exit_code,
            "finished": finished, "device": None if device is None else device.type})
        failed = [number for number, word in enumerate(told) if word["error"] is not None]
        if failed:
            # What is wrong for several in the same way is told once.
            speaks = next(number for number in failed if told[number]["error"] == told[self.rank]["error"]) \
                if self.rank in failed else failed[0]
            if error is not None and speaks == self.rank:
                raise error
            raise ToldElsewhere(told[speaks]["code"])
        if told[0]["finished"]:
            if not self.is_first:
                raise ToldElsewhere(0)
            return
        kinds = {word["device"]: number for number, word in reversed(list(enumerate(told)))}
        if len(kinds) > 1:
            where = " and ".join(f"{kind} for process {number}" for kind, number in sorted(kinds.items()))
            with self.told_once(UsageError):
                raise UsageError("--device", f"is {where}", "--device cpu, or --device cuda where each has a GPU")

    def _gpu_problem(self, device: torch.device) -> UsageError | None:
        """Why the processes of this machine cannot have a GPU each, if so."""
        gpus = torch.cuda.device_count()
        if self._on_this_machine > gpus:
            return UsageError(
                "torchrun", f"{self._on_this_machine} processes, and this machine has {gpus} GPU(s)",
                f"--nproc-per-node {gpus}")
        if device.index not in (None, self._local_rank):
            return UsageError("--device", f"{device} is one GPU for several processes", "cuda: each takes its own")
        return None

    def _connect(self) -> None:
        try:
            self._store, _, _ = next(iter(rendezvous("env://", timeout=_WAIT)))
            dist.init_process_group("gloo", store=self._store, rank=self.rank, world_size=self.size, timeout=_WAIT)
            self._patient = dist.new_group(backend="gloo", timeout=_LONG_WAIT)
        except ValueError as error:
            raise UsageError("torchrun", str(error), "start the processes with torchrun") from None
        except RuntimeError as error:
            raise ProcessLost("torchrun", f"the processes do not find each other: {_reason(error)}") from None
        self._devices = dist.group.WORLD

    def leave(self) -> None:
        """Part from the others, with nothing under way between them."""
        if self.is_mustered and dist.is_initialized():
            # A process that is gone already is no matter any more.
            with contextlib.suppress(RuntimeError):
                dist.destroy_process_group()

    # --- words ---------------------------------------------------------------------------------

    def meet(self, *words: int) -> list[int]:
        """The largest of each word over all processes; each waits here for all.

        Raises
        ------
        ProcessLost, ToldElsewhere
            One of them is gone.
        """
        told = torch.tensor(words)
        with self.listening(always=True):
            dist.all_reduce(told, dist.ReduceOp.MAX)
        return told.tolist()

    def from_first(self, value: Any) -> Any:
        """The first process's value, JSON, for which the others wait however long it takes; raises as :meth:`meet`."""
        return json.loads(self._bytes_from_first(json.dumps(value).encode() if self.is_first else b""))

    def state_from_first(self, state: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        """The first process's state of a training, plain values and tensors; raises as :meth:`meet`."""
        if not self.from_first(state is not None):
            return None
        buffer = io.BytesIO()
        if self.is_first:
            torch.save(state, buffer)
        data = self._bytes_from_first(buffer.getvalue())
        return state if self.is_first else torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")

    def total(self, values: Tensor) -> Tensor:
        """Sum over the processes, on the device of the training."""
        total = values.clone()
        dist.all_reduce(total, group=self._devices)
        return total

    def _bytes_from_first(self, data: bytes) -> bytes:
        with self.listening(always=True):
            length = torch.tensor([len(data)])
            dist.broadcast(length, 0, group=self._patient)
            content = torch.zeros(int(length), dtype=torch.uint8)
            if self.is_first:
                content = torch.frombuffer(bytearray(data), dtype=torch.uint8)
            dist.broadcast(content, 0, group=self._patient)
        return content.numpy().tobytes()

    def _gathered(self, told: dict[str, Any]) -> list[dict[str, Any]]:
        """What each process tells, by number."""
        data = torch.frombuffer(bytearray(json.dumps(told).encode()), dtype=torch.uint8)
        with self.listening(always=True):
            lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
            dist.all_gather(lengths, torch.tensor([len(data)]))
            longest = max(map(int, lengths))
            texts = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.size)]
            dist.all_gather(texts, nn.functional.pad(data, (0, longest - len(data))))
        return [
            json.loads(text[:int(length)].numpy().tobytes()) for text, length in zip(texts, lengths, strict=True)]

    # --- failures ------------------------------------------------------------------------------

    @contextlib.contextmanager
    def listening(self, always: bool = False) -> Iterator[None]:
        """In the block, news that another process is gone come as an error of ours.

        Parameters
        ----------
        always
            Whether nothing else can go wrong in it.

        Raises
        ------
        ProcessLost
            It was lost, and this process is the first to say so.
        ToldElsewhere
            Another one has said it, or the lost one why.
        """
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            if not always and not any(word in str(error) for word in _GONE):
                raise
            if not self.may_speak():
                raise ToldElsewhere(ProcessLost.exit_code) from None
            raise ProcessLost(
                "training", f"process {self.rank} of {self.size} lost another one ({_reason(error)})",
                "--resume goes on from the last state kept") from None

    def may_speak(self) -> bool:
        """Whether no process has said yet why the training ends; from now on one has."""
        try:
            return self._store.add("drstool/told", 1) == 1
        except RuntimeError:
            # Who kept the count is gone too.
            return True

    @contextlib.contextmanager
    def told_once(self, *kinds: type[DrstoolError]) -> Iterator[None]:
        """In the block, errors of these kinds happen to all processes, and only the first one tells."""
        try:
            yield
        except kinds as error:
            if self.is_first:
                raise
            raise ToldElsewhere(error.exit_code) from None

    # --- the network ---------------------------------------------------------------------------

    def wrapped(self, model: nn.Module, device: torch.device) -> nn.Module:
        """The network as one that all processes train together, beginning with the first one's weights.

        The model's own parameters are trained. Its batch norms become such that see all images of a
        step, and its dropouts such that draw for all of them, as one process would.
        """
        if device.type == "cuda":
            torch.cuda.set_device(device)
            self._devices = dist.new_group(backend="nccl", timeout=_WAIT)
            nn.SyncBatchNorm.convert_sync_batchnorm(model, self._devices)
        else:
            _replace(model, nn.BatchNorm2d, lambda norm: _TeamBatchNorm(norm, self))
        _replace(model, nn.Dropout, lambda dropout: _TeamDropout(dropout.p, self))
        # Of weights of 1×1 convolutions torch cannot tell their layouts apart, and warns.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        with self.listening():
            return DistributedDataParallel(
                model, device_ids=[device] if device.type == "cuda" else None, process_group=self._devices,
                forward_sync_buffers=False, gradient_as_bucket_view=True)

    def share(self, count: int) -> slice:
        """Which of so many images of a step are this process's; perhaps none.

        Examples
        --------
        >>> [Team(rank, 3, rank, 3).share(4) for rank in range(3)]
        [slice(0, 2, None), slice(2, 3, None), slice(3, 4, None)]
        """
        return slice(-(-count * self.rank // self.size), -(-count * (self.rank + 1) // self.size))

    def take(self, count: int) -> slice:
        """As :meth:`share`; from now on the step is that of so many."""
        self._rows, self._count = self.share(count), count
        return self._rows

    @property
    def taken(self) -> tuple[slice, int]:
        """This process's share of the step's images, and how many there are."""
        return self._rows, self._count

    def addend(self, mean: Tensor, weight: Tensor | None) -> Tensor:
        """What this process's loss adds to that of all images of the step.

        Parameters
        ----------
        mean
            Over this process's share.
        weight : () int64, optional
            Number of what it is the mean over; by default images.

        Returns
        -------
        () float
            Their sum over the processes is the mean over all.
        """
        if weight is None:
            share: Tensor | float = (self._rows.stop - self._rows.start) / self._count
        else:
            share = (weight.double() / self.total(weight).clamp_min(1)).to(mean.dtype)
        # The mean over no image is no number.
        return mean * share if self._rows.stop > self._rows.start else mean.nan_to_num() * 0


class _Total(torch.autograd.Function):
    """The sum over the processes, through which gradients come back: of each to all."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, team: Team) -> Tensor:
        ctx.team = team
        return team.total(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.team.total(gradient), None


class _TeamBatchNorm(nn.BatchNorm2d):
    """Batch norm over the images of all processes, for CPUs, where torch has none.

    Parameters
    ----------
    norm
        Whose parameters and statistics become its own.
    team
    """

    def __init__(self, norm: nn.BatchNorm2d, team: Team) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        self.weight, self.bias = norm.weight, norm.bias
        self.running_mean, self.running_var = norm.running_mean, norm.running_var
        self.num_batches_tracked = norm.num_batches_tracked
        self._team = team
        self.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        sums = torch.cat([values.sum((0, 2, 3)), values.new_tensor([values.numel() / self.num_features])])
        totals = _Total.apply(sums, self._team)
        count = totals[-1].detach()
        mean = totals[:-1] / count
        centred = values - mean[:, None, None]
        variance = _Total.apply(centred.square().sum((0, 2, 3)), self._team) / count
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
            self.running_var.lerp_((variance * count / (count - 1)).to(self.running_var), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


class _TeamDropout(nn.Module):
    """Dropout that draws for the images of all processes, and applies its own share's part.

    So all processes draw the same numbers, and on the CPU those that one process would draw.
    """

    def __init__(self, p: float, team: Team) -> None:
        super().__init__()
        self._p, self._team = p, team

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self._p:
            return x
        rows, count = self._team.taken
        layout = torch.contiguous_format
        if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
            layout = torch.channels_last
        mask = torch.empty((count, *x.shape[1:]), dtype=x.dtype, device=x.device, memory_format=layout)
        return x * mask.bernoulli_(1 - self._p).div_(1 - self._p)[rows]


def _replace(model: nn.Module, kind: type[nn.Module], made: Callable[[Any], nn.Module]) -> None:
    """Put others in place of the modules of a kind."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is kind:
                setattr(module, name, made(child))


def _interruptibly(function: Callable[[], None]) -> None:
    """Call a function that may wait for long where no signal gets through, and let signals through."""
    failures: list[BaseException] = []

    def call() -> None:
        try:
            function()
        except BaseException as error:
            failures.append(error)

    waiting = threading.Thread(target=call, daemon=True)
    waiting.start()
    while waiting.is_alive():
        waiting.join(0.1)
    if failures:
        raise failures[0]


def _reason(error: Exception) -> str:
    """What went wrong, without where in a library's source, and without its advice.

    Examples
    --------
    >>> _reason(RuntimeError("[/x/pair.cc:561] Connection closed by peer [10.0.0.1]:88. This is typical."))
    'Connection closed by peer [10.0.0.1]:88'
    """
    last = (str(error).strip().splitlines() or ["no reason given"])[-1].strip()
    return re.sub(r"^\[[^]]*\] *", "", last).partition(". ")[0] or last
