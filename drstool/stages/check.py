"""``check``: whether an artifact is whole, or damaged, unfinished or another program's."""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from operator import call
from pathlib import Path
from typing import Any, BinaryIO

from drstool.artifacts.atomic import unfinished_path, writing
from drstool.artifacts.end_record import check_end_file
from drstool.artifacts.header import HEADER_NAME, record_type
from drstool.artifacts.ownership import MARKERS, contents
from drstool.checkpoints.safetensors import is_safetensors
from drstool.data import load_image, load_saliency, load_target, open_dataset
from drstool.data.item import Item
from drstool.data.manifest import SUFFIXES
from drstool.data.sbd import is_sbd
from drstool.data.voc import is_voc
from drstool.errors import DrstoolError, ForeignError, InputError, UnfinishedError
from drstool.files import is_file, is_folder, status, unreadable
from drstool.formats import RecordSource, check_picture, open_records
from drstool.formats.label_folder import LabelFolderReader
from drstool.formats.pictures import picture_files, read_marker
from drstool.formats.pipes import read_up_to
from drstool.labels import check_label_values
from drstool.parallel import Track, map_items, untracked
from drstool.png import SIGNATURE
from drstool.reports.text import counted
from drstool.text import listed

__all__ = ["STATES", "Report", "as_json", "check"]

STATES = ("whole", "damaged", "unfinished", "foreign", "missing")
_TORCH_STARTS = (b"PK\3\4", b"\x80")
_PNG_START = SIGNATURE[:4]
_COPY_BYTES = 1 << 20


@dataclass
class Report:
    """What was found about one artifact.

    Attributes
    ----------
    input
        As the user gave it.
    state
        One of ``STATES``; ``damaged`` is truncated or changed.
    kind
        What it holds, if known.
    count
        Number of records, pictures or parameters, if known.
    problems
        One error for each thing that is wrong.
    """

    input: str
    state: str = "whole"
    kind: str | None = None
    count: int | None = None
    problems: list[DrstoolError] = field(default_factory=list)

    def add(self, error: DrstoolError) -> None:
        """Add a problem; the first one decides the state."""
        if not self.problems:
            self.state = _state_of(error)
        self.problems.append(error)


class _MissingError(InputError):
    pass


def check(
    path: str | None, *, stdin: BinaryIO | None = None, workers: int = 1, track: Track = untracked,
) -> Report:
    """What is wrong with an artifact, after reading all of it.

    Checked are end records and counts, shapes, types and label values, every checksum, and the pixels
    of every picture; of a checkpoint also that its weights are finite and fit its architecture.

    Parameters
    ----------
    path
        A map file, a stream, a folder of label PNGs, saliency maps or figures, a dataset from ``demo``,
        a checkpoint, or a PNG; ``-`` or None: standard input, with any of the files.
    stdin
        Instead of the process's standard input.
    workers
        Number of threads; the report does not depend on it.
    track
        Progress display.

    Raises
    ------
    UsageError
        Standard input is closed or a terminal.
    """
    report = Report("stdin" if path in (None, "-") else str(path))
    with _adding_to(report), _as_file(path, stdin) as (source, stream):
        _check(report, source, stream, workers, track)
    return report


def as_json(report: Report) -> str:
    """The report as one line of JSON."""
    problems = [{"where": e.where, "what": e.what, "right": e.right} for e in report.problems]
    return json.dumps({**vars(report), "problems": problems}, ensure_ascii=False) + "\n"


def _state_of(error: DrstoolError) -> str:
    states = {_MissingError: "missing", ForeignError: "foreign", UnfinishedError: "unfinished"}
    return next((state for kind, state in states.items() if isinstance(error, kind)), "damaged")


@contextmanager
def _as_file(path: str | None, stdin: BinaryIO | None) -> Iterator[tuple[str | None, BinaryIO | None]]:
    """The input as a path, or as a stream; a checkpoint or PNG on standard input becomes a file."""
    if path is not None and path != "-":
        yield path, None
        return
    stream: Any = stdin if stdin is not None else getattr(sys.stdin, "buffer", None)
    if stream is not None and not hasattr(stream, "peek"):
        stream = io.BufferedReader(stream)
    # A closed one, or a terminal, is refused where records are opened.
    try:
        is_stream = stream is None or stream.isatty() or not stream.peek(8).startswith((*_TORCH_STARTS, _PNG_START))
    except OSError as error:
        raise unreadable("stdin", error) from error
    if is_stream:
        yield None, stream
        return
    with ExitStack() as stack:
        with writing(f"temporary folder {tempfile.gettempdir()}"):
            spool = stack.enter_context(tempfile.NamedTemporaryFile())
            while part := read_up_to(stream, _COPY_BYTES, "stdin"):
                spool.write(part)
            spool.flush()
        yield spool.name, None


def _check(report: Report, path: str | None, stream: BinaryIO | None, workers: int, track: Track) -> None:
    if path is None:
        _check_records(report, None, stream, workers, track)
        return
    if status(path, follow=False) is None:
        raise _missing(path)
    name = os.path.basename(os.path.normpath(path))
    if name.startswith(".") and name.endswith((".resume", ".resume.json")):
        raise UnfinishedError(path, "is unfinished work", "run its command again with --resume")
    if name.startswith(".") and ".partial-" in name:
        raise UnfinishedError(path, "was left by an interrupted command", "run it again, or delete this")
    if is_folder(path):
        _check_folder(report, Path(path), workers, track)
        return
    if name.lower().endswith((*SUFFIXES, ".json")):
        raise ForeignError(
            path, "is not an output of drstool", f"if it is a dataset, use 'drstool check --data {path}'")
    start = _start_of(path)
    if start.startswith(_TORCH_STARTS) or is_safetensors(path):
        _check_checkpoint(report, path)
    elif start.startswith(_PNG_START):
        report.kind, report.count = "picture", 1
        check_picture(path)
    else:
        _check_records(report, path, None, workers, track)


