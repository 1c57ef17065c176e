"""Sampling: the right distribution, and the same draws from the same seed in any company."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from accel_tx.config import DecodeConfig
from accel_tx.data.tokenizer import BOS_ID, EOS_ID, PAD_ID, UNK_ID
from accel_tx.inference import vocabulary
from accel_tx.inference.hypotheses import Hypothesis
from accel_tx.inference.sampling import draw, uniform
from tests.inference.models import (
    assert_same,
    log_prob_of,
    make_model,
    make_sources,
    memories_of,
    next_log_probs,
    search_for,
)

LIMITS = [12, 9, 3, 1, 7, 14]


def test_the_seed_alone_decides_in_any_batch_and_number_of_samples() -> None:
    model, sources = make_model(4), make_sources(4, n=6)
    fields = {"sampling": True, "n_best": 3, "temperature": 1.2}
    together = search_for(model, sources, LIMITS, 2, **fields)
    for source, limit, found in zip(sources, LIMITS, together):
        assert_same(search_for(model, [source], [limit], **fields)[0], found)
        more = search_for(model, [source], [limit], **{**fields, "n_best": 5})[0]
        assert [one.ids for one in found] == [one.ids for one in more[:3]]
    assert search_for(model, sources, LIMITS, sampling_seed=2, **fields) != together


def test_samples_are_scored_by_the_whole_vocabulary_without_temperature_in_the_order_of_their_numbers() -> None:
    model, sources = make_model(4), make_sources(4, n=6)
    found = search_for(model, sources, LIMITS, sampling=True, n_best=4, temperature=0.7, top_k=9)
    for source, of_line in zip(sources, found):
        assert [one.place for one in of_line] == [0, 1, 2, 3]
        for one in of_line:
            assert one.log_prob == pytest.approx(log_prob_of(model, source, one), abs=1e-9)
            assert not {PAD_ID, UNK_ID, BOS_ID, EOS_ID} & set(one.ids)


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({}, None),
        ({"temperature": 0.5}, None),
        ({"top_k": 3}, 3),
        ({"top_p": 0.6}, None),
        ({"top_k": 6, "top_p": 0.5}, None),
    ],
    ids=str,
)
def test_first_tokens_come_as_often_as_their_probability_says(fields: dict[str, float], kept: int | None) -> None:
    """4,000 draws; the limits are 4.5 standard deviations."""
    model, source, n = make_model(4, vocab=12), [5, 6, 7], 4_000
    counts: Counter[int] = Counter()
    for seed in range(20):
        (found,) = search_for(model, [source], [1], sampling=True, sampling_seed=seed, n_best=n // 20, **fields)
        counts.update(one.ids[0] if one.ids else EOS_ID for one in found)
    probs = np.exp(np.array(next_log_probs(model, memories_of(model, source), [])) / fields.get("temperature", 1.0))
    probs[[PAD_ID, UNK_ID, BOS_ID]] = 0
    order = np.argsort(-probs)[: int(fields.get("top_k", len(probs)))]
    shares = probs[order] / probs[order].sum()
    order = order[np.cumsum(shares) - shares < fields.get("top_p", 1.0)]
    shares = probs[order] / probs[order].sum()
    assert set(counts) <= set(order.tolist())
    for token, share in zip(order, shares):
        assert abs(counts[token] - n * share) <= 4.5 * np.sqrt(n * share * (1 - share)) + 1
    if kept:
        assert len(counts) == kept


def test_the_ends_of_the_unit_interval_draw_tokens_that_have_a_probability() -> None:
    log_probs = torch.tensor([[-torch.inf, 0.5, 0.5, -torch.inf]]).log_softmax(-1).expand(2, -1)
    numbers = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    for settings in (
        DecodeConfig(sampling=True),
        DecodeConfig(sampling=True, top_p=0.99),
        DecodeConfig(sampling=True, top_k=4),
    ):
        assert set(draw(log_probs, numbers, settings).tolist()) == {1, 2}


def test_prefixes_and_lengths_hold_for_samples_too() -> None:
    model, sources = make_model(4), make_sources(4, n=3)
    found = search_for(
        model, sources, [9] * 3, sampling=True, n_best=5, prefixes=[[7, 8], [], [9]], min_len_tokens=[5, 5, 0]
    )
    assert all(one.ids[:2] == [7, 8] for one in found[0])
    assert all(len(one.ids) >= 5 for of_line in found[:2] for one in of_line)


def test_numbers_of_a_sample_and_position_depend_on_nothing_else() -> None:
    numbers = uniform([5, 6], 1, 4, 9)
    assert (numbers[:2, :3] == uniform([5, 6], 1, 2, 3)).all()
    assert not (numbers == uniform([6, 5], 1, 4, 9)).any()
    assert ((numbers >= 0) & (numbers < 1)).all()


@pytest.mark.parametrize("prefixes", [None, [[7, 8], [], [9]]])
def test_rows_may_be_taken_a_few_at_a_time(prefixes: list[list[int]] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def found() -> list[list[Hypothesis]]:
        return search_for(model, sources, [9] * 3, sampling=True, n_best=5, prefixes=prefixes)

    model, sources = make_model(4), make_sources(4, n=3)
    at_once = found()
    monkeypatch.setattr(vocabulary, "_LOGITS_PER_BLOCK", 4 * 60)
    for some, same in zip(found(), at_once):
        assert_same(some, same)
