"""One output of a command: compared with what is on disk, resumed, written, and remembered."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import typer

from drstool.cli.console import counted
from drstool.cli.run import Run, check_leftover, list_digest
from drstool.errors import OutputError, UsageError

if TYPE_CHECKING:
    from drstool.artifacts.header import Header
    from drstool.artifacts.resume import Journal, PartialFolder
    from drstool.data import Dataset
    from drstool.formats import RecordSink, RecordSource

__all__ = ["Artifact", "Images", "Pictures", "Records", "input_digests"]

Chain = tuple[dict, ...]


class Images:
    """Images of a dataset to work on; the other two kinds of input have the same attributes.

    Attributes
    ----------
    ids
        Of this shard's images, in order; None where they are not known beforehand.
    shard
        Which shard of the whole these are, if any.
    unit
        Images of one batch, which are never made apart.
    inputs
        Digests of what is read.
    upstream
        History of what is read.
    piped
        Whether it comes through a pipe, so that nobody knows whether it is the same again.
    """

    upstream: Chain = ()
    piped = False

    def __init__(self, run: Run, dataset: Dataset, unit: int = 1) -> None:
        self._items, self.unit = run.shard.of_items(dataset.items, unit), unit
        self.ids = tuple(item.id for item in self._items)
        self.shard = run.shard.of_ids([item.id for item in dataset.items])
        self.inputs = list_digest(dataset)

    def remaining(self, finished: Sequence[str]) -> tuple[Iterable, int | None]:
        """What is still to do, and how many, if that is known."""
        known = frozenset(finished)
        items = [item for item in self._items if item.id not in known]
        return items, len(items)


class Records:
    """Records of a file or pipe to work on; see :class:`Images`.

    Parameters
    ----------
    run
    source
    path
        As the user named it.
    unit
        As there.
    convert
        What to make of the records, such as the images they are about.
    """

    def __init__(
        self, run: Run, source: RecordSource, path: str | None, unit: int = 1,
        convert: Callable[[Iterable], Iterable] = iter,
    ) -> None:
        self._source, self._convert, self.unit = source, convert, unit
        self.shard = run.shard.of_source(source)
        self.inputs, self.piped = input_digests(maps=path)
        self.upstream: Chain = source.header.provenance if source.header is not None else ()
        ids = source.ids()
        self._searchable = ids is not None
        if ids is None and run.resume and not self.piped:
            # A saved stream must be read for its ids; only resuming needs them.
            from drstool.formats import open_records

            with open_records(path) as again:
                ids = tuple(record.id for record in again.records())
        self.ids = None if ids is None else tuple(run.shard.of_items(ids, unit))

    def remaining(self, finished: Sequence[str]) -> tuple[Iterable, int | None]:
        known, records = frozenset(finished), self._source.lazy_records()
        if not self._searchable:
            return self._convert(record for record in records if record.id not in known), None
        chosen = frozenset(self.ids or ()) - known
        return self._convert(record for record in records if record.id in chosen), len(chosen)


class Pictures:
    """Records of several inputs to draw, or None for all images of a dataset; see :class:`Images`.

    Parameters
    ----------
    sources
        By what they are: ``labels``, ``maps``; and the paths the user named.
    dataset
    """

    ids, shard, unit = None, None, 1

    def __init__(self, sources: Mapping[str, RecordSource], paths: Mapping[str, str], dataset: Dataset | None) -> None:
        digests, self.piped = input_digests(**paths)
        self.inputs, self._sources = digests | list_digest(dataset), sources
        headers = [source.header for source in sources.values() if source.header is not None]
        self.upstream = tuple(step for header in headers for step in header.provenance)

    def remaining(self, finished: Sequence[str]) -> tuple[Iterable | None, int | None]:
        records = (record for source in self._sources.values() for record in source.records())
        return (records if self._sources else None), None


class Artifact:
    """A file, folder or stream in the making, by one job.

    Parameters
    ----------
    run
        Has claimed the output.
    output
        None: stdout.
    kind
        Of the records or pictures, one of :data:`drstool.artifacts.header.KINDS`.
    source
        What the job works on.
    classes
        The object classes.
    upstream
        History of a checkpoint that goes in, before that of ``source``.
    scores
        Where the records' second halves go as score maps, if they do; see :meth:`write_pairs`.
    job
        The rest of what :meth:`drstool.cli.run.Run.job` takes.

    Attributes
    ----------
    todo
        What is not finished yet.
    finished
        Ids, or names of figures, that earlier runs finished.
    scores
        None where there are none, or they are finished.

    Raises
    ------
    typer.Exit
        The output is finished already.
    """

    def __init__(
        self, run: Run, output: str | None, kind: str, source: Images | Records | Pictures,
        classes: Sequence[str] = (), *, upstream: Chain = (), scores: str | None = None,
        inputs: Mapping[str, str] | None = None, **job: Any,
    ) -> None:
        self.output, self.kind, self.scores, self.count = output, kind, scores, 0
        self._run, self._source, self._classes, self._upstream = run, source, tuple(classes), upstream
        self._job = run.job(classes, inputs={**(inputs or {}), **source.inputs}, shard=source.shard, **job)
        self._scores_resume: Journal | PartialFolder | None = None
        self._resume = self._begin()
        self.finished: tuple[str, ...] = tuple(self._resume.finished) if self._resume is not None else ()
        self.todo, self._total = source.remaining(self.finished)

    @property
    def work(self) -> dict[str, Any]:
        """What every stage is told about working on many images."""
        return {"on_error": self._run.on_error, "track": self._run.track, "total": self._total}

    @cached_property
    def header(self) -> Header:
        """What the output says about itself, history included."""
        from drstool.artifacts.header import Header

        shard = None if self._source.shard is None else replace(self._source.shard, made=self._job.digest())
        runs = self._resume.runs if self._resume is not None else ()
        history = self._run.history(self._job, self._upstream, self._source.upstream, runs=runs)
        return Header(self.kind, self._classes, history, shard)

    # --- writing -------------------------------------------------------------------------------

    @contextmanager
    def open(self) -> Iterator[RecordSink]:
        """A sink for the records; the output appears when the block ends well."""
        from drstool.artifacts.header import carrier
        from drstool.formats import open_sink

        with open_sink(
            self.output, self.header, overwrite=self._run.overwrite, what=carrier(self.kind), resume=self._resume,
            threads=self._run.threads,
        ) as sink:
            yield sink
        self.count = sink.count

    def write(self, records: Iterable) -> None:
        """Write records as they come."""
        with self.open() as sink:
            sink.write_all(records)

    def write_pairs(self, pairs: Iterable[tuple]) -> None:
        """Write the first of each pair here and the second to ``scores``, unless that is None."""
        from drstool.formats import open_sink, write_both

        if self.scores is None:
            self.write(first for first, _ in pairs)
            return
        header, run = replace(self.header, kind="score-maps"), self._run
        with self.open() as labels, open_sink(
            self.scores, header, overwrite=run.overwrite, resume=self._scores_resume, threads=run.threads,
        ) as scores:
            write_both(labels, scores, pairs)

    def write_pictures(self, pictures: Iterable) -> None:
        """Write named pictures into a folder."""
        from drstool.formats import write_pictures

        self.count = write_pictures(
            self.output, self.header, pictures, overwrite=self._run.overwrite, resume=self._resume,
            threads=self._run.threads)

    def done(self, what: str, note: str = "") -> None:
        """Say what was made: ``what`` are the records, ``note`` follows the name."""
        self._run.done(f"{self.count} {what} to {self.output or 'stdout'}{note}")

    # --- resuming ------------------------------------------------------------------------------

    def _begin(self) -> Journal | PartialFolder | None:
        """What can be resumed; None where the output, or the input, is a pipe."""
        from drstool.formats import goes_to_disk

        resume = self._opened(self.output, self.kind)
        if self.scores is not None and goes_to_disk(self.scores) and self._is_finished(self.scores, "score-maps"):
            # They are published before the labels are; only those are missing.
            self.scores = None
        if self.scores is not None and resume is not None:
            self._scores_resume = self._opened(self.scores, "score-maps", among=resume.finished)
            # Labels and scores then have the same images.
            resume.keep_only(self._scores_resume.finished if self._scores_resume is not None else ())
        if resume is not None and self._run.resume:
            finished = counted(len(resume.finished), "picture" if self.kind == "figures" else "image")
            self._run.say(
                f"{self._run.command}: {self.output}: "
                + (f"resuming after {finished}" if resume.finished else "nothing to resume, starting from scratch"))
        return resume

    def _opened(
        self, output: str | None, kind: str, among: Sequence[str] | None = None,
    ) -> Journal | PartialFolder | None:
        """The unfinished output on disk, or a new one.

        Parameters
        ----------
        output, kind
        among
            Ids beyond which nothing counts as finished.
        """
        from drstool.artifacts.header import carrier
        from drstool.artifacts.resume import Journal
        from drstool.formats import goes_to_disk, resume_beside

        run = self._run
        if not goes_to_disk(output):
            return None
        if self._source.piped:
            if run.resume:
                raise UsageError(
                    "--resume", "the input comes through a pipe, which can only be read once",
                    "save it first, and name the file")
            return None
        resume = resume_beside(str(output), carrier(kind), self._job)
        if self._is_finished(output, kind):
            resume.remove()
            run.say(f"{run.command}: {output} is finished already")
            raise typer.Exit
        if not run.resume:
            if (leftover := resume.leftover()) is not None:
                count, seconds = leftover
                check_leftover(run, str(output), counted(count, "image") if count else "", seconds)
            run.keep(resume)
            resume.start()
            return resume
        if isinstance(resume, Journal):
            resume.load(self._expected(among), self._source.unit)
        else:
            resume.load()
        run.keep(resume)
        return resume

    def _expected(self, among: Sequence[str] | None) -> Sequence[str] | None:
        """Ids of the records that a journal should hold, in order."""
        ids = self._source.ids
        if ids is None or among is None:
            return ids
        known = set(among)
        return ids[:next((n for n, identifier in enumerate(ids) if identifier not in known), len(ids))]

    def _is_finished(self, output: str | None, kind: str) -> bool:
        """Whether --resume finds an output that is whole and made by this very job.

        Raises
        ------
        OutputError
            It was made by a different one, and must not be overwritten.
        """
        from drstool.formats import output_difference

        path = str(output)
        if not self._run.resume or not os.path.exists(path) or os.path.isdir(path) and not os.listdir(path):
            return False
        difference = output_difference(path, kind, self._job, self._source.ids)
        if difference is not None and not self._run.overwrite:
            raise OutputError(output, f"exists, and {difference}", "give another -o, or --overwrite")
        return difference is None


def input_digests(**paths: str | None) -> tuple[dict[str, str], bool]:
    """Digests of large inputs, by what they are, and whether one of them is a pipe.

    Parameters
    ----------
    paths
        Files or folders; None or ``-`` is the standard input.
    """
    from drstool.files import content_digest

    known = {name: path for name, path in paths.items() if path not in (None, "-") and not _is_pipe(str(path))}
    return {name: content_digest(str(path)) for name, path in known.items()}, len(known) < len(paths)


def _is_pipe(path: str) -> bool:
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)
