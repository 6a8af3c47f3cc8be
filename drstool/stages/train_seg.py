"""``train-seg``: DeepLabV3+ from images and (pseudo) labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from drstool.checkpoints.checkpoint import Checkpoint, with_selection
from drstool.data import Dataset
from drstool.data.transforms import SegmenterSamples
from drstool.errors import UsageError
from drstool.inference import normalize
from drstool.labels import ignore_label, label_type
from drstool.models.build import build_network, load_pretrained
from drstool.models.deeplab import DeepLabV3Plus
from drstool.recipe import SegmenterRecipe
from drstool.training.loop import RunConfig, fit
from drstool.training.schedule import Plan, poly_factor

__all__ = ["train_seg"]


def train_seg(
    dataset: Dataset, class_names: tuple[str, ...], labels: Mapping[str, Path], recipe: SegmenterRecipe,
    config: RunConfig, *, weights: Mapping[str, Tensor] | None = None, weights_name: str = "--init",
) -> Checkpoint:
    """A trained segmenter.

    Parameters
    ----------
    dataset
        Needs no tags and no masks.
    class_names
        The object classes of the labels.
    labels
        Label PNG of each image's id, at the image's own size.
    recipe, config
    weights, weights_name
        To start from (see :func:`drstool.models.build.load_pretrained`), and what to call them.

    Returns
    -------
    Checkpoint
        Of kind ``segmenter``, without provenance; see :func:`drstool.stages.train_cls.train_cls`.

    Raises
    ------
    UsageError
        Fewer than two images: batch norm cannot train on one.
    InputError
        A label PNG of another size or with unknown values; weights of another network.

    References
    ----------
    Chen et al., ECCV 2018; Kim, Han, Kim, AAAI 2021, section 4.1.
    """
    if len(dataset) < 2 and recipe.epochs:
        raise UsageError("train-seg", "there is only one image", "batch norm needs at least two")
    if recipe.scale_min > recipe.scale_max:
        raise UsageError("--scale-min", f"{recipe.scale_min} is above --scale-max {recipe.scale_max}", "swap them")
    torch.manual_seed(config.seed)
    architecture = {"backbone": recipe.backbone, "output_stride": recipe.output_stride}
    model, trunk = build_network("segmenter", architecture, class_names)
    if weights is not None:
        # A segmenter's own checkpoint has its own names; others have those of the backbone.
        whole = any(name.startswith("backbone.") for name in weights)
        load_pretrained(model if whole else trunk, weights, weights_name, any_head=True)
    plan = Plan(
        len(dataset), recipe.epochs, min(recipe.batch_size, len(dataset)), config.seed,
        steps=recipe.steps if recipe.epochs else 0, drop_last=True)
    optimizer = torch.optim.SGD(
        _parameter_groups(model, recipe), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    floor = recipe.min_lr / recipe.lr if recipe.lr else 0

    def snapshot() -> Checkpoint:
        return Checkpoint("segmenter", class_names, architecture, asdict(recipe), model.state_dict())

    report = fit(
        model, _loss, SegmenterSamples(dataset, labels, class_names, recipe, config.seed), optimizer,
        poly_factor(plan.total_steps or 1, recipe.poly_power, floor), plan, config, snapshot=snapshot,
        weight_of=lambda batch: _counted(batch[1], len(class_names)))
    return with_selection(snapshot(), report)


def _loss(model: nn.Module, batch: list[Tensor]) -> Tensor:
    images, labels = batch
    logits = model(normalize(images)).float()
    # A segmenter has a channel for each label, the background's first.
    num_objects = logits.shape[1] - 1
    # The mean over no pixel at all would be NaN: a crop may hold nothing but ignored ones.
    counted = _counted(labels, num_objects).clamp_min(1)
    return F.cross_entropy(logits, labels, ignore_index=_ignored(num_objects), reduction="sum") / counted


def _counted(labels: Tensor, num_objects: int) -> Tensor:
    """Number of pixels over which the loss is the mean."""
    return (labels != _ignored(num_objects)).sum()


def _ignored(num_objects: int) -> int:
    return ignore_label(label_type(num_objects))


def _parameter_groups(model: DeepLabV3Plus, recipe: SegmenterRecipe) -> list[dict]:
    backbone = list(model.backbone.parameters())
    head = [p for name, p in model.named_parameters() if not name.startswith("backbone.")]
    return [{"params": backbone, "lr": recipe.lr * recipe.backbone_lr_factor}, {"params": head, "lr": recipe.lr}]
