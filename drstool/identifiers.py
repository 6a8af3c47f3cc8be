"""Image ids: which strings are valid, and the file names made of them.

An id is free text of the dataset: it may contain ``/``, spaces, dots and any Unicode. It also names the
files written for the image, so no id may lead out of the output folder.
"""

from __future__ import annotations

import unicodedata
from typing import NoReturn

from drstool.errors import InputError

__all__ = ["ONE_NAME_RULE", "Names", "check_id", "member_name"]

# Common file systems take names of up to 255 bytes; this leaves room for suffixes.
_MAX_COMPONENT_BYTES = 200
# A whole path may have 4096 bytes on common systems.
_MAX_ID_BYTES = 1024


def check_id(identifier: object, where: object) -> str:
    """The id itself, after checking that it can name a file.

    Parameters
    ----------
    identifier
        The dataset's name for the image.
    where
        Named in the error: the list, the manifest line, the archive.

    Raises
    ------
    InputError
        It is empty, not text, absolute or too long, has a part that is empty, ``.``, ``..`` or too
        long for a file name, or contains a control character.

    Examples
    --------
    >>> check_id("street/2007 000032.ä", "list")
    'street/2007 000032.ä'
    """
    if not isinstance(identifier, str) or not identifier:
        raise InputError(where, f"{identifier!r} is not an image id", "an id is a non-empty string")
    shown = f"id {identifier!r}"
    if any(unicodedata.category(c) in ("Cc", "Cs") for c in identifier):
        raise InputError(where, f"{shown} contains a control character", "use printable characters")
    if len(identifier.encode()) > _MAX_ID_BYTES:
        raise InputError(where, f"{shown[:60]}… is too long", f"an id has at most {_MAX_ID_BYTES:,} bytes")
    for part in identifier.split("/"):
        if part in ("", ".", ".."):
            raise InputError(
                where, f"{shown} could name a file outside the output folder",
                "an id has no leading, trailing or double '/' and no part '.' or '..'",
            )
        if len(part.encode()) > _MAX_COMPONENT_BYTES:
            raise InputError(
                where, f"{shown[:60]}… is too long",
                f"a part between slashes has at most {_MAX_COMPONENT_BYTES} bytes",
            )
    return identifier


def member_name(identifier: str, suffix: str) -> str:
    """File name of an image's record, relative to its folder or archive.

    Examples
    --------
    >>> member_name("street/0001", ".png")
    'street/0001.png'
    """
    return identifier + suffix


ONE_NAME_RULE = (
    "list each image once; no id may be the folder of another, differ from another only in case or "
    "Unicode normalization, or have a part that begins with '._'"
)


class Names:
    """The names in one folder, no two of which are the same to any file system.

    The rule is the same everywhere, so that a folder written here can be copied elsewhere: some file
    systems ignore case, and some normalize Unicode. It holds for the folders in a name, too. Names
    that begin with ``._`` are refused, as macOS gives them to companions of files.

    Parameters
    ----------
    where
        Named in errors.

    Examples
    --------
    >>> names = Names("labels")
    >>> names.add("street/1")
    >>> names.add("Street/2")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    drstool.errors.InputError: labels: cannot store 'Street/2' next to 'street': its name is already taken; ...
    """

    def __init__(self, where: object) -> None:
        self._where = where
        # Names as given, by the normalized ones; those of folders end in '/'.
        self._files: dict[str, str] = {}
        self._folders: dict[str, str] = {}

    def add(self, name: str) -> None:
        """Take a name.

        Raises
        ------
        InputError
            It is taken, or would be on some file system.
        """
        *parents, _ = parts = name.split("/")
        if any(part.startswith("._") for part in parts):
            raise InputError(self._where, f"cannot store '{name}'", ONE_NAME_RULE)
        folder = ""
        for parent in parents:
            folder += parent + "/"
            seen = _seen_as(folder)
            other = self._folders.setdefault(seen, folder)
            if other != folder or seen[:-1] in self._files:
                self._refuse(name, self._files.get(seen[:-1], other[:-1]))
        seen = _seen_as(name)
        if seen in self._files or seen + "/" in self._folders:
            self._refuse(name, self._files.get(seen) or self._folders[seen + "/"][:-1])
        self._files[seen] = name

    def _refuse(self, name: str, other: str) -> NoReturn:
        beside = f" next to '{other}'" if other != name else ""
        raise InputError(self._where, f"cannot store '{name}'{beside}: its name is already taken", ONE_NAME_RULE)


def _seen_as(name: str) -> str:
    """A name as a file system sees it that ignores case and normalizes Unicode.

    Examples
    --------
    >>> _seen_as("Gro\u0308\u00dfe") == _seen_as("gr\u00f6SSE")
    True
    """
    if name.isascii():
        return name.lower()
    # Casefolding may leave something to normalize, and vice versa.
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())
