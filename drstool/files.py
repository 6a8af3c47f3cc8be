"""Reading files whole, within bounds, and their digests; what is there at all, and what to say of the unreadable."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from drstool.errors import InputError

__all__ = [
    "FolderIdentity", "content_digest", "is_file", "is_folder", "likely_file", "names_in", "read_beginning",
    "read_bytes", "status", "unreadable", "walk",
]

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
    if getattr(error, "errno", None) == errno.EMFILE:
        right = "raise the limit of open files (ulimit -n)"
    return InputError(path, f"cannot be read: {getattr(error, 'strerror', None) or error}", right)


def status(path: str | Path, *, follow: bool = True) -> os.stat_result | None:
    """What the system says about a file or folder; None only where there is none, or no file can have such a name.

    ``os.path.exists`` and its relatives, and ``glob``, also take for missing what may not be read.

    Parameters
    ----------
    path
    follow
        Whether a symbolic link stands for what it leads to.

    Raises
    ------
    InputError
        The system cannot tell: no permission, an I/O error, …
    """
    try:
        return os.stat(path, follow_symlinks=follow)
    except (OSError, ValueError) as error:
        if _is_absent(error):
            return None
        raise unreadable(path, error, "check its permissions") from error


def is_file(path: str | Path) -> bool:
    """Whether there is a regular file; raises as :func:`status`."""
    found = status(path)
    return found is not None and stat.S_ISREG(found.st_mode)


def is_folder(path: str | Path) -> bool:
    """Whether there is a folder; raises as :func:`status`."""
    found = status(path)
    return found is not None and stat.S_ISDIR(found.st_mode)


def names_in(folder: str | Path) -> list[str]:
    """Names of what is in a folder, sorted; none where there is no such folder.

    Raises
    ------
    InputError
        It cannot be listed.
    """
    try:
        return sorted(os.listdir(folder))
    except (OSError, ValueError) as error:
        if _is_absent(error):
            return []
        raise unreadable(folder, error, "check its permissions") from error


def likely_file(path: Path) -> str:
    """A remark that names a file beside a missing one whose name has its name as a part; empty if there is none."""
    pattern = re.compile(rf"(?<![^\W_]){re.escape(path.stem)}(?![^\W_])")
    return next((f"there is {name}; " for name in names_in(path.parent) if pattern.search(name)), "")


def walk(folder: str | Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """As :func:`os.walk`, which leaves out what cannot be listed; nothing where there is no such folder.

    Raises
    ------
    InputError
        A folder cannot be listed.
    """
    def refuse(error: OSError) -> None:
        if error.filename != os.fspath(folder) or not _is_absent(error):
            raise unreadable(error.filename or folder, error, "check its permissions") from error

    return os.walk(os.fspath(folder), onerror=refuse)


def _is_absent(error: Exception) -> bool:
    # ValueError: a null character in the path.
    return isinstance(error, ValueError) or getattr(error, "errno", None) in (
        errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)


class FolderIdentity:
    """Notices that a folder that is being read was replaced by another of the same name.

    Parameters
    ----------
    folder
    marker
        Name of a file in the folder that is written once; where it is missing, the folder alone counts.
    """

    def __init__(self, folder: str | Path, marker: str) -> None:
        self._folder, self._marker = folder, os.path.join(folder, marker)
        self._seen = self._now()

    def check(self) -> None:
        """Check that it is still the same.

        Raises
        ------
        InputError
            It is not.
        """
        if self._now() != self._seen:
            raise InputError(self._folder, "was replaced while it was being read", "run this command again")

    def _now(self) -> tuple:
        folder, marker = status(self._folder), status(self._marker)
        # A number is given to another file once its own is gone; the time tells them apart.
        return (
            folder and (folder.st_dev, folder.st_ino),
            marker and (marker.st_dev, marker.st_ino, marker.st_size, marker.st_mtime_ns))


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


def read_beginning(path: str | Path, count: int) -> bytes:
    """The first bytes of a regular file; none of anything else.

    Raises
    ------
    InputError
        It may not be read.
    """
    if not is_file(path):
        return b""
    try:
        with open(path, "rb") as file:
            return file.read(count)
    except OSError as error:
        raise unreadable(path, error, "check its permissions") from error


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
        if not is_folder(path):
            with open(path, "rb") as file:
                hashlib.file_digest(file, lambda: digest)
        else:
            for name in sorted(_names_in(Path(path))):
                with open(os.path.join(path, name), "rb") as file:
                    size = os.fstat(file.fileno()).st_size
                    digest.update(f"{name}\0{size}\0".encode("utf-8", "surrogateescape"))
                    hashlib.file_digest(file, lambda: digest)
    except OSError as error:
        raise unreadable(error.filename or path, error) from error
    return f"sha256:{digest.hexdigest()}"


def _names_in(folder: Path) -> list[str]:
    """Paths of a folder's files, at any depth, relative to it and with ``/``."""
    return [Path(root, name).relative_to(folder).as_posix()
            for root, _, names in walk(folder) for name in names if not name.startswith(".")]