def _missing(path: str) -> InputError:
    """The error for a missing artifact; it names unfinished work beside it."""
    kept = unfinished_path(path)
    folder, begun = kept.parent, kept.name.removesuffix("resume") + "partial-"
    left = [name for name in _names_in(folder) if name == kept.name or name.startswith(begun)]
    if left:
        return UnfinishedError(
            path, f"does not exist, but an interrupted command left '{left[0]}' beside it",
            "run it again" + (" with --resume" if kept.name in left else ""))
    return _MissingError(path, "no such file or folder", "give a file or folder that drstool wrote")


def _names_in(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _start_of(path: str) -> bytes:
    # Bytes read from a pipe are gone; it can only hold records.
    if not is_file(path):
        return b""
    try:
        with open(path, "rb") as file:
            return file.read(8)
    except OSError as error:
        raise unreadable(path, error, "check its permissions") from error


def _check_folder(report: Report, folder: Path, workers: int, track: Track) -> None:
    header, head = read_marker(folder)
    if header is None and (is_voc(folder) or is_sbd(folder)):
        report.add(ForeignError(
            folder, "is a dataset, not an output of drstool", f"use 'drstool check --data {folder}'"))
    elif header is None:
        report.add(ForeignError(
            folder, f"has no '{HEADER_NAME}': it was not written by drstool",
            "its label PNGs are read, but some may be missing unnoticed"))
        with suppress(ForeignError):
            _check_records(report, str(folder), None, workers, track)
    elif record_type(header.kind) == "labels":
        reader = LabelFolderReader(folder, complete=False)
        with _adding_to(report):
            reader.check_end()
        _check_source(report, RecordSource(reader), workers, track)
    elif header.kind == "figures":
        files = picture_files(folder)
        report.kind, report.count = header.kind, len(files)
        _all(report, (partial(check_picture, file) for file in files), len(files), workers, track)
        with _adding_to(report):
            check_end_file(folder, len(files), head, folder)
    elif header.kind == "gallery":
        report.kind, report.count = header.kind, len(picture_files(folder / "images"))
        with _adding_to(report):
            check_end_file(folder, sum(name not in MARKERS for name, _ in contents(folder)), head, folder)
    elif header.kind == "export":
        names = [name for name, _ in contents(folder) if name not in MARKERS]
        report.kind, report.count = header.kind, len(names)
        with _adding_to(report):
            check_end_file(folder, len(names), head, folder)
    elif header.kind == "dataset":
        _check_dataset(report, folder, head, workers, track)
    else:
        raise InputError(folder, f"claims to hold {header.kind}", "those are single files")


def _check_records(
    report: Report, path: str | None, stream: BinaryIO | None, workers: int, track: Track
) -> None:
    with open_records(path, stream) as source:
        _check_source(report, source, workers, track)


def _check_source(report: Report, source: RecordSource, workers: int, track: Track) -> None:
    report.kind = source.kind
    ids = source.ids()
    report.count = None if ids is None else len(ids)
    read = _all(report, source.attempts(), report.count, workers, track)
    # Of a stream it is known only now, and not if the stream is truncated.
    report.count = read if report.count is None else report.count
    source.check_extent()


def _check_checkpoint(report: Report, path: str) -> None:
    import torch

    from drstool.checkpoints.checkpoint import load_checkpoint
    from drstool.models.build import restore_network

    checkpoint = load_checkpoint(path)
    report.kind = checkpoint.kind
    restore_network(checkpoint.kind, checkpoint.architecture, checkpoint.class_names, checkpoint.weights, path)
    report.count = sum(value.numel() for value in checkpoint.weights.values())
    for name, value in checkpoint.weights.items():
        if not torch.isfinite(value).all():
            report.add(InputError(
                path, f"weights '{name}' contain values that are not finite", "train again with a lower --lr"))


def _check_dataset(report: Report, folder: Path, head: bytes | None, workers: int, track: Track) -> None:
    report.kind = "dataset"
    saliency = folder / "saliency_map"
    if is_folder(saliency):
        for error in check(str(saliency), workers=workers, track=track).problems:
            report.add(error)
    dataset = open_dataset(str(folder), "trainval")
    report.count = len(dataset)
    names = dataset.class_names or ()
    _all(report, (partial(_check_item, item, names) for item in dataset.items), len(dataset), workers, track)
    without = [item.id for item in dataset.items if item.saliency is None] if is_folder(saliency) else []
    if without:
        report.add(InputError(
            saliency, f"has no maps for {counted(len(without), 'image')}: {listed(without)}", "recreate them"))
    with _adding_to(report):
        check_end_file(folder, len(dataset), head, folder)


def _check_item(item: Item, class_names: tuple[str, ...]) -> None:
    size = load_image(item.image, item.value_range).shape[:2]
    if item.mask is not None:
        check_label_values(load_target(item, size), class_names, item.mask)
    if item.saliency is not None:
        load_saliency(item.saliency, size)


def _all(
    report: Report, attempts: Iterable[Callable[[], object]], total: int | None, workers: int, track: Track
) -> int:
    """Call each, and add what is wrong to the report; how many were called."""
    before = len(report.problems)
    good = sum(1 for _ in track(map_items(call, attempts, workers, report.add), "check", total))
    return good + len(report.problems) - before


@contextmanager
def _adding_to(report: Report) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        report.add(error)
