"""SIGTERM ends a command as Ctrl-C does: what it has half written is removed."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from accel_tx.signal_handlers import handle

# `timeout` sends it to the command and then to its process group.
_ECHO_S = 0.5


class Terminated(KeyboardInterrupt):
    """SIGTERM came. Libraries that tidy up after a Ctrl-C do so after this as well."""


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """Inside, SIGTERM raises Terminated, unless it is handled or ignored already."""
    is_ours = threading.current_thread() is threading.main_thread()
    if not is_ours or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    last_s = float("-inf")

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        nonlocal last_s
        before_s, last_s = last_s, time.monotonic()
        if last_s - before_s > _ECHO_S:
            raise Terminated

    handle(signal.SIGTERM, on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
