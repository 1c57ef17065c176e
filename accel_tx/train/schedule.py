"""Learning rates as functions of the update alone."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

import torch
from torch.optim.lr_scheduler import LambdaLR

from accel_tx.config import OptimConfig, UserError


def rate_of(update: int, n_updates: int, config: OptimConfig) -> float:
    """Learning rate of update 0, 1, ... n_updates - 1 under `config.schedule`."""
    if config.schedule == "one_cycle":
        return one_cycle_rate(update, n_updates, config)
    return warmup_rate(update + 1, n_updates, config)


def warmup_rate(number: int, n_updates: int, config: OptimConfig) -> float:
    """Learning rate of update number 1, 2, ... n_updates under the schedules with a warm-up.

    Numbered as people count, so that the first update is not wasted on a rate of 0: equals what `transformers` gives
    its step `number` (with a warm-up; without one its falling schedules begin below the peak).
    Source of inverse_sqrt: Vaswani et al. 2017, section 5.3.
    """
    peak = config.warmup_updates or 1
    if number <= peak:
        return config.max_lr * number / peak
    if config.schedule == "inverse_sqrt":
        return config.max_lr * math.sqrt(peak / number)
    shape = "linear" if config.schedule == "linear" else "cos"
    share = min(1.0, (number - peak) / max(1, n_updates - peak))
    return _anneal(config.max_lr, config.min_lr, share, shape)


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
    if share == 1:
        return end  # exactly
    if shape == "linear":
        return start + (end - start) * share
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))


def check_length(n_updates: int, config: OptimConfig) -> None:
    """Raise UserError if the warm-up is as long as the run, which would end before the rate has fallen."""
    if (config.warmup_updates or 0) >= max(2, n_updates):
        raise UserError(
            f"optim.warmup_updates is {config.warmup_updates}; expected fewer than the run's {n_updates:,} updates"
        )


def build_scheduler(optimizer: torch.optim.Optimizer, n_updates: int, config: OptimConfig) -> LambdaLR:
    """The schedule over `n_updates`: it sets the rate of update 0 at once and of the next one at every `step()`.

    Raises: UserError, see `check_length`.
    """
    check_length(n_updates, config)
    return LambdaLR(optimizer, partial(rate_of, n_updates=n_updates, config=config))
