"""Command line: thin functions over the stages, streams and exit codes."""

from __future__ import annotations

import os
import signal
import sys

from drstool.errors import EXIT_INTERRUPTED, signal_behind


def main() -> None:
    """Entry point of ``drstool``."""
    try:
        _main()
    except BaseException as error:
        # While it begins, or while it tells of another end.
        code = signal_behind(error)
        if code is None or isinstance(error, SystemExit):
            raise
        if code == EXIT_INTERRUPTED:
            print("drstool: interrupted", file=sys.stderr)
        sys.exit(code)
    finally:
        # All is done and the exit code is decided.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)


def _main() -> None:
    from drstool.cli.app import app
    from drstool.cli.commands import register

    register(sys.argv[1] if len(sys.argv) > 1 else None)
    if sys.stderr is None:
        # Closed by the shell; printing would then go to stdout, among the data.
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    # Ids and class names may hold any Unicode, whatever the terminal's locale says.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(
                encoding="utf-8", errors="backslashreplace" if stream is sys.stderr else "surrogateescape"
            )
    app()
