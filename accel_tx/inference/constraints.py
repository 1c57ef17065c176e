"""What a search may produce at a position: minimum length, forced prefixes, no repeated n-gram, no special tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from accel_tx.data.tokenizer import BOS_ID, EOS_ID, PAD_ID, UNK_ID

# A hypothesis is made of words: EOS ends it, the other special tokens never stand in one, but UNK where it is allowed.
NEVER_PRODUCED = [PAD_ID, UNK_ID, BOS_ID]


class Constraints:
    """Lengths and forced tokens of the sentences of a batch."""

    def __init__(
        self,
        max_len_tokens: Sequence[int],
        min_len_tokens: Sequence[int] | None,
        prefixes: Sequence[Sequence[int]] | None,
        no_repeat_ngram: int,
        max_positions: int,
        device: torch.device,
        allow_unknown: bool = False,
    ) -> None:
        """Limits beyond the model's positions are lowered to them, and a minimum leaves room for EOS within the limit.

        Raises: ValueError for a limit below 1, and for a prefix that holds PAD, BOS or EOS or does not fit.
        """
        if min(max_len_tokens) < 1:
            raise ValueError(f"a length limit is {min(max_len_tokens)}; expected at least 1 token")
        limits = [min(limit, max_positions) for limit in max_len_tokens]
        minima = [0] * len(limits) if min_len_tokens is None else min_len_tokens
        self.limits = torch.tensor(limits, device=device)
        self.minima = torch.tensor([min(low, limit - 1) for low, limit in zip(minima, limits, strict=True)]).to(device)
        self.last_minimum = int(self.minima.max())
        self.no_repeat_ngram = no_repeat_ngram
        self.never_produced = [i for i in NEVER_PRODUCED if not (i == UNK_ID and allow_unknown)]
        self.forced = _forced_tokens(prefixes, limits).to(device)

    def keep(self, rows: Tensor) -> None:
        """Keep the sentences with these indices, in this order."""
        self.limits, self.minima, self.forced = self.limits[rows], self.minima[rows], self.forced[rows]

    def forced_at(self, position: int) -> Tensor | None:
        """The token (B,) that each sentence must have here, -1: any; None if that holds for all."""
        return self.forced[:, position] if position < self.forced.shape[1] else None

    def forbid(self, scores: Tensor, sentences: Tensor, history: Tensor) -> None:
        """Set to -inf, in place, what must not follow.

        Shapes: scores (N, V) float, of the next token of N hypotheses; sentences (N,) their indices in the batch;
        history (N, position) what they hold.
        """
        position = history.shape[1]
        scores[:, self.never_produced] = -torch.inf
        if self.no_repeat_ngram:
            _forbid_repeated(scores, history, self.no_repeat_ngram)
        if position < self.last_minimum:
            too_short = position < self.minima[sentences]
            if self.no_repeat_ngram:  # where nothing else may follow, EOS may
                too_short &= (scores > -torch.inf).sum(-1) > 1
            scores[too_short, EOS_ID] = -torch.inf


def _forbid_repeated(scores: Tensor, history: Tensor, n: int) -> None:
    """Forbid the tokens that would end an n-gram which stands in the history (N, position) already."""
    if history.shape[1] < n:
        return
    begins = history.unfold(1, n, 1)[:, :, : n - 1]  # (N, position - n + 1, n - 1)
    tail = history[:, history.shape[1] - (n - 1) :]
    hypothesis, place = (begins == tail[:, None]).all(-1).nonzero(as_tuple=True)
    scores[hypothesis, history[hypothesis, place + n - 1]] = -torch.inf


def _forced_tokens(prefixes: Sequence[Sequence[int]] | None, limits: list[int]) -> Tensor:
    prefixes = [[]] * len(limits) if prefixes is None else prefixes
    forced = torch.full((len(limits), max(map(len, prefixes))), -1)
    for row, prefix, limit in zip(forced, prefixes, limits, strict=True):
        if len(prefix) >= limit:
            raise ValueError(f"a prefix has {len(prefix)} tokens; expected fewer than the length limit {limit}")
        if {PAD_ID, BOS_ID, EOS_ID} & set(prefix):
            raise ValueError(f"the prefix {list(prefix)} holds PAD, BOS or EOS; expected the ids of words")
        row[: len(prefix)] = torch.tensor(prefix, dtype=torch.int64)
    return forced
