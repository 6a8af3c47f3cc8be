"""Map files: the maps of many images in one HDF5 file.

Layout: root attributes ``format``, ``version``, ``kind``, ``class_names``, ``provenance`` (JSON),
``complete``, ``count``, ``crc32`` and, where the file is one of several parts, ``part`` (JSON);
``/ids``, the image ids in the order they were written; and for each image ``/maps/<id>``, a
``(K, H, W)`` dataset of the K classes present, with the attributes ``labels``, ``image_size`` and
``image``. Texts are UTF-8 of a fixed length.

Every bit is covered by a checksum: HDF5 has its own for what it builds the file of, texts of fixed length
included, the maps and ids have Fletcher's by its filter, and ``crc32`` is of the header and the ids. Files
without, and with texts of any length, as other programs write them, are read as well.
"""

from __future__ import annotations

import io
import itertools
import json
import math
import mmap
import os
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from drstool.artifacts.atomic import output_error
from drstool.artifacts.header import FORMAT, HDF5_SIGNATURE, MAX_HEADER_BYTES, VERSION, Header, carrier, json_bytes
from drstool.errors import ForeignError, InputError, UnfinishedError
from drstool.formats.chunks import packed
from drstool.formats.records import LazyRecord, MapRecord, check_map_record, check_shape
from drstool.identifiers import check_id
from drstool.labels import MAX_OBJECT_CLASSES, label_type

__all__ = ["MapFileReader", "MapFileWriter", "decode_map", "encode_map", "restored_map"]

# On disk; in memory it is some ten times as much.
_CACHE_BYTES = 1 << 18
# HDF5 1.10 and later read it; older layouts cost 3 KB more for each image.
_LIBVER = ("v110", "v110")
_GZIP_LEVEL = 4
# Of Fletcher32, at the end of each chunk.
_CHECKSUM_BYTES = 4
# No other filters are run: HDF5 would look for a library of that number and load it.
_FILTERS = {
    h5py.h5z.FILTER_DEFLATE: "deflate", h5py.h5z.FILTER_SHUFFLE: "shuffle",
    h5py.h5z.FILTER_FLETCHER32: "fletcher32",
}
# Deflate shrinks by 1032 at the most: a file that claims more is a lie, told before memory is taken.
_MOST_DEFLATED = 1100
# What deflate adds to data that do not shrink, in bytes and as a share of them, and the checksum.
_FRAME_BYTES, _FRAME_SHARE = 64, 1 / 500
# A heap's signature and version, and what goes before its entries and before each one's content.
_HEAP, _HEAP_HEAD, _ENTRY_HEAD = b"GCOL\x01", 16, 16
_NUMBERS = (h5py.h5t.INTEGER, h5py.h5t.FLOAT)
_MAX_ID_BYTES = 1 << 12
_IDS_AT_ONCE, _IDS_IN_CHUNK = 64, 1024
_DEEPEST = 64
# As many class names as there may be, each as long as it may be.
_MAX_ATTRIBUTE_BYTES = 4 * MAX_HEADER_BYTES
# Of the block that every file of the newer form begins with: its size, and where it tells the file's.
_SUPERBLOCK_BYTES, _END_OF_FILE = 48, slice(28, 36)
# What h5py raises on damaged files.
_DAMAGE = (
    OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError, IndexError,
    OverflowError,
)

_memory_names = itertools.count()


@dataclass(frozen=True, eq=False)
class PackedMap:
    """A record and its maps as they lie in the file, one chunk each; None: not compressed."""

    record: MapRecord
    chunks: list[bytes] | None


