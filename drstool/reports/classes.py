"""How many images each class has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from drstool.data.item import Dataset
from drstool.reports.text import aligned, counted, lines_text

__all__ = ["class_counts", "summary_table", "tag_counts", "warnings_of_absent"]

# Classes that a line names, and those of a longer list: the most frequent, and the rarest.
_SHOWN, _FREQUENT, _RARE = 12, 5, 3


def class_counts(counts: Mapping[str, int], negatives: int = 0) -> str:
    """The classes and their numbers of images, to end a line; of many classes the most frequent and the rarest.

    Parameters
    ----------
    counts
        Images of each class, in label order.
    negatives
        Images without any class.

    Examples
    --------
    >>> class_counts({"cat": 12, "dog": 1500}, 3)
    'cat 12, dog 1,500; 3 images without an object'
    """
    shown = [f"{name} {number:,}" for name, number in counts.items()]
    if len(counts) > _SHOWN:
        ordered = sorted(counts, key=lambda name: -counts[name])
        frequent, rare = ([f"{name} {counts[name]:,}" for name in names]
                          for names in (ordered[:_FREQUENT], ordered[-_RARE:]))
        shown = [*frequent, "…", *rare]
    text = ", ".join(shown)
    return f"{text}; {counted(negatives, 'image')} without an object" if negatives else text


def warnings_of_absent(counts: Mapping[str, int], where: str) -> list[str]:
    """A warning that names the classes without an image, if there are any.

    Examples
    --------
    >>> warnings_of_absent({"cat": 3, "owl": 0}, "no label image")
    ['warning: owl: in no label image, so that nothing can be learned of it']
    """
    absent = [name for name, number in counts.items() if not number]
    more = f" and {len(absent) - _SHOWN} more" if len(absent) > _SHOWN else ""
    line = f"warning: {', '.join(absent[:_SHOWN])}{more}: in {where}, so that nothing can be learned of it"
    return [line] if absent else []


def tag_counts(dataset: Dataset) -> tuple[dict[str, int], int, int]:
    """Images of each class by their tags, images without an object, and images whose tags are unknown."""
    found = Counter(tag for item in dataset.items for tag in item.tags or ())
    names: Sequence[str] = dataset.class_names or sorted(found)
    unknown = sum(item.tags is None for item in dataset.items)
    negatives = sum(item.tags == () for item in dataset.items)
    return {name: found[name] for name in names}, negatives, unknown


def summary_table(dataset: Dataset) -> str:
    """A line for each class with its number of images, and the numbers of images without a class."""
    counts, negatives, unknown = tag_counts(dataset)
    rows = [("class", "images"), *((name, f"{number:,}") for name, number in counts.items())]
    others = [("no object", negatives), ("tags unknown", unknown), ("all images", len(dataset))]
    return lines_text(aligned([*rows, *((name, f"{number:,}") for name, number in others)]))
