"""A loss or gradient that is not finite, or a spike, costs an update or a few, never the run's weights."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from accel_tx.cli import main
from accel_tx.config import Config, RunError
from accel_tx.data.dataset import prepare_data
from accel_tx.model.transformer import Transformer
from accel_tx.train import bad_numbers, checkpoint, device
from accel_tx.train.loop import Run, train
from accel_tx.train.report import Reports
from accel_tx.train.schedule import one_cycle_rate
from tests.behaviour.test_processes import CONFIG, largest_difference
from tests.behaviour.test_resume import metrics, weights
from tests.conftest import as_options
from tests.planted import train_planted
from tests.ranks import start_ranks

MakeConfig = Callable[..., Config]
SMALL: dict[str, dict[str, Any]] = {
    "data": {"phrasebook_valid_pairs": 7},
    "train": {"max_updates": 16, "log_every_updates": 5, "save_every_updates": 4, "keep_checkpoints": 9},
    "validation": {"every_updates": 16},
}


def config_of(make: MakeConfig, **train_fields: Any) -> Config:
    return make(**{**SMALL, "train": {**SMALL["train"], **train_fields}})


def plant(monkeypatch: pytest.MonkeyPatch, where: dict[tuple[int, int], float]) -> None:
    """Multiply the loss of (update from 0, slot) by a number; its gradient with it."""
    make, forward = Run.train_update, Transformer.forward
    now = {"update": -1, "slot": 0}

    def train_update(run: Run, *arguments: Any) -> torch.Tensor:
        now.update(update=run.state.update, slot=0)
        return make(run, *arguments)

    def changed(model: Transformer, batch: Any, *of_loss: float) -> torch.Tensor:
        loss = forward(model, batch, *of_loss)
        if model.training:
            loss = loss * where.get((now["update"], now["slot"]), 1.0)
            now["slot"] += 1
        return loss

    monkeypatch.setattr(Run, "train_update", train_update)
    monkeypatch.setattr(Transformer, "forward", changed)


def bad_updates(run_dir: Path) -> list[dict[str, Any]]:
    path = run_dir / "bad_updates.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def run_of(config: Config, run_dir: Path) -> Run:
    return Run(config, run_dir, prepare_data(config), device.start_accelerator(config.train))


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["adam", "adamw", "muon"])
def test_a_bad_update_changes_neither_weights_nor_moments_and_the_rate_goes_on(
    value: float, name: str, tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, {(1, 1): value})
    config = tiny_config(**{**SMALL, "optim": {"max_lr": 5e-3, "name": name, "weight_decay": 0.01}})
    run = run_of(config, tmp_path / "run")
    for update in range(3):
        run.state.update = update
        before = [p.detach().clone() for p in run.raw_model.parameters()]
        moments = [
            {key: value.clone() for key, value in state.items()} for state in run.optimizer.optimizer.state.values()
        ]
        n_tokens, micro_batches = next(run.updates())
        run.train_update(micro_batches, n_tokens)
        assert run.updater.lr == pytest.approx(one_cycle_rate(update, 16, config.optim), rel=1e-12)
        same = all(torch.equal(a, b) for a, b in zip(before, run.raw_model.parameters(), strict=True))
        assert same == (update == 1)
        if update == 1:
            for state, old in zip(run.optimizer.optimizer.state.values(), moments, strict=True):
                assert all(torch.equal(state[key], old[key]) for key in old)


def test_the_update_and_the_pairs_that_caused_it_are_written_down(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(monkeypatch, {(6, 1): math.nan})
    config = config_of(tiny_config)
    train(config, tmp_path / "run")
    (line,) = bad_updates(tmp_path / "run")
    assert (line["update"], line["fault"], line["action"], line["loss"]) == (7, "the loss is not finite", "skip", None)
    (part,) = line["micro_batches"]
    assert (part["process"], part["slot"], part["loss_sum"]) == (0, 1, None)
    run = run_of(config, tmp_path / "other")
    expected = next(run.plan.updates(6, 7))[1].tolist()
    assert part["pairs"] == expected
    pairs = run.data.train.__getitems__(expected)
    assert part["src"] == run.data.tokenizers.src.decode([pair.src.tolist() for pair in pairs])
    assert part["tgt"] == run.data.tokenizers.tgt.decode([pair.tgt.tolist() for pair in pairs])
    assert all(part["src"])
    assert "update 7: the loss is not finite; its pairs are in" in capsys.readouterr().out
    lines = [line for line in metrics(tmp_path / "run") if "loss" in line]
    assert [line["bad_updates"] for line in lines] == [0, 1, 0]
    assert [line["skipped_updates"] for line in lines] == [0, 0, 0]
    assert all(math.isfinite(line["loss"]) for line in lines)


def test_a_gradient_that_is_not_finite_under_a_finite_loss_is_bad(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, {(2, 0): 1e30})  # the square of its gradient overflows
    train(config_of(tiny_config), tmp_path / "run")
    (line,) = bad_updates(tmp_path / "run")
    assert (line["update"], line["fault"]) == (3, "the gradient is not finite")
    assert line["loss"] > 1e29
    assert [part["slot"] for part in line["micro_batches"]] == [0, 1]


@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_a_resumed_run_with_bad_updates_ends_with_the_same_bytes(
    policy: str, tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, {(6, 1): math.nan, (9, 0): math.inf, (10, 0): math.nan})
    train(config_of(tiny_config, on_bad_update=policy), tmp_path / "whole")
    for stop in (6, 7, 10, 13, None):
        train(config_of(tiny_config, on_bad_update=policy, stop_at_update=stop), tmp_path / "parts")
        if stop == 10:  # and as after a crash, which loses what came after the last regular checkpoint
            shutil.rmtree(checkpoint.checkpoint_dir(tmp_path / "parts", 10))
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")
    assert bad_updates(tmp_path / "parts") == bad_updates(tmp_path / "whole")


def test_going_back_is_as_if_those_updates_had_been_taken_out_from_the_start(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of(tiny_config, on_bad_update="rollback")
    told = run_of(config, tmp_path / "told")
    told.state.passed_over = [[4, 7], [8, 11]]
    told.resume()
    told.go()
    told.finish()
    with monkeypatch.context() as patch:
        plant(patch, {(6, 1): math.nan, (9, 0): math.inf, (10, 0): math.nan})
        train(config, tmp_path / "run")
    printed = capsys.readouterr().out
    assert "back to update_00000004; updates 5 to 7 are passed over" in printed
    assert "back to update_00000008; updates 9 to 10 are passed over" in printed
    assert "back to update_00000008; updates 9 to 11 are passed over" in printed
    assert [line["update"] for line in bad_updates(tmp_path / "run")] == [7, 10, 11]
    assert weights(tmp_path / "run") == weights(tmp_path / "told")
    assert metrics(tmp_path / "run") == metrics(tmp_path / "told")
    train(config, tmp_path / "plain")
    assert weights(tmp_path / "run") != weights(tmp_path / "plain")


def test_updates_that_are_passed_over_are_not_validated(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(monkeypatch, {(10, 0): math.nan})
    config = config_of(tiny_config, on_bad_update="rollback", save_every_updates=8, log_every_updates=1)
    validation = dataclasses.replace(config.validation, every_updates=1)
    train(dataclasses.replace(config, validation=validation), tmp_path / "run")
    validated = [line["update"] for line in metrics(tmp_path / "run") if "val_loss" in line]
    assert validated == [*range(1, 9), *range(12, 17)]
    trained = [line for line in metrics(tmp_path / "run") if "padding_share" in line]
    assert [line["update"] for line in trained if line["padding_share"] is None] == [9, 10, 11]
    printed = capsys.readouterr().out
    assert printed.count("loss none, all passed over") == 3
    assert "loss not finite" not in printed


def test_without_a_checkpoint_to_go_back_to_the_update_alone_is_skipped(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(monkeypatch, {(1, 0): math.nan})
    train(config_of(tiny_config, on_bad_update="rollback"), tmp_path / "back")
    assert "this update alone is skipped" in capsys.readouterr().out
    train(config_of(tiny_config), tmp_path / "skip")
    assert weights(tmp_path / "back") == weights(tmp_path / "skip")


@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_so_many_in_a_row_stop_the_run_and_leave_the_newest_checkpoint_good(
    policy: str, tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = {(update, 0): math.nan for update in range(5, 16)}
    with monkeypatch.context() as patch:
        # Three in a row end at a good one; then too many.
        plant(patch, {key: value for key, value in bad.items() if key[0] not in (8, 9)})
        with pytest.raises(RunError, match=re.escape("update 14: the loss is not finite; its pairs")) as error:
            train(config_of(tiny_config, on_bad_update=policy, max_bad_updates=4), tmp_path / "run")
    assert "bad updates in a row: 4" in str(error.value)
    found, _ = checkpoint.newest_valid(tmp_path / "run")
    assert found is not None
    assert found.name == "update_00000012"
    assert not (tmp_path / "run" / "final").exists()
    train(config_of(tiny_config), tmp_path / "run")
    assert (tmp_path / "run" / "final").exists()


def test_policy_stop_ends_at_the_first(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, {(6, 0): math.nan})
    with pytest.raises(RunError, match="update 7: the loss is not finite"):
        train(config_of(tiny_config, on_bad_update="stop"), tmp_path / "run")
    assert checkpoint.newest_valid(tmp_path / "run")[0] == checkpoint.checkpoint_dir(tmp_path / "run", 4)


def test_weights_that_are_not_finite_are_never_saved(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = Run.train_update

    def train_update(run: Run, *arguments: Any) -> torch.Tensor:
        norm = make(run, *arguments)
        if run.state.update == 7:
            with torch.no_grad():
                next(run.raw_model.parameters())[0] = math.inf
        return norm

    monkeypatch.setattr(Run, "train_update", train_update)
    with pytest.raises(RunError, match="after update 8 the weights are not finite"):
        train(config_of(tiny_config), tmp_path / "run")
    assert checkpoint.newest_valid(tmp_path / "run")[0] == checkpoint.checkpoint_dir(tmp_path / "run", 4)
    assert not (tmp_path / "run" / "best").exists()


def test_a_spike_is_bad_once_there_is_an_average_to_compare_with(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bad_numbers, "_N_AVERAGED", 10)
    fields = {"spike_factor": 3.0}
    plant(monkeypatch, {(update, slot): 10.0 for update in (6, 13) for slot in range(2)})
    train(config_of(tiny_config, **fields), tmp_path / "whole")
    (line,) = bad_updates(tmp_path / "whole")
    assert (line["update"], line["fault"]) == (14, "the loss is far above its average")
    train(config_of(tiny_config, **fields, stop_at_update=12), tmp_path / "parts")
    train(config_of(tiny_config, **fields), tmp_path / "parts")
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    assert bad_updates(tmp_path / "parts") == bad_updates(tmp_path / "whole")


@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_a_host_that_learns_of_it_an_update_late_comes_to_the_same_end(
    policy: str, tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, whose reports are read when the next update is already given out."""
    plant(monkeypatch, {(5, 1): math.nan, (9, 0): math.inf, (15, 0): math.nan})
    train(config_of(tiny_config, on_bad_update=policy), tmp_path / "at_once")
    begin = Reports.__init__
    monkeypatch.setattr(Reports, "__init__", lambda reports, accelerator: begin(reports, accelerator, lag=1))
    train(config_of(tiny_config, on_bad_update=policy), tmp_path / "late")
    assert weights(tmp_path / "late") == weights(tmp_path / "at_once")
    assert metrics(tmp_path / "late") == metrics(tmp_path / "at_once")
    assert bad_updates(tmp_path / "late") == bad_updates(tmp_path / "at_once")


