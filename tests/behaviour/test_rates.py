"""The learning rate that the optimizer uses at each update, against a table in closed form.

The table is exact arithmetic on the corners of the cycle, written apart from `accel_tx.train.schedule`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from accel_tx.config import Config, OptimConfig
from tests.ranks import read_records, start_ranks, train_and_record
from tests.run_folder import read_lines

MakeConfig = Callable[..., Config]
Setup = tuple[str, dict[str, Any]]


def table(n_updates: int, optim: OptimConfig) -> list[float]:
    """The rate of every update: straight lines or half cosine waves through the corners of the cycle.

    Counted in updates from 0 the peak lies at pct_start x n - 1, the end of a third phase's fall twice as far, the
    minimum at n - 1; corners before update 0 only shape what follows, and of corners at one place the last counts.
    """
    peak = Fraction(str(optim.max_lr))
    first = peak / Fraction(str(optim.div_factor))
    minimum = first / Fraction(str(optim.final_div_factor))
    rise = Fraction(str(optim.pct_start)) * n_updates - 1
    falls = [(2 * rise, first)] if optim.three_phase else []
    corners = [(Fraction(0), first), (rise, peak), *falls, (Fraction(n_updates - 1), minimum)]
    return [float(minimum) if u == n_updates - 1 else _rate_at(u, corners, optim.anneal) for u in range(n_updates)]


def _rate_at(update: int, corners: list[tuple[Fraction, Fraction]], shape: str) -> float:
    for (x0, y0), (x1, y1) in pairwise(corners):
        if x0 < x1 and update <= x1:
            share = (update - x0) / (x1 - x0)
            if shape == "linear":
                return float(y0 + (y1 - y0) * share)
            return float(y1) + float(y0 - y1) * (1 + math.cos(math.pi * float(share))) / 2
    raise AssertionError(f"update {update} lies beyond {corners}")


# max_lr 1, first rate 1/10, minimum 1/100
BY_HAND: list[tuple[int, dict[str, Any], list[float]]] = [
    (1, {"pct_start": 0.3}, [0.01]),
    # pct_start x n = 1: the first update has the peak. torch's OneCycleLR divides by zero here.
    (2, {"pct_start": 0.5}, [1.0, 0.01]),
    (10, {"pct_start": 0.1}, [1.0, 0.89, 0.78, 0.67, 0.56, 0.45, 0.34, 0.23, 0.12, 0.01]),
    (10, {"pct_start": 0.1, "three_phase": True}, [0.1, 0.09, 0.08, 0.07, 0.06, 0.05, 0.04, 0.03, 0.02, 0.01]),
    # The peak would lie before the first update, at -0.4 and -0.1: the way down is joined there.
    (2, {"pct_start": 0.3}, [1 - 0.99 * 4 / 14, 0.01]),
    (3, {"pct_start": 0.3}, [1 - 0.99 * 1 / 21, 1 - 0.99 * 11 / 21, 0.01]),
    (3, {"pct_start": 0.3, "anneal": "cos"}, [0.505 + 0.495 * math.cos(math.pi * k / 21) for k in (1, 11)] + [0.01]),
    # The rise ends at update 2, the fall of three phases at 4.
    (10, {"pct_start": 0.3}, [0.1, 0.55, *[1 - 0.99 * k / 7 for k in range(8)]]),
    (10, {"pct_start": 0.3, "three_phase": True}, [0.1, 0.55, 1, 0.55, 0.1, 0.082, 0.064, 0.046, 0.028, 0.01]),
    (5, {"pct_start": 0.4, "anneal": "cos"}, [0.1, *[0.505 + 0.495 * math.cos(math.pi * k / 3) for k in range(4)]]),
]  # fmt: skip


def optim_of(fields: dict[str, Any]) -> OptimConfig:
    return OptimConfig(**{"max_lr": 1.0, "div_factor": 10, "final_div_factor": 10, "anneal": "linear", **fields})


@pytest.mark.parametrize(("n_updates", "fields", "rates"), BY_HAND)
def test_the_table_equals_rates_worked_out_by_hand(n_updates: int, fields: dict[str, Any], rates: list[float]) -> None:
    assert table(n_updates, optim_of(fields)) == pytest.approx(rates, rel=1e-12)


def config_of(make: MakeConfig, **sections: dict[str, Any]) -> Config:
    small: dict[str, dict[str, Any]] = {
        "data": {"phrasebook_train_pairs": 90, "phrasebook_valid_pairs": 3},
        "train": {"max_updates": 10, "max_tokens": 96, "log_every_updates": 1, "save_every_updates": 1000},
    }
    return make(**{name: {**small.get(name, {}), **sections.get(name, {})} for name in {*small, *sections}})


def assert_rates(records: Path, expected: list[float], config: Config, n_processes: int = 1) -> None:
    """On every process, at every update: this rate, the last one exactly; Adam's betas as configured."""
    ranks = read_records(records)
    assert len(ranks) == n_processes
    for rank in ranks:
        assert [update["lr"] for update in rank] == pytest.approx(expected, rel=1e-12, abs=0)
        assert {update["betas"] for update in rank} == {config.optim.betas}
    optim = config.optim
    assert min(expected) == expected[-1]
    assert expected[-1] == pytest.approx(optim.max_lr / optim.div_factor / optim.final_div_factor, rel=1e-15)


