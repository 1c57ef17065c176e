"""float16 with a gradient scaler, on CPU: overflow, unscaled clipping, skipped updates, resume of the scaler."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from accel_tx.config import Config, RunError
from accel_tx.train import checkpoint, device
from accel_tx.train.loop import Run, train
from tests.behaviour.test_bad_numbers import plant

MakeConfig = Callable[..., Config]
SMALL: dict[str, Any] = {
    "train": {"max_updates": 8, "max_tokens": 96, "log_every_updates": 1, "save_every_updates": 100},
    "validation": {"every_updates": 100},
    "data": {"phrasebook_valid_pairs": 3},
}


def config_of(make: MakeConfig, optimizer: str = "adam", **train_fields: Any) -> Config:
    return make(**{**SMALL, "train": {**SMALL["train"], **train_fields}, "optim": {"max_lr": 5e-3, "name": optimizer}})


def lines(run_dir: Path) -> list[dict[str, Any]]:
    read = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in read if "loss" in line]


def test_an_overflow_skips_the_update_and_is_counted(
    fp16_on_cpu: dict[str, float], tiny_config: MakeConfig, tmp_path: Path
) -> None:
    fp16_on_cpu["init"] = 2.0**40
    config = config_of(tiny_config)
    train(config, tmp_path / "run")
    found = lines(tmp_path / "run")
    skipped = [line["skipped_updates"] for line in found]
    assert skipped[0] == 1
    assert found[0]["grad_norm"] is None
    assert all(math.isfinite(line["loss"]) for line in found)


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_a_skipped_update_changes_no_weight_and_halves_the_scale(
    optimizer: str, fp16_on_cpu: dict[str, float], tiny_config: MakeConfig, tmp_path: Path
) -> None:
    from accel_tx.data.dataset import prepare_data

    fp16_on_cpu["init"] = 2.0**40
    config = config_of(tiny_config, optimizer)
    run = Run(config, tmp_path / "run", prepare_data(config), device.start_accelerator(config.train))
    before = [p.detach().clone() for p in run.raw_model.parameters()]
    n_tokens, micro_batches = next(run.updates())
    norm = run.train_update(micro_batches, n_tokens)
    assert not norm.isfinite()
    assert run.accelerator.scaler.get_scale() == 2.0**39
    assert all(torch.equal(a, b) for a, b in zip(before, run.raw_model.parameters(), strict=True))


def test_the_gradient_is_unscaled_before_it_is_clipped(
    fp16_on_cpu: dict[str, float], tiny_config: MakeConfig, tmp_path: Path
) -> None:
    norms = []
    for scale in (1.0, 2.0**10):
        fp16_on_cpu["init"] = scale
        config = config_of(tiny_config, max_updates=1)
        train(config, tmp_path / str(scale))
        norms.append(lines(tmp_path / str(scale))[0]["grad_norm"])
    assert norms[0] == pytest.approx(norms[1], rel=0.02)
    assert norms[0] < 100


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_a_resumed_run_restores_the_scaler_and_ends_with_the_same_bytes(
    optimizer: str, fp16_on_cpu: dict[str, float], tiny_config: MakeConfig, tmp_path: Path
) -> None:
    # The scale doubles every third update, so one that starts anew would differ.
    train(config_of(tiny_config, optimizer), tmp_path / "whole")
    train(config_of(tiny_config, optimizer, stop_at_update=5), tmp_path / "parts")
    assert (tmp_path / "parts" / "checkpoints" / "update_00000005" / "scaler.pt").is_file()
    fp16_on_cpu["init"] = 2.0**3
    train(config_of(tiny_config, optimizer), tmp_path / "parts")
    whole, parts = ((tmp_path / d / "final" / "model.safetensors").read_bytes() for d in ("whole", "parts"))
    assert whole == parts
    scalers = [
        torch.load(tmp_path / d / "checkpoints" / "update_00000008" / "scaler.pt", weights_only=True)
        for d in ("whole", "parts")
    ]
    assert scalers[0] == scalers[1]
    assert scalers[0]["scale"] == 2.0**12


def test_an_overflow_is_not_counted_among_the_bad_updates_but_a_loss_that_is_not_finite_is(
    fp16_on_cpu: dict[str, float], tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fp16_on_cpu["init"] = 2.0**40
    plant(monkeypatch, {(4, 0): math.nan})
    train(config_of(tiny_config), tmp_path / "run")
    found = lines(tmp_path / "run")
    n_overflows = sum(line["skipped_updates"] for line in found)
    assert n_overflows > 0
    assert [line["bad_updates"] for line in found] == [0, 0, 0, 0, 1, 0, 0, 0]
    assert found[4]["skipped_updates"] == 0
    assert (tmp_path / "run" / "bad_updates.jsonl").read_text().count("the loss is not finite") == 1


def test_a_spike_is_skipped_without_halving_the_scale(
    fp16_on_cpu: dict[str, float], tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accel_tx.data.dataset import prepare_data

    config = config_of(tiny_config, spike_factor=3.0)
    run = Run(config, tmp_path / "run", prepare_data(config), device.start_accelerator(config.train))
    run.judge.average = run.judge.average.new_tensor([1e-3, 100.0])
    before = [p.detach().clone() for p in run.raw_model.parameters()]
    n_tokens, micro_batches = next(run.updates())
    assert run.train_update(micro_batches, n_tokens).isfinite()
    assert run.accelerator.scaler.get_scale() == 2.0**10
    assert all(torch.equal(a, b) for a, b in zip(before, run.raw_model.parameters(), strict=True))
    assert run.judge.average.tolist() == [1e-3, 100.0]


def test_a_scale_that_collapses_stops_the_run_and_leaves_the_newest_checkpoint(
    fp16_on_cpu: dict[str, float], tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fp16_on_cpu["init"] = 2.0**-8
    # Its gradient overflows at any scale that this run can come to.
    plant(monkeypatch, {(update, 0): 1e34 for update in range(2, 40)})
    with pytest.raises(RunError, match=r"the gradient scale of fp16 fell to 6\.1e-05"):
        train(config_of(tiny_config, max_updates=40, save_every_updates=2), tmp_path / "run")
    found, _ = checkpoint.newest_valid(tmp_path / "run")
    assert found is not None
    assert found.name == "update_00000006"
