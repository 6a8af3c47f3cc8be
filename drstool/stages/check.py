"""``check``: whether an artefact is whole, or cut short, changed, unfinished or somebody else's."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from drstool.artifacts.atomic import unfinished_path, writing
from drstool.artifacts.end_record import check_end_file
from drstool.artifacts.header import HEADER_NAME, carrier
from drstool.data import load_image, load_saliency, load_target, open_dataset
from drstool.data.item import Item
from drstool.errors import DrstoolError, ForeignError, InputError, UnfinishedError
from drstool.files import unreadable
from drstool.formats import check_picture, open_records
from drstool.formats.pictures import picture_files, read_marker
from drstool.labels import check_label_values
from drstool.parallel import Track, map_items, untracked
from drstool.png import SIGNATURE
from drstool.reports.text import listed

__all__ = ["STATES", "Report", "as_json", "check"]

STATES = ("whole", "damaged", "unfinished", "foreign", "missing")
_TORCH_STARTS = (b"PK\3\4", b"\x80")
_PNG_START = SIGNATURE[:4]
_KINDS_OF_FILES = "name an artefact of drstool"


@dataclass
class Report:
    """What was found about one artefact.

    Attributes
    ----------
    input
        As the user named it.
    state
        One of ``STATES``; ``damaged`` is cut short or changed.
    kind
        What it holds, as far as it could be told.
    count
        How many records, pictures or parameters it holds, if so many could be read.
    problems
        What is wrong, one error each; none of a whole artefact.
    """

    input: str
    state: str = "whole"
    kind: str | None = None
    count: int | None = None
    problems: list[DrstoolError] = field(default_factory=list)

    def add(self, error: DrstoolError) -> None:
        """Note a problem; the first one decides the state."""
        if not self.problems:
            self.state = _state_of(error)
        self.problems.append(error)


class _MissingError(InputError):
    pass


def check(
    path: str | None, *, stdin: BinaryIO | None = None, workers: int = 1, track: Track = untracked,
) -> Report:
    """Read all of an artefact, and tell what is wrong with it.

    Looked at are end marks and counts, shapes, types and label values, every checksum, and the pixels
    of every picture; of a checkpoint also that its weights are finite and fit its own description.

    Parameters
    ----------
    path
        A map file, a stream, a folder of label PNGs, saliency maps or figures, a dataset that ``demo``
        made, a checkpoint, or a PNG; ``-`` or None: standard input, which may be any of the files.
    stdin
        In place of the process's standard input.
    workers
        Threads; the report does not depend on it.
    track
        Progress display.

    Raises
    ------
    UsageError
        Standard input is closed or a terminal.
    """
    report = Report("stdin" if path in (None, "-") else str(path))
    try:
        with _as_file(path, stdin) as (source, stream):
            _check(report, source, stream, workers, track)
    except InputError as error:
        report.add(error)
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
    """The input by its name, or as a stream; a checkpoint that comes as a stream gets a name."""
    if path is not None and path != "-":
        yield path, None
        return
    stream = stdin if stdin is not None else getattr(sys.stdin, "buffer", None)
    if stream is not None and not hasattr(stream, "peek"):
        stream = io.BufferedReader(stream)  # type: ignore[arg-type]
    # What is closed, or a terminal, is refused where records are opened.
    if stream is None or stream.isatty() or not stream.peek(8).startswith((*_TORCH_STARTS, _PNG_START)):
        yield None, stream
        return
    told = f"temporary folder {tempfile.gettempdir()}"
    with writing(told), tempfile.NamedTemporaryFile() as spool:
        shutil.copyfileobj(stream, spool)
        spool.flush()
        yield spool.name, None


def _check(report: Report, path: str | None, stream: BinaryIO | None, workers: int, track: Track) -> None:
    if path is None:
        _check_records(report, None, stream, workers, track)
        return
    if not os.path.lexists(path):
        raise _missing(path)
    name = os.path.basename(os.path.normpath(path))
    if name.startswith(".") and name.endswith((".resume", ".resume.json")):
        raise UnfinishedError(path, "is what --resume goes on with", "run the command again with --resume")
    if name.startswith(".") and ".partial-" in name:
        raise UnfinishedError(
            path, "is what a command that did not come to its end was writing", "run it again, or delete this")
    if os.path.isdir(path):
        _check_folder(report, Path(path), workers, track)
        return
    start = _start_of(path)
    if start.startswith(_TORCH_STARTS):
        _check_checkpoint(report, path)
    elif start.startswith(_PNG_START):
        report.kind, report.count = "picture", 1
        check_picture(path)
    else:
        _check_records(report, path, None, workers, track)


def _missing(path: str) -> InputError:
    """The error for what is not there; it tells of what lies beside it, half made."""
    kept = unfinished_path(path)
    folder, begun = kept.parent, kept.name.removesuffix("resume") + "partial-"
    left = [name for name in _names_in(folder) if name == kept.name or name.startswith(begun)]
    if left:
        return UnfinishedError(
            path, f"is not there; a command that did not come to its end left '{left[0]}' beside it",
            "run it again" + (" with --resume" if kept.name in left else ""))
    return _MissingError(path, "no such file or folder", _KINDS_OF_FILES)


def _names_in(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _start_of(path: str) -> bytes:
    # A pipe's first bytes are gone once read, and it holds records at most.
    if not os.path.isfile(path):
        return b""
    try:
        with open(path, "rb") as file:
            return file.read(8)
    except OSError as error:
        raise unreadable(path, error, "check its permissions") from error


def _check_folder(report: Report, folder: Path, workers: int, track: Track) -> None:
    header, head = read_marker(folder)
    if header is None:
        report.add(ForeignError(
            folder, f"holds no '{HEADER_NAME}': another program wrote it",
            "label PNGs in it are read, but whether all are there cannot be told"))
        with suppress(ForeignError):
            _check_records(report, str(folder), None, workers, track)
    elif carrier(header.kind) == "labels":
        _check_records(report, str(folder), None, workers, track)
    elif header.kind == "figures":
        files = picture_files(folder)
        report.kind, report.count = header.kind, len(files)
        _all(report, (lambda file=file: check_picture(file) for file in files), len(files), workers, track)
        _tell(report, check_end_file, folder, len(files), head, folder)
    elif header.kind == "dataset":
        _check_dataset(report, folder, head, workers, track)
    else:
        raise InputError(folder, f"says it holds {header.kind}", "those lie in one file")


def _check_records(
    report: Report, path: str | None, stream: BinaryIO | None, workers: int, track: Track
) -> None:
    with open_records(path, stream) as source:
        report.kind = source.kind
        ids = source.ids()
        report.count = None if ids is None else len(ids)
        read = _all(report, source.attempts(), report.count, workers, track)
        # Of a stream known only now, and not if it was cut short.
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
                path, f"its weights '{name}' hold what is no finite number", "train again, with a lower --lr"))


def _check_dataset(report: Report, folder: Path, head: bytes | None, workers: int, track: Track) -> None:
    report.kind = "dataset"
    saliency = folder / "saliency_map"
    if saliency.is_dir():
        for error in check(str(saliency), workers=workers, track=track).problems:
            report.add(error)
    dataset = open_dataset(str(folder), "trainval")
    report.count = len(dataset)
    names = dataset.class_names or ()
    _all(report, (lambda item=item: _check_item(item, names) for item in dataset.items), len(dataset), workers, track)
    without = [item.id for item in dataset.items if item.saliency is None] if saliency.is_dir() else []
    if without:
        report.add(InputError(
            saliency, f"lacks the maps of {len(without)} images: {listed(without)}", "make them again"))
    _tell(report, check_end_file, folder, len(dataset), head, folder)


def _check_item(item: Item, class_names: tuple[str, ...]) -> None:
    size = load_image(item.image).shape[:2]
    if item.mask is not None:
        check_label_values(load_target(item, size), class_names, item.mask)
    if item.saliency is not None:
        load_saliency(item.saliency, size)


def _all(
    report: Report, attempts: Iterable[Callable[[], object]], total: int | None, workers: int, track: Track
) -> int:
    """Try each, and note what is wrong; how many were tried."""
    def attempt(function: Callable[[], object]) -> None:
        function()

    before = len(report.problems)
    good = sum(1 for _ in track(map_items(attempt, attempts, workers, report.add), "check", total))
    return good + len(report.problems) - before


def _tell(report: Report, function: Callable[..., None], *arguments: object) -> None:
    try:
        function(*arguments)
    except InputError as error:
        report.add(error)
