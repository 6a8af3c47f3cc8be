"""``refine-train``: a refinement network that regresses localization maps from images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from drstool.data import Dataset
from drstool.data.transforms import RefinerSamples
from drstool.formats.checkpoint import Checkpoint, with_selection
from drstool.formats.training_state import TrainingState
from drstool.inference import normalize
from drstool.models.build import build_network, load_pretrained
from drstool.parallel import Track, untracked
from drstool.recipe import RefinerRecipe
from drstool.training import EpochReport, Plan, fit, seed_everything, step_factor

__all__ = ["refine_train"]


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
    select: Callable[[Checkpoint], float] | None = None,
    track: Track = untracked,
    kept: TrainingState | None = None,
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
    recipe, weights, weights_name, seed, device, precision, workers, on_epoch, select, track, kept
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
    if weights is not None:
        load_pretrained(trunk, weights, weights_name)

    def made() -> Checkpoint:
        return Checkpoint("refiner", class_names, architecture, asdict(recipe), model.state_dict())

    if kept is not None:
        kept.describe(made())
    report = fit(
        model, _loss, RefinerSamples(dataset, maps, recipe, seed),
        torch.optim.Adam(model.parameters(), lr=recipe.lr),
        step_factor(recipe.decay_epochs, recipe.decay_factor),
        Plan(recipe.epochs, recipe.batch_size, seed),
        device=device, precision=precision, workers=workers, on_epoch=on_epoch,
        score=None if select is None else lambda: select(made()), track=track, keeper=kept)
    return with_selection(made(), report)


def _loss(model: nn.Module, batch: list[Tensor]) -> Tensor:
    images, targets = batch
    maps = F.interpolate(
        model(normalize(images)).float(), size=images.shape[2:], mode="bilinear", align_corners=True)
    return F.mse_loss(maps, targets.float() / 255)
