"""Ensembles against the mean of their members' probabilities, and against the models that they are made of."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from accel_tx.config import DecodeConfig, RunError, TokenizerConfig
from accel_tx.data.tokenizer import EOS_ID, UNK_ID, TokenizerPair, train_tokenizer
from accel_tx.inference import pair_scores, unknown, vocabulary
from accel_tx.inference.ensemble import Ensemble, mean_of_probs
from accel_tx.inference.hypotheses import Hypothesis
from accel_tx.inference.pair_scores import score_pairs
from accel_tx.inference.translator import Translator
from accel_tx.inference.unknown import Answered, copied_words
from tests.inference.models import (
    MAX_POSITIONS,
    PENALTIES,
    assert_same,
    exhaustive_search,
    log_prob_of,
    make_model,
    make_sources,
    plain_beam_search,
    search_for,
)

LIMITS = [12, 9, 3, 1, 7, 14, 12, 2, 6, 10, 5, 8]
SMALLEST: dict[str, Any] = {"d_model": 8, "d_ff": 8, "n_encoder_layers": 1, "n_decoder_layers": 1}
UNSHARED = {"encoder_sharing": "none", "decoder_sharing": "none"}
OTHER_KIND: dict[str, Any] = {
    "d_model": 24,
    "d_ff": 16,
    "n_heads": 3,
    "n_encoder_layers": 1,
    "n_decoder_layers": 2,
    "positions": "rotary",
    "norm": "post",
    "tie_embeddings": "none",
    **UNSHARED,
}


def make_ensemble(seed: int, vocab: int = 60) -> Ensemble:
    """Three models of different depth, width and kind."""
    others = make_model(seed + 1, vocab, **OTHER_KIND), make_model(seed + 2, vocab, **SMALLEST, **UNSHARED)
    return Ensemble((make_model(seed, vocab), *others))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    n_words=st.integers(1, 3),
    limit=st.integers(1, 4),
    penalty=st.sampled_from(PENALTIES),
    n_best=st.sampled_from([1, 5, 200]),
)
def test_a_beam_that_holds_every_hypothesis_is_exhaustive(
    seed: int, n_words: int, limit: int, penalty: dict[str, Any], n_best: int
) -> None:
    vocab = 4 + n_words
    small, wide = make_model(seed, vocab, **SMALLEST, **UNSHARED), make_model(seed + 1, vocab, **OTHER_KIND)
    sources = make_sources(seed, n=2, vocab=vocab, longest=3)
    fields = {**penalty, "n_best": n_best, "beam_size": 200}
    ensemble = Ensemble((small, wide))
    for one, source in zip(search_for(ensemble, sources, [limit] * 2, **fields), sources):
        assert_same(one, exhaustive_search(ensemble, source, limit, DecodeConfig(**fields)))


@pytest.mark.parametrize("beam_size", [1, 2, 5])
@pytest.mark.parametrize("block", [40, 1 << 21])
def test_narrow_beams_equal_a_plain_search_with_all_that_may_be_asked(
    beam_size: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vocabulary, "_LOGITS_PER_BLOCK", block)
    ensemble, sources = make_ensemble(4), make_sources(4, n=6)
    prefixes = [[], [7, 9], [], [], [30], [5, 5, 5]]
    minima = [0, 4, 2, 0, 5, 9]
    fields = {"beam_size": beam_size, "n_best": beam_size, "no_repeat_ngram": 2}
    found = search_for(ensemble, sources, LIMITS[:6], min_len_tokens=minima, prefixes=prefixes, **fields)
    for one, source, limit, low, prefix in zip(found, sources, LIMITS, minima, prefixes):
        minimum = min(low, limit - 1)
        assert_same(one, plain_beam_search(ensemble, source, limit, DecodeConfig(**fields), minimum, prefix))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("how", [{"beam_size": 4}, {"sampling": True, "temperature": 0.7, "top_k": 9}], ids=str)
def test_scores_are_those_of_the_members_forward_passes(how: dict[str, Any], dtype: torch.dtype) -> None:
    ensemble, sources = make_ensemble(4), make_sources(4)
    ensemble = Ensemble(tuple(member.to(dtype) for member in ensemble.members))
    tolerance = 1e-9 if dtype == torch.float64 else 1e-4
    lengths = set()
    for source, found in zip(sources, search_for(ensemble, sources, LIMITS, n_best=4, **how)):
        for one in found:
            assert one.log_prob == pytest.approx(log_prob_of(ensemble, source, one), abs=tolerance)
            lengths.add((len(one.ids), one.is_cut))
    assert len(lengths) > 8


@pytest.mark.parametrize(
    "how", [{"beam_size": 1}, {"beam_size": 4, "n_best": 4}, {"sampling": True, "n_best": 3}], ids=str
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_model_with_itself_is_that_model(how: dict[str, Any], dtype: torch.dtype) -> None:
    model, sources = make_model(4).to(dtype), make_sources(4)
    alone, found = search_for(model, sources, LIMITS, **how), search_for(Ensemble((model,) * 3), sources, LIMITS, **how)
    tolerance = 1e-9 if dtype == torch.float64 else 1e-4
    for of_ensemble, of_model in zip(found, alone):
        assert [one.ids for one in of_ensemble] == [one.ids for one in of_model]
        for one, other in zip(of_ensemble, of_model):
            assert (one.log_prob, one.score) == pytest.approx((other.log_prob, other.score), abs=tolerance)


def test_members_in_bfloat16_are_mixed_in_float32() -> None:
    ensemble, sources = Ensemble(tuple(member.bfloat16() for member in make_ensemble(4).members)), make_sources(4)
    hidden = torch.randn(5, sum(member.config.d_model for member in ensemble.members)).bfloat16()
    with torch.inference_mode():
        log_probs = vocabulary.next_tokens_of(ensemble).log_probs(hidden)
    assert log_probs.dtype == torch.float32
    assert log_probs.exp().sum(-1).tolist() == pytest.approx([1.0] * 5, abs=1e-5)
    for source, found in zip(sources, search_for(ensemble, sources, LIMITS, beam_size=3, n_best=3)):
        for one in found:  # steps and whole passes round differently
            assert one.log_prob == pytest.approx(log_prob_of(ensemble, source, one), rel=0.02, abs=0.1)


def test_samples_are_drawn_from_the_mixture_and_not_from_a_member() -> None:
    members = make_model(4, vocab=12), make_model(5, vocab=12, **OTHER_KIND)
    with torch.no_grad():
        members[0].output_bias[5] += 50
        members[1].output_bias[6] += 50
    (found,) = search_for(Ensemble(members), [[7, 8]], [1], sampling=True, n_best=400)
    counts = Counter(one.ids[0] for one in found)
    assert set(counts) == {5, 6}
    assert 150 < counts[5] < 250
    assert [one.log_prob for one in found] == pytest.approx([-math.log(2)] * 400, abs=1e-6)


def test_what_no_float_holds_as_a_probability_has_a_logarithm() -> None:
    found = mean_of_probs([torch.tensor([-200.0, -300.0, 0.0]), torch.tensor([-300.0, -200.0, -torch.inf])])
    assert found.tolist() == pytest.approx([-200 - math.log(2)] * 2 + [-math.log(2)])


def test_a_single_model_is_left_as_it_is_to_the_last_bit() -> None:
    log_probs = torch.randn(40).log_softmax(0)
    assert mean_of_probs([log_probs]) is log_probs
    model = make_model(4).float()
    assert type(vocabulary.next_tokens_of(model)) is vocabulary.NextTokens


def test_the_fewest_positions_of_a_member_are_the_limit() -> None:
    members = make_model(4), make_model(6, max_positions=20)
    for member in members:
        with torch.no_grad():
            member.output_bias[EOS_ID] = -1e6
    found = search_for(Ensemble(members), make_sources(4), [MAX_POSITIONS] * 12)
    assert {len(one.ids) for of_line in found for one in of_line} == {20}


@pytest.mark.parametrize("which", [0, 1])
def test_a_member_whose_scores_are_not_finite_is_not_outvoted(which: int) -> None:
    ensemble = make_ensemble(4)
    with torch.no_grad():
        ensemble.members[which].output_bias[9] = torch.nan
    for how in ({"beam_size": 3}, {"sampling": True}):
        with pytest.raises(RunError, match="scores are not finite"):
            search_for(ensemble, make_sources(4), LIMITS, **how)


def test_a_search_can_be_abandoned() -> None:
    def poll() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        search_for(make_ensemble(4), make_sources(4), LIMITS, poll=poll)


def test_members_of_different_vocabularies_are_refused() -> None:
    with pytest.raises(ValueError, match=r"vocabularies have \[12, 13\] entries; expected one size"):
        Ensemble((make_model(4, vocab=12), make_model(4, vocab=13)))
    with pytest.raises(ValueError, match=r"have \[\] entries"):
        Ensemble(())


# With texts

LINES = [
    "the cat drinks water",
    "the old man and the sea",
    "it is late",
    "where is the garden",
    "",
    "water is in the garden and the sea is old",
]


@pytest.fixture(scope="module")
def tokenizers() -> TokenizerPair:
    tokenizer = train_tokenizer(iter(LINES * 2), TokenizerConfig("wordlevel", vocab_size=60, min_frequency=1))
    return TokenizerPair(tokenizer, tokenizer)


@pytest.mark.parametrize("chunk", [40, 1 << 24])
def test_given_pairs_are_scored_by_the_mixture(
    chunk: int, tokenizers: TokenizerPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pair_scores, "_LOGITS_PER_CHUNK", chunk)
    ensemble = make_ensemble(4, tokenizers.tgt.vocab_size)
    targets = LINES[::-1]
    for src, tgt, score in zip(LINES, targets, score_pairs(ensemble, tokenizers, LINES, targets, 30)):
        (src_ids,), (tgt_ids,) = tokenizers.src.encode([src]), tokenizers.tgt.encode([tgt])
        assert score.log_prob == pytest.approx(log_prob_of(ensemble, src_ids, Hypothesis(tgt_ids, 0, 0)), abs=1e-9)


def test_scores_of_pairs_are_those_of_the_search(tokenizers: TokenizerPair) -> None:
    ensemble = make_ensemble(4, tokenizers.tgt.vocab_size)
    translator = Translator(ensemble, tokenizers, DecodeConfig(beam_size=4, n_best=4, max_len_extra=4))
    n = 0
    for line, found in zip(LINES, translator.n_best(LINES)):
        whole = [one for one in found if not one.is_cut and line]
        texts = [one.text for one in whole]
        scores = score_pairs(ensemble, tokenizers, [line] * len(texts), texts, 99)
        assert [score.log_prob for score in scores] == pytest.approx([one.log_prob for one in whole], abs=1e-9)
        n += len(whole)
    assert n > 8


def test_lines_are_split_to_fit_the_member_of_the_fewest_positions(tokenizers: TokenizerPair) -> None:
    vocab = tokenizers.tgt.vocab_size
    ensemble = Ensemble((make_model(4, vocab), make_model(5, vocab, max_positions=20)))
    translator = Translator(ensemble, tokenizers, DecodeConfig())
    lines = ["water " * 19, "water " * 20]
    assert [line.n_parts for line in translator.translate_lines(lines)] == [1, 2]
    assert translator.max_positions == 20
    assert [score.log_prob is None for score in score_pairs(ensemble, tokenizers, lines, lines, 99)] == [False, True]


def test_unknown_words_go_where_the_members_look_on_average(monkeypatch: pytest.MonkeyPatch) -> None:
    ensemble = make_ensemble(4)
    # The first unknown word's weights (two heads) for three places, by member; the second word has the rest.
    of_first = dict(zip(map(id, ensemble.members), ([0.6, 0.4, 0.0], [0.1, 0.9, 0.0], [0.1, 0.4, 0.0])))

    def weights(model: Any, src_ids: torch.Tensor, src_valid: object, tgt_in: torch.Tensor) -> torch.Tensor:
        found = torch.zeros(len(tgt_in), tgt_in.shape[1], src_ids.shape[1])
        for at, share in enumerate(of_first[id(model)]):
            found[:, at, 1], found[:, at, 2] = share, 0.5
        return found[None, :, None].expand(2, -1, 2, -1, -1)

    monkeypatch.setattr(unknown, "cross_attention_weights", weights)
    answered = Answered([7, UNK_ID, UNK_ID], [(1, "Kim"), (2, "Lee")], [UNK_ID, UNK_ID, 9])
    assert copied_words(ensemble, [answered]) == [["Lee", "Kim"]]
    assert copied_words(ensemble.members[0], [answered]) == [["Kim", "Lee"]]


def test_unknown_words_are_copied_by_an_ensemble(tokenizers: TokenizerPair) -> None:
    ensemble = make_ensemble(4, tokenizers.tgt.vocab_size)
    with torch.no_grad():
        for member in ensemble.members:
            member.output_bias[UNK_ID] += 50
    decode = DecodeConfig(unknown="copy", max_len_extra=6, beam_size=1)
    (found,) = Translator(ensemble, tokenizers, decode).translate_lines(["the Kim and Lee drinks Rex"])
    assert found.unknown == ["Kim", "Lee", "Rex"]
    assert set(found.translations[0].copied) <= {"Kim", "Lee", "Rex"}
    assert found.translations[0].copied
    same = Translator(Ensemble((ensemble.members[0],) * 2), tokenizers, decode)
    alone = Translator(ensemble.members[0], tokenizers, decode)
    line = ["the Kim and Lee drinks Rex"]
    assert same.translate(line) == alone.translate(line)


def test_a_translator_of_an_ensemble_has_no_single_model(tokenizers: TokenizerPair) -> None:
    ensemble = make_ensemble(4, tokenizers.tgt.vocab_size)
    with pytest.raises(ValueError, match="ensemble of 3; expected a single one"):
        _ = Translator(ensemble, tokenizers, DecodeConfig()).transformer
    assert Translator(ensemble.members[1], tokenizers, DecodeConfig()).transformer is ensemble.members[1]
