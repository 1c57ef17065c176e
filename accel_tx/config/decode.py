"""Section `decode`: how translations are searched for."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from accel_tx.config.checks import all_usable, at_least, at_most, in_range
from accel_tx.config.errors import UserError

# Every hypothesis of a sentence has log-probabilities of the whole vocabulary: 128 MB at 32,000 words.
WIDEST_BEAM = 1_000
# Far beyond any that is of use, and its power of any number of tokens is still a float.
LARGEST_EXPONENT = 10.0


@dataclass(frozen=True)
class DecodeConfig:
    """Search for a translation: beam search, or sampling."""

    beam_size: int = 5
    """Hypotheses of a sentence that are followed side by side; 1 is greedy search. Sampling does not use it."""
    length_penalty: Literal["average", "gnmt", "none"] = "average"
    """What log-probabilities are divided by, n being the tokens with EOS and a the exponent: `average` n^a, `gnmt`
    ((5 + n) / 6)^a, `none` 1."""
    length_exponent: float = 1.0
    """The exponent of `length_penalty`; 0 favours short translations as `none` does, more favours long ones; below
    10."""
    n_best: int = 1
    """Number of translations per sentence, best first; at most `beam_size`, unless they are sampled."""
    min_len_ratio: float = 0.0
    """A translation has at least ratio x source tokens tokens."""
    max_len_ratio: float = 1.5
    """A translation has at most ratio x source tokens + `max_len_extra` tokens."""
    max_len_extra: int = 20
    """See `max_len_ratio`."""
    no_repeat_ngram: int = 0
    """No n-gram of this size, in tokens, occurs twice in a translation (0: off)."""
    unknown: Literal["copy", "mark", "drop", "guess"] = "copy"
    """What becomes of source words that the vocabulary lacks, where the model writes UNK for one: `copy` puts the word
    there, found by cross-attention, `mark` leaves `<unk>`, `drop` nothing; `guess` forbids UNK."""
    sampling: bool = False
    """Draw `n_best` translations at random, token by token, instead of searching for the most probable ones."""
    temperature: float = 1.0
    """Logits are divided by this before a token is drawn: below 1 nearer to the most probable, above 1 further away."""
    top_k: int = 0
    """Draw among the so many most probable tokens (0: among all)."""
    top_p: float = 1.0
    """Draw among the fewest most probable tokens that have at least this probability together."""
    sampling_seed: int = 1
    """With the same seed a source gets the same samples, whatever is translated beside it."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the weights that translate; bfloat16 is faster where the hardware has it. Validation has the training's."""
    max_tokens: int = 8_192
    """Padded source tokens decoded together, times `beam_size` (sampling: times `n_best`)."""

    def __post_init__(self) -> None:
        all_usable("decode", self)
        at_least("decode", self, 1, "beam_size", "n_best", "max_len_extra", "max_tokens")
        at_least("decode", self, 0, "no_repeat_ngram", "top_k", "sampling_seed")
        at_most("decode", self, WIDEST_BEAM, "beam_size", "n_best")
        in_range("decode.length_exponent", self.length_exponent, 0.0, LARGEST_EXPONENT)
        in_range("decode.max_len_ratio", self.max_len_ratio, 0.0, 100.0)
        if not 0 <= self.min_len_ratio <= self.max_len_ratio:
            raise UserError(
                f"decode.min_len_ratio is {self.min_len_ratio}; expected from 0 to decode.max_len_ratio = "
                f"{self.max_len_ratio}"
            )
        if self.sampling:
            in_range("decode.temperature", self.temperature, 0.0, 100.0, low_open=True)
            if not 0 < self.top_p <= 1:
                raise UserError(f"decode.top_p is {self.top_p}; expected above 0 and up to 1")
            return
        for name in ("temperature", "top_k", "top_p"):
            if getattr(self, name) != getattr(DecodeConfig, name):
                raise UserError(
                    f"decode.{name} is {getattr(self, name)} but decode.sampling is false; expected decode.sampling "
                    "true, or no value"
                )
        if self.n_best > self.beam_size:
            raise UserError(
                f"decode.n_best is {self.n_best}; expected at most decode.beam_size = {self.beam_size}, or "
                "decode.sampling true"
            )

    def for_validation(self, beam_size: int) -> DecodeConfig:
        """The same search for one translation a sentence, with another beam and nothing left to chance."""
        no_chance = {name: getattr(DecodeConfig, name) for name in ("sampling", "temperature", "top_k", "top_p")}
        return dataclasses.replace(self, beam_size=beam_size, n_best=1, **no_chance)

    @property
    def n_places(self) -> int:
        """Hypotheses of a sentence that are decoded side by side."""
        return self.n_best if self.sampling else self.beam_size
