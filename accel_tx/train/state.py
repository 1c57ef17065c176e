"""All that changes during training and is saved beside weights, optimizer, scheduler and scaler."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Window:
    """Sums since the last line of metrics."""

    loss_sum: float = 0.0
    n_tgt_tokens: int = 0
    n_src_tokens: int = 0
    n_padded_tokens: int = 0
    n_skipped_updates: int = 0
    """By fp16, for an overflow."""
    n_bad_updates: int = 0
    n_bad_tokens: int = 0
    """Target tokens of bad updates: they are in `n_tgt_tokens`, their loss is not in `loss_sum`."""
    elapsed_s: float = 0.0


@dataclass
class TrainState:
    """Where a run stands. What is not here is not saved, and a resumed run would not know it."""

    data_sha256: str
    settings: dict[str, Any]
    """The config fields that decide what is learned."""
    n_updates: int
    """Length of the schedule."""
    update: int = 0
    """Updates done."""
    best_metric: str | None = None
    """What `best_score` is a value of."""
    best_score: float | None = None
    best_update: int | None = None
    validation_is_due: bool = False
    """A stop came before the validation of this update was done."""
    trained_s: float = 0.0
    """Time spent training, over all starts."""
    n_bad_in_a_row: int = 0
    passed_over: list[list[int]] = field(default_factory=list)
    """Updates that going back has taken out: [first, behind the last]."""
    loss_average: float = 0.0
    """Of the good updates, nats a target token; kept where `train.spike_factor` is set."""
    n_averaged: int = 0
    window: Window = field(default_factory=Window)

    def passes_over(self, update: int) -> bool:
        """Whether this update (from 0) was taken out."""
        return any(first <= update < end for first, end in self.passed_over)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainState:
        """Inverse of `dataclasses.asdict`."""
        return cls(**{**values, "window": Window(**values["window"])})
