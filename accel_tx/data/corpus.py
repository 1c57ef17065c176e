"""Parallel text in: the embedded phrasebook, files, folders and the Hub, all as two memory-mapped text columns."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import datasets
import pyarrow as pa
import yaml

from accel_tx.config import DataConfig, UserError
from accel_tx.data import readers

_VALID_STEMS = ("valid", "val", "validation", "dev")
_FORMS = ".tsv .csv .jsonl .json (each also .gz) or .parquet"


@dataclass(frozen=True)
class Corpus:
    """Pairs as read, neither cleaned nor split."""

    train: datasets.Dataset
    """Columns `src` and `tgt`, in the order of the input."""
    valid: datasets.Dataset | None
    """None where the corpus brings none."""


@dataclass(frozen=True)
class _Source:
    """One split that is found but not yet read."""

    shown: str
    """What the user gave, for messages."""
    identity: str
    """What decides the pairs apart from the content of `files`."""
    files: tuple[Path, ...]
    """All local files that are read."""
    batches: Callable[[Path], Iterator[pa.RecordBatch] | None]
    """Reads the split, given a work folder; None if only loading could tell that there is no such split."""


def load_corpus(config: DataConfig, work_dir: Path) -> Corpus:
    """Read what `config` names into Arrow files below `work_dir` and map them into memory.

    Raises: UserError that names the file and the line or row where the input is not as expected.
    """
    work_dir.mkdir(parents=True, exist_ok=True)
    train_source, valid_source = _find_sources(config)
    train = _map_into_memory(train_source, work_dir, "train")
    if train is None:
        raise UserError(f"{train_source.shown}: has no split train; expected one, and validation where there is one")
    valid = _map_into_memory(valid_source, work_dir, "valid") if valid_source else None
    if valid is None and config.valid_corpus:
        raise UserError(f"data.valid_corpus {config.valid_corpus}: has no split validation; expected one")
    return Corpus(train, valid)


def input_fingerprint(config: DataConfig) -> str:
    """A hex digest that changes whenever the input does, without reading it: files by path, size and time.

    A dataset of the Hub goes by its id and subset alone.
    Raises: UserError as `load_corpus` does for input that is not there.
    """
    parts: list[object] = [config.src_lang, config.tgt_lang]
    for source in _find_sources(config):
        stats = [(file.resolve(), file.stat()) for file in source.files] if source else []
        parts.append(source and [source.identity, [(str(path), s.st_size, s.st_mtime_ns) for path, s in stats]])
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@contextlib.contextmanager
def progress_on_terminal_only() -> Iterator[None]:
    """Inside, `datasets` draws progress bars only if stderr is a terminal."""
    silence = not sys.stderr.isatty() and not datasets.are_progress_bars_disabled()
    if silence:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if silence:
            datasets.enable_progress_bars()


def _map_into_memory(source: _Source, work_dir: Path, split: str) -> datasets.Dataset | None:
    batches = source.batches(work_dir)
    if batches is None:
        return None
    path = work_dir / f"{split}.arrow"
    # Written beside and renamed: an earlier dataset may still be mapped from `path`.
    part = work_dir / f"{split}.{os.getpid()}.part"
    n_pairs = 0
    try:
        with pa.OSFile(str(part), "wb") as sink, pa.ipc.new_stream(sink, readers.SCHEMA) as writer:
            for batch in batches:
                writer.write_batch(batch)
                n_pairs += batch.num_rows
        if n_pairs == 0:
            raise UserError(f"{source.shown}: holds no pairs; expected at least one")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return datasets.Dataset.from_file(str(path))


def _find_sources(config: DataConfig) -> tuple[_Source, _Source | None]:
    """The training and the validation split; a validation set given on its own goes before the corpus's."""
    if config.train_src and config.train_tgt:
        train, valid = _line_files("data.train_src", config.train_src, "data.train_tgt", config.train_tgt), None
    else:
        train, valid = _find_corpus(config)
    if config.valid_src and config.valid_tgt:
        valid = _line_files("data.valid_src", config.valid_src, "data.valid_tgt", config.valid_tgt)
    elif config.valid_corpus:
        valid = _find_valid_corpus(config, config.valid_corpus)
    return train, valid