class MapFileWriter:
    """Writes a map file record by record; the file is whole once :meth:`close` has returned.

    Parameters
    ----------
    target
        Path of the file, or a seekable binary file open for reading and writing.
    header
        What the file says about itself.
    compress
        Whether the maps are deflated.
    where
        Named in errors.
    """

    def __init__(
        self,
        target: str | Path | BinaryIO,
        header: Header,
        *,
        compress: bool = True,
        where: object = None,
    ) -> None:
        self._owned = isinstance(target, (str, os.PathLike))
        self._raw = open(target, "w+b") if self._owned else target  # noqa: SIM115
        self.where = str(where if where is not None else getattr(self._raw, "name", "map file"))
        self._header, self._compress = header, compress
        self._ids = _Ids(self.where)
        self._guard = _Guard(self._raw)
        self._file = None
        self._last: PackedMap | None = None
        try:
            self._file = _forgetful(h5py.File(self._guard, "w", libver=_LIBVER))
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
        """The record checked and compressed: what costs time, and may be done by threads.

        Raises
        ------
        InputError
            The record is none.
        """
        check_map_record(record, len(self._header.class_names), self.where)
        return PackedMap(record, [packed(one, _GZIP_LEVEL) for one in record.values] if self._compress else None)

    def write(self, record: MapRecord) -> None:
        """Add a record.

        Raises
        ------
        InputError
            The record is none, or its id was written before, or is also a folder of another id.
        OutputError
            The system refuses.
        """
        self.put(self.prepare(record))

    def put(self, prepared: PackedMap) -> None:
        """Add what :meth:`prepare` made; raises as :meth:`write`."""
        self._ids.add(prepared.record.id)
        try:
            _write_map(self._file, prepared)
        except _DAMAGE:
            self._raise_failure()
            raise
        self._raise_failure()
        self._last = prepared

    def stored(self, record: MapRecord) -> tuple[dict, bytes]:
        """How a record just written lies in the file, for :func:`restored_map`: its description and bytes."""
        # Not read from the file: what HDF5 is asked for decides in which order it writes things down.
        parts = self._last.chunks if self._last is not None and self._last.record is record else None
        if parts is None:
            dataset = self._file["maps"][record.id].id  # type: ignore[index]
            parts = [dataset.read_direct_chunk((k, 0, 0))[1] for k in range(len(record.values))]
            self._raise_failure()
        told = {
            "shape": record.values.shape, "dtype": str(record.values.dtype), "labels": record.labels,
            "image_size": record.image_size, "image": record.image, "deflated": self._compress,
            "parts": [len(part) for part in parts],
        }
        return told, b"".join(parts)

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
        finally:
            self.abort()

    def abort(self) -> None:
        """Let go of the file, whole or not."""
        file, self._file = self._file, None
        if file is not None:
            self._guard.deaf = True
            with suppress(*_DAMAGE):
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

    def _raise_failure(self) -> None:
        failure = self._guard.failure
        if isinstance(failure, OSError):
            raise output_error(self.where, failure) from failure
        if failure is not None:
            raise failure


