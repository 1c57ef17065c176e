from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accel_tx.bench.workload import book_like_lengths
from accel_tx.data.batching import BatchLimits, plan_epoch
from accel_tx.data.collator import DataCollator
from accel_tx.data.shapes import Shapes
from accel_tx.data.token_pairs import Ragged, TokenPairs
from accel_tx.model.flops import Work

COST = 16
"""Places of padding that a block is worth, as for a model of 512 channels."""

SIZES = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=60)


def token_pairs(sizes: list[tuple[int, int]]) -> TokenPairs:
    src, tgt = ([[7] * (size[side] - 1) for size in sizes] for side in (0, 1))
    return TokenPairs(Ragged.from_lists(src), Ragged.from_lists(tgt))


@settings(max_examples=60, deadline=None)
@given(SIZES, st.booleans())
def test_shapes_are_those_of_the_collated_batches(sizes: list[tuple[int, int]], by_tokens: bool) -> None:
    pairs = token_pairs(sizes)
    limits = BatchLimits(64, None) if by_tokens else BatchLimits(None, 7)
    plan = plan_epoch(pairs.src_lengths, pairs.tgt_lengths, limits, 3, 1, 0)
    batches = [DataCollator(COST)([pairs[int(i)] for i in plan.micro_batch(n)]) for n in range(plan.n_micro_batches)]
    works = [Work.of_batch(batch) for batch in batches]
    expected = {
        "n_pairs": [batch.n_pairs for batch in batches],
        "n_src_tokens": [work.n_src for work in works],
        "n_tgt_tokens": [work.n_tgt for work in works],
        "n_src_positions": [sum(block.n_positions for block in batch.src_blocks) for batch in batches],
        "n_tgt_positions": [sum(block.n_positions for block in batch.tgt_blocks) for batch in batches],
        "n_src_src": [work.n_src_src for work in works],
        "n_tgt_tgt": [work.n_tgt_tgt for work in works],
        "n_tgt_src": [work.n_tgt_src for work in works],
    }
    found = Shapes.of_plan(plan, pairs.src_lengths, pairs.tgt_lengths, DataCollator(COST))
    assert {name: values.tolist() for name, values in vars(found).items()} == expected
    chosen = np.arange(0, len(batches), 2)
    assert {name: values.tolist() for name, values in vars(found.some(chosen)).items()} == {
        name: values[::2] for name, values in expected.items()
    }


def test_of_many_micro_batches_some_stand_for_all() -> None:
    src, tgt = book_like_lengths(60_000, 150, seed=1)
    plan = plan_epoch(src, tgt, BatchLimits(1_024, None), 1, 1, 0)
    found = Shapes.of_plan(plan, src, tgt, DataCollator(COST))
    assert len(found.n_pairs) == 256 < plan.n_micro_batches
    assert found.n_tgt_tokens.mean() == pytest.approx(tgt.sum() / plan.n_micro_batches, rel=0.01)
