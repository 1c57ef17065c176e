"""Rows of a dataset chosen by marks, and keys found by value, in blocks: next to no memory beyond the marks."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from accel_tx.data.keys import Keys

if TYPE_CHECKING:
    import datasets

Rows = NDArray[np.bool_]

ROWS_PER_BLOCK = 1 << 18
KEYS_PER_PIECE = 1 << 17
_WIDEST_SPAN = 4


def select(pairs: datasets.Dataset, rows: Rows) -> datasets.Dataset:
    """The rows marked, (n,) bool, in their order; no text is copied.

    Their numbers are written beside the dataset's own file, 8 bytes a row, and mapped: `Dataset.select` would make a
    list of them, 40 bytes a row. A dataset in memory keeps them there.
    """
    if rows.all():
        return pairs
    path = beside(pairs, f"rows_{uuid.uuid4().hex}")
    if path is None or not rows.any():
        return pairs.select(np.flatnonzero(rows))
    from datasets import Dataset
    from datasets.table import MemoryMappedTable

    with pa.OSFile(path, "wb") as sink, pa.ipc.new_stream(sink, pa.schema({"indices": pa.uint64()})) as writer:
        for numbers in _row_numbers(pairs._indices, rows):
            writer.write_batch(pa.record_batch({"indices": numbers}))
    return Dataset(
        pairs.data,
        info=pairs.info.copy(),
        split=pairs.split,
        indices_table=MemoryMappedTable.from_file(path),
        fingerprint=uuid.uuid4().hex,
    )


def beside(pairs: datasets.Dataset, what: str) -> str | None:
    """A file beside the input's own; None, which means memory, for an input that has no file."""
    if not pairs.cache_files:
        return None
    path = Path(pairs.cache_files[0]["filename"])
    return str(path.with_name(f"{path.stem}.{what}.arrow"))


def _row_numbers(chosen_before: Any, rows: Rows) -> Iterator[pa.Array]:
    """Where the rows marked stand in the table, given the index through which the dataset shows it, or None."""
    for block in blocks(len(rows)):
        numbers = np.flatnonzero(rows[block]) + block.start
        if chosen_before is None:
            yield pa.array(numbers.astype(np.uint64))
        else:
            shown = chosen_before.column("indices").slice(block.start, block.stop - block.start)
            yield shown.combine_chunks().take(pa.array(numbers - block.start))


def gathered(pairs: datasets.Dataset, start: int, stop: int) -> pa.Table:
    """Rows `start` to `stop - 1` as an Arrow table of one chunk.

    Those of an index are taken from the range that they span, where it is not much wider than they are many:
    `datasets` makes a chunk of each, and every kernel of Arrow's begins anew with every chunk.
    """
    if pairs._indices is None:
        return pairs.data.fast_slice(start, stop - start).combine_chunks()
    rows = pairs._indices.column("indices").slice(start, stop - start).to_numpy()
    first, span = int(rows.min()), int(np.ptp(rows)) + 1
    if span > _WIDEST_SPAN * len(rows):
        return pairs.with_format("arrow")[start:stop].combine_chunks()
    return pairs.data.fast_slice(first, span).combine_chunks().take(pa.array(rows - first)).combine_chunks()


def blocks(n: int) -> Iterator[slice]:
    """Neighbouring ranges that together are all of 0 ... n - 1."""
    return (slice(start, min(start + ROWS_PER_BLOCK, n)) for start in range(0, n, ROWS_PER_BLOCK))


def first_rows(rows: Rows, n_most: int) -> NDArray[np.int64]:
    """The numbers of the first `n_most` rows marked, or of all of them."""
    found = np.empty(0, dtype=np.int64)
    for block in blocks(len(rows)):
        if len(found) >= n_most:
            break
        found = np.concatenate([found, np.flatnonzero(rows[block]) + block.start])
    return found[:n_most]


def kth_smallest(keys: Callable[[], Iterator[Keys]], k: int) -> np.uint64:
    """The key that stands at place k, from 0, were they sorted; `keys` gives all of them, in blocks, each time anew.

    Only those that share their first 16 bits with it are ever together in memory.
    """
    shift = np.uint64(48)
    counts = np.zeros(1 << 16, dtype=np.int64)
    for block in keys():
        counts += np.bincount((block >> shift).astype(np.int64), minlength=len(counts))
    ends = np.cumsum(counts)
    first_bits = int(np.searchsorted(ends, k, side="right"))
    alike = np.concatenate([block[block >> shift == first_bits] for block in keys()])
    place = k - int(ends[first_bits] - counts[first_bits])
    found: np.uint64 = np.partition(alike, place)[place]
    return found


def is_among(keys: Keys, chosen: Keys) -> Rows:
    """Whether each key (n,) is one of the chosen ones, which are sorted."""
    found = np.zeros(len(keys), dtype=bool)
    if len(chosen):
        for block in blocks(len(keys)):
            at = np.minimum(np.searchsorted(chosen, keys[block]), len(chosen) - 1)
            found[block] = chosen[at] == keys[block]
    return found


def partition_bits(n_keys: int) -> int:
    """How many leading bits, at most 8, part so many keys into pieces of about `KEYS_PER_PIECE` or fewer."""
    return min(max((n_keys - 1) // KEYS_PER_PIECE, 0).bit_length(), 8)


def classes(keys: Keys) -> Iterator[tuple[Keys, NDArray[np.int64]]]:
    """All different keys in ascending order and how often each occurs, some at a time."""
    bits = partition_bits(len(keys))
    width = 1 << (64 - bits)
    for first in range(0, 1 << 64, width):
        own = [part[(part >= np.uint64(first)) & (part <= np.uint64(first + width - 1))] for part in _views(keys)]
        yield np.unique(np.concatenate(own) if own else keys, return_counts=True)


def _views(keys: Keys) -> Iterator[Keys]:
    return (keys[block] for block in blocks(len(keys)))
