"""Section `decode`: how translations are searched for."""

from __future__ import annotations

from dataclasses import dataclass

from accel_tx.config.checks import at_least, in_range


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
        in_range("decode.max_len_ratio", self.max_len_ratio, 0.0, 100.0)
        at_least("decode", self, 1, "max_len_extra", "max_tokens")
