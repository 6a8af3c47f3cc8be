"""PASCAL VOC folders: split lists, tags from lists or XML, masks and saliency beside the images.

``ROOT/JPEGImages/ID.jpg``, ``ROOT/ImageSets/Segmentation/NAME.txt``, ``ROOT/Annotations/ID.xml``,
``ROOT/SegmentationClass[Aug]/ID.png``, ``ROOT/saliency_map/ID.png``. Only the images must be there.

References
----------
Everingham et al., The PASCAL Visual Object Classes Challenge 2012, development kit.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from drstool.annotations.voc_xml import object_names
from drstool.data.cells import RawTags, TagForm
from drstool.data.files_by_id import IMAGE_SUFFIXES, FilesById, is_hidden
from drstool.data.item import RawDataset, RawItem, each_or_error
from drstool.data.lists import id_of, read_tag_list, split_id
from drstool.data.tags import gather_names, read_class_names
from drstool.errors import InputError, UsageError
from drstool.files import is_file, is_folder, names_in, unreadable
from drstool.identifiers import check_id
from drstool.labels import check_class_names
from drstool.text import read_lines

__all__ = ["find_list", "is_voc", "list_names", "read_ids", "read_voc"]

_LIST_FOLDERS = ("ImageSets/Segmentation", "ImageSets", "ImageSets/Main")
# The official masks first: published scores are on them, and those of SBD are coarser. The third is labelme2voc's.
_MASK_FOLDERS = ("SegmentationClass", "SegmentationClassAug", "SegmentationClassPNG")
# The second is labelme2voc's.
_CLASS_LISTS = ("classes.txt", "class_names.txt")
_TAG_LIST_SUFFIX = "_cls"
# Splits that are named in an error.
_SHOWN = 8
_CLASS_LIST_NAME = re.compile(r"(.+)_(?:trainval|train|val)\.txt")


def is_voc(root: Path) -> bool:
    """Whether a folder has the layout of PASCAL VOC."""
    # CVAT leaves the images out where they are not asked for.
    return any(is_folder(root / name) for name in ("ImageSets", "JPEGImages")) or (
        is_folder(root / "SegmentationClass") and is_file(root / "labelmap.txt"))


def read_voc(root: Path, split: str | None, form: TagForm, images: Path | None = None) -> RawDataset:
    """The images of one split of a VOC folder.

    Tags come from ``NAME_cls.txt`` beside the split's list, else from the XML annotations, never
    from the masks, which are pixel ground truth.

    Parameters
    ----------
    root
        The folder.
    split
        Name of a list below ``ImageSets``, or a text file of ids or paths. None: the only list of
        ``ImageSets/Segmentation``; all images where there is no list at all.
    form
        How a list of tags may be written. Where it lists class names, none are gathered from the annotations.
    images
        Folder of the images, where it is not ``JPEGImages``.

    Raises
    ------
    UsageError
        No split is named and there are several.
    InputError
        A list or image is missing, an id is listed twice, a list is empty, an annotation is damaged.
    """
    pictures = FilesById(images or root / "JPEGImages")
    if not is_folder(pictures.folder):
        raise InputError(root, f"has no images: no folder {pictures.folder}", "name their folder with --images")
    ids_file = find_list(root, split)
    ids = pictures.ids() if ids_file is None else read_ids(ids_file, pictures)
    where = str(ids_file or pictures.folder)
    if not ids:
        raise InputError(where, "lists no images", "give one id per line")
    annotations = _Annotations(root / "Annotations")
    class_names, stated, notices = _class_names(root, annotations if form.class_names is None else None)
    background_first, tag_list = bool(notices), _tag_list(ids_file)
    if tag_list is not None:
        known_ids = dict.fromkeys(ids)
        read = read_tag_list(tag_list, known_ids, replace(form, class_names=form.class_names or class_names))
        read = read.of_images(known_ids, tag_list, needed=False)
        class_names, notices = class_names or read.class_names, notices + read.notices
        if class_names is not None and not stated:
            _check_numbering(read.tags, annotations, class_names, tag_list)
        tags, tags_source = [read.tags.get(i) for i in ids], "list"
    else:
        tags = [annotations.tags(i) for i in ids]
        tags_source = "none" if all(known is None for known in tags) else "annotations"
    where_tags = str(tag_list or annotations.folder)
    # Pictures of other kinds are not read, but refused by what they are.
    masks = [FilesById(root / name, (".png", *IMAGE_SUFFIXES)) for name in _MASK_FOLDERS]
    saliency = FilesById(root / "saliency_map", (".png",))

    def row(identifier: str, known: RawTags) -> RawItem:
        mask = next((path for files in masks if (path := files.find(identifier))), None)
        image = pictures.must_find(identifier, where)
        return RawItem(identifier, image, known, mask, saliency.find(identifier), where_tags)

    rows, missing = each_or_error(zip(ids, tags, strict=True), lambda pair: row(*pair))
    return RawDataset(
        rows, class_names, stated, tags_source, notices=notices, background_first=background_first, missing=missing)


class _Annotations:
    """Tags from the XML annotations of a folder, each file read once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files = FilesById(folder, (".xml",))
        self._known: dict[str, tuple[str, ...] | None] = {}

    def tags(self, identifier: str) -> tuple[str, ...] | None:
        """Class names of an image's objects; None where it has no annotation."""
        if identifier not in self._known:
            path = self._files.find(identifier)
            self._known[identifier] = None if path is None else object_names(path)
        return self._known[identifier]

    def all_tags(self) -> list[tuple[str, ...] | None]:
        """Those of every annotation in the folder and its subfolders."""
        return [self.tags(identifier) for identifier in self._files.ids()]


