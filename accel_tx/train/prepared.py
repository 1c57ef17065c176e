"""Model, optimizer and schedule as accelerate prepared them, and what makes updates of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from accel_tx.config import Config
from accel_tx.model.transformer import Transformer
from accel_tx.train import compiling, device
from accel_tx.train.averaging import RunningAverage
from accel_tx.train.checkpoint_content import Parts
from accel_tx.train.update import Updater


@dataclass(frozen=True)
class Prepared:
    """Ready for the first update, or for a checkpoint."""

    model: Any
    optimizer: Any
    scheduler: Any
    raw_model: Transformer
    """The model without accelerate's wrapping."""
    uses_tf32: bool
    parts: Parts
    updater: Updater


def prepare(
    config: Config, accelerator: Accelerator, model: Transformer, optimizer: Optimizer, scheduler: LRScheduler
) -> Prepared:
    """Wrap, compile and average as the config says; all processes call this."""
    wrapped, wrapped_optimizer, wrapped_scheduler = device.prepare(accelerator, model, optimizer, scheduler)
    raw_model: Transformer = accelerator.unwrap_model(wrapped, keep_torch_compile=False)
    uses_tf32 = device.use_tf32(config.train.tf32)
    if config.train.compile:
        compiling.compile_for_training(raw_model, accelerator, config)
    decay = config.train.ema_decay
    ema = None if decay is None else RunningAverage(raw_model, decay)
    inner = wrapped_optimizer.optimizer, wrapped_scheduler.scheduler
    parts = Parts(raw_model, *inner, accelerator.scaler, ema)
    updater = Updater(accelerator, config, wrapped, wrapped_optimizer, wrapped_scheduler, ema)
    return Prepared(wrapped, wrapped_optimizer, wrapped_scheduler, raw_model, uses_tf32, parts, updater)
