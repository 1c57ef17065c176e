"""The model's log-probability of given translations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from accel_tx.data.collator import DataCollator, TokenPair, packs
from accel_tx.data.tokenizer import UNK_ID, TokenizerPair
from accel_tx.inference.batches import similar_lengths
from accel_tx.inference.ensemble import Model, device_of, max_positions_of, mean_of_probs, members_of
from accel_tx.inference.vocabulary import not_finite
from accel_tx.model.transformer import Transformer

# Logits in memory at a time: 2^24 float32 are 64 MiB.
_LOGITS_PER_CHUNK = 1 << 24


@dataclass(frozen=True)
class PairScore:
    """How probable a target is, given its source."""

    log_prob: float | None
    """Natural logarithm, summed over the target's tokens; None where a side is longer than the model's positions."""
    n_tokens: int
    """Tokens of the target, EOS included."""
    n_unknown: int
    """Those among them that the vocabulary lacks: each counts as the probability of any such word."""

    @property
    def log_prob_per_token(self) -> float | None:
        """Nats a token; None where `log_prob` is."""
        return None if self.log_prob is None else self.log_prob / self.n_tokens


def begin_scores(
    tokenizers: TokenizerPair,
    max_positions: int,
    src: Sequence[str],
    tgt: Sequence[str],
    max_tokens: int,
    log_probs_later: Callable[[list[TokenPair]], Callable[[], list[float]]],
) -> Callable[[], list[PairScore]]:
    """Have target i scored given source i; what is returned gives the scores, in the order asked.

    Batches have at most `max_tokens` padded tokens on a side. Texts are stripped and encoded as in training, so the sum
    over a validation set is its loss with the sign turned. `log_probs_later` takes a batch; what it returns gives what
    `log_probs` gives.
    Raises: ValueError if the numbers of texts differ.
    """
    if len(src) != len(tgt):
        raise ValueError(f"{len(src)} sources and {len(tgt)} targets; expected as many")
    src_ids = tokenizers.src.encode([text.strip() for text in src])
    tgt_ids = tokenizers.tgt.encode([text.strip() for text in tgt])
    longest = max_positions - 1
    fits = [i for i in range(len(src)) if max(len(src_ids[i]), len(tgt_ids[i])) <= longest]
    pairs = [TokenPair(np.array(src_ids[i], np.int32), np.array(tgt_ids[i], np.int32)) for i in fits]
    begun = [(rows, log_probs_later([pairs[row] for row in rows])) for rows in _batches(pairs, max_tokens)]

    def finish() -> list[PairScore]:
        found = {fits[row]: log_prob for rows, answer in begun for row, log_prob in zip(rows, answer(), strict=True)}
        return [PairScore(found.get(i), len(ids) + 1, ids.count(UNK_ID)) for i, ids in enumerate(tgt_ids)]

    return finish


def score_pairs(
    model: Model, tokenizers: TokenizerPair, src: Sequence[str], tgt: Sequence[str], max_tokens: int
) -> list[PairScore]:
    """The scores of `begin_scores` by a model in eval mode.

    Raises: ValueError as there; RunError where the model gives a text that fits no finite score.
    """
    return begin_scores(
        tokenizers, max_positions_of(model), src, tgt, max_tokens, lambda pairs: lambda: log_probs(model, pairs)
    )()


def _batches(pairs: list[TokenPair], max_tokens: int) -> list[list[int]]:
    if not pairs:
        return []
    src_lengths = np.array([len(pair.src) + 1 for pair in pairs], dtype=np.int64)
    tgt_lengths = np.array([len(pair.tgt) + 1 for pair in pairs], dtype=np.int64)
    return [batch.tolist() for batch in similar_lengths(src_lengths, tgt_lengths, max_tokens)]


@torch.inference_mode()
def log_probs(model: Model, pairs: list[TokenPair]) -> list[float]:
    """The log-probability of each target given its source: nats, summed over the target's tokens and EOS.

    Raises: RunError where one is not finite.
    """
    device = device_of(model)
    batch = DataCollator(is_packed=packs(device.type == "cuda"))(pairs).to(device)
    of_members = [_target_log_probs(one, one.hidden(batch), batch.tgt_out) for one in members_of(model)]
    of_tokens = mean_of_probs(of_members).double().cpu()
    of_sentences = torch.split(of_tokens, [len(pair.tgt) + 1 for pair in pairs])
    found = [float(of_sentence.sum()) for of_sentence in of_sentences]
    if not all(map(math.isfinite, found)):
        raise not_finite(model)
    return found


def _target_log_probs(model: Transformer, hidden: Tensor, targets: Tensor) -> Tensor:
    """Log-probability (N,) of each target (N,) int64 given the decoder's output (N, D)."""
    n_rows, matrix = max(1, _LOGITS_PER_CHUNK // len(model.output_bias)), model.logits_matrix()
    chunks = []
    for states, wanted in zip(torch.split(hidden, n_rows), torch.split(targets, n_rows), strict=True):
        logits = F.linear(model.logits_inputs(states), matrix, model.output_bias)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # as a search raises them
        chunks.append(-F.cross_entropy(logits, wanted, reduction="none"))
    return torch.cat(chunks)