def _find_corpus(config: DataConfig) -> tuple[_Source, _Source | None]:
    if config.corpus == "phrasebook":
        return (
            _phrasebook("train", config.phrasebook_train_pairs, config),
            _phrasebook("validation", config.phrasebook_valid_pairs, config),
        )
    path = Path(config.corpus).expanduser()
    if path.is_dir():
        if config.subset is not None or _has_hub_header(path):
            return _with_datasets(str(path), config, folder=path)
        train = _split_in_folder(path, ("train",), config)
        return train or _nothing_usable("data.corpus", path, ("train",), config), _split_in_folder(
            path, _VALID_STEMS, config
        )
    if path.exists():
        return _one_file("data.corpus", path, config), None
    suffixes = (*readers.READERS, ".gz", ".txt")
    if config.corpus.startswith((".", "/", "~")) or config.corpus.count("/") > 1 or path.name.endswith(suffixes):
        raise UserError(f"data.corpus {config.corpus}: no such file or folder; expected {_FORMS}, or a folder of these")
    return _with_datasets(config.corpus, config, folder=None)


def _find_valid_corpus(config: DataConfig, given: str) -> _Source:
    path = Path(given).expanduser()
    if not path.is_dir():
        return _one_file("data.valid_corpus", path, config)
    if _has_hub_header(path):
        return _with_datasets(str(path), config, folder=path)[1]
    valid = _split_in_folder(path, _VALID_STEMS, config)
    return valid or _nothing_usable("data.valid_corpus", path, _VALID_STEMS, config)


def _phrasebook(split: Literal["train", "validation"], n_pairs: int, config: DataConfig) -> _Source:
    languages, seed = (config.src_lang, config.tgt_lang), config.phrasebook_seed
    if set(languages) != {"en", "fr"}:
        raise UserError(
            f"data.corpus phrasebook: data.src_lang is {languages[0]} and data.tgt_lang {languages[1]}; "
            "expected en and fr, the languages that it has, in either order"
        )

    def batches(_: Path) -> Iterator[pa.RecordBatch]:
        from accel_tx.data.phrasebook import iter_pairs

        pairs = iter(iter_pairs(split, n_pairs, seed))
        while rows := list(islice(pairs, readers.ROWS_PER_BATCH)):
            en, fr = zip(*rows, strict=True)
            yield readers.pair_batch(en, fr) if languages[0] == "en" else readers.pair_batch(fr, en)

    # By content, not by time: a fresh checkout of the same grammar writes the same pairs.
    grammar = hashlib.sha256()
    for file in sorted(Path(__file__).with_name("phrasebook").glob("*.py")):
        grammar.update(file.read_bytes())
    return _Source("phrasebook", f"phrasebook {split} {n_pairs} {seed} {grammar.hexdigest()}", (), batches)


def _line_files(src_key: str, src: str, tgt_key: str, tgt: str) -> _Source:
    paths = Path(src).expanduser(), Path(tgt).expanduser()
    for key, path in zip((src_key, tgt_key), paths, strict=True):
        _check_is_file(key, path, "plain text, one sentence a line, also .gz")
    return _plain_pair(*paths)


def _plain_pair(src: Path, tgt: Path) -> _Source:
    return _Source(f"{src} and {tgt}", "lines", (src, tgt), lambda _: readers.read_line_files(src, tgt))


def _one_file(key: str, path: Path, config: DataConfig) -> _Source:
    _check_is_file(key, path, f"{_FORMS}, or a folder of these")
    reader = next((readers.READERS[suffix] for suffix in readers.READERS if path.name.endswith(suffix)), None)
    if reader is None:
        raise UserError(
            f"{key} {path}: unknown kind of file; expected {_FORMS}; "
            "two plain text files go into data.train_src and data.train_tgt (data.valid_src, data.valid_tgt)"
        )
    return _Source(str(path), "pairs", (path,), lambda _: reader(path, config.src_lang, config.tgt_lang))


def _check_is_file(key: str, path: Path, expected: str) -> None:
    if not path.is_file():
        found = "is not a file" if path.exists() else "no such file"
        raise UserError(f"{key} {path}: {found}; expected {expected}")


