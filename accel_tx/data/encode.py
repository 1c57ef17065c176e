"""Pairs -> vocabulary -> token ids in Arrow files; what is too long for the model is dropped and counted."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from accel_tx.config import TokenizerConfig, UserError
from accel_tx.data.mixture import Segment, sample
from accel_tx.data.processes import processes_for
from accel_tx.data.selection import Rows
from accel_tx.data.split import arrow_batches
from accel_tx.data.tokenizer import Tokenizer, TokenizerPair, train_tokenizer

if TYPE_CHECKING:
    import datasets

# A side with more bytes than this for each position is no sentence. Without the limit a line of megabytes without a
# space would keep the BPE trainer busy for hours.
BYTES_PER_POSITION = 64
_IDS = pa.list_(pa.int32())
_ROWS_PER_CHUNK = 10_000
# The library's own record of a text is far larger than its ids, so few texts at a time.
_TEXTS_AT_A_TIME = 500


@dataclass(frozen=True)
class Encoded:
    """Arrow files with the columns `src_ids` and `tgt_ids`, and perhaps `src` and `tgt`."""

    files: list[str]
    """Names inside the folder, in order."""
    n_pairs: int


def short_enough(pairs: datasets.Dataset, max_positions: int) -> Rows:
    """The pairs with no side of more than `BYTES_PER_POSITION` for each position, (n,) bool."""
    limit = BYTES_PER_POSITION * max_positions
    sides = ((batch["src"], batch["tgt"]) for batch in arrow_batches(pairs))
    longest = [pc.max_element_wise(*(pc.binary_length(side) for side in pair)) for pair in sides]
    return np.concatenate([(lengths.to_numpy() <= limit) for lengths in longest] or [np.empty(0, dtype=bool)])


def train_tokenizers(epoch: Sequence[Segment], config: TokenizerConfig) -> tuple[TokenizerPair, int]:
    """The vocabularies of an epoch's pairs, each counted as often as it stands there; and from how many pairs.

    With more than `max_sentences` pairs they are learned from a sample.
    """
    drawn, n_pairs = sample(epoch, config.max_sentences)

    def texts(*sides: str) -> Iterator[list[str]]:
        for side in sides:
            for segment in drawn:
                for _ in range(segment.times):
                    for batch in segment.pairs.iter(batch_size=1_000):
                        yield batch[side]

    if config.joint:
        both = train_tokenizer(texts("src", "tgt"), config)
        return TokenizerPair(both, both), n_pairs
    return TokenizerPair(train_tokenizer(texts("src"), config), train_tokenizer(texts("tgt"), config)), n_pairs


def encode(
    pairs: datasets.Dataset,
    tokenizers: TokenizerPair,
    path: Path,
    limit: int | None,
    n_procs: int,
    keep_text: bool = False,
) -> tuple[Encoded, NDArray[np.int64]]:
    """Write the ids of all pairs of at most `limit` tokens with EOS on both sides (None: of all pairs).

    Returns what was written, and the rows of the pairs that are too long, in order.
    """
    from datasets import Features, List, Value

    ids = {"src_ids": List(Value("int32")), "tgt_ids": List(Value("int32"))}
    text = {"src": Value("string"), "tgt": Value("string")} if keep_text else {}

    def encode_batch(table: pa.Table, rows: list[int]) -> pa.Table:
        table = table.combine_chunks()
        columns = {f"{side}_ids": _ids(getattr(tokenizers, side), table[side]) for side in ("src", "tgt")}
        encoded = pa.table({**columns, **{name: table[name] for name in text}})
        if limit is None:
            return encoded
        longest = pc.max_element_wise(*(pc.list_value_length(column) for column in columns.values()))
        fits = pc.less(longest, limit)
        too_long = np.array(rows)[~fits.to_numpy(zero_copy_only=False)]
        if len(too_long):
            # `map` brings nothing back from its processes but the table.
            with path.with_name(f"{path.stem}.{os.getpid()}.too_long").open("ab") as file:
                file.write(too_long.astype(np.int64).tobytes())
        return encoded.filter(fits)

    _quiet_forks(n_procs)
    done = pairs.with_format("arrow").map(
        encode_batch,
        with_indices=True,
        batched=True,
        batch_size=_ROWS_PER_CHUNK,
        writer_batch_size=_ROWS_PER_CHUNK,
        remove_columns=pairs.column_names,
        features=Features({**ids, **text}),
        num_proc=processes_for(len(pairs), n_procs),
        load_from_cache_file=False,
        cache_file_name=str(path),
        desc=f"tokenize {path.stem}",
    )
    found = [np.empty(0, dtype=np.int64)]
    for file in path.parent.glob(f"{path.stem}.*.too_long"):
        found.append(np.fromfile(file, dtype=np.int64))
        file.unlink()
    return Encoded([Path(f["filename"]).name for f in done.cache_files], len(done)), np.sort(np.concatenate(found))


def check_text_lengths(pairs: datasets.Dataset, max_positions: int, what: str) -> None:
    """Raise UserError for the first pair that is not `short_enough`: validation pairs are used as they are.

    `what` names the set.
    """
    too_long = ~short_enough(pairs, max_positions)
    if too_long.any():
        raise UserError(
            f"{what} pair {int(too_long.argmax()) + 1} has more than {BYTES_PER_POSITION * max_positions:,} bytes, "
            f"{BYTES_PER_POSITION} for each of model.max_positions; take the pair out"
        )


def _ids(tokenizer: Tokenizer, texts: pa.ChunkedArray) -> pa.Array:
    values, lengths = [], [np.zeros(1, dtype=np.int32)]
    for start in range(0, len(texts), _TEXTS_AT_A_TIME):
        ids = tokenizer.encode(texts.slice(start, _TEXTS_AT_A_TIME).to_pylist())
        lengths.append(np.fromiter(map(len, ids), np.int32, len(ids)))
        values.append(np.fromiter(chain.from_iterable(ids), np.int32))
    offsets = np.cumsum(np.concatenate(lengths), dtype=np.int32)
    flat = np.concatenate(values) if values else np.empty(0, dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat), type=_IDS)


def _quiet_forks(n_procs: int) -> None:
    """Say before the fork what `tokenizers` would settle after it, with a warning in every process."""
    if n_procs > 1:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
