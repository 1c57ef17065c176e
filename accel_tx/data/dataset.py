"""Prepared data: token ids and texts in a cache folder named by a fingerprint of the input and the settings."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel_tx.config import Config, TokenizerConfig, UserError
from accel_tx.data.token_pairs import TokenPairs, open_table

if TYPE_CHECKING:
    import pyarrow as pa

    from accel_tx.data.clean_report import CleanReport
    from accel_tx.data.tokenizer import TokenizerPair

# Goes up when the same input and settings would give other token ids, or other files.
_FORMAT = 8
# Fields of the data section that choose among the pairs of the input.
_CHOOSING_FIELDS = ("valid_fraction", "valid_size", "group_column")


@dataclass(frozen=True)
class ValidSet:
    """Validation pairs: their ids for the loss, their text for the scores."""

    pairs: TokenPairs
    src: pa.ChunkedArray
    """Sources as they stand in the input, mapped from disk."""
    tgt: pa.ChunkedArray
    """References, likewise: never tokenized and decoded again."""


@dataclass(frozen=True)
class PreparedData:
    """All that training needs to know of the data."""

    folder: Path
    train: TokenPairs
    valid: TokenPairs
    valid_src: pa.ChunkedArray
    """As in ValidSet."""
    valid_tgt: pa.ChunkedArray
    """As in ValidSet."""
    tokenizers: TokenizerPair
    report: CleanReport
    sha256: str
    """Of the training pairs' ids and the ids of all validation pairs."""
    notes: list[str]
    """What the user should know: sizes that could not be met exactly, samples taken, weights."""
    valid_sets: dict[str, ValidSet] = field(default_factory=dict)
    """Further validation sets by name."""
    test_src: pa.ChunkedArray | None = None
    """Sources of the test text as they stand in the input, mapped from disk; None where there is no test text."""
    test_tgt: pa.ChunkedArray | None = None
    """Their references."""
    sentencepiece_sha256: list[str] | None = None
    """Of the files that the vocabularies were converted from."""


def prepare_data(config: Config, run_dir: Path | None = None) -> PreparedData:
    """Load the prepared data from the cache, or make it first.

    A run that is in `run_dir` has its vocabularies: the SentencePiece files that they are of are not needed any more.
    Of several processes that want the same data, of one launch or of many, one makes it and the others wait.
    Raises: UserError for input that cannot be used.
    """
    from accel_tx.data.allocator import give_back_memory
    from accel_tx.data.once import make_once

    def make(empty: Path) -> None:
        from accel_tx.data.prepare import prepare

        prepare(config, empty, own)

    sha256, own = _sentencepiece_of(config.tokenizer, run_dir)
    folder = cache_folder(config, sha256)
    make_once(folder, make)
    give_back_memory()
    data = dataclasses.replace(load_prepared(folder), sentencepiece_sha256=sha256)
    return _in_both_directions(data) if config.data.both_directions else data


def _sentencepiece_of(config: TokenizerConfig, run_dir: Path | None) -> tuple[list[str] | None, Path | None]:
    """The SHA-256 of the files in `config.sentencepiece`, and the folder where a run has their vocabularies already."""
    if not config.sentencepiece:
        return None, None
    from accel_tx.data import sentencepiece_vocabulary

    if run_dir is not None:
        recorded = sentencepiece_vocabulary.recorded_sha256(config, run_dir / "tokenizer")
        if recorded is not None:
            return recorded, run_dir / "tokenizer"
    return sentencepiece_vocabulary.sha256_of(config), None


