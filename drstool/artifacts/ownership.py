"""Whose files lie where an output is to be: only drstool's own are ever replaced, and a dataset's never."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from drstool.artifacts.end_record import names_crc32
from drstool.artifacts.header import END_NAME, FORMAT, HEADER_NAME
from drstool.errors import OutputError
from drstool.text import quoted

__all__ = [
    "MARKERS", "PICTURE_MARK", "beginning", "check_apart_from_data", "check_only_ours", "contents", "foreign_work",
    "is_note", "kind_of",
]

MARKERS = (HEADER_NAME, END_NAME)
_MOVE = "move it, or choose another -o"
# What a folder in PASCAL VOC's layout, such as a demo dataset, consists of; only saliency_map may be an output.
_SALIENCY = "saliency_map"
_VOC_FOLDERS = ("JPEGImages", "ImageSets")
_PARTS = (*_VOC_FOLDERS, _SALIENCY, "Annotations", "SegmentationClass", "SegmentationClassAug", "SegmentationObject",
          "classes.txt", "README.txt")
_DEMO = re.compile(
    r"(?:JPEGImages/demo_\d+\.jpg|Annotations/demo_\d+\.xml|(?:SegmentationClass|saliency_map)/demo_\d+\.png"
    r"|ImageSets/Segmentation/(?:train|val|trainval)(?:_cls)?\.txt|saliency_map/drstool(?:\.end)?\.json"
    r"|classes\.txt|README\.txt)")
# What a page to look at a run consists of.
_GALLERY = re.compile(
    r"index\.html|page/(?:page\.css|(?:cues|index|page)\.js)|(?:images|thumbnails)/\d+\.jpg|layers/\d+\.js")
_PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF", b"P5", b"P6")
# Near the beginning of each picture file that drstool writes: a figure may be replaced, a photograph never.
PICTURE_MARK = b"made with drstool"
# Names that a message lists.
_MOST_NAMED = 3


def kind_of(folder: Path) -> str | None:
    """The kind of a folder that drstool wrote; None for any other."""
    header = _json_object(folder / HEADER_NAME)
    return str(header.get("kind")) if header.get("format") == FORMAT else None


def is_note(path: Path) -> bool:
    """Whether a file is JSON that drstool wrote, or empty."""
    start = beginning(path, 1)
    return start is not None and (not start or _json_object(path).get("format") == FORMAT)


def beginning(path: Path, size: int) -> bytes | None:
    """The first bytes of a regular file; None of anything else, also where it cannot be read."""
    try:
        if stat.S_ISREG(os.lstat(path).st_mode):
            with open(path, "rb") as file:
                return file.read(size)
    except OSError:
        pass
    return None


def check_apart_from_data(path: object, target: Path, *, folder: bool = False) -> None:
    """Check that an output would neither replace nor join the files that make up a dataset.

    Parameters
    ----------
    path
        The output as the user named it.
    target
        Where it will lie.
    folder
        Whether it is a folder.

    Raises
    ------
    OutputError
        It would.
    """
    if target.name in MARKERS:
        raise OutputError(path, "is a name that drstool gives to other files", "choose another name")
    for root in target.parents:
        part = target.relative_to(root).parts[0]
        if part not in _PARTS or not any((root / name).is_dir() for name in _VOC_FOLDERS):
            continue
        # Saliency maps are what drstool adds to a dataset, as a whole.
        if not (folder and part == _SALIENCY and target == root / part):
            raise OutputError(path, f"is part of the dataset '{root}'", "choose another -o")
    start = beginning(target, 256) or b""
    if not folder and start.startswith(_PICTURES) and PICTURE_MARK not in start:
        raise OutputError(path, "is a picture, which this command does not write", _MOVE)


def check_only_ours(path: object, folder: Path, kind: str) -> None:
    """Check that a folder that drstool wrote holds nothing else, so that it may be replaced.

    A file counts as drstool's if its name is one that such a folder has, and there are no more than were
    written. What a file of such a name holds is not looked at.

    Parameters
    ----------
    path
        The folder as the user named it.
    folder
    kind
        As :func:`kind_of` gives it.

    Raises
    ------
    OutputError
        It holds other files, which are named, or does not say how many it should hold.
    """
    end = _json_object(folder / END_NAME)
    count = end.get("count")
    if type(count) is not int:
        raise OutputError(path, f"has no end record '{END_NAME}', which says what drstool wrote", _MOVE)
    own: list[str] = []
    others: list[str] = []
    for name, is_file in contents(folder):
        if name not in MARKERS:
            (own if is_file and _may_be_ours(name, kind, count) else others).append(name)
    if others:
        raise OutputError(
            path, f"also holds {quoted(others, _MOST_NAMED)}, which drstool did not write", "move that away first")
    if kind != "dataset" and (
            len(own) > count or len(own) == count and end.get("names_crc32", names_crc32(own)) != names_crc32(own)):
        newest = sorted(own, key=lambda name: os.lstat(folder / name).st_mtime, reverse=True)
        what = "files" if kind in ("gallery", "export") else "PNGs"
        raise OutputError(
            path, f"holds {what} that drstool did not write (it wrote {count}); "
            f"the newest of {len(own)} are {quoted(newest, _MOST_NAMED)}", "move yours away first")


def _may_be_ours(name: str, kind: str, count: int) -> bool:
    if kind == "gallery":
        return _GALLERY.fullmatch(name) is not None
    if kind == "export":
        # Whatever the format calls its files: all names together have a checksum.
        return True
    if kind != "dataset":
        return name.endswith(".png")
    number = re.search(r"demo_(\d+)", name)
    return _DEMO.fullmatch(name) is not None and (number is None or int(number[1]) < count)


def contents(folder: Path) -> Iterator[tuple[str, bool]]:
    """Paths of all that lies in a folder, relative to it, and whether each is a regular file; no folders."""
    def refuse(error: OSError) -> None:
        raise error

    for root, folders, files in os.walk(folder, onerror=refuse):
        here = Path(root)
        links = [name for name in folders if (here / name).is_symlink()]
        for name in (*files, *links):
            yield (here / name).relative_to(folder).as_posix(), stat.S_ISREG(os.lstat(here / name).st_mode)


def foreign_work(place: Path) -> OutputError:
    """The error to raise where unfinished work is kept in the place of something else."""
    return OutputError(
        place, "lies where unfinished work is kept, but this command did not write it", _MOVE)


def _json_object(path: Path) -> dict:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
