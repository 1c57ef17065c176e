"""What a bench trains on has book-like lengths, and the updates it visits stand for the whole epoch."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from accel_tx.bench.workload import (
    SampledPlan,
    book_like_lengths,
    load_workload,
    padded_positions,
    sampling_order,
    synthetic_pairs,
)
from accel_tx.config import Config, UserError
from accel_tx.data.batching import BatchLimits, BatchPlan
from accel_tx.data.token_pairs import Ragged, TokenPairs

MakeConfig = Callable[..., Config]


def pairs_of(lengths: list[int]) -> TokenPairs:
    """Pairs with so many tokens, EOS included, on both sides."""
    side = Ragged.from_lists([[4] * (n - 1) for n in lengths])
    return TokenPairs(side, side)


def test_book_like_lengths_have_the_mean_the_ratio_and_the_padding_that_are_stated() -> None:
    src, tgt = book_like_lengths(200_000, longest=150, seed=1)
    batches = np.arange(64 * 3000).reshape(-1, 64)
    real = src[batches].sum() + tgt[batches].sum()
    padded = 64 * (src[batches].max(1) + tgt[batches].max(1)).sum()

    assert src.mean() == pytest.approx(22, rel=0.02)
    assert np.log(tgt / src).std() == pytest.approx(0.25, rel=0.1)
    assert real / padded == pytest.approx(0.25, abs=0.02)


def test_synthetic_ids_follow_zipf_within_the_vocabulary(tiny_config: MakeConfig) -> None:
    pairs = synthetic_pairs(5000, 1004, tiny_config())
    ids = np.concatenate([pairs[i].tgt for i in range(len(pairs))])
    counts = np.bincount(ids, minlength=1004)

    assert counts[:4].sum() == 0
    assert len(counts) == 1004
    assert counts[4 + 9] / counts[4 + 99] == pytest.approx(10, rel=0.25)
    assert max(pairs.src_lengths.max(), pairs.tgt_lengths.max()) <= 96


@pytest.mark.parametrize("n", [1, 2, 3, 7, 100, 257])
def test_the_sampling_order_visits_every_update_once_and_the_largest_first(n: int) -> None:
    lengths = np.random.default_rng(n).integers(2, 60, n)
    updates = [[np.array([i])] for i in range(n)]
    pairs = pairs_of(lengths.tolist())
    order = sampling_order(updates, pairs)

    assert sorted(order) == list(range(n))
    assert padded_positions(updates[order[0]], pairs) == 2 * lengths.max()


def test_any_stretch_of_the_sampling_order_is_like_the_epoch() -> None:
    lengths = np.random.default_rng(3).permutation(np.arange(2, 1002))
    order = sampling_order([[np.array([i])] for i in range(1000)], pairs_of(lengths.tolist()))
    means = [lengths[order[1:]][start : start + 15].mean() for start in range(0, 900, 15)]

    assert np.array(means) == pytest.approx(lengths.mean(), rel=0.15)


def test_a_sampled_plan_repeats_the_first_epoch_in_that_order() -> None:
    pairs = pairs_of(np.random.default_rng(1).integers(2, 30, 300).tolist())
    plan = BatchPlan(pairs.src_lengths, pairs.tgt_lengths, BatchLimits(90, None), 2, 1)
    epoch = list(plan.updates(0, plan.updates_per_epoch))
    n = len(epoch)
    sampled = list(SampledPlan(plan, pairs).updates(0, 2 * n))
    ids = [sorted(np.concatenate(update).tolist()) for update in sampled]

    assert ids[:n] == ids[n:]
    assert sorted(map(tuple, ids[:n])) == sorted(tuple(sorted(np.concatenate(u).tolist())) for u in epoch)
    assert len({tuple(a) for pair in pairwise(ids[:n]) for a in pair}) == n


def test_a_vocabulary_too_small_for_the_corpus_is_refused(tiny_config: MakeConfig) -> None:
    found = load_workload(tiny_config(), None, None)

    assert load_workload(tiny_config(), None, 900).tgt_vocab_size == 900
    with pytest.raises(UserError, match=f"--vocab 12: .* {found.src_vocab_size} entries"):
        load_workload(tiny_config(), None, 12)
