"""``ids``: the images of a dataset as JSON lines, for ``jq``, ``grep`` and ``--data -``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace

from drstool.data.item import Dataset
from drstool.data.lists import read_ids
from drstool.errors import InputError
from drstool.reports.text import printable

__all__ = ["ids", "without"]


def ids(dataset: Dataset) -> Iterator[str]:
    """One JSON object per image, without newline; together they are a manifest.

    Relative paths stay as the data were given, so the manifest is one for the folder it was made in.
    """
    for item in dataset.items:
        yield printable(json.dumps(item.to_json(), ensure_ascii=False))


def without(dataset: Dataset, paths: Sequence[str]) -> Dataset:
    """The dataset without the images that lists name.

    Parameters
    ----------
    dataset
    paths
        Text files of a split's form, an id or a path of an image on each line; or what ``drstool ids`` prints.

    Raises
    ------
    InputError
        A list cannot be read, or no image is left.
    """
    ids = {item.id for item in dataset.items}
    left_out = {identifier for path in paths for identifier in read_ids(path, ids)}
    items = tuple(item for item in dataset.items if item.id not in left_out)
    if not items:
        raise InputError(dataset.source, "has no images but those of --except", "check the lists")
    return replace(dataset, items=items)
