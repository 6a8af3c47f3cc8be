"""``train-seg``: DeepLabV3+ from images and (pseudo) labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from drstool.checkpoints.checkpoint import Checkpoint, with_selection
from drstool.data import Dataset, Item
from drstool.data.transforms import SegmenterSamples
from drstool.errors import InputError, UsageError
from drstool.formats.label_png import read_label_png
from drstool.inference import normalize
from drstool.labels import as_label_type, check_label_values, ignore_label, label_of, label_type
from drstool.models.build import build_network, load_pretrained
from drstool.models.deeplab import DeepLabV3Plus
from drstool.parallel import Track, map_items, untracked
from drstool.recipe import SegmenterRecipe
from drstool.reports.empty_maps import objectless_lines
from drstool.reports.ground_truth import MaskSummary, agreement_lines
from drstool.reports.learning import about_data, about_length, regression_verdict
from drstool.training.loop import RunConfig, fit
from drstool.training.meters import SumMeter
from drstool.training.optimizer import build_optimizer
from drstool.training.schedule import Plan, learning_rate_schedule, recorded

__all__ = ["check_labels", "train_seg"]


def check_labels(
    dataset: Dataset, class_names: tuple[str, ...], labels: Mapping[str, Path], *, foreign: bool = True,
    workers: int = 1, track: Track = untracked,
) -> tuple[np.ndarray, list[str]]:
    """Which classes each label image shows, and lines about what is probably wrong with them; all are read once.

    Parameters
    ----------
    dataset, class_names, labels
        As for :func:`train_seg`.
    foreign
        Whether another program made the labels; ours may hold no object, of which pseudo-label tells.
    workers
        Number of threads.
    track
        Progress display.

    Returns
    -------
    (M, C) bool, list of str

    Raises
    ------
    InputError
        No image of foreign labels has an object, or a label image is damaged or holds unknown values.
    """
    ignored = ignore_label(label_type(len(class_names)))

    def read(item: Item) -> tuple[np.ndarray, int]:
        path = labels[item.id]
        values = as_label_type(read_label_png(path, path, foreign=foreign), len(class_names))
        check_label_values(values, class_names, path)
        counts = np.bincount(values.ravel(), minlength=ignored + 1)
        return counts > 0, int(counts[:ignored].argmax())

    items = [item for item in dataset.items if item.id in labels]
    looks = list(track(map_items(read, items, workers, None), "labels", len(items)))
    found = np.array([each for each, _ in looks]).reshape(len(items), ignored + 1)
    present = found[:, label_of(0):label_of(len(class_names))]
    # Images that are known to hold no object are labelled rightly.
    counted = np.array([item.tags != () for item in items], dtype=bool)
    if not counted.any() or present[counted].any():
        summaries = [MaskSummary("--labels", item.tags, tuple(np.flatnonzero(row[:ignored])), 0, 0, ignored, most)
                     for item, (row, most) in zip(items, looks, strict=True)]
        lines = agreement_lines(summaries, class_names, trained_on=True) if foreign else []
        return present, [*(f"--labels: {line}" for line in lines), *objectless_lines(
            int((~present[counted].any(axis=1)).sum()), int(counted.sum()))]
    text = f"no image of {counted.sum()} has a pixel of an object"
    if not foreign:
        return present, [f"{text}: only the background can be learned; look at the maps that the labels were made of"]
    has_ignored = found[counted, ignored].any()
    raise InputError(
        "--labels", f"{text}: all are background" + (f" or {ignored} (ignored)" if has_ignored else ""),
        f"if {ignored} is '{class_names[0]}', save it as 1" if has_ignored else "give labels of objects")


def train_seg(
    dataset: Dataset, class_names: tuple[str, ...], labels: Mapping[str, Path], recipe: SegmenterRecipe,
    config: RunConfig, *, weights: Mapping[str, Tensor] | None = None, weights_name: str = "--init",
    present: np.ndarray | None = None, notices: Sequence[str] = (),
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
    present, notices
        Those of :func:`check_labels`, told when the training begins.

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
        steps=recipe.steps if recipe.epochs else 0, drop_last=True).at_least(recipe.min_steps)
    if plan.total_steps:
        lines = [about_length(plan, recipe, len(class_names))]
        if present is not None:
            lines = about_data(plan, recipe, present, class_names, "no label image")
        config.observer.notice(lines[0], *notices, *lines[1:])
    floor = recipe.min_lr / recipe.lr if recipe.lr else 0

    def snapshot() -> Checkpoint:
        return Checkpoint("segmenter", class_names, architecture, recorded(recipe, plan), model.state_dict())

    loss = _LabelLoss(len(class_names))
    report = fit(
        model, loss, SegmenterSamples(dataset, labels, class_names, recipe, config.seed),
        build_optimizer(_parameter_groups(model, recipe), recipe),
        learning_rate_schedule(recipe, plan, floor), plan, config, snapshot=snapshot,
        weight_of=lambda batch: _counted(batch[1], len(class_names)), clip_norm=recipe.clip_norm, meter=loss)
    if report is not None and report.metrics:
        config.observer.notice(regression_verdict(
            report.loss, report.metrics["baseline"], "the label frequencies", "more --epochs or --min-steps"))
    return with_selection(snapshot(), report)


def _loss(model: nn.Module, batch: list[Tensor]) -> Tensor:
    images, labels = batch
    logits = model(normalize(images)).float()
    # A segmenter has a channel for each label, the background's first.
    num_objects = logits.shape[1] - 1
    # The mean over no pixel at all would be NaN: a crop may hold nothing but ignored ones.
    counted = _counted(labels, num_objects).clamp_min(1)
    return F.cross_entropy(logits, labels, ignore_index=_ignored(num_objects), reduction="sum") / counted


class _LabelLoss(SumMeter):
    """Loss of a batch, of whose labels the numbers of pixels are kept."""

    def __init__(self, num_objects: int) -> None:
        super().__init__(_entropy)
        self._num_objects = num_objects

    def __call__(self, model: nn.Module, batch: list[Tensor]) -> Tensor:
        labels = batch[1].flatten()
        # Ignored pixels are counted behind the others, and left out.
        labels = torch.where(labels == _ignored(self._num_objects), self._num_objects + 1, labels)
        counts = labels.new_zeros(self._num_objects + 2).scatter_add_(0, labels, torch.ones_like(labels))
        self.add(counts[:-1])
        return _loss(model, batch)


def _entropy(counts: np.ndarray) -> dict[str, float]:
    """The cross-entropy of predicting the labels' frequencies for every pixel."""
    frequencies = counts[counts > 0] / max(counts.sum(), 1)
    return {"baseline": float(abs((frequencies * np.log(frequencies)).sum()))}


def _counted(labels: Tensor, num_objects: int) -> Tensor:
    """Number of pixels over which the loss is the mean."""
    return (labels != _ignored(num_objects)).sum()


def _ignored(num_objects: int) -> int:
    return ignore_label(label_type(num_objects))


def _parameter_groups(model: DeepLabV3Plus, recipe: SegmenterRecipe) -> list[dict]:
    backbone = list(model.backbone.parameters())
    head = [p for name, p in model.named_parameters() if not name.startswith("backbone.")]
    return [{"params": backbone, "lr": recipe.lr * recipe.backbone_lr_factor}, {"params": head, "lr": recipe.lr}]
