"""Work on many images at once, with results in order and bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TypeVar

from drstool.errors import DrstoolError, signal_behind

__all__ = ["OnError", "Track", "map_items", "ordered_map", "untracked"]

Item = TypeVar("Item")
Result = TypeVar("Result")

# Called with the error of an image that fails and is left out; with None, the error is raised.
OnError = Callable[[DrstoolError], None]
# A progress display: wraps an iterable, given a description and how many there will be.
Track = Callable[[Iterable, str, "int | None"], Iterable]

# Tasks per thread that are submitted ahead, so that none idles while the consumer is busy.
_AHEAD = 2


def untracked(items: Iterable[Item], description: str, total: int | None = None) -> Iterable[Item]:
    """The items as they are: the progress display that shows nothing."""
    return items


def ordered_map(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """``function(item)`` for each item, computed in threads, in the items' order.

    The caller's thread takes the items, which may be endless, at most ``2 * workers`` ahead of the results.
    A result that is ready is yielded before the next item is waited for, so that a pipe flows.

    Parameters
    ----------
    function
        Called from several threads at once, which helps where it releases the interpreter lock.
    items
    workers
        Number of threads; up to 1 means none, the function then runs in the caller's thread.

    Raises
    ------
    Exception
        Whatever the function or the iterable raises, after the results of the items before it.

    Examples
    --------
    >>> list(ordered_map(str, range(3), workers=2))
    ['0', '1', '2']
    """
    _keep_freed_memory()
    if workers <= 1:
        yield from map(function, items)
        return
    pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="drstool")
    pending: deque[Future[Result]] = deque()
    source, failure = iter(items), None
    try:
        while failure is None:
            while pending and (len(pending) >= _AHEAD * workers or pending[0].done()):
                yield pending.popleft().result()
            try:
                pending.append(pool.submit(function, next(source)))
            except StopIteration:
                break
            except Exception as error:  # raised below, after the results that precede it
                failure = error
        while pending:
            yield pending.popleft().result()
        if failure is not None:
            raise failure
    finally:
        # Reached early when the consumer stops or a task failed; pending tasks never start.
        pool.shutdown(wait=True, cancel_futures=True)


def map_items(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int, on_error: OnError | None = None, *,
    gaps: bool = False,
) -> Iterator[Result]:
    """As :func:`ordered_map`; with ``on_error``, items whose work fails are left out or, with ``gaps``, None.

    It is called in the caller's thread with each such item's :class:`DrstoolError`, in the items' order.
    Other exceptions, and those of ``items`` itself, are always raised.
    """
    if on_error is None:
        yield from ordered_map(function, items, workers)
        return

    def attempt(item: Item) -> tuple[Result | None, DrstoolError | None]:
        try:
            return function(item), None
        except DrstoolError as error:
            if signal_behind(error) is not None:
                raise  # it is not the item that failed
            return None, error

    for result, error in ordered_map(attempt, items, workers):
        if error is None:
            yield result  # type: ignore[misc]
        else:
            on_error(error)
            if gaps:
                yield None  # type: ignore[misc]


@cache
def _keep_freed_memory() -> None:
    """Let the C library keep what an image took for the next one.

    glibc returns blocks above a threshold to the system, and raises it to the largest block freed so far,
    up to 32 MB. Until then the system zeroes each image's arrays anew, page by page, which costs about as
    much as decoding them. Nothing is touched here.
    """
    bytes(31 << 20)
