"""Which files the text that a config names is read from, and whether they have changed. Starts without `datasets`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from accel_tx.config import DataConfig
from accel_tx.data.sources import Source, find_sources


def input_fingerprint(config: DataConfig) -> str:
    """A hex digest that changes whenever the input does, without reading it: files by path, size and time.

    A dataset of the Hub goes by its id and subset alone.
    Raises: UserError as `load_corpus` does for input that is not there.
    """
    sources = find_sources(config)
    parts: list[object] = [config.src_lang, config.tgt_lang, config.group_column]
    for split in (sources.train, sources.valid, sources.test):
        parts.append([_identity(source) for source in split])
    parts += [[name, _identity(source)] for name, source in sources.valid_sets.items()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def input_files(config: DataConfig) -> list[Path]:
    """All local files that the input is read from. Raises: UserError as `input_fingerprint`."""
    found = find_sources(config)
    sources = [*found.train, *found.valid, *found.test, *found.valid_sets.values()]
    return [file for source in sources for file in source.files]


def _identity(source: Source) -> list[object]:
    stats = [(file.resolve(), file.stat()) for file in source.files]
    return [source.identity, [(str(path), s.st_size, s.st_mtime_ns) for path, s in stats]]