def find_list(root: Path, split: str | None, folders: Sequence[str] = _LIST_FOLDERS) -> Path | None:
    """The list of ids of a split: the only one if none is named; None where there is none.

    Raises
    ------
    UsageError
        None is named and there are several.
    InputError
        There is no such split.
    """
    names = list_names(root, folders)
    if split is None:
        if len(names) > 1:
            raise UsageError("--split", f"{root} has several splits: {', '.join(names[:_SHOWN])}", "choose one")
        if not names:
            return None
        split = names[0]
    for folder in folders:
        path = root / folder / f"{split}.txt"
        if is_file(path):
            return path
    if is_file(split):
        return Path(split)
    known = ", ".join(names[:_SHOWN])
    right = f"choose from {known}, or give a file of ids" if names else "pass a file of ids with --split"
    raise InputError(root, f"has no split '{split}'", right)


def list_names(root: Path, folders: Sequence[str] = _LIST_FOLDERS) -> list[str]:
    """Names of the splits, from the first of the folders that holds any."""
    for folder in folders:
        names = [path.stem for path in _lists_in(root / folder) if not path.stem.endswith(_TAG_LIST_SUFFIX)]
        if names:
            return names
    return []


def _lists_in(folder: Path) -> list[Path]:
    return [folder / name for name in names_in(folder) if name.endswith(".txt") and not is_hidden(name)]


def read_ids(path: Path, images: FilesById) -> list[str]:
    """The ids that a list names, one a line.

    Raises
    ------
    InputError
        One is listed twice, or is no id.
    """
    ids: dict[str, None] = {}
    for line in read_lines(path):
        identifier = _id_of(line, images)
        if identifier in ids:
            raise InputError(path, f"lists id {identifier!r} twice", "list each image once")
        ids[check_id(identifier, path)] = None
    return list(ids)


def _id_of(line: str, images: FilesById) -> str:
    """The id at the start of a line: its first column, or more where an image has that name."""
    return split_id(line, images)[0] if len(line.split(maxsplit=1)) > 1 else id_of(line, images)


def _tag_list(ids_file: Path | None) -> Path | None:
    """The list of tags that goes with a list of ids, if there is one."""
    if ids_file is None:
        return None
    if ids_file.stem.endswith(_TAG_LIST_SUFFIX):
        return ids_file
    path = ids_file.with_name(ids_file.stem + _TAG_LIST_SUFFIX + ids_file.suffix)
    return path if is_file(path) else None


def _class_names(
    root: Path, annotations: _Annotations | None,
) -> tuple[tuple[str, ...] | None, bool, tuple[str, ...]]:
    """Class names in label order, whether the dataset itself lists them, and notices."""
    for path in (root / name for name in _CLASS_LISTS):
        if is_file(path):
            names, notices = read_class_names(path)
            return names, True, notices
    # VOC numbers its classes in alphabetical order.
    listed = {m[1] for path in _lists_in(root / "ImageSets" / "Main")
              if (m := _CLASS_LIST_NAME.fullmatch(path.name)) and _is_class_list(path)}
    if listed:
        return check_class_names(sorted(listed), root / "ImageSets" / "Main"), True, ()
    if annotations is None:
        return None, False, ()
    return gather_names(annotations.all_tags(), annotations.folder), False, ()


def _check_numbering(
    listed: dict[str, RawTags], annotations: _Annotations,
    class_names: tuple[str, ...], where: Path,
) -> None:
    """Check that class numbers mean the same as the annotations of the same images.

    Part of a dataset may lack a class. The names gathered from its annotations would then be
    numbered differently from the whole dataset's, and every tag after the gap be wrong.
    """
    names: dict[str | int, str | int] = dict(enumerate(class_names))
    pairs = [
        ({names.get(tag, tag) for tag in tags}, known) for identifier, tags in listed.items()
        if tags and (known := annotations.tags(identifier))]
    wrong = sum(numbered.isdisjoint(known) for numbered, known in pairs)
    # A few may differ: lists are also made by hand, or from masks.
    if wrong > len(pairs) / 10:
        raise InputError(
            where, f"its class numbers do not match the {len(names)} class names found in {annotations.folder}",
            "list all classes with --classes FILE")


def _is_class_list(path: Path) -> bool:
    """Whether a list gives each image's membership of a class (1, 0, -1), unlike a list of ids."""
    if not is_file(path):
        return False
    try:
        with open(path, "rb") as file:
            columns = file.readline(4096).split()
    except OSError as error:
        raise unreadable(path, error, "check its permissions") from error
    return len(columns) > 1 and columns[-1] in (b"1", b"0", b"-1")
