from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from accel_tx.inference.ahead import taken_ahead


def until(is_so: Callable[[], bool]) -> None:
    """Wait for it, and fail after ten seconds without."""
    ends_at_s = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < ends_at_s
        time.sleep(0.01)


@pytest.mark.parametrize("n", [0, 1, 3, 50])
def test_the_items_are_the_same_in_the_same_order(n: int) -> None:
    assert list(taken_ahead(iter(range(20)), n)) == list(range(20))
    assert list(taken_ahead(iter(()), n)) == []


@pytest.mark.parametrize("n", [0, 1, 3])
def test_an_error_comes_behind_the_items_before_it(n: int) -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("the disk is gone")

    ahead = taken_ahead(items(), n)
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(OSError, match="the disk is gone"):
        next(ahead)


def test_items_are_taken_while_the_one_before_is_worked_on_but_not_all_of_them() -> None:
    taken = []

    def items() -> Iterator[int]:
        for i in range(100):
            taken.append(i)
            yield i

    ahead = taken_ahead(items(), 4)
    assert next(ahead) == 0
    until(lambda: len(taken) == 6)  # four that wait, and one that has no room yet
    time.sleep(0.1)
    assert len(taken) == 6
    assert next(ahead) == 1
    until(lambda: len(taken) == 7)


def test_the_thread_ends_where_nobody_wants_the_rest() -> None:
    before = set(threading.enumerate())

    def items() -> Iterator[int]:
        i = 0
        while True:
            yield (i := i + 1)

    ahead = taken_ahead(items(), 2)
    assert next(ahead) == 1
    (thread,) = set(threading.enumerate()) - before
    assert thread.is_alive()
    ahead.close()  # type: ignore[attr-defined]
    until(lambda: not thread.is_alive())
