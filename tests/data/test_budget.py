from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from accel_tx.bench.workload import book_like_lengths
from accel_tx.config import Config, build_config
from accel_tx.data.batching import BatchLimits, plan_epoch
from accel_tx.data.budget import (
    budget_range,
    forecast_bytes,
    largest_that_fits,
    with_budget,
    with_recorded,
    worst_shapes,
)
from accel_tx.data.collator import DataCollator
from accel_tx.data.memory import Device
from accel_tx.data.shapes import Shapes

COST = 16
"""Places of padding that a block is worth, as for a model of 512 channels."""


def config(tokens_per_update: int, max_positions: int = 2, **model: Any) -> Config:
    small = {"d_model": 16, "n_heads": 2, "d_ff": 24, "n_encoder_layers": 2, "n_decoder_layers": 2}
    return build_config(
        {
            "train": {"max_updates": 10, "max_tokens": "auto", "tokens_per_update": tokens_per_update},
            "model": {**small, "max_positions": max_positions, **model},
        }
    )


SIZES = st.integers(2, 3_000)
DEVICES: st.SearchStrategy[Device] = st.sampled_from(["cpu", "gpu"])


@given(SIZES, SIZES, st.integers(0, 4_000), st.integers(1, 5_000))
@example(2, 3, 2, 2)  # a step of a few percent from so small a budget is no step
@example(2, 4, 2, 3)
def test_the_largest_budget_that_fits_is_found_to_within_three_percent(a: int, b: int, memory: int, guess: int) -> None:
    least, most = sorted((a, b))
    asked: list[int] = []

    def fits(budget: int) -> bool:
        asked.append(budget)
        return budget <= memory

    found = largest_that_fits(fits, least, most, guess)
    assert all(least <= budget <= most for budget in asked)
    assert len(asked) == len(set(asked)) <= 45
    if memory < least:
        assert found is None
    else:
        best = min(memory, most)
        assert found is not None
        assert best - max(1, 0.03 * found) <= found <= best


@given(st.integers(2, 100_000), st.integers(2, 500), st.integers(2, 20_000), st.integers(1, 9))
def test_updates_have_the_size_that_was_asked_whatever_the_memory(
    per_update: int, longest: int, budget: int, n_processes: int
) -> None:
    per_update, budget = max(per_update, longest), max(budget, longest)
    asked = config(per_update, longest)
    settled = with_budget(asked, budget, n_processes).train
    size, n = settled.max_tokens, settled.micro_batches_per_update
    assert isinstance(size, int)
    assert longest <= size <= budget
    assert settled.tokens_per_update is None
    assert per_update <= n * size
    # Below it lies no whole number of micro-batches that hold the longest pair.
    assert n * size < per_update + n or size == longest
    if size > longest:
        assert n % n_processes == 0 or per_update // n < longest * n_processes
    recorded = with_budget(asked, budget, n_processes)
    assert with_recorded(asked, recorded) == recorded
    assert with_recorded(config(per_update + 2 * n * longest, longest), recorded) is None


@pytest.mark.parametrize(("size", "n"), [(8192, 4), (4096, 8)])
def test_a_run_of_numbers_goes_on_under_auto(size: int, n: int) -> None:
    asked = config(32768, 1024)
    begun = dataclasses.replace(asked.train, max_tokens=size, micro_batches_per_update=n, tokens_per_update=None)
    assert with_recorded(asked, dataclasses.replace(asked, train=begun)) == dataclasses.replace(asked, train=begun)


def test_a_process_never_needs_more_than_its_share_of_an_update() -> None:
    assert budget_range(config(1000, 100), 1) == (100, 1000)
    assert budget_range(config(1000, 100), 3) == (100, 334)
    assert budget_range(config(1000, 100), 20) == (100, 100)


LENGTHS = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=80)


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.integers(40, 300))
def test_no_micro_batch_of_a_plan_holds_more_tokens_than_the_worst(lengths: list[tuple[int, int]], budget: int) -> None:
    src, tgt = (np.array([pair[side] for pair in lengths]) for side in (0, 1))
    planned = Shapes.of_plan(
        plan_epoch(src, tgt, BatchLimits(budget, None), 1, seed=1, epoch=0), src, tgt, DataCollator(COST)
    )
    worst = worst_shapes(budget, int(src.max()), int(tgt.max()), len(lengths))
    assert (np.maximum(planned.n_src_tokens, planned.n_tgt_tokens) <= budget).all()
    assert (np.maximum(worst.n_src_tokens, worst.n_tgt_tokens) <= budget).all()
    assert worst.n_pairs.max() == min(budget, len(lengths))
    widest = worst.some(np.array([-1]))
    assert widest.n_src_src[0] == widest.n_src_tokens[0] * src.max()
    assert widest.n_tgt_tgt[0] == widest.n_tgt_tokens[0] * tgt.max()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 99), st.integers(1, 4_000), st.integers(600, 8_192), st.sampled_from([0.0, 0.1]), DEVICES)
def test_no_micro_batch_of_a_plan_needs_more_than_the_worst(
    seed: int, n_pairs: int, budget: int, attention_dropout: float, device: Device
) -> None:
    """The worst has no padding, but its shorter side is as long as the longer one: so from four longest pairs on."""
    src, tgt = book_like_lengths(n_pairs, 150, seed)
    planned = Shapes.of_plan(
        plan_epoch(src, tgt, BatchLimits(budget, None), 1, seed=1, epoch=0), src, tgt, DataCollator(COST)
    )
    asked = config(budget, 150, attention_dropout=attention_dropout)
    worst = worst_shapes(budget, int(src.max()), int(tgt.max()), n_pairs)
    needs = [forecast_bytes(asked, budget, shapes, (50, 50), device, "bf16") for shapes in (planned, worst)]
    assert needs[0] <= needs[1]


def test_an_unsettled_budget_makes_no_plan() -> None:
    with pytest.raises(ValueError, match=r"train.max_tokens is auto"):
        BatchLimits.of(config(1000).train)
