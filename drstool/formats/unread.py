"""Records that are still to be read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from drstool.formats.label_png import LabelRecord
    from drstool.formats.maps import MapRecord

__all__ = ["Unread", "read_now"]

_Record = TypeVar("_Record")


@dataclass(frozen=True, eq=False)
class Unread:
    """The record of one image, left to be read by whichever thread works on it.

    Parameters
    ----------
    id
        The image's id.
    read
        Reads it; raises an :class:`drstool.errors.InputError` where it is damaged.
    is_maps
        Whether it is of maps, else of labels.
    """

    id: str
    read: Callable[[], MapRecord | LabelRecord]
    is_maps: bool


def read_now(record: _Record | Unread) -> _Record | MapRecord | LabelRecord:
    """The record itself, read now if it was not."""
    return record.read() if isinstance(record, Unread) else record
