"""Beam search: the most probable continuations, side by side.

A sentence has `beam_size` places. At every position the best continuations of its live hypotheses fill the places that
finished ones do not hold; a continuation by EOS finishes its hypothesis. So a beam of 1 is greedy search, and a beam
that no hypothesis falls out of is exhaustive.
"""

from __future__ import annotations

import torch
from torch import Tensor

from accel_tx.config import DecodeConfig
from accel_tx.data.tokenizer import EOS_ID
from accel_tx.inference.constraints import Constraints
from accel_tx.inference.hypotheses import Hypotheses, length_penalty
from accel_tx.inference.vocabulary import NextTokens


class Beams(Hypotheses):
    """The places of beam search."""

    def __init__(self, n_sentences: int, settings: DecodeConfig, constraints: Constraints) -> None:
        super().__init__(n_sentences, settings.beam_size, settings, constraints)
        self.live[:, 1:] = False  # at first there is BOS alone
        self.n_finished = torch.zeros_like(self.sentences)
        """(B,) places that finished hypotheses hold."""
        self.worst_kept = torch.full_like(self.log_prob[:, 0], -torch.inf)
        """(B,) the score that a hypothesis must beat to be among the `n_best`; -inf as long as fewer have finished."""
        limits = constraints.limits.tolist()
        self.largest_penalty = self.log_prob.new_tensor([length_penalty(settings, limit) for limit in limits])
        """(B,) the length penalty at the limit."""

    def advance(self, hidden: Tensor, next_tokens: NextTokens) -> Tensor:
        """Take the best continuations; gives the parent (B, W) of what then stands in each place.

        `hidden` is the decoder output (B, W, D) behind each place.
        """
        n_sentences, n_places = self.live.shape
        n = min(n_places, next_tokens.vocab_size)
        rows, *context = self.live_rows()
        log_probs, ids = next_tokens.best(hidden.flatten(0, 1)[rows], n, self.constraints, *context)
        totals = self.log_prob.new_full((n_sentences * n_places, n), -torch.inf)
        totals[rows] = self.log_prob.flatten()[rows, None] + log_probs
        candidates = ids.new_full((n_sentences * n_places, n), EOS_ID)
        candidates[rows] = ids

        self.log_prob, best = totals.view(n_sentences, -1).topk(n_places, dim=1)
        parents = best // n
        written = self.ids[:, :, : self.position]
        self.ids[:, :, : self.position] = written.gather(1, parents[:, :, None].expand_as(written))
        self.write(candidates.view(n_sentences, -1).gather(1, best))
        n_free = n_places - self.n_finished
        self.live = (torch.arange(n_places, device=n_free.device) < n_free[:, None]) & (self.log_prob > -torch.inf)
        self._finish_ended()
        self._stop_where_nothing_better_can_come()
        self.cut_at_limit()
        return parents

    def _finish_ended(self) -> None:
        ended = self.live & (self.tokens == EOS_ID)
        self.finish(ended, is_cut=False)
        n_ended = ended.sum(1)
        self.n_finished += n_ended
        n_best = self.settings.n_best
        changed = ((n_ended > 0) & (self.n_finished >= n_best)).nonzero().squeeze(1).tolist()
        for row in changed:
            scores = sorted((one.score for one in self.finished[int(self.sentences[row])]), reverse=True)
            self.worst_kept[row] = scores[n_best - 1]

    def _stop_where_nothing_better_can_come(self) -> None:
        """End the sentences of which no live hypothesis can still become one of the `n_best`.

        Log-probabilities only fall and are at most 0, so the best score that a live hypothesis can reach is the one it
        would have at the largest penalty, that of the length limit.
        """
        best_live = self.log_prob.where(self.live, -torch.inf).amax(1)
        self.live &= (best_live / self.largest_penalty > self.worst_kept)[:, None]
