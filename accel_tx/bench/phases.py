"""Clocks for the parts of a training step, without a wait for the device."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import torch

PHASES = ("loading", "forward", "backward", "optimizer")


class PhaseClock:
    """Seconds spent in each phase. On a GPU they are the device's own (events), except for loading.

    Loading is always the time that the host was held up. On a GPU that may run beside the device's work on what is
    queued, so there the parts may add up to more than the whole.
    """

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._begun: dict[str, float | torch.cuda.Event] = {}
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    def start(self, phase: str) -> None:
        """Begin a phase, or begin it anew."""
        self._begun[phase] = self._now(phase)

    def stop(self, phase: str) -> None:
        """End a phase that was begun."""
        begun, ended = self._begun.pop(phase), self._now(phase)
        if isinstance(begun, float) and isinstance(ended, float):
            self._seconds[phase] += ended - begun
        else:
            self._events.append((phase, begun, ended))  # type: ignore[arg-type]

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """What is inside belongs to this phase."""
        self.start(name)
        yield
        self.stop(name)

    def take(self) -> dict[str, float]:
        """The seconds of each phase since the last call; the device must have finished."""
        for phase, begun, ended in self._events:
            self._seconds[phase] += begun.elapsed_time(ended) / 1000
        self._events.clear()
        taken, self._seconds = self._seconds, dict.fromkeys(PHASES, 0.0)
        return taken

    def _now(self, phase: str) -> float | torch.cuda.Event:
        if not self.on_gpu or phase == "loading":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event
