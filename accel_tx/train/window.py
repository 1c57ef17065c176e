"""The sums behind a line of metrics: kept on the device, summed over processes when the line is due."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from accelerate import Accelerator

from accel_tx.data.batch import Batch
from accel_tx.train.bad_numbers import GOOD, OVERFLOW
from accel_tx.train.report import sums_dtype
from accel_tx.train.state import Window


class OpenWindow:
    """The updates since the last line of metrics, as this process sees them."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        # They stay on the device until a line is due: loss, target tokens of bad updates, overflows, bad updates.
        self.sums = torch.zeros(4, dtype=sums_dtype(accelerator.device), device=accelerator.device)
        self.counts = Window()

    def restore(self, saved: Window) -> None:
        """Go on with a window from a checkpoint, whose counts are those of all processes together."""
        self.counts = dataclasses.replace(saved)
        if not self.accelerator.is_main_process:
            self.counts.n_src_tokens = self.counts.n_padded_tokens = 0
        sums = [saved.loss_sum, saved.n_bad_tokens, saved.n_skipped_updates, saved.n_bad_updates]
        self.sums = torch.tensor(sums, dtype=self.sums.dtype, device=self.sums.device)

    def add_micro_batch(self, batch: Batch) -> None:
        """Count one micro-batch of this process, given as it was before it was moved to the device."""
        self.counts.n_src_tokens += batch.n_src_tokens if batch.n_tgt_tokens else 0
        self.counts.n_padded_tokens += batch.n_positions if batch.n_tgt_tokens else 0

    def add_update(self, n_tgt_tokens: int, loss_sum: torch.Tensor, verdict: torch.Tensor) -> None:
        """Count one update over all processes; the loss of a bad one is left out."""
        self.counts.n_tgt_tokens += n_tgt_tokens
        is_overflow = verdict == OVERFLOW
        is_bad = ~is_overflow & (verdict != GOOD)
        loss_sum = torch.where(is_bad, 0, loss_sum.to(self.sums.dtype))
        self.sums += torch.stack([loss_sum, is_bad * n_tgt_tokens, is_overflow, is_bad])

    def add_passed_over(self) -> None:
        """Count one update that is not made."""
        self.sums[3] += 1

    def total(self) -> Window:
        """The sums over all processes, which all call it; waits for the device."""
        loss_sum, n_bad_tokens, n_skipped, n_bad = self.sums.tolist()
        own = torch.tensor(
            [self.counts.n_src_tokens, self.counts.n_padded_tokens], dtype=self.sums.dtype, device=self.sums.device
        )
        n_src, n_padded = map(round, self.accelerator.reduce(own).tolist())
        return Window(
            loss_sum=loss_sum,
            n_tgt_tokens=self.counts.n_tgt_tokens,
            n_src_tokens=n_src,
            n_padded_tokens=n_padded,
            n_skipped_updates=round(n_skipped),
            n_bad_updates=round(n_bad),
            n_bad_tokens=round(n_bad_tokens),
        )

    def clear(self) -> None:
        """Begin the next window."""
        self.counts = Window()
        self.sums.zero_()


def window_values(window: Window, seconds: float) -> dict[str, Any]:
    """What a line of metrics says of a window; without a good update its loss is None."""
    n_good = window.n_tgt_tokens - window.n_bad_tokens
    n_tokens = window.n_src_tokens + window.n_tgt_tokens
    return {
        "loss": window.loss_sum / n_good if n_good else None,
        "tgt_tokens_per_s": window.n_tgt_tokens / seconds,
        "padding_share": 1 - n_tokens / window.n_padded_tokens if window.n_padded_tokens else None,
        "skipped_updates": window.n_skipped_updates,
        "bad_updates": window.n_bad_updates,
    }