class MapFileReader:
    """Reads a map file, in stored order or by id.

    May be sent to another process, or used in a forked one, where the file is opened anew.

    Parameters
    ----------
    source
        Path of the file, or a seekable binary file.
    where
        Named in errors; the path where not given.

    Raises
    ------
    InputError
        It is no HDF5 file, none of drstool's, damaged, cut short or of a newer version.
    """

    # Whether records are read by their ids, in any order.
    searchable = True

    def __init__(self, source: str | Path | BinaryIO, where: object = None) -> None:
        self._source = source
        self.where = str(where if where is not None else source)
        self._pid = os.getpid()
        self._heaps = _Heaps(source)
        self._maps: h5py.h5g.GroupID | None = None
        self._lock = threading.Lock()
        self._file = _open(source, self.where)
        try:
            self.header = _read_header(self._file, self._heaps, self.where)
            self._ids = _read_ids(self._file, self._heaps, self.header, self.where)
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
        if self._pid != os.getpid():
            # A thread that is not in this process may have held it.
            self._lock = threading.Lock()
        # HDF5 lets only one thread in; asked by several at once, it is passed to and fro at each of many calls.
        with self._lock:
            return self._read(identifier)

    def lazy(self, identifier: str) -> LazyRecord:
        """As :meth:`read`, left for later."""
        return LazyRecord(identifier, partial(self.read, identifier), is_maps=True)

    def _read(self, identifier: str) -> MapRecord:
        if identifier not in self._known:
            raise InputError(self.where, f"holds no maps of '{identifier}'", "see 'drstool info'")
        num_object_classes = len(self.header.class_names)
        file = self._opened()
        told = f"{self.where}: {identifier}"
        try:
            if self._maps is None:
                self._maps = _member(file.id, "maps", told)
            record = _read_map(self._maps, identifier, self._heaps, told)
        except _DAMAGE as error:
            raise InputError(told, "its maps are damaged", "make them again") from error
        check_map_record(record, num_object_classes, self.where)
        return record

    def check_extent(self) -> None:
        """Check that the file holds no maps that it does not list, and ends where it says.

        Raises
        ------
        InputError
            It does not.
        """
        file = self._opened()
        try:
            unlisted = next((i for i in _walk(_hard(file, "maps", self.where), self.where)
                             if i not in self._known), None)
        except _DAMAGE as error:
            raise InputError(self.where, "has a damaged list of images", "make it again") from error
        if unlisted is not None:
            raise InputError(self.where, f"holds maps of '{unlisted}', which it does not list", "make it again")
        if isinstance(self._source, (str, os.PathLike)):
            more = os.path.getsize(self._source) - _told_size(self._source)
            if more > 0:
                raise InputError(self.where, f"goes on for {more} bytes after its end", "copy it again")

    def close(self) -> None:
        """Let go of the file."""
        # Not while a thread reads; of another process's threads none does here.
        with self._lock if self._pid == os.getpid() else nullcontext():
            self._maps = None
            if self._file is not None and self._pid == os.getpid():
                self._file.close()
            self._file = None

    def __enter__(self) -> MapFileReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict:
        if not isinstance(self._source, (str, os.PathLike)):
            raise TypeError("a map file without a path cannot be sent to another process")
        return {name: value for name, value in self.__dict__.items() if name != "_lock"} | {
            "_file": None, "_maps": None}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def _opened(self) -> h5py.File:
        # HDF5's handles are neither picklable nor safe to share with a forked process.
        if self._pid != os.getpid() or self._file is None:
            self._file, self._pid, self._maps = _open(self._source, self.where), os.getpid(), None
        return self._file


def restored_map(identifier: str, told: dict, data: bytes, where: object) -> MapRecord:
    """The record that :meth:`MapFileWriter.stored` tells of.

    Raises
    ------
    InputError
        It is damaged.
    """
    try:
        shape, dtype, place, parts = tuple(told["shape"]), np.dtype(told["dtype"]), 0, []
        for length in told["parts"]:
            # Without the checksum that HDF5 puts at the end.
            part = data[place: place + length - _CHECKSUM_BYTES]
            place += length
            if told["deflated"]:
                part = zlib.decompress(part)
                if dtype.itemsize > 1:
                    part = np.frombuffer(part, np.uint8).reshape(dtype.itemsize, -1).T.tobytes()
            parts.append(part)
        values = np.frombuffer(b"".join(parts), dtype).reshape(shape)
        return MapRecord(
            identifier, values, tuple(told["labels"]), tuple(told["image_size"]), told["image"])  # type: ignore[arg-type]
    except (*_DAMAGE, zlib.error) as error:
        raise InputError(f"{where}: {identifier}", "its maps are damaged", "begin anew") from error


def encode_map(record: MapRecord, header: Header, *, compress: bool = False) -> bytes:
    """A whole map file that holds one record, made in memory; for streams.

    Raises
    ------
    InputError
        The record is not one a map file can hold.
    """
    check_map_record(record, len(header.class_names), "stream")
    name = f"drstool-memory-{next(_memory_names)}"
    with h5py.File(name, "w", driver="core", backing_store=False, libver=_LIBVER) as file:
        _write_header(file, header)
        chunks = [packed(one, _GZIP_LEVEL) for one in record.values] if compress else None
        _write_map(file, PackedMap(record, chunks))
        _finish(file, header, [record.id])
        file.flush()
        return file.id.get_file_image()