@pytest.mark.parametrize("n_updates", [1, 2, 3, 10])
@pytest.mark.parametrize("three_phase", [False, True])
@pytest.mark.parametrize("anneal", ["cos", "linear"])
def test_short_runs_use_the_rates_of_the_table(
    n_updates: int, three_phase: bool, anneal: str, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    # 10 x 0.1 is 1: where torch's OneCycleLR divides by zero.
    optim = {"pct_start": 0.1 if n_updates == 10 else 0.3, "three_phase": three_phase, "anneal": anneal}
    config = config_of(tiny_config, train={"max_updates": n_updates}, optim=optim)
    train_and_record(config, tmp_path / "run", tmp_path / "records")
    assert_rates(tmp_path / "records", table(n_updates, config.optim), config)


@pytest.mark.parametrize("n_processes", [1, 2, 4])
@pytest.mark.parametrize("n_micro_batches", [1, 4])
def test_processes_accumulation_and_a_short_last_update_of_an_epoch_leave_the_rates_alone(
    n_processes: int, n_micro_batches: int, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    config = config_of(
        tiny_config,
        train={
            "max_updates": None,
            "epochs": 3,
            "max_tokens": None,
            "batch_size": 10,
            "micro_batches_per_update": n_micro_batches,
        },
        optim={"pct_start": 0.3},
    )
    # 90 pairs are 9 micro-batches: of 4 an update two full ones and one of a single micro-batch.
    n_updates = 3 * {1: 9, 4: 3}[n_micro_batches]
    arguments = config, tmp_path / "run", tmp_path / "records"
    start_ranks(n_processes, tmp_path / "log", train_and_record, *arguments).wait()
    expected = table(n_updates, config.optim)
    assert_rates(tmp_path / "records", expected, config, n_processes)
    assert [line["lr"] for line in read_lines(tmp_path / "run") if "lr" in line] == pytest.approx(expected, rel=1e-12)


def test_a_run_that_was_stopped_goes_on_with_the_rates_of_the_table(tiny_config: MakeConfig, tmp_path: Path) -> None:
    for start, stop in enumerate((4, 5, None)):
        config = config_of(tiny_config, train={"stop_at_update": stop}, optim={"three_phase": True})
        train_and_record(config, tmp_path / "run", tmp_path / "records" / str(start))
    found = [read_records(tmp_path / "records" / str(start))[0] for start in range(3)]
    assert [len(part) for part in found] == [4, 1, 5]
    assert [u["lr"] for part in found for u in part] == pytest.approx(table(10, config.optim), rel=1e-12, abs=0)


def test_an_update_that_fp16_skips_uses_up_its_rate(
    fp16_on_cpu: dict[str, float], tiny_config: MakeConfig, tmp_path: Path
) -> None:
    fp16_on_cpu["init"] = 2.0**24
    config = config_of(tiny_config)
    train_and_record(config, tmp_path / "run", tmp_path / "records")
    lines = [line for line in read_lines(tmp_path / "run") if "loss" in line]
    assert lines[0]["skipped_updates"] == 1
    assert sum(line["skipped_updates"] for line in lines) < len(lines)
    assert_rates(tmp_path / "records", table(10, config.optim), config)
    assert [line["lr"] for line in lines] == pytest.approx(table(10, config.optim), rel=1e-12)
