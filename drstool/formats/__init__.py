"""What passes between the stages: map files, label PNGs, and streams of either.

:func:`open_records` reads and :func:`open_sink` writes whatever the user named, or the pipe.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drstool.artifacts.header import Header
    from drstool.formats.label_folder import check_folder
    from drstool.formats.map_file import MapFileReader, MapFileWriter
    from drstool.formats.pictures import check_picture, write_end, write_files, write_marker, write_pictures
    from drstool.formats.records import LabelRecord, LazyRecord, MapRecord, load
    from drstool.formats.sinks import (
        RecordSink, check_sink, earlier_output, goes_to_disk, open_sink, resume_beside, write_both,
    )
    from drstool.formats.sources import RecordSource, open_records

__all__ = [
    "Header", "LabelRecord", "LazyRecord", "MapFileReader", "MapFileWriter", "MapRecord", "RecordSink",
    "RecordSource", "check_folder", "check_picture", "check_sink", "earlier_output", "goes_to_disk",
    "resume_beside", "load", "open_records", "open_sink", "write_both", "write_end", "write_files", "write_marker",
    "write_pictures",
]

# Imported when they are asked for: all of them together take longer than most that is done with one.
_PLACES = {
    "artifacts.header": ("Header",),
    "formats.label_folder": ("check_folder",),
    "formats.map_file": ("MapFileReader", "MapFileWriter"),
    "formats.pictures": ("check_picture", "write_end", "write_files", "write_marker", "write_pictures"),
    "formats.records": ("LabelRecord", "LazyRecord", "MapRecord", "load"),
    "formats.sinks": (
        "RecordSink", "check_sink", "earlier_output", "goes_to_disk", "resume_beside", "open_sink", "write_both"),
    "formats.sources": ("RecordSource", "open_records"),
}
_PLACE_OF = {name: place for place, names in _PLACES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _PLACE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"drstool.{_PLACE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
