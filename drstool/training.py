"""The one training loop: order of images, precision, schedule, losses.

Whatever is random about image *i* in epoch *e* comes from a generator seeded by (seed, e, i), and
the order from (seed, e), so a run does not depend on the number of workers.
"""

from __future__ import annotations

import contextlib
import math
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from drstool.errors import DrstoolError, UsageError
from drstool.parallel import Track, untracked

__all__ = [
    "EpochReport",
    "Plan",
    "Samples",
    "fit",
    "pick_device",
    "pick_precision",
    "poly_factor",
    "seed_everything",
    "step_factor",
]


class Samples(Protocol):
    """Training images by (epoch, index); the result's first element is the image's id."""

    def __len__(self) -> int: ...
    def __getitem__(self, key: tuple[int, int]) -> tuple[str, Any]: ...


@dataclass(frozen=True)
class Plan:
    """How long and in what portions to train.

    Attributes
    ----------
    epochs
        Passes over the images; a part of one counts as one.
    batch_size
        Images a step.
    seed
        Of order and augmentation.
    steps
        Stop after so many; 0: after the epochs.
    drop_last
        Leave out a last batch that is not full (batch norm cannot take a single image).
    """

    epochs: int
    batch_size: int
    seed: int
    steps: int = 0
    drop_last: bool = False

    def steps_per_epoch(self, count: int) -> int:
        """Steps in one pass over ``count`` images."""
        full, rest = divmod(count, self.batch_size)
        return full if self.drop_last and full else full + bool(rest)

    def total_steps(self, count: int) -> int:
        """Steps of the whole run."""
        return self.steps or self.epochs * self.steps_per_epoch(count)


@dataclass(frozen=True)
class EpochReport:
    """One epoch's outcome.

    Attributes
    ----------
    epoch
        From 1.
    epochs
        Of the whole run.
    loss
        Mean over the epoch's images.
    step
        Steps done so far.
    score
        Of the network after it, where epochs are chosen by score.
    """

    epoch: int
    epochs: int
    loss: float
    step: int
    score: float | None = None


class _Batches:
    """Batches of (epoch, index) keys for a whole run: a PyTorch batch sampler."""

    def __init__(self, count: int, plan: Plan) -> None:
        self._count, self._plan = count, plan

    def __len__(self) -> int:
        return self._plan.total_steps(self._count)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        size, per_epoch = self._plan.batch_size, self._plan.steps_per_epoch(self._count)
        for step in range(len(self)):
            epoch, position = divmod(step, per_epoch)
            if position == 0:
                order = np.random.default_rng([self._plan.seed, epoch]).permutation(self._count)
            yield [(epoch, int(i)) for i in order[position * size : (position + 1) * size]]


