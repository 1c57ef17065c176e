"""Sampling: translations drawn at random, token by token, reproducible from a seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from accel_tx.config import DecodeConfig
from accel_tx.data.tokenizer import EOS_ID
from accel_tx.inference.constraints import Constraints
from accel_tx.inference.hypotheses import Hypotheses, Hypothesis
from accel_tx.inference.vocabulary import NextTokens


class Samples(Hypotheses):
    """`n_best` samples of each sentence.

    What is drawn depends on the source, the seed and the number of the sample alone, not on the batch.
    """

    def __init__(self, sources: Sequence[Sequence[int]], settings: DecodeConfig, constraints: Constraints) -> None:
        super().__init__(len(sources), settings.n_best, settings, constraints)
        n_positions = self.ids.shape[2]
        numbers = np.stack(
            [uniform(source, settings.sampling_seed, settings.n_best, n_positions) for source in sources]
        )
        self.uniform = torch.from_numpy(numbers).to(self.ids.device)
        """(B, W, max_len) float64 in [0, 1): decides which token is drawn at a position."""

    def advance(self, hidden: Tensor, next_tokens: NextTokens) -> None:
        """Draw the next token of each live sample, given the decoder output (B, W, D)."""
        rows, sentences, history = self.live_rows()
        states, numbers = hidden.flatten(0, 1)[rows], self.uniform[:, :, self.position].flatten()[rows]
        tokens = torch.full_like(self.tokens, EOS_ID)
        for block in next_tokens.blocks(states):
            context = sentences[block], history[block]
            log_probs, forced = next_tokens.allowed(states[block], self.constraints, *context)
            chosen = draw(log_probs, numbers[block], self.settings)
            if forced is not None:
                chosen = forced.where(forced >= 0, chosen)
            self.log_prob.view(-1)[rows[block]] += log_probs.gather(1, chosen[:, None]).squeeze(1)
            tokens.view(-1)[rows[block]] = chosen
        self.write(tokens)
        self.finish(self.live & (tokens == EOS_ID), is_cut=False)
        self.cut_at_limit()

    def best(self) -> list[list[Hypothesis]]:
        """All samples of every sentence, in the order of their numbers."""
        return [sorted(found, key=lambda one: one.place) for found in self.finished]


def uniform(source: Sequence[int], seed: int, n_samples: int, n_positions: int) -> NDArray[np.float64]:
    """Numbers (n_samples, n_positions) in [0, 1). One more sample or position changes none of the others."""
    streams = np.random.SeedSequence([seed, *source]).spawn(n_samples)
    return np.stack([np.random.default_rng(stream).random(n_positions) for stream in streams])


def draw(log_probs: Tensor, numbers: Tensor, settings: DecodeConfig) -> Tensor:
    """A token (N,) for each row of log_probs (N, V), decided by its number (N,) in [0, 1).

    Temperature first, then `top_k`, then `top_p`; what is left is drawn in proportion to its probability.
    Source: top_p: Holtzman et al. 2020.
    """
    probs = (log_probs.double() / settings.temperature).softmax(-1)
    order = None
    if settings.top_k or settings.top_p < 1:
        probs, order = probs.topk(min(settings.top_k or probs.shape[-1], probs.shape[-1]))
        # A token stays where those before it do not reach top_p yet: the first always does.
        before = probs.cumsum(-1) - probs
        probs = probs * (before < settings.top_p * probs.sum(-1, keepdim=True))
    reached = probs.cumsum(-1)
    total = reached[:, -1]
    # Rounding must not lead beyond the last token that has any probability.
    wanted = torch.minimum(numbers * total, total.nextafter(torch.zeros_like(total)))
    place = (reached <= wanted[:, None]).sum(-1)
    return place if order is None else order.gather(1, place[:, None]).squeeze(1)
