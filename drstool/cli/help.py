"""Help texts in groups: plain text in pipes and files, panels on a terminal."""

from __future__ import annotations

import inspect
import os
import sys
from copy import copy
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

__all__ = ["Command", "GroupedHelp", "in_panel", "panel_rank"]

# Headings over the options of a command, in their order.
_PANELS = ("Data", "Method", "CRF", "Output", "Running")
# Longer lines are hard to read.
_MOST_COLUMNS = 100


def in_panel(parameter: inspect.Parameter, panel: str) -> inspect.Parameter:
    """A parameter whose option has a heading, unless it names one itself, and completes the words of its metavar."""
    kind, declared = parameter.annotation.__origin__, copy(parameter.annotation.__metadata__[0])
    if isinstance(declared, typer.models.OptionInfo):
        declared.rich_help_panel = declared.rich_help_panel or panel
        words = (declared.metavar or "").split("|")
        if len(words) > 1:
            # In capitals are those to be replaced.
            declared.autocompletion = lambda incomplete: [
                word for word in words if word.startswith(incomplete) and not word.isupper()]
    return parameter.replace(annotation=Annotated[kind, declared])


def panel_rank(parameter: inspect.Parameter) -> int:
    """Where a parameter that :func:`in_panel` gave stands; arguments come first."""
    panel = parameter.annotation.__metadata__[0].rich_help_panel
    return -1 if panel is None else _PANELS.index(panel)


class GroupedHelp:
    """What typer's classes for a command and a group lack; to be inherited from before them."""

    # Heading of --help itself.
    help_panel = "Options"

    def get_help_option(self, ctx: Any) -> Any:
        option = super().get_help_option(ctx)  # type: ignore[misc]
        option.rich_help_panel = self.help_panel
        return option

    def format_options(self, ctx: Any, formatter: Any) -> None:
        groups: dict[str, list] = {}
        for each in self.get_params(ctx):  # type: ignore[attr-defined]
            usual = "Arguments" if each.param_type_name == "argument" else "Options"
            if (record := each.get_help_record(ctx)) is not None:
                groups.setdefault(each.rich_help_panel or usual, []).append(record)
        if isinstance(self, TyperGroup):
            for name, command in self.commands.items():
                groups.setdefault(getattr(command, "rich_help_panel", ""), []).append((name, command.short_help))
        if sys.stdout is not None and sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
            formatter.write(_panels(groups))
            return
        for title, rows in groups.items():
            with formatter.section(title):
                formatter.write_dl(rows)


class Command(GroupedHelp, TyperCommand):
    """A command whose help is in groups."""

    help_panel = _PANELS[-1]


def _panels(groups: dict[str, list]) -> str:
    """Named groups of names and texts, framed, in the colours that the terminal has."""
    # Its import takes as long as that of all others together.
    from rich.console import Console
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    console = Console()
    width = min(console.width, _MOST_COLUMNS)
    with console.capture() as drawn:
        for title, rows in groups.items():
            table = Table.grid(padding=(0, 2, 0, 0))
            table.add_column(style="bold cyan", max_width=width // 3, overflow="fold")
            table.add_column()
            for name, text in rows:
                table.add_row(Text(name), Text(text))
            console.print(Panel(table, title=title, title_align="left", border_style="dim", width=width))
    return "\n" + drawn.get()
