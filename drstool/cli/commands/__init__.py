"""The commands, each registered when its module is imported."""

from importlib import import_module

from typer.models import CommandInfo

from drstool.cli.app import app

__all__ = ["register"]

# Modules and their commands, in the order of the work, which help follows.
_COMMANDS = {
    "train_cls": ("train-cls",),
    "refine_train": ("refine-train",),
    "train_seg": ("train-seg",),
    "maps": ("cam", "refine"),
    "labels": ("pseudo-label", "segment", "crf"),
    "judge": ("eval", "overlay"),
    "look": ("info", "check", "ids"),
    "pack": ("cat",),
    "make": ("demo", "saliency"),
    "foreign": ("import",),
}


# All that were registered in this process.
_known: dict[str | None, CommandInfo] = {}


def register(name: str | None = None) -> None:
    """Register the command of that name, which is sooner done than all; all, where there is none such.

    Parameters
    ----------
    name
        Perhaps a command's; what else the user typed first, such as an option, serves as well.
    """
    wanted = [module for module, names in _COMMANDS.items() if name in names]
    for module in wanted or _COMMANDS:
        import_module(f"drstool.cli.commands.{module}")
    _known.update((each.name, each) for each in app.registered_commands)
    # The other commands of its module cost some milliseconds each.
    order = [name] if wanted else [each for names in _COMMANDS.values() for each in names]
    app.registered_commands[:] = [_known[each] for each in order]
