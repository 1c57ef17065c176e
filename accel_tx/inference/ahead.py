"""Items taken before they are asked for."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import TypeVar

_T = TypeVar("_T")
_END = object()


def taken_ahead(items: Iterator[_T], n: int) -> Iterator[_T]:
    """The items, of which a thread takes up to n before they are asked for; with n = 0 they are as they were.

    An error in the making of an item comes in its place, behind the items before.
    """
    return _ahead(items, n) if n else items


def _ahead(items: Iterator[_T], n: int) -> Iterator[_T]:
    waiting: queue.Queue[object] = queue.Queue(n)
    is_wanted = threading.Event()
    is_wanted.set()

    def take() -> None:
        last: object = _END
        try:
            for item in items:
                waiting.put(item)
                if not is_wanted.is_set():
                    return
        except BaseException as error:
            last = _Failed(error)
        waiting.put(last)

    # A daemon: it may wait for a line that never comes.
    threading.Thread(target=take, daemon=True).start()
    try:
        while (item := waiting.get()) is not _END:
            if isinstance(item, _Failed):
                raise item.error
            yield item  # type: ignore[misc]
    finally:
        is_wanted.clear()
        while not waiting.empty():  # a put that waits for room goes on, and sees that it was the last
            waiting.get()


class _Failed:
    def __init__(self, error: BaseException) -> None:
        self.error = error
