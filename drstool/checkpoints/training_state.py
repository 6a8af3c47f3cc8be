"""The state of a training that is not finished: one hidden file beside the checkpoint to be."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from drstool.artifacts.atomic import unfinished_path
from drstool.artifacts.header import FORMAT
from drstool.artifacts.job import Job, is_duration, is_job
from drstool.artifacts.ownership import beginning, foreign_work
from drstool.artifacts.provenance import timestamp
from drstool.checkpoints.checkpoint import Checkpoint, load_tensors, save_torch
from drstool.errors import InputError, OutputError
from drstool.files import status
from drstool.labels import check_class_names

__all__ = ["KIND", "TrainingState", "check_state", "is_state", "unfinished_checkpoint"]

KIND = "training-state"
VERSION = 1
# What a torch file holds begins within so many bytes, and a state with its format.
_BEGINNING = 4096
_PARTS = {
    "work": dict, "network": str, "class_names": list, "architecture": dict, "recipe": dict, "sittings": list,
    "seconds": float, "loop": dict,
}
_LOOP_PARTS = {"step": int, "loss_sum": float, "images": int, "reports": list, "model": dict, "optimizer": dict}


class TrainingState:
    """Keeps the state of one training; a :class:`drstool.training.state.Checkpointer`.

    Parameters
    ----------
    output
        The checkpoint to be.
    job
        The state of a different job is refused.
    on_failure
        Called when a state cannot be written; training continues without.

    Attributes
    ----------
    path : Path
        Where the state lies.
    runs : list of dict
        When, and after which step, the training was resumed.
    step : int or None
        Of the state that lies there, as far as this object has read or written it.
    """

    def __init__(self, output: str | Path, job: Job, on_failure: Callable[[OutputError], None]) -> None:
        self.path = unfinished_path(output)
        self.runs: list[dict[str, Any]] = []
        self.step: int | None = None
        self._job, self._on_failure = job, on_failure
        self._content: dict[str, Any] | None = None
        self._network: Checkpoint | None = None
        self._seconds, self._started = 0.0, time.monotonic()

    def check_place(self) -> None:
        """Check that what lies there is a training's state, damaged perhaps, which may be resumed or replaced.

        Raises
        ------
        OutputError
            It is something else.
        """
        if status(self.path, follow=False) is not None:
            start = beginning(self.path, _BEGINNING)
            if start is None or start and not (start.startswith(b"PK") and FORMAT.encode() in start):
                raise foreign_work(self.path)

    def read(self) -> int | None:
        """Read the state that is there; its step, or None where there is none.

        Raises
        ------
        InputError
            It is damaged, or belongs to a different job: the difference is named.
        """
        if status(self.path, follow=False) is None:
            return None
        content = check_state(load_tensors(self.path), self.path)
        difference = self._job.difference(content["work"])
        if difference is not None:
            raise InputError(
                self.path, f"belongs to a different job: {difference}",
                "use the same settings and data, or discard it with --overwrite")
        self._content = content
        self.step = content["loop"]["step"]
        self._seconds = content["seconds"]
        self.runs = [*content["sittings"], {"time": timestamp(), "step": self.step}]
        return self.step

    def left_over(self) -> tuple[int | None, float] | None:
        """Step of the state that lies there, and seconds of work in it; None where there is none.

        A damaged one is worth nothing: its step is None.
        """
        if status(self.path, follow=False) is None:
            return None
        content = self._readable()
        return (None, 0.0) if content is None else (content["loop"]["step"], content["seconds"])

    def settings(self) -> dict[str, Any] | None:
        """The settings of the job whose state is on disk; None where there is none, or it is damaged."""
        content = self._readable()
        return None if content is None else content["work"]["settings"]

    def last_network(self) -> tuple[Checkpoint | None, int]:
        """The network as it was when the state that lies there was saved, and after which step; or None."""
        content = self._readable()
        return (None, 0) if content is None else (unfinished_checkpoint(content), content["loop"]["step"])

    def _readable(self) -> dict[str, Any] | None:
        """What the state that lies there holds; None where there is none, or it is damaged."""
        try:
            return check_state(load_tensors(self.path), self.path)
        except InputError:
            return None

    def load(self, network: Checkpoint) -> Mapping[str, Any] | None:
        """The state that was read, without a copy of it being left here.

        Parameters
        ----------
        network
            What is trained; its weights come with each state.
        """
        self._network = replace(network, weights={})
        content, self._content = self._content, None
        return None if content is None else content["loop"]

    def save(self, state: Mapping[str, Any]) -> None:
        """Save a state in place of the one before, whole or not at all."""
        if self._network is None:
            raise ValueError("nothing says what network this is")
        content = {
            "format": FORMAT, "version": VERSION, "work": self._job.to_json(),
            "kind": KIND, "network": self._network.kind, "class_names": list(self._network.class_names),
            "architecture": self._network.architecture, "recipe": self._network.recipe,
            "sittings": self.runs, "seconds": self._seconds + time.monotonic() - self._started,
            "loop": dict(state) | {"model": dict(state["model"])},
        }
        try:
            save_torch(self.path, content, overwrite=True)
            self.step = state["step"]
        except OutputError as error:
            self._on_failure(error)

    def remove(self) -> None:
        """Remove the state: the training is finished, or starts from scratch."""
        with suppress(FileNotFoundError):
            self.path.unlink()


def is_state(content: Any) -> bool:
    """Whether a torch file's content is the state of a training."""
    return isinstance(content, dict) and content.get("format") == FORMAT and content.get("kind") == KIND


def check_state(content: Any, where: object) -> dict[str, Any]:
    """The content of a state's file, after checking that it is one.

    Raises
    ------
    InputError
        It is something else, damaged, or of another version.
    """
    if not is_state(content):
        raise InputError(where, "is not the state of a training", "remove it, and start from scratch")
    if content.get("version") != VERSION:
        raise InputError(
            where, f"is a state of version {content.get('version')}", f"this drstool reads version {VERSION}")
    for name, expected in _PARTS.items():
        if not isinstance(content.get(name), expected):
            raise InputError(
                where, f"is damaged: '{name}' is missing or of another type", "remove it, and start from scratch")
    described = is_duration(content["seconds"]) and is_job(content["work"])
    if not described or not all(isinstance(run, dict) for run in content["sittings"]):
        raise InputError(where, "is damaged: it does not say what was done", "remove it, and start from scratch")
    loop = content["loop"]
    if not all(isinstance(loop.get(name), expected) for name, expected in _LOOP_PARTS.items()):
        raise InputError(where, "is damaged: parts of the state are missing", "remove it, and start from scratch")
    check_class_names(content["class_names"], where)
    return content


def unfinished_checkpoint(content: Mapping[str, Any]) -> Checkpoint:
    """The network of a state as a checkpoint: as it was after the state's step."""
    return Checkpoint(
        content["network"], tuple(content["class_names"]), content["architecture"], content["recipe"],
        content["loop"]["model"])
