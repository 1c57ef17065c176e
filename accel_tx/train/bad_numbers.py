"""Updates with bad numbers: found and skipped on the device, told to the host.

An update is bad if its loss or its gradient is not finite, or if its loss is `train.spike_factor` times the average of
the good updates before it. It must not touch the weights, and nobody wants to wait for the device to find out. So the
verdict is a tensor, and PyTorch's fused optimizers take it as `found_inf`, which is made for gradient scalers: where it
is 1 they change neither weights, moments nor step count. The host reads the verdict with the report of the update,
on a GPU one update later, on a CPU at once. All processes see the same sums and so come to the same verdict.

fp16: an infinite gradient of a finite loss is an overflow of the scaled gradient. The scaler halves its scale and skips
the update; that is its daily work and counted apart. A scale below `MIN_SCALE` has collapsed.

Spikes are off by default: how far the loss of good updates varies depends on their size and on the data. What to do
about bad updates follows Chowdhery et al. 2022 ("PaLM", section 5.1), who went back to a checkpoint before the spike
and skipped the batches seen from there on. See `bad_updates` and `rollback`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from accel_tx.config import RunError
from accel_tx.train.report import sums_dtype
from accel_tx.train.sharding import whole

GOOD, BAD_LOSS, BAD_GRADIENT, SPIKE, OVERFLOW = range(5)
WORDS = {
    BAD_LOSS: "the loss is not finite",
    BAD_GRADIENT: "the gradient is not finite",
    SPIKE: "the loss is far above its average",
}
MIN_SCALE = 1e-4
"""As `--min-loss-scale` of fairseq; a run that learns keeps its scale far above 1."""
# The average covers about the last 100 good updates, and judges from so many on.
_N_AVERAGED = 100


class Judge:
    """Finds the bad updates and keeps the optimizer from making them."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler | None,
        spike_factor: float | None,
        device: torch.device,
    ) -> None:
        """`optimizer`: a fused one, not wrapped; `scaler`: that of fp16, if any."""
        self.optimizer, self.scaler, self.spike_factor = optimizer, scaler, spike_factor
        self.average = torch.zeros(2, dtype=sums_dtype(device), device=device)
        """Running average of the good updates' loss in nats a token, and how many are in it."""
        self._is_bad = torch.zeros((), device=device)
        if scaler is not None:
            # Within its step the scaler sets found_inf by what it found, just before the optimizer reads it.
            optimizer.register_step_pre_hook(self._add_verdict)

    def judge(self, loss_sum: Tensor, n_tokens: int, grad_norm: Tensor) -> Tensor:
        """The verdict on an update, a scalar; the optimizer's next step heeds it.

        `loss_sum`: over all processes; `grad_norm`: of the unscaled gradient, the same on all.
        """
        loss = loss_sum.to(self.average.dtype) / n_tokens
        infinite = BAD_GRADIENT if self.scaler is None else OVERFLOW
        verdict = torch.where(grad_norm.isfinite(), GOOD, infinite)
        if self.spike_factor is not None:
            average, n = self.average
            is_spike = (loss > self.spike_factor * average) & (n >= _N_AVERAGED)
            verdict = torch.where((verdict == GOOD) & is_spike, SPIKE, verdict)
        verdict = torch.where(loss.isfinite(), verdict, BAD_LOSS)
        if self.spike_factor is not None:
            n = (n + 1).clamp(max=_N_AVERAGED)
            self.average = torch.where(verdict == GOOD, torch.stack([average + (loss - average) / n, n]), self.average)
        self._is_bad = ((verdict != GOOD) & (verdict != OVERFLOW)).float()
        if self.scaler is None:
            self.optimizer.found_inf = self._is_bad  # type: ignore[attr-defined]
        return verdict

    def _add_verdict(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        # Not the sum: the kernels skip at exactly 1.
        optimizer.found_inf = torch.maximum(optimizer.found_inf, self._is_bad)  # type: ignore[attr-defined]

    def check_scale(self, run_dir: Path) -> None:
        """Raise RunError if the gradient scale has collapsed; waits for the device."""
        if self.scaler is not None and (scale := self.scaler.get_scale()) < MIN_SCALE:
            raise RunError(
                f"{run_dir}: the gradient scale of fp16 fell to {scale:.1e} (below {MIN_SCALE:g}): the gradient "
                "overflows at any scale; the newest checkpoint is good, go on with train.precision bf16 or no in a new "
                "run, or with a lower optim.max_lr"
            )


@torch.no_grad()
def check_weights(model: torch.nn.Module, update: int, run_dir: Path) -> None:
    """Raise RunError if any weight is not finite; waits for the device. All processes call it."""
    if not torch.stack([whole(p.isfinite().all()) for p in model.parameters()]).all():
        raise RunError(
            f"{run_dir}: after update {update:,} the weights are not finite; they are not saved, the newest checkpoint "
            "is good; lower optim.max_lr in a new run"
        )
