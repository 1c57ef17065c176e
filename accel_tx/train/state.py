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
    window: Window = field(default_factory=Window)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainState:
        """Inverse of `dataclasses.asdict`."""
        return cls(**{**values, "window": Window(**values["window"])})
