"""Checkpoints: one ``.pt`` file that says how its own network is built."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from drstool.artifacts.atomic import new_file
from drstool.artifacts.header import FORMAT, check_plain
from drstool.artifacts.job import Work, told_work, without_outcome
from drstool.artifacts.provenance import without_home
from drstool.checkpoints.torch_file import check_torch_file
from drstool.errors import ForeignError, InputError, UnfinishedError
from drstool.labels import check_class_names
from drstool.training.stop import Stop

__all__ = [
    "KINDS", "Checkpoint", "check_same_work", "load_checkpoint", "load_tensors", "save_checkpoint", "save_torch",
    "with_selection",
]

VERSION = 1
# The command that makes each kind, for messages.
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
        The arguments from which the network is built: names and numbers only.
    recipe
        The settings it was trained with.
    weights
        The network's state dict; tensors on the CPU.
    provenance
        The chain of commands that led here, oldest first.
    """

    kind: str
    class_names: tuple[str, ...]
    architecture: dict[str, Any]
    recipe: dict[str, Any]
    weights: Mapping[str, Any]
    provenance: tuple[dict, ...] = field(default=())


def with_selection(checkpoint: Checkpoint, report: Any) -> Checkpoint:
    """The checkpoint, its recipe told which epoch was selected by which score, if one was.

    Parameters
    ----------
    checkpoint
    report
        Of the epoch whose weights it holds (with ``epoch`` and ``score``), or None.
    """
    if report is None or report.score is None:
        return checkpoint
    chosen = {"selected_epoch": report.epoch, "selected_score": report.score}
    return replace(checkpoint, recipe=checkpoint.recipe | chosen)


def save_checkpoint(path: str | Path, checkpoint: Checkpoint, *, overwrite: bool = False) -> None:
    """Write a checkpoint, whole or not at all.

    Raises
    ------
    OutputError
        The file exists and is not to be overwritten, or cannot be written.
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
        The file exists and is not to be overwritten, or cannot be written.
    """
    import torch

    with Stop(), new_file(path, overwrite) as temporary, open(temporary, "wb") as file:
        # Through a file object torch does not write the file's own name into the archive.
        try:
            torch.save(content, file)
        except RuntimeError as error:
            # A full disk: torch tells of its own confusion that follows.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def load_checkpoint(path: str | Path, kind: str | None = None) -> Checkpoint:
    """Read a checkpoint; no code in it is ever run.

    Parameters
    ----------
    path
    kind
        The kind that is needed, or ``None`` for any.

    Raises
    ------
    InputError
        There is no such file, it is none of ours, holds code, or is of another kind.
    """
    content = load_tensors(path)
    if isinstance(content, dict) and content.get("format") == FORMAT and "loop" in content:
        raise UnfinishedError(path, "is the state of an unfinished training", "finish it with --resume")
    if not isinstance(content, dict) or content.get("format") != FORMAT or "weights" not in content:
        raise ForeignError(
            path, "is not a drstool checkpoint",
            "use one that train-cls, refine-train or train-seg wrote, or 'drstool import' for others")
    version = content.get("version")
    if version != VERSION:
        raise InputError(path, f"is a checkpoint of version {version}", f"this drstool reads version {VERSION}")
    found = content.get("kind")
    if not isinstance(found, str) or found not in KINDS:
        raise InputError(path, f"holds an unknown kind of network: {found!r}", "one of " + ", ".join(KINDS))
    if kind is not None and found != kind:
        raise InputError(
            path, f"holds a {found}, and a {kind} is needed", f"use one that 'drstool {KINDS[kind]}' wrote")
    shapes = (("architecture", dict), ("recipe", dict), ("weights", dict), ("provenance", list), ("class_names", list))
    for name, expected in shapes:
        if not isinstance(content.get(name), expected):
            raise InputError(path, f"is damaged: '{name}' is missing or of another type", "make it again")
    _check_weights(content["weights"], path)
    for name in ("architecture", "recipe", "provenance"):
        check_plain(content[name], f"{path}: '{name}'")
    if not all(isinstance(entry, dict) for entry in content["provenance"]):
        raise InputError(path, "is damaged: 'provenance' is no list of objects", "make it again")
    return Checkpoint(
        kind=found,
        class_names=check_class_names(content["class_names"], path),
        architecture=content["architecture"],
        recipe=content["recipe"],
        weights=content["weights"],
        provenance=tuple(content["provenance"]),
    )


def check_same_work(path: str | Path, work: Work) -> str | None:
    """How the work that a checkpoint came of differs from another; None where it is the same.

    What a checkpoint without provenance does not tell cannot differ.
    """
    try:
        checkpoint = load_checkpoint(path)
    except InputError as error:
        return error.what
    if KINDS[checkpoint.kind] != work.command:
        return f"holds a {checkpoint.kind}"
    if checkpoint.provenance:
        told = told_work(checkpoint.provenance[-1], checkpoint.class_names)
    else:
        told = {"classes": list(checkpoint.class_names), "settings": without_home(without_outcome(checkpoint.recipe))}
    return work.difference(told)


def load_tensors(path: str | Path, *, allowed: list | None = None) -> Any:
    """Tensors and plain values of a ``.pt``/``.pth`` file, on the CPU.

    Parameters
    ----------
    path
    allowed
        Further types that the file may name, as ``torch.serialization.safe_globals`` takes them.

    Raises
    ------
    InputError
        There is no such file, it is damaged or no torch file, or it holds code.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(path, "no such file" if not path.exists() else "is no file", "name a checkpoint file")
    # Before torch, which is slow to import and believes what a file says of itself.
    check_torch_file(path, {_pickled_name(entry) for entry in allowed or ()})
    import torch

    try:
        with torch.serialization.safe_globals(allowed or []), warnings.catch_warnings():
            # About pickle protocols, which are no matter of the user's.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if any(word in str(error) for word in ("Unsupported", "WeightsUnpickler", "GLOBAL")):
            raise InputError(
                path, "holds more than tensors and plain values, and could run code when read",
                "save a state dict") from None
        raise InputError(path, "is no torch file, or a damaged one", "copy or make it again") from None
    except PermissionError:
        raise InputError(path, "may not be read", "check its permissions") from None
    except Exception as error:  # torch raises RuntimeError, EOFError, KeyError, … on damaged files
        raise InputError(
            path, f"is no torch file, or a damaged one ({type(error).__name__})", "copy or make it again") from None


def _pickled_name(entry: Any) -> str:
    """How a pickle names a type; an entry is the type, or it and its dotted name."""
    if isinstance(entry, tuple):
        return " ".join(entry[1].rsplit(".", 1))
    return f"{entry.__module__} {entry.__qualname__}"


def _stored(value: Any) -> Any:
    """A tensor on the CPU; one that repeats few numbers has them all, which readers insist on."""
    value = value.detach().cpu()
    return value.contiguous() if 0 in value.stride() else value


def _check_weights(weights: dict, path: object) -> None:
    """Check that a state dict is one: names and tensors that lie in memory as a whole."""
    import torch

    for name, value in weights.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor) or value.layout is not torch.strided:
            raise InputError(path, f"is damaged: its weights hold {name!r:.60}, which is no tensor", "make it again")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            # A view that repeats few numbers; whoever copies it would need memory for all.
            raise InputError(path, f"is damaged: '{name:.60}' is larger than what is stored", "make it again")
