"""What `prefetch` promises: order, errors in their place, and no thread left behind."""

from __future__ import annotations

import itertools
import threading
import time

import pytest

from gen_jax.train.prefetch import prefetch


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("prefetch")]


@pytest.mark.parametrize("depth", [1, 2, 50])
def test_results_come_in_order_from_another_thread(depth: int) -> None:
    def function(item: int) -> tuple[int, str]:
        time.sleep(0.001 * (item % 3))
        return item * item, threading.current_thread().name

    results = list(prefetch(function, range(20), depth))
    assert [value for value, _ in results] == [i * i for i in range(20)]
    assert {name.split("_")[0] for _, name in results} == {"prefetch"}
    assert threads() == []


def test_works_ahead_by_depth_and_no_further() -> None:
    done: list[int] = []
    generator = prefetch(lambda item: done.append(item) or item, itertools.count(), depth=3)
    assert next(generator) == 0
    deadline = time.monotonic() + 5
    while len(done) < 4 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.05)
    assert done == [0, 1, 2, 3]
    generator.close()
    assert threads() == []


def test_an_error_comes_out_where_its_result_would() -> None:
    def function(item: int) -> int:
        if item == 3:
            raise KeyError("three")
        return item

    results = []
    with pytest.raises(KeyError, match="three"):
        for result in prefetch(function, range(10)):
            results.append(result)
    assert results == [0, 1, 2]
    assert threads() == []


def test_an_error_of_the_items_comes_out() -> None:
    def items() -> itertools.count:
        yield 1
        raise RuntimeError("items")

    with pytest.raises(RuntimeError, match="items"):
        list(prefetch(str, items()))
    assert threads() == []


def test_breaking_off_ends_the_thread_promptly() -> None:
    begin = time.monotonic()
    generator = prefetch(lambda item: time.sleep(0.05 * bool(item)) or item, itertools.count(), depth=100)
    for result in generator:
        assert result == 0
        break
    generator.close()
    assert threads() == []
    assert time.monotonic() - begin < 2  # All hundred would take five seconds.


def test_nothing_starts_before_the_first_result_is_asked_for() -> None:
    prefetch(str, range(3))
    assert threads() == []
    assert list(prefetch(str, [])) == []
