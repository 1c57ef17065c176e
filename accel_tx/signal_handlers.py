"""Signal handlers that forked children do not inherit.

Python runs a handler between two byte codes only. A child that has inherited one, and that a signal finds on its way
into a lock, notes the signal and waits on: `Pool.terminate` and `Dataset.map` would then wait for that child for ever.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

Handler = Callable[[int, FrameType | None], object]

_handlers: dict[int, Handler] = {}


def handle(number: int, handler: Handler) -> Any:
    """`signal.signal`, but children forked while `handler` is in place get the system's own handling."""
    _handlers[number] = handler
    return signal.signal(number, handler)


def _forget() -> None:
    for number, handler in _handlers.items():
        if signal.getsignal(number) == handler:
            signal.signal(number, signal.SIG_DFL)


os.register_at_fork(after_in_child=_forget)
