"""Parallel text in: all that a config names, as memory-mapped text columns."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import pyarrow as pa

from accel_tx.config import DataConfig, UserError
from accel_tx.data.sources import STEMS, Source, find_sources


@dataclass(frozen=True)
class Corpus:
    """Pairs as read, neither cleaned nor split: columns `src` and `tgt`, in the order of the input."""

    train: tuple[datasets.Dataset, ...]
    """One for each of `DataConfig.entries()`; with a column `group` where `data.group_column` is set."""
    valid: datasets.Dataset | None
    """None where the corpora bring none."""
    test: datasets.Dataset | None
    """None where none is given and the corpora bring none."""
    valid_sets: dict[str, datasets.Dataset]
    """Further validation sets by name."""


def load_corpus(config: DataConfig, work_dir: Path) -> Corpus:
    """Read what `config` names into Arrow files below `work_dir` and map them into memory.

    Raises: UserError that names the file and the line or row where the input is not as expected.
    """
    work_dir.mkdir(parents=True, exist_ok=True)
    sources = find_sources(config)
    train = []
    for n, source in enumerate(sources.train):
        pairs = _map_into_memory(source, work_dir, f"train_{n}" if n else "train")
        if pairs is None:
            raise UserError(f"{source.shown}: has no split train; expected one, and validation where there is one")
        train.append(pairs)
    valid = _map_held_out(sources.valid, work_dir, "valid")
    if valid is None and config.valid_corpus:
        raise _no_split(f"data.valid_corpus {config.valid_corpus}", "validation")
    test = _map_held_out(sources.test, work_dir, "test")
    if test is None and config.test_corpus:
        raise _no_split(f"data.test_corpus {config.test_corpus}", "test")
    more = {}
    for n, (name, source) in enumerate(sources.valid_sets.items()):
        pairs = _map_into_memory(source, work_dir, f"valid_set_{n}")
        if pairs is None:
            raise _no_split(f"data.valid_sets {name} {source.shown}", "validation")
        more[name] = pairs
    return Corpus(tuple(train), valid, test, more)


def _no_split(where: str, split: str) -> UserError:
    return UserError(f"{where}: has no split {'|'.join(STEMS[split])}; expected one")


def _map_into_memory(source: Source, work_dir: Path, split: str) -> datasets.Dataset | None:
    batches = source.batches(work_dir)
    if batches is None:
        return None
    path = work_dir / f"{split}.arrow"
    # Written beside and renamed: an earlier dataset may still be mapped from `path`.
    part = work_dir / f"{split}.{os.getpid()}.part"
    n_pairs = 0
    try:
        with pa.OSFile(str(part), "wb") as sink, pa.ipc.new_stream(sink, source.columns.schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
                n_pairs += batch.num_rows
        if n_pairs == 0:
            raise UserError(f"{source.shown}: holds no pairs; expected at least one")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return datasets.Dataset.from_file(str(path))


def _map_held_out(sources: Sequence[Source], work_dir: Path, split: str) -> datasets.Dataset | None:
    """All that there is of a split, end to end; None if it turns out that there is nothing."""
    names = [f"{split}_{n}" if n else split for n in range(len(sources))]
    loaded = [_map_into_memory(source, work_dir, name) for source, name in zip(sources, names, strict=True)]
    found = [pairs for pairs in loaded if pairs is not None]
    return datasets.concatenate_datasets(found) if found else None
