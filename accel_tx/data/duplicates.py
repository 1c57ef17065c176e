"""Pairs that stand more than once, and training pairs that stand in held-out text, found by keys of 8 bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

from accel_tx.data.characters import Bools
from accel_tx.data.keys import Keys, combined_keys, content_keys
from accel_tx.data.repair import repair
from accel_tx.data.selection import is_among, partition_bits

TOO_SHORT = np.uint64(0)
"""In place of the key of a text that does not count as overlap alone."""


@dataclass(frozen=True)
class PairKeys:
    """Keys of pairs, (n,) each."""

    exact: Keys
    """Equal for equal pairs only."""
    src: Keys
    """`content_keys` of the source, or TOO_SHORT."""
    tgt: Keys
    pair: Keys
    """Equal for pairs whose sides have equal content keys."""


def keys_of_pairs(src: pa.Array, tgt: pa.Array, src_keys: Keys, tgt_keys: Keys, least_bytes: int) -> PairKeys:
    """The keys of the pairs (n,), given the texts and their content keys."""
    sides = [side.cast(pa.large_binary()).to_pylist() for side in (src, tgt)]
    hashed = (xxhash.xxh3_64_intdigest(s, seed=xxhash.xxh3_64_intdigest(t)) for s, t in zip(*sides, strict=True))
    exact = np.fromiter(hashed, np.uint64, len(src))
    alone = [_keys_if_long(side, keys, least_bytes) for side, keys in ((src, src_keys), (tgt, tgt_keys))]
    return PairKeys(exact, alone[0], alone[1], combined_keys(src_keys, tgt_keys))


@dataclass(frozen=True)
class HeldOutKeys:
    """Sorted keys of all validation and test text."""

    src: Keys
    tgt: Keys
    pair: Keys

    @classmethod
    def of(cls, batches: Iterable[tuple[pa.Array, pa.Array]], repairs: Iterable[tuple[bool, bool]] = ()) -> HeldOutKeys:
        """From sources and their targets, a batch at a time.

        `repairs` are the choices of `repair` that training text may have gone through: then held-out text counts as
        it stands and as each of them leaves it.
        """
        choices = {(False, False), *repairs}
        keys = [
            (content_keys(_repaired(src, choice)), content_keys(_repaired(tgt, choice)))
            for src, tgt in batches
            for choice in choices
        ]
        src, tgt = (np.concatenate([pair[side] for pair in keys] or [np.empty(0, np.uint64)]) for side in (0, 1))
        return cls(np.unique(src), np.unique(tgt), np.unique(combined_keys(src, tgt)))

    def __len__(self) -> int:
        return len(self.pair)

    def holds(self, pairs: PairKeys) -> Bools:
        """Whether each pair (n,) leaks: both sides are those of a held-out pair, or one long enough side is.

        Keys fold case, spaces and quotes away. A short line such as "Yes." stands in any corpus, so it alone is no
        leak.
        Source: none of the tools that `rules_text` names looks for this.
        """
        return is_among(pairs.pair, self.pair) | is_among(pairs.src, self.src) | is_among(pairs.tgt, self.tgt)


@dataclass(frozen=True)
class KeyFile:
    """The keys of the pairs of one part, in blocks that are views on a mapped file."""

    blocks: Sequence[PairKeys]

    def __len__(self) -> int:
        return sum(len(block.exact) for block in self.blocks)

    def placed(self) -> Iterator[tuple[slice, PairKeys]]:
        """The blocks in order, and which of the pairs each has."""
        start = 0
        for block in self.blocks:
            yield slice(start, start + len(block.exact)), block
            start += len(block.exact)


def keys_of_long(texts: pa.Array, least_bytes: int) -> Keys:
    """The content keys of texts (n,), or TOO_SHORT."""
    return _keys_if_long(texts, content_keys(texts), least_bytes)


def leaks(part: KeyFile, rows: Bools, held_out: HeldOutKeys) -> Bools:
    """Which of the rows marked, (n,) bool, are leaks: see `HeldOutKeys.holds`."""
    flags = np.zeros(len(rows), bool)
    for place, keys in part.placed():
        flags[place] = held_out.holds(keys) & rows[place]
    return flags


def exact_duplicates(parts: Sequence[KeyFile], rows: Sequence[Bools]) -> list[Bools]:
    """Every pair but the first of those with its key, among the rows marked of all parts together: (n,) bool a part.

    Source: OpusFilter remove_duplicates.
    """
    flags = [np.zeros(len(own), bool) for own in rows]
    for piece in _pieces(parts, rows, "exact"):
        is_duplicate = np.ones(len(piece.keys), bool)
        is_duplicate[np.unique(piece.keys, return_index=True)[1]] = False
        piece.mark(flags, is_duplicate)
    return flags


def near_duplicates(parts: Sequence[KeyFile], rows: Sequence[Bools]) -> list[Bools]:
    """Every pair but one of those with its key: that of the first part, there that of the smallest exact key.

    So the order of the rows does not decide which spelling stays. Among the rows marked of all parts together: (n,)
    bool a part.
    Source: OpusFilter remove_duplicates with lowercase and letters_only.
    """
    flags = [np.zeros(len(own), bool) for own in rows]
    for piece in _pieces(parts, rows, "pair"):
        order = np.lexsort((piece.exact, piece.part, piece.keys))
        in_order = piece.keys[order]
        piece.mark(flags, order[1:][in_order[1:] == in_order[:-1]])
    return flags


@dataclass(frozen=True)
class _Piece:
    """The pairs whose keys begin with the same bits, (n,) each, in the order of the parts and their rows."""

    keys: Keys
    exact: Keys
    part: NDArray[np.int32]
    row: NDArray[np.int64]

    def mark(self, flags: Sequence[Bools], chosen: NDArray[Any]) -> None:
        """Set the flags of the chosen pairs."""
        part, row = self.part[chosen], self.row[chosen]
        for i, own in enumerate(flags):
            own[row[part == i]] = True


def _pieces(parts: Sequence[KeyFile], rows: Sequence[Bools], name: str) -> Iterator[_Piece]:
    """All rows marked, in pieces that no key has a part in two of: equal keys can be found piece by piece."""
    bits = partition_bits(sum(map(len, rows)))
    # NumPy leaves open what a shift by all 64 bits gives.
    shift, n_pieces = np.uint64(63 if bits == 0 else 64 - bits), 1 << bits
    for number in range(n_pieces):
        found: list[tuple[NDArray[Any], ...]] = []
        for i, (part, own) in enumerate(zip(parts, rows, strict=True)):
            for place, block in part.placed():
                keys = getattr(block, name)
                at = np.flatnonzero(own[place] & ((keys >> shift == number) | (bits == 0)))
                found.append((keys[at], block.exact[at], np.full(len(at), i, np.int32), at + place.start))
        if found:
            yield _Piece(*(np.concatenate(arrays) for arrays in zip(*found, strict=True)))


def _repaired(texts: pa.Array | pa.ChunkedArray, choice: tuple[bool, bool]) -> Any:
    if not any(choice):
        return texts
    array = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
    return repair(array.cast(pa.string()), *choice).texts


def _keys_if_long(texts: pa.Array, keys: Keys, least_bytes: int) -> Keys:
    is_long = pc.greater_equal(pc.binary_length(texts), least_bytes).to_numpy(zero_copy_only=False)
    return np.where(is_long, keys, TOO_SHORT)
