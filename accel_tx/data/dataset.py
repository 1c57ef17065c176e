"""Corpus -> cleaned -> split -> token ids in Arrow files, kept in a cache folder named by a fingerprint of it all."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, compress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from accel_tx.config import Config, DataConfig, UserError
from accel_tx.data.collator import TokenPair

if TYPE_CHECKING:
    import datasets

    from accel_tx.data.clean_report import CleanReport
    from accel_tx.data.tokenizer import TokenizerPair

# Goes up when the same input and settings would give other token ids.
_FORMAT = 2


class Ragged:
    """Sequences of token ids as views on flat arrays, in as many chunks as the Arrow file has."""

    def __init__(self, chunks: Sequence[tuple[NDArray[np.int32], NDArray[np.int32]]]) -> None:
        """Each chunk: the ids of its sequences end to end, and the offset at which each begins and the last ends."""
        self.chunks = list(chunks)
        counts = [len(offsets) - 1 for _, offsets in self.chunks]
        self._first_of_chunk = np.cumsum([0, *counts])
        self.lengths = np.concatenate([np.diff(o) for _, o in self.chunks] or [np.empty(0)]).astype(np.int64)

    @classmethod
    def from_lists(cls, sequences: Sequence[Sequence[int]]) -> Ragged:
        """Copy lists of ids into one chunk."""
        offsets = np.cumsum([0, *map(len, sequences)]).astype(np.int32)
        return cls([(np.fromiter(chain.from_iterable(sequences), np.int32, offsets[-1]), offsets)])

    @classmethod
    def from_column(cls, dataset: datasets.Dataset, column: str) -> Ragged:
        """Views on a list-of-int32 column of a memory-mapped dataset; nothing is read yet."""
        arrays = dataset.data.column(column).chunks
        return cls([(a.values.to_numpy(), a.offsets.to_numpy()) for a in arrays])

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> NDArray[np.int32]:
        chunk = int(np.searchsorted(self._first_of_chunk, index, side="right")) - 1
        values, offsets = self.chunks[chunk]
        i = index - int(self._first_of_chunk[chunk])
        return values[offsets[i] : offsets[i + 1]]


class TokenPairs:
    """Token ids of sentence pairs, for torch's DataLoader."""

    def __init__(self, src: Ragged, tgt: Ragged) -> None:
        if len(src) != len(tgt):
            raise ValueError(f"{len(src)} sources and {len(tgt)} targets; expected as many of each")
        self.src, self.tgt = src, tgt
        self.src_lengths = src.lengths + 1
        """Tokens with EOS, (n,) int64."""
        self.tgt_lengths = tgt.lengths + 1

    @classmethod
    def from_dataset(cls, dataset: datasets.Dataset) -> TokenPairs:
        """The columns `src_ids` and `tgt_ids`, memory-mapped."""
        return cls(Ragged.from_column(dataset, "src_ids"), Ragged.from_column(dataset, "tgt_ids"))

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
            digest.update(side.lengths.tobytes())
            for values, offsets in side.chunks:
                digest.update(values[offsets[0] : offsets[-1]].tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class PreparedData:
    """All that training needs to know of the data."""

    folder: Path
    train: TokenPairs
    valid: TokenPairs
    valid_src: list[str]
    """Validation sources as they stand in the input."""
    valid_tgt: list[str]
    """Validation references, likewise: never tokenized and decoded again."""
    tokenizers: TokenizerPair
    report: CleanReport
    sha256: str
    """Of the training pairs' ids and the validation pairs' ids."""


def prepare_data(config: Config, is_builder: bool = True) -> PreparedData:
    """Load the prepared data from the cache, or make it first.

    Of several processes on a machine only one is the builder; the others wait for what it writes.
    Raises: UserError for input that cannot be used.
    """
    folder = cache_folder(config)
    if is_builder and not folder.exists():
        from accel_tx.data.corpus import progress_on_terminal_only

        with progress_on_terminal_only():
            _build(config, folder)
    while not folder.exists():
        time.sleep(0.2)
    return load_prepared(folder)


def cache_folder(config: Config) -> Path:
    """Where the prepared data of this input and these settings stands, whether or not it is there yet."""
    from accel_tx.data.corpus import input_fingerprint

    key = {
        "format": _FORMAT,
        "input": input_fingerprint(config.data),
        "choice of pairs": {**config.clean.rules(), "valid_fraction": config.data.valid_fraction},
        "tokenizer": dataclasses.asdict(config.tokenizer),
        "max_positions": config.model.max_positions,
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return Path(config.data.cache_dir).expanduser() / digest[:20]


def load_prepared(folder: Path) -> PreparedData:
    """Open prepared data; token ids stay on disk, memory-mapped."""
    from datasets import Dataset

    from accel_tx.data.clean_report import CleanReport
    from accel_tx.data.tokenizer import TokenizerPair

    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        train = Dataset.load_from_disk(str(folder / "train"))
        valid = Dataset.load_from_disk(str(folder / "valid"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder}: the prepared data is damaged ({error}); remove this folder and start again"
        ) from None
    return PreparedData(
        folder=folder,
        train=TokenPairs.from_dataset(train),
        valid=TokenPairs.from_dataset(valid),
        valid_src=list(valid["src"]),
        valid_tgt=list(valid["tgt"]),
        tokenizers=TokenizerPair.load(folder / "tokenizer"),
        report=CleanReport.from_dict(meta["report"]),
        sha256=meta["sha256"],
    )


def split_by_content(pairs: datasets.Dataset, valid_fraction: float) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Training and validation pairs, chosen by a hash of the source: the order of the corpus does not matter.

    Validation gets the n - int((1 - valid_fraction) n) pairs with the smallest hashes, less those that share their
    source with a training pair: a source never stands on both sides.
    Raises: UserError if a side would be empty.
    """
    hashes = np.concatenate([_content_hashes(batch["src"]) for batch in pairs.iter(batch_size=10_000)])
    n_valid = len(hashes) - int((1 - valid_fraction) * len(hashes))
    rank = min(n_valid, len(hashes) - 1)
    boundary = np.partition(hashes, rank)[rank]
    is_valid = hashes < boundary
    if not is_valid.any():  # one source, often repeated, is more than was asked for
        is_valid = hashes <= boundary
    if is_valid.all():
        raise UserError(
            f"data.valid_fraction {valid_fraction} of {len(hashes)} pairs leaves an empty side; expected more pairs"
        )
    return pairs.select(np.flatnonzero(~is_valid)), pairs.select(np.flatnonzero(is_valid))


def _content_hashes(texts: list[str]) -> NDArray[np.uint64]:
    digests = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts)
    return np.frombuffer(digests, dtype=np.uint64)


def _build(config: Config, folder: Path) -> None:
    from accel_tx.data.clean import HeldOut, Part, check_rules_can_run, clean_pairs
    from accel_tx.data.corpus import load_corpus

    check_rules_can_run(config.clean, config.data.src_lang, config.data.tgt_lang)
    # Written beside and renamed: a folder of that name is complete, whoever else writes the same one.
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise UserError(f"data.cache_dir {folder.parent}: cannot be written ({error.strerror})") from None
    try:
        corpus = load_corpus(config.data, beside / "work")
        part = Part(_shown(config.data), corpus.train, config.clean, config.data.src_lang, config.data.tgt_lang)
        held_out = [HeldOut.from_dataset("validation", corpus.valid)] if corpus.valid else []
        (train,), report = clean_pairs([part], held_out, config.data.n_procs)
        valid = corpus.valid
        if valid is None:
            train, valid = split_by_content(train, config.data.valid_fraction)
        tokenizers = _train_tokenizers(train, config)
        tokenizers.save(beside / "tokenizer")
        train, valid, report = _encode_both(train, valid, corpus.valid is None, tokenizers, config, report)
        train.save_to_disk(str(beside / "train"))
        valid.save_to_disk(str(beside / "valid"))
        digest = TokenPairs.from_dataset(train).sha256() + TokenPairs.from_dataset(valid).sha256()
        meta = {"sha256": hashlib.sha256(digest.encode()).hexdigest(), "report": report.to_dict()}
        (beside / "meta.json").write_text(json.dumps(meta, ensure_ascii=False, indent=1), encoding="utf-8")
        shutil.rmtree(beside / "work", ignore_errors=True)
        try:
            beside.rename(folder)
        except OSError:
            if not folder.exists():  # else somebody else was first, with the same content
                raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _shown(config: DataConfig) -> str:
    """What the user gave as the corpus."""
    return f"{config.train_src} and {config.train_tgt}" if config.train_src else config.corpus


def _train_tokenizers(train: datasets.Dataset, config: Config) -> TokenizerPair:
    from accel_tx.data.tokenizer import TokenizerPair, train_tokenizer

    def texts(*sides: str) -> Iterator[list[str]]:
        return (batch[side] for side in sides for batch in train.iter(batch_size=1_000))

    if config.tokenizer.joint:
        both = train_tokenizer(texts("src", "tgt"), config.tokenizer)
        return TokenizerPair(both, both)
    return TokenizerPair(
        train_tokenizer(texts("src"), config.tokenizer), train_tokenizer(texts("tgt"), config.tokenizer)
    )


def _encode_both(
    train: datasets.Dataset,
    valid: datasets.Dataset,
    valid_is_split_off: bool,
    tokenizers: TokenizerPair,
    config: Config,
    report: CleanReport,
) -> tuple[datasets.Dataset, datasets.Dataset, CleanReport]:
    """Token ids of both sets; pairs longer than the model's positions are dropped and counted.

    A validation set that was given is used as it is, so such a pair in it is an error.
    """
    limit = config.model.max_positions
    encode = partial(_encode, tokenizers=tokenizers, n_procs=config.data.n_procs)
    encoded_train = encode(train, limit, keep_text=False)
    encoded_valid = encode(valid, limit if valid_is_split_off else None, keep_text=True)
    n_dropped = len(train) - len(encoded_train)
    if valid_is_split_off:
        n_dropped += len(valid) - len(encoded_valid)
    else:
        lengths = TokenPairs.from_dataset(encoded_valid)
        longest = np.maximum(lengths.src_lengths, lengths.tgt_lengths)
        if longest.max() > limit:
            raise UserError(
                f"validation pair {int(longest.argmax()) + 1} has {longest.max()} tokens; expected at most "
                f"model.max_positions = {limit}: raise it, or take the pair out"
            )
    if not len(encoded_train) or not len(encoded_valid):
        raise UserError(f"no pair is left under model.max_positions = {limit} tokens; raise it")
    report = report.with_dropped("max_positions", f"at most {limit} tokens with EOS on both sides", n_dropped)
    return encoded_train, encoded_valid, report


def _encode(
    pairs: datasets.Dataset, limit: int | None, tokenizers: TokenizerPair, n_procs: int, keep_text: bool
) -> datasets.Dataset:
    from datasets import Features, List, Value

    ids = {"src_ids": List(Value("int32")), "tgt_ids": List(Value("int32"))}
    text = {"src": Value("string"), "tgt": Value("string")} if keep_text else {}

    def encode(batch: dict[str, list[str]]) -> dict[str, list[Any]]:
        columns: list[list[Any]] = [tokenizers.src.encode(batch["src"]), tokenizers.tgt.encode(batch["tgt"])]
        columns += [batch[name] for name in text]
        fits = [limit is None or max(len(src), len(tgt)) < limit for src, tgt in zip(*columns[:2], strict=True)]
        return {name: list(compress(column, fits)) for name, column in zip([*ids, *text], columns, strict=True)}

    return pairs.map(
        encode,
        batched=True,
        remove_columns=pairs.column_names,
        features=Features({**ids, **text}),
        num_proc=n_procs if n_procs > 1 else None,
        load_from_cache_file=False,
        desc="tokenize",
    )
