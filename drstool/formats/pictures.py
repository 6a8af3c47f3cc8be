"""Folders of ours: what says that one is ours and whole, and folders of figures."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from drstool.artifacts.atomic import new_folder
from drstool.artifacts.end_record import end_record
from drstool.artifacts.header import END_NAME, HEADER_NAME, MAX_HEADER_BYTES, Header, json_bytes
from drstool.artifacts.resume import PartialFolder, keeping
from drstool.files import read_bytes, status, walk
from drstool.identifiers import Names
from drstool.parallel import ordered_map

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "check_picture", "picture_files", "read_marker", "write_end", "write_files", "write_marker", "write_pictures",
]

_SUFFIXES = (".png", ".jpg")


def write_pictures(
    folder: str | Path, header: Header, pictures: Iterable[tuple[str, Image.Image]], *,
    overwrite: bool = False, resume: PartialFolder | None = None, threads: int = 1, earlier: Iterable[str] = (),
) -> int:
    """Write pictures as PNG into a new folder, whole or not at all; their number.

    Parameters
    ----------
    folder
    header
        Of kind ``figures``.
    pictures
        File names relative to the folder (checked ids and endings), and pictures.
    overwrite
        Replace a folder of ours.
    resume
        Where finished pictures survive an interruption; those that did count as written.
    threads
        Number of threads that compress pictures; the bytes do not depend on it.
    earlier
        Names of pictures to take over from the folder that is replaced.

    Raises
    ------
    InputError
        Two pictures would have one name.
    OutputError
        It exists, or cannot be written.
    """
    done, names = frozenset(() if resume is None else resume.finished), Names(folder)
    for name in done:
        names.add(name)
    written = list(done)

    def write(name: str, data: bytes) -> None:
        names.add(name)
        path = making / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        written.append(name)
        if resume is not None:
            resume.add(name)

    with keeping(resume), new_folder(folder, overwrite, at=None if resume is None else resume.path) as making:
        write_marker(making, header)
        for name in earlier:
            write(name, read_bytes(Path(folder, name)))
        missing = (pair for pair in pictures if pair[0] not in done)
        for name, data in ordered_map(_encoded, missing, threads):
            write(name, data)
        write_end(making, header, len(written), written)
    return len(written)


def write_files(
    folder: str | Path, header: Header, files: Iterable[tuple[str, bytes]], *, overwrite: bool = False,
) -> list[str]:
    """Write files into a new folder, whole or not at all; their names.

    Parameters
    ----------
    folder
    header
        Of a kind whose file names :mod:`drstool.artifacts.ownership` knows.
    files
        Names relative to the folder, and bytes.
    overwrite
        Replace a folder of ours.

    Raises
    ------
    OutputError
        It exists, or cannot be written.
    """
    written = []
    with new_folder(folder, overwrite) as making:
        write_marker(making, header)
        for name, data in files:
            path = making / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            written.append(name)
        write_end(making, header, len(written), written)
    return written


def _encoded(pair: tuple[str, Image.Image]) -> tuple[str, bytes]:
    name, picture = pair
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return name, buffer.getvalue()


def write_marker(folder: Path, header: Header) -> None:
    """Put a header file into a folder being made: it says what the folder is, and that it is ours."""
    (folder / HEADER_NAME).write_bytes(json_bytes(header.to_json()))


def write_end(folder: Path, header: Header, count: int, names: Iterable[str] | None = None) -> None:
    """Put an end record beside the header: the folder is complete and holds so many pictures, of these file names."""
    (folder / END_NAME).write_bytes(end_record(count, json_bytes(header.to_json()), names))


def read_marker(folder: Path) -> tuple[Header | None, bytes | None]:
    """The header of a folder of ours and its bytes; None for another program's folder.

    Raises
    ------
    InputError
        The header is damaged.
    """
    path = folder / HEADER_NAME
    if status(path, follow=False) is None:
        return None, None
    head = read_bytes(path, most=MAX_HEADER_BYTES)
    return Header.from_json(head, path), head


def picture_files(folder: Path) -> list[Path]:
    """The pictures of a folder and the folders below, sorted."""
    return sorted(Path(root, name) for root, _, names in walk(folder) for name in names
                  if name.lower().endswith(_SUFFIXES) and not name.startswith("._"))


def check_picture(path: str | Path) -> None:
    """Check that a PNG is whole: every checksum, and every pixel.

    Raises
    ------
    InputError
        It is damaged, not a PNG, or too large.
    """
    from drstool.pillow import load_png

    load_png(read_bytes(path), path)