def _split_in_folder(folder: Path, stems: tuple[str, ...], config: DataConfig) -> _Source | None:
    """The one file, or pair of plain files, that holds a split.

    Names count as a whole: `train.lc.en.gz` is not `train.en.gz`.
    """
    names = {path.name for path in folder.iterdir() if path.is_file()}
    choices: list[tuple[str, ...]] = []
    for stem in stems:
        choices += [(f"{stem}{suffix}",) for suffix in readers.READERS if f"{stem}{suffix}" in names]
        src, tgt = (
            [name for name in (f"{stem}.{lang}", f"{stem}.{lang}.gz") if name in names]
            for lang in (config.src_lang, config.tgt_lang)
        )
        if bool(src) != bool(tgt):
            missing = config.tgt_lang if src else config.src_lang
            raise UserError(
                f"{folder}: has {(src or tgt)[0]} but no {stem}.{missing} or {stem}.{missing}.gz; add or move it"
            )
        choices += [(s, t) for s in src for t in tgt]
    if len(choices) > 1:
        listed = ", ".join(" + ".join(choice) for choice in choices)
        raise UserError(f"{folder}: {listed} could all be meant; expected one of them, name it or move the others away")
    if not choices:
        return None
    paths = [folder / name for name in choices[0]]
    return _plain_pair(*paths) if len(paths) == 2 else _one_file(str(folder), paths[0], config)


def _nothing_usable(key: str, folder: Path, stems: tuple[str, ...], config: DataConfig) -> _Source:
    names = sorted(path.name for path in folder.iterdir())
    found = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    stem = "|".join(stems)
    raise UserError(
        f"{key} {folder}: holds {found or 'nothing'}; looked for {stem} with {_FORMS}, for {stem}.{config.src_lang} + "
        f"{stem}.{config.tgt_lang} (each also .gz), and for a README.md with `configs:` in its YAML header"
    )


def _has_hub_header(folder: Path) -> bool:
    readme = folder / "README.md"
    if not readme.is_file():
        return False
    text = readme.read_text(encoding="utf-8", errors="replace")
    if not text.startswith("---\n"):
        return False
    try:
        header = yaml.safe_load(text[4:].split("\n---", 1)[0])
    except yaml.YAMLError as error:
        raise UserError(
            f"{readme}: its header is not valid YAML ({readers.one_line(error)}); mend or remove it"
        ) from None
    return isinstance(header, dict) and "configs" in header


def _with_datasets(name: str, config: DataConfig, folder: Path | None) -> tuple[_Source, _Source]:
    """The splits of a dataset in the Hub's layout: a local folder, or an id for `datasets` to fetch."""
    shown = name if config.subset is None else f"{name}, subset {config.subset}"

    @functools.cache
    def load(work_dir: Path) -> datasets.DatasetDict:
        # A folder's Arrow copy goes below work_dir; a download stays in the Hub's own cache, for other projects too.
        cache_dir = work_dir / "datasets" if folder else None
        if cache_dir:
            # An older copy there could pass for the folder's present content.
            shutil.rmtree(cache_dir, ignore_errors=True)
        try:
            with progress_on_terminal_only():
                return datasets.load_dataset(name, name=config.subset, cache_dir=cache_dir and str(cache_dir))
        except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
            task = "read this folder" if folder else "get it from the Hub"
            raise UserError(
                f"data.corpus {shown}: datasets.load_dataset could not {task} "
                f"({type(error).__name__}: {readers.one_line(error)}); check the name, data.subset and the network, "
                "or give a local folder or file, or phrasebook"
            ) from None

    def batches(split: str, work_dir: Path) -> Iterator[pa.RecordBatch] | None:
        loaded = load(work_dir)
        if split not in loaded:
            return None
        data = loaded[split]
        tables = data.with_format("arrow").iter(batch_size=readers.ROWS_PER_BATCH)
        record_batches = (batch for table in tables for batch in table.to_batches())
        where = f"{shown}, split {split}"
        return readers.read_arrow(record_batches, data.features.arrow_schema, where, config.src_lang, config.tgt_lang)

    files = tuple(sorted(f for f in folder.rglob("*") if f.is_file() and f.name[0] != ".")) if folder else ()
    identity = json.dumps(["datasets", "" if folder else name, config.subset])
    return (
        _Source(shown, f"{identity} train", files, functools.partial(batches, "train")),
        _Source(shown, f"{identity} validation", files, functools.partial(batches, "validation")),
    )
