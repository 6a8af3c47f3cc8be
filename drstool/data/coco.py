"""The dataset of a COCO instances file: where its images are, and what the file says of each."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from drstool.annotations.coco import CocoFile, CocoMask, load_coco, text_of
from drstool.data.item import RawDataset, RawItem
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
        It is not a COCO file, an image is missing or listed twice, or the folder is not found.
    """
    coco = load_coco(path)
    if not coco.images:
        raise InputError(path, "lists no images", "give a COCO file with images")
    first = next(iter(coco.images.values()))
    folder = images or _image_folder(path, split, text_of(first, "file_name", "image", path))
    has_masks = coco.has_outlines
    rows, seen = [], set()
    for image_id, image in coco.images.items():
        row = _row(coco, image_id, image, folder, has_masks)
        if row.id in seen:
            raise InputError(path, f"lists id {row.id!r} twice", "list each image once")
        seen.add(row.id)
        rows.append(row)
    return RawDataset(
        rows, coco.class_names, True, "coco" if coco.annotated else "none", reorder=True,
        notices=coco.notices(has_masks))


def _image_folder(path: Path, split: str | None, file_name: str) -> Path:
    """The folder from which an image's file name leads to its file."""
    names = [split] if split is not None else []
    names.append(path.stem.removeprefix(_INSTANCES))
    here, above = path.parent, path.parent / ".."
    folders = [place / name for name in names for place in (above, above / "images", here, here / "images")]
    if split is None:
        folders += [here, here / "images", here / "data", above, above / "images"]
    for folder in folders:
        if is_file(folder / file_name):
            return folder
    raise InputError(
        path, f"cannot find its images: no {file_name} in any of {', '.join(map(str, folders))}",
        "name their folder with --images, or put them next to it")


def _row(coco: CocoFile, image_id: object, image: dict, folder: Path, has_masks: bool) -> RawItem:
    file_name = text_of(image, "file_name", "image", coco.path)
    where = f"{coco.path} image {image_id}"
    identifier = check_id(os.path.splitext(PurePosixPath(file_name))[0], where)
    if not is_file(folder / file_name):
        raise InputError(where, f"image {identifier!r} is missing: {folder / file_name}",
                         "put it there, or remove it from the list")
    tags = coco.tags(image_id) if coco.annotated else None
    mask = CocoMask(coco.path, str(image_id)) if has_masks else None
    return RawItem(identifier, folder / file_name, tags, mask, where=where)
