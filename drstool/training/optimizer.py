"""The optimizer of a recipe."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["build_optimizer"]


def build_optimizer(groups: list[dict[str, Any]], recipe: Any, *, nesterov: bool = False) -> torch.optim.Optimizer:
    """The optimizer of parameter groups.

    Parameters
    ----------
    groups
        Each with its learning rate.
    recipe
        An :class:`drstool.recipe.Optimization` with ``lr`` and ``weight_decay``.
    nesterov
        Whether the momentum of SGD is Nesterov's.
    """
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            groups, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay,
            nesterov=nesterov and recipe.momentum > 0)
    kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=recipe.lr, weight_decay=recipe.weight_decay)