def cache_folder(config: Config, sentencepiece_sha256: Sequence[str] | None = None) -> Path:
    """Where the prepared data of this input and these settings stands, whether or not it is there yet.

    Files in `tokenizer.sentencepiece` are read, unless their SHA-256 are given.
    """
    from accel_tx.data.input_files import input_fingerprint

    key = {
        "format": _FORMAT,
        "input": input_fingerprint(config.data),
        "choice of pairs": {name: getattr(config.data, name) for name in _CHOOSING_FIELDS},
        "corpora": [
            (entry.name, entry.weight, entry.clean_config(config.clean).rules()) for entry in config.data.entries()
        ],
        "tokenizer": _identity_of(config.tokenizer, sentencepiece_sha256),
        "max_positions": config.model.max_positions,
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return Path(config.data.cache_dir).expanduser() / digest[:20]


def _identity_of(config: TokenizerConfig, sentencepiece_sha256: Sequence[str] | None) -> dict[str, Any]:
    """What decides the vocabularies: of those of a run or of files what they are, not where they lie."""
    if config.sentencepiece:
        from accel_tx.data.sentencepiece_vocabulary import sha256_of

        sha256 = sentencepiece_sha256 or sha256_of(config)
        return {"sentencepiece": sha256, "kind": config.kind, "symbols": config.symbols}
    if config.from_run is None:
        values = dataclasses.asdict(config)
        # As earlier versions had it.
        left_out = {"from_run", "sentencepiece"} if config.symbols else {"from_run", "sentencepiece", "symbols"}
        return {name: value for name, value in values.items() if name not in left_out}
    from accel_tx.data.tokenizer import tokenizers_of_run

    pair = tokenizers_of_run(config)
    return {"from_run": [hashlib.sha256(side.fast.to_str().encode()).hexdigest() for side in (pair.src, pair.tgt)]}


def load_prepared(folder: Path) -> PreparedData:
    """Open prepared data; token ids stay on disk, memory-mapped."""
    from accel_tx.data.clean_report import CleanReport
    from accel_tx.data.tokenizer import TokenizerPair

    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        train = [(_open_whole(folder, segment), segment["times"]) for segment in meta["train"]]
        valid = _open_whole(folder, meta["valid"])
        test = None if meta["test"] is None else _open_whole(folder, meta["test"])
        return PreparedData(
            folder=folder,
            train=TokenPairs.from_tables(train),
            valid=TokenPairs.from_tables([(valid, 1)]),
            valid_src=valid.column("src"),
            valid_tgt=valid.column("tgt"),
            tokenizers=TokenizerPair.load(folder / "tokenizer"),
            report=CleanReport.from_dict(meta["report"]),
            sha256=meta["sha256"],
            notes=meta["notes"],
            test_src=None if test is None else test.column("src"),
            test_tgt=None if test is None else test.column("tgt"),
            valid_sets={name: _open_set(folder, encoded) for name, encoded in meta["valid_sets"].items()},
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder}: the prepared data is damaged ({error}); remove this folder and start again"
        ) from None


def _open_whole(folder: Path, encoded: Mapping[str, Any]) -> pa.Table:
    """The files of an `Encoded`. Raises: ValueError if pairs are missing: a stream cut between batches still opens."""
    table = open_table(folder, encoded["files"])
    if table.num_rows != encoded["n_pairs"]:
        names = ", ".join(encoded["files"])
        raise ValueError(f"{names}: {table.num_rows:,} pairs, where meta.json says {encoded['n_pairs']:,}")
    return table


def _in_both_directions(data: PreparedData) -> PreparedData:
    """With every training pair reversed as well: none of them is a held-out pair, as those were split off before.

    Source: Ding et al. 2021, "Improving Neural Machine Translation by Bidirectional Training".
    """
    train = data.train.in_both_directions()
    sha256 = hashlib.sha256(f"both directions {data.sha256}".encode()).hexdigest()
    note = f"both directions: {len(data.train):,} pairs and their reverse are {len(train):,} training pairs"
    return dataclasses.replace(data, train=train, sha256=sha256, notes=[*data.notes, note])


def _open_set(folder: Path, encoded: Mapping[str, Any]) -> ValidSet:
    table = _open_whole(folder, encoded)
    return ValidSet(TokenPairs.from_tables([(table, 1)]), table.column("src"), table.column("tgt"))
