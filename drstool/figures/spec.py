"""What a whole figure shows and looks like, as a TOML file or as the command line says."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

from drstool.errors import InputError, UsageError
from drstool.figures.columns import KINDS, Column, default_title
from drstool.files import read_bytes
from drstool.recipe import CueSettings, FigureSettings, override

__all__ = ["Crop", "FigureSpec", "parse_crop", "parse_cues", "read_spec", "spec_text"]

_Settings = TypeVar("_Settings", FigureSettings, CueSettings)
_COLUMN_KEYS = {"show": "show", "title": "title", "paths": "paths", "class": "object_class"}
_UNITS = {"mm": 25.4, "in": 1.0}
_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", list: "a list of texts"}


@dataclass(frozen=True)
class Crop:
    """A region of an image, in pixels, that is shown enlarged below the image's row."""

    id: str
    x: int
    y: int
    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.id}:{self.x},{self.y},{self.width},{self.height}"


@dataclass(frozen=True)
class FigureSpec:
    """What a figure shows and looks like.

    Attributes
    ----------
    figure
        The file to write.
    data
        Parameters of :func:`drstool.data.open_dataset` by name.
    columns
    ids, pick, by
        Rows: these images, or a choice by the scores of the column with the title ``by``.
    crops
    settings
    cues
        How labels are made of maps, to be scored or drawn.
    """

    figure: str = ""
    data: Mapping[str, str] = field(default_factory=dict)
    columns: tuple[Column, ...] = ()
    ids: tuple[str, ...] = ()
    pick: str = ""
    by: str = ""
    crops: tuple[Crop, ...] = ()
    settings: FigureSettings = FigureSettings()
    cues: CueSettings = CueSettings()

    def pixels(self) -> int:
        """Width of the figure in pixels.

        Raises
        ------
        UsageError
            ``width`` is not a width.

        Examples
        --------
        >>> FigureSpec(settings=FigureSettings(width="25.4mm")).pixels()
        300
        """
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(mm|px|in)", self.settings.width)
        if found is None:
            raise UsageError(
                "--width", f"{self.settings.width!r} is not a width", "expected something like 174mm, 1200px or 6.9in")
        number, unit = float(found[1]), found[2]
        pixels = round(number if unit == "px" else number / _UNITS[unit] * self.settings.dpi)
        if not 32 <= pixels <= 20_000:
            raise UsageError("--width", f"is {pixels} pixels at {self.settings.dpi} dpi", "expected 32 to 20000 pixels")
        return pixels


def parse_crop(text: str) -> Crop:
    """A region as the command line writes it, ``ID:x,y,w,h``.

    Raises
    ------
    UsageError
        It is none.

    Examples
    --------
    >>> parse_crop("a:b:10,20,64,48")
    Crop(id='a:b', x=10, y=20, width=64, height=48)
    """
    found = re.fullmatch(r"(.+):(\d+),(\d+),(\d+),(\d+)", text)
    if found is None or not int(found[4]) or not int(found[5]):
        raise UsageError("--crop", f"{text!r} is not a region", "expected ID:x,y,w,h in pixels of the image")
    return Crop(found[1], *map(int, found.groups()[1:]))


def parse_cues(text: str, cues: CueSettings = CueSettings()) -> CueSettings:
    """Settings of the cue rule as the command line writes them, ``alpha=0.3,background=constant``.

    Raises
    ------
    UsageError
        A setting is unknown, or its value impossible.

    Examples
    --------
    >>> parse_cues("background=constant,constant=0.3").constant
    0.3
    """
    changes: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        kind: Any = type(getattr(cues, name.strip(), None))
        try:
            changes[name.strip()] = {"true": True, "false": False}[value] if kind is bool else (
                kind(value) if kind in (int, float) else value)
        except (ValueError, KeyError) as error:
            raise UsageError("--cues", f"{value!r} is not a value of {name}", f"expected {_WORDS[kind]}") from error
    return _override(cues, changes, "--cues")


