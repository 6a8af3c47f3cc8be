"""The dataset that a command line names, and how it is to be read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Optional, Self

import typer

from drstool.cli.options import (
    Classes, Data, DataOrNone, EmptyTags, Images, Masks, MaskValues, Range, Split, Tags, TagSeparator,
)
from drstool.errors import DrstoolError, InputError, UsageError
from drstool.reports.text import counted
from drstool.text import listed

if TYPE_CHECKING:
    from drstool.cli.run import Run
    from drstool.data import Dataset
    from drstool.data.value_range import ValueRange
    from drstool.formats import RecordSource

__all__ = [
    "ClassOptions", "DataOptions", "OptionalDataOptions", "OptionalTagOptions", "OptionalTruthOptions",
    "TagOptions", "TruthOptions",
    "class_list",
]


@dataclass(frozen=True)
class DataOptions:
    """Which images to work on; the fields are parameters of :func:`drstool.data.open_dataset`."""

    panel: ClassVar[str] = "Data"
    data: Data
    split: Split = None
    images: Images = None
    tag_separator: TagSeparator = None
    empty_tags: EmptyTags = "unknown"
    range: Range = None

    def open(self, run: Run, *, decodes: bool = True, **more: Any) -> Dataset:
        """The dataset, of which ``run`` tells what was assumed.

        Parameters
        ----------
        run
        decodes
            Whether the command decodes images.
        more
            Parameters that are not options.

        Raises
        ------
        UsageError
            ``--range`` of a command that decodes none.
        """
        from drstool.data import open_dataset

        if self.range is not None and not decodes:
            raise UsageError("--range", f"{run.command} decodes no images", "omit it")
        dataset = open_dataset(**vars(self), **more)
        run.notes(dataset.notices)
        if decodes:
            from drstool.data.image_notices import image_notices

            run.notes(image_notices(dataset))
        return dataset

    def open_with(self, run: Run, sources: Iterable[RecordSource]) -> Dataset:
        """The dataset with the classes of maps or labels.

        Raises
        ------
        InputError
            They have other classes than the dataset.
        """
        from drstool.data import open_dataset

        found = ((source.where, source.header.class_names) for source in sources if source.header is not None)
        where, classes = next(((where, names) for where, names in found if names), ("", None))
        try:
            return self.open(run, class_names=classes)
        except InputError:
            try:
                known = classes and open_dataset(**vars(self)).class_names
            except DrstoolError:
                known = None
            if not classes or not known or tuple(known) == tuple(classes):
                raise
        raise InputError(
            where, f"has {counted(len(classes), 'class')} ({listed(classes)}), but {self.data} has {len(known)} "
            f"({listed(known)})", "show what was made with the dataset's classes")

    @property
    def value_range(self) -> ValueRange | None:
        """What ``--range`` says, for images that no dataset names."""
        from drstool.data.value_range import ValueRange

        return None if self.range is None else ValueRange.parse("--range", self.range)

    def read_as(self, run: Run, recorded: str | None, where: str) -> Self:
        """The same with the range of values that the images of a network, maps or labels were read with.

        One that the user gives wins, and a difference is told.
        """
        given = None if self.range is None else str(self.value_range)
        if given is not None and given != recorded:
            run.notes([f"--range {given} differs from that of {where}, {recorded or 'none'}"])
        if given is not None or recorded is None:
            return self
        run.notes([f"reading images with --range {recorded}, as for {where}"])
        return replace(self, range=recorded)

    def read_as_made(self, run: Run, sources: Mapping[str, RecordSource]) -> Self:
        """The same with the range of values that maps or labels, by what to call them, were made with."""
        from drstool.data.value_range import recorded_range

        for name, source in sources.items():
            if source.header is not None and source.header.provenance:
                return self.read_as(run, recorded_range(source.header.provenance), name)
        return self

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

    data: DataOrNone = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        for option in ("split", "images", "masks", "mask_values", "tags", "classes"):
            if getattr(self, option, None) is not None and self.data is None:
                flag = "--" + option.replace("_", "-")
                raise UsageError(flag, "needs --data", f"add --data, or omit {flag}")


@dataclass(frozen=True)
class TruthOptions(DataOptions):
    """The same, of commands that read ground truth."""

    masks: Masks = None
    mask_values: MaskValues = None

    def for_training(self, select_on: str | None) -> Self:
        """The same without ground truth, which only the split of ``--select-on`` needs.

        Raises
        ------
        UsageError
            Masks are named, and no such split.
        """
        for flag, value in (("--masks", self.masks), ("--mask-values", self.mask_values)):
            if value is not None and select_on is None:
                raise UsageError(flag, "is about ground truth, which only --select-on reads", "add it, or omit this")
        return replace(self, masks=None, mask_values=None)


@dataclass(frozen=True)
class OptionalTruthOptions(OptionalDataOptions, TruthOptions):
    """The same where the input may name the images."""


@dataclass(frozen=True)
class ClassOptions(TruthOptions):
    """The same, of commands whose class names come from the data."""

    classes: Classes = None


@dataclass(frozen=True)
class TagOptions(ClassOptions):
    """The same, of commands that read image-level tags."""

    tags: Tags = None


@dataclass(frozen=True)
class OptionalTagOptions(OptionalDataOptions, TagOptions):
    """The same where the dataset is one of several things that a command checks."""

    data: Annotated[Optional[str], typer.Option("--data", help="Dataset to check, as in train-cls.")] = None  # type: ignore[assignment]


def class_list(run: Run, path: str | None) -> tuple[str, ...] | None:
    """The names of ``--classes`` of a command without a dataset; ``run`` tells what was assumed."""
    from drstool.data.tags import read_class_names

    if path is None:
        return None
    names, notices, _ = read_class_names(path)
    run.notes(notices)
    return names
