"""Options made of the fields of settings, such as a recipe's, and settings made of what the user gave."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, Field, fields, replace
from typing import Any, Optional

from drstool.cli.parameters import check_choice, number_list, option
from drstool.errors import UsageError
from drstool.recipe import CRF_PRESETS, RECIPES, CrfSettings, named_recipe, override

__all__ = ["automatic", "chosen", "chosen_crf", "crf_options", "given", "options", "told"]

_PREFIX = "number_"
_KINDS: dict[str, Any] = {"int": int, "float": float, "bool": bool, "str": str}


def options(settings: type) -> list[inspect.Parameter]:
    """An option for each field, and ``--recipe`` where there are named settings of that kind."""
    found = []
    if any(settings in recipe for recipe in RECIPES.values()):
        found += [option("recipe", str, "default", "--recipe", help="Named settings: " + ", ".join(RECIPES) + ".")]
    for spec in fields(settings):
        flag = "--" + spec.name.replace("_", "-")
        kind = _KINDS.get(str(spec.type), str)
        flags = (f"{flag}/--no-{spec.name.replace('_', '-')}",) if kind is bool else (flag,)
        choices = spec.metadata.get("choices") or spec.metadata.get("terms")
        more: dict[str, Any] = {"help": f"{spec.metadata['help']} {_defaults(settings, spec)}", "show_default": False}
        if choices and kind is str:
            more["metavar"] = "|".join(choices)
        elif str(spec.type).startswith("tuple"):
            more["metavar"] = "N,N,…"
        elif spec.metadata.get("auto"):
            more |= {"metavar": "N|auto", "parser": _count_or_auto}
        found.append(option(_PREFIX + spec.name, Optional[kind], None, *flags, **more))
    return found


def _count_or_auto(text: str) -> int:
    """A number of at least 1; 0 for ``auto``."""
    if text == "auto":
        return 0
    if not text.isdecimal() or int(text) < 1:
        # The command line's parser makes its one line of it.
        raise ValueError(f"{text!r} is neither a number above 0 nor auto")
    return int(text)


def _defaults(settings: type, spec: Field) -> str:
    assert spec.default is not MISSING
    if spec.metadata.get("auto") and not spec.default:
        return "[default: auto]"
    shown = {name: _shown(getattr(named_recipe(name, settings), spec.name)) for name in RECIPES}
    if shown["default"] == "":
        return ""
    if len(set(shown.values())) == 1:
        return f"[default: {shown['default']}]"
    return "[" + "; ".join(f"{name}: {value}" for name, value in shown.items()) + "]"


def _shown(value: Any) -> str:
    return (
        ",".join(map(str, value))
        if isinstance(value, tuple)
        else str(value).lower()
        if isinstance(value, bool)
        else str(value)
    )


def told(settings: Any) -> str:
    """Settings as a line for who wants to know."""
    return ", ".join(f"{name} {_shown(value)}" for name, value in vars(settings).items() if value != ())


def given(kind: type, values: dict[str, Any]) -> frozenset[str]:
    """Names of the fields that the user has set."""
    return frozenset(spec.name for spec in fields(kind) if values[_PREFIX + spec.name] is not None)


def automatic(kind: type, values: dict[str, Any]) -> frozenset[str]:
    """Names of the fields that the user left to the machine, which are then at first the recipe's."""
    names = [spec.name for spec in fields(kind) if spec.metadata.get("auto") and values[_PREFIX + spec.name] == 0]
    values.update({_PREFIX + name: None for name in names})
    return frozenset(names)


def chosen(kind: type, values: dict[str, Any]) -> Any:
    """The dataclass from the recipe's name and the options given; takes them out of ``values``."""
    base = named_recipe(values.pop("recipe", "default"), kind)
    changes = {}
    for spec in fields(kind):
        value = values.pop(_PREFIX + spec.name)
        if value is not None:
            changes[spec.name] = _numbers(spec, value) if str(spec.type).startswith("tuple") else value
    return override(base, changes)


_CRF_PREFIX = "crf_"
_CRF_FIELDS = [spec for spec in fields(CrfSettings) if "help" in spec.metadata]


def crf_options(default: str) -> list[inspect.Parameter]:
    """``--crf`` and an option for each number of the CRF."""
    names = [*CRF_PRESETS, "none"]
    what = "Dense CRF with the published settings of that project, which the --crf- options change."
    found = [option("crf", str, default, "--crf", metavar="|".join(names), help=what)]
    for spec in _CRF_FIELDS:
        values = {name: _shown(getattr(preset, spec.name)) for name, preset in CRF_PRESETS.items()}
        same = len(set(values.values())) == 1
        shown = f"default: {next(iter(values.values()))}" if same else "; ".join(f"{n}: {v}" for n, v in values.items())
        more: dict[str, Any] = {"help": f"{spec.metadata['help']} [{shown}]", "show_default": False}
        if choices := spec.metadata.get("choices"):
            more["metavar"] = "|".join(choices)
        flag = "--crf-" + spec.name.replace("_", "-")
        found.append(option(_CRF_PREFIX + spec.name, Optional[_KINDS[str(spec.type)]], None, flag, **more))
    return found


def chosen_crf(values: dict[str, Any], from_labels: bool) -> CrfSettings | None:
    """The CRF asked for; takes its options out of ``values``."""
    name = values.pop("crf")
    changes = {spec.name: values.pop(_CRF_PREFIX + spec.name) for spec in _CRF_FIELDS}
    changes = {field: value for field, value in changes.items() if value is not None}
    check_choice("--crf", name, [*CRF_PRESETS, "none"])
    if name == "none":
        if changes:
            flag = "--crf-" + next(iter(changes)).replace("_", "-")
            right = "give --crf " + " or ".join(CRF_PRESETS)
            raise UsageError(flag, "is a setting of the CRF, and there is none", right)
        return None
    preset = CRF_PRESETS[name] if from_labels else replace(CRF_PRESETS[name], unary="probabilities")
    return override(preset, changes, prefix="crf-")


def _numbers(spec: Field, text: str) -> tuple:
    if spec.name == "decay_epochs" and not text.strip():
        return ()
    kind = int if "int" in str(spec.type) else float
    return number_list("--" + spec.name.replace("_", "-"), text, kind, like=_shown(spec.default))
