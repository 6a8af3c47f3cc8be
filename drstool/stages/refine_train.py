"""``refine-train``: a refinement network that regresses localization maps from images."""

from __future__ import annotations

from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import numpy as np
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
from drstool.reports.learning import about_data, regression_verdict
from drstool.training.loop import RunConfig, fit
from drstool.training.meters import SumMeter
from drstool.training.optimizer import build_optimizer
from drstool.training.schedule import Plan, learning_rate_schedule, recorded

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

    plan = Plan(len(dataset), recipe.epochs, recipe.batch_size, config.seed).at_least(recipe.min_steps)
    samples = RefinerSamples(dataset, maps, recipe, config.seed)
    if plan.total_steps and config.team.is_first:
        config.observer.notice(*about_data(plan, recipe, samples.present(), class_names, "no map"))

    def snapshot() -> Checkpoint:
        return Checkpoint("refiner", class_names, architecture, recorded(recipe, plan), model.state_dict())

    loss = _MapLoss(_loss_of_means)
    report = fit(
        model, loss, samples,
        build_optimizer(parameter_groups(model, pretrained, recipe), recipe),
        learning_rate_schedule(recipe, plan), plan, config, snapshot=snapshot, clip_norm=recipe.clip_norm,
        meter=loss)
    if report is not None and report.metrics:
        config.observer.notice(regression_verdict(
            report.loss, report.metrics["baseline"], "each class's mean value",
            "more --epochs, --init with the classifier, or a higher --new-lr-factor"))
    return with_selection(snapshot(), report)


def _loss(model: nn.Module, batch: list[Tensor]) -> Tensor:
    images, targets = batch
    maps = F.interpolate(
        model(normalize(images)).float(), size=images.shape[2:], mode="bilinear", align_corners=True)
    return F.mse_loss(maps, targets.float() / 255)


class _MapLoss(SumMeter):
    """Loss of a batch, of whose targets the sums are kept that :func:`_loss_of_means` needs."""

    def __call__(self, model: nn.Module, batch: list[Tensor]) -> Tensor:
        targets = batch[1].float() / 255
        count = targets.new_tensor([targets[:, 0].numel()])
        self.add(torch.cat([count, targets.sum(dim=(0, 2, 3)), (targets**2).sum(dim=(0, 2, 3))]))
        return _loss(model, batch)


def _loss_of_means(sums: np.ndarray) -> dict[str, float]:
    """The loss of predicting each class's mean value everywhere; from number of pixels, sums and sums of squares."""
    means, squares = np.split(sums[1:] / sums[0], 2)
    return {"baseline": float((squares - means**2).mean())}


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
