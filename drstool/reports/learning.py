"""What users are told of a training: how long it is, what its tags allow, and whether it learned anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from drstool.metrics import above_chance
from drstool.recipe import FEW_IMAGES, ClassifierRecipe, Optimization
from drstool.reports.classes import class_counts, warnings_of_absent
from drstool.reports.text import counted
from drstool.training.schedule import Plan, stretched

__all__ = ["about_data", "about_length", "about_tags", "classifier_verdict", "regression_verdict"]

# A loss from here on, relative to that of the best prediction that is the same for all images, shows nothing about
# the images, as its mean over an epoch varies by a few per cent; below the second figure most of what there was to
# learn is learned. (On VOC 2012, trunks whose CAMs were no better than chance ended at 0.96 and above, useful ones
# below 0.4.)
_NOTHING_LOSS, _LEARNED_LOSS = 0.95, 0.6
# The same of the mean average precision, where chance is 0 and perfect ranking 1. Of images ranked at random one class
# in a hundred exceeds the first figure where 12 of 311 images have it, and one in eight where 10 of 60 have; a mean
# over twenty classes hardly ever does.
_CHANCE, _LEARNED_RANK = 0.1, 0.5
# How many classes a message names.
_SHOWN_CLASSES = 10


def about_data(
    plan: Plan, recipe: Optimization, present: np.ndarray, class_names: Sequence[str], where: str = "",
) -> list[str]:
    """How many images there are, how long a training is, and how many images each class has; warnings.

    Parameters
    ----------
    plan, recipe
    present : (M, C) bool
        Which of the C classes each image has.
    class_names
    where
        What to say of a class that no image has; empty: nothing.
    """
    counts = dict(zip(class_names, present.sum(axis=0).tolist(), strict=True))
    negatives = int((~present.any(axis=1)).sum())
    line = f"{about_length(plan, recipe, len(class_names))}: {class_counts(counts, negatives)}"
    return [line, *(warnings_of_absent(counts, where) if where else [])]


def about_length(plan: Plan, recipe: Optimization, classes: int) -> str:
    """How many images there are, how long a training is, and whether ``--min-steps`` made it longer.

    Parameters
    ----------
    plan, recipe
    classes
        C, the number of object classes.

    Examples
    --------
    >>> plan = Plan(300, 15, 3, 0)
    >>> about_length(plan, Optimization(), 20)
    '300 images of 20 classes, 1,500 steps in 15 epochs'
    >>> about_length(plan.at_least(1950), Optimization(schedule="poly", min_steps=1950), 1)
    '300 images of 1 class, 2,000 steps in 20 epochs (raised from 1,500 in 15 by --min-steps 1950)'
    """
    steps, epochs = plan.total_steps, plan.total_epochs
    text = f"{counted(plan.images, 'image')} of {counted(classes, 'class')}, "
    text += f"{counted(steps, 'step')} in {counted(epochs, 'epoch')}"
    if (planned := plan.raised_from) is None:
        return text
    text += f" (raised from {planned.total_steps:,} in {planned.total_epochs} by --min-steps {recipe.min_steps}"
    if recipe.schedule == "step" and recipe.decay_epochs:
        later = stretched(recipe.decay_epochs, plan)
        text += f"; --decay-epochs become {','.join(map(str, later))}"
    return text + ")"


def about_tags(present: np.ndarray, class_names: Sequence[str], recipe: ClassifierRecipe) -> list[str]:
    """What is worth knowing of the tags before a classifier learns from them, a line each.

    Parameters
    ----------
    present : (M, C) bool
        Which of the C classes each image has.
    class_names
    recipe
    """
    counts, lines = present.sum(axis=0), []
    for number, what in ((0, "no image"), (1, "only one image"), (len(present), "every image")):
        names = [name for name, count in zip(class_names, counts, strict=True) if count == number]
        if names:
            lines.append(f"warning: {_classes(names)}: in {what}, so that little or nothing can be learned of it")
    if len(present) < FEW_IMAGES and recipe.optimizer == "sgd":
        lines.append(f"these settings are meant for more images; for fewer than {FEW_IMAGES:,}, try --recipe light")
    return lines


def classifier_verdict(
    loss: float, metrics: Mapping[str, Any], class_names: Sequence[str], recipe: ClassifierRecipe,
) -> list[str]:
    """Whether a classifier learned what is in its images, and what to try if not; then the classes it cannot tell.

    Parameters
    ----------
    loss
        Mean of the epoch.
    metrics
        Of the epoch; see :class:`drstool.training.reports.EpochReport`.
    class_names, recipe
    """
    gains, of_others = _gains(metrics), _gains(metrics, "val_")
    gain, ratio = _mean(gains), loss / metrics["baseline"]
    level = _level(ratio, gain)
    by_heart = level != "learned nothing" and len(of_others) > 0 and _mean(of_others) < _CHANCE
    if by_heart:
        level = "learned its own images, and nothing that holds for those of --val-split"
    line = (
        f"{level}: loss {loss:.4f}, {ratio:.2f} × that of predicting the tag frequencies; "
        f"mAP {metrics['map']:.3f}, {gain + 0.0:.2f} on a scale from chance (0) to perfect (1)")
    if level != "learned":
        line += "; try " + ", ".join(_advice(recipe, by_heart))
    confused = [name for name, value in zip(class_names, gains, strict=True) if value < _CHANCE]
    return [line] + ([f"not told apart from the other images: {_classes(confused)}"] if confused else [])


def _gains(metrics: Mapping[str, Any], prefix: str = "") -> np.ndarray:
    """Average precisions above chance, (C,); empty where none were measured."""
    if prefix + "ap" not in metrics:
        return np.empty(0)
    precision = np.array([np.nan if value is None else value for value in metrics[prefix + "ap"]], dtype=float)
    return above_chance(precision, np.array(metrics[prefix + "positives"]), metrics[prefix + "images"])


def _mean(gains: np.ndarray) -> float:
    """Mean over the classes that can be ranked; 0 without any."""
    known = gains[~np.isnan(gains)]
    return float(known.mean()) if len(known) else 0.0


def _level(ratio: float, gain: float) -> str:
    """How much was learned, by loss and ranking together."""
    if ratio <= _LEARNED_LOSS and gain >= _LEARNED_RANK:
        return "learned"
    return "learned nothing" if ratio >= _NOTHING_LOSS and gain < 2 * _CHANCE else "learned little"


def _advice(recipe: ClassifierRecipe, by_heart: bool) -> list[str]:
    """What to try, the likeliest first."""
    advice = [] if by_heart else ["more --epochs or --min-steps"]
    if recipe.optimizer == "sgd":
        advice.insert(0, "--recipe light")
    if recipe.suppression != "none" and not by_heart:
        advice.append("--suppression none" + ("" if recipe.suppression_ramp else ", or --suppression-ramp 0.5"))
    return [*advice, "more images, or fewer classes"]


def regression_verdict(loss: float, baseline: float, of_what: str, advice: str) -> str:
    """How much a refiner or segmenter learned beyond what is the same for all images.

    Parameters
    ----------
    loss, baseline
    of_what
        The prediction whose loss is the baseline.
    advice
        What to try if that is little.

    Examples
    --------
    >>> regression_verdict(0.02, 0.04, "each class's mean", "more --epochs")
    "learned: loss 0.0200, 0.50 × that of predicting each class's mean"
    >>> regression_verdict(0.02, 0.0, "the label frequencies", "more --epochs")
    'learned nothing: loss 0.0200; there is nothing to learn where the label frequencies predict all'
    """
    if not baseline:
        return f"learned nothing: loss {loss:.4f}; there is nothing to learn where {of_what} predict all"
    ratio = loss / baseline
    line = f"loss {loss:.4f}, {ratio:.2f} × that of predicting {of_what}"
    if ratio <= _LEARNED_LOSS:
        return f"learned: {line}"
    return f"learned {'nothing' if ratio >= _NOTHING_LOSS else 'little'}: {line}; try {advice}"


def _classes(names: Sequence[str]) -> str:
    """The classes by name, as many as fit into a line.

    Examples
    --------
    >>> _classes(["cat", "dog"])
    'cat, dog'
    """
    more = len(names) - _SHOWN_CLASSES
    return ", ".join(names[:_SHOWN_CLASSES]) + (f" and {more} more" if more > 0 else "")
