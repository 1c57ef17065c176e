"""Learning rates: against tables computed by hand and against those of torch and transformers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from accel_tx.config import OptimConfig, UserError
from accel_tx.train.optimizer import build_optimizer
from accel_tx.train.schedule import build_scheduler, one_cycle_rate, rate_of


def test_linear_three_phase_equals_a_table_computed_by_hand() -> None:
    # max 1, first 1/10, last 1/100; 21 updates, pct_start 2/7: up over 0..5, down over 5..10, on to the end at 20.
    config = OptimConfig(
        max_lr=1.0, div_factor=10, final_div_factor=10, three_phase=True, anneal="linear", pct_start=2 / 7
    )
    rising = [0.10, 0.28, 0.46, 0.64, 0.82, 1.00]
    falling = [0.82, 0.64, 0.46, 0.28, 0.10]
    ending = [0.091, 0.082, 0.073, 0.064, 0.055, 0.046, 0.037, 0.028, 0.019, 0.010]
    assert [one_cycle_rate(u, 21, config) for u in range(21)] == pytest.approx(rising + falling + ending)


@pytest.mark.parametrize("three_phase", [False, True])
@pytest.mark.parametrize("anneal", ["cos", "linear"])
@pytest.mark.parametrize("pct_start", [0.1, 0.25, 0.3])
@pytest.mark.parametrize("n_updates", [1, 2, 3, 7, 10, 11, 100, 1000])
def test_every_rate_equals_torchs_one_cycle(three_phase: bool, anneal: str, pct_start: float, n_updates: int) -> None:
    if pct_start * n_updates == 1:
        pytest.skip("torch's OneCycleLR divides by zero here")
    config = OptimConfig(three_phase=three_phase, anneal=anneal, pct_start=pct_start)  # type: ignore[arg-type]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=config.max_lr,
        total_steps=n_updates,
        pct_start=pct_start,
        anneal_strategy=anneal,
        div_factor=config.div_factor,
        final_div_factor=config.final_div_factor,
        three_phase=three_phase,
        cycle_momentum=False,
    )
    for update in range(n_updates):
        assert one_cycle_rate(update, n_updates, config) == pytest.approx(reference.get_last_lr()[0], rel=1e-12)
        if update < n_updates - 1:
            optimizer.step()
            reference.step()


@pytest.mark.parametrize("n_updates", [1, 2, 3, 10, 39])
@pytest.mark.parametrize("pct_start", [0.0, 0.1, 0.5, 0.99])
def test_the_last_update_gets_exactly_the_minimum_and_so_does_any_later(n_updates: int, pct_start: float) -> None:
    config = OptimConfig(pct_start=pct_start)
    minimum = config.max_lr / config.div_factor / config.final_div_factor
    assert one_cycle_rate(n_updates - 1, n_updates, config) == minimum
    assert one_cycle_rate(n_updates, n_updates, config) == minimum
    assert min(one_cycle_rate(u, n_updates, config) for u in range(n_updates)) == minimum


@pytest.mark.parametrize("name", ["adam", "adamw", "muon"])
def test_the_optimizer_gets_the_rate_of_each_update_and_keeps_its_betas(name: str) -> None:
    config = OptimConfig(name=name)  # type: ignore[arg-type]
    model = nn.Linear(3, 1)
    optimizer = build_optimizer(model, config)
    scheduler = build_scheduler(optimizer, 12, config)
    for update in range(12):
        assert {group["lr"] for group in optimizer.param_groups} == {one_cycle_rate(update, 12, config)}
        assert optimizer.param_groups[-1]["betas"] == config.betas
        model(torch.ones(3)).sum().backward()
        optimizer.step()
        scheduler.step()


def test_a_scheduler_restored_in_the_middle_goes_on_with_the_same_rates() -> None:
    config = OptimConfig()
    optimizer = build_optimizer(nn.ParameterList([torch.ones(3)]), config)
    scheduler = build_scheduler(optimizer, 12, config)
    for _ in range(5):
        optimizer.step()
        scheduler.step()
    fresh = build_optimizer(nn.ParameterList([torch.ones(3)]), config)
    restored = build_scheduler(fresh, 12, config)
    fresh.load_state_dict(optimizer.state_dict())
    restored.load_state_dict(scheduler.state_dict())
    assert fresh.param_groups[0]["lr"] == one_cycle_rate(5, 12, config)
    fresh.step()
    restored.step()
    assert fresh.param_groups[0]["lr"] == one_cycle_rate(6, 12, config)


# max_lr 8; the first number is the rate of the first update, which is not 0.
BY_HAND: list[tuple[dict[str, Any], int, list[float]]] = [
    ({"schedule": "inverse_sqrt", "warmup_updates": 4}, 9,
     [2, 4, 6, 8, *(8 * math.sqrt(4 / number) for number in (5, 6, 7, 8, 9))]),
    ({"schedule": "inverse_sqrt", "warmup_updates": 1}, 4, [8, 8 * math.sqrt(0.5), 8 * math.sqrt(1 / 3), 4]),
    ({"schedule": "linear", "warmup_updates": 2}, 6, [4, 8, 6, 4, 2, 0]),
    ({"schedule": "linear", "warmup_updates": 2, "min_lr": 4.0}, 6, [4, 8, 7, 6, 5, 4]),
    ({"schedule": "linear"}, 5, [8, 6, 4, 2, 0]),
    ({"schedule": "linear"}, 1, [8]),
    ({"schedule": "cosine", "warmup_updates": 2}, 6, [4, 8, 4 + 4 * math.sqrt(0.5), 4, 4 - 4 * math.sqrt(0.5), 0]),
    ({"schedule": "cosine", "min_lr": 2.0}, 4, [8, 6.5, 3.5, 2]),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "n_updates", "rates"), BY_HAND)
def test_schedules_with_a_warm_up_equal_tables_worked_out_by_hand(
    fields: dict[str, Any], n_updates: int, rates: list[float]
) -> None:
    config = OptimConfig(max_lr=8.0, **fields)
    found = [rate_of(update, n_updates, config) for update in range(n_updates)]
    assert found == pytest.approx(rates, rel=1e-12, abs=0)
    if fields["schedule"] != "inverse_sqrt" and n_updates > 1:
        assert rate_of(n_updates - 1, n_updates, config) == config.min_lr
        assert rate_of(n_updates, n_updates, config) == config.min_lr  # what the scheduler asks for after the last


@pytest.mark.parametrize("schedule", ["inverse_sqrt", "cosine", "linear"])
@pytest.mark.parametrize(("warmup", "n_updates"), [(1, 2), (1, 7), (3, 10), (10, 300)])
def test_every_rate_equals_what_transformers_gives_its_step_of_that_number(
    schedule: str, warmup: int, n_updates: int
) -> None:
    optimization = pytest.importorskip("transformers.optimization")
    config = OptimConfig(schedule=schedule, warmup_updates=warmup)  # type: ignore[arg-type]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=config.max_lr)
    make = getattr(optimization, f"get_{schedule}_schedule" + ("" if schedule == "inverse_sqrt" else "_with_warmup"))
    length = {} if schedule == "inverse_sqrt" else {"num_training_steps": n_updates}
    reference = make(optimizer, num_warmup_steps=warmup, **length)
    for update in range(n_updates):
        optimizer.step()
        reference.step()
        assert rate_of(update, n_updates, config) == pytest.approx(reference.get_last_lr()[0], rel=1e-12, abs=1e-19)


@pytest.mark.parametrize("n_updates", [2, 3, 50])
def test_without_a_warm_up_cosine_and_linear_equal_torchs(n_updates: int) -> None:
    n_falls = n_updates - 1
    for schedule, make in (
        ("cosine", lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, n_falls, eta_min=2e-4)),
        ("linear", lambda o: torch.optim.lr_scheduler.LinearLR(o, 1.0, 0.2, n_falls)),
    ):
        config = OptimConfig(schedule=schedule, min_lr=2e-4)  # type: ignore[arg-type]
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=config.max_lr)
        reference = make(optimizer)
        for update in range(n_updates):
            # torch multiplies its way there, step by step
            assert rate_of(update, n_updates, config) == pytest.approx(reference.get_last_lr()[0], rel=1e-9)
            optimizer.step()
            reference.step()


def test_a_warm_up_as_long_as_the_run_is_refused() -> None:
    config = OptimConfig(schedule="linear", warmup_updates=12)
    optimizer = build_optimizer(nn.ParameterList([torch.ones(3)]), config)
    build_scheduler(optimizer, 13, config)
    with pytest.raises(UserError, match=r"optim\.warmup_updates is 12; expected fewer than the run's 12 updates"):
        build_scheduler(optimizer, 12, config)
