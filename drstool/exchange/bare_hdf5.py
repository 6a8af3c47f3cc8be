"""An HDF5 file of ``(K, h, w)`` datasets that lacks the attributes of a map file.

A dataset's path is the image's id, below ``/maps`` if there is such a group. Its attributes are ``labels`` (from 1)
or, without them, it has a map for every class; ``image_size`` and ``image`` may be there, and the root's
``class_names``.
"""

from __future__ import annotations

import threading
from pathlib import Path

import h5py

from drstool.artifacts.header import FORMAT
from drstool.errors import InputError
from drstool.exchange.found import FoundMaps, check_numbers
from drstool.formats.hdf5 import UntrustedFile, damaged
from drstool.identifiers import check_id
from drstool.labels import MAX_OBJECT_CLASSES, channel_of
from drstool.reports.text import counted

__all__ = ["BareHdf5"]


class BareHdf5:
    """The maps of such a file.

    Attributes
    ----------
    ids
        In alphabetical order.
    class_names
        None if the file does not say them.
    others
        Paths of datasets that are not maps.

    Raises
    ------
    InputError
        It is not an HDF5 file, damaged, or holds no maps.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._file = UntrustedFile(path, str(path))
        try:
            with damaged(path, "is a damaged HDF5 file", "copy it again or recreate it"):
                root = self._file.root
                self._refuse_ours(root)
                self._maps = root
                if root.links.exists(b"maps") and isinstance(node := self._file.member(root, "maps", path), type(root)):
                    self._maps = node
                names = list(self._file.names(self._maps, path))
                self.class_names = self._file.attribute(root, "class_names", str, most=MAX_OBJECT_CLASSES + 1)
                ranks = {name: len(self._node(name).shape) for name in names}
            self.ids = tuple(check_id(name, path) for name, rank in ranks.items() if rank == 3)
            self.others = tuple(name for name, rank in ranks.items() if rank != 3)
            if not self.ids:
                what = "holds no dataset of shape (K, H, W)" if ranks else "is empty"
                raise InputError(path, what, "expected a dataset (K, H, W) for each image")
        except BaseException:
            self._file.close()
            raise

    def read(self, identifier: str) -> FoundMaps:
        """The maps of one image; errors are as of :class:`drstool.formats.hdf5.UntrustedFile`."""
        where = f"{self._path}: {identifier}"
        with self._lock, damaged(where, "its maps are damaged, or its attributes of other types", "recreate them"):
            node = self._node(identifier)
            labels = self._file.attribute(node, "labels", int, most=MAX_OBJECT_CLASSES)
            size = self._file.attribute(node, "image_size", int, most=2)
            image = self._file.attribute(node, "image", str) or ""
            maps = self._file.array(node, where)
        if labels is not None and (len(labels) != len(maps) or any(label < 1 for label in labels)):
            raise InputError(
                where, f"has {counted(len(maps), 'map')} and the labels {labels[:8]}",
                "expected one label per map, from 1")
        numbers = None if labels is None else check_numbers([channel_of(label) for label in labels])
        return FoundMaps(
            maps, numbers, fills_image=False, image_size=None if size is None else tuple(size), image=image)

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._file.close()

    def _refuse_ours(self, root: h5py.h5g.GroupID) -> None:
        """Refuse a map file: what it says of itself would be lost, and one that is not whole would pass."""
        complete = self._file.attribute(root, "complete", int)
        if self._file.attribute(root, "format", str) == FORMAT and complete is not None:
            what = "is a map file of drstool's" if complete else "is an unfinished map file of drstool's"
            raise InputError(self._path, what, "use it as it is" if complete else "rerun the command that wrote it")

    def _node(self, name: str) -> h5py.h5d.DatasetID:
        node = self._maps
        for part in name.split("/"):
            node = self._file.member(node, part, self._path)
        return node
