"""Map files: the maps of many images in one HDF5 file.

Layout: root attributes ``format``, ``version``, ``kind``, ``class_names``, ``provenance`` (JSON),
``complete``, ``count``, ``crc32`` and, where the file is one of several shards, ``part`` (JSON);
``/ids``, the image ids in the order they were written; and for each image ``/maps/<id>``, a
``(K, H, W)`` dataset of the K classes present, with the attributes ``labels``, ``image_size`` and
``image``. Texts are UTF-8 of fixed length.

Every bit is covered by a checksum: HDF5 keeps one for its own structures, texts of fixed length included;
deflated maps and ids have zlib's, maps that are not deflated Fletcher's; ``crc32`` is of the header and the ids.
Files without checksums, and with texts of any length, as other programs write them, are read as well.
"""

from __future__ import annotations

import io
import json
import os
import threading
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import h5py
import numpy as np

from drstool.artifacts.atomic import output_error
from drstool.artifacts.header import FORMAT, KINDS, VERSION, Header, json_bytes, record_type
from drstool.errors import ForeignError, InputError, OutputError, UnfinishedError
from drstool.formats.hdf5 import DAMAGE, UntrustedFile, WriteGuard, damaged, with_small_cache
from drstool.formats.records import LazyRecord, MapRecord, check_map_record, check_shape
from drstool.identifiers import check_id
from drstool.labels import MAX_OBJECT_CLASSES, check_class_names, label_type

__all__ = ["MapFileReader", "MapFileWriter", "decode_map", "encode_map", "restored_map"]

# HDF5 1.10 and later read it; older layouts cost 3 KB more for each image.
_LIBVER = ("v110", "v110")
_GZIP_LEVEL = 4
_IDS_IN_CHUNK = 1024


@dataclass(frozen=True, eq=False)
class PackedMap:
    """A record, and each of its maps compressed as it lies in the file."""

    record: MapRecord
    chunks: list[bytes]

    @classmethod
    def of(cls, record: MapRecord) -> PackedMap:
        """The record packed as HDF5's filters would: the bytes of wide values shuffled, then deflated.

        HDF5 lets in one thread at a time; this runs in many.
        """
        chunks = []
        for values in record.values:
            data = np.ascontiguousarray(values)
            if data.dtype.itemsize > 1:
                data = data.reshape(-1).view(np.uint8).reshape(-1, data.dtype.itemsize).T
            chunks.append(zlib.compress(data.tobytes(), _GZIP_LEVEL))
        return cls(record, chunks)


