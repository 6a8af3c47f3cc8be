"""Checkpoints: a ``.pt`` file with a network's weights, and all it takes to build the network."""

from __future__ import annotations

import json
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from drstool.artifacts.atomic import new_file
from drstool.artifacts.header import FORMAT, check_plain
from drstool.artifacts.job import NO_HISTORY, Job, recorded_job, without_outcome
from drstool.artifacts.provenance import without_home
from drstool.checkpoints.safetensors import is_safetensors, read_safetensors
from drstool.checkpoints.torch_file import AGAIN, CODE, check_torch_file, raise_shortage
from drstool.errors import ForeignError, InputError, UnfinishedError
from drstool.files import is_file, status, unreadable
from drstool.labels import check_class_names
from drstool.training.stop import Stop

__all__ = [
    "KINDS", "Checkpoint", "checkpoint_metadata", "job_difference", "load_checkpoint", "load_tensors",
    "save_checkpoint", "save_torch", "with_selection",
]

VERSION = 1
_TYPES = {"architecture": dict, "recipe": dict, "weights": dict, "provenance": list, "class_names": list}
# The command that writes each kind.
KINDS = {"classifier": "train-cls", "refiner": "refine-train", "segmenter": "train-seg"}


@dataclass(frozen=True)
class Checkpoint:
    """A trained network, its classes and its history.

    Attributes
    ----------
    kind
        ``classifier``, ``refiner`` or ``segmenter``.
    class_names
        The C object classes, in label order.
    architecture
        The arguments that build the network: names and numbers only.
    recipe
        The training settings.
    weights
        The network's state dict; tensors on the CPU.
    provenance
        The commands that led here, oldest first.
    """

    kind: str
    class_names: tuple[str, ...]
    architecture: dict[str, Any]
    recipe: dict[str, Any]
    weights: Mapping[str, Any]
    provenance: tuple[dict, ...] = field(default=())


def with_selection(checkpoint: Checkpoint, report: Any) -> Checkpoint:
    """The checkpoint with the selected epoch and its score in the recipe; unchanged where none was selected.

    Parameters
    ----------
    checkpoint
    report
        With the ``epoch`` whose weights these are and its ``score``, or None.
    """
    if report is None or report.score is None:
        return checkpoint
    selection = {"selected_epoch": report.epoch, "selected_score": report.score}
    return replace(checkpoint, recipe=checkpoint.recipe | selection)


def save_checkpoint(path: str | Path, checkpoint: Checkpoint, *, overwrite: bool = False) -> None:
    """Write a checkpoint, whole or not at all.

    Raises
    ------
    OutputError
        The file exists without ``overwrite``, or cannot be written.
    """
    content = {
        "format": FORMAT,
        "version": VERSION,
        "kind": checkpoint.kind,
        "class_names": list(checkpoint.class_names),
        "architecture": checkpoint.architecture,
        "recipe": checkpoint.recipe,
        "weights": {name: _stored(value) for name, value in checkpoint.weights.items()},
        "provenance": list(checkpoint.provenance),
    }
    save_torch(path, content, overwrite=overwrite)


def save_torch(path: str | Path, content: Any, *, overwrite: bool = False) -> None:
    """Write tensors and plain values as torch does, whole or not at all.

    Ctrl-C and SIGTERM, where they raise something, wait until it is done: torch's writer, broken off at
    the wrong moment, ends the whole process with a message of its own.

    Raises
    ------
    OutputError
        The file exists without ``overwrite``, or cannot be written.
    """
    import torch

    with Stop(), new_file(path, overwrite) as temporary, open(temporary, "wb") as file:
        # Through a file object torch does not write the file's own name into the archive.
        try:
            torch.save(content, file)
        except RuntimeError as error:
            # The disk is full; torch reports what follows from that.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def load_checkpoint(path: str | Path, kind: str | None = None) -> Checkpoint:
    """Read a checkpoint; nothing in it is executed.

    Parameters
    ----------
    path
    kind
        The expected kind; None accepts any.

    Raises
    ------
    InputError
        The file is missing, damaged, not a drstool checkpoint or of another kind, or could run code.
    """
    content = load_tensors(path)
    is_ours = isinstance(content, dict) and content.get("format") == FORMAT
    if is_ours and "loop" in content:
        raise UnfinishedError(path, "is the state of an unfinished training", "finish it with --resume")
    if not is_ours or "weights" not in content:
        raise ForeignError(
            path, "is not a drstool checkpoint",
            "use one that train-cls, refine-train or train-seg wrote, or convert others with 'drstool import'")
    version, found = content.get("version"), content.get("kind")
    if version != VERSION:
        raise InputError(path, f"has format version {version}", f"this version of drstool reads {VERSION}")
    if not isinstance(found, str) or found not in KINDS:
        raise InputError(path, f"holds an unknown kind of network: {found!r}", "expected one of " + ", ".join(KINDS))
    if kind is not None and found != kind:
        raise InputError(path, f"holds a {found}, not a {kind}", f"use one written by 'drstool {KINDS[kind]}'")
    for name, expected in _TYPES.items():
        if not isinstance(content.get(name), expected):
            raise InputError(path, f"is damaged: '{name}' is missing or has the wrong type", "recreate it")
    _check_weights(content["weights"], path)
    for name in ("architecture", "recipe", "provenance"):
        check_plain(content[name], f"{path}: '{name}'")
    if not all(isinstance(entry, dict) for entry in content["provenance"]):
        raise InputError(path, "is damaged: 'provenance' is not a list of objects", "recreate it")
    return Checkpoint(
        found, check_class_names(content["class_names"], path), content["architecture"], content["recipe"],
        content["weights"], tuple(content["provenance"]))


