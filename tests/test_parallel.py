from __future__ import annotations

import itertools
import threading
import time
import types

import pytest

from drstool.errors import DrstoolError, InputError
from drstool.parallel import _Done, map_items, ordered_map, untracked


@pytest.mark.parametrize("at_hand", [False, True])
@pytest.mark.parametrize("workers", [0, 1, 2, 5])
def test_results_are_in_order(workers, at_hand):
    def slow_first(number):
        time.sleep(0.02 if number % 5 == 0 else 0)
        return number * number

    assert list(ordered_map(slow_first, range(20), workers, at_hand)) == [n * n for n in range(20)]
    assert list(ordered_map(slow_first, [], workers, at_hand)) == []


@pytest.mark.parametrize("at_hand", [False, True])
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_items_are_taken_little_ahead(workers, at_hand):
    latest = 0

    def items():
        nonlocal latest
        while True:
            yield latest
            latest += 1

    results = ordered_map(lambda number: number, items(), workers, at_hand)
    for expected in range(50):
        assert next(results) == expected
        assert latest - expected <= 2 * workers * (8 if at_hand else 1)
    results.close()


@pytest.mark.parametrize(("seconds", "together"), [(0, 8), (0.001, 8), (0.0051, 3), (0.011, 1), (3.0, 1)])
def test_short_items_are_handed_over_together(monkeypatch, seconds, together):
    clock = itertools.count(step=3 * seconds)
    monkeypatch.setattr("drstool.parallel.time", types.SimpleNamespace(thread_time=lambda: next(clock)))
    done = _Done.of(str, [1, 2, 3])
    assert list(done.results()) == ["1", "2", "3"]
    assert done.fitting() == together


@pytest.mark.parametrize("at_hand", [False, True])
def test_only_items_at_hand_are_handed_over_together(at_hand):
    """Each is done in no time; the first task is known to be short before the last ones are handed over."""
    tasks = []

    def items():
        for number in range(100):
            tasks.append(number)
            yield number

    ahead = max(len(tasks) - number for number in ordered_map(lambda number: number, items(), 2, at_hand))
    assert ahead <= 2 * 2 * (8 if at_hand else 1) + 8
    assert (ahead > 2 * 2 + 1) is at_hand


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


@pytest.mark.parametrize("at_hand", [False, True])
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_failure_comes_at_its_place(workers, at_hand):
    def work(number):
        if number == 5:
            raise InputError(number, "is bad")
        return number

    seen = []
    with pytest.raises(InputError, match="5: is bad"):
        seen.extend(ordered_map(work, itertools.count(), workers, at_hand))
    assert seen == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("at_hand", [False, True])
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_failure_of_the_source_comes_after_the_results_before_it(workers, at_hand):
    def items():
        yield from range(5)
        raise InputError("stdin", "ends early")

    seen = []
    with pytest.raises(InputError, match="ends early"):
        seen.extend(ordered_map(lambda number: number, items(), workers, at_hand))
    assert seen == [0, 1, 2, 3, 4]


def test_stopping_early_leaves_no_thread():
    before = threading.active_count()
    results = ordered_map(lambda number: number, itertools.count(), 4)
    assert next(results) == 0
    results.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("at_hand", [False, True])
@pytest.mark.parametrize("workers", [1, 3])
def test_failed_items_are_told_in_order_and_left_out(workers, at_hand):
    def work(number):
        if number % 3 == 0:
            raise InputError(number, "is bad")
        return number

    told = []
    assert list(map_items(work, range(10), workers, told.append, at_hand)) == [1, 2, 4, 5, 7, 8]
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