class MapFileWriter:
    """Writes a map file record by record; the file is whole once :meth:`close` has returned.

    Parameters
    ----------
    target
        Path of the file, or a seekable binary file open for reading and writing.
    header
        What the file says about itself.
    where
        Named in errors.

    Raises
    ------
    InputError
        The header is not one of a map file.

    Examples
    --------
    >>> with MapFileWriter(io.BytesIO(), Header("refined-maps", ("cat", "dog"))) as writer:
    ...     writer.write(MapRecord("a", np.uint8([[[0, 255]]]), labels=(2,), image_size=(1, 2)))
    >>> writer.count
    1
    """

    def __init__(self, target: str | Path | BinaryIO, header: Header, *, where: object = None) -> None:
        if KINDS.get(header.kind) != "maps":
            kinds = ", ".join(kind for kind, records in KINDS.items() if records == "maps")
            raise InputError(target, f"its header has the kind {header.kind!r}", f"expected one of {kinds}")
        check_class_names(header.class_names, target)
        self._owned = isinstance(target, (str, os.PathLike))
        self._raw: BinaryIO = open(target, "w+b") if isinstance(target, (str, os.PathLike)) else target  # noqa: SIM115
        self.where = str(where if where is not None else getattr(self._raw, "name", "map file"))
        self._header = header
        self._ids: dict[str, None] = {}
        # Folders of ids, each with an id that lies in it.
        self._folders: dict[str, str] = {}
        self._guard = WriteGuard(self._raw)
        self._file: h5py.File | None = None
        self._last: PackedMap | None = None
        try:
            self._file = with_small_cache(h5py.File(self._guard, "w", libver=_LIBVER))
            _write_header(self._file, header)
            self._raise_failure()
        except BaseException:
            self.abort()
            raise

    @property
    def count(self) -> int:
        """Number of records written."""
        return len(self._ids)

    def prepare(self, record: MapRecord) -> PackedMap:
        """The record checked and compressed: the slow part, which may run in threads.

        Raises
        ------
        InputError
            A map file cannot hold the record.
        """
        check_map_record(record, len(self._header.class_names), self.where)
        return PackedMap.of(record)

    def write(self, record: MapRecord) -> None:
        """Add a record.

        Raises
        ------
        InputError
            A map file cannot hold the record, its id was written before, or is also a folder of another id.
        OutputError
            The system refuses.
        """
        self.put(self.prepare(record))

    def put(self, prepared: PackedMap) -> None:
        """Add what :meth:`prepare` made; raises as :meth:`write`."""
        self._add_id(prepared.record.id)
        try:
            _write_map(self._file, prepared.record, prepared.chunks)
        except DAMAGE:
            self._raise_failure()
            raise
        self._raise_failure()
        self._last = prepared

    def stored(self, record: MapRecord) -> tuple[dict, bytes]:
        """Description and bytes of the record just written, from which :func:`restored_map` makes it again."""
        # Not read from the file: the order in which HDF5 writes its parts down depends on what it is asked.
        chunks = self._last.chunks  # type: ignore[union-attr]
        description = {
            "shape": record.values.shape, "dtype": str(record.values.dtype), "labels": record.labels,
            "image_size": record.image_size, "image": record.image, "parts": [len(chunk) for chunk in chunks],
        }
        return description, b"".join(chunks)

    def close(self) -> None:
        """Finish the file: from here on it says that it is complete."""
        if self._file is None:
            return
        try:
            _finish(self._file, self._header, list(self._ids))
            self._file.flush()
            self._raise_failure()
            file, self._file = self._file, None
            file.close()
            self._raise_failure()
            self._raw.flush()
        except OSError as error:
            raise output_error(self.where, error) from error
        except DAMAGE as error:
            self._raise_failure()
            raise OutputError(self.where, f"cannot be finished: {error}", "check the disk") from error
        finally:
            self.abort()

    def abort(self) -> None:
        """Let go of the file, whole or not."""
        file, self._file = self._file, None
        if file is not None:
            self._guard.disabled = True
            with suppress(*DAMAGE):
                file.close()
        if self._owned:
            with suppress(OSError):
                self._raw.close()

    def __enter__(self) -> MapFileWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def _add_id(self, identifier: str) -> None:
        if identifier in self._ids:
            raise InputError(self.where, f"received '{identifier}' twice", "list each image once")
        parts = identifier.split("/")
        folders = ["/".join(parts[:end]) for end in range(1, len(parts))]
        # HDF5 groups are folders: 'a' and 'a/b' cannot both be images.
        other = self._folders.get(identifier) or next((name for name in folders if name in self._ids), None)
        if other is not None:
            raise InputError(
                self.where, f"cannot hold both '{identifier}' and '{other}'",
                "an id cannot be a folder of another id; rename one",
            )
        self._ids[identifier] = None
        for folder in folders:
            self._folders.setdefault(folder, identifier)

    def _raise_failure(self) -> None:
        failure = self._guard.failure
        if isinstance(failure, OSError):
            raise output_error(self.where, failure) from failure
        if failure is not None:
            raise failure


