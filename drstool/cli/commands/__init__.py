"""The commands, one module each; registered when their module is imported."""

from importlib import import_module

from typer.main import get_command
from typer.models import CommandInfo

from drstool.cli.app import app

__all__ = ["register"]

# In the order of the work, which help follows; and what can be done besides.
_CHAIN = (
    "train-cls", "cam", "refine-train", "refine", "pseudo-label", "train-seg", "segment", "eval", "overlay")
_COMMANDS = (*_CHAIN, "demo", "ids", "saliency", "crf", "cat", "info", "check", "import", "export")

# All that were registered in this process.
_known: dict[str | None, CommandInfo] = {}


def register(name: str | None = None) -> None:
    """Register the command of that name, which starts sooner than all; or all, where there is no such command.

    Parameters
    ----------
    name
        What the user typed first: a command, or for example an option.
    """
    order = [name] if name in _COMMANDS else list(_COMMANDS)
    for each in order:
        import_module(f"drstool.cli.commands.{_module(each)}")
    _known.update((each.name, each) for each in app.registered_commands)
    for each in order:
        _known[each].rich_help_panel = "Commands" if each in _CHAIN else "More commands"
    app.registered_commands[:] = [_known[each] for each in order]


def _with_option(flag: str) -> list[str]:
    """Names of the commands that have an option."""
    register()
    commands = get_command(app).commands  # type: ignore[attr-defined]
    return [name for name, each in commands.items() if any(flag in (*p.opts, *p.secondary_opts) for p in each.params)]


app.info.cls.commands_with = staticmethod(_with_option)  # type: ignore[union-attr]


def _module(command: str) -> str:
    # 'import' is a word of Python's own.
    return "import_" if command == "import" else command.replace("-", "_")
