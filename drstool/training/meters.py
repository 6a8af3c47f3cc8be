"""What is measured during an epoch beside the loss, from what the steps compute anyway."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from drstool.metrics import average_precision

__all__ = ["Meter", "SumMeter", "TagMeter", "tag_loss", "tag_metrics"]


class Meter:
    """Measures the steps of an epoch; this one nothing."""

    def measure(self, model: nn.Module) -> dict[str, Any]:
        """Plain values of the steps since the last reset; the model is in evaluation mode."""
        return {}

    def reset(self) -> None:
        """Begin an epoch."""

    def state_dict(self) -> dict[str, Tensor]:
        """What was seen since the last reset, on the CPU."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue after what was seen."""


class SumMeter(Meter):
    """Measures what follows from the sum of something over all steps.

    Parameters
    ----------
    metrics
        Gives plain values from the sum, (K,) float64.
    """

    def __init__(self, metrics: Callable[[np.ndarray], dict[str, Any]]) -> None:
        self._metrics = metrics
        self._sum: Tensor | None = None

    def add(self, values: Tensor) -> None:
        """Add a step's (K,) values."""
        values = values.detach().double()
        self._sum = values if self._sum is None else self._sum.to(values.device) + values

    def measure(self, model: nn.Module) -> dict[str, Any]:
        return {} if self._sum is None else self._metrics(self._sum.cpu().numpy())

    def reset(self) -> None:
        self._sum = None

    def state_dict(self) -> dict[str, Tensor]:
        return {} if self._sum is None else {"sum": self._sum.cpu()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self._sum = state.get("sum")


class TagMeter(Meter):
    """Measures how well an epoch's scores tell tagged images from others.

    Parameters
    ----------
    baseline
        Loss of the tags' frequencies alone.
    validate
        Gives ``(M, C)`` scores and tags of other images.
    """

    def __init__(
        self, baseline: float, validate: Callable[[nn.Module], tuple[Tensor, Tensor]] | None = None
    ) -> None:
        self._baseline, self._validate = baseline, validate
        self._seen: list[tuple[Tensor, Tensor]] = []

    def add(self, scores: Tensor, tags: Tensor) -> None:
        """Add a step's (N, C) scores and tags."""
        self._seen.append((scores.detach(), tags))

    def measure(self, model: nn.Module) -> dict[str, Any]:
        seen = self.state_dict()
        found = {"baseline": self._baseline} | (tag_metrics(seen["scores"], seen["tags"]) if seen else {})
        if self._validate is not None:
            found |= {f"val_{name}": value for name, value in tag_metrics(*self._validate(model)).items()}
        return found

    def reset(self) -> None:
        self._seen = []

    def state_dict(self) -> dict[str, Tensor]:
        if not self._seen:
            return {}
        # What was loaded lies on the CPU.
        device = self._seen[-1][0].device
        scores, tags = (torch.cat([part.to(device) for part in parts]) for parts in zip(*self._seen, strict=True))
        self._seen = [(scores, tags)]
        return {"scores": scores.cpu(), "tags": tags.cpu()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self._seen = [(state["scores"], state["tags"])] if state else []


def tag_metrics(scores: Tensor, tags: Tensor) -> dict[str, Any]:
    """Average precision of each class, and the mean over those that an image has; None for what is not defined.

    Parameters
    ----------
    scores, tags : (M, C)
    """
    present = tags.numpy() > 0
    precision = average_precision(scores.numpy(), present)
    known = precision[~np.isnan(precision)]
    return {
        "ap": [None if np.isnan(value) else float(value) for value in precision],
        "map": float(known.mean()) if len(known) else None,
        "positives": present.sum(axis=0).tolist(), "images": len(present)}


def tag_loss(frequencies: np.ndarray) -> float:
    """Multi-label soft margin loss of predicting, for every image, each class with its frequency.

    That is the mean over the classes of the entropy of a tag. No prediction that is the same for all images does
    better.

    Parameters
    ----------
    frequencies : (C,) float in [0, 1]

    Examples
    --------
    >>> round(tag_loss(np.array([0.5, 0.0, 1.0])), 4)
    0.231
    """
    both = np.stack([frequencies, 1 - frequencies])
    return float(-(both * np.log(np.where(both > 0, both, 1))).sum(axis=0).mean())
