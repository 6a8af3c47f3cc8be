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

# What becomes of an image that fails: told to this function and left out, or, if None, raised.
OnError = Callable[[DrstoolError], None]
# A progress display: wraps an iterable, given what is done and how many there will be.
Track = Callable[[Iterable, str, "int | None"], Iterable]

# Tasks handed out per thread: enough that none idles while the consumer is busy.
_AHEAD = 2

_LARGE_BLOCK = 31 << 20


def untracked(items: Iterable[Item], description: str, total: int | None = None) -> Iterable[Item]:
    """The items as they are: the progress display that shows nothing."""
    return items


def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int,
    share: Callable[[Item], float] | None = None,
) -> Iterator[Result]:
    """``function(item)`` for each item, computed in threads, in the items' order.

    Threads serve where the work lets go of the interpreter: decoding, reading, NumPy. Items are
    taken one by one in the caller's thread, at most ``2 * workers`` tasks ahead of the results, and a
    result that is ready is yielded before the next task is waited for, so that a pipe flows.

    Parameters
    ----------
    function
        Called from several threads at once.
    items
        May be endless; it is never read to its end ahead of time.
    workers
        Number of threads; up to 1 means none, the function then runs in the caller's thread.
    share
        What share of a task an item is; items are handed to a thread together until they come to 1.
        By default each is a whole one. More than one pays where items are all at hand and done in a
        few milliseconds, of which handing over takes a good part.

    Raises
    ------
    Exception
        What the function or the iterable raises, at its place in the order, whatever the number
        of workers: the results of the items before it come first.

    Examples
    --------
    >>> list(ordered_map(str, range(3), workers=2))
    ['0', '1', '2']
    """
    _keep_freed_memory()
    if workers <= 1:
        yield from map(function, items)
        return

    def several(group: list[Item]) -> tuple[list[Result], Exception | None]:
        done: list[Result] = []
        try:
            for item in group:
                done.append(function(item))
        except Exception as error:
            return done, error
        return done, None

    def results(outcome: tuple[list[Result], Exception | None]) -> Iterator[Result]:
        yield from outcome[0]
        if outcome[1] is not None:
            raise outcome[1]

    pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="drstool")
    pending: deque[Future[tuple[list[Result], Exception | None]]] = deque()
    try:
        remaining = iter(items)
        failure: Exception | None = None
        ended = False
        while not ended:
            while pending and (len(pending) >= _AHEAD * workers or pending[0].done()):
                yield from results(pending.popleft().result())
            group: list[Item] = []
            filled = 0.0
            try:
                while filled < 1:
                    item = next(remaining)
                    group.append(item)
                    filled += 1 if share is None else share(item)
            except StopIteration:
                ended = True
            except Exception as error:  # raised below, after the results that precede it
                failure, ended = error, True
            if group:
                pending.append(pool.submit(several, group))
        while pending:
            yield from results(pending.popleft().result())
        if failure is not None:
            raise failure
    finally:
        # Reached early when the consumer stops or a task failed; what has not begun never does.
        pool.shutdown(wait=True, cancel_futures=True)


def map_items(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int,
    on_error: OnError | None = None, share: Callable[[Item], float] | None = None,
) -> Iterator[Result]:
    """As :func:`ordered_map`; with ``on_error``, items whose work fails are reported and left out.

    Parameters
    ----------
    function, items, workers, share
        See :func:`ordered_map`.
    on_error
        Called in the caller's thread with each item's :class:`DrstoolError`, in the items' order.
        None: the first one is raised. Other exceptions, and those of ``items`` itself, after
        which it cannot go on, are always raised.

    Examples
    --------
    >>> def half(number):
    ...     if number % 2:
    ...         raise DrstoolError(number, "is odd")
    ...     return number // 2
    >>> failed = []
    >>> list(map_items(half, range(5), 1, failed.append)), [str(error) for error in failed]
    ([0, 1, 2], ['1: is odd', '3: is odd'])
    """
    if on_error is None:
        yield from ordered_map(function, items, workers, share)
        return

    def attempt(item: Item) -> tuple[Result | None, DrstoolError | None]:
        try:
            return function(item), None
        except DrstoolError as error:
            if signal_behind(error) is not None:
                # It is not the item that failed.
                raise
            return None, error

    for result, error in ordered_map(attempt, items, workers, share):
        if error is None:
            yield result  # type: ignore[misc]
        else:
            on_error(error)


@cache
def _keep_freed_memory() -> None:
    """Let the C library keep what an image took for the next one.

    glibc gives blocks back to the system from a size on that it learns: that of the largest one
    freed so far, up to 32 MB. Until it knows, each image's arrays are zeroed anew by the system,
    page by page, which costs about as much as decoding them. Nothing is touched here.
    """
    bytes(_LARGE_BLOCK)
