"""The log-probability of given pairs: a loop over single tokens, the training loss, batches that change nothing."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
import torch

from accel_tx.config import DecodeConfig, ModelConfig, TokenizerConfig
from accel_tx.data.collator import DataCollator, TokenPair
from accel_tx.data.tokenizer import BOS_ID, EOS_ID, UNK_ID, Tokenizer, TokenizerPair, train_tokenizer
from accel_tx.inference import pair_scores
from accel_tx.inference.pair_scores import score_pairs
from accel_tx.model.transformer import Transformer

SRC = ["the cat drinks", "yes", "the old man and the sea", "", "the garden", "no", "the cat"]
TGT = ["le chat boit", "oui", "le vieil homme et la mer", "rien", "", "non non non", "le zèbre"]
MAX_POSITIONS = 16


@pytest.fixture(scope="module")
def tokenizers() -> TokenizerPair:
    config = TokenizerConfig("wordlevel", vocab_size=100, min_frequency=1, joint=False)
    return TokenizerPair(train_tokenizer(iter(SRC), config), train_tokenizer(iter(TGT[:-1]), config))


@pytest.fixture(scope="module")
def model(tokenizers: TokenizerPair) -> Transformer:
    torch.manual_seed(3)
    config = ModelConfig(
        d_model=16, d_ff=24, n_heads=2, n_encoder_layers=2, n_decoder_layers=2, max_positions=MAX_POSITIONS
    )
    model = Transformer(config, tokenizers.src.vocab_size, tokenizers.tgt.vocab_size).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def ids_of(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode([text.strip()])[0]


@torch.inference_mode()
def one_token_at_a_time(model: Transformer, src_ids: list[int], tgt_ids: list[int]) -> float:
    memory = model.encode(torch.tensor([[*src_ids, EOS_ID]]), None)
    total = 0.0
    for n, wanted in enumerate([*tgt_ids, EOS_ID]):
        hidden = model.decode(torch.tensor([[BOS_ID, *tgt_ids[:n]]]), memory, None)
        logits = model.logits_matrix() @ model.logits_inputs(hidden[0, -1]) + model.output_bias
        total += float(logits.log_softmax(-1)[wanted])
    return total


@pytest.mark.parametrize("max_tokens", [1, 12, 8_192])
def test_the_sum_is_that_of_single_tokens_in_any_batch_and_order(
    max_tokens: int, model: Transformer, tokenizers: TokenizerPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pair_scores, "_LOGITS_PER_CHUNK", 40)
    order = random.Random(max_tokens).sample(range(len(SRC)), len(SRC))
    src, tgt = [SRC[i] for i in order], [f" {TGT[i]} " for i in order]
    for i, score in zip(order, score_pairs(model, tokenizers, src, tgt, max_tokens)):
        src_ids, tgt_ids = ids_of(tokenizers.src, SRC[i]), ids_of(tokenizers.tgt, TGT[i])
        assert score.log_prob == pytest.approx(one_token_at_a_time(model, src_ids, tgt_ids), abs=1e-10)
        assert score.n_tokens == len(tgt_ids) + 1
        assert score.log_prob_per_token == pytest.approx(score.log_prob / score.n_tokens)
        assert score.n_unknown == tgt_ids.count(UNK_ID) == (1 if "zèbre" in TGT[i] else 0)


def test_a_model_of_8_bits_scores_by_its_rounded_matrix(model: Transformer, tokenizers: TokenizerPair) -> None:
    rounded = Transformer(
        dataclasses.replace(model.config, quantization="int8"), tokenizers.src.vocab_size, tokenizers.tgt.vocab_size
    )
    rounded.double().eval().load_state_dict(model.state_dict())
    (score,) = score_pairs(rounded, tokenizers, SRC[:1], TGT[:1], 99)
    ids = ids_of(tokenizers.src, SRC[0]), ids_of(tokenizers.tgt, TGT[0])
    assert score.log_prob == pytest.approx(one_token_at_a_time(rounded, *ids), abs=1e-10)
    assert score.log_prob != pytest.approx(one_token_at_a_time(model, *ids), abs=1e-3)


def test_all_pairs_together_give_the_training_loss_without_smoothing(
    model: Transformer, tokenizers: TokenizerPair
) -> None:
    encoded = zip(tokenizers.src.encode(SRC), tokenizers.tgt.encode(TGT))
    pairs = [TokenPair(np.array(a, np.int32), np.array(b, np.int32)) for a, b in encoded]
    with torch.inference_mode():
        loss = float(model(DataCollator()(pairs), 0.0))
    scores = score_pairs(model, tokenizers, SRC, TGT, 8_192)
    assert -sum(score.log_prob or 0.0 for score in scores) == pytest.approx(loss)


def test_a_pair_longer_than_the_positions_on_a_side_has_no_score_and_moves_no_other(
    model: Transformer, tokenizers: TokenizerPair
) -> None:
    fits, too_long = " ".join(["non"] * (MAX_POSITIONS - 1)), " ".join(["non"] * MAX_POSITIONS)
    src = ["no", "no", " ".join(["no"] * MAX_POSITIONS), "yes"]
    scores = score_pairs(model, tokenizers, src, [fits, too_long, "oui", "oui"], 8_192)
    assert [score.log_prob is None for score in scores] == [False, True, True, False]
    assert [score.n_tokens for score in scores] == [MAX_POSITIONS, MAX_POSITIONS + 1, 2, 2]
    assert scores[1].log_prob_per_token is None
    (alone,) = score_pairs(model, tokenizers, ["yes"], ["oui"], 8_192)
    assert scores[3].log_prob == pytest.approx(alone.log_prob, abs=1e-12)


def test_nothing_to_score_gives_nothing(model: Transformer, tokenizers: TokenizerPair) -> None:
    assert score_pairs(model, tokenizers, [], [], DecodeConfig().max_tokens) == []
    with pytest.raises(ValueError, match="2 sources and 1 targets"):
        score_pairs(model, tokenizers, ["a", "b"], ["c"], 8_192)


def test_bfloat16_logits_are_raised_before_the_softmax(tokenizers: TokenizerPair, model: Transformer) -> None:
    rounded = Transformer(model.config, tokenizers.src.vocab_size, tokenizers.tgt.vocab_size)
    rounded.load_state_dict(model.state_dict())
    hidden, targets = torch.randn(40, 16).bfloat16(), torch.randint(len(model.output_bias), (40,))
    rounded = rounded.bfloat16().eval()
    found = pair_scores._target_log_probs(rounded, hidden, targets)
    logits = torch.nn.functional.linear(hidden, rounded.projection, rounded.output_bias).double()
    expected = logits.log_softmax(-1).gather(1, targets[:, None]).squeeze(1)
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), expected, atol=1e-5)
