"""float16 with a gradient scaler, on CPU: overflow, unscaled clipping, skipped updates, resume of the scaler."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from accel_tx.config import Config, TrainConfig
from accel_tx.train import device
from accel_tx.train.loop import Run, train
from accel_tx.train.schedule import one_cycle_rate

MakeConfig = Callable[..., Config]
SMALL: dict[str, Any] = {
    "model": {"n_encoder_layers": 1, "n_decoder_layers": 1},
    "train": {"max_updates": 8, "max_tokens": 96, "log_every_updates": 1, "save_every_updates": 100},
    "validation": {"every_updates": 100},
    "data": {"phrasebook_valid_pairs": 3},
}


def config_of(make: MakeConfig, **train_fields: Any) -> Config:
    return make(**{**SMALL, "train": {**SMALL["train"], **train_fields}})


@pytest.fixture
def fp16_on_cpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make `start_accelerator` give an Accelerator with a CPU gradient scaler; returns a setter of the first scale."""
    scale = {"init": 2.0**10}

    def start(_: TrainConfig) -> Accelerator:
        AcceleratorState._reset_state(True)
        accelerator = Accelerator(cpu=True, mixed_precision="fp16")
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale["init"], growth_interval=3)
        accelerator.native_amp = True
        return accelerator

    monkeypatch.setattr(device, "start_accelerator", start)
    yield scale
    AcceleratorState._reset_state(True)


def lines(run_dir: Path) -> list[dict[str, Any]]:
    read = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in read if "loss" in line]


def test_an_overflow_skips_the_update_and_the_rate_goes_on(
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
    expected = [one_cycle_rate(u, 8, config.optim) for u in range(8)]
    assert [line["lr"] for line in found] == pytest.approx(expected, rel=1e-12)


def test_a_skipped_update_changes_no_weight_and_halves_the_scale(
    fp16_on_cpu: dict[str, float], tiny_config: MakeConfig, tmp_path: Path
) -> None:
    from accel_tx.data.dataset import prepare_data

    fp16_on_cpu["init"] = 2.0**40
    config = config_of(tiny_config)
    run = Run(config, tmp_path / "run", prepare_data(config), device.start_accelerator(config.train))
    before = [p.detach().clone() for p in run.raw_model.parameters()]
    n_tokens, micro_batches = next(run._updates())
    norm = run._train_update(micro_batches, n_tokens)
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


def test_a_resumed_run_restores_the_scaler_and_ends_with_the_same_bytes(
    fp16_on_cpu: dict[str, float], tiny_config: MakeConfig, tmp_path: Path
) -> None:
    # The scale doubles every third update, so one that starts anew would differ.
    train(config_of(tiny_config), tmp_path / "whole")
    train(config_of(tiny_config, stop_at_update=5), tmp_path / "parts")
    assert (tmp_path / "parts" / "checkpoints" / "update_00000005" / "scaler.pt").is_file()
    fp16_on_cpu["init"] = 2.0**3
    train(config_of(tiny_config), tmp_path / "parts")
    whole, parts = ((tmp_path / d / "final" / "model.safetensors").read_bytes() for d in ("whole", "parts"))
    assert whole == parts
    scalers = [
        torch.load(tmp_path / d / "checkpoints" / "update_00000008" / "scaler.pt", weights_only=True)
        for d in ("whole", "parts")
    ]
    assert scalers[0] == scalers[1]
    assert scalers[0]["scale"] == 2.0**12
