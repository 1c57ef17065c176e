"""What a corpus is like: lengths, length ratio, duplicates and vocabulary coverage, in memory that does not grow.

Every number per pair goes through a memory-mapped column; what is kept of it is a histogram.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from accel_tx.data.characters import TextBatch
from accel_tx.data.duplicates import keys_of_pairs
from accel_tx.data.histogram import Histogram
from accel_tx.data.keys import Keys
from accel_tx.data.marks import ROWS_PER_CHUNK, small_slices
from accel_tx.data.processes import processes_for
from accel_tx.data.rules_pair import FREE_CHARS, FREE_WORDS, comparable_chars, comparable_words, excess
from accel_tx.data.rules_text import in_words, letter_shares
from accel_tx.data.selection import beside

if TYPE_CHECKING:
    import datasets

# Column of `measure` -> scale of its histogram.
MEASURES = {
    "src_chars": "count",
    "tgt_chars": "count",
    "src_words": "count",
    "tgt_words": "count",
    "char_ratio": "ratio",
    "word_ratio": "ratio",
    "longer_chars": "count",
    "longer_words": "count",
    "longest_word": "count",
    "letter_share": "share",
    "char_excess": "ratio",
    "word_excess": "ratio",
}
_DTYPES = {"count": np.int32, "ratio": np.float32, "share": np.float32}
_ROWS_PER_READ = 1 << 18
_N_BUCKETS = 16

TextStatistics = dict[str, Histogram]


def measure(src: TextBatch, tgt: TextBatch) -> dict[str, NDArray[Any]]:
    """The columns of MEASURES, each (n,), of one batch of pairs.

    Ratios are target over source, an empty side counted as one; excesses are what the rules on ratios judge: longer
    over shorter, and 1 where the difference is one that they let pass. Both count as those rules do: wide characters
    twice, and no words where a script has no spaces (the ratio is 1). `longest_word` is that of both sides,
    `letter_share` the smaller of both.
    """
    columns: dict[str, NDArray[Any]] = {}
    for unit, lengths, (a, b), free in (
        ("char", (src.n_chars, tgt.n_chars), comparable_chars(src, tgt), FREE_CHARS),
        ("word", (src.n_words, tgt.n_words), comparable_words(src, tgt), FREE_WORDS),
    ):
        columns |= {f"src_{unit}s": lengths[0], f"tgt_{unit}s": lengths[1], f"longer_{unit}s": np.maximum(*lengths)}
        columns |= {f"{unit}_excess": excess(a, b, free), f"{unit}_ratio": np.maximum(b, 1) / np.maximum(a, 1)}
    columns["longest_word"] = np.maximum(longest_words(src), longest_words(tgt))
    columns["letter_share"] = np.minimum(letter_shares(src), letter_shares(tgt))
    return {name: columns[name].astype(_DTYPES[scale]) for name, scale in MEASURES.items()}


def longest_words(texts: TextBatch) -> NDArray[np.int64]:
    """Characters of the longest word of each text (n,); spaces end a word, and so does a script without them."""
    in_word = np.zeros(len(texts.codes) + 1, dtype=np.int8)
    in_word[:-1] = in_words(texts)
    # A word also ends where its text does.
    before = np.concatenate([[0], in_word[:-1]])
    begins = in_word > before
    starts = texts.starts[:-1][texts.n_chars > 0]
    begins[starts] = in_word[starts] > 0
    first = np.flatnonzero(begins)
    stops = np.flatnonzero(begins | (in_word < before))
    lengths = stops[np.searchsorted(stops, first, side="right")] - first if len(first) else first
    longest = np.zeros(len(texts), dtype=np.int64)
    np.maximum.at(longest, texts.rows(first), lengths)
    return longest


def count_distinct(columns: Sequence[Sequence[Keys]]) -> int:
    """Different keys in chunks of columns that may be mapped from disk: a sixteenth of them is in memory at a time."""
    n_distinct = 0
    for bucket in range(_N_BUCKETS):
        found = [chunk[chunk >> np.uint64(60) == bucket] for chunks in columns for chunk in chunks]
        n_distinct += len(np.unique(np.concatenate(found))) if found else 0
    return n_distinct


@dataclass(frozen=True)
class MeasuredPairs:
    """The numbers of each pair of one corpus, in columns on disk or in memory."""

    columns: datasets.Dataset

    def histograms(self) -> TextStatistics:
        """The histogram of each measure."""
        return {name: self._histogram(name, scale) for name, scale in MEASURES.items()}

    def keys(self, name: str) -> list[Keys]:
        """The chunks of a column of keys."""
        return [_numpy(chunk) for chunk in self.columns.data.column(name).chunks]

    def _histogram(self, name: str, scale: str) -> Histogram:
        histogram = Histogram.of(scale, [])
        column = self.columns.data.column(name)
        for start in range(0, len(column), _ROWS_PER_READ):
            histogram += Histogram.of(scale, _numpy(column.slice(start, _ROWS_PER_READ)))
        return histogram


def measure_pairs(pairs: datasets.Dataset, with_keys: bool, n_procs: int) -> MeasuredPairs:
    """Measure every pair of a dataset with text columns `src` and `tgt`; the columns lie beside its own file.

    About 50 bytes a pair, 24 more with keys.
    """
    columns = pairs.select_columns(["src", "tgt"]).with_format("arrow")
    if not len(columns):
        from datasets import Dataset

        # `map` calls no function where there is no row, and would give no columns.
        return MeasuredPairs(Dataset(_measure_table(columns[:], with_keys)))
    measured = columns.map(
        partial(_measure_table, with_keys=with_keys),
        batched=True,
        batch_size=ROWS_PER_CHUNK,
        writer_batch_size=ROWS_PER_CHUNK,
        remove_columns=["src", "tgt"],
        num_proc=processes_for(len(pairs), n_procs),
        load_from_cache_file=False,
        cache_file_name=beside(pairs, "keys" if with_keys else "measures"),
        desc="measure",
    )
    return MeasuredPairs(measured)


def _measure_table(table: pa.Table, with_keys: bool) -> pa.Table:
    return pa.concat_tables(_measure_slice(piece, with_keys) for piece in small_slices(table))


def _measure_slice(table: pa.Table, with_keys: bool) -> pa.Table:
    src, tgt = (TextBatch(table.column(side).cast(pa.string()).combine_chunks()) for side in ("src", "tgt"))
    columns = measure(src, tgt)
    if with_keys:
        keys = keys_of_pairs(src.texts, tgt.texts, src.keys, tgt.keys, least_bytes=0)
        columns |= {"exact": keys.exact, "near": keys.pair, "src": keys.src}
    return pa.table(columns)


def describe_text(
    names: Sequence[str], before: Sequence[datasets.Dataset], after: Sequence[datasets.Dataset], n_procs: int
) -> dict[str, Any]:
    """Statistics of the text of some corpora as read and as cleaned: `text`, `duplicates` and `corpora`.

    Counts of duplicates are pairs beyond the first of their kind. Ready for JSON.
    """
    as_read = [measure_pairs(pairs, True, n_procs) for pairs in before]
    as_cleaned = [measure_pairs(pairs, False, n_procs) for pairs in after]
    by_stage = {
        stage: [pairs.histograms() for pairs in parts] for stage, parts in (("before", as_read), ("after", as_cleaned))
    }
    n_read = sum(map(len, before))
    duplicates = {
        f"n_{name}": n_read - count_distinct([pairs.keys(key) for pairs in as_read])
        for name, key in (("exact", "exact"), ("near", "near"), ("repeated_src", "src"))
    }
    return {
        "text": {
            stage: {name: histogram.to_dict() for name, histogram in add_up(parts).items()}
            for stage, parts in by_stage.items()
        },
        "duplicates": {"n_pairs": n_read, **duplicates},
        "corpora": [
            {"name": name, **{stage: _summary(parts[i]) for stage, parts in by_stage.items()}}
            for i, name in enumerate(names)
        ],
    }


def add_up(parts: Sequence[TextStatistics]) -> TextStatistics:
    """The histograms of several corpora as one."""
    total = {name: Histogram.of(scale, []) for name, scale in MEASURES.items()}
    for part in parts:
        total = {name: total[name] + part[name] for name in MEASURES}
    return total


def _summary(statistics: TextStatistics) -> dict[str, float]:
    names = ("src_words", "tgt_words", "src_chars", "tgt_chars")
    values: dict[str, float] = {"n_pairs": statistics["src_chars"].n}
    values.update({f"mean_{name}": statistics[name].mean for name in names})
    values["median_char_ratio"] = statistics["char_ratio"].quantile(0.5)
    return values


def _numpy(column: Any) -> NDArray[Any]:
    return column.to_numpy(zero_copy_only=False) if isinstance(column, pa.Array) else column.to_numpy()  # type: ignore[no-any-return]
