"""Labels as a COCO instances file: a run-length encoding for each class of each image.

References
----------
The data format page of cocodataset.org; pycocotools (cocodataset/cocoapi, common/maskApi.c).
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from drstool.artifacts.atomic import new_file
from drstool.exchange.exports import Export
from drstool.exchange.labels_out import Labelled, open_labels
from drstool.labels import BACKGROUND, ignore_label, label_of, label_type
from drstool.reports.text import counted

__all__ = ["encode_rle", "export_coco"]

_IGNORED = "ignore"


def export_coco(export: Export) -> str:
    """One JSON file; a category's id is its label, and ignored pixels are crowds of a category ``ignore``."""
    images, apart = [], 0
    annotations: list[dict] = []
    with open_labels(export, names_images=True) as labels, new_file(export.output, export.overwrite) as making:
        ignore = ignore_label(label_type(len(labels.class_names)))
        for number, (labelled, found) in enumerate(labels.each(_annotations), start=1):
            name, is_id = _file_name(labelled)
            apart += not is_id
            height, width = labelled.labels.shape
            images.append({"id": number, "file_name": name, "height": height, "width": width})
            for each in found:
                crowd = int(each["category_id"] == ignore)
                annotations.append({"id": len(annotations) + 1, "image_id": number, **each, "iscrowd": crowd})
        categories = [{"id": label_of(channel), "name": name} for channel, name in enumerate(labels.class_names)]
        if labels.with_ignored:
            categories.append({"id": ignore, "name": _IGNORED})
        information = {"description": "exported by drstool", "provenance": list(labels.header.provenance)}
        with open(making, "w", encoding="utf-8") as file:
            json.dump({"info": information, "images": images, "annotations": annotations, "categories": categories},
                      file, ensure_ascii=False)
    labels.tell_ignored(f"they are crowds of a category '{_IGNORED}', which are not objects")
    if apart:
        export.notify([f"{counted(apart, 'image')} named by their paths, which do not end in their ids"])
    return f"the labels of {counted(labels.count, 'image')}"


def encode_rle(mask: np.ndarray) -> dict:
    """COCO's compressed run-length encoding of a region.

    Parameters
    ----------
    mask : (H, W) bool

    Examples
    --------
    >>> encode_rle(np.array([[0, 1, 0], [1, 0, 0]], bool))
    {'size': [2, 3], 'counts': '123'}
    """
    inside = mask.T.ravel()
    changes = np.flatnonzero(inside[1:] != inside[:-1]) + 1
    # The first run is outside, and may have no pixel.
    edges = [0, *([0] if inside[0] else []), *changes.tolist(), inside.size]
    return {"size": list(mask.shape), "counts": _compressed(np.diff(edges).tolist())}


def _compressed(runs: Sequence[int]) -> str:
    """Run lengths as text; see :func:`drstool.annotations.coco.read_rle`."""
    characters = []
    for place, run in enumerate(runs):
        value, more = run - (runs[place - 2] if place > 2 else 0), True
        while more:
            chunk, value = value & 31, value >> 5
            # The last chunk's highest bit is the sign of what is left.
            more = value != (-1 if chunk & 16 else 0)
            characters.append(chr(48 + chunk + 32 * more))
    return "".join(characters)


def _annotations(labelled: Labelled) -> list[dict]:
    found = []
    for label in np.unique(labelled.labels).tolist():
        if label == BACKGROUND:
            continue
        mask = labelled.labels == label
        rows, columns = (np.flatnonzero(mask.any(axis=axis)).tolist() for axis in (1, 0))
        box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
        found.append({
            "category_id": label, "segmentation": encode_rle(mask), "area": int(mask.sum()), "bbox": box})
    return found


def _file_name(labelled: Labelled) -> tuple[str, bool]:
    """The image's file, below the folder of all images where its path ends in its id; and whether it does."""
    assert labelled.image is not None
    path = labelled.image.as_posix()
    name = labelled.id + labelled.image.suffix
    return (name, True) if f"/{path}".endswith(f"/{name}") else (path, False)
