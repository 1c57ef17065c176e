"""Early stopping: how many validations in a row have brought nothing."""

from __future__ import annotations

import math

from accelerate import Accelerator

from accel_tx.config import ValidationConfig
from accel_tx.train.agreement import broadcast
from accel_tx.train.state import TrainState


def count_validation(state: TrainState, score: float, config: ValidationConfig) -> None:
    """Note a validation whose best candidate has this score, where higher is better.

    A gain is more than `min_delta` above the score of the gain before: small ones add up until they count. The first
    validation is a gain, and so is the first by another metric.
    """
    is_first = state.patience_score is None or state.patience_metric != config.best_metric
    if is_first or math.isnan(state.patience_score or 0.0) or score > (state.patience_score or 0.0) + config.min_delta:
        state.patience_metric, state.patience_score, state.n_without_gain = config.best_metric, score, 0
    else:
        state.n_without_gain += 1


def share(accelerator: Accelerator, state: TrainState) -> None:
    """Give every process the main one's count, which only that one keeps; all of them call it."""
    counted = [state.patience_metric, state.patience_score, state.n_without_gain]
    state.patience_metric, state.patience_score, state.n_without_gain = broadcast(accelerator, counted)


def has_run_out(state: TrainState, config: ValidationConfig) -> bool:
    """Whether the run is over before the end of its schedule; a count of another metric ends none."""
    if config.patience is None or state.patience_metric != config.best_metric:
        return False
    return state.n_without_gain >= config.patience and not state.validation_is_due


def in_words(state: TrainState, config: ValidationConfig) -> str:
    """Why the run is over, and what to change to go on."""
    by = f" by more than {config.min_delta:g}" if config.min_delta else ""
    return (
        f"stopped early: {config.best_metric} has not improved{by} in {state.n_without_gain} validation(s); to go on, "
        f"give validation.patience above {state.n_without_gain}, or null"
    )
