"""The dataset of a COCO instances file: where its images are, and what the file says of each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from drstool.annotations.coco import CocoFile, CocoMask, load_coco, text_of
from drstool.data.image_files import missing_image
from drstool.data.item import RawDataset, RawItem, each_or_error
from drstool.errors import InputError
from drstool.files import is_file
from drstool.identifiers import check_id

__all__ = ["read_coco"]

_INSTANCES = "instances_"


def read_coco(path: Path, split: str | None, images: Path | None = None) -> RawDataset:
    """The images of a COCO instances file, tagged with the categories of their objects.

    Classes are in the order of their category ids. The images lie beside the file, in a folder
    named after the split (or after the file: ``instances_NAME.json``), or in that folder below
    ``images``, or where ``images`` says; an id is the file's name without its ending.

    Raises
    ------
    InputError
        It is not a COCO file, an image is listed twice, or the folder is not found.
    """
    coco = load_coco(path)
    if not coco.images:
        raise InputError(path, "lists no images", "give a COCO file with images")
    files = {key: text_of(image, "file_name", "image", path) for key, image in coco.images.items()}
    folder = images or _image_folder(path, split, list(files.values()))
    ids: dict[str, object] = {}
    for key, file_name in files.items():
        identifier = check_id(os.path.splitext(PurePosixPath(file_name))[0], f"{path} image {key}")
        if ids.setdefault(identifier, key) != key:
            raise InputError(path, f"lists id {identifier!r} twice", "list each image once")
    has_masks = coco.has_outlines
    rows, missing = each_or_error(
        ids.items(), lambda pair: _row(coco, *pair, folder / files[pair[1]], has_masks))
    return RawDataset(
        rows, coco.class_names, True, "coco" if coco.annotated else "none", reorder=True,
        notices=coco.notices(has_masks), missing=missing)


def _image_folder(path: Path, split: str | None, file_names: Sequence[str]) -> Path:
    """The folder from which the images' file names lead to their files, or some of them do."""
    names = [split] if split is not None else []
    names.append(path.stem.removeprefix(_INSTANCES))
    here, above = path.parent, path.parent / ".."
    folders = [place / name for name in names for place in (above, above / "images", here, here / "images")]
    if split is None:
        folders += [here, here / "images", here / "data", above, above / "images"]
    for name in file_names:
        for folder in folders:
            if is_file(folder / name):
                return folder
    known = " or ".join(dict.fromkeys((*names, "images")))
    raise InputError(
        path, f"cannot find its images: no {file_names[0]} beside it, or in a folder named {known}",
        "name their folder with --images, or put them next to it")


def _row(coco: CocoFile, identifier: str, key: object, image: Path, has_masks: bool) -> RawItem:
    where = f"{coco.path} image {key}"
    if not is_file(image):
        raise missing_image(image, where, identifier, "put it there, or remove it from the list")
    tags = coco.tags(key) if coco.annotated else None
    mask = CocoMask(coco.path, str(key)) if has_masks and not coco.has_boxes(key) else None
    return RawItem(identifier, image, tags, mask, where=where)
