"""The commands, one module each; registered when their module is imported."""

from importlib import import_module

from typer.models import CommandInfo

from drstool.cli.app import app

__all__ = ["register"]

# In the order of the work, which help follows.
_COMMANDS = (
    "train-cls", "refine-train", "train-seg", "cam", "refine", "pseudo-label", "segment", "crf", "eval", "overlay",
    "info", "check", "ids", "cat", "demo", "saliency", "import",
)

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
    app.registered_commands[:] = [_known[each] for each in order]


def _module(command: str) -> str:
    # 'import' is a word of Python's own.
    return "import_" if command == "import" else command.replace("-", "_")
