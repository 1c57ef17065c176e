"""What a run is made for: the weights in `best/` and `final/`. On the main process only."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from torch import nn

from accel_tx.inference.weights import SCORES
from accel_tx.train import file_system
from accel_tx.train.averaging import Weights
from accel_tx.train.checkpoint_identity import run_identity
from accel_tx.train.checkpoint_writer import save_weights
from accel_tx.train.state import TrainState
from accel_tx.train.validation import Validation


class Results:
    """Writes the two folders of weights."""

    def __init__(self, model: nn.Module, run_dir: Path, best_metric: str, data_sha256: str) -> None:
        """`model`: unwrapped. `best_metric`: of `validation.best_metric`."""
        self.model, self.run_dir, self.best_metric, self.data_sha256 = model, run_dir, best_metric, data_sha256

    def keep_if_best(
        self, result: Validation, values: dict[str, Any], state: TrainState, weights: Weights | None = None
    ) -> str | None:
        """Write `best/` if no validation before was better; `values` stands beside it, `weights` are those validated.

        Returns None, or one line that says why the folder and the best score in `state` are what they were.
        """
        score = result.metric(self.best_metric)
        if not is_better(score, self.best_metric, state):
            return None
        failed = self._save("best", values, state, weights)
        if failed is None:
            state.best_metric, state.best_score, state.best_update = self.best_metric, score, state.update
        return failed

    def has_final(self, state: TrainState) -> bool:
        """Whether `final/` has the weights of this update of this run."""
        scores = file_system.read_json(self.run_dir / "final" / SCORES)
        return scores.get("update") == state.update and scores.get("run") == run_identity(state)

    def write_final(self, state: TrainState, weights: Weights) -> str | None:
        """Write `final/`; None, or one line that says why it is what it was."""
        return self._save("final", {"update": state.update}, state, weights)

    def _save(self, name: str, values: dict[str, Any], state: TrainState, weights: Weights | None = None) -> str | None:
        values = {**values, "data_sha256": self.data_sha256, "run": run_identity(state)}
        return save_weights(self.model.state_dict() if weights is None else weights, self.run_dir / name, values)


def is_better(score: float, metric: str, state: TrainState) -> bool:
    """Whether a validation is better than the best before it; so is the first one by this metric."""
    if state.best_score is None or state.best_metric != metric or math.isnan(state.best_score):
        return True
    return score > state.best_score