class MapFileReader:
    """Reads a map file, in stored order or by id.

    Threads may share it, and it may be sent to another process, which opens the file again. After a fork each
    process needs a reader of its own: HDF5's handles do not survive it.

    Parameters
    ----------
    source
        Path of the file, or a seekable binary file.
    where
        Named in errors; the path where not given.

    Raises
    ------
    InputError
        It is not an HDF5 file, not drstool's, damaged, cut short or of a newer version.
    """

    # Whether records are read by their ids, in any order.
    searchable = True

    def __init__(self, source: str | Path | BinaryIO, where: object = None) -> None:
        self._source, self.where = source, str(where if where is not None else source)
        self._lock = threading.Lock()
        self._file = UntrustedFile(source, self.where)
        try:
            with damaged(self.where, "has a damaged header"):
                self.header = _read_header(self._file, self.where)
            with damaged(self.where, "has a damaged list of images"):
                self._maps = self._file.member(self._file.root, "maps", self.where)
                self._ids = _read_ids(self._file, self._maps, self.header, self.where)
        except BaseException:
            self.close()
            raise
        self._known = frozenset(self._ids)

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, identifier: object) -> bool:
        return identifier in self._known

    def __iter__(self) -> Iterator[MapRecord]:
        return (self.read(identifier) for identifier in self._ids)

    def ids(self) -> tuple[str, ...]:
        """The image ids in stored order."""
        return self._ids

    def read(self, identifier: str) -> MapRecord:
        """The maps of one image.

        Raises
        ------
        InputError
            There is no such image in the file, or its record is damaged.
        """
        if identifier not in self._known:
            raise InputError(self.where, f"holds no maps for '{identifier}'", "see 'drstool info'")
        where = f"{self.where}: {identifier}"
        # HDF5 lets in one thread at a time; several would hand it to and fro at each of many calls.
        with self._lock, damaged(where, "its maps are damaged", "recreate them"):
            record = _read_map(self._file, self._maps, identifier, where)
        check_map_record(record, len(self.header.class_names), self.where)
        return record

    def labels(self, identifier: str) -> tuple[int, ...]:
        """The label values of the maps of one image that is in the file; its maps are not read.

        Raises
        ------
        InputError
            They are damaged.
        """
        where = f"{self.where}: {identifier}"
        with self._lock, damaged(where, "its maps are damaged", "recreate them"):
            labels = _labels(self._file, _node(self._file, self._maps, identifier, where), where)
        if any(not 1 <= label <= len(self.header.class_names) for label in labels):
            raise InputError(where, f"has the labels {list(labels)[:8]}", "recreate it")
        return labels

    def lazy(self, identifier: str) -> LazyRecord:
        """As :meth:`read`, left for later."""
        return LazyRecord(identifier, partial(self.read, identifier), is_maps=True)

    def check_extent(self) -> None:
        """Check that the file holds no maps that it does not list, and ends where it says.

        Raises
        ------
        InputError
            It does not.
        """
        with damaged(self.where, "has a damaged list of images"):
            unlisted = next(
                (name for name in self._file.names(self._maps, self.where) if name not in self._known), None)
        if unlisted is not None:
            raise InputError(
                self.where, f"holds maps for '{unlisted}', which is not in its list of images", "recreate it")
        self._file.check_end(self.where)

    def close(self) -> None:
        """Let go of the file."""
        # Not while a thread reads.
        with self._lock:
            self._file.close()

    def __enter__(self) -> MapFileReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple:
        return type(self), (self._source, self.where)


def restored_map(identifier: str, description: dict, data: bytes, where: object) -> MapRecord:
    """The record that :meth:`MapFileWriter.stored` described.

    Raises
    ------
    InputError
        It is damaged.
    """
    with damaged(f"{where}: {identifier}", "its maps are damaged", "start from scratch"):
        dtype, shape = np.dtype(description["dtype"]), tuple(description["shape"])
        check_shape(shape, dtype, where)
        size, place, maps = shape[1] * shape[2] * dtype.itemsize, 0, []
        for length in description["parts"]:
            # Earlier versions kept another checksum behind what is deflated.
            part = zlib.decompressobj().decompress(data[place: place + length], size)
            maps.append(np.frombuffer(part, np.uint8).reshape(dtype.itemsize, -1).T.tobytes())
            place += length
        return MapRecord(
            identifier, np.frombuffer(b"".join(maps), dtype).reshape(shape), tuple(description["labels"]),
            tuple(description["image_size"]), description["image"])  # type: ignore[arg-type]


