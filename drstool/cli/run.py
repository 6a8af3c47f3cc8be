"""One run of a command: what the common options mean for devices, outputs, failures and history."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Optional

import typer

from drstool.artifacts.shard import ShardChoice
from drstool.cli.console import Console, duration
from drstool.cli.shards import is_first, is_one_of_several, pick_shard
from drstool.errors import DrstoolError, ItemsFailed, OutputError, ReportedByPeer, UsageError
from drstool.reports.text import counted

if TYPE_CHECKING:
    import torch

    from drstool.artifacts.job import Job
    from drstool.artifacts.resume import Journal, PartialFolder
    from drstool.recipe import CrfSettings
    from drstool.training.distributed import Team

__all__ = ["CommonOptions", "Run", "check_leftover", "plain", "plain_crf"]

# Beyond this many threads the disk or the interpreter is the limit.
_MOST_WORKERS = 16


@dataclass(frozen=True)
class CommonOptions:
    """The options that commands have in common; ``shard``, ``resume`` and ``keep_going`` only some."""

    panel: ClassVar[str] = "Running"
    device: Annotated[str, typer.Option(help="Device to run on: auto, cpu, cuda or cuda:N.")] = "auto"
    seed: Annotated[int, typer.Option(help="Random seed.", min=0, max=2**32 - 1)] = 0
    workers: Annotated[Optional[int], typer.Option(
        help="Number of images to read or write in parallel; by default, chosen to suit the machine.", min=0,
        max=1024)] = None
    shard: Annotated[Optional[str], typer.Option(
        metavar="I/N",
        help="Work on the I-th of N shards of the images; merge them with 'drstool cat'. By default all images, "
        "or under torchrun the rank's shard, whose output is then named like NAME.1-of-4.h5.")] = None
    overwrite: Annotated[bool, typer.Option(
        "--overwrite", rich_help_panel="Output", help="Replace an existing output.")] = False
    resume: Annotated[bool, typer.Option(
        "--resume",
        help="Resume an interrupted run of the same command; with --overwrite, also replace an output if its settings "
        "or inputs have changed.")] = False
    keep_going: Annotated[bool, typer.Option(
        "--keep-going", help="Skip images that fail; the exit code is then 4.")] = False
    no_provenance: Annotated[
        bool,
        typer.Option(
            "--no-provenance", rich_help_panel="Output",
            help="Record no history in the output, so that identical runs give identical bytes."),
    ] = False
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print no messages except errors.")] = False
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Also print the settings and the device.")] = False


class Run(Console):
    """The common options at work; ends with exit code 4 when images were left out.

    Parameters
    ----------
    command, arguments
        Name of the command, and the whole command line.
    options
    joint
        Whether several processes, under ``torchrun``, do one job: the first writes and speaks.
    shards
        Whether they work on a shard each.
    inputs
        Paths of what the command reads.
    """

    def __init__(
        self, command: str, arguments: Sequence[str], options: CommonOptions, *, joint: bool = False,
        shards: bool = False, inputs: Sequence[str] = (),
    ) -> None:
        self._joint = joint and is_one_of_several()
        self._team: Team | None = None
        # Whether this process leaves files and messages to another one.
        self.follows = self._joint and not is_first()
        super().__init__(command, options.quiet or self.follows, options.verbose)
        self.seed, self.overwrite, self.resume = options.seed, options.overwrite, options.resume
        self._options, self._arguments = options, arguments
        self._device: torch.device | None = None
        self._inputs, self._failures, self._claims = inputs, 0, ExitStack()
        self._unfinished: Journal | PartialFolder | None = None
        self._noun = "image"
        self.shard = pick_shard(options.shard) if shards else ShardChoice()
        if self._joint:
            # Where a process is lost, torch prints pages about its sockets; we print a line.
            os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        unfinished = self._unfinished
        if unfinished is not None and unfinished.finished and isinstance(error, (KeyboardInterrupt, SystemExit)):
            finished = counted(len(unfinished.finished), self._noun)
            self.say(f"{self.command}: {finished} finished; continue with --resume")
        self._claims.close()
        if self._joint:
            self._end_together(error)
        if error is None and self._failures:
            verb = "was" if self._failures == 1 else "were"
            raise ItemsFailed(
                self.command, f"{counted(self._failures, 'image')} failed and {verb} skipped", "see the messages above")

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

            shard = pick_shard(None) if self._joint else ShardChoice()
            self._team = Team(shard.number - 1, shard.of, _count("LOCAL_RANK", 0), _count("LOCAL_WORLD_SIZE", 1))
        return self._team

    @property
    def device(self) -> torch.device:
        """Where networks run; looked up, and torch loaded, on first use."""
        if self._device is None:
            from drstool.training.device import pick_device

            device = pick_device(self._options.device)
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
        if self._options.workers is not None:
            return max(1, self._options.workers)
        available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return min(_MOST_WORKERS, available)

    @property
    def loader_processes(self) -> int:
        """Processes that prepare training samples; on the CPU none, as the network needs its cores."""
        if self._options.workers is not None:
            return self._options.workers
        return min(self.threads, 8) if self.device.type == "cuda" else 0

    @property
    def memory(self) -> int:
        """Peak memory so far, in bytes: of the GPU where networks run on one, else of this process."""
        if self._device is not None and self._device.type == "cuda":
            import torch

            return torch.cuda.max_memory_allocated(self._device)
        return super().memory

    def precision(self, name: str) -> str:
        """The precision that ``--precision`` names, on this device."""
        from drstool.training.device import bfloat16_gain, pick_precision

        precision = pick_precision(name, self.device)
        if name == "auto" and self.device.type == "cpu":
            self.detail(f"precision {precision}: bfloat16 is {bfloat16_gain():.1f} times as fast as float32 here")
        return precision

    def map_precision(self, name: str) -> str:
        """The precision that ``--precision`` names for networks that are not trained, on this device."""
        if name == "auto":
            return "float16" if self.device.type == "cuda" else "float32"
        if name == "float16":
            if self.device.type != "cuda":
                raise UsageError("--precision", "float16 needs a GPU", "use float32")
            return name
        return self.precision(name)

    # --- outputs -------------------------------------------------------------------------------

    def reserve(self, output: str | Path, *, folder: bool = False, dataset: bool = False) -> None:
        """Check that a file or folder may be written, and lock it until this run ends.

        Does nothing where another process writes it.
        """
        if self.follows:
            return
        from drstool.artifacts.atomic import check_writable, clear_away
        from drstool.artifacts.locks import claimed

        self._check_no_input(output)
        # What exists already may be what --resume finds finished.
        how = {"folder": folder, "dataset": dataset, "may_exist": self.resume}
        check_writable(output, self.overwrite, **how)
        self._claims.enter_context(claimed(output))
        clear_away(output)
        # Once more: another command may have finished it just before.
        check_writable(output, self.overwrite, **how)

    def claim(self, output: str | None, what: str) -> str | None:
        """The name of this shard's output, checked and locked; it may also be a pipe.

        Parameters
        ----------
        output
            As the user named it; None: stdout.
        what
            ``maps``, ``labels`` or ``figures``.

        Raises
        ------
        UsageError
            ``--resume`` of a pipe.
        """
        from drstool.formats import check_sink, goes_to_disk

        output = self.shard.output(output)
        on_disk = goes_to_disk(output)
        if self.resume and not on_disk:
            raise UsageError(
                "--resume", f"{output or 'stdout'} is not a file that can be resumed", "give -o FILE, or omit --resume")
        if on_disk:
            self.reserve(str(output), folder=what != "maps" and not str(output).endswith(".tar"))
        else:
            check_sink(output, self.overwrite, what=what)
        return output

    def _check_no_input(self, output: str | os.PathLike) -> None:
        """Check that an output is not one of the files and folders that the command reads."""
        for path in self._inputs:
            if os.path.exists(path) and os.path.exists(output) and os.path.samefile(path, output):
                raise OutputError(output, "is also an input of this command", "choose another name for the output")

    def is_same(self, output: str | None, difference: str | None) -> bool:
        """Whether an existing output was made by this very job; ``difference`` says how the jobs differ, and is told.

        Raises
        ------
        OutputError
            It was made by a different one, and must not be overwritten.
        """
        if difference is None:
            return True
        if not self.overwrite:
            raise OutputError(output, f"already exists, and {difference}", "choose another name, or use --overwrite")
        self.say(f"{self.command}: {output} exists, but {difference}; making it again")
        return False

    def discards(self, error: DrstoolError) -> None:
        """Say that unfinished work cannot be resumed and is discarded, as --overwrite allows.

        Raises
        ------
        DrstoolError
            It does not.
        """
        if not self.overwrite:
            raise error
        self.say(f"{self.command}: {error.where}: {error.what}; discarding it")

    def keep(self, unfinished: Journal | PartialFolder, noun: str) -> None:
        """Keep what is finished of an output, ``noun`` by ``noun``, when this run ends early."""
        self._unfinished, self._noun = unfinished, noun
        self._claims.callback(lambda: unfinished.close() if unfinished.finished else unfinished.remove())

    @property
    def has_failures(self) -> bool:
        """Whether images have failed so far."""
        return self._failures > 0

    @property
    def on_error(self) -> Any:
        """What to do with an image that fails: None (the error is raised), or report it and go on."""
        return self._report if self._options.keep_going else None

    def _report(self, error: DrstoolError) -> None:
        self._failures += 1
        self.report_failure(error)

    # --- history -------------------------------------------------------------------------------

    def job(
        self, classes: Sequence[str] = (), *, settings: Mapping[str, object] | None = None,
        inputs: Mapping[str, str] | None = None, used: Mapping[str, object] | None = None, device: bool = False,
        seed: bool = False, shard: object = None,
    ) -> Job:
        """What this run does; see :class:`drstool.artifacts.job.Job`.

        Parameters
        ----------
        classes, settings, inputs, used, shard
            As there.
        device, seed
            Whether the result depends on them.
        """
        from drstool.artifacts.job import Job

        return Job(
            self.command, tuple(classes), dict(settings or {}), dict(inputs or {}), dict(used or {}),
            str(self.device) if device else None, self.seed if seed else None, None if shard is None else str(shard))

    def history(self, job: Job, *upstream: Iterable[dict], runs: Sequence[Mapping[str, object]] = ()) -> tuple:
        """The chains of what went in, and this run's own step; empty with ``--no-provenance``.

        Parameters
        ----------
        job
        upstream
            Chains of the inputs.
        runs
            When an interrupted job was resumed.
        """
        if self._options.no_provenance:
            return ()
        from drstool.artifacts.provenance import merge

        return merge(*upstream, [job.entry(["drstool", *self._arguments[1:]], runs)])

    def digest(self, path: str) -> str:
        """Digest of a file that is read."""
        from drstool.files import content_digest

        return content_digest(path)


def _count(variable: str, default: int) -> int:
    text = os.environ.get(variable, "")
    return int(text) if text.isdecimal() else default


def check_leftover(run: Run, output: str, what: str, seconds: float) -> None:
    """Discard what an interrupted run left only if it is little, or with --overwrite; and say so.

    Raises
    ------
    OutputError
        It took long to make.
    """
    from drstool.artifacts import job

    if not what:
        return
    if seconds >= job.WORTH_KEEPING and not run.overwrite:
        raise OutputError(
            output, f"an interrupted run finished {what} ({duration(seconds)} of work)",
            "continue it with --resume, or discard it with --overwrite")
    run.say(f"{run.command}: starting from scratch, discarding {what} of an interrupted run (see --resume)")


def plain(settings: Any) -> dict[str, Any]:
    """A dataclass of settings as plain JSON values."""
    values = settings if isinstance(settings, dict) else asdict(settings)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def plain_crf(crf: CrfSettings | None) -> dict[str, Any]:
    """The CRF among a job's settings; empty without one."""
    return {} if crf is None else {"crf": plain(crf)}
