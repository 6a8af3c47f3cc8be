"""Reading files whole, within bounds, and their digests; and what to say of those that cannot be read."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from drstool.errors import InputError

__all__ = ["content_digest", "read_bytes", "unreadable"]

# Sixteen times what the largest picture takes uncompressed.
_MAX_BYTES = 2**31
_READ_ONLY = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_PART_BYTES = 1 << 20


def unreadable(path: object, error: Exception, right: str = "") -> InputError:
    """The error to raise where the system cannot read a file, with the system's reason.

    Examples
    --------
    >>> print(unreadable("a.png", PermissionError(13, "Permission denied"), "check its permissions"))
    a.png: cannot be read: Permission denied; check its permissions
    """
    return InputError(path, f"cannot be read: {getattr(error, 'strerror', None) or error}", right)


def read_bytes(
    source: bytes | str | Path, where: object = None, *, most: int = _MAX_BYTES, pipes: bool = False,
) -> bytes:
    """The bytes of a file; a source that is bytes already is returned as it is.

    Parameters
    ----------
    source
    where
        Named in errors; the path where not given.
    most
        Largest size accepted, in bytes.
    pipes
        Accept pipes and devices too, not only regular files.

    Raises
    ------
    InputError
        It is missing, not a file, too large, or may not be read.
    """
    if isinstance(source, bytes):
        return source
    where = source if where is None else where
    try:
        # Before opening: a named pipe would block, a device never end.
        status = os.stat(source)
        if not (pipes or stat.S_ISREG(status.st_mode)):
            raise InputError(where, "is not a file", "give a regular file")
        if status.st_size > most:
            raise InputError(where, f"has {status.st_size:,} bytes", f"at most {most:,}")
        # As few system calls as possible: threads wait for each other at each.
        file = os.open(source, _READ_ONLY)
        try:
            return _read_whole(file, status.st_size, most, where)
        finally:
            os.close(file)
    except (OSError, ValueError) as error:  # ValueError: a null character in the path.
        raise unreadable(where, error, "check the path") from error


def _read_whole(file: int, size: int, most: int, where: object) -> bytes:
    """All bytes of an open file that is expected to have ``size`` of them."""
    data = os.read(file, size + 1)
    if len(data) == size:
        return data
    # A pipe, a file the system makes up, or one that has changed meanwhile.
    parts, found = [data], len(data)
    while found <= most and (part := os.read(file, _PART_BYTES)):
        parts.append(part)
        found += len(part)
    if found > most:
        raise InputError(where, f"has more than {most:,} bytes", "give a smaller file")
    return b"".join(parts)


def content_digest(path: str | Path) -> str:
    """``sha256:`` and the digest of a file's bytes, or of the names, sizes and bytes of a folder's files.

    Hidden files do not count.

    Raises
    ------
    InputError
        It cannot be read.
    """
    digest = hashlib.sha256()
    try:
        if not os.path.isdir(path):
            with open(path, "rb") as file:
                hashlib.file_digest(file, lambda: digest)
        else:
            for name in sorted(_names_in(Path(path))):
                with open(os.path.join(path, name), "rb") as file:
                    size = os.fstat(file.fileno()).st_size
                    digest.update(f"{name}\0{size}\0".encode("utf-8", "surrogateescape"))
                    hashlib.file_digest(file, lambda: digest)
    except OSError as error:
        raise InputError(path, f"cannot be read: {error.strerror or error}") from error
    return f"sha256:{digest.hexdigest()}"


def _names_in(folder: Path) -> list[str]:
    """Paths of a folder's files, at any depth, relative to it and with ``/``."""
    return [Path(root, name).relative_to(folder).as_posix()
            for root, _, names in os.walk(folder) for name in names if not name.startswith(".")]
