"""Pairs that stand more than once, and training pairs that stand in held-out text, found by keys of 8 bytes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

from accel_tx.data.characters import Bools
from accel_tx.data.keys import content_keys

Keys = NDArray[np.uint64]


@dataclass(frozen=True)
class PairKeys:
    """Keys of pairs, (n,) each."""

    exact: Keys
    """Equal for equal pairs only."""
    src: Keys
    """`content_keys` of the source; 0 where one side alone is too short to count as overlap."""
    tgt: Keys
    pair: Keys
    """Equal for pairs whose sides have equal content keys."""


def keys_of_pairs(src: pa.Array, tgt: pa.Array, src_keys: Keys, tgt_keys: Keys, least_bytes: int) -> PairKeys:
    """The keys of the pairs (n,), given the texts and their content keys."""
    sides = [side.cast(pa.large_binary()).to_pylist() for side in (src, tgt)]
    hashed = (xxhash.xxh3_64_intdigest(s, seed=xxhash.xxh3_64_intdigest(t)) for s, t in zip(*sides, strict=True))
    exact = np.fromiter(hashed, np.uint64, len(src))
    alone = [_long_enough(side, keys, least_bytes) for side, keys in ((src, src_keys), (tgt, tgt_keys))]
    return PairKeys(exact, alone[0], alone[1], _combined(src_keys, tgt_keys))


@dataclass(frozen=True)
class HeldOutKeys:
    """Sorted keys of all validation and test text."""

    src: Keys
    tgt: Keys
    pair: Keys

    @classmethod
    def of(cls, batches: Iterable[tuple[pa.Array, pa.Array]]) -> HeldOutKeys:
        """From sources and their targets, a batch at a time."""
        keys = [(content_keys(src), content_keys(tgt)) for src, tgt in batches]
        src, tgt = (np.concatenate([pair[side] for pair in keys] or [np.empty(0, np.uint64)]) for side in (0, 1))
        return cls(np.unique(src), np.unique(tgt), np.unique(_combined(src, tgt)))

    def __len__(self) -> int:
        return len(self.pair)

    def holds(self, pairs: PairKeys) -> Bools:
        """Whether each pair (n,) leaks: both sides are those of a held-out pair, or one long enough side is.

        Keys fold case, spaces and quotes away. A short line such as "Yes." stands in any corpus, so it alone is no
        leak.
        Source: none of the tools that `rules_text` names looks for this.
        """
        sides = _is_in(pairs.src, self.src) | _is_in(pairs.tgt, self.tgt)
        return np.logical_or(_is_in(pairs.pair, self.pair), sides)


def exact_duplicates(keys: Keys) -> Bools:
    """Every pair (n,) but the first of those with its key. Source: OpusFilter remove_duplicates."""
    is_duplicate = np.ones(len(keys), bool)
    is_duplicate[np.unique(keys, return_index=True)[1]] = False
    return is_duplicate


def near_duplicates(keys: Keys, part: NDArray[Any], exact: Keys) -> Bools:
    """Every pair (n,) but one of those with its key: that of the first part, there that of the smallest exact key.

    So the order of the rows does not decide which spelling stays.
    Source: OpusFilter remove_duplicates with lowercase and letters_only.
    """
    order = np.lexsort((exact, part, keys))
    is_duplicate = np.zeros(len(keys), bool)
    is_duplicate[order[1:]] = keys[order[1:]] == keys[order[:-1]]
    return is_duplicate


def _long_enough(texts: pa.Array, keys: Keys, least_bytes: int) -> Keys:
    is_long = pc.greater_equal(pc.binary_length(texts), least_bytes).to_numpy(zero_copy_only=False)
    return np.where(is_long, keys, np.uint64(0))


def _combined(src_keys: Keys, tgt_keys: Keys) -> Keys:
    mixed = (src_keys ^ (src_keys >> np.uint64(31))) * np.uint64(0x9E3779B97F4A7C15)
    both: Keys = (mixed ^ (mixed >> np.uint64(29))) + tgt_keys
    return both


def _is_in(keys: Keys, sorted_keys: Keys) -> Bools:
    if not len(sorted_keys):
        return np.zeros(len(keys), bool)
    at = np.minimum(np.searchsorted(sorted_keys, keys), len(sorted_keys) - 1)
    found: Bools = (sorted_keys[at] == keys) & (keys != 0)
    return found
