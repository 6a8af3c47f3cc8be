"""What the commands that train have in common: options, selection of the epoch, reports, and the training's run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from drstool.cli.console import duration, gigabytes
from drstool.cli.options import Init, Precision, Saliency
from drstool.cli.run import Run, check_leftover, plain
from drstool.errors import InputError, OutputError, ReportedByPeer, UsageError
from drstool.files import is_file
from drstool.training.reports import EpochReport, Observer, StepReport

if TYPE_CHECKING:
    from drstool.checkpoints.checkpoint import Checkpoint
    from drstool.checkpoints.training_log import TrainingLog
    from drstool.checkpoints.training_state import TrainingState
    from drstool.cli.datasets import TruthOptions
    from drstool.data import Dataset
    from drstool.training.state import Diverged

__all__ = [
    "ClassifierTrainingOptions", "MapTrainingOptions", "TrainingData", "TrainingOptions", "TrainingRun",
    "named_classes",
]

SelectOn = Annotated[Optional[str], typer.Option(
    "--select-on",
    help="Select the epoch by mIoU on the pixel ground truth of this split; by default the last epoch is the "
    "result.")]
Log = Annotated[Optional[str], typer.Option(
    "--log", rich_help_panel="Output",
    help="Write metrics to this file during training: one JSON object per line, every ten steps and "
    "every epoch.")]
ValSplit = Annotated[Optional[str], typer.Option(
    "--val-split",
    help="Report mAP on the tags of this split after each epoch; it changes nothing, and no masks are read.")]


@dataclass(frozen=True)
class TrainingOptions:
    """The options that all trainings have."""

    init: Init = "imagenet"
    precision: Precision = "auto"
    select_on: SelectOn = None
    log: Log = None
    # Not an option here: labels are scored without.
    saliency = None


@dataclass(frozen=True)
class MapTrainingOptions(TrainingOptions):
    """Those of networks that make maps."""

    saliency: Saliency = None  # type: ignore[assignment]


@dataclass(frozen=True)
class ClassifierTrainingOptions(MapTrainingOptions):
    """Those of classifiers."""

    val_split: ValSplit = None


def named_classes(dataset: Dataset) -> tuple[str, ...]:
    """The names of a dataset's object classes.

    Raises
    ------
    InputError
        It does not say them.
    """
    if dataset.class_names is None:
        raise InputError(
            dataset.source,
            "does not say the names of its object classes",
            "give --classes FILE with one name per line, or a classes.txt beside the images' folder",
        )
    return dataset.class_names


@dataclass(frozen=True)
class TrainingData:
    """What a network learns from.

    Attributes
    ----------
    source
        The data, as given.
    dataset
        Its images.
    class_names
    tags
        Where the tags come from, if they are learned from.
    digests
        Give the digests of what else is learned from, by what it is.
    upstream
        Its provenance.
    """

    source: TruthOptions
    dataset: Dataset
    class_names: tuple[str, ...]
    tags: str | None = None
    digests: Mapping[str, Callable[[], str]] = field(default_factory=dict)
    upstream: tuple[dict, ...] = ()


@dataclass(frozen=True)
class _Selection:
    """Whether and by what the epoch is selected."""

    run: Run
    data: TruthOptions
    split: str | None
    saliency: str | None

    def digests(self, class_names: tuple[str, ...]) -> dict[str, str]:
        """Digests of what the selection depends on."""
        if self.split is None:
            return {}
        from drstool.files import content_digest

        dataset = self._open(class_names)
        return {"select_list": f"sha256:{dataset.digest()}"} | (
            {"saliency": content_digest(self.saliency)} if self.saliency else {}
        ) | ({"select_masks": content_digest(self.data.masks)} if self.data.masks else {}) | (
            {"mask_values": self.data.mask_values} if self.data.mask_values else {})

    def score(self, checkpoint: Checkpoint) -> float:
        """The network's mIoU on the split's ground truth, of labels or of maps with a background cue."""
        from drstool.cues import saliency_folder
        from drstool.data import saliency_of_items
        from drstool.inference import Execution
        from drstool.recipe import CamSettings, CueSettings, RefineSettings, SegmentSettings
        from drstool.stages import cam, refine, segment
        from drstool.stages.eval import Scoring, evaluate

        dataset = self._open(checkpoint.class_names)
        saliency_of = saliency_folder(self.saliency) if self.saliency else saliency_of_items(dataset)
        cues = CueSettings(background="saliency" if saliency_of else "constant")
        execution = Execution(self.run.device, workers=self.run.threads)
        records: Iterable[Any]
        if checkpoint.kind == "classifier":
            records = cam.cam(dataset.items, checkpoint, CamSettings(), execution=execution)
        elif checkpoint.kind == "refiner":
            records = refine.refine(dataset.items, checkpoint, RefineSettings(), execution=execution)
        else:
            both = segment.segment(dataset.items, checkpoint, SegmentSettings(), execution=execution)
            records = (labels for labels, _ in both)
        scoring = Scoring(settings=cues, saliency_of=saliency_of, strict=True)
        result = evaluate(records, dataset, scoring=scoring)
        self.run.notes([*result.truth.warnings(), *scoring.notices()])
        return result.scores.mean_iou

    def _open(self, class_names: tuple[str, ...]) -> Dataset:
        return self.data.of_split("--select-on", str(self.split)).open(self.run, class_names=class_names)


# How the line of an epoch calls what was measured.
_METRICS = {"baseline": "baseline", "map": "mAP", "val_map": "val mAP", "mean_iou": "mIoU"}


class _Reporter(Observer):
    """Reports a training on the screen and in its log.

    Parameters
    ----------
    run
    log
    start
        Gives what the log says of the beginning.
    """

    def __init__(self, run: Run, log: TrainingLog, start: Callable[[], dict[str, Any]]) -> None:
        self._run, self._log, self._start = run, log, start
        self._last, self._step = time.monotonic(), 0
        # Of this epoch.
        self._images, self._seconds = 0, 0.0
        self._waiting: list[str] | None = []

    def notice(self, *messages: str) -> None:
        if self._waiting is not None:
            # What fails before the first step is told in one line.
            self._waiting += messages
            return
        for message in messages:
            self._run.say(f"{self._run.command}: {message}")

    def begins(self, step: int, steps: int, epochs: int) -> None:
        waiting, self._waiting = self._waiting or [], None
        self.notice(*waiting)
        self._last, self._step = time.monotonic(), step
        self._log.begin(self._start() | {"steps": steps}, step, epochs)

    def track(self, steps: Iterable[Any], total: int) -> Iterator[Any]:
        start = self._start()
        images = min(start["settings"]["batch_size"], start["images"])
        return self._run.track(steps, self._run.command, total, images)

    def stepped(self, report: StepReport) -> None:
        now = time.monotonic()
        seconds, self._last, self._step = max(now - self._last, 1e-9), now, report.step
        self._images, self._seconds = self._images + report.images, self._seconds + seconds
        self._run.loss = report.loss
        self._log.add(
            "step", step=report.step, epoch=report.epoch, loss=report.loss, lr=report.lr,
            images_per_second=round(report.images / seconds, 2), memory=self._run.memory)

    def epoch_ended(self, report: EpochReport) -> None:
        parts = [f"epoch {report.epoch}/{report.epochs}", f"loss {report.loss:.4f}"]
        numbers = {name: value for name, value in report.metrics.items() if isinstance(value, float)}
        numbers |= {} if report.score is None else {"mean_iou": report.score}
        parts += [f"{_METRICS[name]} {value:.4f}" for name, value in numbers.items()]
        parts += [f"{self._images / self._seconds:.1f} images/s"] if self._seconds else []
        parts += [gigabytes(self._run.memory), duration(self._run.elapsed)]
        self._run.say(f"{self._run.command}: {'  '.join(parts)}")
        # The scoring is none of the steps to come.
        self._last, self._images, self._seconds = time.monotonic(), 0, 0.0
        score = {} if report.score is None else {"mean_iou": report.score}
        self._log.add(
            "epoch", epoch=report.epoch, epochs=report.epochs, step=report.step, loss=report.loss,
            **report.metrics, **score)

    @contextmanager
    def until_the_end(self) -> Iterator[None]:
        """In the block the network is trained; the log says how it ends."""
        try:
            yield
            self._log.add("end", step=self._step)
        except BaseException as error:
            reasons = {KeyboardInterrupt: "interrupted", SystemExit: "terminated"}
            self._log.add("stopped", step=self._step, reason=reasons.get(type(error)) or str(error))
            raise
        finally:
            self._log.close()


class TrainingRun:
    """One training from its start, or from where it was interrupted, to its checkpoint.

    Parameters
    ----------
    run
    output
        The checkpoint to be written; reserved now, together with the log.
    settings
        The recipe.
    options
    automatic
        Whether the batch size is halved until it fits in the device's memory.
    """

    def __init__(self, run: Run, output: str, settings: Any, options: TrainingOptions, automatic: bool) -> None:
        if options.log is not None and Path(options.log).resolve() == Path(output).resolve():
            raise UsageError("--log", f"{options.log} is the output itself", "give another name")
        for path in [output] if options.log is None else [output, options.log]:
            run.reserve(path)
        if automatic and run.team.size > 1:
            raise UsageError("--batch-size", "auto is for one process", "give a number under torchrun")
        self._run, self._output, self._settings, self._options = run, output, settings, options
        self._automatic = automatic

    def train(self, data: TrainingData, stage: Callable[..., Checkpoint]) -> None:
        """Train a network, unless that is done already, and write the checkpoint.

        Parameters
        ----------
        data
        stage
            Gives the trained network, from the recipe and ``config``, ``weights`` and ``weights_name``.
        """
        self._data, self._stage = data, stage
        self._selection = _Selection(self._run, data.source, self._options.select_on, self._options.saliency)
        if self._run.follows:
            self._train_once(Observer(), None)
            return
        self._describe()
        self._state.check_place()
        if self._is_finished():
            return
        reporter = self._reporter()
        self._begin()
        checkpoint = self._train_to_the_end(reporter)
        self._state.remove()
        self._run.done(
            f"wrote {self._output}, a {checkpoint.kind} of {len(checkpoint.class_names)} object classes "
            f"from {len(data.dataset)} images"
        )

    # --- what is done --------------------------------------------------------------------------

    def _describe(self) -> None:
        """Note all that the training depends on, and where its state is kept."""
        from drstool.checkpoints.pretrained import history_of_weights
        from drstool.inputs import list_digest

        run, options, data = self._run, self._options, self._data
        from_file = is_file(options.init)
        # What the first weights have learned from, this network has too.
        self._before = history_of_weights(options.init)
        digests = list_digest(data.dataset) | {name: digest() for name, digest in data.digests.items()}
        digests |= self._selection.digests(data.class_names)
        truth = f"epoch chosen on split {options.select_on}" if options.select_on else False
        self._description: dict[str, Any] = {
            "inputs": digests | ({"init": run.digest(options.init)} if from_file else {}),
            "used": {"pixel_ground_truth": truth} | ({"tags": data.tags} if data.tags else {}),
            "settings": plain(self._settings)
            | {"precision": options.precision}
            | ({} if from_file else {"init": options.init}),
            "device": True,
            "seed": True,
        }
        self._use(self._settings)
        # What a run measured itself is not measured anew for the rest of it.
        earlier = self._earlier_settings() if run.resume and (self._automatic or options.precision == "auto") else {}
        known = options.precision == "auto" and earlier.get("precision") in ("float32", "bfloat16")
        self._description["settings"]["precision"] = (
            earlier["precision"] if known else run.precision(options.precision))
        size = earlier.get("batch_size")
        fits = self._automatic and isinstance(size, int) and size in self._batch_sizes()
        self._use(replace(self._settings, batch_size=size) if fits else self._settings)

    def _use(self, settings: Any) -> None:
        """Train with these settings."""
        from drstool.checkpoints.training_state import TrainingState

        self._settings = settings
        self._description["settings"] |= plain(settings)
        self._job = self._run.job(self._data.class_names, **self._description)
        self._state = TrainingState(self._output, self._job, self._cannot_save)

    def _earlier_settings(self) -> dict[str, Any]:
        """The settings that what --resume is to continue was begun with; empty where that is not known."""
        from drstool.checkpoints.checkpoint import load_checkpoint

        settings = self._state.settings()
        if settings is None and Path(self._output).is_file():
            with suppress(InputError):
                checkpoint = load_checkpoint(self._output)
                history = checkpoint.provenance[-1:]
                settings = checkpoint.recipe | (history[0].get("settings", {}) if history else {})
        return settings or {}

    def _batch_sizes(self) -> list[int]:
        """The batch sizes that --batch-size auto tries."""
        least = next(spec.metadata["min"] for spec in fields(self._settings) if spec.name == "batch_size")
        halves = (self._settings.batch_size >> times for times in range(self._settings.batch_size.bit_length()))
        return [size for size in halves if size >= least]

    def _is_finished(self) -> bool:
        """Whether --resume finds the checkpoint of this very training."""
        from drstool.checkpoints.checkpoint import job_difference

        if not self._run.resume or not Path(self._output).exists():
            return False
        if not self._run.is_same(self._output, job_difference(self._output, self._job, sure=self._run.overwrite)):
            return False
        self._state.remove()
        self._run.say(f"{self._run.command}: {self._output} is finished already")
        return True

    # --- training ------------------------------------------------------------------------------

    def _reporter(self) -> _Reporter:
        from drstool.checkpoints.training_log import TrainingLog

        def start() -> dict[str, Any]:
            return {
                "command": self._run.command, "settings": self._description["settings"] | {"seed": self._run.seed},
                "images": len(self._data.dataset), "device": str(self._run.device), "processes": self._run.team.size}

        log = TrainingLog(self._options.log, self._cannot_log)
        if self._run.resume and not self._run.overwrite:
            log.check(start())
        return _Reporter(self._run, log, start)

    def _begin(self) -> None:
        """Read the state that is there, or see to it that there is none."""
        run, state = self._run, self._state
        if run.resume:
            try:
                step = state.read()
            except InputError as error:
                run.discards(error)
                state.remove()
                step = None
            if step is None:
                run.detail("nothing to resume, starting from scratch")
            else:
                run.say(f"{run.command}: resuming after step {step}")
        elif (left := state.left_over()) is not None:
            step, seconds = left
            check_leftover(run, self._output, "" if step is None else f"the state after step {step}", seconds)
            state.remove()

    def _train_to_the_end(self, reporter: _Reporter) -> Checkpoint:
        """The trained network, whose checkpoint is written."""
        from drstool.checkpoints.checkpoint import save_checkpoint
        from drstool.training.state import Diverged

        with reporter.until_the_end():
            try:
                checkpoint = self._train(reporter)
            except Diverged as error:
                raise self._with_last_good(error) from None
            except (KeyboardInterrupt, SystemExit, ReportedByPeer):
                if self._state.step is not None:
                    self._run.say(f"{self._run.command}: --resume continues after step {self._state.step}")
                raise
            save_checkpoint(self._output, self._with_history(checkpoint), overwrite=self._run.overwrite)
        return checkpoint

    def _train(self, reporter: _Reporter) -> Checkpoint:
        """The network, trained with the largest batch for which there is memory, if that is left to us."""
        from torch import OutOfMemoryError

        for smaller in [*self._batch_sizes()[1:], None] if self._automatic else [None]:
            try:
                return self._train_once(reporter, self._state)
            except OutOfMemoryError:
                # All images are of one size: the first steps tell. Later ones lack memory for other reasons.
                if smaller is None or self._state.step is not None:
                    raise
            self._run.say(
                f"{self._run.command}: {self._settings.batch_size} images per step do not fit in the device's memory, "
                f"trying {smaller}")
            self._use(replace(self._settings, batch_size=smaller))
        raise AssertionError("the last try returns or raises")

    def _train_once(self, observer: Observer, state: TrainingState | None) -> Checkpoint:
        from drstool.checkpoints.pretrained import initial_weights
        from drstool.training.loop import RunConfig

        run, options = self._run, self._options
        precision = run.precision(options.precision) if run.follows else self._description["settings"]["precision"]
        config = RunConfig(
            seed=run.seed, device=run.device, precision=precision,
            workers=run.loader_processes, team=run.team, observer=observer,
            select=self._selection.score if options.select_on else None, checkpointer=state)
        # With 0 epochs the initialised network is written, pretrained weights included.
        weights = initial_weights(options.init, self._settings.backbone, progress=run.shows_progress)
        return self._stage(self._settings, config=config, weights=weights, weights_name=f"--init {options.init}")

    def _with_history(self, checkpoint: Checkpoint) -> Checkpoint:
        added = {name: value for name, value in checkpoint.recipe.items() if name not in plain(self._settings)}
        described = self._description | {"settings": self._description["settings"] | added}
        job = self._run.job(self._data.class_names, **described)
        history = self._run.history(job, self._data.upstream, self._before, runs=self._state.runs)
        # What is read with the network is read as what it was trained with.
        read_as = {"range": str(chosen)} if (chosen := self._data.dataset.value_range) is not None else {}
        return replace(checkpoint, provenance=history, recipe=checkpoint.recipe | read_as)

    def _with_last_good(self, error: Diverged) -> Diverged:
        """The error, and the network of the last state saved before it as a checkpoint that it names."""
        from drstool.checkpoints.checkpoint import save_checkpoint

        checkpoint, step = self._state.last_network()
        if checkpoint is None:
            return error
        output = Path(self._output)
        path = output.with_name(f"{output.stem}.step-{step}{output.suffix}")
        checkpoint = replace(checkpoint, recipe=checkpoint.recipe | {"stopped_after_step": step})
        save_checkpoint(path, self._with_history(checkpoint), overwrite=self._run.overwrite)
        return type(error)(error.where, error.what, f"{error.right}; the network after step {step} is in {path}")

    def _cannot_save(self, error: OutputError) -> None:
        self._run.say(f"{self._run.command}: continuing without a state for --resume: {error}")

    def _cannot_log(self, error: OutputError) -> None:
        self._run.say(f"{self._run.command}: continuing without --log: {error}")
