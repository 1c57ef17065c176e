"""What micro-batches hold: pairs, tokens, and the places that attention computes in blocks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from accel_tx.data.batching import EpochPlan
from accel_tx.data.collator import DataCollator
from accel_tx.data.dealing import Indices, Lengths

# Micro-batches that are looked at: under `max_tokens` they are all much alike.
_N_SAMPLED = 256


@dataclass(frozen=True)
class Shapes:
    """What micro-batches hold, an entry each: pairs, tokens, and what attention makes of them."""

    n_pairs: Indices
    n_src_tokens: Indices
    n_tgt_tokens: Indices
    n_src_positions: Indices
    """Places in attention, padding included."""
    n_tgt_positions: Indices
    n_src_src: Indices
    """Pairs of places that the encoder's self-attention compares."""
    n_tgt_tgt: Indices
    n_tgt_src: Indices

    @classmethod
    def of_rectangles(cls, n_pairs: Indices, src_width: Indices, tgt_width: Indices) -> Shapes:
        """Of micro-batches whose pairs are all of one length, each (n,)."""
        n_src, n_tgt = n_pairs * src_width, n_pairs * tgt_width
        squares = n_src * src_width, n_tgt * tgt_width, n_tgt * src_width
        return cls(n_pairs, n_src, n_tgt, n_src, n_tgt, *squares)

    @classmethod
    def of_plan(cls, plan: EpochPlan, src_lengths: Lengths, tgt_lengths: Lengths, collate: DataCollator) -> Shapes:
        """What `collate` will make of an epoch's micro-batches, of some of them where there are many."""
        n = plan.n_micro_batches
        chosen = np.unique(np.linspace(0, n - 1, min(n, _N_SAMPLED)).round().astype(np.int64))
        micro_batches = (plan.micro_batch(int(i)) for i in chosen)
        rows = [_of_pairs(src_lengths[pairs], tgt_lengths[pairs], collate) for pairs in micro_batches]
        return cls(*np.array(rows, dtype=np.int64).reshape(-1, 8).T)

    def some(self, chosen: Indices) -> Shapes:
        """Those with these indices."""
        return Shapes(*(values[chosen] for values in vars(self).values()))

    def twice(self) -> Shapes:
        """The same micro-batches with every pair in them twice."""
        return Shapes(*(2 * values for values in vars(self).values()))

    @property
    def padding_share(self) -> float:
        """Share of padding among the places of both sides in attention, the only ones that have any."""
        n_places = (self.n_src_positions + self.n_tgt_positions).sum()
        return float(1 - (self.n_src_tokens + self.n_tgt_tokens).sum() / n_places)


def _of_pairs(src_lengths: Lengths, tgt_lengths: Lengths, collate: DataCollator) -> tuple[int, ...]:
    src, tgt = src_lengths.astype(np.int64), tgt_lengths.astype(np.int64)
    n_tokens = int(src.sum()), int(tgt.sum())
    if collate.is_packed:
        return len(src), *n_tokens, *n_tokens, *(int((a * b).sum()) for a, b in ((src, src), (tgt, tgt), (tgt, src)))
    edges = np.array(collate.block_edges(src, tgt))
    n, src_width, tgt_width = (
        np.diff(edges),
        *(np.maximum.reduceat(lengths, edges[:-1]) for lengths in (src, tgt)),
    )
    positions = n * src_width, n * tgt_width
    squares = positions[0] * src_width, positions[1] * tgt_width, positions[1] * src_width
    return len(src), *n_tokens, *(int(x.sum()) for x in (*positions, *squares))