def test_processes_skip_alike_what_only_one_of_them_saw(tiny_config: MakeConfig, tmp_path: Path) -> None:
    """Going back included: two processes end with the weights of one, and name the same pairs."""
    config = config_of(tiny_config, on_bad_update="rollback")
    for n in (1, 2):
        planted = config, tmp_path / str(n), 6, 1  # the second micro-batch is the second process' only one
        printed = start_ranks(n, tmp_path / f"{n}.log", train_planted, *planted, float64=True).wait()
        assert f"{n} process(es) on cpu" in printed
        assert printed.count("back to update_00000004; updates 5 to 7 are passed over") == 1
    one, two = (bad_updates(tmp_path / str(n)) for n in (1, 2))
    assert [(part["process"], part["slot"]) for line in one for part in line["micro_batches"]] == [(0, 1)]
    assert [(part["process"], part["slot"]) for line in two for part in line["micro_batches"]] == [(1, 0)]
    assert one[0]["micro_batches"][0]["pairs"] == two[0]["micro_batches"][0]["pairs"]
    assert largest_difference(tmp_path / "1", tmp_path / "2") < 1e-10


def test_the_command_line_ends_with_status_1_and_one_line(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(monkeypatch, {(6, 0): math.nan})
    options = as_options(config_of(tiny_config, on_bad_update="stop"))
    with pytest.raises(SystemExit) as end:
        main(["train", "--config", CONFIG, "--run_dir", str(tmp_path / "run"), *options])
    assert end.value.code == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("accel_tx:")]
    assert "update 7: the loss is not finite" in line
