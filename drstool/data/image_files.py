"""Finding the file of an image, and what to say where there is none."""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path, PurePosixPath

from drstool.data.cells import about_zeros
from drstool.data.files_by_id import IMAGE_SUFFIXES
from drstool.errors import InputError
from drstool.files import is_file, names_in, status

__all__ = ["find_image", "id_of_path", "missing_image", "resolve"]


# A path has lost one of the slashes.
_ADDRESS = re.compile(r"\b(https?:|s3:|gs:)/+(.+)")


def resolve(base: Path, text: str) -> Path:
    r"""The path that a list names, from a folder on; also where it was written on Windows.

    Examples
    --------
    >>> resolve(Path("data"), "img/a.png").as_posix(), resolve(Path("data"), r"no folder\a.png").as_posix()
    ('data/img/a.png', 'data/no folder/a.png')
    """
    path = base / text
    return base / text.replace("\\", "/") if "\\" in text and status(path) is None else path


def id_of_path(image: str) -> str:
    r"""An id for an image without one: its path without the ending, and only its name where that is absolute.

    Examples
    --------
    >>> id_of_path("../photos/dog 1.jpg"), id_of_path(r"C:\photos\1.jpg")
    ('photos/dog 1', '1')
    """
    stem = os.path.splitext(image.replace("\\", "/"))[0]
    parts = [part for part in PurePosixPath(stem).parts if part != ".."]
    absolute = parts and (parts[0] == "/" or parts[0].endswith(":"))
    return parts[-1] if absolute else "/".join(parts)


def find_image(folder: Path, identifier: str, where: object) -> Path:
    """The image in a folder that an id names: a file of that name, or of that name and an ending.

    Raises
    ------
    InputError
        There is none, or several.
    """
    if is_file(path := folder / identifier):
        return path
    found = [path for suffix in IMAGE_SUFFIXES for ending in (suffix, suffix.upper())
             if is_file(path := folder / (identifier + ending))]
    # A file system that ignores case knows each by two names.
    found = [path for i, path in enumerate(found) if not any(path.samefile(other) for other in found[:i])]
    if not found:
        # Most ids have no ending, and a file of another case is then found by one.
        written = folder / (identifier if PurePosixPath(identifier).suffix[1:].isalpha() else f"{identifier}.jpg")
        raise missing_image(
            written, where, identifier,
            "other endings were tried, too; --images names another folder")
    if len(found) > 1:
        raise InputError(where, f"image {identifier!r} could be {found[0]} or {found[1]}", "name the file")
    return found[0]


def missing_image(path: Path, where: object, identifier: str, right: str) -> InputError:
    """The error to raise for an image whose file does not exist; it names a file that differs only in case or zeros."""
    if address := _ADDRESS.search(path.as_posix()):
        return InputError(
            where, f"image {identifier!r} is not a file: {address[1]}//{address[2]}", "download it, and give its path")
    if path.is_symlink():
        return InputError(where, f"image {identifier!r} is missing: {path} links to nothing", "fix the link")
    names = names_in(path.parent)
    wanted = _plain(path.name)
    other = next((name for name in names if _plain(name) == wanted), None)
    if other is not None:
        right = f"there is {other}, whose name differs in case or in its accents"
    else:
        right = about_zeros([path.stem], [PurePosixPath(name).stem for name in names]) or right
    return InputError(where, f"image {identifier!r} is missing: {path}", right)


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