def read_spec(path: str, data_keys: Sequence[str]) -> FigureSpec:
    """The figure that a TOML file describes.

    Parameters
    ----------
    path
    data_keys
        Names of what says which dataset.

    Raises
    ------
    InputError
        It is missing or no TOML, a key is unknown, or a value impossible.
    """
    try:
        content = tomllib.loads(read_bytes(path, most=1 << 20).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(path, f"is not a TOML file: {error}", "see --write-spec for one") from error
    styles = [spec.name for spec in fields(FigureSettings)]
    own = ["figure", "ids", "pick", "by", "crop", "columns", "cues"]
    _check_keys(path, content, [*own[:1], *data_keys, *own[1:], *styles])
    texts = {name: _typed(path, name, content.get(name, ""), str) for name in ("figure", "pick", "by")}
    tables = content.get("columns", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise InputError(path, "columns are not tables", "write each as [[columns]]")
    cues = content.get("cues", {})
    _check_keys(path, _typed(path, "cues", cues, dict), [spec.name for spec in fields(CueSettings)], "cues.")
    try:
        return FigureSpec(
            **texts, data={name: _typed(path, name, content[name], str) for name in data_keys if name in content},
            columns=tuple(_column(path, table) for table in tables), ids=tuple(_texts(path, "ids", content)),
            crops=tuple(parse_crop(text) for text in _texts(path, "crop", content)),
            settings=_override(FigureSettings(), {name: content[name] for name in styles if name in content}, path),
            cues=_override(CueSettings(), cues, path))
    except UsageError as error:
        raise InputError(path if error.where == path else f"{path}: {error.where}", error.what, error.right) from error


def spec_text(spec: FigureSpec) -> str:
    """The TOML file of a figure; settings that are as they are by default are left out.

    Examples
    --------
    >>> print(spec_text(FigureSpec("fig.pdf", {"data": "VOC"}, (Column("image", "image"),), pick="even:4")), end="")
    figure = "fig.pdf"
    data = "VOC"
    pick = "even:4"
    <BLANKLINE>
    [[columns]]
    show = "image"
    title = "image"
    """
    values = {"figure": spec.figure, **spec.data, "ids": list(spec.ids), "pick": spec.pick, "by": spec.by,
              "crop": list(map(str, spec.crops)), **_changed(spec.settings, FigureSettings())}
    lines = [f"{name} = {_toml(value)}" for name, value in values.items() if value not in ("", [], None)]
    if cues := _changed(spec.cues, CueSettings()):
        lines += ["", "[cues]", *(f"{name} = {_toml(value)}" for name, value in cues.items())]
    for column in spec.columns:
        lines += ["", "[[columns]]"]
        table = {"show": column.show, "title": column.title, "paths": list(column.paths), "class": column.object_class}
        lines += [f"{name} = {_toml(value)}" for name, value in table.items() if value not in ("", [])]
    return "\n".join(lines) + "\n"


def _changed(settings: Any, default: Any) -> dict[str, Any]:
    return {name: value for name, value in asdict(settings).items() if value != getattr(default, name)}


def _toml(value: Any) -> str:
    """A value as TOML writes it: as JSON does, but for one control character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _column(path: str, table: Mapping[str, Any]) -> Column:
    _check_keys(path, table, list(_COLUMN_KEYS), "columns.")
    show, paths = table.get("show", ""), tuple(_texts(path, "paths", table))
    if show not in ("", *KINDS):
        raise InputError(path, f"columns.show is {show!r}", f"expected one of {', '.join(KINDS)}")
    if len(paths) != KINDS.get(show, 1):
        raise InputError(path, f"columns.paths has {len(paths)}", f"{show or 'a file'} takes {KINDS.get(show, 1)}")
    title, name = (_typed(path, f"columns.{key}", table.get(key, ""), str) for key in ("title", "class"))
    return Column(show, title or default_title(show, paths, name), paths, name)


def _check_keys(path: str, table: Mapping[str, Any], known: Sequence[str], before: str = "") -> None:
    for name in table:
        if name not in known:
            raise InputError(path, f"has an unknown key '{before}{name}'", f"there are {', '.join(known)}")


def _texts(path: str, name: str, table: Mapping[str, Any]) -> list[str]:
    value = table.get(name, [])
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise InputError(path, f"{name} is {value!r}", f"expected {_WORDS[list]}")
    return value


def _typed(path: str, name: str, value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise InputError(path, f"{name} is {value!r}", f"expected {_WORDS.get(kind, 'a table')}")
    return value


def _override(settings: _Settings, changes: Mapping[str, Any], where: str) -> _Settings:
    """The settings with changes, each checked for its type and limits."""
    checked = {}
    for name, value in changes.items():
        if not hasattr(settings, name):
            known = ", ".join(spec.name for spec in fields(settings))
            raise UsageError(where, f"there is no setting {name!r}", f"there are {known}")
        kind = type(getattr(settings, name))
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise UsageError(where, f"{name} is {value!r}", f"expected {_WORDS[kind]}")
        checked[name] = value
    return override(settings, checked)
