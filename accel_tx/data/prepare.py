"""Corpora -> cleaned -> split -> token ids in Arrow files, and the report on it all."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from accel_tx.config import Config, TokenizerConfig, UserError
from accel_tx.data import sentencepiece_vocabulary
from accel_tx.data.allocator import give_back_memory
from accel_tx.data.clean import HeldOut, Part, check_rules_can_run, clean_pairs
from accel_tx.data.clean_report import N_EXAMPLES, CleanReport
from accel_tx.data.corpus import Corpus, load_corpus
from accel_tx.data.coverage import describe_tokens, sampled
from accel_tx.data.duplicates import TOO_SHORT
from accel_tx.data.encode import BYTES_PER_POSITION, check_text_lengths, encode, short_enough, train_tokenizers
from accel_tx.data.keys import Keys
from accel_tx.data.mixture import Segment, weighted_segments
from accel_tx.data.progress import progress_on_terminal_only
from accel_tx.data.selection import Rows, is_among, select
from accel_tx.data.split import arrow_batches, split_off_validation, target_keys
from accel_tx.data.statistics import describe_text
from accel_tx.data.token_pairs import TokenPairs, open_table
from accel_tx.data.tokenizer import TokenizerPair, tokenizers_of_run

# Sentences, of both sides together, in which ids are compared with those of SentencePiece.
_N_COMPARED = 20_000
_TEXT = pa.schema([("src", pa.string()), ("tgt", pa.string())])


def prepare(config: Config, folder: Path, converted: Path | None = None) -> None:
    """Fill the folder: `train_N.arrow` and `valid.arrow`, the tokenizers, and `meta.json`.

    `converted` is a folder with the tokenizers of `tokenizer.sentencepiece`, where they have been converted before.
    """
    entries = config.data.entries()
    for entry in entries:
        check_rules_can_run(entry.clean_config(config.clean), config.data.src_lang, config.data.tgt_lang)
    with progress_on_terminal_only():
        corpus = load_corpus(config.data, folder / "work")
        cleaned, report = _clean(corpus, config)
        give_back_memory()
        cleaned, report = _drop_overlong(cleaned, report, config.model.max_positions)
        names = [entry.name for entry in entries]
        statistics = describe_text(names, corpus.train, cleaned, config.data.n_procs)
        train, valid, n_split_off, report, notes = _split(cleaned, corpus.valid, config, report)
        give_back_memory()
        epoch = weighted_segments(names, train, [e.weight for e in entries])
        tokenizers, vocabulary_note = _vocabularies(epoch, config.tokenizer, converted)
        tokenizers.save(folder / "tokenizer")
        meta, report = _encode_all(epoch, valid, n_split_off, tokenizers, config, report, folder)
        meta |= _encode_valid_sets(corpus.valid_sets, tokenizers, config, folder, meta["sha256"])
        meta["test"] = None if corpus.test is None else _keep_text(corpus.test, folder / "test.arrow")
        give_back_memory()
        statistics |= _describe_ids(epoch, valid, meta, tokenizers, config, folder)
    notes += vocabulary_note
    notes += _weights_told(config, meta["train"])
    unchecked, given = config.corpora_without_overlap(), list(_held_out(corpus))
    if given and unchecked:
        notes.append(f"clean.overlap is off for {', '.join(unchecked)}: {' and '.join(given)} text may be in training")
    shutil.rmtree(folder / "work")
    report = dataclasses.replace(report, statistics=statistics)
    meta |= {"report": report.to_dict(), "notes": notes}
    (folder / "meta.json").write_text(json.dumps(meta, ensure_ascii=False, indent=1), encoding="utf-8")


def _vocabularies(
    epoch: Sequence[Segment], config: TokenizerConfig, converted: Path | None
) -> tuple[TokenizerPair, list[str]]:
    """Learned, or those of files or another run; and a note where they do not come from all the pairs."""
    if config.from_run is not None:
        return tokenizers_of_run(config), ["vocabulary of another run (tokenizer.from_run)"]
    if converted is not None:
        names = " and ".join(config.sentencepiece)
        return TokenizerPair.load(converted), [f"vocabulary of {names}, as it was converted for the run"]
    if config.sentencepiece:
        pairs = [segment.pairs for segment in epoch]
        tokenizers, agreement = sentencepiece_vocabulary.convert(
            config, lambda side: sampled(pairs, side, _N_COMPARED // 2)
        )
        note = f"vocabulary of {' and '.join(config.sentencepiece)}: {agreement.told}"
        if agreement.differing is not None:
            sys.stderr.write(f"accel_tx: {note}\n")
        return tokenizers, [note]
    tokenizers, n_learned_from = train_tokenizers(epoch, config)
    n_epoch = sum(len(segment.pairs) * segment.times for segment in epoch)
    note = f"vocabulary learned from {n_learned_from:,} of {n_epoch:,} training pairs"
    return tokenizers, [note] if n_learned_from < n_epoch else []


def _describe_ids(
    epoch: Sequence[Segment],
    valid: datasets.Dataset,
    meta: dict[str, Any],
    tokenizers: TokenizerPair,
    config: Config,
    folder: Path,
) -> dict[str, Any]:
    texts = {"train": [segment.pairs for segment in epoch], "valid": [valid]}
    train = [(open_table(folder, segment["files"]), segment["times"]) for segment in meta["train"]]
    validation = [(open_table(folder, meta["valid"]["files"]), 1)]
    ids = {"train": TokenPairs.from_tables(train), "valid": TokenPairs.from_tables(validation)}
    return describe_tokens(texts, ids, tokenizers, config.tokenizer.kind)


def _clean(corpus: Corpus, config: Config) -> tuple[list[datasets.Dataset], CleanReport]:
    entries, languages = config.data.entries(), (config.data.src_lang, config.data.tgt_lang)
    parts = [
        Part(entry.name, pairs, entry.clean_config(config.clean), *languages)
        for entry, pairs in zip(entries, corpus.train, strict=True)
    ]
    held_out = [HeldOut.from_dataset(name, pairs) for name, pairs in _held_out(corpus).items()]
    cleaned, report = clean_pairs(parts, held_out, config.data.n_procs)
    weighed = [dataclasses.replace(p, weight=e.weight) for p, e in zip(report.parts, entries, strict=True)]
    return cleaned, dataclasses.replace(report, parts=weighed)


def _held_out(corpus: Corpus) -> dict[str, datasets.Dataset]:
    """The text that was given and that training must be clear of, by what a report calls it."""
    given = {"validation": corpus.valid, "test": corpus.test}
    found = {name: pairs for name, pairs in given.items() if pairs is not None}
    return found | {f"validation set {name}": pairs for name, pairs in corpus.valid_sets.items()}


def _drop_overlong(
    corpora: Sequence[datasets.Dataset], report: CleanReport, max_positions: int
) -> tuple[list[datasets.Dataset], CleanReport]:
    """Without what no tokenizer should have to read; a rule of its own in the report if there is any."""
    rows = [short_enough(pairs, max_positions) for pairs in corpora]
    if all(short.all() for short in rows):
        return list(corpora), report
    dropped = [pairs.select(np.flatnonzero(~short)) for pairs, short in zip(corpora, rows, strict=True)]
    kept = [select(pairs, short) for pairs, short in zip(corpora, rows, strict=True)]
    meaning = f"at most {BYTES_PER_POSITION * max_positions:,} bytes on both sides"
    report = report.with_dropped("line length", meaning, list(map(len, dropped)), _first_pairs(dropped))
    if not report.n_kept:
        raise UserError(f"no pair is left with {meaning}, {BYTES_PER_POSITION} for each of model.max_positions")
    return kept, report


def _split(
    cleaned: Sequence[datasets.Dataset], given: datasets.Dataset | None, config: Config, report: CleanReport
) -> tuple[list[datasets.Dataset], datasets.Dataset, list[int] | None, CleanReport, list[str]]:
    """Training and validation pairs, and how many of the latter each corpus gave, in the report and notes on them.

    A validation set that was given is used as it is: no corpus gave any of it (None).
    """
    if given is not None:
        return list(cleaned), given, None, report, []
    split = split_off_validation(cleaned, config.data)
    if any(map(len, split.shared)):
        meaning, counts = "source in no group that is held out", list(map(len, split.shared))
        report = report.with_dropped("shared with validation", meaning, counts, _first_pairs(split.shared))
    train, report = _drop_held_out_targets(split.train, split.valid, config, report)
    if not any(map(len, train)):
        raise UserError(
            "no pair is left to train on: every target of the others is held out too, with another source; expected "
            "more targets, validation text (data.valid_src and valid_tgt, or valid_corpus), or --clean.without overlap"
        )
    return train, split.valid, split.n_valid, report, [split.note] if split.note else []


def _drop_held_out_targets(
    train: Sequence[datasets.Dataset], valid: datasets.Dataset, config: Config, report: CleanReport
) -> tuple[list[datasets.Dataset], CleanReport]:
    """Without pairs whose target was held out with another source, where the rule `overlap` is in force."""
    rules = [entry.clean_config(config.clean).rules() for entry in config.data.entries()]
    least_bytes = [of_entry.get("overlap") for of_entry in rules]
    held_out = {least: np.unique(target_keys(valid, least)) for least in set(least_bytes) if least is not None}
    leaks = [
        np.zeros(len(pairs), bool) if least is None else _leaks(target_keys(pairs, least), held_out[least])
        for pairs, least in zip(train, least_bytes, strict=True)
    ]
    if not any(rows.any() for rows in leaks):
        return list(train), report
    dropped = [select(pairs, rows) for pairs, rows in zip(train, leaks, strict=True)]
    meaning = "no long target that is held out with another source"
    report = report.with_dropped("target held out", meaning, list(map(len, dropped)), _first_pairs(dropped))
    return [select(pairs, ~rows) for pairs, rows in zip(train, leaks, strict=True)], report


def _leaks(keys: Keys, held_out: Keys) -> Rows:
    leaks: Rows = is_among(keys, held_out) & (keys != TOO_SHORT)
    return leaks


def _first_pairs(dropped: Iterable[datasets.Dataset]) -> list[tuple[str, str]]:
    """As many as a report shows."""
    rows = (pairs[i] for pairs in dropped for i in range(min(len(pairs), N_EXAMPLES)))
    return [(row["src"], row["tgt"]) for row in islice(rows, N_EXAMPLES)]


def _encode_all(
    epoch: Sequence[Segment],
    valid: datasets.Dataset,
    n_split_off: list[int] | None,
    tokenizers: TokenizerPair,
    config: Config,
    report: CleanReport,
    folder: Path,
) -> tuple[dict[str, Any], CleanReport]:
    """Token ids of both sets on disk; pairs longer than the model's positions are dropped and counted.

    A validation set that was given (`n_split_off` is None) is used as it is, so such a pair in it is an error.
    """
    limit, n_procs = config.model.max_positions, config.data.n_procs
    if n_split_off is None:
        check_text_lengths(valid, limit, "validation")
    encoded_valid, too_long = encode(
        valid, tokenizers, folder / "valid.arrow", None if n_split_off is None else limit, n_procs, keep_text=True
    )
    validation = TokenPairs.from_tables([(open_table(folder, encoded_valid.files), 1)])
    _check_token_lengths(validation, limit, "validation")
    ends = np.cumsum([0, *(n_split_off or [])])
    n_too_long = np.diff(np.searchsorted(too_long, ends)).tolist()
    counts = Counter({part.name: n for part, n in zip(report.parts, n_too_long, strict=False)})
    dropped, train = [valid.select(too_long)], []
    for n, segment in enumerate(epoch):
        encoded, too_long = encode(segment.pairs, tokenizers, folder / f"train_{n}.arrow", limit, n_procs)
        counts[segment.corpus] += len(too_long)
        dropped.append(segment.pairs.select(too_long))
        train.append({"corpus": segment.corpus, "times": segment.times, **dataclasses.asdict(encoded)})
    for n_pairs, use in ((len(validation), "validation"), (sum(segment["n_pairs"] for segment in train), "training")):
        if not n_pairs:
            raise UserError(f"no pair for {use} is left under model.max_positions = {limit} tokens; raise it")
    meaning = f"at most {limit} tokens with EOS on both sides"
    counted = [counts[part.name] for part in report.parts]
    report = report.with_dropped("max_positions", meaning, counted, _first_pairs(dropped))
    training = TokenPairs.from_tables([(open_table(folder, segment["files"]), segment["times"]) for segment in train])
    digest = hashlib.sha256((training.sha256() + validation.sha256()).encode()).hexdigest()
    return {"sha256": digest, "train": train, "valid": dataclasses.asdict(encoded_valid)}, report


def _encode_valid_sets(
    sets: Mapping[str, datasets.Dataset], tokenizers: TokenizerPair, config: Config, folder: Path, sha256: str
) -> dict[str, Any]:
    """Further validation sets on disk as they are, and the hash `sha256` with them in it."""
    encoded, limit = {}, config.model.max_positions
    for n, (name, pairs) in enumerate(sets.items()):
        what = f"data.valid_sets {name}:"
        check_text_lengths(pairs, limit, what)
        path = folder / f"valid_set_{n}.arrow"
        found, _ = encode(pairs, tokenizers, path, None, config.data.n_procs, keep_text=True)
        encoded[name] = dataclasses.asdict(found)
        ids = TokenPairs.from_tables([(open_table(folder, found.files), 1)])
        _check_token_lengths(ids, limit, what)
        sha256 = hashlib.sha256(f"{sha256} {name} {ids.sha256()}".encode()).hexdigest()
    return {"sha256": sha256, "valid_sets": encoded}


def _keep_text(pairs: datasets.Dataset, path: Path) -> dict[str, Any]:
    """Sources and targets on disk as they are; an `Encoded` without ids."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, _TEXT) as writer:
        for batch in arrow_batches(pairs):
            writer.write_table(batch.select(_TEXT.names).cast(_TEXT))
    return {"files": [path.name], "n_pairs": len(pairs)}


def _check_token_lengths(pairs: TokenPairs, limit: int, what: str) -> None:
    longest = np.maximum(pairs.src_lengths, pairs.tgt_lengths)
    if len(longest) and longest.max() > limit:
        raise UserError(
            f"{what} pair {int(longest.argmax()) + 1} has {longest.max()} tokens; expected at most "
            f"model.max_positions = {limit}: raise it, or take the pair out"
        )


def _weights_told(config: Config, train: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each corpus where there are several, or where one is weighted."""
    entries = config.data.entries()
    if len(entries) == 1 and entries[0].weight == 1:
        return []
    lines = []
    for entry in entries:
        own = [segment for segment in train if segment["corpus"] == entry.name]
        n_pairs = sum(segment["n_pairs"] for segment in own)
        n_epoch = sum(segment["n_pairs"] * segment["times"] for segment in own)
        lines.append(f"{entry.name}, weight {entry.weight:g}: {n_pairs:,} training pairs, {n_epoch:,} in an epoch")
    return lines
