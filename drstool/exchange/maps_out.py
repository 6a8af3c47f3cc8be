"""Maps in the formats of other projects: a file for each image, or for each of its classes.

Class numbers count from 0, as in those projects: class number c is label c + 1.

References
----------
The published code of jiwoon-ahn/irn, jiwoon-ahn/psa, qjadud1994/DRS and clovaai/WSSS-BED.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from drstool.artifacts.header import Header
from drstool.cues import resize_maps
from drstool.errors import InputError, UsageError
from drstool.exchange.exports import Export
from drstool.formats import MapRecord, load, open_records, write_files
from drstool.formats.records import encode_values
from drstool.identifiers import Names, member_name
from drstool.labels import channel_of
from drstool.parallel import ordered_map
from drstool.reports.text import counted

__all__ = ["export_drs", "export_irn", "export_npz", "export_png", "export_psa"]

# Of all the DRS authors' maps, which their refiner takes as they are.
_DRS_SIZE = (320, 320)
# Files of one image: names and bytes.
_Files = list[tuple[str, bytes]]


def export_irn(export: Export) -> str:
    """IRN's ``<id>.npy``: a dictionary of ``keys``, ``cam`` (a quarter of the size) and ``high_res`` (the image's)."""
    # Two of the three are tensors in IRN's files, and its later steps call their methods.
    import torch

    def encode(record: MapRecord, classes: Sequence[str]) -> _Files:
        maps = _in_image_size(record)
        strided = tuple((side - 1) // 4 + 1 for side in record.image_size)
        small = torch.nn.functional.interpolate(torch.from_numpy(maps)[None], strided, mode="bilinear")[0] if len(
            maps) else torch.zeros((0, *strided))
        return [(member_name(record.id, ".npy"), _npy({
            "keys": torch.tensor(_numbers(record), dtype=torch.int64), "cam": small, "high_res": maps}))]

    return _export(export, encode)


def export_psa(export: Export) -> str:
    """PSA's ``<id>.npy``, also MCTformer's: a dictionary from class numbers to maps of the image's size."""
    def encode(record: MapRecord, classes: Sequence[str]) -> _Files:
        maps = dict(zip(_numbers(record), _in_image_size(record), strict=True))
        return [(member_name(record.id, ".npy"), _npy(maps))]

    return _export(export, encode)


def export_drs(export: Export) -> str:
    """The DRS authors' ``<id>.npy``: uint8 maps, 320 × 320, of all classes, those of absent ones 0."""
    def fits(record: MapRecord) -> bool:
        return record.values.shape[1:] == _DRS_SIZE

    def encode(record: MapRecord, classes: Sequence[str]) -> _Files:
        maps = record.values if fits(record) else resize_maps(record.as_float(), _DRS_SIZE)
        found = np.zeros((len(classes), *maps.shape[1:]), np.uint8)
        found[_numbers(record)] = maps if maps.dtype == np.uint8 else encode_values(maps, where=record.id)
        return [(member_name(record.id, ".npy"), _npy(found))]

    return _export(export, encode, rounds=True, fits=fits, lacks="class names, image sizes and image paths")


def export_png(export: Export) -> str:
    """``<id>_<class number>.png`` as OAA and WSSS-BED have them: a grey picture of the image's size for each class."""
    def encode(record: MapRecord, classes: Sequence[str]) -> _Files:
        same = record.values.dtype == np.uint8 and _fits_image(record)
        maps = record.values if same else encode_values(_in_image_size(record), where=record.id)
        return [(member_name(f"{record.id}_{number}", ".png"), _png(values))
                for number, values in zip(_numbers(record), maps, strict=True)]

    return _export(export, encode, rounds=True)


def export_npz(export: Export) -> str:
    """``<id>.npz`` with ``maps`` as they are stored, ``labels`` (from 1), ``image_size`` and ``class_names``."""
    def encode(record: MapRecord, classes: Sequence[str]) -> _Files:
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer, maps=record.values, labels=np.array(record.labels, np.int64),
            image_size=np.array(record.image_size, np.int64), class_names=np.array(classes))
        return [(member_name(record.id, ".npz"), buffer.getvalue())]

    return _export(export, encode, fits=lambda record: True, lacks="image paths")


def _fits_image(record: MapRecord) -> bool:
    return record.values.shape[1:] == tuple(record.image_size)


def _export(
    export: Export, encode: Callable[[MapRecord, Sequence[str]], _Files], *, rounds: bool = False,
    fits: Callable[[MapRecord], bool] = _fits_image, lacks: str = "class names and image paths",
) -> str:
    """Write the files of all records.

    Parameters
    ----------
    export
    encode
        Makes the files of one record, given the class names.
    rounds
        Whether the format holds 256 values between 0 and 1.
    fits
        Whether a record's maps need not be resized.
    lacks
        What the format does not hold.
    """
    if export.dataset is not None:
        raise UsageError("--data", "does not go with maps, which name their images", "omit it")
    with open_records(export.source) as source:
        if not source.is_maps or source.header is None:
            raise InputError(source.where, f"holds {source.kind}", "this format holds maps")
        classes = source.header.class_names
        if export.class_names not in (None, classes):
            raise InputError(source.where, "its classes are not those of --classes", "omit --classes")
        header = Header("export", classes, export.history(source.header.provenance))
        losses = _Losses(rounds, lambda record: bool(len(record.values)) and not fits(record))

        def encoded(record: Any) -> tuple[MapRecord, _Files]:
            record = load(record)
            return record, encode(record, classes)

        def files() -> Iterator[tuple[str, bytes]]:
            names = Names(export.output)
            records = export.track(source.lazy_records(), "export", None)
            for record, parts in ordered_map(encoded, records, export.threads):
                losses.add(record, parts)
                for name, data in parts:
                    names.add(name)
                    yield name, data

        written = write_files(export.output, header, files(), overwrite=export.overwrite)
        export.notify([*losses.lines(), f"the files do not hold {lacks}"])
    return f"{counted(len(written), 'file')} of {counted(losses.images, 'image')}"


class _Losses:
    """What a format cannot keep of the maps, counted."""

    def __init__(self, rounds: bool, resizes: Callable[[MapRecord], bool]) -> None:
        self.images, self._rounds, self._resizes = 0, rounds, resizes
        self._rounded = self._clipped = self._resized = self._empty = 0

    def add(self, record: MapRecord, files: _Files) -> None:
        self.images += 1
        self._empty += not files
        self._resized += self._resizes(record)
        if self._rounds and record.values.dtype != np.uint8:
            self._rounded += 1
            self._clipped += bool((record.values > 1).any() or (record.values < 0).any())

    def lines(self) -> list[str]:
        counts = (
            (self._rounded, "values of {} were rounded to 256 steps: the format holds no finer ones"),
            (self._clipped, "values of {} were clipped to 0..1"),
            (self._resized, "maps of {} were resized to what the format holds"),
            (self._empty, "there are no files of {}: they have no maps"))
        return [line.format(counted(count, "image")) for count, line in counts if count]


def _numbers(record: MapRecord) -> list[int]:
    return [channel_of(label) for label in record.labels]


def _in_image_size(record: MapRecord) -> np.ndarray:
    """The maps in their image's size, (K, H, W) float32."""
    maps = record.as_float()
    return maps if _fits_image(record) else resize_maps(maps, record.image_size)


def _npy(value: object) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, value, allow_pickle=True)  # type: ignore[arg-type]
    return buffer.getvalue()


def _png(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    # As OpenCV does: three times as fast as Pillow's own choice, and little larger.
    Image.fromarray(values).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()
