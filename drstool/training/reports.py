"""What is reported during training, and to whom."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

__all__ = ["EpochReport", "Observer", "StepReport"]


@dataclass(frozen=True)
class EpochReport:
    """One epoch's outcome.

    Attributes
    ----------
    epoch, epochs
        Its number, from 1, and how many the whole training has.
    loss
        Mean over the epoch's images.
    step
        Steps done so far.
    score
        Of the network after the epoch, where the epoch is selected by score.
    metrics
        What else was measured, as plain values: ``baseline``, the loss of the best prediction that is the same for
        all images; for a classifier ``ap`` and ``map``, average precisions of the classes and their mean, and
        ``val_ap`` and ``val_map`` on other images.
    """

    epoch: int
    epochs: int
    loss: float
    step: int
    score: float | None = None
    metrics: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StepReport:
    """The outcome of the steps since the report before: of every tenth step, and of an epoch's last.

    Attributes
    ----------
    step, epoch
        Steps done so far, and the number of the epoch, from 1.
    loss
        Mean over the images since the last report, in whatever run that was.
    lr
        Learning rate of the last step, for parameters without a factor of their own.
    images
        Seen since the last report of this run.
    """

    step: int
    epoch: int
    loss: float
    lr: float
    images: int


class Observer:
    """Follows a training; this one takes no notice."""

    def notice(self, *messages: str) -> None:
        """What the user should know, each in one line."""

    def begins(self, step: int, steps: int, epochs: int) -> None:
        """The steps begin, after so many of so many steps and so many finished epochs."""

    def track(self, steps: Iterable[Any], total: int) -> Iterator[Any]:
        """The remaining steps, perhaps with a display of progress."""
        return iter(steps)

    def stepped(self, report: StepReport) -> None:
        """Some steps were done."""

    def epoch_ended(self, report: EpochReport) -> None:
        """An epoch was done; of a resumed training, one that was not finished before."""
