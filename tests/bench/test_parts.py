"""What a part of the step and its plain counterpart compute is the same; the table adds up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from accel_tx.bench.parts import _micro_batch, _parts, _Step, measure_parts, parts_markdown
from accel_tx.bench.workload import load_workload
from accel_tx.config import Config, UserError
from accel_tx.model.transformer import Transformer
from tests.bench.test_command import CONFIG, SMALL
from tests.conftest import run_cli

CPU = torch.device("cpu")


def test_the_padded_step_has_the_gradients_of_ours(tiny_config: Callable[..., Config]) -> None:
    config = tiny_config(model={"dropout": 0.0})
    workload = load_workload(config, 200, 120)
    batch = _micro_batch(config, workload, CPU)
    assert len({block.width for block in batch.src_blocks}) > 1
    model = Transformer(config.model, 120, 120).double().train()
    step = _Step(model, batch, "no", 0.1)
    gradients = []
    for run in (step, step.padded):
        run()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert len(gradients[0]) > 10
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-9, atol=1e-10)


def test_attention_beside_the_kernel_gives_its_gradients(tiny_config: Callable[..., Config]) -> None:
    config = tiny_config()
    workload = load_workload(config, 200, 120)
    batch = _micro_batch(config, workload, CPU)
    model = Transformer(config.model, 120, 120)
    parts = [part for part in _parts(config, model, batch, "bf16") if part.name.startswith("attention")]
    assert [part.times for part in parts] == [
        config.model.n_encoder_layers,
        config.model.n_decoder_layers,
        config.model.n_decoder_layers,
    ]
    for part in parts:
        for ours, plain in zip(part.ours(), part.plain(), strict=True):  # type: ignore[call-overload]
            assert float((ours - plain).norm() / plain.norm()) < 0.03


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_every_part_is_measured_in_every_round(tiny_config: Callable[..., Config], precision: str) -> None:
    config = tiny_config(model={"dropout": 0.1})
    found = measure_parts(config, load_workload(config, 100, 120), precision, 2)
    names = [row["part"] for row in found["parts"]]
    assert names[0] == "hidden states without padding"
    assert {"dropout", "vocabulary loss in chunks", "fused Adam"} <= set(names)
    assert ("precision bf16" in names) == (precision == "bf16")
    for row in found["parts"]:
        for seconds in (row["ours_s"], row["plain_s"]):
            assert len(seconds) == 2
            assert min(seconds) > 0


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"train": {"compile": True}}, r"train\.compile is true; expected false"),
        ({"model": {"dropout": 0.1}, "optim": {"r_drop": 3.0}}, r"optim\.r_drop is 3; expected 0"),
    ],
)
def test_a_step_without_such_parts_is_refused(
    fields: dict[str, Any], told: str, tiny_config: Callable[..., Config]
) -> None:
    config = tiny_config(**fields)
    with pytest.raises(UserError, match=told):
        measure_parts(config, load_workload(config, 100, 120), "no", 1)


def test_muon_is_part_of_the_update_and_steps_as_torchs_does(tiny_config: Callable[..., Config]) -> None:
    config = tiny_config(optim={"name": "muon"})
    found = measure_parts(config, load_workload(config, 100, 120), "no", 1)
    (row,) = [row for row in found["parts"] if row["part"].startswith("Muon")]
    assert row["plain"] == "torch's Muon and fused AdamW"
    whole, muon = found["parts"][0]["ours_s"][0], row["ours_s"][0]
    expected = (whole + row["plain_s"][0]) / (whole + muon)
    (line,) = [line for line in parts_markdown(found).splitlines() if line.startswith("| Muon")]
    assert line.endswith(f"| {expected:.2f} of the time |")


def test_the_table_says_what_an_update_would_take_without_a_part() -> None:
    rows = [
        {"part": "whole", "plain": "padded", "ours_s": [0.2, 0.3, 9.0], "plain_s": [0.8, 0.7, 0.6]},
        {"part": "dropout", "plain": "torch's own", "ours_s": [0.1], "plain_s": [0.3]},
        {"part": "fused Adam", "plain": "Adam as it is by default", "ours_s": [0.1], "plain_s": [0.2]},
    ]
    found = {"data": "x", "precision": "no", "n_pairs": 1, "n_src_tokens": 2, "n_tgt_tokens": 3, "parts": rows}
    table = parts_markdown(found).splitlines()
    assert table[2] == "| whole | padded | 300.0 | 700.0 | 2.33 | 2.00 of the time |"
    assert table[3] == "| dropout | torch's own | 100.0 | 300.0 | 3.00 | 1.50 of the time |"
    assert table[4].endswith("| 2.00 | 1.25 of the time |")


def test_the_command_prints_the_table() -> None:
    done = run_cli("bench", "--config", CONFIG, *SMALL, "--measure", "parts", "--rounds", "1", "--precision", "no")
    assert done.returncode == 0, done.stderr
    assert "| vocabulary loss in chunks | cross-entropy of all logits |" in done.stdout
    assert "One micro-batch of" in done.stdout
