"""Labels as GeoJSON: polygons in the coordinates of georeferenced images.

References
----------
OGC GeoTIFF Standard 1.1 (19-008r4), clauses 7 and B.6; RFC 7946, and for other coordinate systems than WGS 84 the
member ``crs`` of the GeoJSON format specification of 2008, which GDAL and QGIS read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from drstool.artifacts.atomic import new_file
from drstool.data.decoding import tiff_tags
from drstool.errors import InputError
from drstool.exchange.exports import Export
from drstool.exchange.labels_out import Labelled, open_labels
from drstool.exchange.outlines import regions, rings
from drstool.labels import BACKGROUND, ignore_label, label_names
from drstool.reports.text import counted

__all__ = ["GeoReference", "export_geojson", "read_georeference"]

_ORIENTATION, _SCALE, _TIEPOINTS, _MATRIX, _KEYS = 274, 33550, 33922, 34264, 34735
# Keys of the key directory, and their values.
_MODEL, _RASTER, _GEOGRAPHIC, _PROJECTED = 1024, 1025, 2048, 3072
_BY_MODEL = {1: _PROJECTED, 2: _GEOGRAPHIC}
_PIXEL_IS_POINT = 2
_USER_DEFINED = 32767
_WGS_84 = 4326
_RIGHT = "GeoJSON needs georeferenced images (GeoTIFF)"


class GeoReference(NamedTuple):
    """Where an image lies.

    Attributes
    ----------
    epsg
        Code of its coordinate system.
    affine
        a, b, c, d, e, f: pixel edges (x, y) lie at (a x + b y + c, d x + e y + f).
    """

    epsg: int
    affine: tuple[float, ...]

    def at(self, x: float, y: float) -> list[float]:
        """The coordinates of a corner of pixels."""
        a, b, c, d, e, f = self.affine
        return [a * x + b * y + c, d * x + e * y + f]


def export_geojson(export: Export) -> str:
    """One file with a polygon, with its holes, for each region of an object class."""
    features = []
    systems: dict[int, str] = {}
    with open_labels(export, names_images=True) as labels, new_file(export.output, export.overwrite) as making:
        names = label_names(labels.class_names)
        for labelled, (epsg, found) in labels.each(lambda each: _features(each, names)):
            systems.setdefault(epsg, labelled.id)
            if len(systems) > 1:
                (epsg, first), (other, second) = systems.items()
                raise InputError(
                    labels.where, f"'{first}' lies in EPSG:{epsg} and '{second}' in EPSG:{other}",
                    "export images of each coordinate system apart")
            features += found
        epsg, = systems
        collection = {"type": "FeatureCollection", **_system(epsg), "features": features}
        making.write_text(json.dumps(collection, ensure_ascii=False), encoding="utf-8")
    labels.tell_ignored("they are left out, as background is")
    if epsg != _WGS_84:
        export.notify([f"coordinates are those of EPSG:{epsg}, named by the member 'crs', not longitude and latitude"])
    return f"{counted(len(features), 'polygon')} of {counted(labels.count, 'image')}"


def read_georeference(path: Path) -> GeoReference:
    """The georeference of a GeoTIFF.

    Raises
    ------
    InputError
        It has none, or none that is affine and has an EPSG code.
    """
    tags = tiff_tags(path)
    keys = _keys(tags, path)
    affine = _affine(tags, path)
    if tags.get(_ORIENTATION, 1) != 1:
        raise InputError(path, "is stored turned or mirrored", "GeoJSON needs images stored upright")
    if keys.get(_RASTER) == _PIXEL_IS_POINT:
        # Whole numbers are then centres of pixels, which lie half a pixel behind their edges.
        a, b, c, d, e, f = affine
        affine = a, b, c - (a + b) / 2, d, e, f - (d + e) / 2
    epsg = keys.get(_BY_MODEL.get(keys.get(_MODEL, 0), 0), _USER_DEFINED)
    if not 0 < epsg < _USER_DEFINED:
        raise InputError(path, "has a coordinate system without an EPSG code", "convert it to one that has one")
    return GeoReference(epsg, affine)


def _affine(tags: Mapping[int, object], path: Path) -> tuple[float, ...]:
    matrix, scale, points = (_numbers(tags, tag, path) for tag in (_MATRIX, _SCALE, _TIEPOINTS))
    if len(matrix) == 16:
        affine = *matrix[0:2], matrix[3], *matrix[4:6], matrix[7]
    elif len(scale) >= 2 and len(points) >= 6:
        (column, row, _, x, y, _), (right, up) = points[:6], scale[:2]
        affine = right, 0.0, x - column * right, 0.0, -up, y + row * up
    elif matrix or scale or points:
        raise InputError(path, "is placed by control points alone", "warp it, so that its pixels form a grid")
    else:
        raise InputError(path, "has no georeference", _RIGHT)
    a, b, _, d, e, _ = affine
    if not all(map(math.isfinite, affine)) or a * e == b * d:
        raise InputError(path, "has a damaged georeference", _RIGHT)
    return affine


def _keys(tags: Mapping[int, object], path: Path) -> dict[int, int]:
    """Values of the key directory that are numbers of 16 bits."""
    values = [int(value) for value in _numbers(tags, _KEYS, path)]
    entries = [values[place:place + 4] for place in range(4, len(values) - 3, 4)]
    return {key: value for key, stored_in, _, value in entries if stored_in == 0}


def _numbers(tags: Mapping[int, object], tag: int, path: Path) -> tuple[float, ...]:
    found = tags.get(tag, ())
    found = found if isinstance(found, Sequence) and not isinstance(found, (str, bytes)) else (found,)
    if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in found):
        raise InputError(path, "has a damaged georeference", _RIGHT)
    return tuple(found)


def _features(labelled: Labelled, names: Sequence[str]) -> tuple[int, list[dict]]:
    assert labelled.image is not None
    place, unwanted = read_georeference(labelled.image), (BACKGROUND, ignore_label(labelled.labels.dtype))
    return place.epsg, [
        {"type": "Feature", "properties": {"image": labelled.id, "class": names[region.label], "label": region.label},
         "geometry": {"type": "Polygon", "coordinates": [
             _ring(corners, place, counterclockwise=not number) for number, corners in enumerate(rings(region))]}}
        for region in regions(labelled.labels) if region.label not in unwanted]


def _ring(corners: Sequence[tuple[int, int]], place: GeoReference, *, counterclockwise: bool) -> list[list[float]]:
    """A closed ring in the direction that RFC 7946 asks for: counterclockwise outside, clockwise in holes."""
    a, b, _, d, e, _ = place.affine
    # The corners go clockwise as one sees the image, and so on the ground where its rows go down: e < 0.
    points = [place.at(x, y) for x, y in (corners[::-1] if (a * e < b * d) == counterclockwise else corners)]
    return [*points, points[0]]


def _system(epsg: int) -> dict:
    # RFC 7946 knows but WGS 84, and has no word for another one.
    name = f"urn:ogc:def:crs:EPSG::{epsg}"
    return {} if epsg == _WGS_84 else {"crs": {"type": "name", "properties": {"name": name}}}
