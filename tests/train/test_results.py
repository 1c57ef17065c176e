"""Which validation is the best so far, and what a run that went back still knows of it."""

from __future__ import annotations

import dataclasses
import math

import pytest

from accel_tx.train.results import is_better
from accel_tx.train.rollback import take_out
from accel_tx.train.state import TrainState


def state(**fields: object) -> TrainState:
    return TrainState(**{"data_sha256": "", "settings": {}, "n_updates": 100, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("before", "score", "answer"),
    [
        ({}, -5.0, True),
        ({"best_metric": "bleu", "best_score": 20.0}, 20.0, False),
        ({"best_metric": "bleu", "best_score": 20.0}, 20.1, True),
        ({"best_metric": "bleu", "best_score": 20.0}, math.nan, False),
        ({"best_metric": "bleu", "best_score": math.nan}, 1.0, True),
        ({"best_metric": "val_loss", "best_score": 20.0}, 1.0, True),
    ],
)
def test_better_is_more_by_the_same_metric_and_anything_beside_none_or_another(
    before: dict[str, object], score: float, answer: bool
) -> None:
    assert is_better(score, "bleu", state(**before)) is answer


def test_a_run_that_went_back_knows_its_best_and_every_update_that_it_passes_over() -> None:
    now = state(
        update=37, best_metric="bleu", best_score=30.0, best_update=35, n_bad_in_a_row=2, passed_over=[[10, 12]],
        validation_is_due=True, trained_s=90.0,
    )  # fmt: skip
    saved = state(update=30, best_metric="bleu", best_score=20.0, best_update=25, n_bad_in_a_row=0, trained_s=70.0)
    expected = dataclasses.replace(now, update=30, passed_over=[[10, 12], [30, 37]], validation_is_due=False)
    take_out(saved, now, 36)
    assert saved == dataclasses.replace(expected, trained_s=70.0)
    assert [update for update in range(100) if saved.passes_over(update)] == [10, 11, *range(30, 37)]
