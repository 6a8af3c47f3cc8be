"""What a command does, told so that it can be compared: only the same work may be gone on with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from drstool import __version__
from drstool.artifacts.provenance import without_home

__all__ = ["WORTH_KEEPING", "Work", "is_duration", "is_work", "told_work", "without_outcome"]

# Unfinished work of fewer seconds is no loss.
WORTH_KEEPING = 60.0

# Three hundred years.
_MOST_SECONDS = 1e10

# Settings that a checkpoint has only afterwards.
_OUTCOMES = ("selected_epoch", "selected_score")
# Where a message would grow long.
_SHOWN = 60


@dataclass(frozen=True)
class Work:
    """Everything on which a command's result depends.

    Attributes
    ----------
    command
        Its name.
    classes
        The object classes.
    settings
        The numbers of the method, by option name with ``_``.
    inputs
        Digests of what is read, by what it is.
    used
        Kinds of knowledge that go in.
    device
        Kind of device on which networks run; None where none do.
    seed
        None where nothing is drawn.
    version
        Of the program.
    """

    command: str
    classes: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    used: Mapping[str, Any] = field(default_factory=dict)
    device: str | None = None
    seed: int | None = None
    version: str = __version__

    def to_json(self) -> dict[str, Any]:
        """The work as plain values."""
        return without_home(asdict(self))  # type: ignore[return-value]

    def digest(self) -> str:
        """``sha256:`` and a digest of what all parts of a whole have alike: settings, inputs, what was used.

        But not the maps that they were made of, which may be parts too.
        """
        told = self.to_json()
        inputs = {name: value for name, value in told["inputs"].items() if name != "maps"}
        alike = {"command": self.command, "settings": told["settings"], "inputs": inputs, "used": told["used"]}
        return f"sha256:{hashlib.sha256(json.dumps(alike, sort_keys=True).encode()).hexdigest()}"

    def difference(self, other: Mapping[str, Any]) -> str | None:
        """How another work, as :meth:`to_json` gives it, differs; None where it is the same.

        Parameters
        ----------
        other
            May lack parts and settings, about which nothing is then said.

        Examples
        --------
        >>> work = Work("cam", settings={"batch_size": 8}, inputs={"list": "sha256:1"})
        >>> work.difference({"settings": {"batch_size": 4}, "inputs": {"list": "sha256:1"}})
        '--batch-size was 4 and is 8'
        >>> work.difference({"inputs": {"list": "sha256:2"}})
        'the list of images and tags is another'
        """
        told = list(self._differences(other))
        return ", ".join(told[:3]) + (", …" if len(told) > 3 else "") if told else None

    def _differences(self, other: Mapping[str, Any]) -> Iterator[str]:
        own = self.to_json()
        for name, told in (("command", "the command"), ("version", "the version of drstool")):
            if name in other and other[name] != own[name]:
                yield f"{told} was {other[name]} and is {own[name]}"
        for name in ("seed", "device"):
            if name in other and other[name] != own[name]:
                yield f"--{name} was {other[name]} and is {own[name]}"
        if "classes" in other and other["classes"] != own["classes"]:
            yield f"the classes were {_shown(other['classes'])} and are {_shown(own['classes'])}"
        for part in ("settings", "used"):
            if part in other:
                theirs, ours = _flat(other[part]), _flat(own[part])
                names = dict.fromkeys((*theirs, *ours)) if "version" in other else theirs
                for name in names:
                    if theirs.get(name) != ours.get(name):
                        yield f"{_NAMES.get(name, '--' + name.replace('_', '-'))} was " \
                              f"{_shown(theirs.get(name))} and is {_shown(ours.get(name))}"
        if "inputs" in other:
            theirs, ours = other["inputs"], own["inputs"]
            for name in dict.fromkeys((*theirs, *ours)):
                if theirs.get(name) != ours.get(name):
                    yield f"{_NAMES.get(name, 'the ' + name)} is another"


_NAMES = {
    "list": "the list of images and tags",
    "crf_preset": "--crf",
    "select_list": "the list of --select-on",
    "init": "--init",
    "maps": "the file of maps",
    "labels": "the folder of labels",
    "saliency": "--saliency",
    "pixel_ground_truth": "the use of ground truth",
}


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as options are called: those of the CRF, a mapping of its own, each with ``crf_`` before."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        # The preset first: it says the most.
        inner = sorted(value.items(), key=lambda pair: pair[0] != "preset") if isinstance(value, Mapping) else None
        flat |= {name: value} if inner is None else {f"{name}_{key}": each for key, each in inner}
    return flat


def _shown(value: object) -> str:
    if value is None:
        return "not given"
    text = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def is_work(told: object) -> bool:
    """Whether something read from a file is a whole work, as :meth:`Work.to_json` gives it."""
    return isinstance(told, dict) and "version" in told and all(
        isinstance(told.get(part), dict) for part in ("settings", "inputs", "used"))


def is_duration(seconds: object) -> bool:
    """Whether something read from a file is a number of seconds that a work may have taken."""
    return isinstance(seconds, float) and 0 <= seconds < _MOST_SECONDS


def told_work(entry: Mapping[str, Any], classes: tuple[str, ...]) -> dict[str, Any]:
    """What a provenance entry tells of the work it is about, for :meth:`Work.difference`."""
    told = {name: entry[name] for name in ("version", "seed") if name in entry}
    told |= {name: entry[name] for name in ("inputs", "used") if isinstance(entry.get(name), Mapping)}
    if isinstance(entry.get("device"), str):
        told["device"] = entry["device"].partition(":")[0]
    if isinstance(entry.get("settings"), Mapping):
        told["settings"] = without_outcome(entry["settings"])
    return told | {"classes": list(classes)}


def without_outcome(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint's settings without what only its training could tell."""
    return {name: value for name, value in settings.items() if name not in _OUTCOMES}
