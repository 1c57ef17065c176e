"""Batches for decoding and scoring: sentences of similar length, since nothing is learned from them."""

from __future__ import annotations

import numpy as np

from accel_tx.data.dealing import Indices, Lengths


def similar_lengths(src_lengths: Lengths, tgt_lengths: Lengths, max_tokens: int) -> list[Indices]:
    """Batches of pair indices from long to short, of at most `max_tokens` padded tokens on either side.

    Lengths (n,) in tokens with EOS. A pair that is longer than that is a batch of its own.
    """
    sizes = np.maximum(src_lengths, tgt_lengths)
    order = np.lexsort((-src_lengths.astype(np.int64), -sizes.astype(np.int64)))
    batches, start = [], 0
    while start < len(order):
        n = max(1, max_tokens // int(sizes[order[start]]))
        batches.append(order[start : start + n])
        start += n
    return batches
