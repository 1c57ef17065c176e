"""Where the text of a config lies: the embedded phrasebook, files, folders and the Hub, found but not yet read."""

from __future__ import annotations

import dataclasses
import errno
import functools
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import pyarrow as pa

from accel_tx.config import CorpusEntry, DataConfig, UserError
from accel_tx.data import readers
from accel_tx.data.hub import HubDataset, has_hub_header

STEMS = {"train": ("train",), "validation": ("valid", "val", "validation", "dev"), "test": ("test",)}
"""How a split may be called: a file in a folder, or a split in the Hub's layout."""
_FORMS = ".tsv .csv .jsonl .json (each also .gz) or .parquet"


@dataclass(frozen=True)
class Source:
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


@dataclass(frozen=True)
class Sources:
    """What is found before anything is read."""

    train: tuple[Source, ...]
    valid: tuple[Source, ...]
    """All that the corpora bring, or the one that is given on its own."""
    test: tuple[Source, ...]
    """Likewise."""
    valid_sets: dict[str, Source]


def find_sources(config: DataConfig) -> Sources:
    """All splits; validation or test text given on its own goes before that of the corpora."""
    columns = readers.Columns(config.src_lang, config.tgt_lang)
    with_group = dataclasses.replace(columns, group=config.group_column)
    valid: list[Source | None] = []
    test: list[Source | None] = []
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
    return Sources(tuple(train), held_out[0], held_out[1], more)


def _find_corpus(
    key: str, entry: CorpusEntry, config: DataConfig, columns: readers.Columns
) -> tuple[Source, Source | None, Source | None]:
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
    _check_may_be_hub_id(where, entry.corpus)
    hub = HubDataset(key, entry.corpus, entry.subset, None, config.streaming)
    return _hub_splits(hub, columns, plain)


def _check_may_be_hub_id(where: str, given: str) -> None:
    """Raise UserError for what is no file or folder here and looks like one: nobody has to be asked over the network.

    `data/` begins the paths of our configs. A folder of the owner's name is here by chance more rarely than the rest of
    a path is mistyped.
    """
    first = given.partition("/")[0]
    beside_folder = "/" in given and os.path.isdir(first)
    suffixes = (*readers.READERS, ".gz", ".txt")
    if (
        given.startswith((".", "/", "~"))
        or first == "data"
        or given.count("/") > 1
        or given.endswith(("/", *suffixes))
        or beside_folder
    ):
        hub = (
            f"; a dataset of the Hub with this name is found where there is no folder {first}" if beside_folder else ""
        )
        give = "; give it with --data.corpus" if where.startswith("data.corpus ") else ""
        raise UserError(f"{where}: no such file or folder; expected {_FORMS}, or a folder of these{give}{hub}")


def _find_split(key: str, given: str, split: str, config: DataConfig, columns: readers.Columns) -> Source:
    """A file, or one split of a folder."""
    path = _path(f"{key} {given}", given)
    if not path.is_dir():
        return _one_file(f"{key} {given}", path, columns)
    if has_hub_header(path):
        return _hub_split(HubDataset(key, str(path), config.subset, path, config.streaming), split, columns)
    return _split_in_folder(path, split, columns) or _nothing_usable(f"{key} {given}", path, split, columns)


def _hub_splits(
    hub: HubDataset, columns: readers.Columns, plain: readers.Columns
) -> tuple[Source, Source | None, Source | None]:
    return _hub_split(hub, "train", columns), _hub_split(hub, "validation", plain), _hub_split(hub, "test", plain)


def _hub_split(hub: HubDataset, split: str, columns: readers.Columns) -> Source:
    """One split, which may turn out not to exist."""
    names = split, *(stem for stem in STEMS[split] if stem != split)
    batches = functools.partial(hub.batches, names, columns)
    return Source(hub.shown, f"{hub.identity} {split}", hub.files, columns, batches)


def _phrasebook(
    split: Literal["train", "validation"], n_pairs: int, config: DataConfig, columns: readers.Columns
) -> Source:
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
    return Source("phrasebook", f"phrasebook {split} {n_pairs} {seed} {grammar.hexdigest()}", (), columns, batches)


def _line_files(key: str, src: str, tgt: str, columns: readers.Columns) -> Source:
    paths = []
    for side, given in (("src", src), ("tgt", tgt)):
        where = f"data.{key}{side} {given}"
        paths.append(_path(where, given))
        _check_is_file(where, paths[-1], "plain text, one sentence a line, also .gz")
    return _plain_pair(paths[0], paths[1], columns)


def _path(where: str, given: str) -> Path:
    """The path that was given, which need not exist; a UserError for one that the system does not let us look at."""
    try:
        given.encode()  # reports and the cache name it
        path = Path(given).expanduser()
        if path.is_dir() and not os.access(path, os.R_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except UnicodeEncodeError:
        raise UserError(f"{where}: its name is not UTF-8; rename it, or give a link to it") from None
    except RuntimeError:  # of expanduser
        raise UserError(f"{where}: no such user; expected an absolute path, or ~/ for your own home") from None
    except OSError as error:
        raise UserError(f"{where}: cannot be read ({error.strerror}); expected a readable file or folder") from None
    return path


def _plain_pair(src: Path, tgt: Path, columns: readers.Columns) -> Source:
    shown = f"{src} and {tgt}"
    if columns.group:
        raise UserError(f"data.group_column {columns.group}: {shown} have no columns; expected {_FORMS}")
    return Source(shown, "lines", (src, tgt), columns, lambda _: readers.read_line_files(src, tgt))


def _one_file(where: str, path: Path, columns: readers.Columns) -> Source:
    _check_is_file(where, path, f"{_FORMS}, or a folder of these")
    reader = next((readers.READERS[suffix] for suffix in readers.READERS if path.name.endswith(suffix)), None)
    if reader is None:
        raise UserError(
            f"{where}: unknown kind of file; expected {_FORMS}; "
            "two plain text files go into data.train_src and data.train_tgt (valid_src, valid_tgt; test_src, test_tgt)"
        )
    return Source(str(path), "pairs", (path,), columns, lambda _: reader(path, columns))


def _check_is_file(where: str, path: Path, expected: str) -> None:
    if not path.is_file():
        found = "is not a file" if path.exists() else "no such file"
        raise UserError(f"{where}: {found}; expected {expected}")


def _split_in_folder(folder: Path, split: str, columns: readers.Columns) -> Source | None:
    """The one file, or pair of plain files, that holds a split.

    Names count as a whole: `train.lc.en.gz` is not `train.en.gz`.
    """
    names = {path.name for path in folder.iterdir() if path.is_file()}
    choices: list[tuple[str, ...]] = []
    for stem in STEMS[split]:
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


def _nothing_usable(where: str, folder: Path, split: str, columns: readers.Columns) -> Source:
    names = sorted(path.name for path in folder.iterdir())
    found = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    stem = "|".join(STEMS[split])
    raise UserError(
        f"{where}: holds {found or 'nothing'}; looked for {stem} with {_FORMS}, for {stem}.{columns.src_lang} + "
        f"{stem}.{columns.tgt_lang} (each also .gz), and for a README.md with `configs:` in its YAML header"
    )
