"""Search: source ids -> hypotheses, by beam search (a beam of 1 is greedy search) or by sampling."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from accel_tx.config import DecodeConfig
from accel_tx.inference.beam import Beams
from accel_tx.inference.constraints import Constraints
from accel_tx.inference.ensemble import Decoding, Model, max_positions_of
from accel_tx.inference.hypotheses import Hypothesis
from accel_tx.inference.sampling import Samples
from accel_tx.inference.vocabulary import next_tokens_of, not_finite

# Copying the caches costs about one position's work, so sentences leave when a quarter of them can.
_SHARE_KEPT = 0.75


@torch.inference_mode()
def search(
    model: Model,
    src_ids: Tensor,
    src_valid: Tensor | None,
    settings: DecodeConfig,
    max_len_tokens: Sequence[int],
    min_len_tokens: Sequence[int] | None = None,
    prefixes: Sequence[Sequence[int]] | None = None,
    poll: Callable[[], None] | None = None,
    allow_unknown: bool = False,
) -> list[list[Hypothesis]]:
    """The `settings.n_best` hypotheses of each sentence of a batch, best first; fewer only where there are no more.
    Samples stand in the order of their numbers instead.

    Shapes: src_ids (B, S) int64, with EOS; src_valid (B, S) bool or None. The model must be in eval mode. Finished
    sentences leave the batch. Of `settings` the lengths and `max_tokens` are not used, but for sentence i:
    `max_len_tokens[i]`, the most tokens that are written, EOS among them; `min_len_tokens[i]`, the fewest before EOS;
    and `prefixes[i]`, the ids that every hypothesis begins with, whatever else is asked.
    `poll` is called before every position; it may raise, to abandon the search. UNK is written only where
    `allow_unknown` says so, or a prefix has it.
    Raises: ValueError for a limit below 1, and for a prefix that does not fit or holds PAD, BOS or EOS; RunError where
    the model gives no hypothesis a finite score.
    """
    max_positions, device = max_positions_of(model), src_ids.device
    constraints = Constraints(
        max_len_tokens, min_len_tokens, prefixes, settings.no_repeat_ngram, max_positions, device, allow_unknown
    )
    hypotheses: Beams | Samples
    if settings.sampling:
        hypotheses = Samples(_without_padding(src_ids, src_valid), settings, constraints)
    else:
        hypotheses = Beams(len(src_ids), settings, constraints)
    next_tokens = next_tokens_of(model)
    n_positions, n_places = hypotheses.ids.shape[2], hypotheses.live.shape[1]
    decoding = Decoding(model, src_ids, src_valid, n_positions, n_places)
    while True:
        if poll is not None:
            poll()
        parents = hypotheses.advance(decoding.step(hypotheses.tokens), next_tokens)
        going_on = hypotheses.live.any(1)
        n_going_on = int(going_on.sum())
        if n_going_on == 0:
            return _checked(hypotheses.best(), model)
        if parents is not None:
            decoding.follow(parents)
        if n_going_on <= _SHARE_KEPT * len(going_on):
            kept = going_on.nonzero().squeeze(1)
            hypotheses.keep(kept)
            decoding.keep(kept)


def _checked(found: list[list[Hypothesis]], model: Model) -> list[list[Hypothesis]]:
    """As they are. A score that is not finite ends a beam without a hypothesis, and stands in a sample."""
    for hypotheses in found:
        if not hypotheses or not all(math.isfinite(one.log_prob) for one in hypotheses):
            raise not_finite(model)
    return found


def _without_padding(src_ids: Tensor, src_valid: Tensor | None) -> list[list[int]]:
    lengths = [src_ids.shape[1]] * len(src_ids) if src_valid is None else src_valid.sum(1).tolist()
    return [ids[:length] for ids, length in zip(src_ids.tolist(), lengths, strict=True)]
