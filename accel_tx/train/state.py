"""All that changes during training and is saved beside weights, optimizer, scheduler and scaler."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, get_args, get_origin, get_type_hints


class UnknownField(ValueError):  # noqa: N818 - the file may be right, and this version too old for it
    """A field that this version does not have."""


@dataclass
class Window:
    """Sums since the last line of metrics."""

    loss_sum: float = 0.0
    n_tgt_tokens: int = 0
    n_src_tokens: int = 0
    n_padded_tokens: int = 0
    """Of both sides in attention, padding included."""
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
    """The config fields that decide what is learned, as they were when the run began."""
    n_updates: int
    """Length of the run."""
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
    patience_metric: str | None = None
    """What `patience_score` is a value of."""
    patience_score: float | None = None
    """What a validation must beat to count as a gain; higher is better."""
    n_without_gain: int = 0
    """Validations in a row that did not."""
    window: Window = field(default_factory=Window)
    n_updates_begun_with: int | None = None
    """Length of the run when it began, where it has been made longer since."""
    init_from: dict[str, Any] | None = None
    """The weights that the run began with, where they are not random; see `warm_start.py`."""

    def passes_over(self, update: int) -> bool:
        """Whether this update (from 0) was taken out."""
        return any(first <= update < end for first, end in self.passed_over)

    @property
    def n_updates_at_first(self) -> int:
        """Length of the run when it began: with `settings` it tells the run from others."""
        return self.n_updates_begun_with or self.n_updates

    def make_longer(self, n_updates: int) -> None:
        """Move the end of the run to this update."""
        if n_updates > self.n_updates:
            self.n_updates_begun_with, self.n_updates = self.n_updates_at_first, n_updates

    @classmethod
    def from_dict(cls, values: Any) -> TrainState:
        """Inverse of `dataclasses.asdict`.

        Raises: UnknownField; else ValueError that names the field that is missing or does not fit.
        """
        state: TrainState = _build(cls, values, "state")
        if not 0 <= state.update <= state.n_updates:
            raise ValueError(f"update is {state.update}; expected 0 to n_updates = {state.n_updates}")
        return state


def _build(cls: Any, values: Any, what: str) -> Any:
    if not isinstance(values, dict):
        raise ValueError(f"{what} is {type(values).__name__}; expected an object")
    hints, fields = get_type_hints(cls), {f.name: f for f in dataclasses.fields(cls)}
    # First: where a version added one, others may mean something else as well.
    if unknown := values.keys() - fields.keys():
        raise UnknownField(f"field {', '.join(sorted(unknown))} of {what}")
    given = {}
    for name, value in values.items():
        if dataclasses.is_dataclass(hints[name]):
            value = _build(hints[name], value, name)
        elif not _fits(value, hints[name]):
            raise ValueError(f"{name} is {str(value)[:50]!r}; expected {fields[name].type}")
        given[name] = value
    for name, spec in fields.items():
        has_default = spec.default is not dataclasses.MISSING or spec.default_factory is not dataclasses.MISSING
        if name not in given and not has_default:
            raise ValueError(f"{what} lacks the field {name}")
    return cls(**given)


def _fits(value: Any, hint: Any) -> bool:
    kinds = get_args(hint) if type(None) in get_args(hint) else (hint,)
    classes = tuple(get_origin(kind) or kind for kind in kinds)
    if isinstance(value, bool):
        return bool in classes
    return isinstance(value, classes) or (float in classes and isinstance(value, int))
