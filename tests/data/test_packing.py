"""Micro-batches are pieces of cells, within the budget, as many as asked for, and cheap."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accel_tx.data import packing
from accel_tx.data.packing import Indices, find_cells, pack, steady_count

MAX_TOKENS = 30
any_lengths = st.lists(st.tuples(st.integers(1, MAX_TOKENS), st.integers(1, MAX_TOKENS)), min_size=1, max_size=120)


def as_arrays(pairs: list[tuple[int, int]]) -> tuple[Indices, Indices]:
    src, tgt = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return src, tgt


@settings(max_examples=100, deadline=None)
@given(any_lengths)
def test_cells_hold_every_pair_under_its_lengths(pairs: list[tuple[int, int]]) -> None:
    src, tgt = as_arrays(pairs)
    cells = find_cells(src, tgt, MAX_TOKENS)
    of_pair = cells.of_pairs(src, tgt)
    np.testing.assert_array_equal(cells.src[of_pair], src)
    np.testing.assert_array_equal(cells.tgt[of_pair], tgt)
    np.testing.assert_array_equal(np.bincount(of_pair), cells.sizes)
    assert len(set(zip(cells.src.tolist(), cells.tgt.tolist(), strict=True))) == len(cells.sizes)


@settings(max_examples=100, deadline=None)
@given(any_lengths, st.integers(0, 99))
def test_pieces_make_up_the_cells_in_as_many_micro_batches_as_every_epoch_has(
    pairs: list[tuple[int, int]], seed: int
) -> None:
    cells = find_cells(*as_arrays(pairs), MAX_TOKENS)
    count = steady_count(cells, MAX_TOKENS)
    found = pack(cells, MAX_TOKENS, count, np.random.default_rng(seed))
    taken = np.bincount(found.piece_cells, weights=found.piece_sizes, minlength=len(cells.sizes))
    np.testing.assert_array_equal(taken, cells.sizes)
    assert len(found.batch_sizes) == count
    assert found.piece_sizes.min() > 0
    assert (np.maximum(found.batch_src, found.batch_tgt) * found.batch_sizes).max() <= MAX_TOKENS
    ends = np.cumsum(found.batch_sizes)
    batch_of_piece = np.searchsorted(ends, np.cumsum(found.piece_sizes))
    for batch in range(count):
        cells_in_it = found.piece_cells[batch_of_piece == batch]
        assert found.batch_src[batch] == cells.src[cells_in_it].max()
        assert found.batch_tgt[batch] == cells.tgt[cells_in_it].max()


def test_walk_through_the_cells_makes_small_steps() -> None:
    src, tgt = (side.ravel() for side in np.meshgrid(np.arange(1, 20), np.arange(1, 20)))
    cells = find_cells(src, tgt, 20)
    steps = np.abs(np.diff(cells.src)) + np.abs(np.diff(cells.tgt))
    same_longer_side = np.diff(np.maximum(cells.src, cells.tgt)) == 0
    assert steps[same_longer_side].max() == 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 3)), min_size=1, max_size=8))
def test_a_strip_is_cut_as_cheaply_as_any_cut_along_it(cells: list[tuple[int, int, int]]) -> None:
    src, tgt, sizes = np.array(cells, dtype=np.int64).T
    cost, groups = packing._cut_strip(src, tgt, sizes, range(len(cells)), MAX_TOKENS)
    walk = [int(cell) for group in groups for cell in group]
    assert sorted(walk) == list(range(len(cells)))

    def cost_of(edges: tuple[int, ...]) -> float:
        total = 0.0
        for a, b in pairwise((0, *edges, len(walk))):
            group = walk[a:b]
            n = sizes[group].sum()
            if max(src[group].max(), tgt[group].max()) * n > MAX_TOKENS:
                return float("inf")
            total += (src[group].max() + tgt[group].max()) * n + packing._COST_OF_A_MICRO_BATCH * 2 * MAX_TOKENS
        return total

    inner = range(1, len(walk))
    cheapest = min(cost_of(edges) for n in range(len(walk)) for edges in combinations(inner, n))
    assert cost == pytest.approx(cheapest)


def test_a_cell_of_many_pairs_fills_micro_batches_of_its_own() -> None:
    cells = find_cells(np.full(100, 5), np.full(100, 3), MAX_TOKENS)
    found = pack(cells, MAX_TOKENS, steady_count(cells, MAX_TOKENS), np.random.default_rng(1))
    assert sorted(found.batch_sizes.tolist()) == [4, *[6] * 16]
