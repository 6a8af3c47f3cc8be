"""``ids``: the images of a dataset as JSON lines, for ``jq``, ``grep`` and ``--data -``."""

from __future__ import annotations

import json
from collections.abc import Iterator

from drstool.data.item import Dataset
from drstool.reports.text import printable

__all__ = ["ids"]


def ids(dataset: Dataset) -> Iterator[str]:
    """One JSON object per image, without newline; together they are a manifest.

    Relative paths stay as the data were given, so the manifest is one for the folder it was made in.
    """
    for item in dataset.items:
        yield printable(json.dumps(item.to_json(), ensure_ascii=False))
