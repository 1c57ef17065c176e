"""Untrained models for the tests of search, and slow searches that are right beyond doubt."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from accel_tx.config import DecodeConfig, ModelConfig
from accel_tx.data.tokenizer import BOS_ID, EOS_ID, PAD_ID, UNK_ID
from accel_tx.inference.ensemble import Model, members_of
from accel_tx.inference.hypotheses import Hypothesis
from accel_tx.inference.search import search
from accel_tx.model.transformer import Transformer

Ids = list[int]
VOCAB, MAX_POSITIONS = 60, 24


def logits_of(model: Transformer, hidden: Tensor) -> Tensor:
    """Of decoder output (..., D)."""
    return hidden @ model.projection.T + model.output_bias


@torch.no_grad()
def make_model(seed: int, vocab: int = VOCAB, eos_share: float = 0.2, **fields: Any) -> Transformer:
    """Untrained, in float64 (no near ties), ending sentences at about one position in five; post-norm for odd seeds."""
    torch.manual_seed(seed)
    small: dict[str, Any] = {
        "d_model": 16,
        "d_ff": 24,
        "n_heads": 2,
        "n_encoder_layers": 4,
        "n_decoder_layers": 4,
        "encoder_sharing": "palindrome",
        "decoder_sharing": "palindrome",
        "norm": "pre" if seed % 2 == 0 else "post",
        "max_positions": MAX_POSITIONS,
    }
    model = Transformer(ModelConfig(**{**small, **fields}), vocab, vocab).double().eval()
    src_ids, tgt_in = torch.randint(4, vocab, (30, 5)), torch.randint(4, vocab, (30, 20))
    logits = logits_of(model, model.decode(tgt_in, model.encode(src_ids, None), None))
    margins = logits[..., EOS_ID + 1 :].amax(-1) - logits[..., EOS_ID]
    model.output_bias[EOS_ID] += margins.flatten().quantile(eos_share)
    return model


def make_sources(seed: int, n: int = 12, vocab: int = VOCAB, longest: int = 8) -> list[Ids]:
    """Sources without EOS, of 0 to `longest` tokens."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, longest + 1, (n,), generator=generator).tolist()
    return [torch.randint(4, vocab, (length,), generator=generator).tolist() for length in lengths]


def search_for(
    model: Model, sources: list[Ids], limits: list[int], n_extra_columns: int = 0, **settings: Any
) -> list[list[Hypothesis]]:
    """`search`, with the fields of `DecodeConfig` and its own options by name."""
    rows = [[*source, EOS_ID] for source in sources]
    width = max(map(len, rows)) + n_extra_columns
    src_ids = torch.tensor([row + [PAD_ID] * (width - len(row)) for row in rows])
    src_valid = torch.tensor([[i < len(row) for i in range(width)] for row in rows])
    own = {name: settings.pop(name, None) for name in ("min_len_tokens", "prefixes", "poll")}
    return search(model, src_ids, None if src_valid.all() else src_valid, DecodeConfig(**settings), limits, **own)


@torch.no_grad()
def encoded(model: Transformer, source: Ids) -> Tensor:
    """Encoder output (1, S, D) of one sentence without padding."""
    return model.encode(torch.tensor([[*source, EOS_ID]]), None)


@torch.no_grad()
def forced_log_probs(model: Model, memories: list[Tensor], tgt_in: Tensor) -> Tensor:
    """Of every token (N, T, V) after each of tgt_in (N, T), by one forward pass without cache.

    `memories` are one a member; an ensemble has the logarithm of the mean of its members' probabilities.
    """
    found = []
    for member, memory in zip(members_of(model), memories):
        hidden = member.decode(tgt_in, memory.expand(len(tgt_in), -1, -1), None)
        found.append(logits_of(member, hidden).log_softmax(-1))
    return found[0] if len(found) == 1 else torch.stack(found).exp().mean(0).log()


def next_log_probs(model: Model, memories: list[Tensor], prefix: Ids) -> list[float]:
    """Of every token after the prefix, all of it decoded anew, one sentence, no padding, no cache."""
    found: list[float] = forced_log_probs(model, memories, torch.tensor([[BOS_ID, *prefix]]))[0, -1].tolist()
    return found


def memories_of(model: Model, source: Ids) -> list[Tensor]:
    """Encoder output (1, S, D) of each member, of one sentence without padding."""
    return [encoded(member, source) for member in members_of(model)]


def log_prob_of(model: Model, source: Ids, hypothesis: Hypothesis) -> float:
    """Score a hypothesis again by the forward pass of training."""
    tgt_out = hypothesis.ids if hypothesis.is_cut else [*hypothesis.ids, EOS_ID]
    tgt_in = torch.tensor([[BOS_ID, *tgt_out[:-1]]])
    log_probs = forced_log_probs(model, memories_of(model, source), tgt_in)[0].double()
    return float(sum(log_probs[i, token] for i, token in enumerate(tgt_out)))


