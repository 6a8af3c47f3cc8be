"""``train-cls``: a classification network with DRS, from images and tags."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from drstool.checkpoints.checkpoint import Checkpoint, with_selection
from drstool.data import Dataset, require_tags
from drstool.data.transforms import ClassifierSamples
from drstool.errors import UsageError
from drstool.inference import normalize
from drstool.models.build import build_network, classifier_architecture, load_pretrained
from drstool.models.network import MapNetwork, image_scores
from drstool.recipe import ClassifierRecipe
from drstool.training.loop import RunConfig, fit
from drstool.training.schedule import Plan, step_factor

__all__ = ["parameter_groups", "train_cls"]


def train_cls(
    dataset: Dataset, class_names: tuple[str, ...], recipe: ClassifierRecipe, config: RunConfig, *,
    weights: Mapping[str, Tensor] | None = None, weights_name: str = "--init",
) -> Checkpoint:
    """A trained classifier.

    Parameters
    ----------
    dataset
        Every image has tags.
    class_names
        The C object classes, in label order.
    recipe, config
    weights, weights_name
        To start from (see :func:`drstool.models.build.load_pretrained`), and what to call them.

    Returns
    -------
    Checkpoint
        Of kind ``classifier``, without provenance; the state after the last epoch, or after the
        selected one, which the recipe then names (``selected_epoch``, ``selected_score``).

    Raises
    ------
    UsageError
        A crop larger than the image it is taken from.
    InputError
        An image without a tag or unreadable; weights of another network.

    References
    ----------
    Kim, Han, Kim, AAAI 2021, sections 3.1 and 4.1.
    """
    if recipe.warp_size < recipe.image_size:
        raise UsageError(
            "--resize-size", f"{recipe.warp_size} is below the --image-size {recipe.image_size}",
            "use 0 or at least that size: the crop is taken from the resized image")
    require_tags(dataset)
    torch.manual_seed(config.seed)
    architecture = classifier_architecture(
        recipe.backbone, recipe.head, recipe.output_stride, recipe.suppression, recipe.delta, recipe.drs_layers)
    model, _ = build_network("classifier", architecture, class_names, recipe.extra_init)
    pretrained = load_pretrained(model, weights, weights_name) if weights is not None else frozenset()
    if recipe.freeze_norm:
        model.freeze_norm(pretrained)

    def snapshot() -> Checkpoint:
        return Checkpoint("classifier", class_names, architecture, asdict(recipe), model.state_dict())

    report = fit(
        model, _loss, ClassifierSamples(dataset, class_names, recipe, config.seed),
        _optimizer(parameter_groups(model, recipe, pretrained), recipe),
        step_factor(recipe.decay_epochs, recipe.decay_factor),
        Plan(len(dataset), recipe.epochs, recipe.batch_size, config.seed), config, snapshot=snapshot)
    return with_selection(snapshot(), report)


def _optimizer(groups: list[dict[str, Any]], recipe: ClassifierRecipe) -> torch.optim.Optimizer:
    if recipe.optimizer == "adam":
        return torch.optim.Adam(groups, lr=recipe.lr, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(
        groups, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay,
        nesterov=recipe.momentum > 0)


def _loss(model: nn.Module, batch: list[Tensor]) -> Tensor:
    images, tags = batch
    return F.multilabel_soft_margin_loss(image_scores(model(normalize(images))), tags)


def parameter_groups(
    model: MapNetwork, recipe: ClassifierRecipe, pretrained: Set[str] = frozenset()
) -> list[dict[str, Any]]:
    """Parameters by learning rate: trunk and new ones, each weights and biases; frozen ones are left out.

    DRS controllers count as new weights wherever they stand (authors' code), and so do the layers behind
    the trunk unless they are pretrained.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    head = tuple(f"layers.{i}." for i in range(model.trunk_layers, len(model.layers)))
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        new = ".controller." in name or name.startswith((*head, "output.")) and name not in pretrained
        groups.setdefault((new, name.endswith("bias")), []).append(parameter)
    return [
        {"params": parameters,
         "lr": recipe.lr * (recipe.new_lr_factor if new else 1) * (recipe.bias_lr_factor if bias else 1)}
        for (new, bias), parameters in groups.items()]