def decode_map(data: bytes, header: Header, where: object) -> MapRecord:
    """The record of a map file that holds one; the inverse of :func:`encode_map`.

    Raises
    ------
    InputError
        It is no map file, holds another number of records, or its classes differ from the header's.
    """
    with MapFileReader(io.BytesIO(data), where) as reader:
        if len(reader) != 1:
            raise InputError(where, f"holds {len(reader)} records", "a stream's member holds one")
        if reader.header.class_names != header.class_names:
            raise InputError(where, "has other classes than its stream", "make the stream again")
        return reader.read(reader.ids()[0])


class _Guard(io.RawIOBase):
    """The file HDF5 writes to; keeps a failure for later and then pretends that all goes well.

    HDF5 cannot close a file whose last blocks cannot be written: it keeps the handle, leaks, and
    complains at exit. So the failure is told by the writer, and HDF5 never hears of it.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._end = 0
        self.failure: BaseException | None = None
        self.deaf = False

    def write(self, data: memoryview) -> int:  # type: ignore[override]
        size = len(data)
        self._guarded(lambda: self._file.write(data))
        self._end += size
        return size

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        got = self._guarded(lambda: self._file.readinto(buffer)) or 0  # type: ignore[attr-defined]
        # Blocks that a failure kept from the disk; nobody will use them any more.
        if got < len(buffer) and (self.deaf or self.failure):
            buffer[got:] = bytes(len(buffer) - got)
            return len(buffer)
        return got

    def seek(self, offset: int, whence: int = 0) -> int:
        # Moving writes out what is buffered, so it fails like writing; HDF5 asks for the end so.
        place = self._guarded(lambda: self._file.seek(offset, whence))
        return place if place is not None else offset if whence == os.SEEK_SET else self._end

    def tell(self) -> int:
        return self._guarded(self._file.tell) or 0

    def truncate(self, size: int | None = None) -> int:
        self._guarded(lambda: self._file.truncate(size))
        return size or 0

    def flush(self) -> None:
        self._guarded(self._file.flush)

    def _guarded(self, action: Callable[[], int | None]) -> int | None:
        if self.deaf or self.failure is not None:
            return None
        try:
            return action()
        except BaseException as failure:
            self.failure = failure
            return None


class _Ids:
    """The ids of a map file; as HDF5 groups are folders, 'a' and 'a/b' cannot both be images."""

    def __init__(self, where: object) -> None:
        self._where = where
        self._seen: dict[str, None] = {}
        self._folders: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._seen)

    def __iter__(self) -> Iterator[str]:
        return iter(self._seen)

    def add(self, identifier: str) -> None:
        if identifier in self._seen:
            raise InputError(self._where, f"gets '{identifier}' twice", "list each image once")
        parts = identifier.split("/")
        folders = ["/".join(parts[:end]) for end in range(1, len(parts))]
        other = self._folders.get(identifier) or next((f for f in folders if f in self._seen), None)
        if other is not None:
            raise InputError(
                self._where, f"cannot hold both '{identifier}' and '{other}'",
                "an id may not be the folder of another id: rename one",
            )
        self._seen[identifier] = None
        for folder in folders:
            self._folders.setdefault(folder, identifier)


def _stored_texts(texts: list[str]) -> tuple[np.ndarray, np.dtype]:
    """Texts as HDF5 takes them, and their type.

    Of a fixed length, since HDF5 keeps the others apart, where nothing tells if they are damaged. Paths
    may be no Unicode; their bytes are kept, and reading gives the same path again.
    """
    encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
    width = max(1, *map(len, encoded)) if encoded else 1
    kind = h5py.string_dtype("utf-8", width)
    return np.array(encoded, kind), kind


def _set_text(attrs: h5py.AttributeManager, name: str, text: str) -> None:
    values, kind = _stored_texts([text])
    attrs.create(name, values[0], dtype=kind)


def _write_header(file: h5py.File, header: Header) -> None:
    _set_text(file.attrs, "format", FORMAT)
    file.attrs["version"] = VERSION
    _set_text(file.attrs, "kind", header.kind)
    names, kind = _stored_texts(list(header.class_names))
    file.attrs.create("class_names", names, dtype=kind)
    _set_text(file.attrs, "provenance", json_bytes(list(header.provenance)).decode())
    if header.part is not None:
        _set_text(file.attrs, "part", json_bytes(header.part.to_json()).decode())
    file.attrs["complete"] = False
    file.create_group("maps")


def _write_map(file: h5py.File, prepared: PackedMap) -> None:
    record, chunks = prepared.record, prepared.chunks
    values = np.ascontiguousarray(record.values)
    options: dict = {}
    if values.size:
        options = {"chunks": (1, *values.shape[1:]), "fletcher32": True}
        if chunks is not None:
            # Shuffling the bytes pays where a value has more than one.
            options |= {"compression": "gzip", "compression_opts": _GZIP_LEVEL}
            options["shuffle"] = values.dtype.itemsize > 1
    if values.size and chunks is not None:
        dataset = file["maps"].create_dataset(record.id, shape=values.shape, dtype=values.dtype, **options)
        for k, chunk in enumerate(chunks):
            dataset.id.write_direct_chunk((k, 0, 0), chunk)
    else:
        dataset = file["maps"].create_dataset(record.id, data=values, **options)
    dataset.attrs["labels"] = np.array(record.labels, dtype=label_type(max(record.labels, default=0)))
    dataset.attrs["image_size"] = np.array(record.image_size, dtype=np.int64)
    _set_text(dataset.attrs, "image", record.image)


def _finish(file: h5py.File, header: Header, ids: list[str]) -> None:
    texts, kind = _stored_texts(ids)
    options: dict = {}
    if len(ids) > 1:
        options = {"chunks": (min(len(ids), _IDS_IN_CHUNK),), "fletcher32": True, "compression": "gzip"}
    file.create_dataset("ids", data=texts, dtype=kind, **options)
    file.attrs["count"] = len(ids)
    file.attrs["crc32"] = np.uint32(_header_crc32(header, ids))
    file.attrs["complete"] = True


def _crc32(*texts: str) -> int:
    """Checksum of texts, and of where each ends."""
    crc = 0
    for text in texts:
        data = text.encode("utf-8", "surrogateescape")
        crc = zlib.crc32(data, zlib.crc32(b"%d:" % len(data), crc))
    return crc


def _header_crc32(header: Header, ids: Iterable[str]) -> int:
    provenance = json_bytes(list(header.provenance)).decode()
    part = [] if header.part is None else [json_bytes(header.part.to_json()).decode()]
    return _crc32(header.kind, *header.class_names, provenance, *part, *ids)


def _open(source: str | Path | BinaryIO, where: str) -> h5py.File:
    try:
        if isinstance(source, (str, os.PathLike)):
            with open(source, "rb") as file:
                signature = file.read(len(HDF5_SIGNATURE))
        else:
            source.seek(0)
            signature = source.read(len(HDF5_SIGNATURE))
    except OSError as error:
        raise InputError(where, f"cannot be read: {error.strerror or error}") from error
    if signature != HDF5_SIGNATURE:
        raise InputError(
            where, "is no HDF5 file", "a map file is made by 'drstool cam' or 'drstool import'")
    try:
        if isinstance(source, (str, os.PathLike)):
            return _forgetful(h5py.File(source, "r", locking=False))
        return _forgetful(h5py.File(source, "r"))
    except _DAMAGE as error:
        raise InputError(where, "is damaged or cut short", "make or copy it again") from error


def _forgetful(file: h5py.File) -> h5py.File:
    """The file, of whose descriptions HDF5 keeps a few hundred in memory and not tens of thousands.

    Each image's is looked at once; by default they take 6 KB an image.
    """
    settings = file.id.get_mdc_config()
    settings.set_initial_size = True
    settings.initial_size = settings.min_size = settings.max_size = _CACHE_BYTES
    file.id.set_mdc_config(settings)
    return file


def _told_size(path: str | Path) -> int:
    """Bytes that a file says it has; as many as there are where it is of HDF5's old form.

    HDF5 tells of files that are shorter than they say, but not of longer ones, and of neither by itself.
    """
    with open(path, "rb") as file:
        start = file.read(_SUPERBLOCK_BYTES)
    if len(start) < _SUPERBLOCK_BYTES or start[8] not in (2, 3) or start[9] != 8:
        return os.path.getsize(path)
    return int.from_bytes(start[_END_OF_FILE], "little")


def _read_header(file: h5py.File, heaps: _Heaps, where: str) -> Header:
    try:
        if _attribute(file.id, "format", heaps) != FORMAT:
            raise ForeignError(
                where, "is an HDF5 file, but none of drstool's", "see 'drstool import'")
        value = {
            "format": FORMAT,
            "version": _integer(_attribute(file.id, "version", heaps)),
            "kind": _attribute(file.id, "kind", heaps),
            "class_names": _attribute(file.id, "class_names", heaps, most=MAX_OBJECT_CLASSES + 1),
            "provenance": _json(_attribute(file.id, "provenance", heaps) or "[]", where),
            "part": _json(_attribute(file.id, "part", heaps) or "null", where),
        }
        complete = bool(_attribute(file.id, "complete", heaps))
    except _DAMAGE as error:
        raise InputError(where, "has a damaged header", "make it again") from error
    header = Header.from_json(value, where)
    if carrier(header.kind) != "maps":
        raise InputError(where, f"says it holds {header.kind}", "a map file holds maps")
    if not complete:
        raise UnfinishedError(where, "is not complete", "run the command that wrote it again")
    return header


def _read_ids(file: h5py.File, heaps: _Heaps, header: Header, where: str) -> tuple[str, ...]:
    try:
        maps = _hard(file, "maps", where)
        if not isinstance(maps, h5py.Group):
            raise InputError(where, "holds no group /maps", "it is damaged")
        listed = _hard(file, "ids", where) if file.id.links.exists(b"ids") else None
        ids = tuple(_walk(maps, where)) if listed is None else _listed_ids(listed, heaps, where)
        count, crc = _attribute(file.id, "count", heaps), _attribute(file.id, "crc32", heaps)
    except _DAMAGE as error:
        raise InputError(where, "has a damaged list of images", "make it again") from error
    for identifier in ids:
        check_id(identifier, where)
    if count is None:
        count = len(ids)
    if count != len(ids) or len(set(ids)) != len(ids):
        raise InputError(
            where, f"lists {len(set(ids))} images where it says {count}", "it is damaged")
    if crc is not None and crc != _header_crc32(header, ids):
        raise InputError(where, "its header or list of images was changed or damaged", "make it again")
    return ids


def _listed_ids(dataset: h5py.Dataset, heaps: _Heaps, where: str) -> tuple[str, ...]:
    if not isinstance(dataset, h5py.Dataset) or dataset.ndim != 1 or not _is_text(dataset.id.get_type()):
        raise InputError(where, "has a list of images that is none", "it is damaged")
    _check_storage(dataset.id, where)
    if dataset.id.get_type().is_variable_str():
        heaps.check()
    elif dataset.id.get_type().get_size() > _MAX_ID_BYTES:
        raise InputError(where, "has a list of images that is none", "it is damaged")
    ids: list[str] = []
    for start in range(0, len(dataset), _IDS_AT_ONCE):
        # By portions: all of a list that is a lie may name one long text.
        ids += map(_text, dataset[start: start + _IDS_AT_ONCE])
        if any(len(identifier) > _MAX_ID_BYTES for identifier in ids[start:]):
            raise InputError(where, "has a list of images that is none", "it is damaged")
    return tuple(ids)


def _walk(group: h5py.Group, where: str, prefix: str = "", above: frozenset = frozenset()) -> Iterator[str]:
    """Ids of a map file made without drstool, which has no ``/ids``: all datasets, by name."""
    place = h5py.h5o.get_info(group.id).addr
    if place in above or len(above) > _DEEPEST:
        raise InputError(where, "has groups in groups without end", "it is damaged")
    for name in group:
        node = _hard(group, name, where)
        if isinstance(node, h5py.Group):
            yield from _walk(node, where, f"{prefix}{name}/", above | {place})
        else:
            yield prefix + name


def _read_map(maps: h5py.h5g.GroupID, identifier: str, heaps: _Heaps, told: str) -> MapRecord:
    # By HDF5's own functions: h5py's objects take as long to make as a map to read.
    node = maps
    for part in identifier.split("/"):
        node = _member(node, part, told)
    if not isinstance(node, h5py.h5d.DatasetID) or node.get_type().get_class() not in _NUMBERS:
        raise InputError(told, "is no dataset of numbers", "maps are (K, H, W) uint8 or float16")
    dtype = node.dtype.newbyteorder("=")
    check_shape(node.shape, dtype, told)
    _check_storage(node, told)
    values = np.empty(node.shape, dtype)
    if values.size:
        node.read(h5py.h5s.ALL, h5py.h5s.ALL, values)
    return MapRecord(
        identifier,
        values,
        tuple(map(_integer, np.atleast_1d(_attribute(node, "labels", heaps, most=MAX_OBJECT_CLASSES)))),
        tuple(map(_integer, _attribute(node, "image_size", heaps, most=2))),  # type: ignore[arg-type]
        _attribute(node, "image", heaps) or "",
    )


class _Heaps:
    """Where a file keeps its texts of any length; looked through once before HDF5 reads such a text.

    HDF5 runs in circles, for ever, where one of its entries has no size.

    Parameters
    ----------
    source
        Path of the file, or a seekable binary file.
    """

    def __init__(self, source: str | Path | BinaryIO) -> None:
        self._source, self._checked = source, False

    def check(self) -> None:
        """Check all of them.

        Raises
        ------
        ValueError
            One is damaged.
        """
        if self._checked:
            return
        if isinstance(self._source, (str, os.PathLike)):
            with open(self._source, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                _check_heaps(data)
        else:
            self._source.seek(0)
            _check_heaps(self._source.read())
        self._checked = True


def _check_heaps(data: bytes | mmap.mmap) -> None:
    """Walk through every heap of a file; see the format specification of HDF5, III.E."""
    start = data.find(_HEAP)
    while start >= 0:
        place, end = start + _HEAP_HEAD, start + int.from_bytes(data[start + 8: start + 16], "little")
        if end > len(data):
            raise ValueError("a heap goes on beyond the end of its file")
        while end - place >= _ENTRY_HEAD:
            number = int.from_bytes(data[place: place + 2], "little")
            size = int.from_bytes(data[place + 8: place + 16], "little")
            # Number 0 is what is free, its own head included; the others are filled up to 8 bytes.
            place += size if number == 0 else _ENTRY_HEAD + -(-size // 8) * 8
            if not size + (number > 0) * _ENTRY_HEAD >= _ENTRY_HEAD or place > end:
                raise ValueError("a heap has an entry of no size")
        start = data.find(_HEAP, max(end, start + 1))


def _attribute(
    node: h5py.h5g.GroupID | h5py.h5d.DatasetID, name: str, heaps: _Heaps, most: int | None = None
) -> Any:
    """An attribute's text or number, or a list of at most so many; None where there is none.

    It is looked at before it is read: an attribute may be of any shape and type.
    """
    key = name.encode()
    if not h5py.h5a.exists(node, key):
        return None
    attribute = h5py.h5a.open(node, key)
    kind, shape = attribute.get_type(), attribute.shape
    if not _is_text(kind) and kind.get_class() not in (h5py.h5t.INTEGER, h5py.h5t.ENUM):
        raise TypeError(f"attribute '{name}' is neither text nor whole numbers")
    if shape is None or math.prod(shape) > (1 if most is None else most) or len(shape) > 1:
        raise TypeError(f"attribute '{name}' is of shape {shape}")
    if math.prod(shape) * _stored_size(kind) > _MAX_ATTRIBUTE_BYTES:
        raise TypeError(f"attribute '{name}' is too long")
    if _is_text(kind) and kind.is_variable_str():
        heaps.check()
        value = (h5py.Dataset if isinstance(node, h5py.h5d.DatasetID) else h5py.Group)(node).attrs[name]
    else:
        value = np.empty(shape, attribute.dtype)
        attribute.read(value)
        value = value[()]
    if most is None and np.ndim(value):
        raise TypeError(f"attribute '{name}' is a list")
    if not _is_text(kind):
        return value
    texts = [_text(text) for text in np.atleast_1d(value)]
    if any(len(text) > MAX_HEADER_BYTES for text in texts):
        raise TypeError(f"attribute '{name}' is too long")
    return texts[0] if most is None else texts


def _is_text(kind: h5py.h5t.TypeID) -> bool:
    return kind.get_class() == h5py.h5t.STRING


def _stored_size(kind: h5py.h5t.TypeID) -> int:
    """Bytes a value takes in the file; a text of any length: where it lies, and how long it is."""
    return 16 if _is_text(kind) and kind.is_variable_str() else kind.get_size()


def _check_storage(dataset: h5py.h5d.DatasetID, where: str) -> None:
    """Check that a dataset lies in this file as a whole, and takes no more memory than it may.

    Raises
    ------
    InputError
        It lies elsewhere, needs a library that HDF5 does not have, or is larger than what is stored.
    """
    plan = dataset.get_create_plist()
    if plan.get_external_count() or plan.get_layout() == h5py.h5d.VIRTUAL:
        raise InputError(where, "lies in another file", "maps lie in the map file itself")
    filters = [plan.get_filter(number)[0] for number in range(plan.get_nfilters())]
    if len(set(filters)) < len(filters) or not set(filters) <= set(_FILTERS):
        raise InputError(
            where, f"is packed by the filters {filters}", f"each once, only {', '.join(_FILTERS.values())} are read")
    item = _stored_size(dataset.get_type())
    size = math.prod(dataset.shape) * item
    if plan.get_layout() != h5py.h5d.CHUNKED:
        if dataset.get_storage_size() != size:
            raise InputError(where, "is not stored as a whole", "make it again")
        return
    chunk = plan.get_chunk()
    chunk_size = math.prod(chunk) * item
    expected = math.prod(-(-side // part) for side, part in zip(dataset.shape, chunk, strict=True))
    if any(part > side for side, part in zip(dataset.shape, chunk, strict=True)) or (
            dataset.get_num_chunks() != expected):
        raise InputError(where, "is not stored as a whole", "make it again")
    stored = [dataset.get_chunk_info(number).size for number in range(expected)]
    most = chunk_size * (1 + _FRAME_SHARE) + _FRAME_BYTES
    if any(part > most for part in stored) or size > _MOST_DEFLATED * sum(stored):
        raise InputError(where, f"claims {size:,} bytes of {sum(stored):,} stored", "it is damaged")


def _hard(group: h5py.Group, name: str, where: str) -> h5py.Group | h5py.Dataset:
    """A group's own member; links could lead to any file of this machine."""
    _check_own(group.id, name.encode("utf-8", "surrogateescape"), where)
    return group[name]


