"""Image ids: which strings may be one, and how one becomes a file's name.

An id is free text of the dataset: it may hold ``/``, spaces, dots and any Unicode. It is also the
name of what is written for the image, so nothing may be an id that could leave the output folder.
"""

from __future__ import annotations

import unicodedata

from drstool.errors import InputError

__all__ = ["check_id", "member_name"]

# 255 bytes is the longest file name of common file systems; room is left for endings.
_MAX_COMPONENT_BYTES = 200


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
        control character, or with a part too long for a file name.

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
