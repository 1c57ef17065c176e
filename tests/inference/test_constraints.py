"""Lengths, forced prefixes and n-grams: each against a plain beam search that applies the definitions."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch

from accel_tx.config import DecodeConfig
from accel_tx.data.tokenizer import BOS_ID, EOS_ID, UNK_ID
from accel_tx.inference.constraints import Constraints
from tests.inference.models import assert_same, log_prob_of, make_model, make_sources, plain_beam_search, search_for

SEEDS = [4, 7]
LIMITS = [12, 9, 3, 1, 7]
MINIMA = [5, 2, 9, 0, 7]
PREFIXES = [[5, 6, 7], [], [UNK_ID, 9], [], [8]]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("beam_size", [1, 3])
@pytest.mark.parametrize("no_repeat", [0, 1, 2])
@pytest.mark.parametrize("what", ["minima", "prefixes", "both"])
def test_constrained_search_equals_the_plain_one(seed: int, beam_size: int, no_repeat: int, what: str) -> None:
    model, sources = make_model(seed, vocab=12), make_sources(seed, n=5, vocab=12)
    fields: dict[str, Any] = {"beam_size": beam_size, "n_best": beam_size, "no_repeat_ngram": no_repeat}
    minima = [0] * 5 if what == "prefixes" else MINIMA
    prefixes = [[]] * 5 if what == "minima" else PREFIXES
    found = search_for(model, sources, LIMITS, min_len_tokens=minima, prefixes=prefixes, **fields)
    for i, one in enumerate(found):
        minimum = min(minima[i], LIMITS[i] - 1)
        expected = plain_beam_search(model, sources[i], LIMITS[i], DecodeConfig(**fields), minimum, prefixes[i])
        assert_same(one, expected)
        assert all(hypothesis.ids[: len(prefixes[i])] == prefixes[i] for hypothesis in one)
        assert all(
            hypothesis.log_prob == pytest.approx(log_prob_of(model, sources[i], hypothesis)) for hypothesis in one
        )


def test_no_ngram_stands_twice_where_it_else_would() -> None:
    model, sources = make_model(4, vocab=8, eos_share=0.02), make_sources(4, vocab=8)

    def repeated(no_repeat: int) -> int:
        found = search_for(model, sources, [20] * len(sources), beam_size=2, no_repeat_ngram=no_repeat)
        bigrams = [list(pairwise(one[0].ids)) for one in found]
        return sum(len(of_line) - len(set(of_line)) for of_line in bigrams)

    assert repeated(0) > 10
    assert repeated(2) == 0


def test_a_minimum_gives_way_where_only_eos_is_left() -> None:
    """Four words, none of them twice, cannot make six tokens."""
    found = search_for(make_model(4, vocab=8), [[5, 6]], [12], beam_size=1, no_repeat_ngram=1, min_len_tokens=[6])
    assert sorted(found[0][0].ids) == [4, 5, 6, 7]
    assert not found[0][0].is_cut


@pytest.mark.parametrize(
    ("limit", "prefix", "message"),
    [
        (0, [], "a length limit is 0; expected at least 1 token"),
        (3, [5, 6, 7], "a prefix has 3 tokens; expected fewer than the length limit 3"),
        (30, [5] * 10, "a prefix has 10 tokens; expected fewer than the length limit 10"),
        (9, [5, EOS_ID], "holds PAD, BOS or EOS"),
        (9, [BOS_ID], "holds PAD, BOS or EOS"),
    ],
)
def test_what_cannot_be_is_refused(limit: int, prefix: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Constraints([5, limit], None, [[], prefix], 0, max_positions=10, device=torch.device("cpu"))
