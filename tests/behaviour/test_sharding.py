"""FSDP2 on processes of a CPU: the training, its checkpoints and its results are those of one process."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from accel_tx.config import Config, RunError, UserError
from accel_tx.data.collator import DataCollator, TokenPair
from accel_tx.train.checkpoint import checkpoint_dir, find_fault
from accel_tx.train.device import start_accelerator
from accel_tx.train.gradient import Gradient
from accel_tx.train.sharding import check_can_shard, plugin
from tests.planted import train_planted
from tests.ranks import SHARDED, start_ranks, train_on
from tests.run_folder import largest_difference, metrics

MakeConfig = Callable[..., Config]
# Odd sizes, so that parts are unequal; a norm that clips; layers that run twice; averages beside the weights.
FIELDS: dict[str, dict[str, Any]] = {
    "model": {"d_model": 18, "d_ff": 35, "n_encoder_layers": 3, "encoder_sharing": "palindrome", "norm": "pre"},
    "optim": {"max_lr": 5e-3, "clip_norm": 0.05, "weight_decay": 0.01, "name": "adamw"},
    "train": {
        "max_updates": 20,
        "log_every_updates": 3,
        "save_every_updates": 10,
        "keep_checkpoints": 9,
        "ema_decay": 0.9,
    },
    "validation": {"every_updates": 10, "average_last": 2},
}


def config_of(make: MakeConfig, **train: Any) -> Config:
    return make(**{**FIELDS, "train": {**FIELDS["train"], **train}})


def assert_same_training(run_dir: Path, expected: Path) -> None:
    """In float64, the same to the rounding of sums."""
    assert largest_difference(run_dir, expected) < 1e-10
    found, wanted = metrics(run_dir), metrics(expected)
    assert len(found) == len(wanted) > 7
    for line, other in zip(found, wanted, strict=True):
        assert line.keys() == other.keys()
        for name, value in other.items():
            assert line[name] == (pytest.approx(value, rel=1e-9) if isinstance(value, float) else value), name


def assert_same_checkpoint(folder: Path, expected: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {path.name for path in expected.iterdir()}
    assert find_fault(folder) is None
    for name in ("model.safetensors", "ema.safetensors"):
        found, wanted = load_file(folder / name), load_file(expected / name)
        assert found.keys() == wanted.keys()
        assert all(torch.allclose(found[key], wanted[key], rtol=0, atol=1e-10) for key in wanted)
    found, wanted = (torch.load(path / "optimizer.bin", weights_only=True) for path in (folder, expected))
    assert found["param_groups"] == wanted["param_groups"]
    assert found["state"].keys() == wanted["state"].keys()
    for index, entry in wanted["state"].items():
        for name, value in entry.items():
            assert torch.allclose(found["state"][index][name], value, rtol=0, atol=1e-10), (index, name)


@pytest.mark.parametrize(
    "starts",
    [
        [(2, 13), (1, 20)],
        pytest.param([(1, 3), (2, 10), (2, 13), (4, 20)], marks=pytest.mark.slow),
    ],
)
def test_a_run_in_parts_goes_on_as_one_whole_and_the_other_way_round(
    starts: list[tuple[int, int]], tiny_config: MakeConfig, tmp_path: Path
) -> None:
    fields = {"micro_batches_per_update": 4}
    train_on(1, config_of(tiny_config, **fields), tmp_path / "whole", float64=True)
    for n, stop in starts:  # 13 lies inside a window of metrics
        config = config_of(tiny_config, **fields, stop_at_update=None if stop == 20 else stop)
        launched = SHARDED if n > 1 else None
        printed = train_on(n, config, tmp_path / "run", float64=True, launched_with=launched)
        assert n == 1 or f"a process holds 1/{n} of weights" in printed
    assert printed.count("going on from") == len(starts) - 1
    assert_same_training(tmp_path / "run", tmp_path / "whole")
    for update in (10, 20):  # the first of them by processes with parts
        assert_same_checkpoint(checkpoint_dir(tmp_path / "run", update), checkpoint_dir(tmp_path / "whole", update))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n_processes", "reshard", "r_drop", "quantization"), [(2, "true", 0.0, "int8"), (4, "false", 5.0, "none")]
)
def test_processes_that_hold_parts_train_as_one(
    n_processes: int, reshard: str, r_drop: float, quantization: Any, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    config = config_of(tiny_config, gradient_checkpointing=True, micro_batches_per_update=4)
    config = dataclasses.replace(
        config,
        optim=dataclasses.replace(config.optim, r_drop=r_drop),
        model=dataclasses.replace(config.model, quantization=quantization),
    )
    train_on(1, config, tmp_path / "one", float64=True)
    launched = {**SHARDED, "FSDP_RESHARD_AFTER_FORWARD": reshard}
    train_on(n_processes, config, tmp_path / "parts", float64=True, launched_with=launched)
    assert_same_training(tmp_path / "parts", tmp_path / "one")


@pytest.mark.slow
def test_mixed_precision_and_checkpointing_in_parts_learn_as_on_two_whole_models(
    tiny_config: MakeConfig, tmp_path: Path
) -> None:
    for name, launched in (("parts", SHARDED), ("whole", {})):
        config = config_of(tiny_config, precision="bf16", gradient_checkpointing=True)
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, phrasebook_valid_pairs=300))
        train_on(2, config, tmp_path / name, launched_with=launched)
    # Sums over the processes have another order, which bf16's products after it magnify from update to update: by
    # 1.7e-5 until update 10, by 4e-5 to 1.2e-4 until 20, as the CPU is. In float32 it is 1.4e-4 away at update 10.
    for line, other in zip(metrics(tmp_path / "parts"), metrics(tmp_path / "whole"), strict=True):
        tolerance = 5e-5 if line["update"] <= 10 else 3e-4
        for name in line.keys() & {"loss", "val_loss"}:
            assert line[name] == pytest.approx(other[name], rel=tolerance), (name, line["update"])
    for path in ("final", "best"):
        weights = load_file(tmp_path / "parts" / path / "model.safetensors")
        assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_a_bad_update_in_parts_is_skipped_or_gone_back_from_as_on_one_process(
    policy: str, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    config = config_of(tiny_config, on_bad_update=policy)
    for name, n, launched in (("one", 1, {}), ("parts", 2, SHARDED)):
        log = tmp_path / f"{name}.log"
        planted = config, tmp_path / name, 13, 1
        printed = start_ranks(n, log, train_planted, *planted, float64=True, launched_with=launched).wait()
        assert "update 14: the loss is not finite" in printed
        assert ("back to update_00000010" in printed) == (policy == "rollback")
    assert_same_training(tmp_path / "parts", tmp_path / "one")


@pytest.mark.slow
def test_a_run_in_parts_begins_with_the_weights_of_another(tiny_config: MakeConfig, tmp_path: Path) -> None:
    train_on(1, config_of(tiny_config), tmp_path / "before", float64=True)
    for name, n, launched in (("one", 1, {}), ("parts", 2, SHARDED)):
        config, source = config_of(tiny_config, seed=3), tmp_path / "before"
        printed = train_on(n, config, tmp_path / name, float64=True, launched_with=launched, init_from=source)
        assert "beginning with the weights in" in printed
    assert_same_training(tmp_path / "parts", tmp_path / "one")


@pytest.fixture
def sharded(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The environment of a process that shares out a model with another."""
    for name, value in {**SHARDED, "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


@pytest.mark.parametrize(
    ("fields", "precision", "refusal"),
    [
        ({"train": {"compile": True}}, "no", r"train.compile is true under FSDP; expected false"),
        ({"train": {"max_tokens": "auto", "tokens_per_update": 512}}, "no", r"train.max_tokens is auto .* a number"),
        ({}, "fp16", r"train.precision is fp16 under FSDP; expected bf16 or no"),
        ({"optim": {"name": "muon"}}, "no", r"optim.name is muon .* expected adam or adamw"),
    ],
)
def test_what_cannot_be_done_in_parts_is_refused(
    fields: dict[str, Any], precision: str, refusal: str, tiny_config: MakeConfig, sharded: pytest.MonkeyPatch
) -> None:
    config = tiny_config(**fields)
    with pytest.raises(UserError, match=f"{refusal}.*launch/multi_gpu.yaml"):
        check_can_shard(config, precision)
    sharded.delenv("ACCELERATE_USE_FSDP")
    check_can_shard(config, precision)


@pytest.mark.parametrize(
    ("name", "value", "refusal"),
    [
        ("FSDP_VERSION", "1", r"told fsdp_version 1; expected 2, as in launch/fsdp2.yaml"),
        ("FSDP_OFFLOAD_PARAMS", "true", r"told fsdp_offload_params true; expected false"),
        ("FSDP_CPU_RAM_EFFICIENT_LOADING", "true", r"told fsdp_cpu_ram_efficient_loading true; expected false"),
        ("FSDP_AUTO_WRAP_POLICY", "SIZE_BASED_WRAP", r"expected TRANSFORMER_BASED_WRAP, as in launch/fsdp2.yaml"),
        ("FSDP_ACTIVATION_CHECKPOINTING", "true", r"and train.gradient_checkpointing true, which does the same"),
        ("WORLD_SIZE", "1", r"with one process has nothing to share out; expected --num_processes 2"),
        ("ACCELERATE_USE_DEEPSPEED", "true", r"DeepSpeed.*fsdp2.yaml.*ZeRO-3; for ZeRO-2 with --fsdp_reshard_after"),
        ("ACCELERATE_USE_MEGATRON_LM", "true", r"Megatron-LM.*expected --config_file launch/fsdp2.yaml"),
    ],
)
def test_what_the_launcher_may_not_ask_for_is_refused(
    name: str, value: str, refusal: str, tiny_config: MakeConfig, sharded: pytest.MonkeyPatch
) -> None:
    check_can_shard(tiny_config(), "bf16")
    sharded.setenv(name, value)
    with pytest.raises(UserError, match=refusal):
        check_can_shard(tiny_config(), "bf16")


def test_numbers_between_the_processes_are_not_rounded_to_16_bits(sharded: pytest.MonkeyPatch) -> None:
    asked = plugin()
    assert asked is not None
    asked.set_mixed_precision("bf16")  # as Accelerate does
    policy = asked.mixed_precision_policy
    assert (policy.param_dtype, policy.reduce_dtype, policy.output_dtype) == (None, None, None)


class NeverFits(torch.nn.Module):
    """A model for which there is no memory."""

    def forward(self, *_: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("out of memory")


def test_a_micro_batch_that_does_not_fit_ends_a_run_in_parts(
    tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    accelerator = start_accelerator(tiny_config().train)
    gradient = Gradient(accelerator, NeverFits(), seed=1, label_smoothing=0.1, collate=DataCollator())
    gradient.is_sharded = True
    ids = np.array([5, 6], dtype=np.int32)
    batch = DataCollator()([TokenPair(ids, ids)] * 4)
    with pytest.raises(RunError, match=r"update 8: a micro-batch of 12 \+ 12 tokens .* under FSDP it cannot be split"):
        gradient.take(7, [batch], n_tokens=12)
