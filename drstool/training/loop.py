"""The one training loop: order of images, precision, schedule, losses.

Whatever is random about image *i* in epoch *e* comes from a generator seeded by (seed, e, i), and
the order from (seed, e), so a run does not depend on the number of workers. What else the next step
depends on is the loop's state, which can be kept between two steps and taken up again.
"""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from drstool.errors import DrstoolError, InputError, ToldElsewhere, UsageError
from drstool.models.convolution import training_layout
from drstool.parallel import Track, untracked
from drstool.training.stop import Shield
from drstool.training.workers import Telling, begin_worker, collated, from_workers, stopping_workers

if TYPE_CHECKING:
    from drstool.training.distributed import Team

__all__ = [
    "Diverged",
    "EpochReport",
    "Keeper",
    "Observer",
    "Plan",
    "Samples",
    "StepReport",
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

    def id_of(self, index: int) -> str:
        """The id of an image; asked for by trainings of several processes only."""


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


@dataclass(frozen=True)
class StepReport:
    """Some steps' outcome: told after every tenth step and after an epoch's last.

    Attributes
    ----------
    step
        Steps done so far.
    epoch
        From 1.
    loss
        Mean over the images since the last report, in whatever sitting that was.
    lr
        Learning rate of the last step: of parameters whose rate is not multiplied by something.
    images
        Seen since the last report of this sitting.
    """

    step: int
    epoch: int
    loss: float
    lr: float
    images: int


class Observer(Protocol):
    """Who wants to know how a training goes on."""

    def begins(self, step: int, steps: int, epochs: int) -> None:
        """The steps begin, after so many of so many steps and so many finished epochs."""

    def stepped(self, report: StepReport) -> None:
        """Some steps were done."""


class Keeper(Protocol):
    """Where the state of a run lies between two sittings."""

    def load(self) -> Mapping[str, Any] | None:
        """The state kept last, tensors on the CPU; None: the run begins."""

    def save(self, state: Mapping[str, Any]) -> None:
        """Keep a state in place of the one before: plain values and tensors, gone over at once."""


class Diverged(DrstoolError):
    """The loss, or a weight, is no finite number any more."""


class _Batches:
    """Batches of (epoch, index) keys from a step on to the run's end: a PyTorch batch sampler.

    Parameters
    ----------
    count
        Of the images.
    plan
    start
        Steps done already.
    share
        Which of so many keys of a batch are wanted; at least one of them comes in any case.
    """

    def __init__(
        self, count: int, plan: Plan, start: int = 0, share: Callable[[int], slice] = lambda count: slice(count),
    ) -> None:
        self._count, self._plan, self._start, self._share = count, plan, start, share

    def __len__(self) -> int:
        return self._plan.total_steps(self._count) - self._start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        size, per_epoch = self._plan.batch_size, self._plan.steps_per_epoch(self._count)
        order = None
        for step in range(self._start, self._plan.total_steps(self._count)):
            epoch, position = divmod(step, per_epoch)
            if position == 0 or order is None:
                order = np.random.default_rng([self._plan.seed, epoch]).permutation(self._count)
            batch = [(epoch, int(i)) for i in order[position * size : (position + 1) * size]]
            # Who has nothing to do at a step still wants to know what images look like.
            yield batch[self._share(len(batch))] or batch[:1]


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
    observer: Observer | None = None,
    score: Callable[[], float] | None = None,
    track: Track = untracked,
    keeper: Keeper | None = None,
    team: Team | None = None,
    weight_of: Callable[[Sequence[Any]], Tensor] | None = None,
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
        Called after each epoch; of a run that goes on, after those that were not finished.
    observer
        Told of the steps in between.
    score
        Scores the network after each epoch; higher is better. It draws no random number of the run's.
    track
        Progress of the steps.
    keeper
        Keeps the loop's state now and then, and when anything but a loss that is not finite ends the
        run between two steps; a state that it has is taken up. Ctrl-C and SIGTERM, where they raise
        something, wait for the end of a step.
    team
        The processes that train together, this one among them. Only the first one's ``on_epoch``,
        ``observer``, ``score``, ``track`` and ``keeper`` are asked. They end after the same step, whatever ends
        one of them.
    weight_of
        Of what the loss of a batch is the mean, the number, () int64; by default of images. Where
        processes have different numbers, theirs weighs as much.

    Raises
    ------
    Diverged
        The loss is not finite: names step and images. What the keeper has is from before.
    UsageError
        There are more processes than images a step.
    ToldElsewhere
        Another process of the team ended the training.
    ProcessLost
        Another process of the team was lost.

    Notes
    -----
    On the CPU a run that was interrupted and went on ends with the same weights, bit by bit, as one
    that was not. Several processes take the same steps as one: their weights differ from its only as
    sums do whose terms are added in another order. (On GPUs dropout draws other numbers.)
    """
    if team is not None:
        team.muster(device, _too_few(plan, team))
        if not team.is_first:
            on_epoch, observer, track, keeper = None, None, untracked, None
    model.to(device)
    model.to(memory_format=training_layout(model, device, precision))
    model.train()
    total, per_epoch = plan.total_steps(len(samples)), plan.steps_per_epoch(len(samples))
    if not total:
        if observer is not None:
            observer.begins(0, 0, 0)
        return None
    # Of the run's beginning: a state taken up brings the rates of its last step.
    rates = [group["lr"] for group in optimizer.param_groups]
    loop = _Loop(model, optimizer, device)
    state = keeper.load() if keeper is not None else None
    network = model
    if team is not None:
        state = team.state_from_first(state)
    if state is not None:
        with _told_once(team, InputError):
            loop.take_up(state)
    if team is not None:
        network = team.wrapped(model, device)
    if observer is not None:
        observer.begins(loop.step, total, len(loop.reports))
    saver = _Saver(keeper, loop)
    share = _Share(team, samples, plan, loop.step, weight_of)
    loader = torch.utils.data.DataLoader(
        Telling(samples),
        batch_sampler=share.batches,
        num_workers=workers,
        collate_fn=collated,
        pin_memory=device.type == "cuda",
        worker_init_fn=begin_worker,
    )
    with stopping_workers(loader) as batches, Shield(team is not None) as shield, saver.at_the_end(shield), \
            _told_once(team, Diverged):
        if state is not None:
            # The loader drew a number for its workers.
            loop.take_up_random(state)
        coming = iter(track(from_workers(batches), "training", total - loop.step))
        while True:
            if loop.step and loop.epoch_is_open and (loop.step % per_epoch == 0 or loop.step == total):
                value = _scored_for_all(team, model, score, device, shield)
                with shield.closed():
                    report = loop.close_epoch(math.ceil(loop.step / per_epoch), math.ceil(total / per_epoch), value)
                    if on_epoch is not None:
                        on_epoch(report)
                if loop.step < total and team is None:
                    saver.epoch_ended()
            if loop.step == total:
                if team is not None:
                    _meet(team, shield)
                break
            if team is None:
                loaded = next(coming)
            else:
                loaded = _loaded_by_all(team, coming, shield, saver, loop.step % per_epoch == 0)
            if isinstance(loaded, DrstoolError):
                raise loaded
            with shield.closed(), contextlib.nullcontext() if team is None else team.listening():
                ids, batch = share.of(loaded)
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * factor(loop.step, loop.step // per_epoch)
                batch = [tensor.to(device, non_blocking=True) for tensor in batch]
                with autocast(device, precision):
                    loss = loss_of(network, batch)
                optimizer.zero_grad(set_to_none=True)
                loss = share.backward(loss, batch)
                optimizer.step()
                loop.count(ids, loss)
                if loop.step % _LossWatch.EVERY == 0 or loop.step % per_epoch == 0 or loop.step == total:
                    lr = optimizer.defaults["lr"] * factor(loop.step - 1, (loop.step - 1) // per_epoch)
                    report = loop.recent((loop.step - 1) // per_epoch + 1, lr)
                    if observer is not None:
                        observer.stepped(report)
            if team is None:
                saver.stepped()
        # Ends what shows progress.
        next(coming, None)
    model.eval()
    return loop.kept.restore(model)


def _too_few(plan: Plan, team: Team) -> UsageError | None:
    if plan.batch_size >= team.size:
        return None
    return UsageError(
        "--batch-size", f"{plan.batch_size} images a step cannot be divided over {team.size} processes",
        f"{team.size} or more (a batch k times as large wants about k times the --lr), or fewer processes")


class _Share:
    """What this process does of each step: all of it, or a team's part.

    Attributes
    ----------
    batches
        Of the images that it reads.
    """

    def __init__(
        self, team: Team | None, samples: Samples, plan: Plan, start: int,
        weight_of: Callable[[Sequence[Any]], Tensor] | None,
    ) -> None:
        self._team, self._samples, self._weight_of = team, samples, weight_of
        self._whole = iter(_Batches(len(samples), plan, start))
        self.batches = _Batches(len(samples), plan, start)
        if team is not None:
            self.batches = _Batches(len(samples), plan, start, team.share)

    def of(self, loaded: Sequence[Any]) -> tuple[Sequence[str], list[Tensor]]:
        """Ids of all images of the step, and the batch of those that are this process's, perhaps none."""
        ids, *batch = loaded
        if self._team is None:
            return ids, batch
        keys = next(self._whole)
        rows = self._team.take(len(keys))
        return [self._samples.id_of(index) for _, index in keys], [part[:rows.stop - rows.start] for part in batch]

    def backward(self, loss: Tensor, batch: Sequence[Tensor]) -> Tensor:
        """The loss of all images of the step, whose gradients the parameters have now."""
        if self._team is None:
            loss.backward()
            return loss.detach()
        addend = self._team.addend(loss, None if self._weight_of is None else self._weight_of(batch))
        # Gradients are averaged over the processes, and wanted is their sum.
        (addend * self._team.size).backward()
        return self._team.total(addend.detach())


def _told_once(team: Team | None, *kinds: type[DrstoolError]) -> contextlib.AbstractContextManager:
    return contextlib.nullcontext() if team is None else team.told_once(*kinds)


def _loaded_by_all(team: Team, coming: Iterator, shield: Shield, saver: _Saver, epoch_ended: bool) -> Any:
    """The next batch, after the team has agreed to go on: what ends one ends all, between two steps."""
    failure: Exception | None = None
    loaded = None
    try:
        shield.news()
        loaded = next(coming)
    except Exception as error:
        failure = error
        # That a worker is dead comes before what came of it.
        try:
            shield.news()
        except RuntimeError as news:
            failure = news
    if isinstance(loaded, DrstoolError):
        failure = loaded
    if _meet(team, shield, failure, saver.is_due(epoch_ended)):
        saver.save()
    return loaded


def _meet(team: Team, shield: Shield, failure: Exception | None = None, due: bool = False) -> bool:
    """Raise what is to end the team's training, if anything; else whether its state is to be kept now."""
    code = 0 if failure is None else getattr(failure, "exit_code", 1)
    # Of several that failed, perhaps in the same way, the first one tells.
    stop, code, speaker, keep = team.meet(
        shield.wanted, code, 0 if failure is None else team.size - team.rank, due)
    if failure is not None and speaker == team.size - team.rank:
        raise failure
    if code:
        raise ToldElsewhere(code)
    if stop:
        shield.stop(stop)
    return bool(keep)


def _scored_for_all(
    team: Team | None, model: nn.Module, score: Callable[[], float] | None, device: torch.device, shield: Shield,
) -> float | None:
    """The first process's score, for all; what ends its scoring ends all."""
    if team is None or score is None:
        return _scored(model, score, device)
    if not team.is_first:
        stop, code, value = team.from_first(None)
        if code:
            raise ToldElsewhere(code)
        if stop:
            shield.stop(stop)
        return value
    try:
        with shield.opened():
            value = _scored(model, score, device)
    except BaseException as error:
        stop, code = 0, getattr(error, "exit_code", 1)
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            stop, code = shield.last or int(signal.SIGTERM), 0
        team.from_first([stop, code, None])
        raise
    team.from_first([0, 0, value])
    return value


class _Loop:
    """What the next step depends on, besides data and settings: all of it can be kept and taken up.

    Attributes
    ----------
    step
        Steps done. Epoch and position in it, and so the order of images and what is random about
        them, follow from it.
    watch
        Losses of the epoch so far.
    kept
        The epoch to end with, and its weights where epochs are chosen by score.
    reports
        Of the epochs that are finished.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        self.model, self.optimizer, self.device = model, optimizer, device
        self.step = 0
        self.watch, self.kept = _LossWatch(), _Kept()
        self.reports: list[EpochReport] = []

    @property
    def epoch_is_open(self) -> bool:
        """Whether there were steps since the last report."""
        return self.step > (self.reports[-1].step if self.reports else 0)

    def count(self, ids: Sequence[str], loss: Tensor) -> None:
        """A step was done."""
        self.watch.add(self.step, ids, loss)
        self.step += 1

    def recent(self, epoch: int, lr: float) -> StepReport:
        """The report of the steps since the last one."""
        loss, images = self.watch.recent()
        return StepReport(self.step, epoch, loss, lr, images)

    def close_epoch(self, epoch: int, epochs: int, score: float | None) -> EpochReport:
        """The report of the epoch that ends here."""
        report = EpochReport(epoch, epochs, self.watch.close(), self.step, score)
        self.reports.append(report)
        self.kept.offer(self.model, report)
        return report

    def state(self) -> dict[str, Any]:
        """All of it as plain values and tensors, which are the loop's own and not copies.

        Raises
        ------
        Diverged
            A loss or a weight is not finite: this is no state to go on from.
        """
        loss_sum, images = self.watch.so_far()
        weights = self.model.state_dict()
        finite = [value.isfinite().all() for value in weights.values() if value.is_floating_point()]
        if finite and not torch.stack(finite).all():
            raise Diverged("training", f"a weight is not finite after step {self.step}", _CALMER)
        return {
            "step": self.step,
            "loss_sum": loss_sum,
            "images": images,
            "recent": self.watch.window,
            "reports": [asdict(report) for report in self.reports],
            "model": weights,
            "optimizer": self.optimizer.state_dict(),
            "best": self.kept.state(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }

    def take_up(self, state: Mapping[str, Any]) -> None:
        """Be where the loop was that gave the state.

        Raises
        ------
        InputError
            It is of another network, or damaged.
        """
        with _damage_told():
            self.step = state["step"]
            loss_sum, images = state.get("recent", (0.0, 0))
            self.watch = _LossWatch(state["loss_sum"], state["images"], (float(loss_sum), int(images)))
            self.reports = [EpochReport(**report) for report in state["reports"]]
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.kept = _Kept(state["best"], self.reports)

    def take_up_random(self, state: Mapping[str, Any]) -> None:
        """Draw the random numbers on from where they were; raises as :meth:`take_up`."""
        with _damage_told():
            torch.set_rng_state(state["random"])
            if state["random_cuda"] is not None and self.device.type == "cuda":
                torch.cuda.set_rng_state(state["random_cuda"], self.device)


@contextlib.contextmanager
def _damage_told() -> Iterator[None]:
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError) as error:
        what = str(error).strip().splitlines()[-1].strip()
        raise InputError(
            "--resume", f"the state kept of this training cannot be taken up: {what}",
            "--overwrite without --resume begins anew") from error


class _Saver:
    """Decides when the loop's state is kept: after each epoch and now and then, and at a bounded cost."""

    # Seconds between two times within an epoch.
    _EVERY = 300.0
    # No more than one part in so many of the time goes into it.
    _SHARE = 20

    def __init__(self, keeper: Keeper | None, loop: _Loop) -> None:
        self._keeper, self._loop = keeper, loop
        self._last, self._took = time.monotonic(), 0.0

    def stepped(self) -> None:
        """A step was done; perhaps keep it."""
        if self.is_due(False):
            self.save()

    def epoch_ended(self) -> None:
        """An epoch was done; perhaps keep it."""
        if self.is_due(True):
            self.save()

    def is_due(self, epoch_ended: bool) -> bool:
        """Whether the state is to be kept, after a step or after an epoch."""
        wait = self._SHARE * self._took if epoch_ended else max(self._EVERY, self._SHARE * self._took)
        return self._keeper is not None and time.monotonic() - self._last >= wait

    @contextlib.contextmanager
    def at_the_end(self, shield: Shield) -> Iterator[None]:
        """Keep the state when something ends the block between two steps."""
        try:
            yield
        except Diverged:
            raise
        except BaseException:
            if self._keeper is not None and not shield.torn and self._loop.step:
                # What ends the run is told; that its state is not to be kept is not.
                with shield.last_words(), contextlib.suppress(Diverged):
                    self.save()
            raise

    def save(self) -> None:
        """Keep the state; without a keeper only look whether there is one to go on from.

        Raises
        ------
        Diverged
            A loss or a weight is not finite.
        """
        started = time.monotonic()
        state = self._loop.state()
        if self._keeper is not None:
            self._keeper.save(state)
        self._last = time.monotonic()
        self._took = self._last - started


def _scored(model: nn.Module, score: Callable[[], float] | None, device: torch.device) -> float | None:
    if score is None:
        return None
    model.eval()
    # Building networks draws random numbers; dropout must not notice.
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        value = score()
    model.train()
    return value


class _Kept:
    """The epoch to end with: the last one, or the first of those with the highest score."""

    def __init__(self, state: Mapping[str, Any] | None = None, reports: Sequence[EpochReport] = ()) -> None:
        self._report: EpochReport | None = reports[-1] if reports else None
        self._weights: Mapping[str, Tensor] | None = None
        if state is not None:
            self._weights = state["weights"]
            self._report = next(report for report in reports if report.epoch == state["epoch"])

    def state(self) -> dict[str, Any] | None:
        """The chosen epoch and its weights; None where none is chosen."""
        if self._weights is None or self._report is None:
            return None
        return {"epoch": self._report.epoch, "weights": self._weights}

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


_CALMER = "a lower --lr, or --precision float32"


class _LossWatch:
    """Mean loss, and a stop where one is not finite; asks the device only now and then."""

    # Steps between two times, counted from the beginning of the run.
    EVERY = 10

    def __init__(self, loss_sum: float = 0.0, images: int = 0, window: tuple[float, int] = (0.0, 0)) -> None:
        self._waiting: list[tuple[int, Sequence[str], Tensor]] = []
        self._sum, self._images = loss_sum, images
        self.window, self._seen = window, 0

    def add(self, step: int, ids: Sequence[str], loss: Tensor) -> None:
        self._waiting.append((step, ids, loss))
        self._seen += len(ids)
        if (step + 1) % self.EVERY == 0:
            self._look()

    def recent(self) -> tuple[float, int]:
        """The mean over the images since the last call, and how many of them this sitting saw."""
        self._look()
        (loss_sum, images), seen = self.window, self._seen
        self.window, self._seen = (0.0, 0), 0
        return loss_sum / images, seen

    def so_far(self) -> tuple[float, int]:
        """The sum over the images since the epoch began, and their number."""
        self._look()
        return self._sum, self._images

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
                raise Diverged(
                    "training", f"the loss is {loss} at step {step + 1} (images {', '.join(ids)})", _CALMER
                )
            self._sum += loss * len(ids)
            self._images += len(ids)
            self.window = self.window[0] + loss * len(ids), self.window[1] + len(ids)
        self._waiting.clear()


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
