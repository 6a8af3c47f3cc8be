"""Images and labels in mmsegmentation's layout, with the part of a config that reads them.

References
----------
open-mmlab/mmsegmentation: docs/en/advanced_guides/add_datasets.md, mmseg/datasets/basesegdataset.py.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from pprint import pformat

from PIL import Image

from drstool.data.decoding import load_image
from drstool.data.value_range import ValueRange
from drstool.errors import InputError
from drstool.exchange.exports import Export
from drstool.exchange.labels_out import LabelsToExport, open_labels
from drstool.files import read_bytes
from drstool.formats import write_files
from drstool.formats.label_png import encode_label_png
from drstool.identifiers import Names, member_name
from drstool.labels import IGNORE, label_names, palette
from drstool.parallel import ordered_map
from drstool.reports.text import counted

__all__ = ["CONFIG", "export_mmseg"]

CONFIG = "mmseg_dataset.py"
_ALSO_JPEG = {".jpeg": ".jpg", ".jpe": ".jpg"}


def export_mmseg(export: Export) -> str:
    """``img_dir/SPLIT``, ``ann_dir/SPLIT``, ``splits/SPLIT.txt``, ``classes.txt`` and a config that names them."""
    split = Path(export.split).stem if export.split else "train"
    with open_labels(export, names_images=True) as labels:
        labels.check_narrow("mmsegmentation")
        write_files(export.output, labels.header, _files(export, labels, split), overwrite=export.overwrite)
    return counted(labels.count, "image") + " and their labels"


def _files(export: Export, labels: LabelsToExport, split: str) -> Iterator[tuple[str, bytes]]:
    names = Names(export.output)
    images: dict[str, Any] = {}
    for labelled, png in labels.each(lambda each: encode_label_png(each.labels)):
        if labelled.id != labelled.id.strip():
            raise InputError(
                labels.where, f"id {labelled.id!r} begins or ends with a blank", "mmsegmentation's lists drop it")
        names.add(labelled.id)
        images[labelled.id] = labelled.image
        yield f"ann_dir/{split}/{member_name(labelled.id, '.png')}", png
    value_range, suffixes = labels.value_range, {identifier: _suffix(path) for identifier, path in images.items()}
    suffix = next(iter(suffixes.values())) if len(set(suffixes.values())) == 1 and value_range is None else ".png"
    if value_range is not None:
        export.notify([f"{counted(len(images), 'image')} written as PNG, with --range {value_range}"])
    elif others := sum(each != suffix for each in suffixes.values()):
        export.notify([f"{counted(others, 'image')} written as PNG: mmsegmentation takes one ending for all"])

    def content(identifier: str) -> bytes:
        path, same = images[identifier], suffixes[identifier] == suffix and value_range is None
        return read_bytes(path) if same else _as_png(path, value_range)

    for identifier, data in zip(images, ordered_map(content, images, export.threads), strict=True):
        yield f"img_dir/{split}/{member_name(identifier, suffix)}", data
    yield f"splits/{split}.txt", "".join(f"{identifier}\n" for identifier in images).encode()
    yield "classes.txt", "".join(f"{name}\n" for name in labels.class_names).encode()
    yield CONFIG, _config(export.output, split, suffix, labels.class_names).encode()


def _suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    return _ALSO_JPEG.get(suffix, suffix)


def _as_png(path: Path, value_range: ValueRange | None) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(load_image(path, value_range)).save(buffer, format="PNG")
    return buffer.getvalue()


def _config(root: str, split: str, suffix: str, class_names: Sequence[str]) -> str:
    names = label_names(class_names)
    metainfo = {"classes": tuple(names), "palette": palette()[:len(names)].tolist()}
    return f"""# For mmsegmentation 1.x: put it under _base_, give `dataset` a pipeline, and set
# num_classes={len(names)} in the heads. Value 0 is the background and {IGNORE} is ignored; labels
# are read as they are (no reduce_zero_label).
metainfo = {pformat(metainfo, width=100, compact=True, sort_dicts=False)}

dataset = dict(
    type='BaseSegDataset',
    metainfo=metainfo,
    data_root={root!r},
    ann_file={f'splits/{split}.txt'!r},
    data_prefix=dict(img_path={f'img_dir/{split}'!r}, seg_map_path={f'ann_dir/{split}'!r}),
    img_suffix={suffix!r},
    seg_map_suffix='.png',
    ignore_index={IGNORE},
    reduce_zero_label=False)
"""
