"""One optimizer update: forward and backward of its micro-batches, the verdict on its numbers, the step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator

from accel_tx.config import Config
from accel_tx.data.batch import Batch
from accel_tx.data.collator import training_collator
from accel_tx.train.averaging import RunningAverage
from accel_tx.train.bad_numbers import Judge
from accel_tx.train.cuda_graphs import Replays
from accel_tx.train.gradient import Gradient
from accel_tx.train.report import Reports
from accel_tx.train.sharding import whole
from accel_tx.train.state import TrainState
from accel_tx.train.window import OpenWindow


class Updater:
    """What an update changes beside the TrainState: model, optimizer and scheduler, as accelerate prepared them."""

    def __init__(
        self,
        accelerator: Accelerator,
        config: Config,
        model: Any,
        optimizer: Any,
        scheduler: Any,
        ema: RunningAverage | None = None,
    ) -> None:
        self.accelerator, self.config = accelerator, config
        # All Accelerators of a process share it: another trainer may have left it False, and then no step is made.
        accelerator.sync_gradients = True
        self.model, self.optimizer, self.scheduler, self.ema = model, optimizer, scheduler, ema
        spike_factor = config.train.spike_factor
        self.judge = Judge(optimizer.optimizer, accelerator.scaler, spike_factor, accelerator.device)
        self.reports = Reports(accelerator)
        self.window = OpenWindow(accelerator)
        collate = training_collator(config.model, config.train.compile, accelerator.device.type == "cuda")
        seed, optim = config.train.seed, config.optim
        replays = None
        if config.train.cuda_graphs:
            parameters = [p for p in model.parameters() if p.requires_grad]
            size = int(config.train.max_tokens or 0)
            replays = Replays(model, parameters, size, config.model.max_positions, optim.label_smoothing)
        self.gradient = Gradient(accelerator, model, seed, optim.label_smoothing, collate, optim.r_drop, replays)
        self.lr = 0.0
        """Of the last update."""

    def train(
        self,
        update: int,
        micro_batches: list[Batch],
        n_tokens: int,
        is_asked: bool,
        look: Callable[[], None] | None = None,
    ) -> torch.Tensor:
        """Make an update (numbered from 0) of `n_tokens` target tokens over all processes; the gradient's norm.

        `is_asked`: whether this process was asked to stop. `look` is called when the gradient is there, clipped, and
        the weights are still those that it was taken at.
        """
        a, optim = self.accelerator, self.config.optim
        self.model.train()
        own_losses = self.gradient.take(update, micro_batches, n_tokens)
        for batch in micro_batches:
            self.window.add_micro_batch(batch)
        loss_sum, n_stops = self.reports.share(own_losses, is_asked)
        # Clipping unscales an fp16 gradient first; an infinite bound only measures.
        norm = whole(a.clip_grad_norm_(self.model.parameters(), optim.clip_norm or math.inf))
        if look is not None:
            look()
        verdict = self.judge.judge(loss_sum, n_tokens, norm)
        self.optimizer.step()
        if self.ema is not None:
            self.ema.add(update)
        self._next_rate()
        self.optimizer.zero_grad()
        self.window.add_update(n_tokens, loss_sum, verdict)
        numbers = torch.stack([x.to(loss_sum.dtype) for x in (loss_sum / n_tokens, n_stops, verdict, norm)])
        self.reports.add(update, numbers, own_losses)
        return norm

    def pass_over(self) -> None:
        """An update that was taken out: only the learning rate moves on."""
        self._next_rate()
        self.window.add_passed_over()

    def restore(self, saved: TrainState) -> None:
        """Go on with the open window and the average loss of a checkpoint."""
        self.window.restore(saved.window)
        self.judge.average = self.judge.average.new_tensor([saved.loss_average, saved.n_averaged])

    def store(self, state: TrainState) -> None:
        """Inverse of `restore`; all processes call it; waits for the device."""
        state.window = self.window.total()
        state.loss_average, n_averaged = self.judge.average.tolist()
        state.n_averaged = round(n_averaged)

    def _next_rate(self) -> None:
        self.lr = self.optimizer.param_groups[0]["lr"]
        # The wrapped scheduler would stand still when fp16 skips an update; the rate depends on the update alone.
        self.scheduler.scheduler.step()
