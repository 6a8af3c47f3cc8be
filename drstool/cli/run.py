"""One run of a command: what the common options mean, progress and messages, provenance."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from drstool.cli.shards import Shard, is_first, is_one_of_several, pick_shard
from drstool.errors import DrstoolError, ItemsFailed, OutputError, ReportedByPeer, UsageError

if TYPE_CHECKING:
    import torch

    from drstool.artifacts.job import Work
    from drstool.artifacts.parts import Part
    from drstool.artifacts.resume import Journal, KeptFolder
    from drstool.data import Dataset
    from drstool.training.distributed import Team

__all__ = ["Run", "asdict_plain", "check_left_over", "duration_text", "list_of", "size_text"]

# Beyond this many threads the disk or the interpreter is the limit.
_MOST_WORKERS = 16


class Run:
    """The common options at work; ends with exit code 4 when images were left out.

    Parameters
    ----------
    command, arguments
        Name of the command, and the whole command line.
    device, seed, workers, overwrite, resume, keep_going, no_provenance, quiet, verbose
        As the options of the same names.
    joint
        Whether several processes, under ``torchrun``, do one piece of work: the first writes and speaks.
    """

    def __init__(
        self,
        *,
        command: str,
        arguments: list[str],
        device: str,
        seed: int,
        workers: int | None,
        overwrite: bool,
        resume: bool,
        keep_going: bool,
        no_provenance: bool,
        quiet: bool,
        verbose: bool,
        joint: bool = False,
    ) -> None:
        self.command, self.seed, self.overwrite, self.resume = command, seed, overwrite, resume
        self.verbose = verbose and not quiet
        self._arguments, self._device_name, self._device = arguments, device, None
        self._workers, self._quiet, self._provenance = workers, quiet, not no_provenance
        self._keep_going, self._failures = keep_going, 0
        self._started = time.monotonic()
        self._claims = ExitStack()
        self._kept: Journal | KeptFolder | None = None
        # Of a training: the loss of the last steps, where it is known.
        self.loss: float | None = None
        self._joint = joint and is_one_of_several()
        self._team: Team | None = None
        # Whether this process leaves files and messages to another one.
        self.follows = self._joint and not is_first()
        if self._joint:
            # Where a process is lost, torch tells pages of its sockets; we tell a line.
            os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
        self._quiet = self._quiet or self.follows

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if self._kept is not None and self._kept.done and isinstance(error, (KeyboardInterrupt, SystemExit)):
            self.say(f"{self.command}: --resume goes on after {len(self._kept.done):,} finished")
        self._claims.close()
        if self._joint:
            self._end_together(error)
        if error is None and self._failures:
            raise ItemsFailed(self.command, f"{self._failures} failed and were left out", "see the lines above")

    def _end_together(self, error: BaseException | None) -> None:
        """End together with the processes of the same training."""
        if not self.team.started and (error is None or isinstance(error, DrstoolError)):
            # The others wait to begin.
            self.team.start(error=error or ReportedByPeer(0))
        if error is None or isinstance(error, (KeyboardInterrupt, SystemExit)):
            self.team.leave()

    # --- the machine ---------------------------------------------------------------------------

    @property
    def team(self) -> Team:
        """The processes of this training; torch is loaded on first use."""
        if self._team is None:
            from drstool.training.distributed import Team

            shard = pick_shard(None) if self._joint else Shard()
            self._team = Team(shard.number - 1, shard.of, _count("LOCAL_RANK", 0), _count("LOCAL_WORLD_SIZE", 1))
        return self._team

    @property
    def device(self) -> torch.device:
        """Where networks run; looked up, and torch loaded, on first use."""
        if self._device is None:
            from drstool.training.device import pick_device

            device = pick_device(self._device_name)
            # Under torchrun each process of a machine takes its own GPU, unless the user names one.
            rank = os.environ.get("LOCAL_RANK", "")
            if device.type == "cuda" and device.index is None and rank.isdecimal():
                import torch

                device = pick_device(f"cuda:{int(rank) % torch.cuda.device_count()}")
            self._device = device
            self.detail(f"device {self._device}, {self.threads} threads for images and files")
        return self._device

    @property
    def threads(self) -> int:
        """Threads that read, decode and write images."""
        if self._workers is not None:
            return max(1, self._workers)
        return min(
            _MOST_WORKERS, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        )

    @property
    def loader_processes(self) -> int:
        """Processes that prepare training samples; on the CPU none, as the network needs its cores."""
        if self._workers is not None:
            return self._workers
        return min(self.threads, 8) if self.device.type == "cuda" else 0

    def precision(self, name: str) -> str:
        """The precision that ``--precision`` names, on this device."""
        from drstool.training.device import pick_precision

        return pick_precision(name, self.device)

    def map_precision(self, name: str) -> str:
        """The precision that ``--precision`` names for networks that are not trained, on this device."""
        if name == "auto":
            return "float16" if self.device.type == "cuda" else "float32"
        if name == "float16":
            if self.device.type != "cuda":
                raise UsageError("--precision", "float16 is for GPUs", "float32")
            return name
        return self.precision(name)

    # --- outputs -------------------------------------------------------------------------------

    def reserve(self, output: str | os.PathLike, *, folder: bool = False, dataset: bool = False) -> None:
        """Check that an output may be written, and keep other commands from it until this one ends.

        Nothing where another process writes it.
        """
        if self.follows:
            return
        from drstool.artifacts.atomic import check_writable, clear_away
        from drstool.artifacts.locks import claimed

        # What is there already may be what --resume is to find finished.
        may_exist = self.overwrite or self.resume
        check_writable(output, may_exist, folder=folder, dataset=dataset)
        self._claims.enter_context(claimed(output))
        clear_away(output)
        # Once more: another command may have finished it just before.
        check_writable(output, may_exist, folder=folder, dataset=dataset)

    def reserve_sink(self, output: str | None, *, what: str) -> None:
        """As :meth:`reserve`, of what may also be a pipe.

        Raises
        ------
        UsageError
            ``--resume`` of a pipe.
        """
        from drstool.formats import check_sink, goes_to_disk

        on_disk = goes_to_disk(output)
        if self.resume and not on_disk:
            raise UsageError(
                "--resume", f"{output or 'stdout'} is no file to go on with", "give -o FILE, or leave --resume out")
        check_sink(output, self.overwrite or self.resume, what=what)
        if on_disk:
            self.reserve(output, folder=what != "maps" and not str(output).endswith(".tar"))

    def keep(self, kept: Journal | KeptFolder) -> None:
        """Keep what is finished of an output beyond this run's end, unless that is nothing."""
        self._kept = kept
        self._claims.callback(lambda: kept.close() if kept.done else kept.remove())

    # --- messages ------------------------------------------------------------------------------

    def say(self, message: str) -> None:
        """A line for the user, on stderr."""
        if not self._quiet:
            print(message, file=sys.stderr, flush=True)

    def detail(self, message: str) -> None:
        """A line for who wants to know more (``--verbose``), on stderr."""
        if self.verbose:
            self.say(f"{self.command}: {message}")

    def write(self, text: str) -> None:
        """Text that is the command's result, on stdout."""
        if sys.stdout is None:
            raise OutputError("stdout", "is closed", "redirect it, or give it a terminal")
        try:
            sys.stdout.write(text)
        except UnicodeEncodeError:
            # A file name that is no Unicode, or a terminal that knows few letters.
            sys.stdout.write(text.encode(sys.stdout.encoding, "backslashreplace").decode(sys.stdout.encoding))

    def answer(self, text: str) -> None:
        """As :meth:`write`, for what the exit code tells in short: not said with ``-q``."""
        if not self._quiet:
            self.write(text)

    def done(self, what: str) -> None:
        """The line at the end: what was made, and how long it took."""
        self.say(f"{self.command}: {what} in {duration_text(self.elapsed)}")

    @property
    def elapsed(self) -> float:
        """Seconds since the command began."""
        return time.monotonic() - self._started

    @property
    def on_error(self) -> Any:
        """What to do with an image that fails: nothing known (it is raised), or report it and go on."""
        return self._report if self._keep_going else None

    def _report(self, error: DrstoolError) -> None:
        self._failures += 1
        print(f"drstool: {error}", file=sys.stderr, flush=True)

    @property
    def memory(self) -> int:
        """Bytes used at the most so far: of the GPU where networks run on one, else of this machine."""
        if self._device is not None and self._device.type == "cuda":
            import torch

            return torch.cuda.max_memory_allocated(self._device)
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        # Linux counts in kilobytes.
        return most if sys.platform == "darwin" else most * 1024

    @property
    def shows_progress(self) -> bool:
        """Whether there is somebody to see progress: stderr is a terminal, and not to be quiet."""
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
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            ProgressColumn,
            TextColumn,
            TimeRemainingColumn,
        )
        from rich.text import Text

        class State(ProgressColumn):
            def render(column, task: Any) -> Text:  # noqa: N805
                told = [f"{task.speed * images:.1f} images/s"] if task.speed else []
                told += [f"loss {self.loss:.3f}"] if self.loss is not None else []
                return Text("  ".join([*told, size_text(self.memory)]), style="progress.data.speed", no_wrap=True)

        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            # What is left beside the numbers.
            BarColumn(bar_width=max(4, min(40, console.width - 76))),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("left"),
            State(),
        )
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task(
                f"{self.command}: {description}" if description != self.command else description, total=total
            )
            for item in items:
                yield item
                progress.advance(task)

    # --- provenance ----------------------------------------------------------------------------

    def provenance(
        self,
        *upstream: Iterable[dict],
        inputs: Mapping[str, str] | None = None,
        used: Mapping[str, object] | None = None,
        settings: Mapping[str, object] | None = None,
        device: bool = False,
        seed: bool = False,
        resumed: Sequence[Mapping[str, object]] = (),
    ) -> tuple[dict, ...]:
        """The chains of what went in, and this run's own entry; empty with ``--no-provenance``.

        Parameters
        ----------
        upstream
            Chains of the inputs.
        inputs
            Digests of the inputs by what they are.
        used
            Kinds of knowledge that went in: tags, saliency, pixel ground truth.
        settings
            The numbers of the method.
        device, seed
            Whether this command's result depends on them.
        resumed
            When the work was gone on with.
        """
        if not self._provenance:
            return ()
        from drstool.artifacts.provenance import entry, merge

        own = entry(
            command=["drstool", *self._arguments[1:]],
            device=str(self.device) if device else None,
            seed=self.seed if seed else None,
            inputs=inputs,
            used=used,
            settings=settings,
            resumed=resumed,
        )
        return merge(*upstream, [own])

    def work(
        self,
        classes: Sequence[str],
        *,
        inputs: Mapping[str, str] | None = None,
        used: Mapping[str, object] | None = None,
        settings: Mapping[str, object] | None = None,
        device: bool = False,
        seed: bool = False,
        part: object = None,
    ) -> Work:
        """What this run does, so that only the same is gone on with; arguments as of :meth:`provenance`.

        Parameters
        ----------
        part
            Which part of the images is worked on, if not all are.
        """
        from drstool.artifacts.job import Work

        return Work(
            self.command,
            tuple(classes),
            dict(settings or {}) | ({} if part is None else {"shard": str(part)}),
            dict(inputs or {}),
            dict(used or {}),
            self.device.type if device else None,
            self.seed if seed else None,
        )

    def marked(self, part: Part | None, classes: Sequence[str], **told: Any) -> Part | None:
        """A part that says also how it is made, so that only parts made alike become one; arguments as of work."""
        return None if part is None else replace(part, made=self.work(classes, **told).digest())

    def digests_of(self, **inputs: str | None) -> tuple[dict[str, str], bool]:
        """Digests of inputs that are large, by what they are, and whether one of them is a pipe.

        Parameters
        ----------
        inputs
            Files or folders; None or ``-`` is the standard input.
        """
        from drstool.artifacts.job import sampled_digest

        known = {name: path for name, path in inputs.items() if path not in (None, "-") and not _is_pipe(str(path))}
        return {name: sampled_digest(str(path)) for name, path in known.items()}, len(known) < len(inputs)

    def digest(self, path: str) -> str:
        """Digest of a file that goes in."""
        from drstool.artifacts.provenance import file_digest

        return file_digest(path)


