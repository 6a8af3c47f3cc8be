"""The dataset that a command line names, and how it is to be read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from drstool.cli.options import Classes, Data, DataOrNone, EmptyTags, Images, Split, Tags, TagSeparator
from drstool.errors import UsageError

if TYPE_CHECKING:
    from drstool.cli.run import Run
    from drstool.data import Dataset

__all__ = ["ClassOptions", "DataOptions", "OptionalDataOptions", "TagOptions", "class_list"]


@dataclass(frozen=True)
class DataOptions:
    """Which images to work on; the fields are parameters of :func:`drstool.data.open_dataset`."""

    panel: ClassVar[str] = "Data"
    data: Data
    split: Split = None
    images: Images = None
    tag_separator: TagSeparator = None
    empty_tags: EmptyTags = "unknown"

    def open(self, run: Run, **more: Any) -> Dataset:
        """The dataset, of which ``run`` tells what was assumed; ``more`` are parameters that are not options."""
        from drstool.data import open_dataset

        dataset = open_dataset(**vars(self), **more)
        run.notes(dataset.notices)
        return dataset

    def of_split(self, option: str, split: str) -> DataOptions:
        """The same for another split, which ``option`` names.

        Raises
        ------
        UsageError
            The data comes on stdin, which is read already.
        """
        if self.data == "-":
            raise UsageError(option, "the manifest on stdin can be read only once", "give --data a file or folder")
        return replace(self, split=split)


@dataclass(frozen=True)
class OptionalDataOptions(DataOptions):
    """The same, of commands whose input may name the images."""

    data: DataOrNone = None

    def __post_init__(self) -> None:
        for option, value in (("--split", self.split), ("--images", self.images)):
            if value is not None and self.data is None:
                raise UsageError(option, "needs --data", f"add --data, or omit {option}")


@dataclass(frozen=True)
class ClassOptions(DataOptions):
    """The same, of commands whose class names come from the data."""

    classes: Classes = None


@dataclass(frozen=True)
class TagOptions(ClassOptions):
    """The same, of commands that read image-level tags."""

    tags: Tags = None


def class_list(run: Run, path: str | None) -> tuple[str, ...] | None:
    """The names of ``--classes`` of a command without a dataset; ``run`` tells what was assumed."""
    from drstool.data.tags import read_class_names

    if path is None:
        return None
    names, notices = read_class_names(path)
    run.notes(notices)
    return names
