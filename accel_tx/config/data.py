"""Section `data`: where the pairs come from."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, get_args, get_type_hints

from accel_tx.config.checks import all_usable, at_least, both_or_none, exactly_one, in_range, nearest_of
from accel_tx.config.clean import PRESETS, CleanConfig
from accel_tx.config.errors import UserError

_LARGEST_WEIGHT = 1000
_EXPECTED = {bool: "true or false", int: "a whole number", float: "a number"}


@dataclass(frozen=True)
class DataConfig:
    """Where the pairs come from."""

    corpus: str = "phrasebook"
    """`phrasebook`, a folder, a file (.tsv .csv .jsonl .parquet, also .gz), or a dataset id of the Hub."""
    subset: str | None = None
    """Name of the configuration inside a Hub dataset, such as `en-fr`."""
    corpora: list[dict[str, Any]] = field(default_factory=list)
    """Several corpora in place of `corpus`, mixed by weight: a list of {name, corpus, subset, weight, clean}."""
    streaming: bool = False
    """Read a Hub dataset row by row as it arrives: neither the download nor its Arrow copy is kept on disk."""
    both_directions: bool = False
    """Train on every pair in both directions, to begin another run with the weights; validation stays as it is."""
    src_lang: str = "en"
    """Source language: the name of its column, of its key in `translation`, or of its plain text file's suffix."""
    tgt_lang: str = "fr"
    """Target language, likewise."""
    train_src: str | None = None
    """Plain text file with one source sentence a line; given with `train_tgt` it replaces `corpus`."""
    train_tgt: str | None = None
    """Plain text file with the translations, line by line."""
    valid_src: str | None = None
    """Plain text file with the validation sources; used as it is, never cleaned."""
    valid_tgt: str | None = None
    """Plain text file with the validation references."""
    valid_corpus: str | None = None
    """Validation pairs as one folder or file, in any form that `corpus` takes; used as it is, never cleaned."""
    valid_sets: list[dict[str, Any]] = field(default_factory=list)
    """More validation sets, each scored at every validation under its name: a list of {name, corpus} or {name, src,
    tgt}, in any form that `valid_corpus` or `valid_src` takes; used as they are, never cleaned."""
    valid_size: int | None = None
    """Cleaned pairs held out where the corpus brings no validation set, chosen by content hash (null: a tenth of them,
    at most 2,000)."""
    valid_fraction: float | None = None
    """The share of the pairs that is held out where `valid_size` is null."""
    group_column: str | None = None
    """Column, such as book or document, whose pairs are held out all together or not at all."""
    test_src: str | None = None
    """Plain text file with test sources: never trained on; the rule `overlap` keeps training clear of it."""
    test_tgt: str | None = None
    """Plain text file with the test references."""
    test_corpus: str | None = None
    """Test pairs as one folder (its test split) or file, in any form that `corpus` takes."""
    phrasebook_train_pairs: int = 60_000
    """Training pairs that the embedded grammar writes."""
    phrasebook_valid_pairs: int = 1_000
    """Validation pairs that the embedded grammar writes."""
    phrasebook_seed: int = 1
    """Seed of the embedded grammar."""
    cache_dir: str = "~/.cache/accel_tx"
    """Folder for prepared data; a second start with the same input and settings reads it from there."""
    n_procs: int = 1
    """Processes that clean and tokenize."""

    def __post_init__(self) -> None:
        all_usable("data", self)
        both_or_none(self, "data", "train_src", "train_tgt")
        both_or_none(self, "data", "valid_src", "valid_tgt")
        both_or_none(self, "data", "test_src", "test_tgt")
        for split, meaning in (("valid", "validation"), ("test", "test")):
            if getattr(self, f"{split}_src") and getattr(self, f"{split}_corpus"):
                raise UserError(f"data.{split}_corpus and data.{split}_src are both given; expected one {meaning} set")
        if self.valid_fraction is not None:
            in_range("data.valid_fraction", self.valid_fraction, 0.0, 0.5, low_open=True)
        at_least("data", self, 1, "phrasebook_train_pairs", "phrasebook_valid_pairs", "n_procs", "valid_size")
        if self.src_lang == self.tgt_lang:
            raise UserError(f"data.src_lang and data.tgt_lang are both {self.src_lang!r}; expected two languages")
        for name in ("train_src", "corpus", "subset"):
            default = getattr(DataConfig, name)
            if self.corpora and getattr(self, name) != default:
                raise UserError(
                    f"data.corpora and data.{name} are both given; expected one of them "
                    f"(--data.{name} {default or 'null'} takes back what a config file gives)"
                )
        for key, entries in (("corpora", self.entries()), ("valid_sets", self.valid_set_entries())):
            names = [entry.name for entry in entries]
            for name in names:
                if names.count(name) > 1:
                    raise UserError(f"data.{key}: the name {name!r} is given twice; expected names of their own")

    def valid_set_entries(self) -> list[ValidSetEntry]:
        """The further validation sets, in order. Raises: UserError as `entries`."""
        return [_valid_set_entry(f"data.valid_sets, entry {n}", given) for n, given in enumerate(self.valid_sets, 1)]

    def entries(self) -> list[CorpusEntry]:
        """The corpora to train on, in order; one that stands for `corpus`, or for the two files, where none is listed.

        Raises: UserError that names the entry (counted from 1) and the nearest valid key for an unknown one.
        """
        if not self.corpora:
            name = f"{self.train_src} and {self.train_tgt}" if self.train_src else self.corpus
            return [CorpusEntry(name, self.corpus, self.subset)]
        return [_corpus_entry(f"data.corpora, entry {n}", given) for n, given in enumerate(self.corpora, start=1)]


