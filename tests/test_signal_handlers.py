"""A forked child is ended by the signals that its parent handles, wherever it waits."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from accel_tx.cli.termination import sigterm_raises
from accel_tx.signal_handlers import handle
from accel_tx.train.stopping import SIGNALS, Stop


def in_forked_child(number: int) -> object:
    """What a child forked now does on the signal: `SIG_DFL`, `SIG_IGN` or, for any other handler, None."""
    pid = os.fork()
    if not pid:
        handler = signal.getsignal(number)
        os._exit(int(handler) if handler in (signal.SIG_DFL, signal.SIG_IGN) else 9)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return None if code == 9 else signal.Handlers(code)


@pytest.mark.parametrize(
    ("handling", "numbers"), [(sigterm_raises, [signal.SIGTERM]), (Stop, [n for n in SIGNALS if n != signal.SIGHUP])]
)
def test_a_child_gets_the_handling_of_the_system(
    handling: Callable[[], AbstractContextManager[object]], numbers: list[int]
) -> None:
    with handling():
        assert {n: in_forked_child(n) for n in numbers} == dict.fromkeys(numbers, signal.SIG_DFL)


def test_a_handler_of_somebody_else_is_inherited() -> None:
    before = handle(signal.SIGUSR1, lambda *_: None)
    try:
        assert in_forked_child(signal.SIGUSR1) == signal.SIG_DFL
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        assert in_forked_child(signal.SIGUSR1) == signal.SIG_IGN
        signal.signal(signal.SIGUSR1, lambda *_: None)
        assert in_forked_child(signal.SIGUSR1) is None
    finally:
        signal.signal(signal.SIGUSR1, before)
