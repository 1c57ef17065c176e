"""Stopping a run early, so that the same command goes on exactly: signals, a STOP file, a limit of hours.

What asks: SIGTERM, SIGINT (Ctrl-C), SIGUSR1 and SIGUSR2 (the usual choices of `sbatch --signal` and of submitit),
SIGHUP unless it is ignored, as under nohup; a file STOP in the run folder; `train.max_hours`. Handlers only take a
note: the running update is finished, a checkpoint written, and a file PREEMPTED says that the run wants to be started
again.

Before the first update nothing can be lost, and a signal ends the program at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from accel_tx.signal_handlers import handle

STOP_FILE = "STOP"
PREEMPTED_FILE = "PREEMPTED"
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
# One Ctrl-C may arrive twice, from the terminal and from a launcher; a person's second one comes later.
_ECHO_S = 0.5
_FILE_EVERY_S = 1.0
_PR_SET_PDEATHSIG = 1


class StopAsked(Exception):  # noqa: N818 - nothing is wrong
    """Raised by `Stop.poll` where somebody asked for a stop."""


class Stop:
    """Whether this process has been asked to stop, and by what. A context: inside it the signals are handled."""

    def __init__(self, ends_program: bool = False) -> None:
        """`ends_program`: nothing follows the training, so signals that come while Python shuts down are ignored."""
        self.ends_program = ends_program
        self.reason: str | None = None
        self.run_dir: Path | None = None
        self.started_at_s = time.monotonic()
        self.max_hours: float | None = None
        self.slowest_update_s = self.slowest_save_s = self.slowest_write_s = 0.0
        self._interrupted_at_s: float | None = None
        self._looked_at_s = -_FILE_EVERY_S
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        # Python takes handlers from the main thread only; elsewhere the file and the limit remain.
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = handle(number, self._on_signal)
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        ignore = self.ends_program and error is None
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_IGN if ignore else handler)
        self._before = {}

    def finish_updates_first(self, run_dir: Path, max_hours: float | None) -> None:
        """From now on a signal waits for the running update and the checkpoint, and file and limit are looked at.

        The limit counts from the making of this object: the start of the program, where that made it first of all.
        """
        self.run_dir, self.max_hours = run_dir, max_hours
        if max_hours is not None and not self.slowest_save_s:
            self.slowest_save_s = min(60.0, 0.01 * max_hours * 3600)  # until one has been timed

    def asked(self) -> str | None:
        """What asks for a stop, in words, or None. The file is looked for once a second."""
        now_s = time.monotonic()
        if self.reason is None and now_s - self._looked_at_s >= _FILE_EVERY_S:
            self._looked_at_s = now_s
            if self.has_file():
                self.reason = f"the file {STOP_FILE}"
        # The update that would begin now, the save behind it and the disk's part of that must fit in as well.
        needed_s = self.slowest_update_s + self.slowest_save_s + self.slowest_write_s
        left_s = math.inf if self.max_hours is None else self.started_at_s + self.max_hours * 3600 - now_s
        if self.reason is None and left_s <= needed_s:
            self.reason = f"train.max_hours = {self.max_hours}"
        return self.reason

    def has_file(self) -> bool:
        """Whether a STOP file stands in the run folder now."""
        # Path.exists raises what a network file system in trouble answers.
        return self.run_dir is not None and os.path.exists(self.run_dir / STOP_FILE)

    def poll(self) -> None:
        """Raise StopAsked where a stop was asked for."""
        if self.asked() is not None:
            raise StopAsked(self.reason)

    @contextlib.contextmanager
    def without_limit(self) -> Iterator[None]:
        """Inside, `max_hours` is not looked at."""
        max_hours, self.max_hours = self.max_hours, None
        try:
            yield
        finally:
            self.max_hours = max_hours

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        name, now_s = signal.Signals(number).name, time.monotonic()
        is_interrupt = number == signal.SIGINT
        if is_interrupt and self._interrupted_at_s is not None and now_s - self._interrupted_at_s > _ECHO_S:
            raise KeyboardInterrupt
        first = self.reason is None
        self.reason = self.reason or name
        if self.run_dir is None:
            if is_interrupt:
                raise KeyboardInterrupt
            _say(f"{name} before the first update; nothing is lost")
            sys.exit(128 + number)
        if is_interrupt and self._interrupted_at_s is None:
            self._interrupted_at_s = now_s
        if first:
            how = "again" if is_interrupt else "twice"
            _say(f"{name}: stopping after this update, with a checkpoint; Ctrl-C {how} stops at once")


def _say(text: str) -> None:
    # A handler may run inside a print, which must not be entered again; one process of several speaks.
    if os.environ.get("RANK", "0") == "0":
        with contextlib.suppress(OSError):  # the terminal whose end this may tell of is gone
            os.write(2, f"\naccel_tx: {text}\n".encode())


def end_with_launcher() -> None:
    """Get SIGTERM when the launcher of this process dies.

    `accelerate launch` with one process dies of a signal without passing it on, and of SIGKILL any launcher does. Only
    for a process whose parent is such a launcher: one started with nohup must outlive its shell. Linux only.
    The kernel sends the signal when the thread that made this process ends; launchers make it in their main thread.
    """
    parent = os.getppid()
    if not launcher_words():
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
    if os.getppid() != parent:  # it died before the kernel knew
        os.kill(os.getpid(), signal.SIGTERM)


def launcher_words() -> list[str]:
    """The command line of the launcher that is the parent of this process; empty if it is none. Linux only."""
    try:
        words = Path(f"/proc/{os.getppid()}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []
    is_torchs = "torchrun" in _names(words) or any(word.startswith("torch.distributed.") for word in words)
    return words if is_torchs or is_accelerate(words) else []


def is_accelerate(words: Sequence[str]) -> bool:
    """Whether a command line is one of `accelerate launch`; a folder of any name may hold the program."""
    return bool(_names(words) & {"accelerate", "accelerate-launch", "accelerate.commands.launch"})


def _names(words: Sequence[str]) -> set[str]:
    """Of the program; it may come behind the interpreter and `-m`."""
    return {Path(word).name for word in words[:3]}


def shield_worker(_: int) -> None:
    """Start of a loader worker: signals to the process group are the training's to answer; it ends with its parent."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))


@contextlib.contextmanager
def signals_wait() -> Iterator[None]:
    """Inside, signals are held back, also in the processes that are started inside, and there for good."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def preempted_text(reason: str, update: int, n_updates: int, is_saved: bool) -> str:
    """What the file PREEMPTED says, one `key: value` a line."""
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    lines = {
        "stopped_by": reason,
        "at": now,
        "update": f"{update} of {n_updates}",
        "checkpoint": f"checkpoints/update_{update:08d}" if is_saved else "that of an earlier update",
        "to_go_on": "start the same command again",
    }
    return "".join(f"{key}: {value}\n" for key, value in lines.items())
