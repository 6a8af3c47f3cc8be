"""Work on many images at once, with results in order and bounded memory."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from itertools import islice
from typing import Generic, TypeVar

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

# Short enough to be waited for, and long beside the time that handing it over takes; and at most so many
# items, as those that come next may be larger.
_TASK_SECONDS, _MOST_TOGETHER = 0.02, 8

_LARGE_BLOCK = 31 << 20


def untracked(items: Iterable[Item], description: str, total: int | None = None) -> Iterable[Item]:
    """The items as they are: the progress display that shows nothing."""
    return items


def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int,
    at_hand: bool = False,
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
    at_hand
        Whether the items are there and need not be waited for. Then several are handed to a thread at
        once where they take a few milliseconds each, of which handing over would take a good part.

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

    pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="drstool")
    pending: deque[Future[_Done[Result]]] = deque()
    together = 1
    try:
        remaining = iter(items)
        failure: Exception | None = None
        ended = False
        while not ended:
            while pending and (len(pending) >= _AHEAD * workers or pending[0].done()):
                done = pending.popleft().result()
                yield from done.results()
                if at_hand:
                    together = done.fitting()
            group: list[Item] = []
            try:
                group.extend(islice(remaining, together))
            except Exception as error:  # raised below, after the results that precede it
                failure = error
            ended = failure is not None or len(group) < together
            if group:
                pending.append(pool.submit(_Done.of, function, group))
        while pending:
            yield from pending.popleft().result().results()
        if failure is not None:
            raise failure
    finally:
        # Reached early when the consumer stops or a task failed; what has not begun never does.
        pool.shutdown(wait=True, cancel_futures=True)


class _Done(Generic[Result]):
    """What a task came to: results, perhaps an exception after them, and the processor's time an item took."""

    def __init__(self) -> None:
        self._found: list[Result] = []
        self._failure: Exception | None = None
        self._seconds = 0.0

    @classmethod
    def of(cls, function: Callable[[Item], Result], group: Sequence[Item]) -> _Done[Result]:
        """Do the task, in the calling thread."""
        done, began = cls(), time.thread_time()
        try:
            for item in group:
                done._found.append(function(item))
        except Exception as error:
            done._failure = error
        done._seconds = (time.thread_time() - began) / len(group)
        return done

    def results(self) -> Iterator[Result]:
        """The results in order; then the exception is raised."""
        yield from self._found
        if self._failure is not None:
            raise self._failure

    def fitting(self) -> int:
        """How many such items make a task."""
        return min(_MOST_TOGETHER, max(1, int(_TASK_SECONDS / max(self._seconds, 1e-9))))


def map_items(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int,
    on_error: OnError | None = None, at_hand: bool = False,
) -> Iterator[Result]:
    """As :func:`ordered_map`; with ``on_error``, items whose work fails are reported and left out.

    Parameters
    ----------
    function, items, workers, at_hand
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
        yield from ordered_map(function, items, workers, at_hand)
        return

    def attempt(item: Item) -> tuple[Result | None, DrstoolError | None]:
        try:
            return function(item), None
        except DrstoolError as error:
            if signal_behind(error) is not None:
                # It is not the item that failed.
                raise
            return None, error

    for result, error in ordered_map(attempt, items, workers, at_hand):
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
