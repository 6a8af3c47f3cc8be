"""What a training has come to: all that its next step depends on, and when that is saved."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from drstool.errors import DrstoolError, InputError
from drstool.training.meters import Meter
from drstool.training.reports import EpochReport, StepReport
from drstool.training.stop import Stop

__all__ = ["Checkpointer", "Diverged", "Saver", "TrainState"]

_CALMER = "try a lower --lr, or --precision float32"


class Diverged(DrstoolError):
    """The loss, or a weight, is not a finite number any more."""


class Checkpointer(Protocol):
    """Where the state of a training is kept between two runs."""

    def load(self, network: Any) -> Mapping[str, Any] | None:
        """The state saved last of this network's training, tensors on the CPU; None: it begins."""

    def save(self, state: Mapping[str, Any]) -> None:
        """Save a state in place of the one before: plain values and tensors, which are not kept."""


class TrainState:
    """What the next step depends on, besides data and settings.

    Parameters
    ----------
    model, optimizer, device
    id_of
        The id of an image, for messages.
    meter
        What is measured during an epoch.

    Attributes
    ----------
    step
        Steps done. Epoch and position in it, and so the order of images and what is random about
        them, follow from it.
    mid_step
        The weights are neither those before a step nor those after it.
    reports
        Of the epochs that are finished.
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device,
        id_of: Callable[[int], str] = str, meter: Meter | None = None,
    ) -> None:
        self._meter = meter or Meter()
        self._model, self._optimizer, self._device = model, optimizer, device
        self.step, self.mid_step = 0, False
        self.reports: list[EpochReport] = []
        self._losses = _Losses(id_of)
        # Number and weights of the epoch to end with, where epochs are selected by score.
        self._best: dict[str, Any] | None = None

    @property
    def epoch_is_open(self) -> bool:
        """Whether there were steps since the last epoch was closed."""
        return self.step > (self.reports[-1].step if self.reports else 0)

    def count(self, keys: Sequence[tuple[int, ...]], loss: Tensor) -> None:
        """A step was done, with the images of these keys."""
        self._losses.add(self.step, keys, loss)
        self.step, self.mid_step = self.step + 1, False

    def report_steps(self, epoch: int, lr: float) -> StepReport:
        """The report of the steps since the last one; raises :class:`Diverged`."""
        loss, images = self._losses.close_window()
        return StepReport(self.step, epoch, loss, lr, images)

    def close_epoch(
        self, epoch: int, epochs: int, score: float | None = None, metrics: dict[str, Any] | None = None
    ) -> EpochReport:
        """The report of the epoch that ends here; raises :class:`Diverged`."""
        report = EpochReport(epoch, epochs, self._losses.close_epoch(), self.step, score, metrics or {})
        self._meter.reset()
        if score is not None and (self._best is None or score > self._best_report().score):
            weights = {name: value.detach().clone() for name, value in self._model.state_dict().items()}
            self._best = {"epoch": epoch, "weights": weights}
        self.reports.append(report)
        return report

    def restore_best(self) -> EpochReport | None:
        """Give the model the weights of the epoch to end with; its report. That is the best one, or the last."""
        if self._best is None:
            return self.reports[-1] if self.reports else None
        self._model.load_state_dict(self._best["weights"])
        return self._best_report()

    def _best_report(self) -> Any:
        return {report.epoch: report for report in self.reports}[self._best["epoch"]]  # type: ignore[index]

    def state_dict(self) -> dict[str, Any]:
        """All of it as plain values and tensors, which are not copies.

        Raises
        ------
        Diverged
            A loss or a weight is not finite, so that this state must not be resumed.
        """
        self._losses.read()
        weights = self._model.state_dict()
        finite = [value.isfinite().all() for value in weights.values() if value.is_floating_point()]
        if finite and not torch.stack(finite).all():
            raise Diverged("training", f"a weight is not finite after step {self.step}", _CALMER)
        loss_sum, images = self._losses.epoch
        return {
            "step": self.step,
            "loss_sum": loss_sum,
            "images": images,
            "recent": self._losses.window,
            "meter": self._meter.state_dict(),
            "reports": [asdict(report) for report in self.reports],
            "model": weights,
            "optimizer": self._optimizer.state_dict(),
            "best": self._best,
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(self._device) if self._device.type == "cuda" else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Be as the state was that :meth:`state_dict` gave.

        Raises
        ------
        InputError
            It is of another network, or damaged.
        """
        try:
            loss_sum, images = state.get("recent", (0.0, 0))
            self._losses.epoch = state["loss_sum"], state["images"]
            self._losses.window = float(loss_sum), int(images)
            self._meter.load_state_dict(state.get("meter", {}))
            self.reports = [EpochReport(**report) for report in state["reports"]]
            if state["best"] is not None:
                self._best = {name: state["best"][name] for name in ("epoch", "weights")}
                self._best_report()
            self._model.load_state_dict(state["model"])
            self._optimizer.load_state_dict(state["optimizer"])
            torch.set_rng_state(state["random"])
            if state["random_cuda"] is not None and self._device.type == "cuda":
                torch.cuda.set_rng_state(state["random_cuda"], self._device)
            self.step = state["step"]
        except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError) as error:
            what = str(error).strip().splitlines()[-1].strip()
            raise InputError(
                "--resume", f"the saved state of this training cannot be loaded: {what}",
                "--overwrite without --resume starts from scratch") from error


