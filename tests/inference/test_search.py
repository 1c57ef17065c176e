"""Cached, batched greedy search against a reference that starts anew at every position."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from accel_tx.config import DecodeConfig
from accel_tx.data.tokenizer import BOS_ID, EOS_ID, PAD_ID, UNK_ID
from accel_tx.inference.search import search as search_ids
from accel_tx.model.cache import DecoderCache
from accel_tx.model.transformer import Transformer
from tests.inference.models import MAX_POSITIONS, VOCAB, Ids, encoded, logits_of, make_model, make_sources, search_for

SEEDS = [4, 7, 10, 13]  # untrained models that end their sentences at many places; odd seeds are post-norm


@torch.no_grad()
def slow_greedy(model: Transformer, source: Ids, limit: int) -> Ids:
    """Decode the whole prefix again for every token, one sentence, no padding, no cache."""
    prefix, memory = [BOS_ID], encoded(model, source)
    while len(prefix) <= limit:
        logits = logits_of(model, model.decode(torch.tensor([prefix]), memory, None))[0, -1].tolist()
        allowed = [i for i in range(VOCAB) if i not in (PAD_ID, UNK_ID, BOS_ID)]
        best = max(allowed, key=logits.__getitem__)
        if best == EOS_ID:
            break
        prefix.append(best)
    return prefix[1:]


def search(model: Transformer, sources: list[Ids], limits: list[int], n_extra_columns: int = 0) -> list[Ids]:
    """Greedy."""
    return [found[0].ids for found in search_for(model, sources, limits, n_extra_columns, beam_size=1)]


@pytest.mark.parametrize("seed", SEEDS)
def test_cached_batched_search_equals_decoding_every_prefix_anew(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, sources = make_model(seed), make_sources(seed)
    limits = [16, 20, 3, 1, 7, 20, 12, 2, 20, 20, 5, 18]
    n_left: list[int] = []
    keep = DecoderCache.keep

    def noted(self: DecoderCache, rows: Tensor) -> None:
        n_left.append(len(rows))
        keep(self, rows)

    monkeypatch.setattr(DecoderCache, "keep", noted)
    hypotheses = search(model, sources, limits)
    assert hypotheses == [slow_greedy(model, source, limit) for source, limit in zip(sources, limits)]
    # The test is only worth something where sentences end at many places, some by themselves, some at their limit.
    assert len({len(ids) for ids in hypotheses}) >= 4
    assert {len(ids) == limit for ids, limit in zip(hypotheses, limits)} == {True, False}
    assert len(n_left) >= 2
    assert n_left == sorted(n_left, reverse=True)


@pytest.mark.parametrize("seed", SEEDS)
def test_batched_equals_one_by_one_in_any_order(seed: int) -> None:
    model, sources = make_model(seed), make_sources(seed)
    limits = [20 - i for i in range(len(sources))]
    singles = [search(model, [source], [limit])[0] for source, limit in zip(sources, limits)]
    assert search(model, sources, limits) == singles
    order = torch.randperm(len(sources), generator=torch.Generator().manual_seed(seed)).tolist()
    shuffled = search(model, [sources[i] for i in order], [limits[i] for i in order])
    assert shuffled == [singles[i] for i in order]


@pytest.mark.parametrize("seed", SEEDS)
def test_padding_in_the_source_changes_nothing(seed: int) -> None:
    model, sources = make_model(seed), make_sources(seed)
    limits = [15] * len(sources)
    assert search(model, sources, limits, n_extra_columns=6) == search(model, sources, limits)


@pytest.mark.parametrize("seed", SEEDS)
def test_sentence_stops_at_its_own_limit_which_changes_nothing_before(seed: int) -> None:
    model, sources = make_model(seed), make_sources(seed)
    unlimited = search(model, sources, [MAX_POSITIONS] * len(sources))
    limits = [1 + i % 6 for i in range(len(sources))]
    assert search(model, sources, limits) == [ids[:limit] for ids, limit in zip(unlimited, limits)]
    assert search(model, sources, [1] * len(sources)) == [ids[:1] for ids in unlimited]


@pytest.mark.parametrize("seed", SEEDS)
def test_limits_beyond_the_positions_are_clamped(seed: int) -> None:
    model, sources = make_model(seed), make_sources(seed)
    with torch.no_grad():
        model.output_bias[EOS_ID] = -1e6
    hypotheses = search(model, sources, [1_000, *[MAX_POSITIONS] * (len(sources) - 1)])
    assert {len(ids) for ids in hypotheses} == {MAX_POSITIONS}


@pytest.mark.parametrize("wanted", [PAD_ID, UNK_ID, BOS_ID])
def test_special_tokens_are_never_produced_however_probable(wanted: int) -> None:
    model, sources = make_model(SEEDS[0]), make_sources(SEEDS[0])
    expected = search(model, sources, [15] * len(sources))
    with torch.no_grad():
        model.output_bias[wanted] = 1e6
    hypotheses = search(model, sources, [15] * len(sources))
    assert hypotheses == expected
    assert any(hypotheses)
    assert not {token for ids in hypotheses for token in ids} & {PAD_ID, UNK_ID, BOS_ID, EOS_ID}


def test_model_that_always_ends_gives_empty_sentences_after_one_position(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sources = make_model(SEEDS[0]), make_sources(SEEDS[0])
    with torch.no_grad():
        model.output_bias[EOS_ID] = 1e6
    n_steps, step = 0, Transformer.step

    def counted(self: Transformer, tokens: Tensor, cache: DecoderCache) -> Tensor:
        nonlocal n_steps
        n_steps += 1
        return step(self, tokens, cache)

    monkeypatch.setattr(Transformer, "step", counted)
    assert search(model, sources, [20] * len(sources)) == [[]] * len(sources)
    assert n_steps == 1


def test_search_builds_no_graph() -> None:
    model = make_model(SEEDS[0])
    src_ids = torch.tensor([[5, 6, EOS_ID]])
    assert torch.is_grad_enabled()
    with torch.autograd.graph.saved_tensors_hooks(lambda _: pytest.fail("a tensor was saved"), lambda x: x):
        search_ids(model, src_ids, None, DecodeConfig(), [3])
