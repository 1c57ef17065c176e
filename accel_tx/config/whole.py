"""The whole configuration: its sections, the checks between them, its YAML."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accel_tx.config.checks import nearest_of
from accel_tx.config.clean import CleanConfig
from accel_tx.config.data import DataConfig
from accel_tx.config.decode import DecodeConfig
from accel_tx.config.errors import UserError
from accel_tx.config.model import ModelConfig, TokenizerConfig
from accel_tx.config.train import OptimConfig, TrainConfig, ValidationConfig
from accel_tx.config.yaml_file import as_yaml, read_yaml


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
        names = [entry.name for entry in self.data.valid_set_entries()]
        metric, slash, name = self.validation.best_metric.partition("/")
        if slash and name not in names:
            raise UserError(
                f"validation.best_metric is {metric}/{name}, but data.valid_sets has {', '.join(names) or 'no set'}; "
                f"expected {metric} of the main validation set, or the name of a set that is given"
            )
        if self.model.tie_embeddings == "all" and not self.tokenizer.joint:
            raise UserError(
                "model.tie_embeddings is 'all' but tokenizer.joint is false; "
                "expected a joint vocabulary, or tie_embeddings 'decoder' or 'none'"
            )
        if self.data.both_directions and not self.tokenizer.joint:
            raise UserError(
                "data.both_directions is true but tokenizer.joint is false; expected a joint vocabulary, "
                "as the two languages change places"
            )
        if self.optim.r_drop and not (self.model.dropout or self.model.attention_dropout):
            raise UserError(
                f"optim.r_drop is {self.optim.r_drop:g} but model.dropout and model.attention_dropout are 0, so that "
                "both passes are equal; expected dropout, or r_drop 0"
            )
        for field_name in ("max_tokens", "tokens_per_update"):
            size = getattr(self.train, field_name)
            if isinstance(size, int) and size < self.model.max_positions:
                raise UserError(
                    f"train.{field_name} is {size}; expected at least model.max_positions = "
                    f"{self.model.max_positions}, so that the longest pair fits a micro-batch"
                )
        per_update, most = self.train.tokens_per_update, self.train.max_tokens
        if per_update is not None and isinstance(most, int):
            object.__setattr__(self, "train", self.train_in_micro_batches(-(-per_update // most)))

    def train_in_micro_batches(self, n: int) -> TrainConfig:
        """`train` with its `tokens_per_update` in `n` equal micro-batches, each large enough for the longest pair."""
        size = max(-(-(self.train.tokens_per_update or 0) // n), self.model.max_positions)
        return dataclasses.replace(self.train, max_tokens=size, micro_batches_per_update=n, tokens_per_update=None)

    def corpora_without_overlap(self) -> list[str]:
        """Names of the corpora in which no rule looks for validation and test text."""
        return [e.name for e in self.data.entries() if "overlap" not in e.clean_config(self.clean).rules()]


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
    "trackers",
    "histograms_every_updates",
    "save_every_updates",
    "keep_checkpoints",
    "mirror_dir",
    "max_hours",
    "stop_at_update",
    "on_bad_update",
    "max_bad_updates",
    "spike_factor",
    "gradient_checkpointing",
    "cuda_graphs",
    "cpu_threads",
    "loader_workers",
    "precision",
}


# What suits each machine. How the data sections spell a path is free as well, and the precision asked for: the hash of
# the prepared data and the precision in effect are what counts.
_FREE_ON_A_MACHINE = {"cpu_threads", "loader_workers", "precision"}


def what_is_learned(config: Config) -> dict[str, Any]:
    """The fields, as `section.field`, that decide what the weights of a run become."""
    return _flat(config, ("model", "optim", "train"), _FREE_ON_RESUME)


def has_free_length(learned: Mapping[str, Any]) -> bool:
    """Whether the rates of the schedule do not depend on the length of the run, so that it may change on the way."""
    return learned.get("optim.schedule") == "inverse_sqrt"


def what_starts_share(learned: Mapping[str, Any]) -> dict[str, Any]:
    """Of `what_is_learned` what a resumed run must share with the run that it goes on."""
    free = ("train.max_updates", "train.epochs") if has_free_length(learned) else ()
    return {key: value for key, value in learned.items() if key not in free}


def what_processes_share(config: Config) -> dict[str, Any]:
    """The fields, as `section.field`, that are the same in all processes of a launch.

    Else they would learn different things, or one would wait at a validation or a checkpoint that another skips.
    """
    return _flat(config, ("model", "optim", "train", "validation", "decode"), _FREE_ON_A_MACHINE)


def _flat(config: Config, sections: Sequence[str], left_out: Set[str]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for section in sections:
        for name, value in dataclasses.asdict(getattr(config, section)).items():
            if name not in left_out:
                flat[f"{section}.{name}"] = list(value) if isinstance(value, tuple) else value
    return flat


def default_of(key: str) -> Any:
    """The default of `section.field`; None where there is none, or no such field."""
    section, _, name = key.partition(".")
    fields = {f.name: f for f in dataclasses.fields(SECTIONS[section])} if section in SECTIONS else {}
    if name not in fields:
        return None
    make, default = fields[name].default_factory, fields[name].default
    if make is not dataclasses.MISSING:
        return make()
    return None if default is dataclasses.MISSING else list(default) if isinstance(default, tuple) else default


def load_yaml(path: Path, moved: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Read a config file as nested dicts whose keys are all known, those in `moved` (old -> new) under their new names.

    Raises: UserError if the file is missing, is no YAML mapping, or holds a key twice or one that no section has.
    """
    values = read_yaml(path)
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


def build_config(values: Mapping[str, Mapping[str, Any]]) -> Config:
    """Make the checked Config from nested values of the right types."""
    sections = {name: cls(**values.get(name, {})) for name, cls in SECTIONS.items()}
    return Config(**sections)


def dump_yaml(config: Config) -> str:
    """The resolved config as YAML, every field included."""
    values = dataclasses.asdict(config)
    values["optim"]["betas"] = list(values["optim"]["betas"])
    return as_yaml({name: values[name] for name in SECTIONS})
