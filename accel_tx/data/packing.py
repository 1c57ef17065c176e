"""Which lengths share a micro-batch: as little padding as a token budget allows, decided once for all epochs.

Pairs of equal source and target length are one cell. A cell with enough pairs fills micro-batches of its own, without
any padding; what is left of the cells is cut up by dynamic programming. Work and memory grow with the number of cells,
some ten thousand however large the corpus, but for one sort of the pairs.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import isqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
Lengths = NDArray[np.signedinteger[Any]]
"""Tokens, in whatever integers they are kept."""

# What a micro-batch costs whatever it holds, as a share of the positions that it may have: less padding by more and
# smaller micro-batches stops being worth it there. Fewer than 1.5 times the least possible number come out.
_COST_OF_A_MICRO_BATCH = 0.05
# Random first edges tried for one that needs no more micro-batches than every epoch has.
_N_TRIES = 4
# The numbers of the cells take many times the memory of the lengths while they are found.
_PAIRS_AT_A_TIME = 1 << 18


@dataclass(frozen=True)
class Cells:
    """The pairs by their lengths. A walk through the cells in this order changes the lengths little by little."""

    src: Indices
    """(n_cells,) source tokens."""
    tgt: Indices
    """(n_cells,) target tokens."""
    sizes: Indices
    """(n_cells,) pairs."""
    of_code: NDArray[np.int32]
    """The cell of each `_walk_code` that occurs."""

    def of_pairs(self, src_lengths: Lengths, tgt_lengths: Lengths) -> NDArray[np.int32]:
        """The cell of each of the pairs, (n_pairs,)."""
        of_pairs, width = np.empty(len(src_lengths), dtype=np.int32), _width(len(self.of_code))
        for block in _blocks(len(src_lengths)):
            of_pairs[block] = self.of_code[_walk_code(src_lengths[block], tgt_lengths[block], width)]
        return of_pairs


@dataclass(frozen=True)
class Packing:
    """Micro-batches as pieces of cells; the pieces of one micro-batch stand together."""

    piece_cells: Indices
    """(n_pieces,) the cell that each piece is taken from."""
    piece_sizes: Indices
    """(n_pieces,) pairs; those of a cell add up to its size."""
    batch_sizes: Indices
    """(n_micro_batches,) pairs."""
    batch_src: Indices
    """(n_micro_batches,) longest source."""
    batch_tgt: Indices
    """(n_micro_batches,) longest target."""
    batch_src_tokens: Indices
    """(n_micro_batches,) source tokens, padding not counted."""
    batch_tgt_tokens: Indices
    """(n_micro_batches,) target tokens, likewise."""


def find_cells(src_lengths: Lengths, tgt_lengths: Lengths, max_tokens: int) -> Cells:
    """Group the pairs by their lengths. Raises: ValueError if a pair alone is longer than `max_tokens`."""
    longest = max(src_lengths.max(initial=0), tgt_lengths.max(initial=0))
    if longest > max_tokens:
        raise ValueError(f"a pair of {longest} tokens does not fit a micro-batch of {max_tokens}")
    width = int(longest) + 1
    counts = np.zeros(2 * width * width, dtype=np.int64)
    for block in _blocks(len(src_lengths)):
        of_block = np.bincount(_walk_code(src_lengths[block], tgt_lengths[block], width))
        counts[: len(of_block)] += of_block
    found = np.flatnonzero(counts)
    of_code = np.zeros(len(counts), dtype=np.int32)
    of_code[found] = np.arange(len(found), dtype=np.int32)
    return Cells(*_lengths_of_code(found, width), counts[found], of_code)


def steady_count(cells: Cells, max_tokens: int) -> int:
    """Micro-batches of every epoch: what `pack` needs, and a little more so that each epoch may be cut differently."""
    fewest = len(_groups(cells, max_tokens, first_edge=1.0))
    return min(fewest + fewest // 20, int(cells.sizes.sum()))


def pack(cells: Cells, max_tokens: int, n_micro_batches: int, rng: np.random.Generator) -> Packing:
    """Cut the pairs into `n_micro_batches` of at most `max_tokens` padded tokens on either side."""
    for _ in range(_N_TRIES):
        groups = _groups(cells, max_tokens, first_edge=rng.random())
        if len(groups) <= n_micro_batches:
            break
    else:
        groups = _groups(cells, max_tokens, first_edge=1.0)
    _split_largest(groups, n_micro_batches)
    n_pieces = np.array([len(group) for group in groups], dtype=np.int64)
    pieces = np.array([piece for group in groups for piece in group], dtype=np.int64).reshape(-1, 2)
    starts = np.cumsum(n_pieces) - n_pieces
    sizes, src, tgt = pieces[:, 1], cells.src[pieces[:, 0]], cells.tgt[pieces[:, 0]]
    return Packing(
        piece_cells=pieces[:, 0],
        piece_sizes=sizes,
        batch_sizes=_reduce(np.add, sizes, starts),
        batch_src=_reduce(np.maximum, src, starts),
        batch_tgt=_reduce(np.maximum, tgt, starts),
        batch_src_tokens=_reduce(np.add, src * sizes, starts),
        batch_tgt_tokens=_reduce(np.add, tgt * sizes, starts),
    )


Group = list[tuple[int, int]]
"""A micro-batch: (cell, number of pairs) for each of its pieces."""


def _groups(cells: Cells, max_tokens: int, first_edge: float) -> list[Group]:
    per_batch = max_tokens // np.maximum(cells.src, cells.tgt)
    n_full, n_left = np.divmod(cells.sizes, per_batch)
    groups = [[(int(cell), int(per_batch[cell]))] for cell in np.repeat(np.arange(len(per_batch)), n_full)]
    left = np.flatnonzero(n_left)
    for strip in _cut(cells.src[left], cells.tgt[left], n_left[left], max_tokens, first_edge):
        groups.append([(int(cell), int(n_left[cell])) for cell in left[strip]])
    return groups


def _split_largest(groups: list[Group], n_groups: int) -> None:
    """Halve the micro-batches of most pairs, in place, until there are `n_groups`."""
    heap = [(-sum(size for _, size in group), i) for i, group in enumerate(groups)]
    heapq.heapify(heap)
    while len(groups) < n_groups:
        size, i = heapq.heappop(heap)
        first, second = _halve(groups[i], -size // 2)
        groups[i] = first
        groups.append(second)
        for j in (i, len(groups) - 1):
            heapq.heappush(heap, (-sum(size for _, size in groups[j]), j))


def _halve(group: Group, n_first: int) -> tuple[Group, Group]:
    first: Group = []
    for at, (cell, size) in enumerate(group):
        if n_first <= size:
            rest = [(cell, size - n_first)] if size > n_first else []
            return [*first, (cell, n_first)], rest + group[at + 1 :]
        first.append((cell, size))
        n_first -= size
    raise AssertionError("a half is smaller than the whole")


def _reduce(function: np.ufunc, values: Indices, starts: Indices) -> Indices:
    return function.reduceat(values, starts) if len(starts) else values


def _blocks(n: int) -> Iterator[slice]:
    return (slice(start, start + _PAIRS_AT_A_TIME) for start in range(0, n, _PAIRS_AT_A_TIME))


def _width(n_codes: int) -> int:
    return isqrt(n_codes // 2)


def _walk_code(src: Lengths, tgt: Lengths, width: int) -> Indices:
    """Number of a cell on a walk by longer side, and for one longer side from short sources over equal sides on to
    short targets."""
    longer = np.maximum(src, tgt).astype(np.int64)
    return longer * 2 * width + np.where(src <= tgt, src, 2 * width - 1 - tgt)


def _lengths_of_code(codes: Indices, width: int) -> tuple[Indices, Indices]:
    longer, place = np.divmod(codes, 2 * width)
    shorter = np.where(place < width, place, 2 * width - 1 - place)
    return np.where(place < width, shorter, longer), np.where(place < width, longer, shorter)


def _cut(src: Indices, tgt: Indices, sizes: Indices, max_tokens: int, first_edge: float) -> list[Indices]:
    """Groups of cells, each at most a micro-batch, that cost least: padded positions and the cost of each group.

    The cells are cut by the longer side into strips of `max_tokens`, the first one after `first_edge` of that, and
    each strip along the shorter side into groups. A strip of twice the width is taken where it costs less than its
    two halves.
    """
    tokens = np.cumsum(np.maximum(src, tgt) * sizes)
    if not len(tokens):
        return []
    inner = np.searchsorted(tokens, np.arange(first_edge * max_tokens, tokens[-1], max_tokens))
    edges = np.unique(np.concatenate([[0], inner, [len(tokens)]]))
    best = [_cut_strip(src, tgt, sizes, range(a, b), max_tokens) for a, b in pairwise(edges.tolist())]
    while len(best) > 1:
        edges = np.append(edges[:-1:2], edges[-1])
        halves, best = best, []
        improved = False
        for i, (a, b) in enumerate(pairwise(edges.tolist())):
            parts = halves[2 * i : 2 * i + 2]
            apart = sum(cost for cost, _ in parts), [group for _, groups in parts for group in groups]
            together = _cut_strip(src, tgt, sizes, range(a, b), max_tokens)
            best.append(min(apart, together, key=lambda found: found[0]))
            improved |= together[0] < apart[0]
        if not improved:
            return [group for _, groups in best for group in groups]
    return best[0][1]


def _cut_strip(
    src: Indices, tgt: Indices, sizes: Indices, cells: range, max_tokens: int
) -> tuple[float, list[Indices]]:
    """Cost and groups of the cheapest cut of a strip along its shorter side, by dynamic programming."""
    strip = np.arange(cells.start, cells.stop)
    src, tgt, sizes = src[strip], tgt[strip], sizes[strip]
    shorter = np.minimum(src, tgt)
    along = np.argsort(np.where(src <= tgt, shorter, 2 * int(max(src.max(), tgt.max())) - shorter), kind="stable")
    src, tgt, sizes = src[along], tgt[along], sizes[along]
    filled = np.concatenate([[0], np.cumsum(sizes)])
    most_pairs = max_tokens // int(np.maximum(src, tgt).min())
    reach = np.searchsorted(filled, filled - most_pairs)
    cost = np.zeros(len(strip) + 1)
    came_from = np.zeros(len(strip) + 1, dtype=np.int64)
    for end in range(1, len(strip) + 1):
        start = int(reach[end])
        widest_src = np.maximum.accumulate(src[start:end][::-1])
        widest_tgt = np.maximum.accumulate(tgt[start:end][::-1])
        n_pairs = filled[end] - filled[start:end][::-1]
        total = cost[start:end][::-1] + (widest_src + widest_tgt) * n_pairs
        total[np.maximum(widest_src, widest_tgt) * n_pairs > max_tokens] = np.inf
        back = int(total.argmin())
        cost[end] = total[back] + _COST_OF_A_MICRO_BATCH * 2 * max_tokens
        came_from[end] = end - 1 - back
    groups = []
    end = len(strip)
    while end:
        groups.append(strip[along[came_from[end] : end]])
        end = int(came_from[end])
    return float(cost[-1]), groups[::-1]
