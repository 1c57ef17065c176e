"""Beam search against exhaustive search, against a plain one, and against itself in other company."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from accel_tx.config import DecodeConfig
from accel_tx.config.decode import LARGEST_EXPONENT
from accel_tx.inference.beam import Beams
from accel_tx.inference.hypotheses import length_penalty
from accel_tx.model.transformer import Transformer
from tests.inference.models import (
    PENALTIES,
    assert_same,
    exhaustive_search,
    log_prob_of,
    make_model,
    make_sources,
    plain_beam_search,
    search_for,
)
from tests.inference.models import (
    penalty as expected_penalty,
)

SEEDS = [4, 9, 7, 12]  # of every second pair one model is pre-norm and one post-norm
LIMITS = [12, 9, 3, 1, 7, 14, 12, 2, 6, 10, 5, 8]
SMALLEST = {"d_model": 8, "d_ff": 8, "n_encoder_layers": 1, "n_decoder_layers": 1}
UNSHARED = {"encoder_sharing": "none", "decoder_sharing": "none"}


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    n_words=st.integers(1, 3),
    limit=st.integers(1, 4),
    eos_share=st.sampled_from([0.02, 0.2, 0.5]),
    penalty=st.sampled_from(PENALTIES),
    n_best=st.sampled_from([1, 2, 5, 200]),
)
def test_a_beam_that_holds_every_hypothesis_is_exhaustive(
    seed: int, n_words: int, limit: int, eos_share: float, penalty: dict[str, Any], n_best: int
) -> None:
    model = make_model(seed, vocab=4 + n_words, eos_share=eos_share, **SMALLEST, **UNSHARED)
    sources = make_sources(seed, n=2, vocab=4 + n_words, longest=3)
    fields = {**penalty, "n_best": n_best, "beam_size": 200}
    found = search_for(model, sources, [limit, max(1, limit - 1)], **fields)
    for one, source, own_limit in zip(found, sources, [limit, max(1, limit - 1)]):
        assert_same(one, exhaustive_search(model, source, own_limit, DecodeConfig(**fields)))


@pytest.mark.parametrize(
    ("penalty", "seed"), [(penalty, seed) for n, penalty in enumerate(PENALTIES) for seed in SEEDS[n % 2 :: 2]]
)
def test_narrow_beams_equal_a_plain_search(penalty: dict[str, Any], seed: int) -> None:
    model, sources = make_model(seed), make_sources(seed, n=5)
    for beam_size, n_best in ((2, 1), (3, 3), (5, 2)):
        fields = {**penalty, "beam_size": beam_size, "n_best": n_best}
        found = search_for(model, sources, LIMITS[:5], **fields)
        for one, source, limit in zip(found, sources, LIMITS):
            assert_same(one, plain_beam_search(model, source, limit, DecodeConfig(**fields)))


@pytest.mark.parametrize("seed", SEEDS)
def test_batched_equals_one_by_one_in_any_order_and_padding_changes_nothing(seed: int) -> None:
    model, sources = make_model(seed), make_sources(seed)
    fields = {"beam_size": 4, "n_best": 4}
    singles = [search_for(model, [source], [limit], **fields)[0] for source, limit in zip(sources, LIMITS)]
    order = torch.randperm(len(sources), generator=torch.Generator().manual_seed(seed)).tolist()
    shuffled = search_for(model, [sources[i] for i in order], [LIMITS[i] for i in order], 3, **fields)
    for i, found in zip(order, shuffled):
        assert_same(found, singles[i])


@pytest.mark.parametrize("penalty", PENALTIES, ids=str)
def test_log_prob_is_that_of_the_training_forward_and_score_divides_it(penalty: dict[str, Any]) -> None:
    """In float32, as models are used."""
    model, sources = make_model(4).float(), make_sources(4)
    fields = {**penalty, "beam_size": 4, "n_best": 4}
    lengths = set()
    for source, found in zip(sources, search_for(model, sources, LIMITS, **fields)):
        for one in found:
            n = len(one.ids) + (not one.is_cut)
            assert one.log_prob == pytest.approx(log_prob_of(model, source, one), abs=1e-5)
            assert one.score == pytest.approx(one.log_prob / expected_penalty(DecodeConfig(**fields), n), abs=1e-12)
            lengths.add((n, one.is_cut))
    assert {is_cut for _, is_cut in lengths} == {True, False}
    assert len(lengths) > 8


@pytest.mark.parametrize("penalty", PENALTIES, ids=str)
def test_stopping_early_saves_positions_and_changes_nothing(
    penalty: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, sources = make_model(4), make_sources(4)
    fields = {**penalty, "beam_size": 6}
    n_steps, step = 0, Transformer.step

    def counted(self: Transformer, *arguments: Any) -> Any:
        nonlocal n_steps
        n_steps += 1
        return step(self, *arguments)

    monkeypatch.setattr(Transformer, "step", counted)
    stopped = [search_for(model, [source], [20], **fields)[0] for source in sources]
    n_stopped, n_steps = n_steps, 0
    monkeypatch.setattr(Beams, "_stop_where_nothing_better_can_come", lambda self: None)
    for source, found in zip(sources, stopped):
        assert_same(found, search_for(model, [source], [20], **fields)[0])
    assert n_stopped <= n_steps
    if penalty["length_penalty"] == "none":
        assert n_stopped < n_steps


@pytest.mark.parametrize("kind", ["average", "gnmt"])
def test_the_largest_exponent_allows_for_any_length(kind: Any) -> None:
    decode = DecodeConfig(length_penalty=kind, length_exponent=math.nextafter(LARGEST_EXPONENT, 0.0))
    assert 1 < length_penalty(decode, 10) < length_penalty(decode, 2**53) < math.inf
