"""Blocks: cut as cheaply as any cut, and few."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accel_tx.bench.workload import book_like_lengths
from accel_tx.data.blocks import cut_into_blocks
from accel_tx.data.dealing import Indices

any_lengths = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=9)


def as_arrays(pairs: list[tuple[int, int]]) -> tuple[Indices, Indices]:
    src, tgt = np.array(pairs, dtype=np.int64).T
    return src, tgt


def cost_of(edges: list[int], src: Indices, tgt: Indices, block_cost: int) -> int:
    """Places of all blocks, and what the blocks themselves cost."""
    return sum((b - a) * int(src[a:b].max() + tgt[a:b].max()) + block_cost for a, b in pairwise(edges))


def all_cuts(n: int) -> Iterator[list[int]]:
    inner = chain.from_iterable(combinations(range(1, n), k) for k in range(n))
    return ([0, *cut, n] for cut in inner)


@settings(max_examples=150, deadline=None)
@given(any_lengths, st.integers(0, 120))
def test_no_other_cut_is_cheaper(pairs: list[tuple[int, int]], block_cost: int) -> None:
    src, tgt = as_arrays(pairs)
    edges = cut_into_blocks(src, tgt, block_cost)
    assert edges[0] == 0
    assert edges[-1] == len(pairs)
    assert all(a < b for a, b in pairwise(edges))
    cheapest = min(cost_of(cut, src, tgt, block_cost) for cut in all_cuts(len(pairs)))
    assert cost_of(edges, src, tgt, block_cost) == cheapest


def test_cut_by_hand() -> None:
    """Three pairs of 9 + 9 tokens and four of 2 + 3: padding the short ones would take 4 x 13 places."""
    src, tgt = np.array([9] * 3 + [2] * 4), np.array([9] * 3 + [3] * 4)
    assert cut_into_blocks(src, tgt, 51) == [0, 3, 7]
    assert cut_into_blocks(src, tgt, 53) == [0, 7]


def test_equal_lengths_stay_in_one_block() -> None:
    assert cut_into_blocks(np.full(50, 7), np.full(50, 8), 64) == [0, 50]


def cost_of_the_best_cut(src: Indices, tgt: Indices, block_cost: int) -> int:
    """Every edge tried, one by one."""
    best = [0]
    for end in range(1, len(src) + 1):
        widest_src = widest_tgt = 0
        options = []
        for start in range(end - 1, -1, -1):
            widest_src, widest_tgt = max(widest_src, int(src[start])), max(widest_tgt, int(tgt[start]))
            options.append(best[start] + (end - start) * (widest_src + widest_tgt) + block_cost)
        best.append(min(options))
    return best[-1]


@pytest.mark.parametrize("n_pairs", [97, 150, 400])
def test_many_pairs_are_cut_nearly_as_cheaply_between_fewer_edges(n_pairs: int) -> None:
    src, tgt = book_like_lengths(n_pairs, 150, seed=n_pairs)
    order = np.argsort(-np.maximum(src, tgt), kind="stable")
    src, tgt = src[order], tgt[order]
    edges = cut_into_blocks(src, tgt, 64)
    assert edges[0] == 0
    assert edges[-1] == n_pairs
    assert all(a < b for a, b in pairwise(edges))
    assert cost_of(edges, src, tgt, 64) <= 1.03 * cost_of_the_best_cut(src, tgt, 64)
