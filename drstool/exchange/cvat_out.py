"""Labels as CVAT's "Segmentation mask 1.1": masks in colours that a ``labelmap.txt`` names.

References
----------
docs.cvat.ai, "Segmentation Mask" format.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

from PIL import Image

from drstool.annotations.labelmap import LABELMAP
from drstool.errors import InputError
from drstool.exchange.exports import Export
from drstool.exchange.labels_out import Labelled, LabelsToExport, open_labels
from drstool.formats import write_files
from drstool.identifiers import Names, member_name
from drstool.labels import IGNORE, label_names, palette
from drstool.reports.text import counted

__all__ = ["export_cvat"]

_IGNORED = "ignored"


def export_cvat(export: Export) -> str:
    """``SegmentationClass/<id>.png`` in RGB, ``ImageSets/Segmentation/default.txt`` and ``labelmap.txt``."""
    with open_labels(export, names_images=False) as labels:
        labels.check_narrow("its list of colours")
        for name in labels.class_names:
            if ":" in name or name.startswith("#") or name != name.strip():
                raise InputError(
                    labels.where, f"has the class {name!r}, which {LABELMAP} cannot hold",
                    "no ':', no '#' at the beginning, no blank at either end")
        write_files(export.output, labels.header, _files(export, labels), overwrite=export.overwrite)
        labels.tell_ignored(f"they are the label '{_IGNORED}' of {LABELMAP}")
    return f"the masks of {counted(labels.count, 'image')}"


def _files(export: Export, labels: LabelsToExport) -> Iterator[tuple[str, bytes]]:
    names, ids, colors = Names(export.output), [], palette()

    def encode(labelled: Labelled) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(colors[labelled.labels]).save(buffer, format="PNG")
        return buffer.getvalue()

    for labelled, data in labels.each(encode):
        names.add(labelled.id)
        ids.append(labelled.id)
        yield f"SegmentationClass/{member_name(labelled.id, '.png')}", data
    yield "ImageSets/Segmentation/default.txt", "".join(f"{identifier}\n" for identifier in ids).encode()
    known = dict(enumerate(label_names(labels.class_names))) | ({IGNORE: _IGNORED} if labels.with_ignored else {})
    lines = [f"{name}:{','.join(map(str, colors[label].tolist()))}::\n" for label, name in known.items()]
    yield LABELMAP, "".join(["# label:color_rgb:parts:actions\n", *lines]).encode()
