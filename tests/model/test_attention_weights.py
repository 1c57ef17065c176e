"""The weights beside the forward pass are those inside it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from accel_tx.config import ModelConfig
from accel_tx.data.collator import TokenPair
from accel_tx.model.attention_weights import cross_attention_weights, weights_of
from accel_tx.model.layers import CrossAttention
from accel_tx.model.transformer import Transformer
from tests.padded import Padded, padded

PAIRS = [(5, 7), (9, 3), (2, 4)]
"""Source and target tokens of three sentences, without BOS and EOS."""


def batch_of(pairs: list[tuple[int, int]], seed: int = 0) -> Padded:
    draw = np.random.default_rng(seed)
    return padded([TokenPair(*(draw.integers(4, 30, n).astype(np.int32) for n in pair)) for pair in pairs])


def weights_for(model: Transformer, batch: Padded) -> torch.Tensor:
    return cross_attention_weights(model, batch.src_ids, batch.src_valid, batch.tgt_in)


def make_model(**fields: Any) -> Transformer:
    torch.manual_seed(1)
    small = {"d_model": 16, "d_ff": 32, "n_heads": 4, "n_encoder_layers": 2, "n_decoder_layers": 4, "max_positions": 32}
    model = Transformer(ModelConfig(**{**small, "tie_embeddings": "none", "init": "xavier", **fields}), 30, 30)
    return model.double().eval()


@pytest.mark.parametrize("fields", [{}, {"norm": "post"}, {"n_heads": 1}, {"decoder_sharing": "palindrome"}])
def test_weights_times_values_give_what_each_layer_gave(fields: dict[str, Any]) -> None:
    model, batch = make_model(**fields), batch_of(PAIRS)
    seen: list[tuple[CrossAttention, Any, torch.Tensor]] = []
    for module in model.modules():
        if isinstance(module, CrossAttention):
            module.register_forward_hook(lambda *call: seen.append(call))
    found = weights_for(model, batch)

    assert len(seen) == len(found) == 4
    with torch.inference_mode():
        for (attention, arguments, output), weights in zip(seen, found, strict=True):
            value = attention.project_memory(arguments[1].view(3, 10, -1)).value
            again = attention.out((weights @ value).transpose(1, 2).flatten(2))
            assert torch.equal(weights, weights_of(attention, *arguments))
            torch.testing.assert_close(again.flatten(0, 1), output, rtol=0, atol=1e-12)


def test_rows_are_shares_of_the_real_source_and_nothing_stays_behind() -> None:
    model, batch = make_model(), batch_of(PAIRS)
    weights = weights_for(model, batch)

    assert weights.shape == (4, 3, 4, 8, 10)  # (L, B, H, T, S), each side with its BOS or EOS
    torch.testing.assert_close(weights.sum(-1), torch.ones(4, 3, 4, 8, dtype=torch.float64))
    assert not weights[:, 0, :, :, 6:].any()
    alone = weights_for(model, batch_of(PAIRS[:1]))
    torch.testing.assert_close(weights[:, :1, :, :8, :6], alone, rtol=0, atol=1e-12)
    assert not any(module._forward_pre_hooks for module in model.modules())