def encode_map(record: MapRecord, header: Header, *, compress: bool = False) -> bytes:
    """A whole map file that holds one record, made in memory; for streams.

    Raises
    ------
    InputError
        The record is not one a map file can hold.
    """
    check_map_record(record, len(header.class_names), "stream")
    # Not HDF5's own file in memory: until version 2 the image of one that is open has a wrong checksum.
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", libver=_LIBVER) as file:
        _write_header(file, header)
        _write_map(file, record, PackedMap.of(record).chunks if compress else None)
        _finish(file, header, [record.id])
    return buffer.getvalue()


def decode_map(data: bytes, header: Header, where: object) -> MapRecord:
    """The record of a map file that holds one; the inverse of :func:`encode_map`.

    Raises
    ------
    InputError
        It is not a map file, holds another number of records, or its classes differ from the header's.
    """
    with MapFileReader(io.BytesIO(data), where) as reader:
        if len(reader) != 1:
            raise InputError(where, f"holds {len(reader)} records", "a stream's member holds one")
        if reader.header.class_names != header.class_names:
            raise InputError(where, "has other classes than its stream", "recreate the stream")
        return reader.read(reader.ids()[0])


# --- writing -----------------------------------------------------------------------------------


def _fixed_texts(texts: list[str]) -> tuple[np.ndarray, np.dtype]:
    """Texts as HDF5 takes them, and their type.

    They are of fixed length, since HDF5 keeps others apart, without a checksum. Paths may not be valid
    Unicode; their bytes are kept, and reading gives the same path again.
    """
    encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
    kind = h5py.string_dtype("utf-8", max([1, *map(len, encoded)]))
    return np.array(encoded, kind), kind


def _set_text(attrs: h5py.AttributeManager, name: str, text: str) -> None:
    values, kind = _fixed_texts([text])
    attrs.create(name, values[0], dtype=kind)


def _write_header(file: h5py.File, header: Header) -> None:
    _set_text(file.attrs, "format", FORMAT)
    file.attrs["version"] = VERSION
    _set_text(file.attrs, "kind", header.kind)
    names, kind = _fixed_texts(list(header.class_names))
    file.attrs.create("class_names", names, dtype=kind)
    _set_text(file.attrs, "provenance", json_bytes(list(header.provenance)).decode())
    if header.shard is not None:
        _set_text(file.attrs, "part", json_bytes(header.shard.to_json()).decode())
    file.attrs["complete"] = False
    file.create_group("maps")


def _write_map(file: h5py.File, record: MapRecord, chunks: list[bytes] | None) -> None:
    """Add a record, with its maps as they are packed, or as they are."""
    values, maps = np.ascontiguousarray(record.values), file["maps"]
    if not values.size:
        dataset = maps.create_dataset(record.id, data=values)
    elif chunks is None:
        dataset = maps.create_dataset(record.id, data=values, chunks=(1, *values.shape[1:]), fletcher32=True)
    else:
        # Shuffling the bytes pays where a value has more than one.
        dataset = maps.create_dataset(
            record.id, shape=values.shape, dtype=values.dtype, chunks=(1, *values.shape[1:]),
            compression="gzip", compression_opts=_GZIP_LEVEL, shuffle=values.dtype.itemsize > 1)
        for k, chunk in enumerate(chunks):
            dataset.id.write_direct_chunk((k, 0, 0), chunk)
    dataset.attrs["labels"] = np.array(record.labels, dtype=label_type(max(record.labels, default=0)))
    dataset.attrs["image_size"] = np.array(record.image_size, dtype=np.int64)
    _set_text(dataset.attrs, "image", record.image)


def _finish(file: h5py.File, header: Header, ids: list[str]) -> None:
    texts, kind = _fixed_texts(ids)
    options = {"chunks": (min(len(ids), _IDS_IN_CHUNK),), "compression": "gzip"} if len(ids) > 1 else {}
    file.create_dataset("ids", data=texts, dtype=kind, **options)
    file.attrs["count"] = len(ids)
    file.attrs["crc32"] = np.uint32(_header_crc32(header, ids))
    file.attrs["complete"] = True