def fit(
    model: nn.Module,
    loss_of: Callable[[nn.Module, Sequence[Any]], Tensor],
    samples: Samples,
    optimizer: torch.optim.Optimizer,
    factor: Callable[[int, int], float],
    plan: Plan,
    *,
    device: torch.device,
    precision: str = "float32",
    workers: int = 0,
    on_epoch: Callable[[EpochReport], None] | None = None,
    score: Callable[[], float] | None = None,
    track: Track = untracked,
) -> EpochReport | None:
    """Train the model in place; the report of the epoch whose weights it ends with.

    That is the last epoch (None: there was none), or with ``score`` the first of the best.

    Parameters
    ----------
    model
    loss_of
        Loss of a collated batch (without the ids), a scalar.
    samples
    optimizer
    factor
        What the initial learning rates are multiplied by at a step, from (step, epoch), both from 0.
    plan
    device
    precision
        ``float32`` or ``bfloat16`` (autocast; the weights stay float32).
    workers
        Processes that read images; 0 reads between the steps.
    on_epoch
        Called after each epoch.
    score
        Scores the network after each epoch; higher is better.
    track
        Progress of the steps.

    Raises
    ------
    DrstoolError
        The loss is not finite: names step and images.
    """
    model.to(device)
    if device.type != "cuda" or precision == "bfloat16":
        model.to(memory_format=torch.channels_last)
    model.train()
    rates = [group["lr"] for group in optimizer.param_groups]
    total, per_epoch = plan.total_steps(len(samples)), plan.steps_per_epoch(len(samples))
    if not total:
        return None
    loader = torch.utils.data.DataLoader(
        _Telling(samples),
        batch_sampler=_Batches(len(samples), plan),
        num_workers=workers,
        collate_fn=_collated,
        pin_memory=device.type == "cuda",
        worker_init_fn=_one_thread,
    )
    watch, kept = _LossWatch(), _Kept()
    with _stopping_workers(loader) as batches:
        for step, loaded in enumerate(track(batches, "training", total)):
            if isinstance(loaded, DrstoolError):
                raise loaded
            ids, *batch = loaded
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor(step, step // per_epoch)
            batch = [tensor.to(device, non_blocking=True) for tensor in batch]
            with autocast(device, precision):
                loss = loss_of(model, batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            watch.add(step, ids, loss.detach())
            if (step + 1) % per_epoch == 0 or step + 1 == total:
                report = EpochReport(
                    step // per_epoch + 1, math.ceil(total / per_epoch), watch.close(), step + 1, _scored(model, score)
                )
                if on_epoch is not None:
                    on_epoch(report)
                kept.offer(model, report)
    model.eval()
    return kept.restore(model)


def _scored(model: nn.Module, score: Callable[[], float] | None) -> float | None:
    if score is None:
        return None
    model.eval()
    value = score()
    model.train()
    return value


class _Kept:
    """The epoch to end with: the last one, or the first of those with the highest score."""

    def __init__(self) -> None:
        self._report: EpochReport | None = None
        self._weights: dict[str, Tensor] | None = None

    def offer(self, model: nn.Module, report: EpochReport) -> None:
        if report.score is None:
            self._report = report
        elif self._report is None or report.score > self._report.score:  # type: ignore[operator]
            self._report = report
            self._weights = {name: value.detach().clone() for name, value in model.state_dict().items()}

    def restore(self, model: nn.Module) -> EpochReport | None:
        if self._weights is not None:
            model.load_state_dict(self._weights)
        return self._report


class _LossWatch:
    """Mean loss, and a stop where one is not finite; asks the device only now and then."""

    _EVERY = 20

    def __init__(self) -> None:
        self._waiting: list[tuple[int, Sequence[str], Tensor]] = []
        self._sum, self._images = 0.0, 0

    def add(self, step: int, ids: Sequence[str], loss: Tensor) -> None:
        self._waiting.append((step, ids, loss))
        if len(self._waiting) >= self._EVERY:
            self._look()

    def close(self) -> float:
        """The mean over the images since the last call."""
        self._look()
        mean, self._sum, self._images = self._sum / self._images, 0.0, 0
        return mean

    def _look(self) -> None:
        if not self._waiting:
            return
        for (step, ids, _), loss in zip(
            self._waiting, torch.stack([entry[2] for entry in self._waiting]).tolist(), strict=True
        ):
            if not math.isfinite(loss):
                raise DrstoolError(
                    "training",
                    f"the loss is {loss} at step {step + 1} (images {', '.join(ids)})",
                    "a lower --lr, or --precision float32",
                )
            self._sum += loss * len(ids)
            self._images += len(ids)
        self._waiting.clear()


@contextlib.contextmanager
def _stopping_workers(loader: torch.utils.data.DataLoader) -> Iterator[Iterable]:
    """The loader's batches; its worker processes end with the block, also after an error."""
    batches = iter(loader)
    try:
        yield batches
    finally:
        shutdown = getattr(batches, "_shutdown_workers", None)
        if shutdown is not None:
            shutdown()


class _Telling:
    """Samples whose errors are told as values: torch would make tracebacks of those of its workers."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def __getitem__(self, key: tuple[int, int]) -> tuple[str, Any] | DrstoolError:
        try:
            return self._samples[key]
        except DrstoolError as error:
            return error


def _collated(samples: list) -> list | DrstoolError:
    error = next((sample for sample in samples if isinstance(sample, DrstoolError)), None)
    return error if error is not None else torch.utils.data.default_collate(samples)


def _one_thread(worker: int) -> None:
    # Ctrl-C reaches every process of the terminal; the one that trains ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """Context in which matrix products run in ``precision``."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def step_factor(decay_epochs: Sequence[int], decay_factor: float) -> Callable[[int, int], float]:
    """Schedule that falls by a factor at the start of the given epochs, counted from 1.

    Examples
    --------
    >>> factor = step_factor((5, 10), 0.1)
    >>> [factor(0, epoch) for epoch in (3, 4, 8)]
    [1.0, 0.1, 0.1]
    """
    return lambda step, epoch: float(decay_factor ** sum(epoch + 1 >= decay for decay in decay_epochs))


def poly_factor(total: int, power: float, floor: float) -> Callable[[int, int], float]:
    """Poly schedule ``(1 - step / total) ** power``, not below ``floor``.

    Examples
    --------
    >>> factor = poly_factor(100, 0.9, 0.0)
    >>> round(factor(50, 0), 4)
    0.5359
    """
    return lambda step, epoch: max((1 - step / total) ** power, floor)


def pick_device(name: str) -> torch.device:
    """The device under its name; ``auto`` is the first GPU where there is one.

    Raises
    ------
    UsageError
        There is no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError("--device", f"{name!r} names no device", "auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError("--device", f"{name!r} is not supported", "auto, cpu, cuda or cuda:N")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UsageError("--device", "no CUDA device is available here", "--device cpu, or auto")
        if device.index is not None and device.index >= torch.cuda.device_count():
            raise UsageError(
                "--device", f"there is no {name}", f"this machine has {torch.cuda.device_count()} CUDA device(s)"
            )
    return device


def pick_precision(name: str, device: torch.device) -> str:
    """``float32`` or ``bfloat16``; ``auto`` is bfloat16 where the device multiplies it natively.

    Raises
    ------
    UsageError
        Another name.
    """
    if name == "auto":
        if device.type == "cuda":
            return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
        return "bfloat16" if torch.backends.cpu.get_cpu_capability() == "AMX" or _has_amx() else "float32"
    if name not in ("float32", "bfloat16"):
        raise UsageError("--precision", f"{name!r} is no choice", "auto, float32 or bfloat16")
    return name


def _has_amx() -> bool:
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(supported and supported())


def seed_everything(seed: int) -> None:
    """Make initialisation and dropout repeatable."""
    torch.manual_seed(seed)
