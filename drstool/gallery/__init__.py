"""A page to look at a run: the files of each image, and what the page knows of all of them.

The page itself, ``index.html`` with its script and style, is hand-written and lies beside this file. It opens
from disk: what it reads are pictures and scripts, as a page from disk may read no other files. Class names and
ids reach it as JSON, and are only ever shown as text.
"""

from __future__ import annotations

import base64
import io
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any

import numpy as np
from PIL import Image

from drstool.cues import resize_maps
from drstool.figures.cells import blended, label_layer
from drstool.figures.colors import ERRORS, class_colors, heat_colors
from drstool.formats.records import MapRecord
from drstool.labels import ignore_label, label_names, label_type
from drstool.metrics import LabelCounts, count_labels
from drstool.recipe import CueSettings

__all__ = ["Layers", "count_pairs", "image_files", "index_file", "page_files", "row"]

# Longest sides in pixels: of a picture, of its thumbnail, and of the maps that the page turns into labels.
_PICTURE, _THUMBNAIL, _MAP = 1024, 192, 160
# Of JPEG, and samples of colour: those of labels would bleed with fewer than of lightness.
_PICTURE_JPEG = {"quality": 88, "subsampling": "4:2:0"}
_THUMBNAIL_JPEG = {"quality": 75, "subsampling": "4:4:4"}
# More takes three times as long for a twentieth less.
_COMPRESSION = 5
# Of labels over a thumbnail, and of the hatching of ignored pixels.
_OPACITY, _HATCH_PERIOD = 0.65, 6
_PAGE = ("page.css", "cues.js", "page.js")


@dataclass(frozen=True, eq=False)
class Layers:
    """All that there is of one image.

    Attributes
    ----------
    image : (H, W, 3) uint8
    target : (H, W) uint8 or uint16, or None
    labels
        Label images, ``(H, W)``; None where the image has none.
    maps
        Map records; None where the image has none.
    saliency : (H, W) uint8 or None
    """

    image: np.ndarray
    target: np.ndarray | None
    labels: Sequence[np.ndarray | None]
    maps: Sequence[MapRecord | None]
    saliency: np.ndarray | None = None


def page_files() -> list[tuple[str, bytes]]:
    """Names and bytes of the files that are the same in every gallery."""
    folder = resources.files(__name__)
    page = [(f"page/{name}", folder.joinpath(name).read_bytes()) for name in _PAGE]
    return [("index.html", folder.joinpath("index.html").read_bytes()), *page]


def index_file(
    title: str, class_names: Sequence[str], labels: Sequence[str], maps: Mapping[str, CueSettings],
    rows: Sequence[dict], *, targets: bool, sweeps: Sequence[Mapping[str, Sequence[float | None]]] = (),
) -> tuple[str, bytes]:
    """Name and bytes of the script that holds what the page knows of all images.

    Parameters
    ----------
    title
    class_names
        The C object classes.
    labels
        Names of the label layers.
    maps
        Names of the map layers, and the settings by which they were scored.
    rows
        One of :func:`row` for each image.
    targets
        Whether any image has ground truth.
    sweeps
        For each map layer, by the name of a number of the cue rule, mean IoU of all images at its 256 values.
    """
    ignore = ignore_label(label_type(len(class_names)))
    index = {
        "title": title, "classes": label_names(class_names), "colors": class_colors(len(class_names)).tolist(),
        "heat": heat_colors().tolist(), "errors": ERRORS, "ignore": ignore, "labels": list(labels),
        "maps": [{"name": name, "cues": asdict(settings)} for name, settings in maps.items()],
        "targets": targets, "sweeps": list(sweeps), "images": list(rows)}
    return "page/index.js", _script(f"window.galleryIndex = {_json(index)};")


def row(
    number: int, identifier: str, tags: Sequence[int] | None, layers: Layers,
    counts: Sequence[LabelCounts | None],
) -> dict[str, Any]:
    """What the page knows of an image before it is opened.

    Parameters
    ----------
    number
        By which its files are named.
    identifier
    tags
        Label values; None where they are not known.
    layers
    counts
        Of each label and map layer, from :func:`count_pairs`; as a flat list of target, prediction, pixels.
    """
    flat = [
        None if each is None else np.stack([each.target, each.prediction, each.pixels], axis=1).ravel().tolist()
        for each in counts]
    size = layers.image.shape[:2]
    return {"file": number, "id": identifier, "size": list(_shown_size(size)), "full": list(size),
            "tags": None if tags is None else list(tags), "target": layers.target is not None, "counts": flat}


