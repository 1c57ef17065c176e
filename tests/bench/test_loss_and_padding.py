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
from accel_tx.bench.padding import measure_padding, padding_markdown, padding_shares
from accel_tx.config import Config
from accel_tx.data.batching import EpochPlan

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


def test_padding_shares_by_hand() -> None:
    """Two updates: rows of (3, 1) and (2, 2) tokens, then a row of (5, 4): 11 + 8 positions hold 10 + 7 tokens."""
    plan = EpochPlan(np.array([0, 1, 2]), np.array([0, 2, 3]), 1)
    src, tgt = np.array([3, 2, 5]), np.array([1, 2, 4])

    assert padding_shares(plan, src, tgt) == pytest.approx({"padding_share": 1 - 17 / 19, "tgt_padding_share": 1 / 8})


def test_padding_is_measured_on_the_corpus_and_on_book_like_pairs(tiny_config: Callable[..., Config]) -> None:
    rows = measure_padding(tiny_config(), 20_000)

    assert [row["max_tokens"] for row in rows] == [1024, 2048, 4096]
    shares = [row["padding_share"] for row in rows]
    assert 0 < shares[0] < shares[1] < shares[2] < 0.2
    table = padding_markdown(rows).splitlines()
    assert len(table) == 5
    assert table[2].startswith("| 20,000 book-like pairs | 1,024 | ")


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