def penalty(settings: DecodeConfig, n: int) -> float:
    """The length penalty by its definition."""
    a = settings.length_exponent
    return {"average": float(n) ** a, "gnmt": (5 + n) ** a / 6**a, "none": 1.0}[settings.length_penalty]


def ranked(found: list[Hypothesis], n_best: int) -> list[Hypothesis]:
    """Those that ended by themselves before the cut ones, each by score."""
    return sorted(found, key=lambda one: (one.is_cut, -one.score))[:n_best]


def allowed_tokens(ids: Ids, vocab: int, minimum: int, no_repeat: int, prefix: Ids) -> list[int]:
    """What may follow `ids`, straight from the definitions."""
    if len(ids) < len(prefix):
        return [prefix[len(ids)]]
    allowed = [token for token in range(vocab) if token not in (PAD_ID, UNK_ID, BOS_ID)]
    if no_repeat:
        seen = {tuple(ids[i : i + no_repeat]) for i in range(len(ids) - no_repeat + 1)}
        tail = tuple(ids[len(ids) - no_repeat + 1 :]) if no_repeat > 1 else ()
        allowed = [token for token in allowed if token == EOS_ID or (*tail, token) not in seen]
    if len(ids) < minimum and allowed != [EOS_ID]:
        allowed.remove(EOS_ID)
    return allowed


def exhaustive_search(model: Model, source: Ids, limit: int, settings: DecodeConfig) -> list[Hypothesis]:
    """Every sequence of words up to the limit, scored by one forward pass over the longest ones."""
    vocab = len(members_of(model)[0].output_bias)
    words = [token for token in range(vocab) if token not in (PAD_ID, UNK_ID, BOS_ID, EOS_ID)]
    longest = [list(ids) for ids in itertools.product(words, repeat=limit)]
    tgt_in = torch.tensor([[BOS_ID, *ids] for ids in longest])[:, :limit]
    log_probs = forced_log_probs(model, memories_of(model, source), tgt_in).tolist()
    found: dict[tuple[int, ...], Hypothesis] = {}
    for ids, row in zip(longest, log_probs):
        before = 0.0
        for n in range(limit):
            ended = before + row[n][EOS_ID]
            found[(*ids[:n], EOS_ID)] = Hypothesis(ids[:n], ended, ended / penalty(settings, n + 1))
            before += row[n][ids[n]]
        found[tuple(ids)] = Hypothesis(ids, before, before / penalty(settings, limit), is_cut=True)
    return ranked(list(found.values()), settings.n_best)


def plain_beam_search(
    model: Model,
    source: Ids,
    limit: int,
    settings: DecodeConfig,
    minimum: int = 0,
    prefix: Sequence[int] = (),
) -> list[Hypothesis]:
    """Beam search word by word as the module `beam` describes it, without cache, batch or early stop."""
    memories = memories_of(model, source)
    live: list[tuple[Ids, float]] = [([], 0.0)]
    finished: list[Hypothesis] = []
    for n in range(1, limit + 1):
        continued = []
        for ids, log_prob in live:
            log_probs = next_log_probs(model, memories, ids)
            allowed = allowed_tokens(ids, len(log_probs), minimum, settings.no_repeat_ngram, list(prefix))
            continued += [([*ids, token], log_prob + log_probs[token]) for token in allowed]
        continued.sort(key=lambda one: -one[1])
        taken = continued[: settings.beam_size - len(finished)]
        finished += [
            Hypothesis(ids[:-1], log_prob, log_prob / penalty(settings, n))
            for ids, log_prob in taken
            if ids[-1] == EOS_ID
        ]
        live = [(ids, log_prob) for ids, log_prob in taken if ids[-1] != EOS_ID]
    finished += [Hypothesis(ids, log_prob, log_prob / penalty(settings, limit), is_cut=True) for ids, log_prob in live]
    return ranked(finished, settings.n_best)


def assert_same(found: list[Hypothesis], expected: list[Hypothesis]) -> None:
    """The same ids in the same order, and scores that agree."""
    assert [(one.ids, one.is_cut) for one in found] == [(one.ids, one.is_cut) for one in expected]
    for one, other in zip(found, expected):
        assert math.isclose(one.log_prob, other.log_prob, abs_tol=1e-9)
        assert math.isclose(one.score, other.score, abs_tol=1e-9)


PENALTIES: list[dict[str, Any]] = [
    {"length_penalty": kind, "length_exponent": exponent}
    for kind, exponent in (
        ("average", 1.0),
        ("average", 0.5),
        ("average", 2.0),
        ("gnmt", 0.6),
        ("gnmt", 2.0),
        ("none", 1.0),
    )
]
