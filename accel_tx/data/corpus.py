"""Parallel text in: the embedded phrasebook, files, folders and the Hub, all as two memory-mapped text columns."""

from __future__ import annotations

import dataclasses
import errno
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import datasets
import pyarrow as pa

from accel_tx.config import CorpusEntry, DataConfig, UserError
from accel_tx.data import readers
from accel_tx.data.hub import HubDataset, has_hub_header

_STEMS = {"train": ("train",), "validation": ("valid", "val", "validation", "dev"), "test": ("test",)}
"""How a split may be called: a file in a folder, or a split in the Hub's layout."""
_FORMS = ".tsv .csv .jsonl .json (each also .gz) or .parquet"


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


@dataclass(frozen=True)
class _Sources:
    """What is found before anything is read."""

    train: tuple[_Source, ...]
    valid: tuple[_Source, ...]
    """All that the corpora bring, or the one that is given on its own."""
    test: tuple[_Source, ...]
    """Likewise."""
    valid_sets: dict[str, _Source]


@dataclass(frozen=True)
class _Source:
    """One split that is found but not yet read."""

    shown: str
    """What the user gave, for messages."""
    identity: str
    """What decides the pairs apart from the content of `files`."""
    files: tuple[Path, ...]
    """All local files that are read."""
    columns: readers.Columns
    batches: Callable[[Path], Iterator[pa.RecordBatch] | None]
    """Reads the split, given a work folder; None if only loading could tell that there is no such split."""


def load_corpus(config: DataConfig, work_dir: Path) -> Corpus:
    """Read what `config` names into Arrow files below `work_dir` and map them into memory.

    Raises: UserError that names the file and the line or row where the input is not as expected.
    """
    work_dir.mkdir(parents=True, exist_ok=True)
    sources = _find_sources(config)
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
    return UserError(f"{where}: has no split {'|'.join(_STEMS[split])}; expected one")


