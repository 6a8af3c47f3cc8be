"""Folders of label PNGs, drstool's or another program's.

A folder of labels is an unpacked stream: ``drstool.json``, ``<id>.png`` for each image, and
``drstool.end.json`` last. A folder without ``drstool.json`` is another program's; its PNGs are read
all the same, with their paths below the folder as ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from drstool.artifacts.atomic import writing
from drstool.artifacts.end_record import check_end_file
from drstool.artifacts.header import HEADER_NAME, Header, record_type
from drstool.errors import ForeignError, InputError
from drstool.files import FolderIdentity, is_folder, read_bytes, status, walk
from drstool.formats.label_png import decode_label, encode_label, label_info
from drstool.formats.pictures import read_marker, write_end, write_marker
from drstool.formats.records import LabelRecord, LazyRecord, check_label_record
from drstool.identifiers import ONE_NAME_RULE, Names, check_id, member_name

__all__ = ["LabelFolderReader", "LabelFolderWriter", "check_folder", "label_paths"]

_FOREIGN = "'drstool import' reads maps of other projects"


class LabelFolderWriter:
    """Fills a folder with label PNGs; it is whole once :meth:`close` has returned.

    Parameters
    ----------
    folder
        An existing folder, empty but for earlier records.
    header
        What the folder says about itself.
    where
        Named in errors.
    records
        Ids of the earlier records.
    """

    def __init__(
        self, folder: Path, header: Header, *, where: object = None, records: Sequence[str] = (),
    ) -> None:
        self._folder, self._header = Path(folder), header
        self.where = str(where if where is not None else folder)
        self._ids, self._names = list(records), Names(self.where)
        for identifier in records:
            self._names.add(identifier)
        write_marker(self._folder, header)

    @property
    def count(self) -> int:
        """Number of records in the folder."""
        return len(self._ids)

    def prepare(self, record: LabelRecord) -> tuple[str, bytes]:
        """Id and PNG of a record, checked: the slow part, which may run in threads.

        Raises
        ------
        InputError
            The folder cannot hold the record.
        """
        check_label_record(record, self._header, self.where)
        return record.id, encode_label(record, self._header)

    def write(self, record: LabelRecord) -> None:
        """Add a record.

        Raises
        ------
        InputError
            The folder cannot hold the record, or its file is there already, or would be on another system.
        OutputError
            The system refuses.
        """
        self.put(self.prepare(record))

    def put(self, prepared: tuple[str, bytes]) -> None:
        """Add what :meth:`prepare` made; raises as :meth:`write`."""
        identifier, data = prepared
        self._names.add(identifier)
        name = member_name(identifier, ".png")
        with writing(self.where, self._folder):
            try:
                (self._folder / name).parent.mkdir(parents=True, exist_ok=True)
                with open(self._folder / name, "xb") as file:
                    file.write(data)
            except (FileExistsError, NotADirectoryError) as error:
                raise InputError(
                    self.where, f"cannot store '{identifier}': its name is already taken", ONE_NAME_RULE) from error
        self._ids.append(identifier)

    def close(self) -> None:
        """Write the end record."""
        write_end(self._folder, self._header, self.count, (member_name(each, ".png") for each in self._ids))


class LabelFolderReader:
    """Reads a folder of label PNGs, drstool's or another program's.

    Parameters
    ----------
    folder
    where
        Named in errors; the folder where not given.
    complete
        Whether a folder of ours must be whole.

    Raises
    ------
    InputError
        It is missing, holds no PNG, or says that it is ours and is not whole.
    """

    searchable = True

    def __init__(self, folder: str | Path, where: object = None, *, complete: bool = True) -> None:
        self._folder, self._identity = Path(folder), FolderIdentity(folder, HEADER_NAME)
        self.where = str(where if where is not None else folder)
        self.header, self._head = read_marker(self._folder)
        self._files = _png_files(self._folder, self.where, ours=self.header is not None)
        if self.header is None and not self._files:
            raise ForeignError(self.where, "holds no PNGs", f"expected a folder of label PNGs; {_FOREIGN}")
        if self.header is not None:
            if record_type(self.header.kind) != "labels":
                what = "files for another project" if self.header.kind == "export" else self.header.kind
                raise InputError(self.where, f"holds {what}", f"expected a folder of label PNGs; {_FOREIGN}")
            if complete:
                self.check_end()

    def __len__(self) -> int:
        return len(self._files)

    def __contains__(self, identifier: object) -> bool:
        return identifier in self._files

    def __iter__(self) -> Iterator[LabelRecord]:
        return (self.read(identifier) for identifier in self._files)

    def lazy(self, identifier: str) -> LazyRecord:
        """As :meth:`read`, left for later."""
        return LazyRecord(identifier, partial(self.read, identifier), is_maps=False)

    def check_end(self) -> None:
        """Check that a folder of ours has all of its PNGs.

        Raises
        ------
        InputError
            It has not.
        """
        check_end_file(self._folder, len(self._files), self._head, self.where)

    def ids(self) -> tuple[str, ...]:
        """The image ids, sorted."""
        return tuple(self._files)

    def read(self, identifier: str) -> LabelRecord:
        """The label image of one image.

        Raises
        ------
        InputError
            There is none in the folder, it is damaged, or another folder has taken this one's place.
        """
        return decode_label(identifier, self._bytes(identifier), self.header, self.where)

    def info(self, identifier: str) -> dict[str, object]:
        """``shape``, ``dtype`` and ``image`` of one image's labels; raises as :meth:`read`."""
        return label_info(identifier, self._bytes(identifier), self.header, self.where)

    def _bytes(self, identifier: str) -> bytes:
        if identifier not in self._files:
            raise InputError(self.where, f"holds no labels for '{identifier}'", f"add '{identifier}.png'")
        try:
            return read_bytes(self._files[identifier])
        finally:
            self._identity.check()

    def close(self) -> None:
        """Do nothing: no file is held open."""


