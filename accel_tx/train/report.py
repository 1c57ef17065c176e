"""What all processes must know of an update, with one small all-reduce, and without a wait for the device.

A signal may reach one process only, or several at different updates, but all must stop after the same one; and what an
update's loss was, nobody knows alone. So in every update the processes sum up two numbers: the loss, and how many of
them were asked to stop. On a GPU the host reads the report of an update when the next one is already queued behind it,
so it never waits for work that has just been given out.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor


@dataclass(frozen=True)
class Report:
    """One update, as every process sees it, except for the last field."""

    update: int
    """Its number, from 0."""
    loss: float
    """Nats a target token, as trained."""
    n_stops: int
    """Processes that were asked to stop."""
    verdict: int
    """Of `bad_numbers.Judge`."""
    grad_norm: float
    own_loss_sums: Tensor
    """Loss of each micro-batch of this process, on the device."""


def sums_dtype(device: torch.device) -> torch.dtype:
    """What losses are summed in: float64 where the device has it.

    There the sum of float32 losses is the same in any order, so neither a stop nor more processes change a digit.
    """
    return torch.float32 if device.type == "mps" else torch.float64


class Reports:
    """The reports that are still on their way from the device, oldest first."""

    def __init__(self, accelerator: Accelerator, lag: int | None = None) -> None:
        """`lag`: updates given out before one is read; by default 1 on a GPU and 0 on a CPU, which never waits."""
        self.accelerator = accelerator
        self.lag = int(accelerator.device.type != "cpu") if lag is None else lag
        self._pending: deque[tuple[int, Tensor, Tensor, torch.cuda.Event | None]] = deque()

    def share(self, own_loss_sums: Tensor, is_asked: bool) -> Tensor:
        """Over all processes: the loss sum of the update, and how many were asked to stop. Shape (2,).

        `own_loss_sums`: of each micro-batch of this process.
        """
        own = own_loss_sums.to(sums_dtype(own_loss_sums.device)).sum()
        numbers = torch.stack([own, torch.full_like(own, is_asked)])
        return numbers if self.accelerator.num_processes == 1 else self.accelerator.reduce(numbers)

    def add(self, update: int, numbers: Tensor, own_loss_sums: Tensor) -> None:
        """Give a report on its way. `numbers`, shape (4,): loss, stops, verdict, norm of the gradient."""
        event = None
        if numbers.is_cuda:
            numbers = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True).copy_(numbers, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
        self._pending.append((update, numbers, own_loss_sums, event))

    def take(self, every: bool) -> list[Report]:
        """The reports that are due, or every one: that waits for the device."""
        taken = []
        while len(self._pending) > (0 if every else self.lag):
            update, numbers, own_loss_sums, event = self._pending.popleft()
            if event is not None:
                event.synchronize()
            loss, n_stops, verdict, grad_norm = numbers.tolist()
            taken.append(Report(update, loss, round(n_stops), round(verdict), grad_norm, own_loss_sums))
        return taken
