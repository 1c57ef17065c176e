"""Validation pairs split off the training pairs so that nothing of them is left to train on.

Which pairs are held out follows from their content alone: not from their order, nor from the number of processes. Only
where cleaning found one pair in several groups (`data.group_column`) it left it in the first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from accel_tx.config import DataConfig, UserError
from accel_tx.data.duplicates import keys_of_long
from accel_tx.data.keys import Keys, content_keys
from accel_tx.data.selection import Rows, blocks, classes, first_rows, gathered, is_among, kth_smallest, select

if TYPE_CHECKING:
    import datasets

_DEFAULT_SHARE, _MOST_BY_DEFAULT = 0.1, 2_000
_ROWS_PER_BATCH = 10_000
# Up to so many classes the nearest total is searched among all choices; more of them fill up nearly any size.
_MOST_CLASSES_SEARCHED = 2_000


@dataclass(frozen=True)
class Split:
    """Some corpora, each parted into what is trained on and what is held out."""

    train: list[datasets.Dataset]
    """One for each corpus, in their order; may be empty."""
    valid: datasets.Dataset
    """Held out from all of them."""
    n_valid: list[int]
    """How many of `valid` are from each corpus; they stand in the corpora's order."""
    shared: list[datasets.Dataset]
    """Pairs of each corpus that are in neither: their group is trained on, their source stands in one held out."""
    note: str | None
    """What a user should know where the size could not be met."""


def split_off_validation(corpora: Sequence[datasets.Dataset], config: DataConfig) -> Split:
    """Hold out `valid_size` pairs, or n - int((1 - valid_fraction) n), of all corpora together; else a tenth, at most
    2,000: to translate more takes long and says little more.

    Without groups all pairs of a source are held out or none, in whatever spelling (see `content_keys`), and the size
    is exact where sources are distinct. Where they repeat, and with groups, it is the nearest that whole ones give,
    which `_nearest_classes` says more of.
    Raises: UserError if a side would be empty.
    """
    sources = source_keys(corpora)
    grouped = config.group_column is not None
    keys = group_keys(corpora) if grouped else sources
    share = _DEFAULT_SHARE if config.valid_fraction is None else config.valid_fraction
    wanted = config.valid_size or len(keys) - int((1 - share) * len(keys))
    if config.valid_size is None and config.valid_fraction is None:
        wanted = min(wanted, _MOST_BY_DEFAULT)
    is_valid = hold_out(keys, wanted)
    if is_valid is None:
        asked = f"valid_size {wanted}" if config.valid_size else f"valid_fraction {share}"
        what = f"groups in column {config.group_column}" if grouped else "sources"
        n_classes = len(np.unique(keys))
        raise UserError(
            f"data.{asked} of {len(keys)} pairs with {n_classes} different {what} leaves an empty side; "
            "expected more pairs"
        )
    shared = ~is_valid & is_among(sources, np.unique(sources[is_valid])) if grouped else np.zeros_like(is_valid)
    if (is_valid | shared).all():
        raise UserError(
            f"data.group_column {config.group_column}: every source stands in a group that is held out; "
            "nothing is left to train on"
        )
    n_valid = int(is_valid.sum())
    note = None
    if grouped:
        n_all, n_held_out = len(np.unique(keys)), len(np.unique(keys[is_valid]))
        note = f"held out {n_valid:,} pairs ({wanted:,} asked for): {n_held_out:,} of {n_all:,} groups"
    elif n_valid != wanted:
        note = f"held out {n_valid:,} pairs ({wanted:,} asked for): all pairs of a source stay together"
    ends = np.cumsum([len(pairs) for pairs in corpora])[:-1]
    return Split(
        train=[select(c, rows) for c, rows in zip(corpora, np.split(~is_valid & ~shared, ends), strict=True)],
        valid=_joined([select(c, rows) for c, rows in zip(corpora, np.split(is_valid, ends), strict=True)]),
        n_valid=[int(rows.sum()) for rows in np.split(is_valid, ends)],
        shared=[c.select(np.flatnonzero(rows)) for c, rows in zip(corpora, np.split(shared, ends), strict=True)],
        note=note,
    )


def hold_out(keys: Keys, n_wanted: int) -> Rows | None:
    """The rows to hold out, (n,) bool: all rows of a key or none, as near to `n_wanted` as `_nearest_classes` comes.

    None if there are fewer than two different keys, or no more rows than wanted.
    """
    if n_wanted >= len(keys) or keys.min() == keys.max():
        return None
    last = kth_smallest(lambda: (keys[block] for block in blocks(len(keys))), n_wanted - 1)
    up_to_last: Rows = keys <= last
    if np.count_nonzero(up_to_last) == n_wanted:
        return up_to_last
    return is_among(keys, _nearest_classes(keys, n_wanted))


