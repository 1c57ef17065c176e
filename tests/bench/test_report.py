"""The table and the JSON say what was measured."""

from __future__ import annotations

import json

import pytest

from accel_tx.bench.report import SpeedReport, SystemResult
from accel_tx.bench.turns import Turn


def turn(seconds: float, n_tgt_tokens: int) -> Turn:
    return Turn(
        seconds=seconds,
        n_updates=2,
        n_src_tokens=n_tgt_tokens,
        n_tgt_tokens=n_tgt_tokens,
        model_flops=n_tgt_tokens * 1_000_000,
        computed_flops=n_tgt_tokens * 2_000_000,
        phase_s={"loading": 0.1 * seconds, "forward": 0.3 * seconds, "backward": 0.5 * seconds, "optimizer": 0.0},
    )


@pytest.fixture
def report() -> SpeedReport:
    settings = {"data": "text", "vocabularies": [7, 9], "dropout": 0.1, "attention_dropout": 0, "label_smoothing": 0.1}
    settings["tf32"] = ["float32 matrix products in TF32"]
    return SpeedReport(
        settings=settings,
        machine={"processor": "x", "threads": 1},
        matmul_flops_per_s={"bf16": 4e9, "no": 2e9},
        results=[
            SystemResult("ours", "bf16", 1000, [turn(1, 900), turn(2, 2000), turn(1, 1200)], 10.0),
            SystemResult("ours", "no", 1000, [turn(1, 600), turn(1, 500), turn(1, 400)], 10.0),
            SystemResult("original", "no", 1001, [turn(1, 100), turn(1, 250), turn(1, 200)], None),
            SystemResult("original", "bf16", 1001, [turn(1, 300), turn(1, 100), turn(1, 200)], None),
        ],
    )


def test_rates_are_medians_over_the_rounds(report: SpeedReport) -> None:
    first = report.to_dict()["systems"][0]

    assert first["tgt_tokens_per_s"] == 1000
    assert first["tgt_tokens_per_s_range"] == [900, 1200]
    assert first["src_and_tgt_tokens_per_s"] == 2000
    assert first["padding_share"] == pytest.approx(0.5)
    assert first["model_flops_per_s"] == 1e9
    assert first["computed_flops_per_s"] == 2e9
    assert first["share_of_matmul_peak"] == pytest.approx(0.25)
    assert first["time_shares"] == pytest.approx(
        {"loading": 0.1, "forward": 0.3, "backward": 0.5, "optimizer": 0.0, "rest": 0.1}
    )


def test_ratios_are_of_medians_with_their_spread_over_the_rounds(report: SpeedReport) -> None:
    ratios = {(r["of"], r["to"]): r for r in report.ratios()}

    assert set(ratios) == {(f"ours ({a})", f"original ({b})") for a in NAMES for b in NAMES}
    assert ratios["ours (bfloat16)", "original (float32)"]["ratio"] == 5
    assert ratios["ours (bfloat16)", "original (float32)"]["range"] == [4, 9]


NAMES = ("bfloat16", "float32")


def test_the_table_is_markdown_with_one_row_a_system(report: SpeedReport) -> None:
    lines = report.to_markdown().splitlines()
    table = [line for line in lines if line.startswith("|")]

    assert [line.count("|") for line in table] == [10] * 6
    assert "| ours (bfloat16) | 1,000 (900 to 1,200) | 2,000 | 50.0% |" in table[2]
    assert "| not known | 1,001 |" in table[4]
    assert "- ours (bfloat16) is 5.00 times as fast as original (float32) (4.00 to 9.00 over the rounds)." in lines
    assert "- All systems and the peak: float32 matrix products in TF32." in lines
    assert not any(line.startswith("- ours (float32) is") and "original (bfloat16)" in line for line in lines)
    assert json.loads(json.dumps(report.to_dict()))["systems"][2]["peak_mib"] is None
