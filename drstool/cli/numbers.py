"""Command-line options from the fields of settings dataclasses, and settings from parsed options."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, Field, fields, replace
from typing import Any, Optional

from drstool.cli.parameters import check_choice, number_list, option
from drstool.errors import UsageError
from drstool.recipe import CRF_PRESETS, RECIPE_USES, RECIPES, CrfSettings, named_recipe, override

__all__ = ["automatic", "chosen", "chosen_crf", "crf_options", "given", "options", "summary"]

_PREFIX = "number_"
_KINDS: dict[str, Any] = {"int": int, "float": float, "bool": bool, "str": str}


def options(settings: type) -> list[inspect.Parameter]:
    """An option for each field, preceded by ``--recipe`` for settings that recipes define."""
    found = []
    if any(settings in recipe for recipe in RECIPES.values()):
        text = "Named set of defaults: " + ", ".join(f"{name} ({use})" for name, use in RECIPE_USES.items()) + "."
        found.append(option("recipe", str, "default", "--recipe", help=text))
    named: dict[str, Any] = {name: named_recipe(name, settings) for name in RECIPES}
    return found + [_option(_PREFIX, "--", spec, named) for spec in fields(settings)]


def _option(prefix: str, dashes: str, spec: Field, named: dict[str, Any]) -> inspect.Parameter:
    """An option for a field, whose help ends with its defaults by name of the settings."""
    words, kind = spec.name.replace("_", "-"), _KINDS.get(str(spec.type), str)
    flags = (f"{dashes}{words}/--no-{words}",) if kind is bool else (f"{dashes}{words}",)
    more: dict[str, Any] = {"help": f"{spec.metadata['help']} {_defaults(spec, named)}", "show_default": False}
    if kind is str and (choices := spec.metadata.get("choices") or spec.metadata.get("terms")):
        more["metavar"] = "|".join(choices)
    elif str(spec.type).startswith("tuple"):
        more["metavar"] = "MIN,MAX" if spec.metadata.get("pair") else "N,N,…"
    elif spec.metadata.get("auto"):
        more |= {"metavar": "N|auto", "parser": _count_or_auto}
    return option(prefix + spec.name, Optional[kind], None, *flags, **more)


def _count_or_auto(text: str) -> int:
    """A number of at least 1, or 0 for ``auto``."""
    if text == "auto":
        return 0
    if not text.isdecimal() or int(text) < 1:
        # The command-line parser turns this into a usage error.
        raise ValueError(f"{text!r} is neither a positive number nor auto")
    return int(text)


def _defaults(spec: Field, named: dict[str, Any]) -> str:
    """The defaults of an option, by name where they differ."""
    assert spec.default is not MISSING
    if spec.metadata.get("auto") and not spec.default:
        return "[default: auto]"
    shown = {name: _shown(getattr(settings, spec.name)) for name, settings in named.items()}
    if shown.get("default") == "":
        return ""
    if len(set(shown.values())) == 1:
        return f"[default: {next(iter(shown.values()))}]"
    return "[" + "; ".join(f"{name}: {value}" for name, value in shown.items()) + "]"


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def summary(settings: Any) -> str:
    """All settings in one line, for ``--verbose``."""
    return ", ".join(f"{name} {_shown(value)}" for name, value in vars(settings).items() if value != ())


def given(kind: type, values: dict[str, Any]) -> frozenset[str]:
    """Names of the fields that were set on the command line."""
    return frozenset(spec.name for spec in fields(kind) if values[_PREFIX + spec.name] is not None)


def automatic(kind: type, values: dict[str, Any]) -> frozenset[str]:
    """Names of the fields set to ``auto``; they are reset, so that they start at the recipe's value."""
    names = [spec.name for spec in fields(kind) if spec.metadata.get("auto") and values[_PREFIX + spec.name] == 0]
    values.update({_PREFIX + name: None for name in names})
    return frozenset(names)


def chosen(kind: type, values: dict[str, Any]) -> Any:
    """Settings from the recipe's name and the options, which are taken out of ``values``."""
    base: Any = named_recipe(values.pop("recipe", "default"), kind)
    changes = {}
    for spec in fields(kind):
        value = values.pop(_PREFIX + spec.name)
        if value is not None:
            changes[spec.name] = _numbers(spec, value) if str(spec.type).startswith("tuple") else value
    if "epochs" in changes and hasattr(base, "min_steps"):
        # Who names the number of epochs means it.
        changes.setdefault("min_steps", 0)
    return override(base, changes)


_CRF_PREFIX = "crf_"
_CRF_FIELDS = [spec for spec in fields(CrfSettings) if "help" in spec.metadata]


def crf_options(default: str) -> list[inspect.Parameter]:
    """``--crf`` and an option for each parameter of the CRF."""
    names = [*CRF_PRESETS, "none"]
    text = "Dense CRF with the published settings of a project; the --crf-* options override single ones."
    found = [option("crf", str, default, "--crf", metavar="|".join(names), help=text)]
    return found + [_option(_CRF_PREFIX, "--crf-", spec, CRF_PRESETS) for spec in _CRF_FIELDS]


def chosen_crf(values: dict[str, Any], from_labels: bool) -> CrfSettings | None:
    """Settings of the CRF, None without one; takes its options out of ``values``."""
    name = values.pop("crf")
    changes = {spec.name: values.pop(_CRF_PREFIX + spec.name) for spec in _CRF_FIELDS}
    changes = {field: value for field, value in changes.items() if value is not None}
    check_choice("--crf", name, [*CRF_PRESETS, "none"])
    if name == "none":
        if changes:
            flag = "--crf-" + next(iter(changes)).replace("_", "-")
            raise UsageError(flag, "has no effect without a CRF", "add --crf " + " or ".join(CRF_PRESETS))
        return None
    preset = CRF_PRESETS[name] if from_labels else replace(CRF_PRESETS[name], unary="probabilities")
    return override(preset, changes, prefix="crf-")


def _numbers(spec: Field, text: str) -> tuple:
    if spec.name == "decay_epochs" and not text.strip():
        return ()
    if spec.metadata.get("pair"):
        return _ascending_pair("--" + spec.name.replace("_", "-"), text)
    kind = int if "int" in str(spec.type) else float
    return number_list("--" + spec.name.replace("_", "-"), text, kind, like=_shown(spec.default))


def _ascending_pair(option: str, text: str) -> tuple[int, int]:
    ends = [part.strip() for part in text.split(",")]
    if len(ends) != 2 or not all(end.isascii() and end.isdigit() and len(end) < 6 for end in ends) or (
            int(ends[0]) >= int(ends[1])):
        raise UsageError(option, f"{text!r} is not MIN,MAX with MIN below MAX", "expected something like 0,1")
    return int(ends[0]), int(ends[1])
