"""How long, in what order and at what learning rates a network is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from drstool.recipe import Optimization

__all__ = [
    "Plan", "learning_rate_schedule", "poly_factor", "ramp", "recorded", "step_factor", "stretched", "warmed_up",
]


@dataclass(frozen=True)
class Plan:
    """How many steps, of how many images, in what order.

    Attributes
    ----------
    images
        Number of all images.
    epochs
        Passes over them; a part of one counts as one.
    batch_size
        Images per step.
    seed
        Of the order.
    steps
        Stop after so many; 0: after the epochs.
    drop_last
        Leave out a last batch that is not full (batch norm cannot take a single image).
    raised_from
        The shorter plan that this one was raised from; see :meth:`at_least`.
    """

    images: int
    epochs: int
    batch_size: int
    seed: int
    steps: int = 0
    drop_last: bool = False
    raised_from: Plan | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Steps in one pass over the images."""
        full, rest = divmod(self.images, self.batch_size)
        return full if self.drop_last and full else full + bool(rest)

    @property
    def total_steps(self) -> int:
        """Steps of the whole training."""
        return self.steps or self.epochs * self.steps_per_epoch

    @property
    def total_epochs(self) -> int:
        """Epochs of the whole training, the last one perhaps in part."""
        return self.epoch_of(self.total_steps)

    def epoch_of(self, step: int) -> int:
        """The epoch, from 1, of the last of so many steps."""
        return -(-step // self.steps_per_epoch)

    def ends_epoch(self, step: int) -> bool:
        """Whether an epoch is over after so many steps."""
        return step % self.steps_per_epoch == 0 or step == self.total_steps

    def at_least(self, steps: int) -> Plan:
        """The same plan with as many epochs (or steps, where they are given) as it takes; none stays none."""
        if self.total_steps >= steps or not self.total_steps:
            return self
        if self.steps:
            return replace(self, steps=steps, raised_from=self)
        return replace(self, epochs=-(-steps // self.steps_per_epoch), raised_from=self)

    def order(self, epoch: int) -> list[tuple[int, int]]:
        """Keys of an epoch's images: (epoch, index)."""
        random = np.random.default_rng([self.seed, epoch])
        return [(epoch, i) for i in random.permutation(self.images).tolist()]

    def batches(self, start: int = 0, rows: Callable[[int], slice] = slice) -> Iterator[list[tuple[int, int]]]:
        """Batches of keys (see :meth:`order`) from a step on to the last.

        Parameters
        ----------
        start
            Steps done already.
        rows
            Which of so many keys of a batch are wanted; where none are, the first one comes all the same.
        """
        size, order = self.batch_size, None
        for step in range(start, self.total_steps):
            epoch, position = divmod(step, self.steps_per_epoch)
            if position == 0 or order is None:
                order = self.order(epoch)
            batch = order[position * size : (position + 1) * size]
            # A process with nothing to do in a step still needs to know the shape of an image.
            yield batch[rows(len(batch))] or batch[:1]


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


def warmed_up(factor: Callable[[int, int], float], steps: int) -> Callable[[int, int], float]:
    """A schedule that rises linearly to another one within so many steps.

    Examples
    --------
    >>> factor = warmed_up(step_factor((), 0.1), 4)
    >>> [factor(step, 0) for step in range(6)]
    [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    """
    return lambda step, epoch: factor(step, epoch) * (min(1.0, (step + 1) / steps) if steps else 1.0)


def stretched(epochs: Sequence[int], plan: Plan) -> tuple[int, ...]:
    """Epochs, counted from 1, at whose start as large a part is done of a plan as was before it was raised.

    Examples
    --------
    >>> stretched((5, 10), Plan(300, 15, 3, 0).at_least(6000))
    (17, 37)
    """
    if plan.raised_from is None:
        return tuple(epochs)
    return tuple(1 + round((epoch - 1) * plan.total_steps / plan.raised_from.total_steps) for epoch in epochs)


def learning_rate_schedule(recipe: Optimization, plan: Plan, floor: float = 0.0) -> Callable[[int, int], float]:
    """The schedule of a recipe over the whole of a training.

    Parameters
    ----------
    recipe, plan
    floor
        Below which the poly schedule does not fall, as a factor.
    """
    if recipe.schedule == "poly":
        factor = poly_factor(plan.total_steps or 1, recipe.poly_power, floor)
    else:
        factor = step_factor(stretched(recipe.decay_epochs, plan), recipe.decay_factor)
    return warmed_up(factor, round(recipe.warmup * plan.total_steps))


def recorded(recipe: Optimization, plan: Plan) -> dict[str, Any]:
    """The recipe as a checkpoint keeps it: with the length of the training where that is not the recipe's."""
    if plan.raised_from is None:
        return asdict(recipe)
    return asdict(recipe) | {"trained_epochs": plan.total_epochs, "trained_steps": plan.total_steps}


def ramp(step: int, steps: float) -> float:
    """From 0 at the first step linearly to 1 after so many, and 1 from then on.

    Examples
    --------
    >>> [ramp(step, 4) for step in range(6)]
    [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    """
    return min(1.0, step / steps) if steps else 1.0