def _count(variable: str, default: int) -> int:
    text = os.environ.get(variable, "")
    return int(text) if text.isdecimal() else default


def _is_pipe(path: str) -> bool:
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)


def check_left_over(run: Run, output: str, what: str, seconds: float) -> None:
    """Let what an interrupted run left go only if it is little, or --overwrite says so; and say it.

    Raises
    ------
    OutputError
        It took long to make.
    """
    from drstool.artifacts import job as work

    if not what:
        return
    if seconds >= work.WORTH_KEEPING and not run.overwrite:
        raise OutputError(
            output, f"an unfinished run left {what}, {duration_text(seconds)} of work",
            "--resume goes on with it, --overwrite begins anew")
    run.say(f"{run.command}: beginning anew, without {what} that an unfinished run left (see --resume)")


def size_text(count: int) -> str:
    """Bytes for people."""
    return f"{count / 1e9:.1f} GB"


def duration_text(seconds: float) -> str:
    """Seconds for people."""
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes)} min {rest:.0f} s" if minutes else f"{rest:.1f} s"


def list_of(dataset: Dataset | None) -> dict[str, str]:
    """The digest of a dataset's list as provenance tells it; nothing of no dataset."""
    return {} if dataset is None else {"list": f"sha256:{dataset.digest()}"}


def asdict_plain(recipe: Any) -> dict[str, Any]:
    """A recipe as plain JSON values."""
    values = recipe if isinstance(recipe, dict) else asdict(recipe)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
