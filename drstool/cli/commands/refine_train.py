"""Registered with the other trainings."""

import drstool.cli.commands.train  # noqa: F401
