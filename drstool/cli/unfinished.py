"""``--resume`` of commands that work image by image: what is finished is kept, and found again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from drstool.cli.run import Run, check_left_over
from drstool.errors import OutputError, UsageError

if TYPE_CHECKING:
    from drstool.artifacts.job import Work
    from drstool.artifacts.resume import Journal, KeptFolder
    from drstool.data import Item
    from drstool.formats import RecordSource

__all__ = ["begin", "ids_of", "is_finished", "rest_of"]


def is_finished(run: Run, output: str | None, kind: str, work: Work, ids: Sequence[str] | None) -> bool:
    """Whether --resume finds an output that is whole and of this very work.

    Raises
    ------
    OutputError
        It is of other work, and not to be overwritten.
    """
    import os

    from drstool.formats import check_same_records, goes_to_disk

    if not run.resume or not goes_to_disk(output) or not os.path.exists(str(output)):
        return False
    if os.path.isdir(str(output)) and not os.listdir(str(output)):
        return False
    difference = check_same_records(str(output), kind, work, ids)
    if difference is None:
        return True
    if run.overwrite:
        return False
    raise OutputError(output, f"exists, and {difference}", "give another -o, or --overwrite")


def begin(
    run: Run, output: str | None, kind: str, work: Work, ids: Sequence[str] | None, *, unit: int = 1,
    piped: bool = False, among: Sequence[str] | None = None, silent: bool = False,
) -> Journal | KeptFolder | None:
    """What is finished of an output, to be gone on with; None where nothing can be kept.

    Ends the command where all is finished.

    Parameters
    ----------
    run
        Has reserved the output.
    output
    kind
        Of the records.
    work
        What the command does.
    ids
        Of the images to come, in their order, where that is known.
    unit
        Images of one batch.
    piped
        Whether the input comes through a pipe, so that nobody knows whether it is the same again.
    among
        Ids beyond which nothing is to be taken for finished.
    silent
        Whether somebody else tells how much is finished.
    """
    from drstool.artifacts.header import carrier
    from drstool.artifacts.resume import Journal
    from drstool.formats import goes_to_disk, kept_beside

    if not goes_to_disk(output):
        return None
    if piped:
        if run.resume:
            raise UsageError(
                "--resume", "the input comes through a pipe, which is read only once",
                "save it first, and name the file")
        return None
    if is_finished(run, output, kind, work, ids):
        kept_beside(str(output), carrier(kind), work).remove()
        run.say(f"{run.command}: {output} is finished already")
        raise typer.Exit
    kept = kept_beside(str(output), carrier(kind), work)
    if not run.resume:
        if (left := kept.left_over()) is not None:
            count, seconds = left
            check_left_over(run, str(output), f"{count:,} finished" if count else "", seconds)
            kept.remove()
        run.keep(kept)
        kept.begin()
        return kept
    if isinstance(kept, Journal):
        expected = ids
        if ids is not None and among is not None:
            known = set(among)
            end = next((n for n, identifier in enumerate(ids) if identifier not in known), len(ids))
            expected = ids[:end]
        kept.take_up(expected, unit)
    else:
        kept.take_up()
    run.keep(kept)
    if silent:
        return kept
    run.say(
        f"{run.command}: {output}: " + (
            f"going on after {len(kept.done):,} finished" if kept.done
            else "nothing to go on with, starting from the beginning"))
    return kept


def rest_of(items: Sequence[Item], kept: Journal | KeptFolder | None) -> list[Item]:
    """The items that are not finished yet."""
    done = frozenset(kept.done if kept is not None else ())
    return [item for item in items if item.id not in done]


def ids_of(source: RecordSource, path: str | None, resume: bool) -> tuple[str, ...] | None:
    """Ids of a source's records; of a saved stream only where they are needed, as it must be read for them."""
    from drstool.formats import open_records

    ids = source.ids()
    if ids is None and resume and path not in (None, "-"):
        with open_records(path) as again:
            return tuple(record.id for record in again.records())
    return ids
