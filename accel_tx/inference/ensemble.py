"""Several models that translate as one: every next token by the mean of their probabilities.

Source: the mean of probabilities, and not of their logarithms, as in fairseq's `EnsembleModel` and in Sockeye's
`--ensemble-mode linear`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from accel_tx.model.transformer import Transformer


@dataclass(frozen=True)
class Ensemble:
    """Models of any sizes and kinds with the same vocabularies; each weighs the same."""

    members: tuple[Transformer, ...]

    def __post_init__(self) -> None:
        """Raises: ValueError for no member, or target vocabularies of different sizes."""
        sizes = [len(member.output_bias) for member in self.members]
        if len(set(sizes)) != 1:
            raise ValueError(f"the members' target vocabularies have {sizes} entries; expected one size for all")


Model = Transformer | Ensemble
"""What can translate and score."""


def members_of(model: Model) -> tuple[Transformer, ...]:
    """The models of an ensemble; of one model that one alone."""
    return model.members if isinstance(model, Ensemble) else (model,)


def device_of(model: Model) -> torch.device:
    """Where all of it is."""
    return members_of(model)[0].positions.device


def max_positions_of(model: Model) -> int:
    """The positions that every member has."""
    return min(member.config.max_positions for member in members_of(model))


def mean_of_probs(log_probs: Sequence[Tensor]) -> Tensor:
    """Log of the mean of the members' probabilities, from the logs of each, all of one shape.

    The first tensor is overwritten with it, but for a single one, which comes back as it is. By way of logarithms: what
    no float holds as a probability still has one.
    """
    total, *others = log_probs
    for other in others:
        torch.logaddexp(total, other, out=total)
    return total.sub_(math.log(len(log_probs))) if others else total


class Decoding:
    """A batch that is being translated: the members beside each other, each with a cache of its own."""

    def __init__(self, model: Model, src_ids: Tensor, src_valid: Tensor | None, max_len: int, n_places: int) -> None:
        """Shapes: src_ids (B, S); src_valid (B, S) or None. `n_places` hypotheses a sentence, of up to `max_len`."""
        self._members = members_of(model)
        self._caches = [
            member.start_cache(member.encode(src_ids, src_valid), src_valid, max_len, n_places)
            for member in self._members
        ]

    def step(self, tokens: Tensor) -> Tensor:
        """Decoder output at the position of `tokens` (B, W), as `NextTokens` takes it; then one position on.

        Shapes: (B, W, D), the members' own side by side, so that D is the sum of theirs.
        """
        hidden = [member.step(tokens, cache) for member, cache in zip(self._members, self._caches, strict=True)]
        return hidden[0] if len(hidden) == 1 else torch.cat(hidden, dim=-1)

    def follow(self, parents: Tensor) -> None:
        """See `DecoderCache.follow`."""
        for cache in self._caches:
            cache.follow(parents)

    def keep(self, rows: Tensor) -> None:
        """See `DecoderCache.keep`."""
        for cache in self._caches:
            cache.keep(rows)
