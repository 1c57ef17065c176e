"""Of several kinds of weights the best by the metric wins, and the line of metrics names each."""

from __future__ import annotations

import math
from typing import Any

import pytest

from accel_tx.inference.metrics import score_translations
from accel_tx.train.candidates import line_of, winner_of
from accel_tx.train.validation import Validation


def validation(val_loss: float, hypothesis: str, seconds: float = 1.0) -> Validation:
    return Validation(val_loss, score_translations([hypothesis], ["the small cat sat on the mat"]), [], seconds)


RESULTS = {
    "raw": validation(2.0, "the small cat sat on the table", 3.0),
    "ema": validation(1.5, "the small dog sat on a mat", 4.0),
    "average": validation(2.5, "the small cat sat on the mat", 5.0),
}


@pytest.mark.parametrize(
    ("metric", "winner"),
    [("val_loss", "ema"), ("bleu", "average"), ("chrf", "average"), ("cer", "average"), ("wer", "average")],
)
def test_the_best_by_the_metric_wins(metric: str, winner: str) -> None:
    assert winner_of(RESULTS, metric) == winner


def test_the_first_of_equal_ones_wins_and_one_without_a_number_never() -> None:
    assert winner_of({"raw": RESULTS["raw"], "ema": RESULTS["raw"]}, "bleu") == "raw"
    assert winner_of({"raw": validation(math.nan, "x"), "ema": RESULTS["ema"]}, "val_loss") == "ema"


def test_the_line_has_the_raw_numbers_under_their_names_and_the_others_with_theirs() -> None:
    line: dict[str, Any] = line_of(RESULTS, "val_loss")
    assert [line[name] for name in ("val_loss", "ema_val_loss", "average_val_loss")] == [2.0, 1.5, 2.5]
    assert [line[name] for name in ("bleu", "average_bleu")] == [RESULTS["raw"].scores.bleu, pytest.approx(100)]
    assert line["validation_s"] == 12.0
    assert line["winner"] == "ema"
    not_finite = line_of({"raw": RESULTS["raw"], "ema": validation(math.inf, "x")}, "bleu")
    assert not_finite["ema_val_loss"] is None
    assert not [name for name in line if name.endswith("signature") and name.startswith(("ema", "average"))]
    alone = line_of({"raw": RESULTS["raw"]}, "val_loss")
    assert alone == RESULTS["raw"].to_dict()
