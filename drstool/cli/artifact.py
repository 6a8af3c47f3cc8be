"""One output of a command: compared with what is on disk, resumed, written, and remembered."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import typer

from drstool.cli.run import Run, check_leftover
from drstool.errors import UsageError
from drstool.reports.text import counted

if TYPE_CHECKING:
    from drstool.artifacts.header import Header
    from drstool.artifacts.resume import Journal, PartialFolder
    from drstool.formats import RecordSink
    from drstool.inputs import Images, Pictures, Records

__all__ = ["Artifact"]


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
        classes: Sequence[str] = (), *, upstream: tuple[dict, ...] = (), scores: str | None = None,
        inputs: Mapping[str, str] | None = None, **job: Any,
    ) -> None:
        self.output, self.kind, self.scores, self.count = output, kind, scores, 0
        self._run, self._source, self._classes, self._upstream = run, source, tuple(classes), upstream
        self._job = run.job(classes, inputs={**(inputs or {}), **source.inputs}, shard=source.shard, **job)
        self._noun = "picture" if kind == "figures" else "image"
        self._scores_resume: Journal | PartialFolder | None = None
        self._resume = self._begin()
        self.finished: tuple[str, ...] = tuple(self._resume.finished) if self._resume is not None else ()
        self.todo, self._total = source.remaining(self.finished)

    @property
    def work(self) -> dict[str, Any]:
        """What every stage takes to work on many images."""
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
        from drstool.formats import open_sink

        with open_sink(
            self.output, self.header, overwrite=self._run.overwrite, resume=self._resume,
            threads=self._run.threads,
        ) as sink:
            yield sink
        self.count = sink.count

    def write(self, records: Iterable) -> None:
        """Write records as they come."""
        with self.open() as sink:
            sink.write_all(records)

    def write_maps(self, records: Iterable) -> None:
        """Write maps as they come, and name the classes whose maps are empty."""
        from drstool.reports.empty_maps import EmptyMaps

        empty = EmptyMaps()
        self.write(empty.counted(records))
        self._run.notes(empty.lines(self._classes))

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

    def done(self, noun: str, *, before: str = "", note: str = "") -> None:
        """Say how many of what were written, and where."""
        self._run.done(f"wrote {before}{counted(self.count, noun)} to {self.output or 'stdout'}{note}")

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
            if self._run.resume:
                # Labels and scores then have the same images.
                resume.keep_only(self._scores_resume.finished if self._scores_resume is not None else ())
        if resume is not None and self._run.resume:
            finished = counted(len(resume.finished), self._noun)
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
        from drstool.artifacts.header import record_type
        from drstool.artifacts.resume import Journal
        from drstool.formats import goes_to_disk, resume_beside

        run, noun = self._run, self._noun
        if not goes_to_disk(output):
            return None
        if self._source.piped:
            if run.resume:
                raise UsageError(
                    "--resume", "the input comes through a pipe, which can only be read once",
                    "save it first, and name the file")
            return None
        resume = resume_beside(str(output), record_type(kind), self._job)
        if self._is_finished(output, kind):
            resume.remove()
            run.say(f"{run.command}: {output} is finished already")
            raise typer.Exit
        if not run.resume:
            if (leftover := resume.leftover()) is not None:
                count, seconds = leftover
                check_leftover(run, str(output), counted(count, noun) if count else "", seconds)
            run.keep(resume, noun)
            resume.start()
            return resume
        if isinstance(resume, Journal):
            resume.load(self._expected(among), self._source.unit)
        else:
            resume.load()
        run.keep(resume, noun)
        return resume

    def _expected(self, among: Sequence[str] | None) -> Sequence[str] | None:
        """Ids of the records that a journal should hold, in order."""
        ids = self._source.ids
        if ids is None or among is None:
            return ids
        known = set(among)
        return ids[:next((n for n, identifier in enumerate(ids) if identifier not in known), len(ids))]

    def _is_finished(self, output: str | None, kind: str) -> bool:
        """Whether --resume finds an output that is whole and made by this very job; raises as ``Run.is_same``."""
        from drstool.formats import output_difference

        path = str(output)
        if not self._run.resume or not os.path.exists(path) or os.path.isdir(path) and not os.listdir(path):
            return False
        return self._run.is_same(output, output_difference(path, kind, self._job, self._source.ids))