def smallest(keys: Keys, n_wanted: int) -> Rows:
    """The `n_wanted` rows that come first in an order fixed by their keys; of equal keys the first rows."""
    if n_wanted >= len(keys):
        return np.ones(len(keys), dtype=bool)

    def stirred() -> Iterator[Keys]:
        # Because the split takes the smallest keys themselves (the multiplier is that of Knuth's hashing).
        for block in blocks(len(keys)):
            yield (keys[block] ^ (keys[block] >> np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15)

    boundary = kth_smallest(stirred, n_wanted)
    chosen, is_last = np.empty(len(keys), dtype=bool), np.empty(len(keys), dtype=bool)
    for block, own in zip(blocks(len(keys)), stirred(), strict=True):
        chosen[block], is_last[block] = own < boundary, own == boundary
    chosen[first_rows(is_last, n_wanted - np.count_nonzero(chosen))] = True
    return chosen


def source_keys(corpora: Sequence[datasets.Dataset]) -> Keys:
    """The content key of every source, all corpora end to end, (n,)."""
    return end_to_end((content_keys(batch["src"]) for c in corpora for batch in arrow_batches(c)), _n_rows(corpora))


def target_keys(pairs: datasets.Dataset, least_bytes: int) -> Keys:
    """The content key of every target of at least so many bytes, (n,), and TOO_SHORT for the others."""
    return end_to_end((keys_of_long(batch["tgt"], least_bytes) for batch in arrow_batches(pairs)), len(pairs))


def group_keys(corpora: Sequence[datasets.Dataset]) -> Keys:
    """One number for every group, all corpora end to end, (n,); a group may reach over several corpora."""
    texts = (batch["group"].to_pylist() for c in corpora for batch in arrow_batches(c))
    hashes = ((xxhash.xxh3_64_intdigest(text.encode()) for text in column) for column in texts)
    return end_to_end((np.fromiter(column, dtype=np.uint64) for column in hashes), _n_rows(corpora))


def end_to_end(batches: Iterator[Keys], n_keys: int) -> Keys:
    """Batches of keys as one array; their number is known before, so that they are in memory once."""
    keys = np.empty(n_keys, dtype=np.uint64)
    n_filled = 0
    for batch in batches:
        keys[n_filled : n_filled + len(batch)] = batch
        n_filled += len(batch)
    return keys


def arrow_batches(pairs: datasets.Dataset) -> Iterator[pa.Table]:
    """The rows as Arrow tables of one chunk, some at a time."""
    for start in range(0, len(pairs), _ROWS_PER_BATCH):
        yield gathered(pairs, start, min(start + _ROWS_PER_BATCH, len(pairs)))


def _nearest_classes(keys: Keys, wanted: int) -> Keys:
    """The different keys, in order, whose rows add up to `wanted`, or nearly; never none of them and never all.

    As many as fit are taken in ascending order. If that leaves a gap, and the classes are few enough to try all
    choices, the nearest total that any choice has is found; else the total is below by less than the smallest class
    that was left.
    """
    chosen: list[Keys] = []
    few: list[tuple[Keys, NDArray[np.int64]]] = []
    left, n_classes = wanted, 0
    smallest_size, smallest_key = len(keys) + 1, keys[:0]
    for distinct, sizes in classes(keys):
        taken = _greedy(sizes, left)
        chosen.append(distinct[taken])
        left -= int(sizes[taken].sum())
        if not left:
            return np.concatenate(chosen)
        n_classes += len(sizes)
        if n_classes <= _MOST_CLASSES_SEARCHED:
            few.append((distinct, sizes))
        if sizes.min(initial=smallest_size) < smallest_size:
            smallest_size, smallest_key = int(sizes.min()), distinct[[sizes.argmin()]]
    if n_classes <= _MOST_CLASSES_SEARCHED:
        distinct, sizes = (np.concatenate(arrays) for arrays in zip(*few, strict=True))
        return np.asarray(distinct[_best(sizes, wanted)])
    return np.concatenate(chosen) if left < wanted else smallest_key


def _greedy(sizes: NDArray[np.int64], wanted: int) -> Rows:
    chosen = np.zeros(len(sizes), dtype=bool)
    left, at = wanted, 0
    while left > 0:
        fitting = at + np.flatnonzero(sizes[at:] <= left)
        n = int(np.searchsorted(np.cumsum(sizes[fitting]), left, side="right"))
        chosen[fitting[:n]] = True
        left -= int(sizes[fitting[:n]].sum())
        if n == len(fitting):
            break
        at = int(fitting[n]) + 1
    return chosen


def _best(sizes: NDArray[np.int64], wanted: int) -> Rows:
    """By dynamic programming over totals; between two that are as near, the smaller one."""
    n_rows = int(sizes.sum())
    most = min(n_rows - 1, wanted + int(sizes.max()))  # the nearest total is never further off than one class
    never = len(sizes)
    reached_by = np.full(most + 1, never, dtype=np.int32)
    reached = np.zeros(most + 1, dtype=bool)
    reached[0] = True
    for i, size in enumerate(sizes.tolist()):
        if reached[wanted]:
            break
        if size <= most:
            new = np.flatnonzero(reached[: most + 1 - size] & ~reached[size:]) + size
            reached[new] = True
            reached_by[new] = i
    totals = np.flatnonzero(reached)[1:]
    total = int(totals[np.argmin(np.abs(totals - wanted))])
    chosen = np.zeros(len(sizes), dtype=bool)
    while total:
        i = int(reached_by[total])
        chosen[i] = True
        total -= int(sizes[i])
    return chosen


def _n_rows(corpora: Sequence[datasets.Dataset]) -> int:
    return sum(map(len, corpora))


def _joined(parts: Sequence[datasets.Dataset]) -> datasets.Dataset:
    from datasets import concatenate_datasets

    return concatenate_datasets([part for part in parts if len(part)])
