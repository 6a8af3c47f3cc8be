"""How long, in what order and at what learning rates a network is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Plan", "poly_factor", "step_factor"]


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
    """

    images: int
    epochs: int
    batch_size: int
    seed: int
    steps: int = 0
    drop_last: bool = False

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

    def batches(self, start: int = 0, rows: Callable[[int], slice] = slice) -> Iterator[list[tuple[int, int]]]:
        """Batches of (epoch, index) keys from a step on to the last.

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
                order = np.random.default_rng([self.seed, epoch]).permutation(self.images)
            batch = [(epoch, int(i)) for i in order[position * size : (position + 1) * size]]
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