def job_difference(path: str | Path, job: Job, *, sure: bool = False) -> str | None:
    """How the job that made a checkpoint differs from another; None where it is the same.

    Nothing differs in what a checkpoint without provenance does not record, unless one must be ``sure``.
    """
    try:
        checkpoint = load_checkpoint(path)
    except InputError as error:
        return error.what
    if KINDS[checkpoint.kind] != job.command:
        return f"holds a {checkpoint.kind}"
    if checkpoint.provenance:
        return job.difference(recorded_job(checkpoint.provenance[-1], checkpoint.class_names))
    if sure:
        return NO_HISTORY
    recipe = without_home(without_outcome(checkpoint.recipe))
    return job.difference({"classes": list(checkpoint.class_names), "settings": recipe})


def load_tensors(path: str | Path, *, allowed: list | None = None) -> Any:
    """Tensors and plain values of a ``.pt``, ``.pth`` or ``.safetensors`` file, on the CPU.

    Parameters
    ----------
    path
    allowed
        Further types that the file may hold, as ``torch.serialization.safe_globals`` takes them.

    Raises
    ------
    InputError
        The file is missing, damaged or of another format, or could run code.
    """
    path = Path(path)
    if not is_file(path):
        raise InputError(path, "no such file" if status(path) is None else "is not a file", "give a checkpoint file")
    if is_safetensors(path):
        return _content(*read_safetensors(path), path)
    # First, as torch is slow to import.
    check_torch_file(path, {_pickled_name(entry) for entry in allowed or ()})
    import torch

    try:
        with torch.serialization.safe_globals(allowed or []), warnings.catch_warnings():
            # About pickle protocols, which do not concern the user.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises RuntimeError, EOFError, KeyError, … on damaged files
        raise_shortage(path, error)
        if isinstance(error, OSError):
            raise unreadable(path, error) from error
        if isinstance(error, pickle.UnpicklingError) and re.search("Unsupported|WeightsUnpickler|GLOBAL", str(error)):
            raise InputError(path, *CODE) from None
        raise InputError(path, f"is not a torch file, or is damaged ({type(error).__name__})", AGAIN) from None


def checkpoint_metadata(checkpoint: Checkpoint) -> dict[str, str]:
    """All of a checkpoint but its weights, as texts; :func:`load_checkpoint` reads them from a safetensors file."""
    content = {
        "class_names": list(checkpoint.class_names), "architecture": checkpoint.architecture,
        "recipe": checkpoint.recipe, "provenance": list(checkpoint.provenance), "version": VERSION}
    return {"program": FORMAT, "kind": checkpoint.kind} | {
        name: json.dumps(value, ensure_ascii=False) for name, value in content.items()}


def _content(tensors: dict[str, Any], metadata: Mapping[str, str], path: Path) -> dict[str, Any]:
    """What :func:`save_checkpoint` would have written of an exported checkpoint; of other files, the tensors."""
    if metadata.get("program") != FORMAT:
        return tensors
    try:
        content = {name: json.loads(metadata[name]) for name in (*_TYPES, "version") if name != "weights"}
    except (KeyError, ValueError, RecursionError):
        raise InputError(path, "is damaged: its metadata are not those of a checkpoint", AGAIN) from None
    return content | {"format": FORMAT, "kind": metadata.get("kind"), "weights": tensors}


def _pickled_name(entry: Any) -> str:
    """How a pickle names a type, given the type, or a pair of it and its dotted name."""
    if isinstance(entry, tuple):
        return " ".join(entry[1].rsplit(".", 1))
    return f"{entry.__module__} {entry.__qualname__}"


def _stored(value: Any) -> Any:
    """A tensor on the CPU; an expanded one is copied in full, as :func:`_check_weights` demands."""
    value = value.detach().cpu()
    return value.contiguous() if 0 in value.stride() else value


def _check_weights(weights: dict, path: object) -> None:
    """Check that a state dict maps names to dense tensors, each stored in full."""
    import torch

    for name, value in weights.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor) or value.layout is not torch.strided:
            raise InputError(path, f"is damaged: its weights hold {name!r:.60}, which is not a tensor", "recreate it")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            # An expanded view: whoever copies it would need far more memory than the file.
            raise InputError(path, f"is damaged: '{name:.60}' is larger than what is stored", "recreate it")
