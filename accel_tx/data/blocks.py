"""Where a batch is cut into blocks of sentences that attention pads to one length. A pure function of lengths."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Edges that are tried, where lengths change; where they change more often, at every second, third, ... change.
_MOST_EDGES = 128
# On CPU a block costs as much as some operations, and a place of padding has the more of them the wider the model is.
_COST_IN_CHANNELS, _MOST_COST = 8192, 64
# On a GPU, where attention has to pad, that is cheap, and a kernel more is not: on an H200 4,096 was ahead of 512,
# 2,048 and 8,192 with transformer_base. On a GPU of AMD it is not measured.
_COST_ON_GPU = 4096
# Places that a token looks at on average up to which plain products take less time than torch's kernel in float32 on a
# CPU, and their weights no more memory than what else attention keeps: with heads of 32 and 64 0.51 to 0.89 of its time
# up to 128, 0.74 to 1.24 of it at 256 (Xeon, AVX-512).
FEW_PLACES = 128


def block_cost_of(d_model: int, on_gpu: bool) -> int:
    """How many places of padding are cheaper than a block more."""
    return _COST_ON_GPU if on_gpu else min(_COST_IN_CHANNELS // d_model, _MOST_COST)


def cut_into_blocks(src_lengths: NDArray[np.int64], tgt_lengths: NDArray[np.int64], block_cost: int) -> list[int]:
    """Edges 0, ..., B of the blocks, of pairs that stay in order, with the least padding of both sides.

    Lengths (B,) in tokens, B > 0. A block costs as much as `block_cost` places of padding. By dynamic programming.
    """
    n_pairs = len(src_lengths)
    changes = np.flatnonzero((np.diff(src_lengths) != 0) | (np.diff(tgt_lengths) != 0)) + 1
    tried = np.linspace(0, len(changes) - 1, min(len(changes), _MOST_EDGES)).round().astype(np.int64)
    edges = np.concatenate([[0], changes[tried], [n_pairs]])
    widest_src, widest_tgt = (np.maximum.reduceat(x, edges[:-1]) for x in (src_lengths, tgt_lengths))
    cost = np.zeros(len(edges))
    came_from = np.zeros(len(edges), dtype=np.int64)
    for end in range(1, len(edges)):
        # Of the block from each earlier edge to this one, from the nearest edge on.
        width = np.maximum.accumulate(widest_src[:end][::-1]) + np.maximum.accumulate(widest_tgt[:end][::-1])
        total = cost[:end][::-1] + width * (edges[end] - edges[:end][::-1])
        back = int(total.argmin())
        cost[end] = total[back] + block_cost
        came_from[end] = end - 1 - back
    chosen = [len(edges) - 1]
    while chosen[-1]:
        chosen.append(int(came_from[chosen[-1]]))
    return edges[chosen[::-1]].tolist()  # type: ignore[no-any-return]


def cut_evenly(lengths: NDArray[np.int64], n_blocks: int) -> list[int]:
    """Edges 0, ..., B of `n_blocks` blocks of about as many tokens, or of B blocks where there are fewer pairs."""
    n_pairs = len(lengths)
    n = min(n_blocks, n_pairs)
    ends = np.cumsum(lengths)
    inner = np.searchsorted(ends, ends[-1] * np.arange(1, n) / n) + 1
    # At least a pair to each, in front and behind.
    inner = np.maximum.accumulate(np.maximum(inner, np.arange(1, n)) - np.arange(n - 1)) + np.arange(n - 1)
    inner = np.minimum(inner, n_pairs - np.arange(n - 1, 0, -1))
    return [0, *inner.tolist(), n_pairs]