def input_fingerprint(config: DataConfig) -> str:
    """A hex digest that changes whenever the input does, without reading it: files by path, size and time.

    A dataset of the Hub goes by its id and subset alone.
    Raises: UserError as `load_corpus` does for input that is not there.
    """
    sources = _find_sources(config)
    parts: list[object] = [config.src_lang, config.tgt_lang, config.group_column]
    for split in (sources.train, sources.valid, sources.test):
        parts.append([_identity(source) for source in split])
    parts += [[name, _identity(source)] for name, source in sources.valid_sets.items()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def input_files(config: DataConfig) -> list[Path]:
    """All local files that the input is read from. Raises: UserError as `input_fingerprint`."""
    found = _find_sources(config)
    sources = [*found.train, *found.valid, *found.test, *found.valid_sets.values()]
    return [file for source in sources for file in source.files]


def _identity(source: _Source) -> list[object]:
    stats = [(file.resolve(), file.stat()) for file in source.files]
    return [source.identity, [(str(path), s.st_size, s.st_mtime_ns) for path, s in stats]]


def _map_into_memory(source: _Source, work_dir: Path, split: str) -> datasets.Dataset | None:
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


def _map_held_out(sources: Sequence[_Source], work_dir: Path, split: str) -> datasets.Dataset | None:
    """All that there is of a split, end to end; None if it turns out that there is nothing."""
    names = [f"{split}_{n}" if n else split for n in range(len(sources))]
    loaded = [_map_into_memory(source, work_dir, name) for source, name in zip(sources, names, strict=True)]
    found = [pairs for pairs in loaded if pairs is not None]
    return datasets.concatenate_datasets(found) if found else None


def _find_sources(config: DataConfig) -> _Sources:
    """All splits; validation or test text given on its own goes before that of the corpora."""
    columns = readers.Columns(config.src_lang, config.tgt_lang)
    with_group = dataclasses.replace(columns, group=config.group_column)
    valid: list[_Source | None] = []
    test: list[_Source | None] = []
    if config.train_src and config.train_tgt:
        train = [_line_files("train_", config.train_src, config.train_tgt, with_group)]
    else:
        key = "data.corpora" if config.corpora else "data.corpus"
        found = [_find_corpus(key, entry, config, with_group) for entry in config.entries()]
        train, valid, test = (list(splits) for splits in zip(*found, strict=True))
    if config.valid_src and config.valid_tgt:
        valid = [_line_files("valid_", config.valid_src, config.valid_tgt, columns)]
    elif config.valid_corpus:
        valid = [_find_split("data.valid_corpus", config.valid_corpus, "validation", config, columns)]
    if config.test_src and config.test_tgt:
        test = [_line_files("test_", config.test_src, config.test_tgt, columns)]
    elif config.test_corpus:
        test = [_find_split("data.test_corpus", config.test_corpus, "test", config, columns)]
    more = {}
    for entry in config.valid_set_entries():
        key = f"data.valid_sets {entry.name}"
        if entry.corpus:
            more[entry.name] = _find_split(key, entry.corpus, "validation", config, columns)
        elif entry.src and entry.tgt:
            more[entry.name] = _line_files(f"valid_sets {entry.name}: ", entry.src, entry.tgt, columns)
    held_out = [tuple(source for source in split if source) for split in (valid, test)]
    return _Sources(tuple(train), held_out[0], held_out[1], more)


def _find_corpus(
    key: str, entry: CorpusEntry, config: DataConfig, columns: readers.Columns
) -> tuple[_Source, _Source | None, _Source | None]:
    """The training split of a corpus, and the validation and the test split if there could be one."""
    plain = dataclasses.replace(columns, group=None)
    if entry.corpus == "phrasebook":
        return (
            _phrasebook("train", config.phrasebook_train_pairs, config, columns),
            _phrasebook("validation", config.phrasebook_valid_pairs, config, plain),
            None,
        )
    where = f"{key} {entry.corpus}"
    path = _path(where, entry.corpus)
    if path.is_dir():
        if entry.subset is not None or has_hub_header(path):
            hub = HubDataset(key, str(path), entry.subset, path, config.streaming)
            return _hub_splits(hub, columns, plain)
        train = _split_in_folder(path, "train", columns) or _nothing_usable(where, path, "train", columns)
        return train, _split_in_folder(path, "validation", plain), _split_in_folder(path, "test", plain)
    if path.exists():
        return _one_file(where, path, columns), None, None
    suffixes = (*readers.READERS, ".gz", ".txt")
    if entry.corpus.startswith((".", "/", "~")) or entry.corpus.count("/") > 1 or path.name.endswith(suffixes):
        raise UserError(f"{where}: no such file or folder; expected {_FORMS}, or a folder of these")
    hub = HubDataset(key, entry.corpus, entry.subset, None, config.streaming)
    return _hub_splits(hub, columns, plain)


def _find_split(key: str, given: str, split: str, config: DataConfig, columns: readers.Columns) -> _Source:
    """A file, or one split of a folder."""
    path = _path(f"{key} {given}", given)
    if not path.is_dir():
        return _one_file(f"{key} {given}", path, columns)
    if has_hub_header(path):
        return _hub_split(HubDataset(key, str(path), config.subset, path, config.streaming), split, columns)
    return _split_in_folder(path, split, columns) or _nothing_usable(f"{key} {given}", path, split, columns)


def _hub_splits(
    hub: HubDataset, columns: readers.Columns, plain: readers.Columns
) -> tuple[_Source, _Source | None, _Source | None]:
    return _hub_split(hub, "train", columns), _hub_split(hub, "validation", plain), _hub_split(hub, "test", plain)


def _hub_split(hub: HubDataset, split: str, columns: readers.Columns) -> _Source:
    """One split, which may turn out not to exist."""
    names = split, *(stem for stem in _STEMS[split] if stem != split)
    batches = functools.partial(hub.batches, names, columns)
    return _Source(hub.shown, f"{hub.identity} {split}", hub.files, columns, batches)


def _phrasebook(
    split: Literal["train", "validation"], n_pairs: int, config: DataConfig, columns: readers.Columns
) -> _Source:
    languages, seed = (config.src_lang, config.tgt_lang), config.phrasebook_seed
    if set(languages) != {"en", "fr"}:
        raise UserError(
            f"data.corpus phrasebook: data.src_lang is {languages[0]} and data.tgt_lang {languages[1]}; "
            "expected en and fr, the languages that it has, in either order"
        )

    if columns.group:
        raise UserError(f"data.group_column {columns.group}: the phrasebook has no such column; leave it out")

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
    return _Source("phrasebook", f"phrasebook {split} {n_pairs} {seed} {grammar.hexdigest()}", (), columns, batches)


def _line_files(key: str, src: str, tgt: str, columns: readers.Columns) -> _Source:
    paths = []
    for side, given in (("src", src), ("tgt", tgt)):
        where = f"data.{key}{side} {given}"
        paths.append(_path(where, given))
        _check_is_file(where, paths[-1], "plain text, one sentence a line, also .gz")
    return _plain_pair(paths[0], paths[1], columns)


def _path(where: str, given: str) -> Path:
    """The path that was given, which need not exist; a UserError for one that the system does not let us look at."""
    try:
        path = Path(given).expanduser()
        if path.is_dir() and not os.access(path, os.R_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except RuntimeError:  # of expanduser
        raise UserError(f"{where}: no such user; expected an absolute path, or ~/ for your own home") from None
    except OSError as error:
        raise UserError(f"{where}: cannot be read ({error.strerror}); expected a readable file or folder") from None
    return path


def _plain_pair(src: Path, tgt: Path, columns: readers.Columns) -> _Source:
    shown = f"{src} and {tgt}"
    if columns.group:
        raise UserError(f"data.group_column {columns.group}: {shown} have no columns; expected {_FORMS}")
    return _Source(shown, "lines", (src, tgt), columns, lambda _: readers.read_line_files(src, tgt))


def _one_file(where: str, path: Path, columns: readers.Columns) -> _Source:
    _check_is_file(where, path, f"{_FORMS}, or a folder of these")
    reader = next((readers.READERS[suffix] for suffix in readers.READERS if path.name.endswith(suffix)), None)
    if reader is None:
        raise UserError(
            f"{where}: unknown kind of file; expected {_FORMS}; "
            "two plain text files go into data.train_src and data.train_tgt (valid_src, valid_tgt; test_src, test_tgt)"
        )
    return _Source(str(path), "pairs", (path,), columns, lambda _: reader(path, columns))


def _check_is_file(where: str, path: Path, expected: str) -> None:
    if not path.is_file():
        found = "is not a file" if path.exists() else "no such file"
        raise UserError(f"{where}: {found}; expected {expected}")


def _split_in_folder(folder: Path, split: str, columns: readers.Columns) -> _Source | None:
    """The one file, or pair of plain files, that holds a split.

    Names count as a whole: `train.lc.en.gz` is not `train.en.gz`.
    """
    names = {path.name for path in folder.iterdir() if path.is_file()}
    choices: list[tuple[str, ...]] = []
    for stem in _STEMS[split]:
        choices += [(f"{stem}{suffix}",) for suffix in readers.READERS if f"{stem}{suffix}" in names]
        src, tgt = (
            [name for name in (f"{stem}.{lang}", f"{stem}.{lang}.gz") if name in names]
            for lang in (columns.src_lang, columns.tgt_lang)
        )
        if bool(src) != bool(tgt):
            missing = columns.tgt_lang if src else columns.src_lang
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
    return _plain_pair(paths[0], paths[1], columns) if len(paths) == 2 else _one_file(str(paths[0]), paths[0], columns)


def _nothing_usable(where: str, folder: Path, split: str, columns: readers.Columns) -> _Source:
    names = sorted(path.name for path in folder.iterdir())
    found = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    stem = "|".join(_STEMS[split])
    raise UserError(
        f"{where}: holds {found or 'nothing'}; looked for {stem} with {_FORMS}, for {stem}.{columns.src_lang} + "
        f"{stem}.{columns.tgt_lang} (each also .gz), and for a README.md with `configs:` in its YAML header"
    )
