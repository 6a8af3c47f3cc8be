"""What a command says: messages and progress on stderr, its result on stdout."""

from __future__ import annotations

import locale
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from drstool.errors import DrstoolError, OutputError
from drstool.reports.text import printable

if TYPE_CHECKING:
    from drstool.reports.blocks import Drawing

__all__ = ["Console", "duration", "gigabytes"]


class Console:
    """Messages, progress and results of one command.

    Parameters
    ----------
    command
        Its name.
    quiet, verbose
        As the options of the same names.
    """

    def __init__(self, command: str, quiet: bool = False, verbose: bool = False) -> None:
        self.command, self._quiet, self.verbose = command, quiet, verbose and not quiet
        self._started = time.monotonic()
        # Of a training: the loss of the last steps, once it is known.
        self.loss: float | None = None
        self._noted: set[str] = set()

    def say(self, message: str) -> None:
        """Print a line for the user on stderr."""
        if not self._quiet:
            print(printable(message), file=sys.stderr, flush=True)

    def detail(self, message: str) -> None:
        """Print a line on stderr with ``--verbose``."""
        if self.verbose:
            self.say(f"{self.command}: {message}")

    def notes(self, lines: Iterable[str]) -> None:
        """Print lines about the data or the result on stderr, each once: a dataset may be opened twice."""
        for line in lines:
            if line not in self._noted:
                self._noted.add(line)
                self.say(f"{self.command}: {line}")

    def done(self, what: str) -> None:
        """Print the last line: what was made, and how long it took."""
        self.say(f"{self.command}: {what} in {duration(self.elapsed)}")

    @property
    def elapsed(self) -> float:
        """Seconds since the command began."""
        return time.monotonic() - self._started

    def report_failure(self, error: DrstoolError) -> None:
        """Print the error of one image, even with ``--quiet``."""
        print(printable(f"drstool: {error}"), file=sys.stderr, flush=True)

    def write(self, text: str, *, exact: bool = False) -> None:
        """Write text that is the command's result to stdout.

        Parameters
        ----------
        text
            Lines, in which what a terminal would obey is escaped as JSON escapes it.
        exact
            Leave that as it is where stdout is not a terminal, as CSV has no escapes.
        """
        if sys.stdout is None:
            raise OutputError("stdout", "is closed", "redirect it, or give it a terminal")
        if not exact or sys.stdout.isatty():
            text = "\n".join(map(printable, text.split("\n")))
        try:
            sys.stdout.write(text)
        except UnicodeEncodeError:
            # A terminal of few characters.
            sys.stdout.write(text.encode(sys.stdout.encoding, "backslashreplace").decode(sys.stdout.encoding))

    def answer(self, text: str) -> None:
        """As :meth:`write`, for what the exit code already summarises: not written with ``--quiet``."""
        if not self._quiet:
            self.write(text)

    @property
    def shows_blocks(self) -> bool:
        """Whether stdout is a terminal that has characters of blocks, as far as the locale says."""
        return sys.stdout is not None and sys.stdout.isatty() and locale.getencoding().upper().startswith("UTF")

    def draw(self, pictures: Iterable[Drawing]) -> None:
        """Draw pictures on stdout: in half blocks where it is a terminal with colours, else in letters."""
        from rich.console import Console as RichConsole

        console = RichConsole(file=sys.stdout, highlight=False, soft_wrap=True)
        in_color = self.shows_blocks and console.color_system is not None and not console.no_color
        for picture in pictures:
            if in_color:
                console.print(_in_blocks(picture))
            else:
                names = [f"{letter} {name}" for name, _, letter in picture.legend]
                self.write("".join(printable(line) + "\n" for line in (picture.title, *picture.letters, *names)))

    # --- progress ------------------------------------------------------------------------------

    @property
    def memory(self) -> int:
        """Peak memory of this process so far, in bytes; 0 where the system does not say."""
        try:
            import resource
        except ImportError:
            return 0

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        # Linux counts in kilobytes.
        return peak if sys.platform == "darwin" else peak * 1024

    @property
    def shows_progress(self) -> bool:
        """Whether somebody can see progress: stderr is a terminal, and ``--quiet`` is not given."""
        return not self._quiet and sys.stderr.isatty()

    def track(self, items: Iterable, description: str, total: int | None = None, images: int = 1) -> Iterator:
        """The items, with a progress bar where stderr is a terminal.

        Parameters
        ----------
        items, description, total
            See :data:`drstool.parallel.Track`.
        images
            In each item.
        """
        if not self.shows_progress:
            yield from items
            return
        from rich.progress import Progress

        text = printable(description if description == self.command else f"{self.command}: {description}")
        with Progress(*self._columns(images), console=_stderr(), transient=True) as progress:
            task = progress.add_task(text, total=total)
            for item in items:
                yield item
                progress.advance(task)

    def _columns(self, images: int) -> tuple:
        from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn, TimeRemainingColumn
        from rich.text import Text

        class State(ProgressColumn):
            def render(column, task: Any) -> Text:  # noqa: N805
                parts = [f"{task.speed * images:.1f} images/s"] if task.speed else []
                parts += [f"loss {self.loss:.3f}"] if self.loss is not None else []
                return Text("  ".join([*parts, gigabytes(self.memory)]), style="progress.data.speed", no_wrap=True)

        # The bar gets what the numbers leave.
        bar = BarColumn(bar_width=max(4, min(40, _stderr().width - 76)))
        return (
            TextColumn("{task.description}", markup=False), bar, MofNCompleteColumn(), TimeRemainingColumn(),
            TextColumn("left"), State())


def _in_blocks(picture: Drawing) -> Any:
    """A picture as text for rich, which knows how many colours the terminal has."""
    from rich.color import Color
    from rich.style import Style
    from rich.text import Text

    def color(rgb: Iterable[int]) -> Color:
        return Color.from_rgb(*rgb)

    text = Text(printable(picture.title) + "\n")
    for upper, lower in zip(picture.colors[::2].tolist(), picture.colors[1::2].tolist()):
        for above, below in zip(upper, lower):
            text.append("▀", Style(color=color(above), bgcolor=color(below)))
        text.append("\n")
    for name, rgb, _ in picture.legend:
        text.append("██ ", Style(color=color(rgb)))
        text.append(printable(name) + "\n")
    text.rstrip()
    return text


def _stderr() -> Any:
    from rich.console import Console as RichConsole

    # Long messages are the terminal's to wrap.
    return RichConsole(stderr=True, soft_wrap=True)


def gigabytes(count: int) -> str:
    """A number of bytes, as a user reads it."""
    return f"{count / 1e9:.1f} GB"


def duration(seconds: float) -> str:
    """A number of seconds, as a user reads it.

    Examples
    --------
    >>> duration(4.21), duration(125)
    ('4.2 s', '2 min 5 s')
    """
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes)} min {rest:.0f} s" if minutes else f"{rest:.1f} s"
