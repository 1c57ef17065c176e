"""Early stopping: what counts as a gain, and when patience has run out."""

from __future__ import annotations

import dataclasses
import math

import pytest

from accel_tx.config import ValidationConfig
from accel_tx.train.patience import count_validation, has_run_out, in_words
from accel_tx.train.rollback import take_out
from accel_tx.train.state import TrainState


def counts(scores: list[float], config: ValidationConfig) -> list[int]:
    state = TrainState("data", {}, n_updates=10)
    found = []
    for score in scores:
        count_validation(state, score, config)
        found.append(state.n_without_gain)
    return found


@pytest.mark.parametrize(
    ("min_delta", "scores", "expected"),
    [
        (0.0, [1, 2, 2, 1, 3, 2], [0, 0, 1, 2, 0, 1]),
        (0.0, [-1, -2, -0.5], [0, 1, 0]),
        (0.0, [0, 0, 0], [0, 1, 2]),
        # Small gains add up: 1.2 is no gain over 1, 1.6 is.
        (0.5, [1, 1.2, 1.4, 1.6, 1.7], [0, 1, 2, 0, 1]),
        (0.5, [1, 1.5], [0, 1]),
        (0.0, [math.nan, -5, math.nan, -4], [0, 0, 1, 0]),
    ],
)
def test_validations_without_a_gain_are_counted_in_a_row(
    min_delta: float, scores: list[float], expected: list[int]
) -> None:
    assert counts(scores, ValidationConfig(patience=9, min_delta=min_delta)) == expected


def test_another_metric_begins_to_count_anew() -> None:
    state = TrainState("data", {}, n_updates=10)
    for score in (5.0, 4.0):
        count_validation(state, score, ValidationConfig())
    count_validation(state, -3.0, ValidationConfig(best_metric="val_loss"))
    assert (state.patience_metric, state.patience_score, state.n_without_gain) == ("val_loss", -3.0, 0)


def test_patience_runs_out_at_its_number_unless_a_validation_is_still_due() -> None:
    state = TrainState("data", {}, n_updates=10, n_without_gain=3, patience_metric="bleu")
    assert [has_run_out(state, ValidationConfig(patience=n)) for n in (None, 4, 3, 2)] == [False, False, True, True]
    state.validation_is_due = True
    assert not has_run_out(state, ValidationConfig(patience=3))


def test_a_count_of_another_metric_ends_no_run() -> None:
    state = TrainState("data", {}, n_updates=10, n_without_gain=3, patience_metric="bleu")
    assert not has_run_out(state, ValidationConfig(patience=3, best_metric="chrf"))


def test_it_says_what_to_change_to_go_on() -> None:
    state = TrainState("data", {}, n_updates=10, n_without_gain=3)
    text = in_words(state, ValidationConfig(best_metric="chrf", patience=3, min_delta=0.1))
    assert text == (
        "stopped early: chrf has not improved by more than 0.1 in 3 validation(s); "
        "to go on, give validation.patience above 3, or null"
    )


def test_a_validation_before_the_run_went_back_counts_as_best_does() -> None:
    config, saved = ValidationConfig(), TrainState("data", {}, n_updates=100, update=8)
    count_validation(saved, 25.0, config)
    now = dataclasses.replace(saved, update=12)
    count_validation(now, 30.0, config)
    count_validation(now, 28.0, config)
    take_out(saved, now, update=12)
    assert (saved.update, saved.n_without_gain) == (8, 1)
    count_validation(saved, 29.0, config)
    assert (saved.patience_score, saved.n_without_gain) == (30.0, 2)
