"""The sums behind a line of metrics: kept on the device, summed over processes when the line is due."""

from __future__ import annotations

import math
from typing import Any

import torch
from accelerate import Accelerator

from accel_tx.data.collator import Batch
from accel_tx.train.state import Window


class OpenWindow:
    """The updates since the last line of metrics, as this process sees them."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        # They stay on the device until a line is due: the loss of this process, the updates that fp16 skipped.
        self.sums = torch.zeros(2, device=accelerator.device)
        self.counts = Window()

    def restore(self, saved: Window) -> None:
        """Go on with a window from a checkpoint, whose sums are those of all processes together."""
        self.counts = saved
        if self.accelerator.is_main_process:
            self.sums[0] = saved.loss_sum
        else:
            saved.n_src_tokens = saved.n_padded_tokens = 0

    def add_micro_batch(self, batch: Batch, loss_sum: torch.Tensor) -> None:
        """Count one micro-batch of this process, given as it was before it was moved to the device."""
        self.sums[0] += loss_sum
        self.counts.n_src_tokens += batch.n_src_tokens if batch.n_tgt_tokens else 0
        self.counts.n_padded_tokens += batch.n_padded_tokens if batch.n_tgt_tokens else 0

    def add_update(self, n_tgt_tokens: int, was_skipped: torch.Tensor | None) -> None:
        """Count one update: its target tokens over all processes, and whether fp16 skipped it (a bool scalar)."""
        self.counts.n_tgt_tokens += n_tgt_tokens
        if was_skipped is not None:
            self.sums[1] += was_skipped

    def total(self) -> Window:
        """The sums over all processes, which all call it; the only wait for the device."""
        own = self.counts
        sums = torch.tensor(
            [own.n_src_tokens, own.n_padded_tokens], dtype=torch.float32, device=self.accelerator.device
        )
        n_skipped = own.n_skipped_updates + round(float(self.sums[1]))
        sums = self.accelerator.reduce(torch.cat([self.sums[:1].float(), sums])).tolist()
        return Window(sums[0], own.n_tgt_tokens, round(sums[1]), round(sums[2]), n_skipped)

    def clear(self) -> None:
        """Begin the next window."""
        self.counts = Window()
        self.sums.zero_()


def window_values(window: Window, seconds: float) -> dict[str, Any]:
    """What a line of metrics says of a window; a loss that is not finite is None, which JSON has a word for."""
    n_tokens = max(1, window.n_tgt_tokens)
    return {
        "loss": window.loss_sum / n_tokens if math.isfinite(window.loss_sum) else None,
        "tgt_tokens_per_s": n_tokens / seconds,
        "padding_share": 1 - (window.n_src_tokens + n_tokens) / max(1, window.n_padded_tokens),
        "skipped_updates": window.n_skipped_updates,
    }
