"""``train-cls``, ``refine-train``, ``train-seg``: networks from images."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from drstool.cli.options import Classes, Data, Init, Labels, Output, Precision, Saliency, Split, Tags, command
from drstool.cli.run import Run, list_digest, plain
from drstool.errors import OutputError, UsageError
from drstool.recipe import ClassifierRecipe, RefinerRecipe, SegmenterRecipe

SelectOn = Annotated[
    Optional[str],
    typer.Option(
        "--select-on",
        help="Split whose pixel ground truth chooses the epoch, by mIoU; by default the last epoch is the result.",
    ),
]

Log = Annotated[
    Optional[str],
    typer.Option(
        "--log",
        help="File of metrics, which grows with the training: a line of JSON every ten steps and every epoch.",
    ),
]

if TYPE_CHECKING:
    from collections.abc import Callable

    from drstool.checkpoints.checkpoint import Checkpoint
    from drstool.checkpoints.training_log import TrainingLog
    from drstool.checkpoints.training_state import TrainingState
    from drstool.data import Dataset
    from drstool.training.loop import Diverged, EpochReport, StepReport


@command(
    "train-cls",
    keep_going=False,
    resume=True,
    joint=True,
    settings=ClassifierRecipe,
    example="drstool train-cls --data demo --split train --backbone vgg16-small --init none --optimizer adam "
    "--image-size 144 --lr 0.002 --new-lr-factor 1 -o cls.pt",
)
def train_cls(
    run: Run,
    settings: ClassifierRecipe,
    automatic: frozenset[str],
    data: Data,
    output: Output,
    split: Split = None,
    tags: Tags = None,
    classes: Classes = None,
    init: Init = "imagenet",
    precision: Precision = "auto",
    select_on: SelectOn = None,
    log: Log = None,
    saliency: Saliency = None,
) -> None:
    """Train a classification network with DRS, from images and tags."""
    from drstool.data import open_dataset
    from drstool.stages import train_cls as stage

    _reserve(run, output, log)
    dataset = open_dataset(data, split, tags=tags, classes=classes)
    training = _Training(
        run, output, dataset, _class_names(dataset), settings, init, precision,
        _Selection(run, data, select_on, saliency), automatic, log, tags=dataset.tags_source,
    )
    training.run(lambda told: stage.train_cls(dataset, training.class_names, training.settings, **told))


@command(
    "refine-train",
    keep_going=False,
    resume=True,
    joint=True,
    settings=RefinerRecipe,
    example="drstool refine-train --data demo --split train --maps cams.h5 --backbone vgg16-small --init cls.pt "
    "--image-size 176 -o refiner.pt",
)
def refine_train(
    run: Run,
    settings: RefinerRecipe,
    automatic: frozenset[str],
    data: Data,
    maps: Annotated[
        str, typer.Option("--maps", help="Map file with localization maps of the images.", show_default=False)
    ],
    output: Output,
    split: Split = None,
    init: Init = "imagenet",
    precision: Precision = "auto",
    select_on: SelectOn = None,
    log: Log = None,
    saliency: Saliency = None,
) -> None:
    """Train a refinement network that regresses localization maps."""
    from drstool.data import open_dataset
    from drstool.formats.map_file import MapFileReader
    from drstool.stages import refine_train as stage

    _reserve(run, output, log)
    with MapFileReader(maps) as reader:
        header = reader.header
    dataset = open_dataset(data, split, class_names=header.class_names)
    training = _Training(
        run, output, dataset, header.class_names, settings, init, precision,
        _Selection(run, data, select_on, saliency), automatic, log, upstream=header.provenance,
        inputs={} if run.follows else {"maps": run.digest(maps)},
    )
    training.run(lambda told: stage.refine_train(dataset, header.class_names, maps, training.settings, **told))


@command(
    "train-seg",
    keep_going=False,
    resume=True,
    joint=True,
    settings=SegmenterRecipe,
    example="drstool train-seg --data demo --split train --labels labels --backbone vgg16-small --init refiner.pt "
    "--image-size 176 --epochs 5 -o seg.pt",
)
def train_seg(
    run: Run,
    settings: SegmenterRecipe,
    automatic: frozenset[str],
    data: Data,
    labels: Labels,
    output: Output,
    split: Split = None,
    classes: Classes = None,
    init: Init = "imagenet",
    precision: Precision = "auto",
    select_on: SelectOn = None,
    log: Log = None,
) -> None:
    """Train DeepLabV3+ from images and label PNGs."""
    from drstool.data import open_dataset
    from drstool.files import content_digest
    from drstool.formats.label_folder import label_paths
    from drstool.stages import train_seg as stage

    _reserve(run, output, log)
    header, paths = label_paths(labels)
    known = header.class_names if header else None
    dataset = open_dataset(data, split, classes=classes, class_names=known)
    training = _Training(
        run, output, dataset, known or _class_names(dataset), settings, init, precision,
        _Selection(run, data, select_on), automatic, log, upstream=header.provenance if header else (),
        inputs={} if run.follows else {"labels": content_digest(labels)},
    )
    training.run(lambda told: stage.train_seg(dataset, training.class_names, paths, training.settings, **told))


def _reserve(run: Run, output: str, log: str | None) -> None:
    if log is not None and Path(log).resolve() == Path(output).resolve():
        raise UsageError("--log", f"{log} is the output itself", "give another name")
    run.reserve(output)
    if log is not None:
        run.reserve(log)


def _class_names(dataset: Dataset) -> tuple[str, ...]:
    from drstool.errors import InputError

    if dataset.class_names is None:
        raise InputError(
            dataset.source,
            "does not say the names of its object classes",
            "--classes FILE with one name a line, or a classes.txt beside the images' folder",
        )
    return dataset.class_names


@dataclass(frozen=True)
class _Selection:
    """Whether and by what the epoch is chosen."""

    run: Run
    data: str
    split: str | None
    saliency: str | None = None

    def inputs(self, class_names: tuple[str, ...]) -> dict[str, str]:
        """Digests of what the choice depends on."""
        if self.split is None:
            return {}
        from drstool.data import open_dataset
        from drstool.files import content_digest

        dataset = open_dataset(self.data, self.split, class_names=class_names)
        return {"select_list": f"sha256:{dataset.digest()}"} | (
            {"saliency": content_digest(self.saliency)} if self.saliency else {}
        )

    def scorer(self) -> Callable[[Checkpoint], float] | None:
        """Scores a network on the split's ground truth: its mIoU, of labels or of maps with a background cue."""
        if self.split is None:
            return None
        from drstool.cues import saliency_folder
        from drstool.data import open_dataset, saliency_of_items
        from drstool.inference import Execution
        from drstool.recipe import CamSettings, CueSettings, RefineSettings, SegmentSettings
        from drstool.stages import cam, refine, segment
        from drstool.stages.eval import Scoring, evaluate

        def score(checkpoint: Checkpoint) -> float:
            dataset = open_dataset(self.data, self.split, class_names=checkpoint.class_names)
            saliency_of = saliency_folder(self.saliency) if self.saliency else saliency_of_items(dataset)
            cues = CueSettings(background="saliency" if saliency_of else "constant")
            execution = Execution(self.run.device, workers=self.run.threads)
            if checkpoint.kind == "classifier":
                records = cam.cam(dataset.items, checkpoint, CamSettings(), execution=execution)
            elif checkpoint.kind == "refiner":
                records = refine.refine(dataset.items, checkpoint, RefineSettings(), execution=execution)
            else:
                both = segment.segment(dataset.items, checkpoint, SegmentSettings(), execution=execution)
                records = (labels for labels, _ in both)
            scored = evaluate(records, dataset, scoring=Scoring(cues, saliency_of, strict=True))
            return scored.scores.mean_iou

        return score


