"""Declaring command-line parameters, and checking their values."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from drstool.errors import UsageError

__all__ = ["check_choice", "number_list", "option"]


def option(name: str, kind: Any, default: Any, *flags: str, **more: Any) -> inspect.Parameter:
    """A function parameter that typer turns into an option."""
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, typer.Option(*flags, **more)]
    )


def check_choice(option: str, value: str, choices: Sequence[str]) -> None:
    """Check the value of an option that takes one of a few words.

    Raises
    ------
    UsageError
        The value is not one of them.
    """
    if value not in choices:
        raise UsageError(option, f"{value!r} is not one of {', '.join(choices)}")


def number_list(option: str, text: str, kind: type, like: str = "") -> tuple:
    """Parse a comma-separated list of positive numbers.

    Raises
    ------
    UsageError
        The text is not such a list.
    """
    try:
        found = tuple(kind(part) for part in text.split(",") if part.strip())
    except ValueError:
        found = ()
    if not found or not all(0 < number < math.inf for number in found):
        example = like or ("256,320,384" if kind is int else "2,1")
        raise UsageError(option, f"{text!r} is not a list of positive numbers", f"expected something like {example}")
    return found
