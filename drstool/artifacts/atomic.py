"""Files and folders that appear under their final name only when whole.

Everything is written under a temporary name beside the target (``.NAME.partial-…``) and renamed at
the end, so that a reader never meets half a file and a failure leaves what was there before. Beside
the target are also what ``--resume`` continues (``.NAME.resume``) and the lock of the command that
is writing (``.NAME.lock``).
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import select
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from drstool.artifacts.header import END_NAME, HEADER_NAME
from drstool.artifacts.ownership import check_apart_from_data, check_only_ours, kind_of
from drstool.errors import OutputError, UsageError
from drstool.parallel import ordered_map

__all__ = [
    "check_writable", "clear_away", "copy_mode", "sidecar", "new_file", "new_folder", "output_error",
    "unfinished_path", "write_fully", "writing",
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
# File systems that cannot sync a file or folder say so in these ways.
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
# Files synced at a time: the disk then writes down many of them together.
_SYNC_THREADS = 4
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
    path: str | Path, overwrite: bool, *, folder: bool = False, dataset: bool = False, may_exist: bool = False,
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
    may_exist
        Whether something may be there that is not going to be replaced.

    Raises
    ------
    OutputError
        It exists and may not be replaced, would be part of a dataset, or its folder is missing or not writable.
    UsageError
        It is ``-``, for stdout.
    """
    if not os.fspath(path):
        raise OutputError("-o", "is empty", "name a file or folder")
    if os.fspath(path) == "-":
        raise UsageError("-", "this output cannot be written to stdout", "name a file or folder")
    target = Path(os.path.realpath(path))
    with writing(path, target):
        check_apart_from_data(path, target, folder=folder)
        if folder:
            _check_folder(path, target, overwrite, dataset, may_exist)
        else:
            _check_file(path, target, overwrite or may_exist)
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
            # Nobody may read it meanwhile who may not read what it replaces.
            mode = 0o600 if target.exists() else 0o666
            os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
            yield partial
            copy_mode(target, partial)
            _sync(partial)
            _publish_file(path, partial, target, overwrite)
            _sync_folder(target.parent)
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
        Whether a folder there is replaced; only one that drstool wrote is, and that holds nothing else.
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
                partial.mkdir(0o700 if target.exists() else 0o777)
            yield partial
            _copy_modes(target, partial)
            _sync_all(partial)
            _publish_folder(path, partial, target, overwrite, dataset)
        finally:
            if at is None:
                _remove_ours(partial)


def clear_away(path: str | Path) -> None:
    """Remove what killed commands left of an output in the making; nobody may be writing it.

    What they moved aside to replace it comes back where nothing took its place. A file is known by its name,
    a part of which is drawn by lot; a folder must also have drstool's marker, or be empty.
    """
    target = Path(os.path.realpath(path))
    makers = (target, unfinished_path(target), sidecar(target, "resume.json"))
    owners = "|".join(re.escape(_distinct(owner.name)) for owner in makers)
    leavings = re.compile(rf"\.(?:{owners})\.(?:partial|replaced)-[0-9a-f]{{8}}", re.DOTALL)
    with suppress(OSError):
        for name in os.listdir(target.parent):
            if not leavings.fullmatch(name):
                continue
            left, replaced = target.with_name(name), ".replaced-" in name
            mode = os.lstat(left).st_mode
            if stat.S_ISREG(mode) and not replaced:
                left.unlink()
            elif not stat.S_ISDIR(mode) or not _has_marker(left, replaced):
                continue
            elif replaced and (left / END_NAME).exists() and not os.path.lexists(target):
                os.rename(left, target)
            else:
                _remove_ours(left)


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


def copy_mode(of: Path, to: Path) -> None:
    """Give a new file or folder the permissions of one that is there; unchanged where there is none."""
    # Where a system has no such permissions, the new one keeps its own, which are not wider.
    with suppress(OSError):
        os.chmod(to, stat.S_IMODE(os.stat(of).st_mode) & 0o777)


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


def _check_folder(path: object, target: Path, overwrite: bool, dataset: bool, may_exist: bool = False) -> None:
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
        if may_exist:
            return
        raise _exists(path)
    kind = kind_of(target)
    if kind is None:
        raise OutputError(path, "was not written by drstool", "move it, or choose another -o")
    if not dataset and "dataset" in (kind, kind_of(target.parent)):
        what = "is a dataset" if kind == "dataset" else "is part of a dataset"
        raise OutputError(path, what, "choose another -o; only 'drstool demo' replaces a dataset")
    check_only_ours(path, target, kind)


def _check_parent(path: object, target: Path) -> None:
    parent = target.parent
    if not parent.is_dir():
        raise OutputError(path, f"folder '{parent}' does not exist", "create it first")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(path, f"folder '{parent}' is not writable", _RIGHT[errno.EACCES])


def _exists(path: object) -> OutputError:
    return OutputError(path, "already exists", "choose another name, or use --overwrite")


def _has_marker(folder: Path, replaced: bool) -> bool:
    """Whether a folder holds drstool's marker or, unless it was whole once, only what comes before that."""
    return kind_of(folder) is not None or not replaced and set(os.listdir(folder)) <= {HEADER_NAME}


def _remove_ours(folder: Path) -> None:
    """Delete a folder, as far as possible.

    What a kill leaves is still known as drstool's by its marker, the last to go, and as not whole by the
    end record, the first to go.
    """
    with suppress(OSError):
        (folder / END_NAME).unlink(missing_ok=True)
        for entry in list(os.scandir(folder)):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            elif entry.name != HEADER_NAME:
                os.unlink(entry.path)
    shutil.rmtree(folder, ignore_errors=True)


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
    _fsync(os.open(path, os.O_RDWR))


def _sync_folder(folder: Path) -> None:
    """Have a folder's names written down; done without where the system opens no folder, or cannot."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # on Windows always; elsewhere where we may write into it, but not read it
        return
    _fsync(descriptor)


def _fsync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(descriptor)


def _sync_all(folder: Path) -> None:
    """Have all that a folder holds, and the folder, written to the disk."""
    places = list(os.walk(folder))
    files = (Path(root, name) for root, _, names in places for name in names)
    for _ in ordered_map(_sync, files, _SYNC_THREADS):
        pass
    for root, _, _ in places:
        _sync_folder(Path(root))


def _copy_modes(old: Path, new: Path) -> None:
    """Give a folder that replaces another one its permissions, and the files those of the other one's marker."""
    if not (old / HEADER_NAME).is_file():
        copy_mode(old, new)
        return
    for root, folders, names in os.walk(new, topdown=False):
        for name in names:
            copy_mode(old / HEADER_NAME, Path(root, name))
        for name in folders:
            copy_mode(old, Path(root, name))
    copy_mode(old, new)


def _publish_file(path: object, partial: Path, target: Path, overwrite: bool) -> None:
    if not overwrite:
        try:
            # Unlike a rename, a link does not replace what another program put there meanwhile.
            os.link(partial, target)
            partial.unlink()
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
        _sync_folder(target.parent)
        return
    old = _beside(target, "replaced")
    os.rename(target, old)
    try:
        os.rename(partial, target)
        _sync_folder(target.parent)
    except BaseException:
        if not target.exists():
            os.rename(old, target)
        raise
    _remove_ours(old)
