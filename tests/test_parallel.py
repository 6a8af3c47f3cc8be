from __future__ import annotations

import itertools
import threading
import time

import pytest

from drstool.errors import DrstoolError, InputError
from drstool.parallel import map_items, ordered_map, untracked


@pytest.mark.parametrize("workers", [0, 1, 2, 5])
def test_results_are_in_order(workers):
    def slow_first(number):
        time.sleep(0.02 if number % 5 == 0 else 0)
        return number * number

    assert list(ordered_map(slow_first, range(20), workers)) == [n * n for n in range(20)]
    assert list(ordered_map(slow_first, [], workers)) == []


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_items_are_taken_little_ahead(workers):
    latest = 0

    def items():
        nonlocal latest
        while True:
            yield latest
            latest += 1

    results = ordered_map(lambda number: number, items(), workers)
    for expected in range(50):
        assert next(results) == expected
        assert latest - expected <= 2 * workers
    results.close()


def test_work_is_done_at_the_same_time():
    together = threading.Barrier(3, timeout=10)
    assert len(list(ordered_map(lambda _: together.wait(), range(3), 3))) == 3


def test_result_that_is_ready_does_not_wait_for_a_slow_source():
    done = threading.Event()

    def items():
        yield 1
        assert done.wait(10)
        time.sleep(0.05)
        yield 2
        assert first_seen.is_set()
        yield 3

    def work(number):
        done.set()
        return number

    first_seen = threading.Event()
    for number in ordered_map(work, items(), 4):
        if number == 1:
            first_seen.set()


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_failure_comes_at_its_place(workers):
    def work(number):
        if number == 5:
            raise InputError(number, "is bad")
        return number

    seen = []
    with pytest.raises(InputError, match="5: is bad"):
        seen.extend(ordered_map(work, itertools.count(), workers))
    assert seen == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_failure_of_the_source_comes_after_the_results_before_it(workers):
    def items():
        yield from range(5)
        raise InputError("stdin", "ends early")

    seen = []
    with pytest.raises(InputError, match="ends early"):
        seen.extend(ordered_map(lambda number: number, items(), workers))
    assert seen == [0, 1, 2, 3, 4]


def test_stopping_early_leaves_no_thread():
    before = threading.active_count()
    results = ordered_map(lambda number: number, itertools.count(), 4)
    assert next(results) == 0
    results.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("workers", [1, 3])
def test_failed_items_are_told_in_order_and_left_out(workers):
    def work(number):
        if number % 3 == 0:
            raise InputError(number, "is bad")
        return number

    told = []
    assert list(map_items(work, range(10), workers, told.append)) == [1, 2, 4, 5, 7, 8]
    assert [error.where for error in told] == ["0", "3", "6", "9"]
    with pytest.raises(InputError):
        list(map_items(work, range(10), workers))


@pytest.mark.parametrize("workers", [1, 3])
def test_other_exceptions_are_always_raised(workers):
    told = []
    with pytest.raises(ZeroDivisionError):
        list(map_items(lambda number: 1 // number, range(3), workers, told.append))
    assert told == []


def test_untracked_is_the_items_themselves():
    items = [1, 2]
    assert untracked(items, "work", 2) is items


def test_a_signal_that_arrives_as_an_items_failure_is_none():
    def read(number):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise InputError(number, "is damaged") from (RuntimeError("a library's") if number else error)

    told = []
    with pytest.raises(DrstoolError, match="0: is damaged"):
        list(map_items(read, [0, 1], 0, told.append))
    assert told == []