def check_folder(folder: str | Path) -> None:
    """Check that a folder of drstool's has all of its PNGs; another program's passes.

    Raises
    ------
    InputError
        It is ours, and not whole.
    """
    if status(Path(folder, HEADER_NAME), follow=False) is not None:
        LabelFolderReader(folder)


def label_paths(folder: str | Path) -> tuple[Header | None, Mapping[str, Path]]:
    """Header (None for a foreign folder) and files by image id of a whole folder of label PNGs.

    Raises
    ------
    InputError
        As :class:`LabelFolderReader`, or it is not a folder: training reads label images in any order.
    """
    if not is_folder(folder):
        wrong = "no such folder" if status(folder) is None else "is not a folder"
        raise InputError(folder, wrong, "expected a folder of label PNGs, as written by 'drstool pseudo-label -o'")
    reader = LabelFolderReader(folder)
    if reader.header is not None and reader.header.kind != "labels":
        raise InputError(folder, f"holds {reader.header.kind}", "expected a folder of label PNGs")
    return reader.header, _WatchedPaths(reader)


class _WatchedPaths(Mapping):
    """Paths of a folder's label PNGs by image id; an error once another folder has taken its place."""

    def __init__(self, reader: LabelFolderReader) -> None:
        self._files, self._identity = reader._files, reader._identity

    def __getitem__(self, identifier: str) -> Path:
        self._identity.check()
        return self._files[identifier]

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def _png_files(folder: Path, where: str, *, ours: bool) -> dict[str, Path]:
    """PNGs below a folder by id, sorted; hidden files are left out unless the folder is ours."""
    files: dict[str, Path] = {}
    for path in sorted(_walk(folder, where, hidden=ours)):
        identifier = check_id(path.relative_to(folder).as_posix()[: -len(".png")], where)
        if identifier in files:
            raise InputError(where, f"holds two PNGs for '{identifier}'", "remove one")
        files[identifier] = path
    return dict(sorted(files.items()))


def _walk(folder: Path, where: str, *, hidden: bool) -> Iterator[Path]:
    def seen(name: str) -> bool:
        # '._NAME' is what one system drops beside each file that it copies elsewhere.
        return not name.startswith("._") if hidden else not name.startswith(".")

    for root, folders, names in walk(folder):
        folders[:] = sorted(filter(seen, folders))
        for name in filter(seen, names):
            if name.lower().endswith(".png"):
                yield Path(root, name)
