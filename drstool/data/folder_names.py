"""What the names of a dataset's folders mean: splits, images and annotations are never classes."""

from __future__ import annotations

import re

__all__ = ["is_of_split", "meaning_of"]

_SPLITS = frozenset((
    "train", "training", "trainset", "trainval", "trainaug", "val", "valid", "validation", "valset", "test", "testing",
    "testset", "minival", "holdout"))
_IMAGES = frozenset(("image", "images", "img", "imgs", "jpegimages", "leftimg", "pngimages"))
_ANNOTATIONS = frozenset((
    "mask", "masks", "label", "labels", "annotation", "annotations", "annot", "annots", "ann", "anns", "gt", "gts",
    "groundtruth", "truth", "segmentation", "segmentations", "segmentationclass", "segmentationclassaug", "segmap",
    "segmentationclasspng", "segmentationclassnpy", "segmentationclassvisualization", "segmentationobject", "seg",
    "saliency", "xml", "xmls", "json", "jsons", "bbox", "bboxes", "labelids", "trimap", "trimaps"))
# Words that may stand beside those above.
_FILLERS = frozenset((
    "dir", "folder", "map", "maps", "data", "set", "ground", "semantic", "instance", "color", "colour", "rgb", "png",
    "jpg", "class", "object", "aug", "visualization", "raw", "fine", "coarse", "bit", "all", "binary"))


def meaning_of(name: str) -> str | None:
    """``split``, ``images`` or ``annotations``; None where a folder's name is none of those used for them.

    Examples
    --------
    >>> [meaning_of(name) for name in ("Train", "img_dir", "train_masks", "SegmentationClass", "ground-truth")]
    ['split', 'images', 'annotations', 'annotations', 'annotations']
    >>> [meaning_of(name) for name in ("cat", "no mask", "2023", "data")]
    [None, None, None, None]
    """
    words = _words(name)
    if not words <= _SPLITS | _IMAGES | _ANNOTATIONS | _FILLERS:
        return None
    for meaning, known in (("annotations", _ANNOTATIONS), ("images", _IMAGES), ("split", _SPLITS)):
        if words & known:
            return meaning
    return None


def is_of_split(name: str, split: str) -> bool:
    """Whether a folder's name says that it belongs to a split: ``train_masks`` to ``train``."""
    return split.casefold() in _words(name)


def _words(name: str) -> frozenset[str]:
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return frozenset(re.split(r"[\W_\d]+", parted.casefold())) - {""}
