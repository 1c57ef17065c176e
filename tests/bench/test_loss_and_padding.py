"""The side measurements of a bench: the loss' memory, the plan's padding, the matrix products' peak."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import pytest
import torch

from accel_tx.bench.loss import gradient_difference, loss_markdown, measure_loss
from accel_tx.bench.matmul import matmul_peak_flops
from accel_tx.bench.memory import anonymous_mib, watched_peak
from accel_tx.bench.padding import measure_padding, padding_markdown
from accel_tx.bench.workload import book_like_lengths
from accel_tx.config import Config
from accel_tx.data.batching import BatchLimits, plan_epoch
from accel_tx.data.collator import TokenPair, training_collator

needs_proc = pytest.mark.skipif(anonymous_mib(os.getpid()) is None, reason="no /proc here")


@needs_proc
def test_the_loss_needs_less_memory_than_the_plain_one() -> None:
    found = measure_loss("no", 1, n_tokens=2048, vocab_size=8000)
    ours, plain = found["losses"]
    logits_mib = 2048 * 8000 * 4 / 2**20

    assert plain["peak_mib"] > 2 * logits_mib
    assert ours["peak_mib"] < plain["peak_mib"] / 2
    assert found["largest_gradient_difference_float64"] < 1e-9
    assert "| ours |" in loss_markdown(found)


def test_the_gradients_of_both_losses_agree() -> None:
    assert gradient_difference() < 1e-9


def test_padding_is_that_of_the_collated_batches(tiny_config: Callable[..., Config]) -> None:
    config = tiny_config(model={"max_positions": 90})
    row = measure_padding(config, 1_500)[0]
    src, tgt = book_like_lengths(1_500, 90, config.train.seed)
    plan = plan_epoch(src, tgt, BatchLimits(1_024, None), config.train.micro_batches_per_update, config.train.seed, 0)
    pairs = [TokenPair(*(np.full(n - 1, 7, dtype=np.int32) for n in pair)) for pair in zip(src, tgt, strict=True)]
    n_positions = {}
    for device in ("cpu", "gpu"):
        collate = training_collator(config.model, is_compiled=False, on_gpu=device == "gpu")
        batches = [collate([pairs[i] for i in plan.micro_batch(n)]) for n in range(plan.n_micro_batches)]
        n_positions[device] = sum(batch.n_positions for batch in batches)

    assert row["max_tokens"] == 1_024
    n_tokens = src.sum() + tgt.sum()
    assert row["padding_share"] == pytest.approx({device: 1 - n_tokens / n for device, n in n_positions.items()})
    assert row["n_updates"] == plan.n_updates


def test_padding_is_measured_on_the_corpus_and_on_book_like_pairs(tiny_config: Callable[..., Config]) -> None:
    rows = measure_padding(tiny_config(), 20_000)

    assert [row["max_tokens"] for row in rows] == [1024, 2048, 4096]
    assert all(0 < row["padding_share"]["cpu"] < 0.15 for row in rows)
    assert all(row["padding_share"]["gpu"] == 0 for row in rows)
    table = padding_markdown(rows).splitlines()
    assert len(table) == 5
    assert table[0].startswith("| data | max_tokens | padding in attention on CPU | on GPU | ")
    cells = [f"{rows[0]['padding_share'][device]:.2%}" for device in ("cpu", "gpu")]
    assert table[2].startswith(f"| 20,000 book-like pairs | 1,024 | {cells[0]} | {cells[1]} | ")


def test_a_budget_that_the_longest_pair_does_not_fit_is_left_out(
    tiny_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accel_tx.bench.padding.BUDGETS", (40, 90, 200))
    rows = measure_padding(tiny_config(model={"max_positions": 90}), 2_000)

    assert [row["max_tokens"] for row in rows] == [90, 200]


@needs_proc
def test_a_peak_that_has_passed_is_remembered() -> None:
    with watched_peak() as base:
        pass
    with watched_peak() as peak:
        for _ in range(5):
            assert float(torch.ones(20, 2**20).sum()) > 0
    assert base.mib is not None
    assert peak.mib is not None
    assert peak.mib - base.mib > 60


def test_the_peak_of_matrix_products_is_at_least_what_one_product_reaches() -> None:
    assert 1e8 < matmul_peak_flops("no", torch.device("cpu"), 0.1) < 1e13
