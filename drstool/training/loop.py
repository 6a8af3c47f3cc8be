"""The one training loop.

Whatever is random about image *i* in epoch *e* comes from a generator seeded by (seed, e, i), and
what comes in what order from (seed, e), so a training does not depend on the number of workers. What else the next
step depends on is the training's state, which can be saved between two steps and loaded again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from drstool.errors import UsageError
from drstool.models.convolution import training_layout
from drstool.models.depthwise import use_fast_gradients
from drstool.models.folding import fold_frozen_norm
from drstool.training.device import autocast
from drstool.training.distributed import Team
from drstool.training.meters import Meter
from drstool.training.reports import EpochReport, Observer
from drstool.training.schedule import Plan
from drstool.training.state import Checkpointer, Saver, TrainState
from drstool.training.stop import Stop
from drstool.training.workers import load_batches

__all__ = ["RunConfig", "fit"]

# Steps between two reports, counted from the beginning of the training.
_REPORT_EVERY = 10


@dataclass(frozen=True)
class RunConfig:
    """How a training runs, whatever is trained.

    Attributes
    ----------
    seed
        Of initialisation, order and augmentation.
    device, precision
        ``float32`` or ``bfloat16`` (autocast; the weights stay float32).
    workers
        Processes that read images; 0 reads between the steps.
    team
        The processes that train together. Only the first one's observer, selection and checkpointer are asked.
    observer
        Follows the training.
    select
        Scores the network after each epoch, higher is better; the result is then the best epoch, not the last. It
        draws no random number of the training's.
    checkpointer
        Keeps the training's state, which is saved now and then, and when anything but a loss that is not finite
        ends the run between two steps; a state that it has is resumed.
    """

    seed: int = 0
    device: torch.device = torch.device("cpu")
    precision: str = "float32"
    workers: int = 0
    team: Team = field(default_factory=Team)
    observer: Observer = field(default_factory=Observer)
    select: Callable[[Any], float] | None = None
    checkpointer: Checkpointer | None = None


def _count_images(batch: Sequence[Tensor]) -> Tensor:
    # Unlike torch.tensor, this does not wait for a GPU.
    return batch[0].new_full((), len(batch[0]), dtype=torch.int64)


def fit(
    model: nn.Module, loss_of: Callable[[nn.Module, Any], Tensor], samples: Any,
    optimizer: torch.optim.Optimizer, factor: Callable[[int, int], float], plan: Plan, config: RunConfig, *,
    snapshot: Callable[[], Any] = lambda: None, weight_of: Callable[[Sequence[Tensor]], Tensor] = _count_images,
    before_step: Callable[[int], None] = lambda step: None, clip_norm: float = 0.0, meter: Meter | None = None,
) -> EpochReport | None:
    """Train the model in place; the report of the epoch whose weights it ends with.

    That is the last epoch (None: there was none), or where epochs are selected the first of the best.

    Parameters
    ----------
    model
    loss_of
        Loss of a collated batch (without the ids), a scalar.
    samples
        By key (see :meth:`Plan.order`), each a tuple of the image's id and tensors; ``id_of(index)`` gives the id
        without reading it.
    optimizer
    factor
        What the initial learning rates are multiplied by at a step, from (step, epoch), both from 0.
    plan
    config
    snapshot
        The network as it is, as the configuration's selection and checkpointer want it.
    weight_of
        Number of what the loss of a batch is the mean of, () int64; by default of images.
    before_step
        Called before each step with the number of steps done.
    clip_norm
        Largest norm of the gradients of all parameters together, averaged over the team; 0: no limit.
    meter
        Measures what the epochs' reports tell beside the loss; of a team the first process's share of the images.

    Raises
    ------
    Diverged
        The loss is not finite: names step and images. The state that was saved is from before.
    UsageError
        There are more processes than images per step.
    ReportedByPeer, ProcessLost
        Another process of the team ended the training, or was lost.

    Notes
    -----
    On the CPU a training that was interrupted and resumed ends with the same weights, bit by bit, as one that was
    not. Several processes take the same steps as one, with the same images. On GPUs their weights differ from its
    only as sums do whose terms are added in another order, and by the random numbers of dropout; on CPUs batch norm
    sees the images of its own process only.
    """
    team, device, total = config.team, config.device, plan.total_steps
    observer, checkpointer = (config.observer, config.checkpointer) if team.is_first else (Observer(), None)
    team.start(device, _too_few_images(plan, team, device))
    # Each process may have measured another precision to be the fastest.
    config = replace(config, precision=team.broadcast(config.precision))
    _prepare(model, device, config.precision)
    saved = team.broadcast(None if checkpointer is None else checkpointer.load(snapshot()))
    start = 0 if saved is None else saved["step"]
    if not total:
        observer.begins(0, 0, 0)
        return None
    network, rates = team.wrap(model, device), [group["lr"] for group in optimizer.param_groups]
    state = TrainState(model, optimizer, device, samples.id_of, meter)
    saver, all_keys = Saver(checkpointer, state), plan.batches(start)
    with load_batches(samples, plan.batches(start, team.rows), config.workers, device.type == "cuda") as batches, \
            Stop() as stop, saver.final_save(stop):
        # Not before the data loader has drawn a number for its workers: random numbers are resumed too.
        if saved is not None:
            team.agree(state.load_state_dict, saved)
        team.vary_random_numbers()
        observer.begins(start, total, len(state.reports))
        batches = observer.track(batches, total - start)
        while True:
            if plan.ends_epoch(state.step) and state.epoch_is_open:
                found = team.from_first(_evaluate, config.select, snapshot, meter, model, device, stop)
                observer.epoch_ended(state.close_epoch(plan.epoch_of(state.step), plan.total_epochs, *found))
            batch = team.agree(_next_batch, batches, saver, stop)
            if batch is None:
                break
            state.mid_step, keys = True, next(all_keys)
            scale = factor(state.step, state.step // plan.steps_per_epoch)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * scale
            before_step(state.step)
            loss = _backward(network, loss_of, weight_of, optimizer, batch[1:], len(keys), config)
            if clip_norm:
                nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
            optimizer.step()
            state.count(keys, loss)
            if state.step % _REPORT_EVERY == 0 or plan.ends_epoch(state.step):
                lr = optimizer.defaults["lr"] * scale
                observer.stepped(team.agree(state.report_steps, plan.epoch_of(state.step), lr))
    model.eval()
    return state.restore_best()


def _prepare(model: nn.Module, device: torch.device, precision: str) -> None:
    """Change a network in place into what trains fastest on the device."""
    if device.type == "cpu":
        use_fast_gradients(model)
        fold_frozen_norm(model)
    model.to(device).to(memory_format=training_layout(model, device, precision)).train()


def _too_few_images(plan: Plan, team: Team, device: torch.device) -> UsageError | None:
    """What is wrong where a batch cannot be divided over the processes."""
    # On CPUs, batch norm sees the images of its own process only, and a batch that it needs is full.
    least = team.size * (2 if plan.drop_last and device.type == "cpu" and team.size > 1 else 1)
    if plan.batch_size >= least or not plan.total_steps:
        return None
    return UsageError(
        "--batch-size", f"a batch of {plan.batch_size} cannot be divided over {team.size} processes",
        f"give {least} or more (and scale --lr with it), or use fewer processes")


def _backward(
    network: nn.Module, loss_of: Callable[[nn.Module, Any], Tensor],
    weight_of: Callable[[Sequence[Tensor]], Tensor], optimizer: torch.optim.Optimizer, batch: Sequence[Tensor],
    images: int, config: RunConfig,
) -> Tensor:
    """The loss of a step's images, of all processes, whose gradients the network's parameters have now."""
    device, team = config.device, config.team
    rows = team.rows(images)
    batch = [tensor[: rows.stop - rows.start].to(device, non_blocking=True) for tensor in batch]
    with team.watching_peers():
        with autocast(device, config.precision):
            loss = loss_of(network, batch)
        optimizer.zero_grad(set_to_none=True)
        return team.backward(loss, weight_of(batch))


def _next_batch(batches: Iterator[Sequence[Any]], saver: Saver, stop: Stop) -> Sequence[Any] | None:
    """The batch of the next step, or None after the last one; between two steps signals act and the state is saved."""
    with stop.interruptible():
        batch = next(batches, None)
        if batch is not None:
            saver.save_if_due()
        return batch


def _evaluate(
    select: Callable[[Any], float] | None, snapshot: Callable[[], Any], meter: Meter | None, model: nn.Module,
    device: torch.device, stop: Stop,
) -> tuple[float | None, dict[str, Any]]:
    """The score by which epochs are selected, and what the meter has measured of this one."""
    model.eval()
    # Building networks draws random numbers; dropout must not notice.
    with stop.interruptible(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        metrics = {} if meter is None else meter.measure(model)
        score = None if select is None else select(snapshot())
    model.train()
    return score, metrics
