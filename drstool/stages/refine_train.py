"""``refine-train``: a refinement network that regresses localization maps from images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from drstool.checkpoints.checkpoint import Checkpoint, with_selection
from drstool.checkpoints.training_state import TrainingState
from drstool.data import Dataset
from drstool.data.transforms import RefinerSamples
from drstool.inference import normalize
from drstool.models.build import build_network, load_pretrained
from drstool.models.vgg import NUM_ACTIVATIONS
from drstool.parallel import Track, untracked
from drstool.recipe import RefinerRecipe
from drstool.training.loop import EpochReport, Observer, Plan, fit, seed_everything, step_factor

if TYPE_CHECKING:
    from drstool.training.distributed import Team

__all__ = ["parameter_groups", "refine_train"]


def refine_train(
    dataset: Dataset,
    class_names: tuple[str, ...],
    maps: str | Path,
    recipe: RefinerRecipe,
    *,
    weights: Mapping[str, Tensor] | None = None,
    weights_name: str = "--init",
    seed: int = 0,
    device: torch.device = torch.device("cpu"),
    precision: str = "float32",
    workers: int = 0,
    on_epoch: Callable[[EpochReport], None] | None = None,
    observer: Observer | None = None,
    select: Callable[[Checkpoint], float] | None = None,
    track: Track = untracked,
    kept: TrainingState | None = None,
    team: Team | None = None,
) -> Checkpoint:
    """A trained refiner.

    Parameters
    ----------
    dataset
        Needs no tags: the maps name the present classes.
    class_names
        Of the maps.
    maps
        A map file with a map for every image.
    recipe, weights, weights_name, seed, device, precision, workers, on_epoch, observer, select, track,
    kept, team
        As in :func:`drstool.stages.train_cls.train_cls`.

    Returns
    -------
    Checkpoint
        Of kind ``refiner``, without provenance.

    Raises
    ------
    InputError
        An image has no map or is unreadable; weights of another network.

    References
    ----------
    Kim, Han, Kim, AAAI 2021, section 3.3.
    """
    seed_everything(seed)
    architecture = {"backbone": recipe.backbone}
    model, trunk = build_network("refiner", architecture, class_names)
    pretrained = load_pretrained(trunk, weights, weights_name) if weights is not None else frozenset()
    if any(name.startswith(f"layers.{NUM_ACTIVATIONS - 1}.") for name in pretrained):
        # The regression is to begin near zero. Behind new layers, N(0, 0.01) does; a trained classifier's
        # features are so much stronger that the loss would begin at several times that of all-zero maps,
        # and a few hundred images end before such noise is unlearned.
        nn.init.zeros_(model.output.weight)

    def made() -> Checkpoint:
        return Checkpoint("refiner", class_names, architecture, asdict(recipe), model.state_dict())

    if kept is not None:
        kept.describe(made())
    report = fit(
        model, _loss, RefinerSamples(dataset, maps, recipe, seed),
        torch.optim.Adam(parameter_groups(model, pretrained, recipe), lr=recipe.lr),
        step_factor(recipe.decay_epochs, recipe.decay_factor),
        Plan(recipe.epochs, recipe.batch_size, seed),
        device=device, precision=precision, workers=workers, on_epoch=on_epoch,
        observer=observer, score=None if select is None else lambda: select(made()), track=track, keeper=kept,
        team=team)
    return with_selection(made(), report)


def _loss(model: nn.Module, batch: list[Tensor]) -> Tensor:
    images, targets = batch
    maps = F.interpolate(
        model(normalize(images)).float(), size=images.shape[2:], mode="bilinear", align_corners=True)
    return F.mse_loss(maps, targets.float() / 255)


def parameter_groups(model: nn.Module, pretrained: Set[str], recipe: RefinerRecipe) -> list[dict[str, Any]]:
    """Parameters by learning rate: those that began as pretrained weights, and the new ones.

    Unlike in ``train-cls``, what is new depends on the start and not on the architecture: a refiner
    that begins as a classifier has its three extra layers trained already. Without pretrained
    weights everything is new.
    """
    groups: dict[bool, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        groups.setdefault(name not in pretrained, []).append(parameter)
    return [
        {"params": parameters, "lr": recipe.lr * (recipe.new_lr_factor if new else 1)}
        for new, parameters in groups.items()]
