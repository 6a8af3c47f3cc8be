"""``refine-train``: a refinement network that regresses localization maps from images."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from drstool.checkpoints.checkpoint import Checkpoint, with_selection
from drstool.data import Dataset
from drstool.data.transforms import RefinerSamples
from drstool.inference import normalize
from drstool.models.build import build_network, load_pretrained
from drstool.models.network import MapNetwork
from drstool.recipe import RefinerRecipe
from drstool.training.loop import RunConfig, fit
from drstool.training.schedule import Plan, step_factor

__all__ = ["parameter_groups", "refine_train"]


def refine_train(
    dataset: Dataset, class_names: tuple[str, ...], maps: str | Path, recipe: RefinerRecipe, config: RunConfig, *,
    weights: Mapping[str, Tensor] | None = None, weights_name: str = "--init",
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
    recipe, config
    weights, weights_name
        To start from (see :func:`drstool.models.build.load_pretrained`), and what to call them.

    Returns
    -------
    Checkpoint
        Of kind ``refiner``, without provenance; see :func:`drstool.stages.train_cls.train_cls`.

    Raises
    ------
    InputError
        An image has no map or is unreadable; weights of another network.

    References
    ----------
    Kim, Han, Kim, AAAI 2021, section 3.3.
    """
    torch.manual_seed(config.seed)
    described = {"backbone": recipe.backbone, "head": recipe.head, "output_stride": recipe.output_stride}
    model: MapNetwork
    model, _ = build_network("refiner", described, class_names, recipe.extra_init)
    architecture = described | {"head": model.head, "output_stride": model.output_stride}
    pretrained = load_pretrained(model, weights, weights_name) if weights is not None else frozenset()
    if recipe.freeze_norm:
        model.freeze_norm(pretrained)
    if any(name.startswith(f"layers.{len(model.layers) - 1}.") for name in pretrained):
        # The regression is to begin near zero. Behind new layers, N(0, 0.01) does; a trained classifier's
        # features are so much stronger that the loss would begin at several times that of all-zero maps,
        # and a few hundred images end before such noise is unlearned.
        nn.init.zeros_(model.output.weight)

    def snapshot() -> Checkpoint:
        return Checkpoint("refiner", class_names, architecture, asdict(recipe), model.state_dict())

    report = fit(
        model, _loss, RefinerSamples(dataset, maps, recipe, config.seed),
        torch.optim.Adam(parameter_groups(model, pretrained, recipe), lr=recipe.lr),
        step_factor(recipe.decay_epochs, recipe.decay_factor),
        Plan(len(dataset), recipe.epochs, recipe.batch_size, config.seed), config, snapshot=snapshot)
    return with_selection(snapshot(), report)


def _loss(model: nn.Module, batch: list[Tensor]) -> Tensor:
    images, targets = batch
    maps = F.interpolate(
        model(normalize(images)).float(), size=images.shape[2:], mode="bilinear", align_corners=True)
    return F.mse_loss(maps, targets.float() / 255)


def parameter_groups(model: nn.Module, pretrained: Set[str], recipe: RefinerRecipe) -> list[dict[str, Any]]:
    """Parameters by learning rate: those that began as pretrained weights, and the new ones.

    Unlike in ``train-cls``, what is new depends on the start and not on the architecture: a refiner
    that begins as a classifier has its three extra layers trained already. Without pretrained
    weights everything is new. Frozen parameters are left out.
    """
    groups: dict[bool, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(name not in pretrained, []).append(parameter)
    return [
        {"params": parameters, "lr": recipe.lr * (recipe.new_lr_factor if new else 1)}
        for new, parameters in groups.items()]
