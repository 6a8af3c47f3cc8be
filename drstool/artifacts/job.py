"""What a command does: the one record that resuming, shards and histories share."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from drstool import __version__
from drstool.artifacts.provenance import timestamp, without_home
from drstool.text import listed

__all__ = ["NO_HISTORY", "WORTH_KEEPING", "Job", "is_duration", "is_job", "recorded_job", "without_outcome"]

# Seconds of unfinished work that are not thrown away without asking.
WORTH_KEEPING = 60.0

# Three hundred years.
_MOST_SECONDS = 1e10

# How what nobody knows the job of differs from any.
NO_HISTORY = "has no history (--no-provenance), so that nothing tells whether anything changed"

# Settings that a checkpoint gains by its training.
_OUTCOMES = ("selected_epoch", "selected_score", "trained_epochs", "trained_steps")
# Characters of a value in a message.
_SHOWN = 60


@dataclass(frozen=True)
class Job:
    """Everything a command's result depends on.

    This one record is what ``--resume`` compares, what shards must have in common, and what the
    history of an artifact tells.

    Attributes
    ----------
    command
        Name of the command.
    classes
        Object class names.
    settings
        Numbers and choices of the method, by option name with ``_``.
    inputs
        Digests of what is read, by what it is: ``{"checkpoint": "sha256:…"}``.
    used
        Kinds of supervision that go in: tags, saliency, pixel ground truth.
    device
        Where networks run, such as ``cuda:0``; None where none do.
    seed
        None where nothing is random.
    shard
        ``2/4``: the shard of the images that is worked on; None: all of them.
    version
        Of drstool.
    """

    command: str
    classes: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    used: Mapping[str, Any] = field(default_factory=dict)
    device: str | None = None
    seed: int | None = None
    shard: str | None = None
    version: str = __version__

    def to_json(self) -> dict[str, Any]:
        """The job as plain values, of the device only its type."""
        values = asdict(self)
        shard, device = values.pop("shard"), self.device
        values["settings"] = values["settings"] | ({} if shard is None else {"shard": shard})
        values["device"] = device and device.partition(":")[0]
        return without_home(values)  # type: ignore[return-value]

    def digest(self) -> str:
        """``sha256:`` and a digest of what all shards of a whole have in common.

        The maps they were made from are left out, as these may be shards too.
        """
        job = replace(self, shard=None).to_json()
        inputs = {name: value for name, value in job["inputs"].items() if name != "maps"}
        common = {"command": self.command, "settings": job["settings"], "inputs": inputs, "used": job["used"]}
        return f"sha256:{hashlib.sha256(json.dumps(common, sort_keys=True).encode()).hexdigest()}"

    def entry(self, command_line: Sequence[str], runs: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
        """The job as one step of a history, ready for JSON; see :mod:`drstool.artifacts.provenance`.

        Parameters
        ----------
        command_line
            Program first.
        runs
            When an interrupted job was resumed, and how much was finished by then.
        """
        program, *arguments = command_line or ["drstool"]
        step: dict[str, Any] = {
            "program": "drstool",
            "version": self.version,
            "command": shlex.join([os.path.basename(program), *arguments]),
            "time": timestamp(),
            "device": self.device,
            "seed": self.seed,
            "inputs": dict(self.inputs),
            "used": dict(self.used),
            "settings": dict(self.settings),
        }
        if runs:
            step["resumed"] = [dict(run) for run in runs]
        return without_home(step)  # type: ignore[return-value]

    def difference(self, other: Mapping[str, Any]) -> str | None:
        """How another job, as :meth:`to_json` gives it, differs; None where it is the same.

        Parameters
        ----------
        other
            May lack fields and settings; those are not compared.

        Examples
        --------
        >>> job = Job("cam", settings={"batch_size": 8}, inputs={"list": "sha256:1"})
        >>> job.difference({"settings": {"batch_size": 4}, "inputs": {"list": "sha256:1"}})
        '--batch-size changed from 4 to 8'
        >>> job.difference({"inputs": {"list": "sha256:2"}})
        'the list of images and tags changed'
        """
        differences = list(self._differences(other))
        return listed(differences, most=3) if differences else None

    def _differences(self, other: Mapping[str, Any]) -> Iterator[str]:
        own = self.to_json()
        for name in ("command", "version", "seed", "device", "classes"):
            if name in other and other[name] != own[name]:
                yield f"{_NAMES.get(name, '--' + name)} changed from {_shown(other[name])} to {_shown(own[name])}"
        for name in ("settings", "used"):
            if name in other:
                theirs, ours = _flat(other[name]), _flat(own[name])
                # What a finished artifact does not tell cannot differ.
                for key in dict.fromkeys((*theirs, *ours)) if "version" in other else theirs:
                    if theirs.get(key) != ours.get(key):
                        label = _NAMES.get(key, "--" + key.replace("_", "-"))
                        yield f"{label} changed from {_shown(theirs.get(key))} to {_shown(ours.get(key))}"
        theirs, ours = other.get("inputs", own["inputs"]), own["inputs"]
        for key in dict.fromkeys((*theirs, *ours)):
            if theirs.get(key) != ours.get(key):
                # Earlier versions looked at samples of large files.
                how = "was recorded in an older way" if str(theirs.get(key)).startswith("sampled-") else "changed"
                yield f"{_NAMES.get(key, 'the ' + key)} {how}"


_NAMES = {
    "command": "the command",
    "version": "the version of drstool",
    "classes": "the classes",
    "list": "the list of images and tags",
    "crf_preset": "--crf",
    "select_list": "the image list of --select-on",
    "init": "--init",
    "maps": "the map file",
    "labels": "the label folder",
    "saliency": "--saliency",
    "pixel_ground_truth": "the use of ground truth",
}


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by option name; those of the CRF, a mapping of their own, get the prefix ``crf_``."""
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


def is_job(value: object) -> bool:
    """Whether a value read from a file is a whole job, as :meth:`Job.to_json` gives it."""
    return isinstance(value, dict) and "version" in value and all(
        isinstance(value.get(name), dict) for name in ("settings", "inputs", "used"))


def is_duration(seconds: object) -> bool:
    """Whether a value read from a file is a number of seconds that a job may have taken."""
    return isinstance(seconds, float) and 0 <= seconds < _MOST_SECONDS


def recorded_job(entry: Mapping[str, Any], classes: tuple[str, ...], shard: object = None) -> dict[str, Any]:
    """What a step of a history tells of its job, for :meth:`Job.difference`."""
    job = {name: entry[name] for name in ("version", "seed") if name in entry}
    job |= {name: entry[name] for name in ("inputs", "used") if isinstance(entry.get(name), Mapping)}
    if isinstance(entry.get("device"), str):
        job["device"] = entry["device"].partition(":")[0]
    if isinstance(entry.get("settings"), Mapping):
        job["settings"] = without_outcome(entry["settings"])
    if shard is not None:
        job["settings"] = job.get("settings", {}) | {"shard": str(shard)}
    return job | {"classes": list(classes)}


def without_outcome(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint's settings without those that its training added."""
    return {name: value for name, value in settings.items() if name not in _OUTCOMES}
