"""SIGTERM ends a command as Ctrl-C does: what it has half written is removed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

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
    pid, last_s = os.getpid(), float("-inf")

    def on_signal(number: int, _: FrameType | None) -> None:
        nonlocal last_s
        if os.getpid() != pid:  # a forked child that inherited this handler
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        before_s, last_s = last_s, time.monotonic()
        if last_s - before_s > _ECHO_S:
            raise Terminated

    signal.signal(signal.SIGTERM, on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
