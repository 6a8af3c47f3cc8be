"""HDF5 behind a wall: reading files that may be damaged or hostile, and writing to disks that may fill up.

HDF5 follows links into other files, loads filter libraries by number, allocates whatever a file claims, and
loops forever on some damaged ones. Whatever is read through :class:`UntrustedFile` was looked at before.
"""

from __future__ import annotations

import io
import math
import mmap
import os
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import h5py
import numpy as np

from drstool.artifacts.header import HDF5_SIGNATURE, MAX_HEADER_BYTES
from drstool.errors import InputError, is_shortage
from drstool.files import unreadable

__all__ = ["DAMAGE", "UntrustedFile", "WriteGuard", "damaged", "with_small_cache"]

# h5py's GroupID or DatasetID, which have no annotations.
Node: TypeAlias = Any

# What h5py, and zlib, raise on damaged files.
DAMAGE = (
    OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError, IndexError, OverflowError, zlib.error,
)
_ERRNO = re.compile(r"errno = (\d+)")
# On disk; in memory it is some ten times as much.
_CACHE_BYTES = 1 << 18
# Other filters are refused: HDF5 would look for a library of that number and load it.
_FILTERS = {
    h5py.h5z.FILTER_DEFLATE: "deflate", h5py.h5z.FILTER_SHUFFLE: "shuffle", h5py.h5z.FILTER_FLETCHER32: "fletcher32",
}
# Deflate shrinks by a factor of 1032 at most, and adds a little to data that do not shrink.
_MAX_SHRINK, _MAX_GROWTH, _FRAME_BYTES = 1100, 1.002, 64
# The signature and version of a heap, and the bytes before its entries and before each one's content.
_HEAP, _HEAP_HEAD, _ENTRY_HEAD = b"GCOL\x01", 16, 16
# Of groups in groups.
_MAX_DEPTH = 64
# As many class names as there may be, each as long as it may be.
_MAX_ATTRIBUTE_BYTES = 4 * MAX_HEADER_BYTES
_MAX_TEXT_BYTES, _TEXTS_AT_ONCE = 1 << 12, 64
# The block that files of the newer versions begin with, and where it has the file's size.
_SUPERBLOCK_BYTES, _END_OF_FILE = 48, slice(28, 36)


@contextmanager
def damaged(where: object, what: str, right: str = "recreate it") -> Iterator[None]:
    """A block in which whatever is raised on damaged files becomes an :class:`InputError`."""
    try:
        yield
    except DAMAGE as error:
        if is_shortage(error, "memory"):
            # Old layouts say how much memory to reserve for a part of them.
            raise InputError(where, "needs more memory than there is, or is damaged", right) from error
        if is_shortage(error):
            raise
        # Whatever the exception, HDF5's text tells what the system said.
        said = _ERRNO.search(str(error))
        if said and (number := int(said[1])):
            raise unreadable(where, OSError(number, os.strerror(number))) from error
        raise InputError(where, what, right) from error


def with_small_cache(file: h5py.File) -> h5py.File:
    """The file, with the metadata of hundreds of images in memory instead of those of tens of thousands.

    Each image's metadata are needed once; by default they take 6 KB an image.
    """
    settings = file.id.get_mdc_config()
    settings.set_initial_size = True
    settings.initial_size = settings.min_size = settings.max_size = _CACHE_BYTES
    file.id.set_mdc_config(settings)
    return file


