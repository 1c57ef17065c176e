"""Corpora mixed by weight: how often each pair counts in an epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from accel_tx.config import UserError
from accel_tx.data.keys import Keys, combined_keys, content_keys
from accel_tx.data.selection import select
from accel_tx.data.split import arrow_batches, end_to_end, smallest

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True)
class Segment:
    """Pairs of one corpus that all count equally often."""

    corpus: str
    pairs: datasets.Dataset
    times: int
    """How often each of them stands in an epoch."""


def weighted_segments(
    names: Sequence[str], corpora: Sequence[datasets.Dataset], weights: Sequence[float]
) -> list[Segment]:
    """What makes an epoch: 2 is every pair twice, 0.5 half of the pairs, 1.5 every pair once and half of them again.

    Which pairs make the broken part of a weight is fixed by their content: the same in every epoch, whatever their
    order. Segments without pairs are left out.
    Raises: UserError for a weight that leaves nothing of a corpus.
    """
    segments = []
    for name, pairs, weight in zip(names, corpora, weights, strict=True):
        whole = int(weight)
        own = _segments(name, pairs, whole, n_more=int((weight - whole) * len(pairs) + 0.5))
        if len(pairs) and not own:
            raise UserError(f"corpus {name}, weight {weight:g}: none of {len(pairs):,} pairs is left; raise the weight")
        segments += own
    return segments


def _segments(name: str, pairs: datasets.Dataset, times: int, n_more: int) -> list[Segment]:
    """Every pair so many times, and `n_more` of them, chosen by content, once more."""
    more = smallest(pair_keys(pairs), n_more) if n_more else np.zeros(len(pairs), dtype=bool)
    parts = ((more, times + 1), (~more, times))
    return [Segment(name, select(pairs, rows), n) for rows, n in parts if n and rows.any()]


def sample(segments: Sequence[Segment], n_most: int | None) -> tuple[list[Segment], int]:
    """At most `n_most` pairs of an epoch, drawn by content, and how many those are; all of them for None.

    A segment's share is that of the epoch, and its pairs are repeated only where the share is more than all of them;
    no segment goes without a pair, be there one more than `n_most`.
    """
    n_epoch = sum(len(segment.pairs) * segment.times for segment in segments)
    if n_most is None or n_epoch <= n_most:
        return list(segments), n_epoch
    drawn = []
    for segment in segments:
        n_drawn = max(1, len(segment.pairs) * segment.times * n_most // n_epoch)
        drawn += _segments(segment.corpus, segment.pairs, *divmod(n_drawn, len(segment.pairs)))
    return drawn, sum(len(segment.pairs) * segment.times for segment in drawn)


def pair_keys(pairs: datasets.Dataset) -> Keys:
    """One number for the content of both sides, (n,)."""
    batches = arrow_batches(pairs)
    keys = (combined_keys(content_keys(b["src"]), content_keys(b["tgt"])) for b in batches)
    return end_to_end(keys, len(pairs))
