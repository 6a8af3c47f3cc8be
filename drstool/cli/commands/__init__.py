"""The commands, in the order of the work; importing this registers them."""

from drstool.cli.commands import train, maps, labels, look, pack, make, foreign  # noqa: F401, I001
