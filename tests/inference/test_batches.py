"""Batches for decoding and scoring: every sentence once, within the budget, with little padding."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accel_tx.bench.workload import book_like_lengths
from accel_tx.data.dealing import Indices
from accel_tx.inference.batches import similar_lengths

any_lengths = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), max_size=60)


def as_arrays(pairs: list[tuple[int, int]]) -> tuple[Indices, Indices]:
    src, tgt = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return src, tgt


@settings(max_examples=100, deadline=None)
@given(any_lengths, st.integers(1, 200))
def test_every_pair_is_in_one_batch_within_the_budget(pairs: list[tuple[int, int]], max_tokens: int) -> None:
    src, tgt = as_arrays(pairs)
    batches = similar_lengths(src, tgt, max_tokens)
    assert sorted(int(i) for batch in batches for i in batch) == list(range(len(pairs)))
    sizes = np.maximum(src, tgt)
    for batch, following in pairwise([*batches, None]):
        assert batch is not None
        assert len(batch)
        widest = int(sizes[batch].max())
        assert len(batch) == 1 or len(batch) * widest <= max_tokens
        if following is not None:
            assert (len(batch) + 1) * widest > max_tokens  # another pair would not have fitted


@settings(max_examples=100, deadline=None)
@given(any_lengths, st.integers(1, 200))
def test_pairs_come_from_long_to_short(pairs: list[tuple[int, int]], max_tokens: int) -> None:
    src, tgt = as_arrays(pairs)
    order = [int(i) for batch in similar_lengths(src, tgt, max_tokens) for i in batch]
    keys = [(max(pairs[i]), pairs[i][0]) for i in order]
    assert keys == sorted(keys, reverse=True)


def test_batches_by_hand() -> None:
    src, tgt = np.array([2, 9, 3, 2, 1]), np.array([4, 1, 3, 4, 1])
    assert [batch.tolist() for batch in similar_lengths(src, tgt, 8)] == [[1], [0, 3], [2, 4]]


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint32])
def test_lengths_of_any_integers_do(dtype: type) -> None:
    lengths = np.array([3, 1, 2, 200], dtype=dtype)
    found = similar_lengths(lengths, lengths, 6)  # type: ignore[arg-type]
    assert [batch.tolist() for batch in found] == [[3], [0, 2], [1]]


def test_book_like_lengths_have_little_padding() -> None:
    src, tgt = book_like_lengths(20_000, 150, seed=1)
    batches = similar_lengths(src, src, 4_096)  # as for translation, which knows only sources
    padded = sum(len(batch) * int(src[batch].max()) for batch in batches)
    assert 1 - src.sum() / padded < 0.03
    batches = similar_lengths(src, tgt, 4_096)
    padded = sum(len(batch) * int(src[batch].max() + tgt[batch].max()) for batch in batches)
    assert 1 - (src.sum() + tgt.sum()) / padded < 0.2
