"""Scores of label images: confusion matrix, boundary IoU, threshold sweeps, confidence intervals."""

from drstool.metrics.boundary import BOUNDARY_RATIO, BoundaryCounts, BoundaryMatrix, boundary, count_boundaries
from drstool.metrics.confusion import (
    IGNORED_AS, ClassScore, ConfusionMatrix, LabelCounts, Margins, Scores, check_same_size, count_labels, mean_of,
    ratio, scores_of,
)
from drstool.metrics.sweep import (
    GRIDS, LabelSteps, StepCounts, SweepMatrix, count_steps, label_steps, settings_at, swept_settings,
)

__all__ = [
    "BOUNDARY_RATIO", "GRIDS", "IGNORED_AS", "BoundaryCounts", "BoundaryMatrix", "ClassScore", "ConfusionMatrix",
    "LabelCounts", "LabelSteps", "Margins", "Scores", "StepCounts", "SweepMatrix", "boundary", "check_same_size",
    "count_boundaries", "count_labels", "count_steps", "label_steps", "mean_of", "ratio", "scores_of",
    "settings_at", "swept_settings",
]
