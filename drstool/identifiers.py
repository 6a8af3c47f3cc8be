"""Image ids: which strings may be one, and how one becomes a file's name.

An id is free text of the dataset: it may hold ``/``, spaces, dots and any Unicode. It is also the
name of what is written for the image, so nothing may be an id that could leave the output folder.
"""

from __future__ import annotations

import unicodedata

from drstool.errors import InputError

__all__ = ["ONE_NAME_RULE", "Names", "check_id", "member_name"]

# 255 bytes is the longest file name of common file systems; room is left for endings.
_MAX_COMPONENT_BYTES = 200
# With the folders above it, a path of common systems may have 4096.
_MAX_ID_BYTES = 1024


def check_id(identifier: object, where: object) -> str:
    """The id itself, after checking that a file can be named after it.

    Parameters
    ----------
    identifier
        What the dataset calls the image.
    where
        Named in the error: the list, the manifest line, the archive.

    Raises
    ------
    InputError
        Empty, not text, absolute, with a part ``.``, ``..`` or nothing between two slashes, with a
        control character, or with a part too long for a file name, or too long altogether.

    Examples
    --------
    >>> check_id("street/2007 000032.ä", "list")
    'street/2007 000032.ä'
    """
    if not isinstance(identifier, str) or not identifier:
        raise InputError(where, f"{identifier!r} is no image id", "an id is a non-empty text")
    shown = f"id {identifier!r}"
    if any(unicodedata.category(c) in ("Cc", "Cs") for c in identifier):
        raise InputError(where, f"{shown} holds a control character", "use printable characters")
    if len(identifier.encode()) > _MAX_ID_BYTES:
        raise InputError(where, f"{shown[:60]}… is too long", f"an id takes at most {_MAX_ID_BYTES:,} bytes")
    for part in identifier.split("/"):
        if part in ("", ".", ".."):
            raise InputError(
                where, f"{shown} could name a file outside the output folder",
                "an id has no leading, trailing or double '/' and no part '.' or '..'",
            )
        if len(part.encode()) > _MAX_COMPONENT_BYTES:
            raise InputError(
                where, f"{shown[:60]}… is too long",
                f"a part between slashes takes at most {_MAX_COMPONENT_BYTES} bytes",
            )
    return identifier


def member_name(identifier: str, suffix: str) -> str:
    """File name of an image's record, relative to the folder or archive that holds it.

    Examples
    --------
    >>> member_name("street/0001", ".png")
    'street/0001.png'
    """
    return identifier + suffix


ONE_NAME_RULE = (
    "list each image once, and let no id be the folder of another, differ from another in upper and "
    "lower case or in how Unicode spells it only, or begin a part with '._'"
)


class Names:
    """The names that go into one folder, no two of which any file system takes for one.

    The rule is the same everywhere, so that a folder written here can be copied elsewhere: some file
    systems do not tell ``A`` from ``a``, and some not a letter with its accent from the letter and the
    accent. It holds for the folders in a name too. Names that begin with ``._`` are companions of
    files on one system, and are refused.

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
    drstool.errors.InputError: labels: cannot take 'Street/2' beside 'street': its name is taken; ...
    """

    def __init__(self, where: object) -> None:
        self._where = where
        # As a file system might see a name: as it is written. Folders end in '/'.
        self._files: set[str] = set()
        self._folders: dict[str, str] = {}

    def add(self, name: str) -> None:
        """Take a name, or refuse it.

        Raises
        ------
        InputError
            It is taken, or would be on another system.
        """
        *parents, _ = parts = name.split("/")
        if any(part.startswith("._") for part in parts):
            raise InputError(self._where, f"cannot take '{name}'", ONE_NAME_RULE)
        folder = ""
        for parent in parents:
            folder += parent + "/"
            seen = _seen_as(folder)
            other = self._folders.setdefault(seen, folder)
            if other != folder or seen[:-1] in self._files:
                self._refuse(name, other[:-1])
        seen = _seen_as(name)
        if seen in self._files or seen + "/" in self._folders:
            self._refuse(name, self._folders.get(seen + "/", "")[:-1])
        self._files.add(seen)

    def _refuse(self, name: str, other: str) -> None:
        beside = f" beside '{other}'" if other and other != name else ""
        raise InputError(self._where, f"cannot take '{name}'{beside}: its name is taken", ONE_NAME_RULE)


def _seen_as(name: str) -> str:
    """A name as the least discerning file system sees it.

    Examples
    --------
    >>> _seen_as("Gro\u0308\u00dfe") == _seen_as("gr\u00f6SSE")
    True
    """
    if name.isascii():
        return name.lower()
    # Casefolding may leave something to normalise, and the other way round.
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())
