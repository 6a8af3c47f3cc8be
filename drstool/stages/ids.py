"""``ids``: the images of a dataset as JSON lines, for ``jq``, ``grep`` and ``--data -``."""

from __future__ import annotations

import json
from collections.abc import Iterator

from drstool.data.item import Dataset

__all__ = ["ids"]


def ids(dataset: Dataset) -> Iterator[str]:
    """One line of JSON for each image, without line end; together a manifest of JSON lines.

    Relative paths are the ones the data were given with, so the lines are a manifest for the
    folder they were made in.
    """
    for item in dataset.items:
        line = json.dumps(item.to_json(), ensure_ascii=False)
        # A file name that is no UTF-8 cannot be printed as it is.
        yield line if _is_utf8(line) else json.dumps(item.to_json())


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
