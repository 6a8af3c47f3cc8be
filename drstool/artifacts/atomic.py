"""Files and folders that appear under their final name only when whole.

Everything is written under a temporary name beside the target (``.NAME.partial-…``) and renamed at
the end, so that a reader never meets half a file and a failure leaves what was there before. Beside
the target are also what ``--resume`` continues (``.NAME.resume``) and the lock of the command that
is writing (``.NAME.lock``).
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import select
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from drstool.artifacts.header import FORMAT, HEADER_NAME
from drstool.errors import OutputError

__all__ = [
    "check_writable", "clear_away", "sidecar", "new_file", "new_folder", "output_error", "unfinished_path",
    "write_fully", "writing",
]

_RIGHT = {
    errno.ENOSPC: "free some space, or write elsewhere",
    errno.EDQUOT: "free some space, or write elsewhere",
    errno.EFBIG: "raise the file size limit, or write elsewhere",
    errno.EROFS: "write elsewhere",
    errno.EACCES: "change the permissions, or write elsewhere",
    errno.EPERM: "change the permissions, or write elsewhere",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EIO: "check the disk",
    errno.ESTALE: "check the network disk",
    errno.ENOLCK: "check the network disk",
    errno.EMFILE: "raise the limit of open files (ulimit -n), or lower --workers",
    errno.ENFILE: "close other programs, or ask who looks after the machine",
}
# Names beside the target get some letters more; 255 bytes is the common limit.
_MAX_NAME_BYTES = 220


def output_error(where: object, error: OSError) -> OutputError:
    """The one-line form of an operating system's refusal to write.

    Examples
    --------
    >>> print(output_error("maps.h5", OSError(28, "No space left on device")))
    maps.h5: cannot be written: No space left on device; free some space, or write elsewhere
    """
    reason = error.strerror or str(error)
    return OutputError(where, f"cannot be written: {reason}", _RIGHT.get(error.errno or 0, ""))


def check_writable(
    path: str | Path, overwrite: bool, *, folder: bool = False, dataset: bool = False
) -> Path:
    """Where the output will lie, after checking that it may be written; called before the work.

    Parameters
    ----------
    path
        The output as the user named it. A symbolic link stands for what it points to.
    overwrite
        Whether something there may be replaced.
    folder
        Whether the output is a folder. An existing empty folder counts as absent.
    dataset
        Whether the output is a dataset, and so may replace one.

    Raises
    ------
    OutputError
        It exists and may not be replaced, or its folder is missing or not writable.
    """
    if not os.fspath(path):
        raise OutputError("-o", "is empty", "name a file or folder")
    target = Path(os.path.realpath(path))
    with writing(path, target):
        if folder:
            _check_folder(path, target, overwrite, dataset)
        else:
            _check_file(path, target, overwrite)
        _check_parent(path, target)
    return target


@contextmanager
def new_file(path: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """A temporary path to write to; when the block ends well, it becomes ``path``.

    Parameters
    ----------
    path
        The file to make.
    overwrite
        Whether a file there is replaced.

    Raises
    ------
    OutputError
        It exists without ``overwrite``, or it cannot be written (no space, no permission, …).
    """
    target = check_writable(path, overwrite)
    partial = _beside(target, "partial")
    with writing(path, partial):
        try:
            os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
            yield partial
            _sync(partial)
            _publish_file(path, partial, target, overwrite)
        finally:
            with suppress(OSError):
                partial.unlink()


@contextmanager
def new_folder(
    path: str | Path, overwrite: bool = False, *, dataset: bool = False, at: Path | None = None
) -> Iterator[Path]:
    """A temporary folder to fill; when the block ends well, it becomes ``path``.

    Parameters
    ----------
    path
        The folder to make.
    overwrite
        Whether a folder there is replaced; only one that holds a ``drstool.json`` is.
    dataset
        Whether a dataset is written: only that may replace a dataset.
    at
        A folder that is there, beside the path, to be filled in place of a temporary one; after a
        failure it stays.

    Raises
    ------
    OutputError
        It exists and may not be replaced, or it cannot be written (no space, no permission, …).
    """
    target = check_writable(path, overwrite, folder=True, dataset=dataset)
    partial = at if at is not None else _beside(target, "partial")
    with writing(path, partial):
        try:
            if at is None:
                partial.mkdir()
            yield partial
            _publish_folder(path, partial, target, overwrite, dataset)
        finally:
            if at is None:
                shutil.rmtree(partial, ignore_errors=True)


def clear_away(path: str | Path) -> None:
    """Remove what killed commands left of an output in the making; nobody may be writing it.

    What they moved aside to replace it comes back where nothing took its place.
    """
    target = Path(os.path.realpath(path))
    makers = (target, unfinished_path(target), sidecar(target, "resume.json"))
    owners = "|".join(re.escape(_distinct(owner.name)) for owner in makers)
    leavings = re.compile(rf"\.(?:{owners})\.(?:partial|replaced)-[0-9a-f]{{8}}", re.DOTALL)
    with suppress(OSError):
        for name in os.listdir(target.parent):
            if not leavings.fullmatch(name):
                continue
            left = target.with_name(name)
            if ".replaced-" in name and not os.path.lexists(target):
                os.rename(left, target)
            elif left.is_dir() and not left.is_symlink():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink()


def unfinished_path(output: str | Path) -> Path:
    """Where unfinished work on an output is kept for ``--resume``.

    Examples
    --------
    >>> unfinished_path("/data/cls.pt").name
    '.cls.pt.resume'
    """
    return sidecar(Path(os.path.realpath(output)), "resume")


def sidecar(target: Path, role: str) -> Path:
    """The hidden name of a role beside a target; another one for each target, however long its name."""
    return target.with_name(f".{_distinct(target.name)}.{role}")


@contextmanager
def writing(where: object, *paths: Path) -> Iterator[None]:
    """Turn what the system says about these paths, or about no path, into an OutputError.

    A closed pipe passes through: it is not a failure of an output.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        files = (error.filename, error.filename2)
        named = [os.fsdecode(name) for name in files if isinstance(name, (str, bytes, os.PathLike))]
        ours = any(n == str(p) or n.startswith(f"{p}{os.sep}") for n in named for p in paths)
        if ours or (error.errno in _RIGHT and not named):
            raise output_error(where, error) from error
        raise