class Saver:
    """Decides when the state is saved: after each epoch and now and then, and at a bounded cost."""

    # Seconds between two times within an epoch.
    EVERY = 300.0
    # Saving takes at most 1/SHARE of the time.
    SHARE = 20

    def __init__(self, checkpointer: Checkpointer | None, state: TrainState) -> None:
        self._checkpointer, self._state = checkpointer, state
        self._last, self._took = time.monotonic(), 0.0

    def save_if_due(self) -> None:
        """Save the state after a step, if it is time to; raises :class:`Diverged`."""
        wait = max(self.EVERY if self._state.epoch_is_open else 0.0, self.SHARE * self._took)
        if self._state.step and time.monotonic() - self._last >= wait:
            self._save()

    @contextlib.contextmanager
    def final_save(self, stop: Stop) -> Iterator[None]:
        """Save the state when something ends the block between two steps, unless it is a loss that is not finite."""
        try:
            yield
        except Diverged:
            raise
        except BaseException:
            if self._state.step and not self._state.mid_step:
                # What ends the run is reported; that its state is not to be saved is not.
                with stop.final_save(), contextlib.suppress(Diverged):
                    self._save()
            raise

    def _save(self) -> None:
        if self._checkpointer is None:
            return
        started = time.monotonic()
        self._checkpointer.save(self._state.state_dict())
        self._last = time.monotonic()
        self._took = self._last - started


class _Losses:
    """Sums of the losses, which are read from the device only now and then.

    Attributes
    ----------
    epoch, window
        Sum over the images, and their number: since the epoch began, and since the last report.
    """

    def __init__(self, id_of: Callable[[int], str]) -> None:
        self._id_of = id_of
        self.epoch, self.window = (0.0, 0), (0.0, 0)
        self._unread: list[tuple[int, Sequence[tuple[int, ...]], Tensor]] = []
        self._seen = 0

    def add(self, step: int, keys: Sequence[tuple[int, ...]], loss: Tensor) -> None:
        self._unread.append((step, keys, loss))
        self._seen += len(keys)

    def close_window(self) -> tuple[float, int]:
        """The mean over the images since the last call, and how many of them this run saw."""
        self.read()
        (loss_sum, images), seen = self.window, self._seen
        self.window, self._seen = (0.0, 0), 0
        return loss_sum / images, seen

    def close_epoch(self) -> float:
        """The mean over the images since the last call."""
        self.read()
        (loss_sum, images), self.epoch = self.epoch, (0.0, 0)
        return loss_sum / images

    def read(self) -> None:
        """Add up what the device has computed meanwhile; raises :class:`Diverged`."""
        if not self._unread:
            return
        losses = torch.stack([loss for _, _, loss in self._unread]).tolist()
        for (step, keys, _), loss in zip(self._unread, losses, strict=True):
            if not math.isfinite(loss):
                ids = ", ".join(self._id_of(index) for _, index, *_ in keys)
                raise Diverged("training", f"the loss is {loss} at step {step + 1} (images {ids})", _CALMER)
            self.epoch, self.window = (
                (loss_sum + loss * len(keys), images + len(keys)) for loss_sum, images in (self.epoch, self.window))
        self._unread.clear()
