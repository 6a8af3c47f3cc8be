"""Images with one file of annotations each, beside them or in folders of their own.

``images/ID.jpg`` with ``masks/ID.png``, ``img_dir/SPLIT`` with ``ann_dir/SPLIT``, ``labels/ID.txt`` (YOLO),
``Annotations/ID.xml`` (PASCAL VOC) or ``ID.json`` (labelme); or images alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from drstool.annotations.drawing import Annotation
from drstool.annotations.labelmap import LABELMAP, ColorMask, read_labelmap
from drstool.annotations.labelme import image_of_labelme, read_labelme
from drstool.annotations.voc_xml import image_of_xml, object_names
from drstool.annotations.yolo import read_yolo_labels
from drstool.artifacts.header import END_NAME, HEADER_NAME
from drstool.data.files_by_id import IMAGE_SUFFIXES, FilesById, list_folder
from drstool.data.folder_names import is_of_split, meaning_of
from drstool.data.item import RawDataset, RawItem, SeveralSplits
from drstool.data.tags import gather_names, read_names
from drstool.errors import InputError
from drstool.files import is_file, is_folder, likely_file, read_beginning
from drstool.labels import check_class_names, is_object_name, object_classes
from drstool.text import quoted, read_lines

__all__ = ["annotated", "annotation_beside", "read_paired", "with_labelmap"]

_CLASS_LISTS = ("classes.txt", "class_names.txt", "labels.txt", "obj.names", "_classes.csv", "data.yaml")
# Files beside annotations that are none.
_BESIDE = (*_CLASS_LISTS, HEADER_NAME, END_NAME)
_MASK_ENDING = "_mask"
_BEGINNING_BYTES = 1 << 16
_SUFFIXES = {
    "masks": (".png", *IMAGE_SUFFIXES), "XML annotations": (".xml",), "labelme files": (".json",),
    "YOLO labels": (".txt",)}
# Files that say themselves which image they are of.
_IMAGE_OF = {"XML annotations": image_of_xml, "labelme files": image_of_labelme}


def read_paired(root: Path, split: str | None, images: Path | None, above: Path | None = None) -> RawDataset:
    """The images of a folder and what the files of the same names say of them.

    Parameters
    ----------
    root
        Holds the images, or the folders of images and of annotations.
    split
        Subfolder of these folders; None: the only one, or none.
    images
        Folder of the images, where they are elsewhere.
    above
        Folder that may hold the list of classes, beside ``root``.

    Raises
    ------
    UsageError
        No split is named and there are several.
    InputError
        There are no images, two of the same id, several folders of one kind, or annotations of no image.
    """
    places = _places(root, split, images)
    pictures = FilesById(places[0])
    ids = pictures.ids(unique=True, deep=places[0] != root)
    known = set(ids)
    masks = {i: i + _MASK_ENDING for i in ids if i + _MASK_ENDING in known}
    known -= set(masks.values())
    ids = [i for i in ids if i in known]
    if not ids:
        raise InputError(places[0], "has no images", "name their folder with --images")
    found: dict[str, tuple[Path, list[Path | None]]] = {}
    if masks:
        found["masks"] = places[0], [pictures.find(masks.get(i, "")) for i in ids]
    notices = [line for place in places for line in _add(found, place, ids, place != places[0])]
    if not found and places[1:]:
        raise InputError(
            root, f"no image in {places[0].name} has a file of the same name in "
            f"{' or '.join(place.name for place in places[1:])}",
            "".join(likely_file(place / f"{ids[0]}.png") for place in places[1:2])
            + f"the annotation of {ids[0]} is {ids[0]}.png, .xml, .json or .txt; images alone are --data {places[0]}")
    saliency = FilesById(root / "saliency_map")
    _, paths = found.pop("masks", (None, [None] * len(ids)))
    rows = [RawItem(i, pictures.must_find(i, str(places[0])), None, mask, saliency.find(i), str(places[0]))
            for i, mask in zip(ids, paths, strict=True)]
    where = (root, *places, *([above] if above else []))
    dataset = with_labelmap(_annotated(root, rows, found, _class_list(where)), where)
    kinds = [*(["masks"] if any(paths) else []), *found]
    what = f"images with {' and '.join(kinds)}" if kinds else "images alone"
    return replace(dataset, notices=(*notices, *dataset.notices)).told(root, what)


def _places(root: Path, split: str | None, images: Path | None) -> list[Path]:
    """The folder of the images, and those of annotations."""
    _, folders = list_folder(root)
    elsewhere = images is not None
    if images is None:
        named = _chosen([name for name in folders if meaning_of(name) == "images"], split)
        if len(named) > 1:
            raise InputError(root, f"has several folders of images: {', '.join(named)}", "choose one with --images")
        images = root / named[0] if named else root / split if split is not None and split in folders else root
    annotations = [root / name for name in _chosen(
        [name for name in folders if meaning_of(name) == "annotations" and not name.startswith("saliency")], split)]
    if elsewhere:
        annotations.append(root)
    below = [name for name in list_folder(images)[1] if meaning_of(name) == "split"] if images != root else []
    if split is None and below and not FilesById(images).ids(deep=False):
        if len(below) > 1:
            raise SeveralSplits(root, below)
        split, = below
    inner = [folder / split if split is not None and is_folder(folder / split) else folder
             for folder in (images, *annotations) if folder == images or not _is_of_others(folder, split)]
    if split is not None and inner[0] == images and images.name != split and not is_of_split(images.name, split):
        raise InputError(root, f"has no split '{split}'", f"expected a folder {images / split}")
    return inner


def _is_of_others(folder: Path, split: str | None) -> bool:
    """Whether a folder of annotations has only those of other splits."""
    below = [name for name in list_folder(folder)[1] if meaning_of(name) == "split"]
    return split is not None and bool(below) and split not in below


def _chosen(names: Sequence[str], split: str | None) -> Sequence[str]:
    """Those that belong to a split by their names, if any do."""
    own = [name for name in names if split is not None and is_of_split(name, split)]
    return own or names


def _add(found: dict, place: Path, ids: Sequence[str], apart: bool) -> list[str]:
    """Add the files of a folder that belong to images, by their kind; gives notices."""
    notices = []
    for kind, suffixes in _SUFFIXES.items():
        # Beside the images, other pictures are images, too.
        if kind == "masks" and not apart:
            continue
        files = FilesById(place, suffixes)
        paths = [files.find(i) or kind == "masks" and files.find(i + _MASK_ENDING) or None for i in ids]
        if not any(paths):
            continue
        if not apart and not _are_annotations(kind, list(filter(None, paths))):
            notices.append(f"{place}: the {suffixes[0]} files beside the images are not {kind}, and not read")
            continue
        if kind in found:
            raise InputError(
                place, f"has {kind}, and so has {found[kind][0]}",
                "name one with --masks" if kind == "masks" else "keep one of them")
        found[kind] = place, paths
        if more := _strays(files, kind, paths, ids, apart):
            notices.append(f"{place}: files that belong to no image ({len(more)}): {quoted(more)}")
    return notices


def _strays(files: FilesById, kind: str, paths: Sequence[Path | None], ids: Sequence[str], apart: bool) -> list[str]:
    """Names, without endings, of the files of a kind that belong to no image.

    Raises
    ------
    InputError
        One says that it is of an image that has its own.
    """
    known = {*ids, *(i + _MASK_ENDING for i in ids), *(Path(name).stem for name in _BESIDE)}
    image_of = _IMAGE_OF.get(kind)
    if not apart and image_of is None:
        # Beside the images, texts may be anything.
        return []
    strays = {i: files.find(i) for i in files.ids(deep=not apart and any("/" in i for i in ids)) if i not in known}
    if not apart:
        strays = {i: path for i, path in strays.items() if path and _are_annotations(kind, [path])}
    own = dict(zip(ids, paths, strict=True))
    for i, path in strays.items():
        if image_of is None or path is None:
            continue
        name = (PurePosixPath(i).parent / PurePosixPath(image_of(path).replace("\\", "/")).stem).as_posix()
        if own.get(name) is not None:
            raise InputError(path, f"is of the image {name!r}, and so is {own[name]}", "remove one of them")
    return list(strays)


def _are_annotations(kind: str, paths: Sequence[Path]) -> bool:
    """Whether files beside images are what their endings suggest: texts may be captions, JSON may be anything."""
    if kind == "labelme files":
        return any(b'"shapes"' in read_beginning(path, _BEGINNING_BYTES) for path in paths)
    if kind == "YOLO labels":
        # Numbers, signs and blanks.
        numeric = set(b"0123456789.+-eE \t\r\n")
        return all(set(read_beginning(path, _BEGINNING_BYTES)) <= numeric for path in paths[:8])
    return True


def annotation_beside(image: Path) -> Path | None:
    """The file of annotations beside an image, if there is one."""
    paths = {kind: image.with_suffix(suffix) for kind, (suffix, *_) in _SUFFIXES.items() if kind != "masks"}
    return next((path for kind, path in paths.items() if is_file(path) and _are_annotations(kind, [path])), None)


def _class_list(places: Sequence[Path]) -> Path | None:
    """The first list of classes that there is."""
    return next((place / name for place in places for name in _CLASS_LISTS if is_file(place / name)), None)


def _annotated(
    root: Path, rows: list[RawItem], found: dict[str, tuple[Path, list[Path | None]]],
    class_list: Path | None,
) -> RawDataset:
    """The images with what their annotations say."""
    if len(found) > 1:
        kinds = " and ".join(f"{kind} in {place}" for kind, (place, _) in found.items())
        raise InputError(root, f"has both {kinds}", "keep one of them")
    kind, (place, files) = next(iter(found.items()), ("", (root, [])))
    source = "annotations" if kind else "none"
    names: tuple[str, ...] | None = None
    listed: list[str] | None = None
    told: tuple[str, ...] = ()
    background: tuple[str, ...] = ()
    if class_list is not None:
        try:
            listed, told = read_names(class_list)
            names, background = object_classes(listed, class_list)
        except InputError as error:
            # A file of that name may be anything where no annotations or masks need it.
            if kind or any(row.mask is not None for row in rows):
                raise
            told = (f"{error}; it is not read",)
    notices: tuple[str, ...] = ()
    if kind == "YOLO labels":
        if listed is None or class_list is None:
            raise InputError(place, "has YOLO labels, but nothing names their classes",
                             "add classes.txt with one name per line, or a data.yaml")
        # An image without objects may have no file.
        labels = [path or place / f"{row.id}.txt" for path, row in zip(files, rows, strict=True)]
        known, notices = read_yolo_labels(labels, listed, class_list)
    elif kind == "labelme files":
        known, notices = read_labelme(files, place)
    else:
        known = [Annotation(object_names(path)) if path is not None else Annotation() for path in files]
    rows = annotated(rows, known, files) if kind else rows
    if names is None:
        names = gather_names((row.tags for row in rows), place)
    by_name = not any(isinstance(row.mask, Path) for row in rows)
    return RawDataset(
        rows, names, listed is not None, source, by_name, (*told, *background, *notices),
        background_first=bool(background))


def annotated(
    rows: Sequence[RawItem], known: Sequence[Annotation], files: Sequence[Path | None],
) -> list[RawItem]:
    """Images with what their files of annotations say; a mask they have already stays."""
    return [replace(row, tags=each.tags, mask=row.mask or each.mask, where=str(path or row.where))
            for row, each, path in zip(rows, known, files, strict=True)]


def with_labelmap(found: RawDataset, places: Sequence[Path]) -> RawDataset:
    """A dataset whose masks are read by the ``labelmap.txt`` in the first of the places that has one; else itself."""
    path = next((place / LABELMAP for place in places if is_file(place / LABELMAP)), None)
    # TensorFlow's file of the same name has names alone.
    if path is None or not any(":" in line for line in read_lines(path)):
        return found
    listed = read_labelmap(path).values()
    names = [name for name in listed if is_object_name(name)]
    rows = [replace(row, mask=ColorMask(row.mask, path)) if isinstance(row.mask, Path) else row for row in found.rows]
    return replace(
        found, rows=rows, class_names=check_class_names(names, path), stated=True, reorder=True,
        background_first=len(names) < len(listed),
        notices=(*found.notices, f"{path}: names the classes and the colours of the masks"))