class UntrustedFile:
    """An HDF5 file to read from, of which nothing is believed unchecked.

    Methods raise what is in :data:`DAMAGE` where the file is damaged, besides what they name. They use HDF5's own
    identifiers: h5py's objects take as long to make as a map to read.

    Parameters
    ----------
    source
        Path of the file, or a seekable binary file.
    where
        Named in errors.

    Raises
    ------
    InputError
        It cannot be read, is not HDF5, is damaged, or truncated.
    """

    def __init__(self, source: str | Path | BinaryIO, where: str) -> None:
        self._source: Any = source
        self._is_path, self._heaps_checked = isinstance(source, (str, os.PathLike)), False
        try:
            if isinstance(source, (str, os.PathLike)):
                with open(source, "rb") as file:
                    self._start = file.read(_SUPERBLOCK_BYTES)
            else:
                source.seek(0)
                self._start = source.read(_SUPERBLOCK_BYTES)
        except OSError as error:
            raise unreadable(where, error) from error
        if not self._start.startswith(HDF5_SIGNATURE):
            raise InputError(
                where, "is not an HDF5 file" if self._start else "is empty (0 bytes)",
                "expected a map file, as 'drstool cam' or 'refine' write it")
        with damaged(where, "is damaged or truncated", "copy it again or recreate it"):
            options = {"locking": False} if self._is_path else {}
            self._file = with_small_cache(h5py.File(source, "r", **options))

    @property
    def root(self) -> h5py.h5g.GroupID:
        """The root group."""
        return h5py.h5g.open(self._file.id, b"/")

    def close(self) -> None:
        """Close the file; nothing was written that could be lost."""
        with suppress(*DAMAGE):
            self._file.close()

    def member(self, group: Node, name: str, where: object) -> Node:
        """A group's own member.

        Raises
        ------
        InputError
            It is missing, or a link, which could lead to any file of this machine.
        """
        key = name.encode("utf-8", "surrogateescape")
        if not isinstance(group, h5py.h5g.GroupID) or not group.links.exists(key):
            raise InputError(where, f"lacks '{name}'", "it is damaged, or not a map file")
        if group.links.get_info(key).type != h5py.h5l.TYPE_HARD:
            raise InputError(where, f"'{name}' is a link", "maps lie in the map file itself")
        return h5py.h5o.open(group, key)

    def names(self, group: Node, where: object, prefix: str = "", above: tuple = ()) -> Iterator[str]:
        """Paths of all datasets below a group, sorted.

        Raises
        ------
        InputError
            Groups lie in one another too deep, or in circles.
        """
        place = h5py.h5o.get_info(group).addr
        if place in above or len(above) > _MAX_DEPTH:
            raise InputError(where, "its groups are nested too deeply, or in a loop", "it is damaged")
        for key in group:
            name = key.decode("utf-8", "surrogateescape")
            node = self.member(group, name, where)
            if isinstance(node, h5py.h5g.GroupID):
                yield from self.names(node, where, f"{prefix}{name}/", (*above, place))
            else:
                yield prefix + name

    def attribute(self, node: Node, name: str, kind: type[str] | type[int], most: int | None = None) -> Any:
        """An attribute: a text or whole number, or a list of at most ``most`` of them; None if it is missing."""
        key = name.encode()
        if not h5py.h5a.exists(node, key):
            return None
        attribute = h5py.h5a.open(node, key)
        stored, shape = attribute.get_type(), attribute.shape
        classes = (h5py.h5t.STRING,) if kind is str else (h5py.h5t.INTEGER, h5py.h5t.ENUM)
        if stored.get_class() not in classes or shape is None or len(shape) > (most is not None):
            raise TypeError(f"attribute '{name}' is of another type")
        if math.prod(shape) > (most or 1) or math.prod(shape) * stored.get_size() > _MAX_ATTRIBUTE_BYTES:
            raise TypeError(f"attribute '{name}' is too long")
        if kind is str and stored.is_variable_str():
            self._check_heaps()
        value = np.empty(shape, attribute.dtype)
        attribute.read(value)
        values = np.atleast_1d(value).tolist()
        if kind is str:
            values = [_text(each, MAX_HEADER_BYTES) for each in values]
        return values[0] if most is None else values

    def texts(self, dataset: Node, where: object) -> list[str]:
        """A dataset of texts.

        Raises
        ------
        InputError
            See :meth:`check_storage`.
        """
        kind = dataset.get_type()
        if len(dataset.shape) != 1 or kind.get_class() != h5py.h5t.STRING:
            raise TypeError("not a list of texts")
        self.check_storage(dataset, where)
        if kind.is_variable_str():
            self._check_heaps()
        elif kind.get_size() > _MAX_TEXT_BYTES:
            raise ValueError("a text is too long")
        found, stored = [], h5py.Dataset(dataset)
        # In portions: all entries of a hostile list may point at one long text.
        for start in range(0, dataset.shape[0], _TEXTS_AT_ONCE):
            found += [_text(each, _MAX_TEXT_BYTES) for each in stored[start: start + _TEXTS_AT_ONCE]]
        return found

    def array(self, dataset: Node, where: object) -> np.ndarray:
        """A dataset of numbers, in this machine's byte order.

        Raises
        ------
        InputError
            See :meth:`check_storage`.
        """
        self.check_storage(dataset, where)
        values = np.empty(dataset.shape, dataset.dtype.newbyteorder("="))
        if values.size:
            dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, values)
        return values

    def check_storage(self, dataset: Node, where: object) -> None:
        """Check that a dataset lies in this file completely, and that its size is credible.

        Raises
        ------
        InputError
            It lies elsewhere, needs another filter, lacks a part, or is larger than what is stored can give.
        """
        plan = dataset.get_create_plist()
        if plan.get_external_count() or plan.get_layout() == h5py.h5d.VIRTUAL:
            raise InputError(where, "lies in another file", "maps lie in the map file itself")
        filters = [plan.get_filter(number)[0] for number in range(plan.get_nfilters())]
        if len(set(filters)) < len(filters) or not set(filters) <= set(_FILTERS):
            raise InputError(
                where, f"uses the HDF5 filters {filters}",
                f"only {', '.join(_FILTERS.values())} are supported, each once")
        kind = dataset.get_type()
        # Of a text of any length: its place and length.
        item = 16 if kind.get_class() == h5py.h5t.STRING and kind.is_variable_str() else kind.get_size()
        size, shape = math.prod(dataset.shape) * item, dataset.shape
        if plan.get_layout() != h5py.h5d.CHUNKED:
            if dataset.get_storage_size() != size:
                raise InputError(where, "is not stored completely", "recreate it")
            return
        chunk, sizes = plan.get_chunk(), []
        dataset.chunk_iter(lambda info: sizes.append(info.size))
        if any(part > side for side, part in zip(shape, chunk, strict=True)) or len(sizes) != math.prod(
                -(-side // part) for side, part in zip(shape, chunk, strict=True)):
            raise InputError(where, "is not stored completely", "recreate it")
        most = math.prod(chunk) * item * _MAX_GROWTH + _FRAME_BYTES
        if max(sizes, default=0) > most or size > _MAX_SHRINK * sum(sizes):
            raise InputError(
                where, f"claims to have {size:,} bytes, but only {sum(sizes):,} are stored", "it is damaged")

    def check_end(self, where: object) -> None:
        """Check that the file ends where it says. HDF5 itself notices only files that are too short.

        Raises
        ------
        InputError
            It does not.
        """
        if self._is_path and len(self._start) == _SUPERBLOCK_BYTES and self._start[8] in (2, 3) and self._start[9] == 8:
            more = os.path.getsize(self._source) - int.from_bytes(self._start[_END_OF_FILE], "little")
            if more > 0:
                raise InputError(where, f"has {more} bytes after its end", "copy it again")

    def _check_heaps(self) -> None:
        """Check, once, the heaps that hold texts of any length: HDF5 loops forever on an entry of no size."""
        if self._heaps_checked:
            return
        if self._is_path:
            with open(self._source, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                _check_heaps(data)
        else:
            self._source.seek(0)
            _check_heaps(self._source.read())
        self._heaps_checked = True


def _check_heaps(data: bytes | mmap.mmap) -> None:
    """Walk through every heap of a file; see the HDF5 file format specification, III.E."""
    start = data.find(_HEAP)
    while start >= 0:
        place, end = start + _HEAP_HEAD, start + int.from_bytes(data[start + 8: start + 16], "little")
        if end > len(data):
            raise ValueError("a heap goes on beyond the end of its file")
        while end - place >= _ENTRY_HEAD:
            number, size = struct.unpack_from("<H6xQ", data, place)
            # Number 0 is free space, whose size counts its own head; the others are filled up to 8 bytes.
            step = size if number == 0 else _ENTRY_HEAD + -(-size // 8) * 8
            place += step
            if step < _ENTRY_HEAD or place > end:
                raise ValueError("a heap has an entry of no size")
        start = data.find(_HEAP, max(end, start + 1))


def _text(value: bytes | str, most: int) -> str:
    if len(value) > most:
        raise ValueError("a text is too long")
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


class WriteGuard(io.RawIOBase):
    """The file HDF5 writes to: it keeps the first failure, and pretends to HDF5 that all goes well.

    HDF5 cannot close a file whose last blocks cannot be written: it keeps the handle, leaks, and complains at exit.
    So it never learns of a failure; the writer looks at :attr:`failure` instead.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._end = file, 0
        self.failure: BaseException | None = None
        # Once set, all calls do nothing.
        self.disabled = False

    def write(self, data: memoryview) -> int:  # type: ignore[override]
        self._attempt(self._file.write, data)
        self._end += len(data)
        return len(data)

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        got = self._attempt(self._file.readinto, buffer) or 0  # type: ignore[attr-defined]
        # Blocks that a failure kept from the disk; nobody will use them any more.
        if got < len(buffer) and (self.disabled or self.failure):
            buffer[got:] = bytes(len(buffer) - got)
            return len(buffer)
        return got

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        # Moving writes out what is buffered, so it fails like writing. HDF5 asks for the end this way.
        place = self._attempt(self._file.seek, offset, whence)
        return place if place is not None else offset if whence == os.SEEK_SET else self._end

    def truncate(self, size: int | None = None) -> int:
        self._attempt(self._file.truncate, size)
        return size or 0

    def flush(self) -> None:
        self._attempt(self._file.flush)

    def _attempt(self, action: Callable[..., Any], *arguments: object) -> Any:
        if self.disabled or self.failure is not None:
            return None
        try:
            return action(*arguments)
        except BaseException as failure:
            self.failure = failure
            return None
