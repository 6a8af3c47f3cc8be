"""``train-cls``: a classification network with DRS, from images and tags."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from drstool.checkpoints.checkpoint import Checkpoint, with_selection
from drstool.data import Dataset, require_tags
from drstool.data.transforms import ClassifierSamples, tag_vector
from drstool.errors import InputError, UsageError
from drstool.inference import normalize
from drstool.mapping import load_square
from drstool.models.build import build_network, classifier_architecture, load_pretrained
from drstool.models.drs import set_strength
from drstool.models.network import MapNetwork, image_scores
from drstool.parallel import map_items
from drstool.recipe import ClassifierRecipe
from drstool.reports.learning import about_data, about_tags, classifier_verdict
from drstool.training.device import autocast
from drstool.training.loop import RunConfig, fit
from drstool.training.meters import TagMeter, tag_loss
from drstool.training.optimizer import build_optimizer
from drstool.training.schedule import Plan, learning_rate_schedule, ramp, recorded

__all__ = ["parameter_groups", "train_cls"]


def train_cls(
    dataset: Dataset, class_names: tuple[str, ...], recipe: ClassifierRecipe, config: RunConfig, *,
    weights: Mapping[str, Tensor] | None = None, weights_name: str = "--init", val: Dataset | None = None,
) -> Checkpoint:
    """A trained classifier.

    Parameters
    ----------
    dataset
        Every image has tags, and not all have the same.
    class_names
        The C object classes, in label order.
    recipe, config
    weights, weights_name
        To start from (see :func:`drstool.models.build.load_pretrained`), and what to call them.
    val
        Other images with tags, on which each epoch's mAP is reported; they change nothing.

    Returns
    -------
    Checkpoint
        Of kind ``classifier``, without provenance; the state after the last epoch, or after the
        selected one, which the recipe then names (``selected_epoch``, ``selected_score``). Where
        ``min_steps`` made the training longer, the recipe names its ``trained_epochs`` and ``trained_steps``.

    Raises
    ------
    UsageError
        A crop larger than the image it is taken from.
    InputError
        An image without a tag or unreadable; the same tags everywhere; weights of another network.

    References
    ----------
    Kim, Han, Kim, AAAI 2021, sections 3.1 and 4.1.
    """
    if recipe.warp_size < recipe.image_size:
        raise UsageError(
            "--resize-size", f"{recipe.warp_size} is below the --image-size {recipe.image_size}",
            "use 0 or at least that size: the crop is taken from the resized image")
    require_tags(dataset)
    present = _present(dataset, class_names)
    _check_tags_differ(dataset, present, recipe)
    torch.manual_seed(config.seed)
    architecture = classifier_architecture(
        recipe.backbone, recipe.head, recipe.output_stride, recipe.suppression, recipe.delta, recipe.drs_layers)
    model, _ = build_network("classifier", architecture, class_names, recipe.extra_init)
    pretrained = load_pretrained(model, weights, weights_name) if weights is not None else frozenset()
    if recipe.freeze_norm:
        model.freeze_norm(pretrained)
    plan = Plan(len(dataset), recipe.epochs, recipe.batch_size, config.seed).at_least(recipe.min_steps)
    if plan.total_steps:
        config.observer.notice(
            *about_data(plan, recipe, present, class_names), *about_tags(present, class_names, recipe))

    def snapshot() -> Checkpoint:
        return Checkpoint("classifier", class_names, architecture, recorded(recipe, plan), model.state_dict())

    validation = None if val is None else _Validation(val, class_names, recipe, config)
    loss = _TagLoss(tag_loss(present.mean(axis=0)), validation)
    report = fit(
        model, loss, ClassifierSamples(dataset, class_names, recipe, config.seed),
        build_optimizer(parameter_groups(model, recipe, pretrained), recipe, nesterov=True),
        learning_rate_schedule(recipe, plan), plan, config, snapshot=snapshot,
        before_step=lambda step: set_strength(model, ramp(step, recipe.suppression_ramp * plan.total_steps)),
        clip_norm=recipe.clip_norm, meter=loss)
    if report is not None and report.metrics:
        config.observer.notice(*classifier_verdict(report.loss, report.metrics, class_names, recipe))
    return with_selection(snapshot(), report)


def _present(dataset: Dataset, class_names: tuple[str, ...]) -> np.ndarray:
    """Which classes each image has, (M, C) bool."""
    return torch.stack([tag_vector(item, class_names) for item in dataset.items]).numpy() > 0


def _check_tags_differ(dataset: Dataset, present: np.ndarray, recipe: ClassifierRecipe) -> None:
    """Check that there is something to tell apart, if the network is to be trained at all."""
    if recipe.epochs and (present == present[0]).all():
        what = "there is only one image" if len(present) == 1 else f"all {len(present)} images have the same tags"
        raise InputError(
            dataset.source, f"{what}: there is nothing to tell apart",
            "add images with other tags, or without an object")


def _loss(model: Callable[[Tensor], Tensor], batch: list[Tensor]) -> Tensor:
    images, tags = batch
    return F.multilabel_soft_margin_loss(image_scores(model(normalize(images))), tags)


class _TagLoss(TagMeter):
    """Loss of a batch, whose scores are kept for the epoch's mAP."""

    def __call__(self, model: nn.Module, batch: list[Tensor]) -> Tensor:
        def watched(images: Tensor) -> Tensor:
            maps = model(images)
            self.add(image_scores(maps.detach()), batch[1])
            return maps

        return _loss(watched, batch)


class _Validation:
    """Scores and tags of other images, each (M, C): at the size of training, without augmentation."""

    def __init__(
        self, dataset: Dataset, class_names: tuple[str, ...], recipe: ClassifierRecipe, config: RunConfig
    ) -> None:
        require_tags(dataset)
        self._dataset, self._class_names, self._recipe, self._config = dataset, class_names, recipe, config
        self._tags = torch.from_numpy(_present(dataset, class_names))

    def __call__(self, model: nn.Module) -> tuple[Tensor, Tensor]:
        device, size, items = self._config.device, self._recipe.batch_size, self._dataset.items
        load = partial(load_square, side=self._recipe.image_size, class_names=None)
        images = map_items(load, items, self._config.workers)
        found = []
        with torch.no_grad(), autocast(device, self._config.precision):
            while batch := [loaded.pixels for loaded in islice(images, size)]:
                found.append(image_scores(model(normalize(torch.stack(batch).to(device)))).cpu())
        return torch.cat(found), self._tags


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