class _Observer:
    """Tells of a training, on the screen and in its log; an :class:`drstool.training.loop.Observer`.

    Parameters
    ----------
    run
    log
    start
        Gives what the log says of the beginning.
    """

    def __init__(self, run: Run, log: TrainingLog | None, start: Callable[[], dict[str, Any]]) -> None:
        self._run, self._log, self._start = run, log, start
        self._last, self._step = time.monotonic(), 0

    def check(self) -> None:
        """Check that the log may be gone on with."""
        if self._log is not None:
            self._log.check(self._start())

    def begins(self, step: int, steps: int, epochs: int) -> None:
        self._last, self._step = time.monotonic(), step
        if self._log is not None:
            self._log.begin(self._start() | {"steps": steps}, step, epochs)

    def stepped(self, report: StepReport) -> None:
        now = time.monotonic()
        seconds, self._last, self._step = max(now - self._last, 1e-9), now, report.step
        self._run.on_steps(report.loss, report.images, seconds)
        if self._log is not None:
            self._log.add(
                "step", step=report.step, epoch=report.epoch, loss=report.loss, lr=report.lr,
                images_per_second=round(report.images / seconds, 2), memory=self._run.memory)

    def on_epoch(self, report: EpochReport) -> None:
        """One epoch was done."""
        self._run.on_epoch(report)
        # Not that of the steps to come.
        self._last = time.monotonic()
        if self._log is not None:
            score = {} if report.score is None else {"mean_iou": report.score}
            self._log.add(
                "epoch", epoch=report.epoch, epochs=report.epochs, step=report.step, loss=report.loss, **score)

    @contextmanager
    def until_the_end(self) -> Iterator[None]:
        """In the block the training goes on; how it ends is told."""
        if self._log is None:
            yield
            return
        try:
            yield
            self._log.add("end", step=self._step)
        except BaseException as error:
            reasons = {KeyboardInterrupt: "interrupted", SystemExit: "terminated"}
            self._log.add("stopped", step=self._step, reason=reasons.get(type(error)) or str(error))
            raise
        finally:
            self._log.close()


