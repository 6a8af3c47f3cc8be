"""``info``: what an artifact holds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from drstool.artifacts.header import record_type
from drstool.artifacts.ownership import MARKERS, contents
from drstool.errors import InputError
from drstool.figures.history import read_history
from drstool.files import is_file, status
from drstool.formats import RecordSource, open_records
from drstool.formats.pictures import picture_files, read_marker
from drstool.formats.records import Record
from drstool.pixels import shown_size
from drstool.reports.blocks import Drawing, drawings
from drstool.reports.empty_maps import EmptyMaps, saliency_lines
from drstool.reports.text import lines_text

__all__ = ["as_json", "as_text", "describe", "drawn"]

# Records of a file or folder that are read, evenly spread: reading all would take minutes.
_LOOKED_AT = 500


def describe(path: str | None) -> dict[str, Any]:
    """Kind, classes, counts and history of an artifact.

    Parameters
    ----------
    path
        A map file, a stream, a folder of label PNGs or pictures, a gallery or its page, a figure, a checkpoint, or
        the state of an unfinished training; ``-`` or None: standard input.

    Raises
    ------
    InputError
        It is missing, damaged or another program's.
    """
    if path is not None and path != "-":
        if status(path) is None:
            raise InputError(path, "no such file or folder", "give a file or folder that drstool wrote")
        if _is_checkpoint(Path(path)):
            return _checkpoint(path)
        if (history := read_history(path)) is not None:
            return _figure(history)
        page = Path(path)
        if (description := _folder(page.parent if page.name == "index.html" else page)) is not None:
            return description
    with open_records(path) as source:
        return _records(source)


def drawn(path: str | None, identifier: str, heat: np.ndarray, columns: int, rows: int) -> list[Drawing]:
    """Pictures of the maps or labels of one image.

    Parameters
    ----------
    path
        A map file, a stream, or a folder of label PNGs; ``-`` or None: standard input.
    identifier
        The image's id.
    heat, columns, rows
        As :func:`drstool.reports.blocks.drawings` takes them.

    Raises
    ------
    InputError
        There is no such image, or nothing that can be drawn.
    """
    with open_records(path) as source:
        ids = source.ids()
        if ids is not None and identifier in ids:
            record: Record | None = source.read(identifier)
        else:
            record = next((each for each in source.records() if each.id == identifier), None) if ids is None else None
        if record is None:
            known = f"its ids look like '{ids[0]}'" if ids else "see its ids with drstool info --json"
            raise InputError(source.where, f"has no image '{identifier}'", known)
        return drawings(record, source.header.class_names if source.header else (), heat, columns, rows)


def _is_checkpoint(path: Path) -> bool:
    """Whether it is a zip file, which of ours only checkpoints are, or a checkpoint that was exported."""
    from drstool.checkpoints.safetensors import is_safetensors

    if not is_file(path):
        return False
    if is_safetensors(path):
        return True
    # Mostly enough, and quick: zipfile takes a while to import.
    with suppress(OSError), open(path, "rb") as file:
        if file.read(2) != b"PK":
            return False
    import zipfile

    return zipfile.is_zipfile(path)


def _checkpoint(path: str) -> dict[str, Any]:
    from drstool.checkpoints.checkpoint import load_checkpoint, load_tensors
    from drstool.checkpoints.training_state import check_state, is_state

    content = load_tensors(path)
    if is_state(content):
        return _state(check_state(content, path))
    del content
    checkpoint = load_checkpoint(path)
    return {
        "kind": checkpoint.kind,
        "class_names": list(checkpoint.class_names),
        "architecture": checkpoint.architecture,
        "parameters": sum(value.numel() for value in checkpoint.weights.values()),
        "recipe": checkpoint.recipe,
        "provenance": list(checkpoint.provenance),
    }


def _state(content: dict[str, Any]) -> dict[str, Any]:
    loop = content["loop"]
    return {
        "kind": content["kind"],
        "of": content["work"]["command"],
        "class_names": content["class_names"],
        "step": loop["step"],
        "epochs": len(loop["reports"]),
        "loss": loop["reports"][-1]["loss"] if loop["reports"] else None,
        "seconds": round(content["seconds"], 1),
        "settings": content["work"]["settings"],
        "inputs": content["work"]["inputs"],
        "provenance": [],
    }


def _figure(history: list[dict[str, Any]]) -> dict[str, Any]:
    settings = history[-1].get("settings") if history else None
    if not isinstance(settings, dict):
        return {"kind": "figure", "provenance": history}
    columns = [str(column.get("title")) for column in settings.get("columns") or () if isinstance(column, dict)]
    rows = [str(identifier) for identifier in settings.get("ids") or ()]
    chosen = {"chosen": settings["chosen"]} if settings.get("chosen") else {}
    return {"kind": "figure", "columns": columns, "rows": rows, **chosen, "provenance": history}


def _folder(path: Path) -> dict[str, Any] | None:
    """A folder with a header but neither maps nor labels, such as figures; None for anything else."""
    header = read_marker(path)[0]
    if header is None or record_type(header.kind) in ("maps", "labels"):
        return None
    if header.kind == "export":
        shown = {"files": sum(name not in MARKERS for name, _ in contents(path))}
    elif header.kind == "gallery":
        shown = {"images": len(picture_files(path / "images"))}
    else:
        shown = {"pictures": len(picture_files(path))}
    return {
        "kind": header.kind,
        "class_names": list(header.class_names),
        **shown,
        "provenance": list(header.provenance),
    }


def _records(source: RecordSource) -> dict[str, Any]:
    header, ids = source.header, source.ids()
    description: dict[str, Any] = {
        "kind": source.kind,
        "class_names": list(header.class_names) if header else None,
    }
    if header and header.shard:
        description["part"] = str(header.shard)
    count, seen = 0, _Seen(source.kind)
    if ids is None:
        # A stream: only its end tells how many there are.
        for record in source.records():
            count += 1
            description.setdefault("first", record.info())
            seen.count(record)
    else:
        count = len(ids)
        if ids:
            description["first"] = source.info(ids[0])
        for identifier in ids[::-(-count // _LOOKED_AT) or 1]:
            with suppress(InputError):  # 'drstool check' tells of those.
                seen.count(source.read(identifier))
    notes = seen.lines(header.class_names if header else ())
    return description | {"images": count} | ({"notes": notes} if notes else {}) | {
        "provenance": list(header.provenance) if header else []}


class _Seen:
    """What is odd about the records that were looked at."""

    def __init__(self, kind: str) -> None:
        self._kind, self._empty = kind, EmptyMaps()
        self._largest: list[int] = []

    def count(self, record: Any) -> None:
        if self._kind == "saliency":
            self._largest.append(int(record.labels.max()))
        else:
            self._empty.count(record)

    def lines(self, class_names: Sequence[str]) -> list[str]:
        return self._empty.lines(class_names) + saliency_lines(self._largest)


def as_json(description: dict[str, Any]) -> str:
    """The description as JSON."""
    return json.dumps(description, indent=2, ensure_ascii=False) + "\n"


def as_text(description: dict[str, Any]) -> str:
    """The description as aligned lines; of the provenance, the command lines.

    Examples
    --------
    >>> print(as_text({"kind": "labels", "class_names": ["cat"], "images": 2}), end="")
    kind         labels
    class names  1: cat
    images       2
    """
    lines = []
    for name, value in description.items():
        if name == "provenance":
            continue
        if name == "notes":
            lines += [("note", line) for line in value]
            continue
        if value is None and name == "class_names":
            value = "unknown"
        elif isinstance(value, list):
            # Titles may hold commas.
            value = f"{len(value)}: {(', ' if name == 'class_names' else '; ').join(value)}" if value else "none"
        elif isinstance(value, dict):
            value = ", ".join(f"{key} {_short(item, key)}" for key, item in value.items())
        lines.append((name.replace("_", " "), str(value)))
    for number, step in enumerate(description.get("provenance", ()), start=1):
        lines.append((f"step {number}", f"{step.get('time', '')}  {step.get('command', '')}".lstrip()))
    width = max(len(name) for name, _ in lines)
    return lines_text(f"{name:<{width}}  {value}" for name, value in lines)


def _short(value: Any, name: str) -> str:
    if not isinstance(value, (list, tuple)):
        return str(value)
    if name == "image_size" and len(value) == 2:
        return shown_size(value)
    if name == "shape":
        return str(tuple(value))
    if name == "drs_layers":
        # Indices in the file; users count the ReLUs from 1.
        value = [item + 1 for item in value]
    if len(value) > 4 and all(type(item) is int for item in value) and all(b == a + 1 for a, b in pairwise(value)):
        return f"{value[0]}..{value[-1]}"
    return ",".join(map(str, value))
