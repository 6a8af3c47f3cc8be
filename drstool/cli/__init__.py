"""Command line: thin functions over the stages, streams and exit codes."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress

from drstool.cli.failures import failure_line
from drstool.cli.streams import install
from drstool.errors import EXIT_INTERRUPTED, DrstoolError, signal_behind


def main() -> None:
    """Entry point of ``drstool``."""
    # Images are worked on in threads of our own. Where the system lets OpenBLAS start none, it prints lines of its own.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        install()
        _main()
    except BaseException as error:
        # While it begins, or while it tells of another end.
        code, line = signal_behind(error), failure_line(error)
        if code is None and line is None or isinstance(error, SystemExit):
            raise
        if code in (None, EXIT_INTERRUPTED):
            print(f"drstool: {'interrupted' if code else line}", file=sys.stderr)
        sys.exit(code or 1)
    finally:
        # What an earlier failure left in its buffer; Python's own attempt at exit would change the exit code.
        with suppress(OSError, DrstoolError):
            if sys.stdout is not None:
                sys.stdout.flush()
        # All is done and the exit code is decided. Nobody needs to know what libraries fail to tidy up.
        sys.unraisablehook = lambda _: None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)


def _main() -> None:
    from drstool.cli.app import app
    from drstool.cli.commands import register

    register(sys.argv[1] if len(sys.argv) > 1 else None)
    app()
