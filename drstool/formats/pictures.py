"""Folders of pictures for people: figures."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from drstool.formats.header import END_NAME, HEADER_NAME, Header, json_bytes
from drstool.formats.outputs import new_folder

__all__ = ["write_marker", "write_pictures"]


def write_pictures(
    folder: str | Path, header: Header, pictures: Iterable[tuple[str, Image.Image]], *,
    overwrite: bool = False,
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
        Whether a folder of ours there is replaced.

    Raises
    ------
    OutputError
        It exists, or cannot be written.
    """
    count = 0
    with new_folder(folder, overwrite) as making:
        write_marker(making, header)
        for name, picture in pictures:
            path = making / name
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path, format="PNG")
            count += 1
        (making / END_NAME).write_bytes(json_bytes({"count": count, "complete": True}))
    return count


def write_marker(folder: Path, header: Header) -> None:
    """Put a header file into a folder in the making: it says what the folder is, and that it is ours."""
    (folder / HEADER_NAME).write_bytes(json_bytes(header.to_json()))
