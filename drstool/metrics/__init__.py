"""Scores of label images (confusion matrix, boundary IoU, sweeps, confidence intervals) and of tags (precision)."""

from drstool.metrics.average_precision import above_chance, average_precision, chance_precision
from drstool.metrics.boundary import BOUNDARY_RATIO, BoundaryCounts, BoundaryMatrix, boundary, count_boundaries
from drstool.metrics.confusion import (
    IGNORED_AS, ClassScore, ConfusionMatrix, LabelCounts, Margins, Scores, check_same_size, count_labels, mean_of,
    ratio, scores_of,
)
from drstool.metrics.sweep import (
    GRIDS, SALIENCY_THRESHOLDS, LabelSteps, StepCounts, SweepMatrix, at_thresholds, count_steps, label_steps,
    settings_at, swept_numbers, swept_settings,
)

__all__ = [
    "BOUNDARY_RATIO", "GRIDS", "IGNORED_AS", "BoundaryCounts", "BoundaryMatrix", "ClassScore", "ConfusionMatrix",
    "LabelCounts", "LabelSteps", "Margins", "SALIENCY_THRESHOLDS", "Scores", "StepCounts", "SweepMatrix",
    "above_chance", "at_thresholds", "average_precision", "boundary", "chance_precision", "check_same_size",
    "count_boundaries", "count_labels", "count_steps", "label_steps", "mean_of", "ratio", "scores_of", "settings_at",
    "swept_numbers", "swept_settings",
]
