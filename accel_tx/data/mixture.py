"""Corpora mixed by weight: how often each pair counts in an epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

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
    """
    segments = []
    for name, pairs, weight in zip(names, corpora, weights, strict=True):
        whole = int(weight)
        n_more = int((weight - whole) * len(pairs) + 0.5)
        more = smallest(pair_keys(pairs), n_more) if n_more else np.zeros(len(pairs), dtype=bool)
        for rows, times in ((more, whole + 1), (~more, whole)):
            if times and rows.any():
                segments.append(Segment(name, select(pairs, rows), times))
    return segments


def sample(segments: Sequence[Segment], n_most: int | None) -> tuple[list[Segment], int]:
    """At most `n_most` pairs of an epoch, drawn evenly by content, and how many those are; all of them for None."""
    n_epoch = sum(len(segment.pairs) * segment.times for segment in segments)
    if n_most is None or n_epoch <= n_most:
        return list(segments), n_epoch
    drawn = []
    for segment in segments:
        rows = smallest(pair_keys(segment.pairs), len(segment.pairs) * n_most // n_epoch)
        drawn.append(Segment(segment.corpus, select(segment.pairs, rows), segment.times))
    return drawn, sum(len(segment.pairs) * segment.times for segment in drawn)


def pair_keys(pairs: datasets.Dataset) -> Keys:
    """One number for the content of both sides, (n,)."""
    batches = arrow_batches(pairs)
    keys = (combined_keys(content_keys(b["src"]), content_keys(b["tgt"])) for b in batches)
    return end_to_end(keys, len(pairs))
