"""What all processes must know of an update, in one small all-reduce, without a wait for the device.

A signal may reach one process only, or several at different updates, but all must stop after the same one. So every
update each process adds to the sum whether it was asked to stop. On a GPU the host reads the answer one update late,
when the next update is already queued behind it, and never waits for work that has just been given out.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch
from accelerate import Accelerator


@dataclass(frozen=True)
class Report:
    """One update, as every process sees it."""

    update: int
    """Its number, from 0."""
    n_stops: int
    """Processes that were asked to stop."""


class Reports:
    """The reports that are still on their way from the device, oldest first."""

    def __init__(self, accelerator: Accelerator, lag: int | None = None) -> None:
        """`lag`: updates given out before one is read; by default 1 on a GPU and 0 on a CPU, which never waits."""
        self.accelerator = accelerator
        self.lag = int(accelerator.device.type != "cpu") if lag is None else lag
        self._pending: deque[tuple[int, torch.Tensor, torch.cuda.Event | None]] = deque()

    def add(self, update: int, is_asked: bool) -> None:
        """Give the report of an update on its way; all processes call it for every update."""
        numbers = torch.full((1,), float(is_asked), device=self.accelerator.device)
        if self.accelerator.num_processes > 1:
            numbers = self.accelerator.reduce(numbers)
        event = None
        if numbers.is_cuda:
            numbers = torch.empty(numbers.shape, pin_memory=True).copy_(numbers, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
        self._pending.append((update, numbers, event))

    def take(self, every: bool) -> list[Report]:
        """The reports that are due, or every one: that waits for the device."""
        taken = []
        while len(self._pending) > (0 if every else self.lag):
            update, numbers, event = self._pending.popleft()
            if event is not None:
                event.synchronize()
            taken.append(Report(update, round(float(numbers[0]))))
        return taken
