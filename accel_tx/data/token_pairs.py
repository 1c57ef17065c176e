"""Token ids of all pairs as views on memory-mapped Arrow files: what training reads, and its lengths."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from accel_tx.data.collator import TokenPair

if TYPE_CHECKING:
    import pyarrow as pa

_SIDES = ("src", "tgt")


class Ragged:
    """Sequences of token ids as views on flat arrays, in as many chunks as the Arrow file has."""

    def __init__(self, chunks: Sequence[tuple[NDArray[np.int32], NDArray[np.int32]]]) -> None:
        """Each chunk: the ids of its sequences end to end, and the offset at which each begins and the last ends."""
        self.chunks = list(chunks)
        counts = [len(offsets) - 1 for _, offsets in self.chunks]
        self._first_of_chunk = np.cumsum([0, *counts])

    def lengths(self, n_more: int = 0) -> NDArray[np.int32]:
        """Ids of each sequence, and so many more, (n,) int32."""
        lengths = np.full(len(self), n_more, dtype=np.int32)
        for (_, offsets), start, stop in zip(self.chunks, self._first_of_chunk, self._first_of_chunk[1:], strict=False):
            lengths[start:stop] += np.diff(offsets)
        return lengths

    @classmethod
    def from_lists(cls, sequences: Sequence[Sequence[int]]) -> Ragged:
        """Copy lists of ids into one chunk."""
        offsets = np.cumsum([0, *map(len, sequences)]).astype(np.int32)
        return cls([(np.fromiter(chain.from_iterable(sequences), np.int32, offsets[-1]), offsets)])

    @classmethod
    def from_columns(cls, columns: Sequence[tuple[pa.ChunkedArray, int]]) -> Ragged:
        """Views on list-of-int32 columns of memory-mapped tables, each so many times over; no id is read yet."""
        chunks = [[(_numbers(a.values), _numbers(a.offsets)) for a in column.chunks] for column, _ in columns]
        return cls([chunk for views, (_, times) in zip(chunks, columns, strict=True) for chunk in views * times])

    def __len__(self) -> int:
        return int(self._first_of_chunk[-1])

    def __getitem__(self, index: int) -> NDArray[np.int32]:
        chunk = int(np.searchsorted(self._first_of_chunk, index, side="right")) - 1
        values, offsets = self.chunks[chunk]
        i = index - int(self._first_of_chunk[chunk])
        return values[offsets[i] : offsets[i + 1]]


def _numbers(array: pa.Int32Array) -> NDArray[np.int32]:
    """As its own `to_numpy`, which would import pandas, for half a second."""
    return np.from_dlpack(array)  # type: ignore[return-value]


class TokenPairs:
    """Token ids of sentence pairs, for torch's DataLoader."""

    def __init__(self, src: Ragged, tgt: Ragged) -> None:
        if len(src) != len(tgt):
            raise ValueError(f"{len(src)} sources and {len(tgt)} targets; expected as many of each")
        self.src, self.tgt = src, tgt
        self.src_lengths = src.lengths(n_more=1)
        """Tokens with EOS, (n,) int32."""
        self.tgt_lengths = tgt.lengths(n_more=1)

    @classmethod
    def from_tables(cls, tables: Sequence[tuple[pa.Table, int]]) -> TokenPairs:
        """The columns `src_ids` and `tgt_ids` of memory-mapped tables, each so many times over."""
        src, tgt = (Ragged.from_columns([(t.column(f"{side}_ids"), times) for t, times in tables]) for side in _SIDES)
        return cls(src, tgt)

    def in_both_directions(self) -> TokenPairs:
        """All pairs, and behind them the same with their sides exchanged; nothing is copied."""
        ways = (self.src, self.tgt), (self.tgt, self.src)
        return TokenPairs(*(Ragged([*first.chunks, *second.chunks]) for first, second in ways))

    def __len__(self) -> int:
        return len(self.src)

    def __getitem__(self, index: int) -> TokenPair:
        return TokenPair(self.src[index], self.tgt[index])

    def __getitems__(self, indices: list[int]) -> list[TokenPair]:
        """A whole micro-batch at once."""
        return [self[i] for i in indices]

    def sha256(self) -> str:
        """Hash of all ids in their order: two runs with the same one train on the same data."""
        digest = hashlib.sha256()
        for side in (self.src, self.tgt):
            for _, offsets in side.chunks:
                digest.update(np.diff(offsets).tobytes())
            for values, offsets in side.chunks:
                digest.update(values[offsets[0] : offsets[-1]].tobytes())
        return digest.hexdigest()


def open_table(folder: Path, files: Sequence[str]) -> pa.Table:
    """Arrow files of a folder, end to end, mapped into memory."""
    import pyarrow as pa

    return pa.concat_tables(pa.ipc.open_stream(pa.memory_map(str(folder / file))).read_all() for file in files)