def _header_crc32(header: Header, ids: Iterable[str]) -> int:
    """Checksum of the header's texts and the ids, and of where each ends."""
    provenance = json_bytes(list(header.provenance)).decode()
    part = [] if header.shard is None else [json_bytes(header.shard.to_json()).decode()]
    crc = 0
    for text in (header.kind, *header.class_names, provenance, *part, *ids):
        data = text.encode("utf-8", "surrogateescape")
        crc = zlib.crc32(data, zlib.crc32(b"%d:" % len(data), crc))
    return crc


# --- reading -----------------------------------------------------------------------------------


def _read_header(file: UntrustedFile, where: str) -> Header:
    root = file.root
    if file.attribute(root, "format", str) != FORMAT:
        raise ForeignError(where, "is an HDF5 file, but not one of drstool's", "convert it with 'drstool import'")
    header = Header.from_json({
        "format": FORMAT,
        "version": file.attribute(root, "version", int),
        "kind": file.attribute(root, "kind", str),
        "class_names": file.attribute(root, "class_names", str, most=MAX_OBJECT_CLASSES + 1),
        "provenance": json.loads(file.attribute(root, "provenance", str) or "[]"),
        "part": json.loads(file.attribute(root, "part", str) or "null"),
    }, where)
    if record_type(header.kind) != "maps":
        raise InputError(where, f"claims to hold {header.kind}", "a map file holds maps")
    complete = file.attribute(root, "complete", int)
    if complete is None:
        raise InputError(where, "lacks the attribute 'complete'", "see 'A map file of your own' in examples/files.md")
    if not complete:
        raise UnfinishedError(where, "is not complete", "rerun the command that wrote it")
    return header


def _read_ids(file: UntrustedFile, maps: h5py.h5g.GroupID, header: Header, where: str) -> tuple[str, ...]:
    root = file.root
    if root.links.exists(b"ids"):
        ids = file.texts(file.member(root, "ids", where), where)
    else:  # Another program's file.
        ids = list(file.names(maps, where))
    for identifier in ids:
        check_id(identifier, where)
    count, crc = file.attribute(root, "count", int), file.attribute(root, "crc32", int)
    if count not in (None, len(ids)) or len(set(ids)) != len(ids):
        raise InputError(where, f"lists {len(set(ids))} images, but its header says {count}", "it is damaged")
    if crc not in (None, _header_crc32(header, ids)):
        raise InputError(where, "its header or list of images was changed or damaged", "recreate it")
    return tuple(ids)


def _node(file: UntrustedFile, maps: h5py.h5g.GroupID, identifier: str, where: str) -> h5py.h5d.DatasetID:
    node = maps
    for part in identifier.split("/"):
        node = file.member(node, part, where)
    return node


def _labels(file: UntrustedFile, node: h5py.h5d.DatasetID, where: str) -> tuple[int, ...]:
    return _numbers(file, node, "labels", MAX_OBJECT_CLASSES, where)


def _numbers(file: UntrustedFile, node: h5py.h5d.DatasetID, name: str, most: int, where: str) -> tuple[int, ...]:
    found = file.attribute(node, name, int, most=most)
    if found is None:
        raise InputError(where, f"lacks the attribute '{name}'", "see 'A map file of your own' in examples/files.md")
    return tuple(found)


def _read_map(file: UntrustedFile, maps: h5py.h5g.GroupID, identifier: str, where: str) -> MapRecord:
    node = _node(file, maps, identifier, where)
    check_shape(node.shape, node.dtype.newbyteorder("="), where)
    return MapRecord(
        identifier,
        file.array(node, where),
        _labels(file, node, where),
        _numbers(file, node, "image_size", 2, where),  # type: ignore[arg-type]
        file.attribute(node, "image", str) or "",
    )
