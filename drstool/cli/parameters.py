"""Parameters of a command line: how one is declared, and checks of what was given."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from drstool.errors import UsageError

__all__ = ["check_choice", "check_split", "number_list", "option"]


def option(name: str, kind: Any, default: Any, *flags: str, **more: Any) -> inspect.Parameter:
    """A parameter that typer makes an option of."""
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, typer.Option(*flags, **more)]
    )


def check_choice(option: str, value: str, choices: Sequence[str]) -> None:
    """Check an option of a few words.

    Raises
    ------
    UsageError
        The value is none of them.
    """
    if value not in choices:
        raise UsageError(option, f"{value!r} is no choice", "one of " + ", ".join(choices))


def check_split(split: str | None, data: str | None) -> None:
    """Check that a split is one of something.

    Raises
    ------
    UsageError
        There is a --split without --data.
    """
    if split is not None and data is None:
        raise UsageError("--split", "is a part of --data, which is not given", "give --data, or leave it out")


def number_list(option: str, text: str, kind: type, like: str = "") -> tuple:
    """Positive numbers from a list with commas.

    Raises
    ------
    UsageError
        The text is no such list.
    """
    try:
        found = tuple(kind(part) for part in text.split(",") if part.strip())
    except ValueError:
        found = ()
    if not found or not all(0 < number < math.inf for number in found):
        example = like or ("256,320,384" if kind is int else "2,1")
        raise UsageError(option, f"{text!r} is no list of positive numbers", f"like {example}")
    return found
