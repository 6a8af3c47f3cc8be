"""One output of a command: compared with what is on disk, resumed, written, and remembered."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from drstool.cli.run import Run, check_leftover
from drstool.errors import InputError, UsageError
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
        # Of outputs that are there, made by this job: the records that are taken over, as they lack others.
        self._held: dict[str, tuple[str, ...]] = {}
        self._resume: Any = self._begin()
        held = self._held.get(str(output), ())
        self.finished: tuple[str, ...] = (*(self._resume.finished if self._resume is not None else ()), *held)
        self.todo: Any
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
        with self._sink(self.output, self.header, self._resume) as sink:
            yield sink
        self.count = sink.count

    def _sink(
        self, output: str | None, header: Header, resume: Journal | PartialFolder | None,
    ) -> AbstractContextManager[RecordSink]:
        from drstool.formats import open_sink

        return open_sink(
            output, header, overwrite=self._run.overwrite or str(output) in self._held, resume=resume,
            threads=self._run.threads, earlier=frozenset(self._held.get(str(output), ())), order=self._source.ids or ())

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
        from drstool.formats import write_both

        if self.scores is None:
            self.write(first for first, _ in pairs)
            return
        header = replace(self.header, kind="score-maps")
        with self.open() as labels, self._sink(self.scores, header, self._scores_resume) as scores:
            write_both(labels, scores, pairs)

    def write_pictures(self, pictures: Iterable) -> None:
        """Write named pictures into a folder."""
        from drstool.formats import write_pictures

        held, pictures = self._held.get(str(self.output)), iter(pictures)
        if held is not None:
            # Which pictures there should be is known only by going through what they are drawn from.
            first = next(pictures, None)
            if first is None and not self._run.has_failures:
                self._finish(self._resume)
            self._say_resuming(len(self.finished))
            pictures = chain(() if first is None else (first,), pictures)
        self.count = write_pictures(
            str(self.output), self.header, pictures, overwrite=self._run.overwrite or held is not None,
            resume=self._resume, threads=self._run.threads, earlier=held or ())

    def done(self, noun: str, *, before: str = "", note: str = "") -> None:
        """Say how many of what were written, and where."""
        self._run.done(f"wrote {before}{counted(self.count, noun)} to {self.output or 'stdout'}{note}")

    # --- resuming ------------------------------------------------------------------------------

    def _begin(self) -> Journal | PartialFolder | None:
        """What can be resumed; None where the output, or the input, is a pipe."""
        resume, held = self._examined(self.output, self.kind)
        scores, scores_held = self._examined(self.scores, "score-maps") if self.scores is not None else (None, None)
        if scores is not None and self._is_whole(scores_held):
            # They are published before the labels are; only those may be missing.
            scores.remove()
            self.scores = scores = None
        if self.scores is None and self._is_whole(held):
            self._finish(resume)
        if resume is None:
            return None
        self._open(resume, self.output)
        if scores is not None:
            self._open(scores, self.scores, among=resume.finished)
            self._scores_resume = scores
            if self._run.resume:
                # Labels and scores then have the same images.
                resume.keep_only(scores.finished)
        if held is not None:
            both = held if scores is None else set(held) & set(scores_held or ())
            self._held[str(self.output)] = self._in_whole_batches(both, resume.finished)
        if scores_held is not None and scores is not None:
            self._held[str(self.scores)] = self._held.get(str(self.output), ())
        if self._run.resume and (held is None or self.kind != "figures"):
            lacking = len(set(self._source.ids or ()) - set(held)) if held is not None else 0
            self._say_resuming(len(resume.finished) + len(self._held.get(str(self.output), ())), lacking)
        return resume

    def _examined(
        self, output: str | None, kind: str,
    ) -> tuple[Journal | PartialFolder | None, tuple[str, ...] | None]:
        """What is on disk of unfinished work on an output, and what --resume finds in the output itself.

        Both are None where the output or the input is a pipe, the second also where there is no output.

        Raises
        ------
        OutputError
            The output was made by a different job, or is damaged, and must not be overwritten.
        """
        from drstool.artifacts.header import record_type
        from drstool.formats import earlier_output, goes_to_disk, resume_beside

        run = self._run
        if not goes_to_disk(output):
            return None, None
        if self._source.piped:
            if run.resume:
                raise UsageError(
                    "--resume", "the input comes through a pipe, which can only be read once",
                    "save it first, and name the file")
            return None, None
        path = str(output)
        resume = resume_beside(path, record_type(kind), self._job)
        resume.check_place()
        if not run.resume or not os.path.exists(path) or os.path.isdir(path) and not os.listdir(path):
            return resume, None
        difference, held = earlier_output(path, kind, self._job, self._source.ids, run.threads, sure=run.overwrite)
        return resume, held if run.is_same(output, difference) else None

    def _open(
        self, resume: Journal | PartialFolder, output: str | None, among: Sequence[str] | None = None,
    ) -> None:
        """Resume the unfinished output on disk, or start a new one; nothing beyond ``among`` counts as finished."""
        from drstool.artifacts.resume import Journal

        run, noun = self._run, self._noun
        if not run.resume:
            if (leftover := resume.leftover()) is not None:
                count, seconds = leftover
                check_leftover(run, str(output), counted(count, noun) if count else "", seconds)
            run.keep(resume, noun)
            resume.start()
            return
        try:
            if isinstance(resume, Journal):
                resume.load(self._expected(among), self._source.unit)
            else:
                resume.load(self._source.ids)
        except InputError as error:
            run.discards(error)
            resume.start()
        run.keep(resume, noun)

    def _expected(self, among: Sequence[str] | None) -> Sequence[str] | None:
        """Ids of the records that a journal should hold, in order."""
        ids = self._source.ids
        if ids is None or among is None:
            return ids
        known = set(among)
        return ids[:next((n for n, identifier in enumerate(ids) if identifier not in known), len(ids))]

    def _is_whole(self, held: Sequence[str] | None) -> bool:
        """Whether an output on disk holds the records of all images; of pictures nobody knows how many there are."""
        return held is not None and self._source.ids is not None and set(held) >= set(self._source.ids)

    def _in_whole_batches(self, held: Collection[str], finished: Sequence[str]) -> tuple[str, ...]:
        """What is held but not finished, without images whose batch lacks another one: they are made together."""
        ids, unit, known = self._source.ids, self._source.unit, {*held, *finished}
        if ids is not None:
            batches = (ids[start:start + unit] for start in range(0, len(ids), unit))
            held = [each for batch in batches if known.issuperset(batch) for each in batch]
        done = frozenset(finished)
        return tuple(each for each in held if each not in done)

    def _finish(self, resume: Journal | PartialFolder | None) -> NoReturn:
        """End, as the output is whole already."""
        if resume is not None:
            resume.remove()
        self._run.say(f"{self._run.command}: {self.output} is finished already")
        raise typer.Exit

    def _say_resuming(self, count: int, lacking: int = 0) -> None:
        if not count and not lacking:
            # So begins every run of a script that has --resume in each line.
            self._run.detail(f"{self.output}: nothing to resume, starting from scratch")
            return
        done = f"resuming after {counted(count, self._noun)}" if count else "starting from scratch"
        lacks = f"lacks {counted(lacking, self._noun)}, " if lacking else ""
        self._run.say(f"{self._run.command}: {self.output}: {lacks}{done}")