def write_fully(stream: BinaryIO, data: bytes, where: object = "stdout") -> None:
    """Write bytes so that they have left this process when the call returns.

    Python's own buffer is gone round: after a failed write it would try again at exit.

    Raises
    ------
    OutputError
        The system refuses. A closed pipe is a ``BrokenPipeError`` instead.
    """
    try:
        stream.flush()
        raw = getattr(stream, "raw", stream)
        rest = memoryview(data)
        while rest:
            written = raw.write(rest)
            if written is None:
                # A non-blocking pipe that is full: wait until its reader took something.
                select.select([], [raw], [])
            else:
                rest = rest[written:]
        raw.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise output_error(where, error) from error


def _check_file(path: object, target: Path, overwrite: bool) -> None:
    if target.is_dir():
        raise OutputError(path, "is a folder", "name a file")
    if not os.path.lexists(target):
        return
    if not target.is_file():
        raise OutputError(path, "is not a regular file", "name a file")
    if not overwrite:
        raise _exists(path)


def _check_folder(path: object, target: Path, overwrite: bool, dataset: bool) -> None:
    if not os.path.lexists(target):
        return
    if not target.is_dir():
        raise OutputError(path, "is a file", "name a folder")
    if target == Path(os.path.realpath(os.curdir)):
        raise OutputError(path, "is the current folder", "name a folder inside it")
    if os.path.ismount(target):
        raise OutputError(path, "is a mount point", "name a folder inside it")
    if not any(target.iterdir()):
        return
    if not overwrite:
        raise _exists(path)
    kind = _kind_of(target)
    if kind is None:
        raise OutputError(path, "was not written by drstool", "move it, or choose another -o")
    if not dataset and "dataset" in (kind, _kind_of(target.parent)):
        what = "is a dataset" if kind == "dataset" else "is part of a dataset"
        raise OutputError(path, what, "choose another -o; only 'drstool demo' replaces a dataset")


def _check_parent(path: object, target: Path) -> None:
    parent = target.parent
    if not parent.is_dir():
        raise OutputError(path, f"folder '{parent}' does not exist", "create it first")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(path, f"folder '{parent}' is not writable", _RIGHT[errno.EACCES])


def _exists(path: object) -> OutputError:
    return OutputError(path, "already exists", "choose another name, or use --overwrite")


def _kind_of(folder: Path) -> str | None:
    """The kind of a folder that drstool wrote; None for any other."""
    try:
        header = json.loads((folder / HEADER_NAME).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        return None
    return str(header.get("kind"))


def _beside(target: Path, role: str) -> Path:
    return target.with_name(f".{_distinct(target.name)}.{role}-{secrets.token_hex(4)}")


def _distinct(name: str) -> str:
    """The name, or its beginning and a digest where it leaves no room for more."""
    shown = name.encode("utf-8", "surrogateescape")[:_MAX_NAME_BYTES].decode("utf-8", "ignore")
    if shown == name:
        return name
    return f"{shown}~{hashlib.sha256(os.fsencode(name)).hexdigest()[:12]}"


def _sync(path: Path) -> None:
    # Network and quota file systems report only now that there is no room.
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise
    finally:
        os.close(descriptor)


def _publish_file(path: object, partial: Path, target: Path, overwrite: bool) -> None:
    if not overwrite:
        try:
            # Unlike a rename, a link does not replace what another program put there meanwhile.
            os.link(partial, target)
            return
        except FileExistsError:
            raise _exists(path) from None
        except OSError:
            # No hard links on this file system: look, then rename.
            if os.path.lexists(target):
                raise _exists(path) from None
    os.replace(partial, target)


def _publish_folder(path: object, partial: Path, target: Path, overwrite: bool, dataset: bool) -> None:
    _check_folder(path, target, overwrite, dataset)
    if not target.is_dir() or not any(target.iterdir()):
        os.rename(partial, target)
        return
    old = _beside(target, "replaced")
    os.rename(target, old)
    try:
        os.rename(partial, target)
    except BaseException:
        os.rename(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)
