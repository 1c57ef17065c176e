"""A run that no longer improves ends, complete; patience is counted through stops, and more of it goes on exactly."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from accel_tx.config import Config, UserError
from accel_tx.inference import translator
from accel_tx.train import checkpoint
from accel_tx.train.loop import train
from accel_tx.train.results import Results
from accel_tx.train.run_history import read_run
from accel_tx.train.validation import Validation
from tests.behaviour.test_bad_numbers import plant
from tests.ranks import train_on
from tests.run_folder import assert_same_run, metrics

MakeConfig = Callable[..., Config]
# BLEU of so few updates is 0 at every validation: the first one is a gain, none after it.
SMALL: dict[str, dict[str, Any]] = {
    "data": {"phrasebook_train_pairs": 90, "phrasebook_valid_pairs": 3},
    "train": {"max_updates": 12, "log_every_updates": 4, "save_every_updates": 100},
    "validation": {"every_updates": 2, "n_samples": 0},
    "optim": {"max_lr": 1e-6},
    "decode": {"max_len_ratio": 0.0, "max_len_extra": 1},
}


def config_of(make: MakeConfig, **sections: dict[str, Any]) -> Config:
    return make(**{name: {**SMALL.get(name, {}), **sections.get(name, {})} for name in {*SMALL, *sections}})


def patient(make: MakeConfig, patience: int | None, **sections: dict[str, Any]) -> Config:
    return config_of(make, **{**sections, "validation": {"patience": patience, "min_delta": 5.0 if patience else 0.0}})


def state_at(run_dir: Path, update: int) -> Any:
    return checkpoint.load_state(checkpoint.checkpoint_dir(run_dir, update))


def stop_in_validation(patch: pytest.MonkeyPatch) -> None:
    search = translator.Translator._search

    def stopped_over(self: translator.Translator, *arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return search(self, *arguments)

    patch.setattr(translator.Translator, "_search", stopped_over)


def test_it_ends_complete_with_final_and_a_second_start_says_why_and_what_to_change(
    tiny_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    for _ in range(2):
        train(patient(tiny_config, 3), run_dir)
        printed = capsys.readouterr().out
        assert "complete after update 8" in printed
        assert "stopped early: bleu has not improved by more than 5 in 3 validation(s)" in printed
        assert "give validation.patience above 3, or null" in printed
    assert state_at(run_dir, 8).n_without_gain == 3
    assert [line["update"] for line in metrics(run_dir) if "val_loss" in line] == [2, 4, 6, 8]
    final, last = (
        load_file(f / "model.safetensors") for f in (run_dir / "final", checkpoint.checkpoint_dir(run_dir, 8))
    )
    assert all(torch.equal(final[name], last[name]) for name in last)
    assert not (run_dir / "PREEMPTED").exists()


def test_with_more_patience_it_goes_on_to_the_bytes_of_a_run_that_had_it_from_the_start(
    tiny_config: MakeConfig, tmp_path: Path
) -> None:
    train(patient(tiny_config, 4), tmp_path / "whole")
    for patience in (1, 2, 4):
        train(patient(tiny_config, patience), tmp_path / "parts")
        assert state_at(tmp_path / "parts", 2 + 2 * patience).n_without_gain == patience
    assert_same_run(tmp_path / "parts", tmp_path / "whole")
    train(patient(tiny_config, None), tmp_path / "parts")
    assert state_at(tmp_path / "parts", 12).update == 12


def test_final_weights_that_could_not_be_written_are_made_by_the_next_start(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = tmp_path / "run"
    train(patient(tiny_config, 3), run_dir)
    scores = run_dir / "final" / "scores.json"
    assert (json.loads(scores.read_text())["update"], read_run(run_dir).is_complete) == (8, True)
    with monkeypatch.context() as patch:
        patch.setattr(Results, "write_final", lambda *_: "the disk is full")
        with pytest.raises(UserError, match="the disk is full; make room and give the same command again"):
            train(patient(tiny_config, None), run_dir)
    assert not read_run(run_dir).is_complete
    train(patient(tiny_config, None), run_dir)
    assert (json.loads(scores.read_text())["update"], read_run(run_dir).is_complete) == (12, True)


def test_a_stop_between_validations_and_in_one_leaves_the_count_right(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(patient(tiny_config, 3), tmp_path / "whole")
    run_dir = tmp_path / "parts"
    train(patient(tiny_config, 3, train={"stop_at_update": 5}), run_dir)
    assert state_at(run_dir, 5).n_without_gain == 1

    with monkeypatch.context() as patch:
        stop_in_validation(patch)
        train(patient(tiny_config, 3), run_dir)
    stopped = state_at(run_dir, 6)
    assert stopped.validation_is_due
    assert stopped.n_without_gain == 1
    train(patient(tiny_config, 3), run_dir)
    assert_same_run(run_dir, tmp_path / "whole")
    assert state_at(run_dir, 8).n_without_gain == 3


def test_going_back_to_a_checkpoint_whose_validation_was_made_up_keeps_its_count(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def config(stop_at_update: int | None = None) -> Config:
        fields = {"save_every_updates": 4, "on_bad_update": "rollback", "stop_at_update": stop_at_update}
        return patient(tiny_config, 3, train=fields)

    plant(monkeypatch, {(4, 0): math.nan})
    train(config(), tmp_path / "whole")
    run_dir = tmp_path / "parts"
    train(config(stop_at_update=3), run_dir)
    with monkeypatch.context() as patch:
        stop_in_validation(patch)
        train(config(), run_dir)
    assert state_at(run_dir, 4).validation_is_due
    train(config(), run_dir)
    assert state_at(run_dir, 8).passed_over == [[4, 5]]
    assert state_at(run_dir, 8).n_without_gain == 3
    assert_same_run(run_dir, tmp_path / "whole")


def test_all_processes_end_together(tiny_config: MakeConfig, tmp_path: Path) -> None:
    printed = train_on(2, patient(tiny_config, 1), tmp_path / "run")
    assert "complete after update 4" in printed
    assert (tmp_path / "run" / "final" / "model.safetensors").is_file()


def test_the_best_of_all_kinds_of_weights_counts(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run's own weights never improve here; their running average does."""
    n_calls = []

    def scored(self: Validation, name: str) -> float:
        return float(len(n_calls))

    def raw_stands_still(results: dict[str, Validation], metric: str) -> str:
        n_calls.append(1)
        return "ema"

    monkeypatch.setattr(Validation, "metric", scored)
    monkeypatch.setattr("accel_tx.train.loop.winner_of", raw_stands_still)
    config = config_of(tiny_config, train={"ema_decay": 0.9}, validation={"patience": 1})
    train(config, tmp_path / "run")
    assert state_at(tmp_path / "run", 12).n_without_gain == 0
