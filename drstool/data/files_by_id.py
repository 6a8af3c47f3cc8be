"""The files of a folder by image id: the path below the folder, without the file's ending.

Hidden files and folders never count, nor do what macOS and network drives put beside the user's own files.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from drstool.errors import InputError
from drstool.files import names_in, unreadable, walk
from drstool.identifiers import check_id

__all__ = ["IMAGE_SUFFIXES", "FilesById", "holds_images", "is_hidden", "is_image", "list_folder"]

# In this order where a folder has several files of one id.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm")
_SYSTEM_FOLDERS = ("__MACOSX", "@eaDir")


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is not the user's own.

    Examples
    --------
    >>> is_hidden("._a.xml"), is_hidden("__MACOSX"), is_hidden("_annotations.coco.json")
    (True, True, False)
    """
    return name.startswith(".") or name in _SYSTEM_FOLDERS


def is_image(name: str) -> bool:
    """Whether a file of this name is a picture that can be read."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not is_hidden(name)


def holds_images(folder: Path) -> bool:
    """Whether there is an image directly in a folder.

    Raises
    ------
    InputError
        It cannot be listed.
    """
    try:
        with os.scandir(folder) as entries:
            return any(is_image(entry.name) and entry.is_file() for entry in entries)
    except OSError as error:
        raise unreadable(error.filename or folder, error, "check its permissions") from None


def list_folder(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the files in a folder, and of its subfolders; each sorted, without hidden ones.

    Raises
    ------
    InputError
        It cannot be listed.
    """
    try:
        entries = sorted((entry.name, entry.is_dir()) for entry in os.scandir(folder) if not is_hidden(entry.name))
    except OSError as error:
        raise unreadable(error.filename or folder, error, "check its permissions") from None
    return [name for name, inside in entries if not inside], [name for name, inside in entries if inside]


class FilesById:
    """Files of one folder by id; each folder is listed once instead of asking for every file.

    Parameters
    ----------
    folder
        May be missing: then there are no files.
    suffixes
        Endings that count, in any case. Of several files of one id the first of them is found.
    """

    def __init__(self, folder: Path, suffixes: Sequence[str] = IMAGE_SUFFIXES) -> None:
        self.folder, self._suffixes = folder, suffixes
        self._listings: dict[str, dict[str, list[str]]] = {}

    def find(self, identifier: str) -> Path | None:
        """The id's file, with the first of the suffixes that exists."""
        below, _, stem = identifier.rpartition("/")
        names = self._listing(below).get(unicodedata.normalize("NFC", stem))
        return None if names is None else Path(self.folder, below, names[0])

    def __contains__(self, identifier: object) -> bool:
        return self.find(str(identifier)) is not None

    def must_find(self, identifier: str, where: str) -> Path:
        """As :meth:`find`; an image without a file is an error."""
        path = self.find(identifier)
        if path is None:
            raise InputError(
                where, f"names {identifier!r}, which has no image",
                f"expected {self.folder / identifier}{self._suffixes[0]}")
        return path

    def ids(self, below: str = "", *, unique: bool = False, deep: bool = True) -> list[str]:
        """Ids of all files, sorted.

        Parameters
        ----------
        below
            Only those in this subfolder.
        unique
            Refuse two files of one id.
        deep
            Also those in subfolders.

        Raises
        ------
        InputError
            A name cannot be an id; two files have the same one.
        """
        ids = []
        for folder, inner, _ in walk(self.folder / below):
            inner[:] = [name for name in inner if deep and not is_hidden(name)]
            place = Path(folder).relative_to(self.folder).as_posix()
            prefix = "" if place == "." else place + "/"
            for stem, names in self._listing(prefix.rstrip("/")).items():
                if unique and len(names) > 1:
                    raise InputError(
                        Path(folder, names[1]), f"would have the same id as {names[0]}: {prefix + stem!r}",
                        "give the images different names, not only different endings; masks belong in a folder 'masks' "
                        "beside one of 'images'")
                ids.append(prefix + stem)
        return [check_id(identifier, self.folder) for identifier in sorted(ids)]

    def _listing(self, below: str) -> dict[str, list[str]]:
        """File names by stem of one subfolder."""
        if below in self._listings:
            return self._listings[below]
        names = [os.path.splitext(name) for name in names_in(self.folder / below) if not is_hidden(name)]
        found = self._listings[below] = {}
        for wanted in self._suffixes:
            for stem, suffix in names:
                if suffix.lower() == wanted:
                    # Some file systems store accents apart from their letters; a list may not.
                    found.setdefault(unicodedata.normalize("NFC", stem), []).append(stem + suffix)
        return found
