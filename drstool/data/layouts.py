"""What a folder holds: which of the known layouts, told by its files and by the names of its subfolders."""

from __future__ import annotations

import glob
from collections.abc import Collection
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from drstool.annotations.coco import looks_like_coco
from drstool.annotations.simple_yaml import read_simple_yaml
from drstool.data import manifest
from drstool.data.cells import TagForm
from drstool.data.coco import read_coco
from drstool.data.files_by_id import is_image, list_folder
from drstool.data.folder import class_folders, read_folder
from drstool.data.folder_names import is_of_split, meaning_of
from drstool.data.item import RawDataset, RawItem, SeveralSplits
from drstool.data.paired import read_paired, with_labelmap
from drstool.data.sbd import is_sbd, read_sbd
from drstool.data.voc import is_voc, read_voc
from drstool.data.yolo_export import DARKNET, darknet_content, read_yolo, split_keys
from drstool.errors import InputError, UsageError
from drstool.files import is_file, is_folder, read_beginning
from drstool.identifiers import check_id

__all__ = ["Known", "is_pattern", "read_images", "read_layout"]

_INSTANCES = "instances_"
_HEADER_BYTES = 4096
# Roboflow's second one may also list pixel values.
_TABLES = (*(f"metadata{suffix}" for suffix in manifest.SUFFIXES), "_classes.csv")


@dataclass(frozen=True)
class Known:
    """What is known before a folder is read.

    Attributes
    ----------
    form
        How tags may be written; None: they are not read.
    images
        Folder of the images, where they are not with their annotations.
    class_names
        Names that are classes, whatever they look like.
    listed
        Whether the user lists them, so that there are no others.
    need_tags
        Whether tags are needed whose reading takes long.
    """

    form: TagForm | None = None
    images: Path | None = None
    class_names: Collection[str] = ()
    listed: bool = False
    need_tags: bool = True


def read_layout(root: Path, split: str | None, known: Known, above: Path | None = None) -> RawDataset:
    """The images of a folder of any known layout.

    Parameters
    ----------
    root
    split
        None: the only one, or none.
    known
    above
        The folder of all splits, where ``root`` is one of them.

    Raises
    ------
    UsageError
        No split is named and there are several.
    InputError
        The folder has no known layout, or two; it or its content is damaged.
    """
    here = _Contents(root, known.class_names)
    if is_voc(root):
        return with_labelmap(read_voc(root, split, known.form or TagForm(), known.images), (root,))
    if is_sbd(root):
        return read_sbd(root, split, need_tags=known.need_tags)
    inner = None if split is None or not is_folder(root / split) else root / split
    if (table := _table(here)) and not (inner is not None and _table(_Contents(inner))):
        return manifest.read_manifest(table, split, known.form, known.images).told(root, f"the table {table.name}")
    if yaml := _yolo_file(here):
        return read_yolo(yaml, split, known.images).told(root, f"a YOLO export with {yaml.name}")
    if annotations := _coco_file(here, split):
        path, folder = annotations
        return read_coco(path, folder, known.images).told(root, f"a COCO export with {path.relative_to(root)}")
    if split is not None and inner is not None and not any(is_of_split(name, split) for name in here.annotations):
        inside = _Contents(inner, known.class_names)
        if inside.classes and not inside.images and not inside.annotations:
            return read_folder(root, split, known.class_names, known.listed).told(inner, "a folder of classes")
        return read_layout(inner, None, known, root)
    return _by_names(here, split, known, above)


def _by_names(here: _Contents, split: str | None, known: Known, above: Path | None) -> RawDataset:
    """The images of a folder that only the names of its files and subfolders explain."""
    root = here.root
    if known.images is not None and (here.has_images or here.classes or here.images and not here.annotations):
        raise UsageError("--images", f"{root} says where its images are", "omit it")
    if known.listed and any(name in known.class_names for name in here.classes):
        return read_folder(root, split, known.class_names, True).told(root, "a folder of classes")
    if len(here.images) == 1 and not here.annotations and not _Contents(root / here.images[0]).has_images:
        return read_layout(root / here.images[0], split, known, root)
    if (known.images or here.images or here.annotations and (here.has_images or split in here.splits)
            or not here.classes and not here.splits and (here.has_images or here.annotations)):
        return read_paired(root, split, known.images, above)
    named = [*here.annotations, *here.splits]
    if named and here.classes:
        raise InputError(
            root, f"has {', '.join(named)}, named as splits or masks are, beside {', '.join(here.classes[:4])}",
            "choose a split with --split, or list all names that are classes with --classes FILE")
    if not here.splits and not here.classes and any(name.endswith((".json", ".xml")) for name in here.files):
        raise InputError(root, "has no images beside its annotations", "name their folder with --images")
    if not here.splits:
        return read_folder(root, split, known.class_names, known.listed).told(root, "a folder of classes")
    if split is not None:
        raise InputError(root, f"has no split '{split}'", f"choose from {', '.join(here.splits)}")
    if len(here.splits) > 1:
        raise SeveralSplits(root, here.splits)
    return read_layout(root / here.splits[0], None, known, root)


