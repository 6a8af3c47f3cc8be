"""Labels as labelme's JSON files: a polygon for each region of pixels.

labelme's polygons have no holes. A region inside another one comes after it in the file and lies on top, background
included, so that the shapes in their order draw exactly the label image.

References
----------
github.com/wkentaro/labelme: labelme/label_file.py.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from drstool.exchange.exports import Export
from drstool.exchange.labels_out import Labelled, LabelsToExport, open_labels
from drstool.exchange.outlines import Region, area_of, outline, regions
from drstool.formats import write_files
from drstool.identifiers import Names, member_name
from drstool.labels import BACKGROUND, ignore_label, label_names
from drstool.reports.text import counted

__all__ = ["export_labelme"]

_VERSION = "5.4.1"
# The names of labelme's own examples of semantic segmentation.
_BACKGROUND, _IGNORED = "_background_", "__ignore__"


def export_labelme(export: Export) -> str:
    """``<id>.json`` for each image, whose ``imagePath`` leads from there to the image."""
    with open_labels(export, names_images=True) as labels:
        write_files(export.output, labels.header, _files(export, labels), overwrite=export.overwrite)
        labels.tell_ignored(f"they are polygons named {_IGNORED}")
    return f"the polygons of {counted(labels.count, 'image')}"


def _files(export: Export, labels: LabelsToExport) -> Iterator[tuple[str, bytes]]:
    names = Names(export.output)
    folder = Path(os.path.realpath(export.output))

    def encode(labelled: Labelled) -> bytes:
        assert labelled.image is not None
        height, width = labelled.labels.shape
        here = (folder / member_name(labelled.id, ".json")).parent
        content = {
            "version": _VERSION, "flags": {}, "shapes": _shapes(labelled, labels.class_names),
            "imagePath": Path(os.path.relpath(os.path.realpath(labelled.image), here)).as_posix(), "imageData": None,
            "imageHeight": height, "imageWidth": width}
        return json.dumps(content, ensure_ascii=False).encode()

    for labelled, data in labels.each(encode):
        name = member_name(labelled.id, ".json")
        names.add(name)
        yield name, data
    yield "classes.txt", "".join(f"{name}\n" for name in labels.class_names).encode()


def _shapes(labelled: Labelled, class_names: tuple[str, ...]) -> list[dict]:
    """Polygons, the largest first, so that whatever lies inside another one follows it."""
    named = dict(enumerate(label_names(class_names))) | {
        BACKGROUND: _BACKGROUND, ignore_label(labelled.labels.dtype): _IGNORED}
    drawn = [each for each in regions(labelled.labels) if each.label != BACKGROUND or _is_enclosed(each, labelled)]
    outlines = [(named[each.label], outline(each.mask, each.corner)) for each in drawn]
    outlines.sort(key=lambda pair: -area_of(pair[1]))
    return [{"label": name, "points": [list(map(float, point)) for point in points], "group_id": None,
             "description": "", "shape_type": "polygon", "flags": {}} for name, points in outlines]


def _is_enclosed(region: Region, labelled: Labelled) -> bool:
    """Whether a region touches no edge of the image: only then others may lie around it."""
    (row, column), (height, width) = region.corner, region.mask.shape
    below, beside = labelled.labels.shape
    return row > 0 and column > 0 and row + height < below and column + width < beside
