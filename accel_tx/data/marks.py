"""One pass over a corpus that says of each pair what the rules say, in a few bytes beside the input."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from accel_tx.data.duplicates import keys_of_pairs
from accel_tx.data.processes import processes_for
from accel_tx.data.repair import Repaired, repair
from accel_tx.data.rules import GLOBAL_RULES, REPAIRS, PairBatch, objections
from accel_tx.data.selection import beside

ROWS_PER_BATCH = 2_000
# Of what is written: every chunk of a mapped file takes some hundred bytes a column for as long as it is open.
ROWS_PER_CHUNK = 20_000
_BYTES_PER_BATCH = 8 << 20


def mark_pairs(
    pairs: datasets.Dataset, rules: dict[str, Any], src_lang: str, tgt_lang: str, n_procs: int, desc: str
) -> datasets.Dataset:
    """What the rules say of each pair, a row a pair.

    Columns: `objections` (bit i: rule i of `pair_rules(rules)` objects) and `repaired` (bit i: repair i of REPAIRS
    changed a side); where a rule of GLOBAL_RULES is in force also `exact`, `src_key`, `tgt_key` and `pair`, the keys of
    the mended text.
    """
    features = {"objections": datasets.Value("uint32"), "repaired": datasets.Value("uint8")}
    if rules.keys() & GLOBAL_RULES.keys():
        features.update({name: datasets.Value("uint64") for name in ("exact", "src_key", "tgt_key", "pair")})
    return (
        pairs.select_columns(["src", "tgt"])
        .with_format("arrow")
        .map(
            partial(_mark, rules=rules, src_lang=src_lang, tgt_lang=tgt_lang),
            batched=True,
            batch_size=ROWS_PER_CHUNK,
            writer_batch_size=ROWS_PER_CHUNK,
            remove_columns=["src", "tgt"],
            features=datasets.Features(features),
            num_proc=processes_for(len(pairs), n_procs),
            load_from_cache_file=False,
            cache_file_name=beside(pairs, "marks"),
            desc=desc,
        )
    )


def _mark(table: pa.Table, rules: dict[str, Any], src_lang: str, tgt_lang: str) -> pa.Table:
    tables = [_mark_slice(piece, rules, src_lang, tgt_lang) for piece in small_slices(table)]
    return pa.concat_tables(tables)


def _mark_slice(table: pa.Table, rules: dict[str, Any], src_lang: str, tgt_lang: str) -> pa.Table:
    src, tgt = (mended_column(table, side, rules) for side in ("src", "tgt"))
    pairs = PairBatch.from_arrow(src.texts, tgt.texts, src_lang, tgt_lang)
    columns = {"objections": objections(pairs, rules), "repaired": np.zeros(table.num_rows, np.uint8)}
    for i, name in enumerate(REPAIRS):
        columns["repaired"] |= (getattr(src, name) | getattr(tgt, name)).astype(np.uint8) << np.uint8(i)
    if rules.keys() & GLOBAL_RULES.keys():
        least_bytes = rules.get("overlap", 0)
        keys = keys_of_pairs(src.texts, tgt.texts, pairs.src.keys, pairs.tgt.keys, least_bytes)
        columns.update({"exact": keys.exact, "src_key": keys.src, "tgt_key": keys.tgt, "pair": keys.pair})
    return pa.table(columns)


def small_slices(table: pa.Table) -> Iterator[pa.Table]:
    """Halves of halves, so that the arrays of a batch stay small whatever the length of its lines."""
    if table.num_rows <= 1 or (table.num_rows <= ROWS_PER_BATCH and table.nbytes <= _BYTES_PER_BATCH):
        yield table
    else:
        half = table.num_rows // 2
        yield from small_slices(table.slice(0, half))
        yield from small_slices(table.slice(half))


def mended_column(table: pa.Table, side: str, rules: dict[str, Any]) -> Repaired:
    """One column of a table after the repairs that are in force."""
    texts = table.column(side).cast(pa.string()).combine_chunks()
    return repair(texts, *(name in rules for name in REPAIRS))
