"""The door: one group of commands, and the only place that decides exit codes."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from difflib import get_close_matches
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from drstool.cli.failures import failure_line
from drstool.cli.help import GroupedHelp
from drstool.cli.shards import is_first
from drstool.errors import EXIT_INTERRUPTED, EXIT_TERMINATED, DrstoolError, ReportedByPeer, signal_behind
from drstool.reports.text import printable

__all__ = ["app"]

# Base of everything that the command line parser itself complains about.
_ParserError = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

# Until then what swallowed a signal is over.
_AGAIN_SECONDS = 0.05

# Signals to end that came in.
_signals_received: list[int] = []

EXIT_FAILED, EXIT_CLOSED_PIPE = 1, 141

# How much of a mistyped command must agree with one there is: 'trian' is no closer to 'train-cls'.
_SIMILAR = 0.55


class _Group(GroupedHelp, TyperGroup):
    """Commands in the order of the work; every failure one line on stderr and an exit code."""

    # Gives the names of the commands that have an option; set by drstool.cli.commands, which knows all of them.
    commands_with: Callable[[str], list[str]] = staticmethod(lambda flag: [])

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] not in self.commands:
            near = get_close_matches(args[0], self.commands, cutoff=_SIMILAR)
            ctx.fail(f"No such command {args[0]!r}" + (f"; did you mean {' or '.join(near)}?" if near else ""))
        return super().resolve_command(ctx, args)

    def main(self, args: Sequence[str] | None = None, **_: Any) -> NoReturn:  # type: ignore[override]
        try:
            _terminate_cleanly()
            with _signals_named(), _swallowed_signals_come_again():
                code = self._run(sys.argv[1:] if args is None else args)
                if sys.stdout is not None:
                    sys.stdout.flush()
        except ReportedByPeer as error:
            _leave(error.exit_code)
        except DrstoolError as error:
            _leave(error.exit_code, str(error))
        except _ParserError as error:  # type: ignore[misc]
            if not is_first():
                # All processes of torchrun have the same command line.
                _leave(error.exit_code)
            if type(error).__name__ == "NoArgsIsHelpError":
                # 'drstool' alone: its help, as it is.
                print(error.format_message(), file=sys.stderr)
                sys.exit(error.exit_code)
            _leave(error.exit_code, _parser_line(error, self.commands_with))
        except (KeyboardInterrupt, typer.Abort):
            _leave(EXIT_INTERRUPTED, "interrupted" if is_first() else "")
        except BrokenPipeError:
            _leave(EXIT_CLOSED_PIPE)
        except Exception as error:
            if _signals_received:
                # A data loader may notice that its workers got the signal too before we do.
                _leave(EXIT_TERMINATED)
            line = failure_line(error)
            if line is None:
                raise
            _leave(EXIT_FAILED, line)
        sys.exit(code)

    def _run(self, args: Sequence[str]) -> int:
        # Not typer's own main: that takes interrupts and closed pipes for something else.
        if "_DRSTOOL_COMPLETE" in os.environ:
            # Asked by a shell; see --install-completion.
            self._main_shell_completion({}, "drstool")
        try:
            # Alone it prints its help as an error.
            with nullcontext() if args else redirect_stdout(sys.stderr):
                context = self.make_context("drstool", list(args))
            with context:
                self.invoke(context)
        except typer.Exit as end:
            return end.exit_code
        return 0


def _leave(code: int, line: str = "") -> NoReturn:
    if line:
        print("drstool: " + printable(" ".join(line.split())), file=sys.stderr)
    _leave_team(code)
    sys.exit(code)


def _leave_team(code: int) -> None:
    """End at once where other processes train with this one: what is under way between them may never end."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        with contextlib.suppress(OSError, DrstoolError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


@contextmanager
def _signals_named() -> Iterator[None]:
    """Take an error that came of a signal for the signal, whatever was made of it on the way."""
    try:
        yield
    except Exception as error:
        stopped = signal_behind(error)
        if stopped == EXIT_INTERRUPTED:
            raise KeyboardInterrupt from None
        if stopped is not None:
            raise SystemExit(stopped) from None
        raise


@contextmanager
def _swallowed_signals_come_again() -> Iterator[None]:
    """Send a signal once more where it came in the middle of something that lets no exception out.

    Such as what Python does as it forgets an object: what is raised there is shown, and lost.
    """
    before = sys.unraisablehook

    def hook(lost: Any) -> None:
        numbers = {KeyboardInterrupt: signal.SIGINT, SystemExit: signal.SIGTERM}
        if lost.exc_type not in numbers:
            before(lost)
            return
        again = threading.Timer(_AGAIN_SECONDS, os.kill, (os.getpid(), numbers[lost.exc_type]))
        again.daemon = True
        again.start()

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


def _parser_line(error: Any, commands_with: Callable[[str], list[str]]) -> str:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "drstool"
    where = f"{command.removeprefix('drstool ')}: " if command != "drstool" else ""
    message = error.format_message().rstrip(".")
    flag = getattr(error, "option_name", "") if type(error).__name__ == "NoSuchOption" else ""
    if flag and (names := commands_with(flag)):
        message = f"No such option: {flag} (an option of {', '.join(names)})"
    return f"{where}{message}{' See' if message.endswith('?') else '; see'} '{command} --help'"


def _terminate_cleanly() -> None:
    """Let SIGTERM unwind the stack, so that temporary files go."""

    def stop(number: int, frame: object) -> NoReturn:
        _signals_received.append(number)
        raise SystemExit(EXIT_TERMINATED)

    _signals_received.clear()
    # ValueError: not in the main thread, so process and handler belong to another program.
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGTERM, stop)


app = typer.Typer(
    name="drstool",
    cls=_Group,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Weakly-supervised semantic segmentation by Discriminative Region Suppression: "
    "from images and image-level tags to pixel-level segmentation, step by step.",
)


def _version(wanted: bool) -> None:
    if wanted:
        from drstool import __version__

        print(f"drstool {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    pass