class _Contents:
    """What is in a folder: files, subfolders by what their names mean, and those of images that may be classes."""

    def __init__(self, root: Path, class_names: Collection[str] = ()) -> None:
        self.root = root
        self.files, self.folders = list_folder(root)
        self.classes = class_folders(root, class_names)
        others = [name for name in self.folders if name not in class_names and name not in self.classes]
        self.images, self.annotations, self.splits = (
            [name for name in others if meaning_of(name) == meaning] for meaning in ("images", "annotations", "split"))
        self.has_images = any(map(is_image, self.files))


def _table(here: _Contents) -> Path | None:
    """The table of an image folder as Hugging Face's datasets and Roboflow have them, if there is one."""
    found = [here.root / name for name in here.files if name in _TABLES and _names_files(here.root / name)]
    if len(found) > 1:
        raise InputError(here.root, f"has both {found[0].name} and {found[1].name}", "give one of them to --data")
    return found[0] if found else None


def _names_files(path: Path) -> bool:
    return any(column in read_beginning(path, _HEADER_BYTES).lower() for column in (b"file_name", b"filename"))


def _yolo_file(here: _Contents) -> Path | None:
    """The YAML file that names classes and images of splits, if there is one, or darknet's file that does."""
    contents = {name: read_simple_yaml(here.root / name) for name in here.files if name.endswith((".yaml", ".yml"))}
    names = [name for name, content in contents.items() if "names" in content and split_keys(content)]
    if len(names) > 1:
        names = [name for name in names if name == "data.yaml"] or names
    if len(names) > 1:
        raise InputError(here.root, f"has {' and '.join(names)}, which both name classes", "give one of them as --data")
    names = names or [name for name in DARKNET if name in here.files and split_keys(darknet_content(here.root / name))]
    return here.root / names[0] if names else None


def _coco_file(here: _Contents, split: str | None) -> tuple[Path, str | None] | None:
    """The COCO file of a split, and the name of the folder of its images where the split names that."""
    stems = {Path(name).stem for name in here.files if is_image(name)}
    paths = [here.root / name for name in here.files if name.endswith(".json") and Path(name).stem not in stems]
    paths += [here.root / folder / name for folder in here.annotations for name in list_folder(here.root / folder)[0]
              if name.endswith(".json")]
    paths = [path for path in paths if looks_like_coco(path)]
    paths = [path for path in paths if path.name.startswith(_INSTANCES)] or paths
    names = [path.stem.removeprefix(_INSTANCES) for path in paths]
    if split in names:
        return paths[names.index(split)], None
    if split is None and len(paths) == 1:
        return paths[0], None
    if not paths or split is not None and is_folder(here.root / split):
        return None
    if split is not None:
        if len(paths) == 1 and any(is_folder(here.root / folder / split) for folder in here.images):
            return paths[0], split
        raise InputError(here.root, f"has no split '{split}'", f"choose from {', '.join(names)}")
    if all(path.name.startswith(_INSTANCES) for path in paths):
        raise SeveralSplits(here.root, names)
    raise InputError(here.root, f"has {len(paths)} COCO files: {', '.join(path.name for path in paths[:4])}",
                     "give one of them as --data, or its name without .json as --split")


def is_pattern(data: str) -> bool:
    """Whether a text is a pattern of file names, such as ``photos/*.jpg``."""
    return glob.has_magic(data)


def read_images(data: str, split: str | None) -> RawDataset:
    """One image file, or those that match a pattern; ids are the paths below its first folder without wildcards.

    Raises
    ------
    InputError
        No image matches, or two would have the same id; a split is named.
    """
    if split is not None:
        raise InputError(data, "has no splits", f"omit --split {split}")
    one = is_file(data)
    paths = [Path(data)] if one else [Path(path) for path in sorted(glob.glob(data, recursive=True))]
    images = [path for path in paths if is_image(path.name) and is_file(path)]
    if not images:
        raise InputError(data, "matches no image", "endings of images are .jpg, .png, .tif, .webp, .bmp, …")
    fixed = takewhile(lambda part: not glob.has_magic(part), Path(data).parts[:-1])
    base = Path(data).parent if one else Path(*fixed)
    rows: dict[str, RawItem] = {}
    for path in images:
        identifier = check_id(path.relative_to(base).with_suffix("").as_posix(), data)
        if identifier in rows:
            raise InputError(path, f"would have the same id as {rows[identifier].image.name}: {identifier!r}",
                             "give the images different names, not only different endings")
        rows[identifier] = RawItem(identifier, path, where=data)
    found = RawDataset(list(rows.values()), None, False, "none")
    return found if one else found.told(data, "images alone")
