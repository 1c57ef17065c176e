"""A training with a loss that is not a number in one micro-batch."""

from pathlib import Path
from typing import Any

import torch

from accel_tx.config import Config
from accel_tx.model.transformer import Transformer
from accel_tx.train.loop import Run, train


def plant(update: int, micro_batch: int) -> None:
    make, forward = Run.train_update, Transformer.forward
    planted: list[int] = []

    def train_update(run: Run, *arguments: Any) -> torch.Tensor:
        a = run.accelerator
        slot, rank = divmod(micro_batch, a.num_processes)
        planted[:] = [slot] if run.state.update == update and rank == a.process_index else []
        return make(run, *arguments)

    def changed(model: Transformer, batch: Any, *of_loss: float) -> torch.Tensor:
        loss = forward(model, batch, *of_loss)
        if model.training and planted:
            loss = loss * (float("nan") if planted[0] == 0 else 1.0)
            planted[0] -= 1
        return loss

    Run.train_update, Transformer.forward = train_update, changed  # type: ignore[method-assign]


def train_planted(config: Config, run_dir: Path, update: int, micro_batch: int) -> None:
    """Train in this process, with such a loss. `update` from 0; `micro_batch`: its number among all processes'."""
    plant(update, micro_batch)
    train(config, run_dir)
