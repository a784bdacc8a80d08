"""Calls that threads make ahead: their order, their number, and what becomes of errors."""

import threading
import time
from functools import partial

import pytest

from htdg.runtime.parallel import run_ahead


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("ahead", [1, 4, 100])
def test_results_come_in_the_order_of_the_calls(workers, ahead):
    def square(i):
        time.sleep(0.01 if i % 3 == 0 else 0)  # so that later calls finish before earlier ones
        return i * i

    calls = [partial(square, i) for i in range(10)]
    assert list(run_ahead(calls, workers, ahead)) == [i * i for i in range(10)]


def test_without_calls_there_are_no_results():
    assert list(run_ahead([])) == []


def test_calls_run_in_threads_and_side_by_side():
    both_run = threading.Barrier(2, timeout=10)  # breaks unless two calls wait for each other

    def meet():
        both_run.wait()
        return threading.get_ident()

    threads = set(run_ahead([meet, meet], workers=2, ahead=2))
    assert len(threads) == 2
    assert threading.get_ident() not in threads


def test_no_more_calls_are_taken_than_asked_for():
    taken = []

    def calls():
        for i in range(100):
            taken.append(i)
            yield lambda: None

    results = run_ahead(calls(), workers=2, ahead=3)
    assert taken == []
    next(results)
    assert taken == [0, 1, 2]
    next(results)
    assert taken == [0, 1, 2, 3]
    results.close()
    assert taken == [0, 1, 2, 3]


def test_an_error_is_raised_when_its_turn_comes():
    def fail():
        raise KeyError("broken")

    results = run_ahead([lambda: 1, lambda: 2, fail, lambda: 4], workers=2, ahead=4)
    assert [next(results), next(results)] == [1, 2]
    with pytest.raises(KeyError, match="broken"):
        next(results)
    assert list(results) == []


def test_calls_that_have_not_begun_are_dropped_on_closing():
    begun, go_on = [], threading.Event()

    def call(i):
        begun.append(i)
        go_on.wait(10)

    results = run_ahead([lambda: None, *(partial(call, i) for i in range(20))], 1, 10)
    next(results)
    threading.Timer(0.2, go_on.set).start()
    results.close()
    assert len(begun) <= 2
