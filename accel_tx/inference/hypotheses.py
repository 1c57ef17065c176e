"""Hypotheses and their scores: the finished ones, and those that a search is still writing."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from accel_tx.config import DecodeConfig
from accel_tx.data.tokenizer import BOS_ID
from accel_tx.inference.constraints import Constraints


@dataclass(frozen=True)
class Hypothesis:
    """A translation as ids."""

    ids: list[int]
    """Without BOS and EOS."""
    log_prob: float
    """In nats: the sum over `ids` and EOS, under the softmax over the whole vocabulary. A hypothesis that was cut at
    its length limit has no EOS, and none is counted."""
    score: float
    """`log_prob` over the length penalty; the higher the better."""
    is_cut: bool = False
    """It reached its length limit before EOS; such a one ranks behind all that ended by themselves."""
    place: int = 0
    """Where it stood among those of its sentence; of a sample its number."""


def length_penalty(settings: DecodeConfig, n_tokens: int) -> float:
    """What the log-probability of `n_tokens` tokens, EOS counted, is divided by to give the score.

    It never falls with the length.
    Source: gnmt: Wu et al. 2016, equation 14.
    """
    if settings.length_penalty == "average":
        return float(n_tokens**settings.length_exponent)
    if settings.length_penalty == "gnmt":
        return float(((5 + n_tokens) / 6) ** settings.length_exponent)
    return 1.0


class Hypotheses:
    """W places for hypotheses of each of the B sentences that are still in the batch, and the finished ones of all."""

    def __init__(self, n_sentences: int, n_places: int, settings: DecodeConfig, constraints: Constraints) -> None:
        device = constraints.limits.device
        shape = (n_sentences, n_places)
        self.settings, self.constraints = settings, constraints
        self.position = 0
        self.sentences = torch.arange(n_sentences, device=device)
        """(B,) where each stands in the batch as it was given."""
        self.tokens = torch.full(shape, BOS_ID, device=device)
        """(B, W) the newest token of each hypothesis."""
        self.ids = torch.zeros((*shape, int(constraints.limits.max())), dtype=torch.int64, device=device)
        """(B, W, max_len) all tokens but BOS; of them `position` are written."""
        self.live = torch.ones(shape, dtype=torch.bool, device=device)
        """(B, W) the places that hold a hypothesis which goes on."""
        self.log_prob = torch.zeros(shape, dtype=torch.float64, device=device)
        """(B, W) of the tokens so far; float64, because the sum of a long sentence would lose digits."""
        self.finished: list[list[Hypothesis]] = [[] for _ in range(n_sentences)]
        """Of every sentence of the batch as it was given, in the order in which they finished."""

    def live_rows(self) -> tuple[Tensor, Tensor, Tensor]:
        """The live hypotheses: their indices (N,) into B x W, their sentences' (N,), what they hold (N, position)."""
        rows = self.live.flatten().nonzero().squeeze(1)
        return rows, rows // self.live.shape[1], self.ids.flatten(0, 1)[rows, : self.position]

    def write(self, tokens: Tensor) -> None:
        """Put the next token (B, W) behind each hypothesis."""
        self.tokens = tokens
        self.ids[:, :, self.position] = tokens
        self.position += 1

    def finish(self, which: Tensor, is_cut: bool) -> None:
        """Take the hypotheses where `which` (B, W) is True as they are; all others stay as they were.

        `is_cut` says that they have no EOS; else it is their newest token.
        """
        self.live &= ~which
        if not which.any():
            return
        rows, places = which.nonzero(as_tuple=True)
        penalty = length_penalty(self.settings, self.position)
        n_ids = self.position if is_cut else self.position - 1
        columns = self.sentences[rows], self.ids[rows, places, :n_ids], self.log_prob[rows, places], places
        for sentence, ids, log_prob, place in zip(*(column.tolist() for column in columns), strict=True):
            self.finished[sentence].append(Hypothesis(ids, log_prob, log_prob / penalty, is_cut, place))

    def cut_at_limit(self) -> None:
        """Finish what has reached its sentence's limit."""
        self.finish(self.live & (self.position >= self.constraints.limits)[:, None], is_cut=True)

    def keep(self, rows: Tensor) -> None:
        """Keep the sentences with these indices (B',) in the batch; the others leave it."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value[rows])
        self.constraints.keep(rows)

    def best(self) -> list[list[Hypothesis]]:
        """The `n_best` finished ones of every sentence, best first."""
        ranked = [sorted(found, key=_rank, reverse=True) for found in self.finished]
        return [found[: self.settings.n_best] for found in ranked]


def _rank(hypothesis: Hypothesis) -> tuple[bool, float]:
    return not hypothesis.is_cut, hypothesis.score
