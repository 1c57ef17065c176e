"""The configuration: one frozen dataclass a section, checked on its own and against the others.

A YAML file holds only what differs from the defaults; every run saves its resolved copy.
"""

from accel_tx.config.checks import nearest_of
from accel_tx.config.clean import PRESETS, CleanConfig
from accel_tx.config.data import CorpusEntry, DataConfig
from accel_tx.config.decode import DecodeConfig
from accel_tx.config.errors import RunError, UserError
from accel_tx.config.model import SPECIAL_TOKENS, ModelConfig, TokenizerConfig
from accel_tx.config.rivals import out_of_use
from accel_tx.config.train import LOWER_IS_BETTER, OptimConfig, TrainConfig, ValidationConfig
from accel_tx.config.whole import (
    SECTIONS,
    Config,
    build_config,
    check_key,
    default_of,
    dump_yaml,
    has_free_length,
    load_yaml,
    what_is_learned,
    what_processes_share,
    what_starts_share,
)

__all__ = [
    "LOWER_IS_BETTER",
    "PRESETS",
    "SECTIONS",
    "SPECIAL_TOKENS",
    "CleanConfig",
    "Config",
    "CorpusEntry",
    "DataConfig",
    "DecodeConfig",
    "ModelConfig",
    "OptimConfig",
    "RunError",
    "TokenizerConfig",
    "TrainConfig",
    "UserError",
    "ValidationConfig",
    "build_config",
    "check_key",
    "default_of",
    "dump_yaml",
    "has_free_length",
    "load_yaml",
    "nearest_of",
    "out_of_use",
    "what_is_learned",
    "what_processes_share",
    "what_starts_share",
]
