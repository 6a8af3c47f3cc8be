"""Where an artifact came from: a chain of steps, oldest first.

A step is made by :meth:`drstool.artifacts.job.Job.entry`. It names no user and no machine; the home
folder is written ``~``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from datetime import datetime, UTC

__all__ = ["merge", "method_of", "timestamp", "without_home"]


def timestamp() -> str:
    """The time in UTC, to the second, as all files of drstool record it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def merge(*chains: Iterable[dict]) -> tuple[dict, ...]:
    """One chain out of several: all entries in order, each once.

    Examples
    --------
    >>> merge([{"command": "a"}], [{"command": "a"}, {"command": "b"}, {"command": "b"}])
    ({'command': 'a'}, {'command': 'b'})
    """
    merged: list[dict] = []
    for chain in chains:
        for step in chain:
            if step not in merged:
                merged.append(step)
    return tuple(merged)


def without_home(value: object) -> object:
    """A value with the home folder shortened to ``~`` in all its text; tuples become lists."""
    if isinstance(value, (str, os.PathLike)):
        return _shortened(os.fspath(value))
    if isinstance(value, Mapping):
        return {_shortened(str(key)): without_home(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_home(item) for item in value]
    return value


def _shortened(text: str) -> str:
    home = os.path.expanduser("~")
    for folder in dict.fromkeys((home, os.path.realpath(home))):
        if len(folder) > 1:
            text = re.sub(r"(?<![\w.\-])" + re.escape(folder) + r"(?![^/:;,\s'\"])", "~", text)
    return text


_TRAININGS = ("train-cls", "refine-train", "train-seg")


def method_of(chain: Iterable[dict]) -> dict[str, object]:
    """How predictions were made, as far as their chain records it; for who reads their scores.

    Returns
    -------
    dict
        ``recorded``: whether there is a chain at all; without one, nothing below is known (None).
        ``crf``, ``flip``, ``sizes``, ``scales``: of the last step that has such a setting; False
        where none has. ``cues``: settings of ``pseudo-label``. ``tags``, ``saliency`` and
        ``pixel_ground_truth``: which steps used them, and what from.

    Examples
    --------
    >>> step = {"command": "drstool cam -o x", "settings": {"flip": True}, "used": {"tags": "list"}}
    >>> method = method_of([step])
    >>> method["flip"], method["crf"], method["tags"]
    (True, False, [{'step': 'cam', 'used': 'list'}])
    """
    steps = [(_step_name(entry), _mapping(entry, "settings"), _mapping(entry, "used")) for entry in chain]
    method: dict[str, object] = {"recorded": bool(steps)}
    for name in ("crf", "flip", "sizes", "scales"):
        # A training's flip is another thing: how often it mirrors.
        found = [settings[name] for step, settings, _ in steps if name in settings and step not in _TRAININGS]
        method[name] = found[-1] if found else False if steps else None
    cues = [settings for step, settings, _ in steps if step == "pseudo-label"]
    method["cues"] = cues[-1] if cues else None
    for kind in ("tags", "saliency", "pixel_ground_truth"):
        users = [{"step": step, "used": used[kind]} for step, _, used in steps if used.get(kind)]
        method[kind] = users if steps else None
    return method


def _step_name(entry: dict) -> str:
    """The command of a step, such as ``cam``."""
    words = str(entry.get("command", "")).split(maxsplit=2)
    return words[1] if len(words) > 1 else ""


def _mapping(entry: dict, key: str) -> Mapping:
    value = entry.get(key)
    return value if isinstance(value, Mapping) else {}
