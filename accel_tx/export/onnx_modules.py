"""The two graphs of the ONNX format as torch modules: the encoder, and one position of the decoder.

Written out with the layers' parts: unlike in our own search the cache grows by concatenation, because a graph cannot
write into its inputs, and padding is always told.
Shape letters: B batch, S source, P positions decoded so far, H heads, K head width, V target vocabulary.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from accel_tx.model.attention import attend_few
from accel_tx.model.layers import CrossAttention, SelfAttention, bias_of
from accel_tx.model.transformer import Transformer


class EncoderGraph(nn.Module):
    """Source ids -> keys and values of the encoder output for each executed decoder layer."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, src_ids: Tensor, src_valid: Tensor) -> tuple[Tensor, ...]:
        """src_ids (B, S) int64 with EOS, src_valid (B, S) bool -> key, value, key, value ..., each (B, H, S, K)."""
        model = self.model
        embedding = model.tgt_embedding if model.src_embedding is None else model.src_embedding
        x, turns = _embedded(model, embedding, src_ids, 0)
        bias = _bias(src_valid, x)
        for i in model.encoder_order:
            layer: Any = model.encoder_layers[i]
            block = layer.self_attention_residual
            x = block.after(x, _attend_own(layer.self_attention, block.before(x), turns, None, bias)[0])
            block = layer.feed_forward_residual
            x = block.after(x, layer.feed_forward(block.before(x)))
        memory = model.encoder_norm(x)
        found: list[Tensor] = []
        for i in model.decoder_order:
            cross: Any = model.decoder_layers[i].cross_attention
            found += [_heads(part, cross.n_heads) for part in cross.key_value(memory).chunk(2, dim=-1)]
        return tuple(found)


class DecoderGraph(nn.Module):
    """One more target token -> logits of the next one, and the caches one position longer."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, tokens: Tensor, src_valid: Tensor, own: tuple[Tensor, ...], memory: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """tokens (B, 1) int64, src_valid (B, S) -> logits (B, V), and what takes the place of `own`.

        `own` are the keys and values so far of each executed layer, each (B, H, P, K); `memory` those of the encoder.
        """
        model = self.model
        x, turns = _embedded(model, model.tgt_embedding, tokens, own[0].shape[2])
        bias = _bias(src_valid, x)
        grown: list[Tensor] = []
        for n, i in enumerate(model.decoder_order):
            layer: Any = model.decoder_layers[i]
            block = layer.self_attention_residual
            answer, *pair = _attend_own(layer.self_attention, block.before(x), turns, own[2 * n : 2 * n + 2], None)
            grown += pair
            x = block.after(x, answer)
            block = layer.cross_attention_residual
            key, value = memory[2 * n], memory[2 * n + 1]
            x = block.after(x, _attend_memory(layer.cross_attention, block.before(x), key, value, bias))
            block = layer.feed_forward_residual
            x = block.after(x, layer.feed_forward(block.before(x)))
        hidden = model.logits_inputs(model.decoder_norm(x)[:, 0])
        logits = F.linear(hidden, model.logits_matrix(), model.output_bias)
        return logits, *grown


def _embedded(
    model: Transformer, embedding: nn.Module, ids: Tensor, first_position: int
) -> tuple[Tensor, Tensor | None]:
    """The residual stream, and the positions that it lacks."""
    positions = model.positions[first_position : first_position + ids.shape[1]]
    x: Tensor = embedding(ids) * math.sqrt(model.config.d_model)
    return (x, positions) if model.config.positions == "rotary" else (x + positions, None)


def _bias(src_valid: Tensor, x: Tensor) -> Tensor:
    bias = bias_of(src_valid[:, None, None, :], x.dtype)
    assert bias is not None
    return bias


def _attend_own(
    attention: SelfAttention,
    x: Tensor,
    turns: Tensor | None,
    past: tuple[Tensor, ...] | None,
    bias: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The block's output, and the keys and values of everything so far."""
    query, key, value = (_heads(part, attention.n_heads) for part in attention.project(x, turns).chunk(3, dim=-1))
    if past is not None:
        key, value = torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)
    return attention.out(_merged(attend_few(query, key, value, bias))), key, value


def _attend_memory(attention: CrossAttention, x: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    query = _heads(attention.query(x), attention.n_heads)
    return attention.out(_merged(attend_few(query, key, value, bias)))  # type: ignore[no-any-return]


def _heads(x: Tensor, n_heads: int) -> Tensor:
    return x.view(*x.shape[:2], n_heads, -1).transpose(1, 2)  # (B, H, T, K)


def _merged(heads: Tensor) -> Tensor:
    return heads.transpose(1, 2).flatten(2)