def _member(group: h5py.h5g.GroupID, name: str, where: str) -> h5py.h5g.GroupID | h5py.h5d.DatasetID:
    """As :func:`_hard`, of HDF5's own identifiers."""
    key = name.encode("utf-8", "surrogateescape")
    _check_own(group, key, where)
    return h5py.h5o.open(group, key)


def _check_own(group: h5py.h5g.GroupID, key: bytes, where: str) -> None:
    name = key.decode("utf-8", "surrogateescape")
    if not isinstance(group, h5py.h5g.GroupID) or not group.links.exists(key):
        raise InputError(where, f"lacks '{name}'", "it is damaged, or no map file")
    if group.links.get_info(key).type != h5py.h5l.TYPE_HARD:
        raise InputError(where, f"'{name}' is a link", "maps lie in the map file itself")


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if not isinstance(value, str):
        raise TypeError("not text")
    return str(value)


def _integer(value: object) -> int:
    if not isinstance(value, (int, np.integer)):
        raise TypeError("not an integer")
    return int(value)


def _json(text: str, where: str) -> object:
    if len(text) > MAX_HEADER_BYTES:
        raise InputError(where, f"has a provenance of {len(text):,} bytes", f"at most {MAX_HEADER_BYTES:,}")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(where, "has a damaged header", "make it again") from error