class _Training:
    """One training from its start, or from where it was interrupted, to its checkpoint.

    Parameters
    ----------
    run
        Has reserved the output.
    output, dataset, class_names, settings, init, precision, selection
    automatic
        Settings that are lowered until the device's memory does: ``batch_size``, or none.
    log
        File of metrics.
    upstream
        Provenance of what is learned from.
    inputs
        Digests of it.
    tags
        Where the tags come from, if they are learned from.

    Attributes
    ----------
    class_names
    settings
        Those of this try.
    """

    def __init__(
        self,
        run: Run,
        output: str,
        dataset: Dataset,
        class_names: tuple[str, ...],
        settings: Any,
        init: str,
        precision: str,
        selection: _Selection,
        automatic: frozenset[str] = frozenset(),
        log: str | None = None,
        *,
        upstream: tuple[dict, ...] = (),
        inputs: dict[str, str] | None = None,
        tags: Optional[str] = None,
    ) -> None:
        from drstool.checkpoints.pretrained import history_of_weights
        from drstool.checkpoints.training_log import TrainingLog

        self.class_names, self.settings = class_names, settings
        self._run, self._output, self._dataset, self._automatic = run, output, dataset, bool(automatic)
        self._init, self._precision, self._selection, self._upstream = init, precision, selection, upstream
        if self._automatic and run.team is not None:
            raise UsageError("--batch-size", "auto is for one process", "give a number under torchrun")
        if run.follows:
            return
        from_file = Path(init).is_file()
        # What the first weights have learned from, this network has too.
        self._before = history_of_weights(init)
        digests = list_digest(dataset) | (inputs or {}) | selection.inputs(class_names)
        truth = f"epoch chosen on split {selection.split}" if selection.split else False
        self._told: dict[str, Any] = {
            "inputs": digests | ({"init": run.digest(init)} if from_file else {}),
            "used": {"pixel_ground_truth": truth} | ({"tags": tags} if tags else {}),
            "settings": plain(settings)
            | {"precision": run.precision(precision)}
            | ({} if from_file else {"init": init}),
            "device": True,
            "seed": True,
        }
        self._take_up_settings(settings)
        self._observer = _Observer(run, None if log is None else TrainingLog(log, self._cannot_log), self._start)
        if self._automatic and run.resume and (size := self._size_so_far()) is not None:
            self._take_up_settings(replace(settings, batch_size=size))

    def _take_up_settings(self, settings: Any) -> None:
        """Say what is done now, with these settings."""
        from drstool.checkpoints.training_state import TrainingState

        self.settings = settings
        self._told["settings"] |= plain(settings)
        self._work = self._run.job(self.class_names, **self._told)
        self._state = TrainingState(self._output, self._work, self._cannot_keep)

    def _size_so_far(self) -> int | None:
        """The batch size that --batch-size auto found before what --resume is to go on with, if any."""
        from drstool.checkpoints.checkpoint import load_checkpoint

        settings = self._state.settings()
        if settings is None and Path(self._output).is_file():
            settings = load_checkpoint(self._output).recipe
        size = (settings or {}).get("batch_size")
        return size if isinstance(size, int) and size in self._sizes() else None

    def _sizes(self) -> list[int]:
        """The batch sizes that --batch-size auto tries."""
        least = next(spec.metadata["min"] for spec in fields(self.settings) if spec.name == "batch_size")
        halves = (self.settings.batch_size >> times for times in range(self.settings.batch_size.bit_length()))
        return [size for size in halves if size >= least]

    def run(self, train: Callable[[dict[str, Any]], Checkpoint]) -> None:
        """Train, unless it is done already, and write the checkpoint."""
        from drstool.checkpoints.checkpoint import save_checkpoint
        from drstool.training.loop import Diverged

        if self._run.follows:
            train(self._arguments(None))
            return
        if self._is_finished():
            return
        self._begin()
        with self._observer.until_the_end():
            try:
                checkpoint = self._trained(train)
            except Diverged as error:
                raise self._with_last_good(error) from None
            except (KeyboardInterrupt, SystemExit):
                if self._state.step is not None:
                    self._run.say(f"{self._run.command}: --resume goes on after step {self._state.step}")
                raise
            save_checkpoint(self._output, self._with_history(checkpoint), overwrite=self._run.overwrite)
        self._state.remove()
        self._run.done(
            f"wrote {self._output}, a {checkpoint.kind} of {len(checkpoint.class_names)} object classes "
            f"from {len(self._dataset)} images"
        )

    def _trained(self, train: Callable[[dict[str, Any]], Checkpoint]) -> Checkpoint:
        """The network, trained with the largest batch for which there is memory, if that is left to us."""
        from torch import OutOfMemoryError

        for smaller in [*self._sizes()[1:], None] if self._automatic else [None]:
            try:
                return train(self._arguments(self._state))
            except OutOfMemoryError:
                # All images are of one size: the first steps tell. Later ones lack memory for other reasons.
                if smaller is None or self._state.step is not None:
                    raise
            self._run.say(
                f"{self._run.command}: {self.settings.batch_size} images a step are more than the device's memory "
                f"holds, trying {smaller}")
            self._take_up_settings(replace(self.settings, batch_size=smaller))
        raise AssertionError("the last try returns or raises")

    def _is_finished(self) -> bool:
        """Whether --resume finds the checkpoint of this very work."""
        from drstool.checkpoints.checkpoint import job_difference

        if not self._run.resume or not Path(self._output).exists():
            return False
        difference = job_difference(self._output, self._work)
        if difference is None:
            self._state.remove()
            self._run.say(f"{self._run.command}: {self._output} is finished already")
            return True
        if self._run.overwrite:
            return False
        raise OutputError(self._output, f"exists, and {difference}", "give another -o, or --overwrite")

    def _begin(self) -> None:
        """Take up the state that is there, or see to it that there is none."""
        from drstool.cli.run import check_leftover

        run, state = self._run, self._state
        if run.resume:
            step = state.take_up()
            run.say(
                f"{run.command}: nothing to resume, starting from scratch"
                if step is None
                else f"{run.command}: going on after step {step}"
            )
        elif (left := state.left_over()) is not None:
            step, seconds = left
            check_leftover(run, self._output, "" if step is None else f"the state after step {step}", seconds)
            state.remove()
        if run.resume and not run.overwrite:
            self._observer.check()

    def _start(self) -> dict[str, Any]:
        """What the log tells of the training's beginning."""
        team = self._run.team
        return {
            "command": self._run.command, "settings": self._told["settings"] | {"seed": self._run.seed},
            "images": len(self._dataset), "device": str(self._run.device),
            "processes": 1 if team is None else team.size}

    def _arguments(self, kept: TrainingState | None) -> dict[str, Any]:
        """What every training stage is told in the same way."""
        from drstool.checkpoints.pretrained import initial_weights

        run = self._run
        # With 0 epochs the initialised network is written, pretrained weights included.
        return {
            "weights": initial_weights(self._init, self.settings.backbone, progress=run.shows_progress),
            "weights_name": f"--init {self._init}",
            "seed": run.seed,
            "device": run.device,
            "precision": run.precision(self._precision),
            "workers": run.loader_processes,
            "on_epoch": None if run.follows else self._observer.on_epoch,
            "observer": None if run.follows else self._observer,
            "select": self._selection.scorer(),
            "track": self._track,
            "kept": kept,
            "team": run.team,
        }

    def _track(self, steps: Iterable, description: str, total: int | None) -> Iterator:
        images = min(self.settings.batch_size, len(self._dataset))
        return self._run.track(steps, self._run.command, total, images)

    def _with_history(self, checkpoint: Checkpoint) -> Checkpoint:
        added = {
            name: value for name, value in checkpoint.recipe.items() if name not in plain(self.settings)
        }
        told = self._told | {"settings": self._told["settings"] | added}
        return replace(
            checkpoint,
            provenance=self._run.history(
                self._run.job(self.class_names, **told), self._upstream, self._before, runs=self._state.sittings))

    def _cannot_keep(self, error: OutputError) -> None:
        self._run.say(f"{self._run.command}: going on without a state for --resume: {error}")

    def _cannot_log(self, error: OutputError) -> None:
        self._run.say(f"{self._run.command}: going on without --log: {error}")

    def _with_last_good(self, error: Diverged) -> Diverged:
        """The error, and the network of the last state kept before it as a checkpoint that it names."""
        from drstool.checkpoints.checkpoint import save_checkpoint

        checkpoint, step = self._state.last_network()
        if checkpoint is None:
            return error
        output = Path(self._output)
        path = output.with_name(f"{output.stem}.step-{step}{output.suffix}")
        checkpoint = replace(checkpoint, recipe=checkpoint.recipe | {"stopped_after_step": step})
        save_checkpoint(path, self._with_history(checkpoint), overwrite=self._run.overwrite)
        return type(error)(error.where, error.what, f"{error.right}; the network after step {step} is in {path}")