@dataclass(frozen=True)
class CorpusEntry:
    """One of several corpora."""

    name: str
    """What the report calls it."""
    corpus: str
    """As `data.corpus`."""
    subset: str | None = None
    """As `data.subset`."""
    weight: float = 1.0
    """How often each of its pairs counts in an epoch; what is left of a whole number is a share of the pairs."""
    clean: dict[str, Any] = field(default_factory=dict)
    """Fields of the `clean` section that differ for this corpus."""

    def clean_config(self, base: CleanConfig) -> CleanConfig:
        """`base` with what differs for this corpus. Raises: UserError for a field or value that does not fit."""
        where = f"data.corpora, clean of {self.name}"
        known = [f.name for f in dataclasses.fields(base)]
        for key in self.clean:
            if key not in known:
                raise UserError(f"{where}: unknown key {key}; did you mean {nearest_of(str(key), known)}?")
            _check_rule(where, key, self.clean[key])
        preset = self.clean.get("preset", base.preset)
        if preset not in list(PRESETS):
            raise UserError(f"{where}: preset is {preset!r}; expected one of {', '.join(PRESETS)}")
        try:
            return dataclasses.replace(base, **self.clean)
        except (UserError, TypeError, AttributeError) as error:
            raise UserError(f"{where}: {error}") from None


def _check_rule(where: str, key: str, value: Any) -> None:
    """Raise UserError unless a threshold is of its field's type: text, as YAML leaves `no`, would switch a rule on."""
    kind = get_args(get_type_hints(CleanConfig)[key])[0]
    if kind not in _EXPECTED or value is None:
        return
    if not isinstance(value, (int, float) if kind is float else kind) or isinstance(value, bool) != (kind is bool):
        raise UserError(f"{where}: {key} is {value!r}; expected {_EXPECTED[kind]}, or null for what the preset says")


@dataclass(frozen=True)
class ValidSetEntry:
    """One of the further validation sets."""

    name: str
    """What its scores are called: `bleu/NAME`."""
    corpus: str | None = None
    """As `data.valid_corpus`; or `src` and `tgt`."""
    src: str | None = None
    """As `data.valid_src`."""
    tgt: str | None = None
    """As `data.valid_tgt`."""


def _valid_set_entry(where: str, given: Any) -> ValidSetEntry:
    _check_entry(where, given, ValidSetEntry, given if isinstance(given, dict) else ())
    if not re.fullmatch(r"[A-Za-z0-9][\w.+-]*", str(given.get("name"))):
        raise UserError(f"{where}: name is {given.get('name')!r}; expected letters, digits and any of _.+-")
    entry = ValidSetEntry(**given)
    both_or_none(entry, where, "src", "tgt")
    exactly_one(entry, where, "corpus", "src")
    return entry


def _check_entry(where: str, given: Any, cls: type, texts: Iterable[str]) -> None:
    """Raise UserError unless `given` has only fields of `cls`, and text in those of `texts`."""
    fields = [f.name for f in dataclasses.fields(cls)]
    if not isinstance(given, dict):
        raise UserError(f"{where} is {given!r}; expected a mapping with {', '.join(fields)}")
    for key in given:
        if key not in fields:
            raise UserError(f"{where}: unknown key {key}; did you mean {nearest_of(str(key), fields)}?")
    for key in texts:
        if not isinstance(given.get(key), str) or not given[key]:
            raise UserError(f"{where}: {key} is {given.get(key)!r}; expected text")


def _corpus_entry(where: str, given: Any) -> CorpusEntry:
    _check_entry(where, given, CorpusEntry, ("name", "corpus"))
    entry = CorpusEntry(**given)
    if not isinstance(entry.subset, str | None):
        raise UserError(f"{where}: subset is {entry.subset!r}; expected text or null")
    number = isinstance(entry.weight, int | float) and not isinstance(entry.weight, bool)
    if not number or not 0 < entry.weight <= _LARGEST_WEIGHT:
        raise UserError(f"{where}: weight is {entry.weight!r}; expected a number above 0, at most {_LARGEST_WEIGHT}")
    if not isinstance(entry.clean, dict):
        raise UserError(f"{where}: clean is {entry.clean!r}; expected fields of the section clean")
    return entry
