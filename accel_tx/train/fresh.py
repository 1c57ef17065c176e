"""A run before its first update: the plan of its batches, its state, its model with optimizer and schedule."""

from __future__ import annotations

import torch
from torch.optim.lr_scheduler import LRScheduler

from accel_tx.config import Config, TrainConfig, what_is_learned
from accel_tx.data.batching import PLAN, BatchLimits, BatchPlan
from accel_tx.data.dataset import PreparedData
from accel_tx.model.transformer import Transformer
from accel_tx.train.optimizer import build_optimizer
from accel_tx.train.schedule import build_scheduler
from accel_tx.train.state import TrainState


def plan_of(train: TrainConfig, data: PreparedData) -> BatchPlan:
    """Which pairs every update is of."""
    return BatchPlan(
        data.train.src_lengths,
        data.train.tgt_lengths,
        BatchLimits.of(train),
        train.micro_batches_per_update,
        train.seed,
    )


def fresh_state(config: Config, data: PreparedData, plan: BatchPlan, precision: str) -> TrainState:
    """The state of a run that has done nothing. `precision`: the one in effect."""
    n_updates = config.train.max_updates or config.train.epochs * plan.updates_per_epoch  # type: ignore[operator]
    # What was asked may be "auto"; what it came to on this machine is what changes the numbers.
    settings = {**what_is_learned(config), "precision in effect": precision, "batch plan": PLAN}
    return TrainState(data.sha256, settings, n_updates)


def build(config: Config, data: PreparedData, n_updates: int) -> tuple[Transformer, torch.optim.Optimizer, LRScheduler]:
    """The model with the first weights of `train.seed`, its optimizer, and the schedule that drives that."""
    model, optimizer = build_model(config, data)
    return model, optimizer, build_scheduler(optimizer, n_updates, config.optim)


def build_model(config: Config, data: PreparedData) -> tuple[Transformer, torch.optim.Optimizer]:
    """The same without a schedule: the rate is 1."""
    torch.manual_seed(config.train.seed)
    model = Transformer(config.model, data.tokenizers.src.vocab_size, data.tokenizers.tgt.vocab_size)
    model.gradient_checkpointing = config.train.gradient_checkpointing
    return model, build_optimizer(model, config.optim)