def count_pairs(target: np.ndarray | None, labels: np.ndarray, class_names: Sequence[str]) -> LabelCounts:
    """How often each pair of target and predicted label occurs; without a target, it counts as -1.

    Parameters
    ----------
    target : (H, W) uint8 or uint16, or None
    labels : (H, W) uint8 or uint16
    class_names
    """
    if target is not None:
        return count_labels(target, labels, class_names)
    counts = count_labels(np.zeros_like(labels), labels, class_names)
    return LabelCounts(counts.target - 1, counts.prediction, counts.pixels)


def image_files(
    number: int, layers: Layers, scored: Sequence[np.ndarray | None], colors: np.ndarray,
) -> list[tuple[str, bytes]]:
    """Names and bytes of an image's picture, thumbnail and layers.

    Parameters
    ----------
    number
        By which they are named, since an id may hold what file systems and addresses treat alike.
    layers
    scored
        Labels of each label and map layer: after image and ground truth, a frame of the thumbnail each.
    colors : (C + 1, 3) uint8
        By label value.
    """
    image = Image.fromarray(layers.image)
    size = _shown_size(layers.image.shape[:2])
    picture = image if image.size == size[::-1] else image.resize(size[::-1], Image.Resampling.LANCZOS)
    maps = [None if record is None else _map_layer(record, size == layers.image.shape[:2]) for record in layers.maps]
    content = {
        "target": _label_layer(layers.target, size), "labels": [_label_layer(each, size) for each in layers.labels],
        "maps": maps, "saliency": _label_layer(layers.saliency, size)}
    name = f"{number:06}"
    return [
        (f"images/{name}.jpg", _jpeg(picture, _PICTURE_JPEG)),
        (f"thumbnails/{name}.jpg", _jpeg(_thumbnail(image, [layers.target, *scored], colors), _THUMBNAIL_JPEG)),
        (f"layers/{name}.js", _script(f"galleryLayers({number}, {_json(content)});"))]


def _thumbnail(image: Image.Image, labels: Sequence[np.ndarray | None], colors: np.ndarray) -> Image.Image:
    """The image, and the image with each of the labels over it, side by side."""
    height, width = _shown_size((image.height, image.width), _THUMBNAIL)
    small = np.asarray(image.resize((width, height), Image.Resampling.BOX, reducing_gap=2))
    reduced = [None if each is None else _nearest(each, (height, width)) for each in labels]
    layers = [[] if each is None else [label_layer(
        each, colors[np.minimum(each, len(colors) - 1)], _OPACITY, "hatched", _HATCH_PERIOD)] for each in reduced]
    return Image.fromarray(np.concatenate([small, *(blended(small, layer) for layer in layers)], axis=1))


def _map_layer(record: MapRecord, unscaled: bool) -> dict[str, Any]:
    """Maps as the page reads them, and whether it makes exactly the labels that the maps themselves give."""
    values = record.as_float()
    size = _shown_size(values.shape[1:], _MAP)
    exact = unscaled and record.values.dtype == np.uint8 and size == values.shape[1:]
    small = np.rint(np.clip(resize_maps(values, size), 0, 1) * np.float32(255)).astype(np.uint8)
    return {"labels": list(record.labels), "exact": exact, "values": _encoded(small)}


def _label_layer(labels: np.ndarray | None, size: tuple[int, int]) -> dict[str, Any] | None:
    return None if labels is None else _encoded(_nearest(labels, size)[None])


def _encoded(values: np.ndarray) -> dict[str, Any]:
    """An array as the page reads it: differences along its rows, compressed, as text; (K, H, W) uint8 or uint16."""
    differences = np.diff(values, axis=2, prepend=values.dtype.type(0)).astype(values.dtype.newbyteorder("<"))
    text = base64.b64encode(zlib.compress(differences.tobytes(), _COMPRESSION)).decode()
    return {"shape": list(values.shape), "bytes": values.dtype.itemsize, "data": text}


def _nearest(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The values at the middles of larger pixels; (H, W)."""
    if values.shape == size:
        return values
    rows, columns = ((np.arange(new) * 2 + 1) * old // (2 * new) for old, new in zip(values.shape, size))
    return values[np.ix_(rows, columns)]


def _shown_size(size: tuple[int, ...], longest: int = _PICTURE) -> tuple[int, int]:
    """(H, W) with the same aspect, and no side longer than that."""
    scale = min(1, longest / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _jpeg(image: Image.Image, how: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", **how)
    return buffer.getvalue()


def _json(value: object) -> str:
    # In ASCII: a script has other ends of line than JSON, and its encoding need not be guessed.
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _script(text: str) -> bytes:
    return f"{text}\n".encode()
