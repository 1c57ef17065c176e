"""What a check says of schedule, time and disk, from numbers alone."""

from __future__ import annotations

from typing import Any

import pytest

from accel_tx.config import Config, build_config
from accel_tx.train.outlook import (
    Disk,
    Length,
    hours_row,
    largest_numbers,
    length_row,
    rate_row,
    schedule_notes,
    schedule_problems,
    shown_hours,
    validation_notes,
)


def config(**sections: dict[str, Any]) -> Config:
    train = {"max_updates": 1000, "max_tokens": 1024, **sections.pop("train", {})}
    validation = {"every_updates": 200, **sections.pop("validation", {})}
    return build_config({"train": train, "validation": validation, **sections})


def test_a_schedule_of_more_passes_than_anybody_means_is_a_problem_unless_it_is_given_in_epochs() -> None:
    assert schedule_problems(Length(1000, 10), config()) == []
    (line,) = schedule_problems(Length(1001, 10), config(train={"max_updates": 1001}))
    assert line == (
        "train.max_updates is 1,001, which is 100 passes over the training pairs, 10 updates each; expected at most "
        "100 passes (1,000 updates), or train.epochs 101 where so many are meant"
    )
    assert schedule_problems(Length(2000, 10), config(train={"max_updates": None, "epochs": 200})) == []


def test_a_warm_up_beyond_the_end_is_the_line_that_train_ends_with() -> None:
    optim = {"schedule": "inverse_sqrt", "warmup_updates": 1000}
    (line,) = schedule_problems(Length(1000, 100), config(optim=optim))
    assert line == "optim.warmup_updates is 1000; expected fewer than the run's 1,000 updates"
    assert schedule_problems(Length(1001, 100), config(optim=optim)) == []


@pytest.mark.parametrize(
    ("length", "sections", "words"),
    [
        (Length(1000, 500), {}, None),
        (Length(400, 500), {"train": {"save_every_updates": 100}}, "400 of the 500 updates of an epoch"),
        (Length(1000, 500), {"train": {"save_every_updates": 1000}}, "the only checkpoint is that of the end"),
        (Length(1000, 500), {"validation": {"patience": 5}}, "patience is 5, but there are only 5 validation(s)"),
        (Length(1000, 500), {"validation": {"patience": 4}}, None),
        (Length(1000, 500), {"validation": {"average_last": 6}}, "average_last is 6, but there are only 5"),
        (Length(1000, 500), {"validation": {"average_last": 5}}, None),
        (Length(1000, 500), {"train": {"ema_decay": 0.9995}}, "cover the last 2,000 updates, the run has 1,000"),
        (Length(1000, 500), {"train": {"ema_decay": 0.99}}, None),
    ],
)
def test_what_will_not_come_to_anything_is_noted(length: Length, sections: dict[str, Any], words: str | None) -> None:
    train = {"save_every_updates": 500, **sections.get("train", {})}
    notes = schedule_notes(length, config(**{**sections, "train": train}))
    assert len(notes) == (0 if words is None else 1), notes
    assert words is None or words in notes[0]


@pytest.mark.parametrize(
    ("optim", "row"),
    [
        ({"max_lr": 5e-3, "pct_start": 0.2}, "one_cycle: 2.00e-04, up to 5.00e-03 at update 200, 2.00e-08 at the end"),
        (
            {"schedule": "inverse_sqrt", "warmup_updates": 250},
            "inverse_sqrt: 4.00e-06, up to 1.00e-03 at update 250, 5.00e-04 at the end",
        ),
        ({"schedule": "linear", "min_lr": 1e-5}, "linear: 1.00e-03, up to 1.00e-03 at update 1, 1.00e-05 at the end"),
    ],
)
def test_the_rate_is_told_at_its_corners(optim: dict[str, Any], row: str) -> None:
    assert rate_row(1000, config(optim=optim).optim) == f"adam, {row}"


def test_a_limit_of_hours_is_told_as_the_update_that_it_reaches() -> None:
    row, note = hours_row(Length(1000, 100), 3.6, config())
    assert (row, note) == ("about 60 min, and 5 validation(s)", None)
    row, note = hours_row(Length(1000, 100, first=500), 3.6, config(train={"max_hours": 0.3}))
    assert row == "about 30 min, and 3 validation(s)"
    assert note is not None
    assert "ends this start at about update 800 of 1,000" in note
    assert "about 2 starts" in note
    row, note = hours_row(Length(1000, 100), 3.6, config(train={"stop_at_update": 500, "max_hours": 0.5}))
    assert (row, note) == ("about 30 min, and 2 validation(s)", None)
    assert hours_row(Length(900, 100), 4, config())[0] == "about 60 min, and 5 validation(s)"
    # Its last validation is behind a run that is complete.
    assert hours_row(Length(900, 100, first=900), 4, config())[0] == "about 0 s, and 0 validation(s)"
    assert [shown_hours(s / 3600) for s in (20, 600, 9000)] == ["20 s", "10 min", "2.5 h"]


def test_the_length_is_told_with_where_this_start_ends() -> None:
    text = "1,000 updates, 400 an epoch: 2.5 epochs"
    assert length_row(Length(1000, 400), config()) == text
    stopped = length_row(Length(1000, 400), config(train={"stop_at_update": 300}))
    assert stopped == f"{text}; this start ends at 300"
    assert length_row(Length(1000, 400), config(train={"stop_at_update": 1000})) == text


def test_a_disk_that_holds_what_is_there_and_the_rest_is_enough() -> None:
    disk = Disk(checkpoint=30_000_000, weights=10_000_000, n_checkpoints=4, n_weights=3, present=50_000_000, free=100)
    assert disk.needed == 150_000_000
    line = disk.problem("runs/a", "--run_dir")
    assert line is not None
    assert line.startswith("runs/a: 4 checkpoints of 30.0 MB and 3 copies of the weights of 10.0 MB need 100.0 MB, ")
    assert "give a --run_dir on another disk" in line
    assert Disk(30_000_000, 10_000_000, 4, 3, 50_000_000, 100_000_000).problem("runs/a", "--run_dir") is None


def test_no_more_checkpoints_are_forecast_than_a_run_may_have() -> None:
    every = {"save_every_updates": 400}
    assert largest_numbers(10_000, config(train={**every, "keep_checkpoints": 5})) == (8, 3)
    assert largest_numbers(1000, config(train={**every, "keep_checkpoints": 1000})) == (3 + 10, 3)
    assert largest_numbers(2, config(train=every)) == (2, 3)
    assert largest_numbers(1000, config(train=every, validation={"average_last": 2})) == (5, 3 + 5)


@pytest.mark.parametrize(
    ("n_sentences", "sections", "words"),
    [
        (2_000, {}, []),
        (2_001, {}, ["each validation translates 2,001 sentences, for 10,000 pairs that are trained on between"]),
        (10, {"data": {"tgt_lang": "ja"}}, ["13a, which is not made for data.tgt_lang ja", "reported with ja-mecab"]),
        (10, {"data": {"tgt_lang": "ja"}, "validation": {"tokenize": "char"}}, []),
    ],
)
def test_validations_that_are_slow_or_whose_bleu_is_none_are_noted(
    n_sentences: int, sections: dict[str, Any], words: list[str]
) -> None:
    notes = validation_notes(n_sentences, 10_000.0, config(**sections))
    assert len(notes) == bool(words)
    assert all(word in notes[0] for word in words)
