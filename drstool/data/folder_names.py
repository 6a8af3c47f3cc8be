"""What the names of a dataset's folders mean: splits, images and annotations are never classes."""

from __future__ import annotations

import re

__all__ = ["is_of_split", "may_be_class", "meaning_of"]

_SPLITS = frozenset((
    "train", "training", "trainset", "trainval", "trainaug", "val", "valid", "validation", "valset", "test", "testing",
    "testset", "minival", "holdout", "fold"))
_IMAGES = frozenset(("image", "images", "img", "imgs", "jpegimages", "leftimg", "pngimages", "patches", "rgb"))
_ANNOTATIONS = frozenset((
    "mask", "masks", "label", "labels", "annotation", "annotations", "annot", "annots", "ann", "anns", "gt", "gts",
    "groundtruth", "truth", "segmentation", "segmentations", "segmentationclass", "segmentationclassaug", "segmap",
    "segmentationclasspng", "segmentationclassnpy", "segmentationclassvisualization", "segmentationobject", "seg",
    "saliency", "xml", "xmls", "json", "jsons", "bbox", "bboxes", "labelids", "trimap", "trimaps"))
# Measured or computed beside images.
_OTHERS = frozenset(("depth", "disparity", "heatmap", "heatmaps", "thermal"))
# Names above that classes have, too: of defects of steel, for example.
_ALSO_CLASSES = _OTHERS | {"fold", "patches", "rgb"}
# Words that may stand beside those above; a and b are the two domains of image-to-image translation.
_FILLERS = frozenset((
    "dir", "folder", "map", "maps", "data", "set", "ground", "semantic", "instance", "color", "colour", "png", "left",
    "jpg", "class", "object", "aug", "visualization", "raw", "fine", "coarse", "bit", "all", "binary", "a", "b"))


def meaning_of(name: str) -> str | None:
    """``split``, ``images``, ``annotations`` or ``other``; None where a folder's name is none of those used for them.

    Examples
    --------
    >>> [meaning_of(name) for name in ("Train", "img_dir", "train_masks", "ground-truth", "depth")]
    ['split', 'images', 'annotations', 'annotations', 'other']
    >>> [meaning_of(name) for name in ("cat", "no mask", "2023", "data")]
    [None, None, None, None]
    """
    words = _words(name)
    if not words <= _SPLITS | _IMAGES | _ANNOTATIONS | _OTHERS | _FILLERS:
        return None
    kinds = {"other": _OTHERS, "annotations": _ANNOTATIONS, "images": _IMAGES, "split": _SPLITS}
    return next((meaning for meaning, known in kinds.items() if words & known), None)


def may_be_class(name: str) -> bool:
    """Whether a folder's name may be a class's beside others, although :func:`meaning_of` knows it."""
    return name.casefold() in _ALSO_CLASSES


def is_of_split(name: str, split: str) -> bool:
    """Whether a folder's name says that it belongs to a split: ``train_masks`` to ``train``."""
    return split.casefold() in _words(name)


def _words(name: str) -> frozenset[str]:
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return frozenset(re.split(r"[\W_\d]+", parted.casefold())) - {""}
