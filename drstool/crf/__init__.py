"""Dense CRF: aligns an image's labels and probabilities with its edges.

:class:`DenseCRF` is the model of one image; :func:`smooth_probabilities` and :func:`smooth_labels`
apply it to arrays of the classes that are present in the image.
"""

from __future__ import annotations

from drstool.crf.arrays import check_size, one_thread, smooth_labels, smooth_probabilities
from drstool.crf.meanfield import DenseCRF, label_unary, mean_field, probability_unary

__all__ = [
    "DenseCRF", "check_size", "label_unary", "mean_field", "one_thread", "probability_unary",
    "smooth_labels", "smooth_probabilities",
]
