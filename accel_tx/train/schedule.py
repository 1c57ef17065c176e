"""OneCycle as a function of the update alone, and the optimizer that it drives."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from itertools import pairwise

import torch
from torch.optim.lr_scheduler import LambdaLR

from accel_tx.config import OptimConfig


def one_cycle_rate(update: int, n_updates: int, config: OptimConfig) -> float:
    """Learning rate of update 0, 1, ... n_updates - 1; the last one gets exactly the minimum, and so does any later.

    Equals `torch.optim.lr_scheduler.OneCycleLR` with `cycle_momentum=False` wherever that is defined. That one divides
    by zero where pct_start * n_updates is 1, and leaves the minimum again after its last step.
    Source: Smith and Topin 2018, "Super-Convergence"; three_phase: section 3 of it.
    """
    first_rate = config.max_lr / config.div_factor
    last_rate = first_rate / config.final_div_factor
    end = n_updates - 1
    if update >= end:
        return last_rate
    rise_end = config.pct_start * n_updates - 1
    corners = [(0.0, first_rate), (rise_end, config.max_lr), (float(end), last_rate)]
    if config.three_phase:
        corners.insert(2, (2 * config.pct_start * n_updates - 2, first_rate))
    for (start, from_rate), (stop, to_rate) in pairwise(corners):
        if update <= stop and stop > start:
            return _anneal(from_rate, to_rate, (update - start) / (stop - start), config.anneal)
    return last_rate


def _anneal(start: float, end: float, share: float, shape: str) -> float:
    if shape == "linear":
        return start + (end - start) * share
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))


def build_optimizer(parameters: Iterable[torch.nn.Parameter], config: OptimConfig) -> torch.optim.Optimizer:
    """Adam or AdamW. Its rate is 1 until the scheduler, which multiplies it, sets the first real one."""
    cls = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
    return cls(parameters, lr=1.0, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay, fused=True)


def build_scheduler(optimizer: torch.optim.Optimizer, n_updates: int, config: OptimConfig) -> LambdaLR:
    """OneCycle over `n_updates`; it sets the rate of update 0 at once and of the next one at every `step()`."""
    return LambdaLR(optimizer, partial(one_cycle_rate, n_updates=n_updates, config=config))
