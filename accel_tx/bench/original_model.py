"""Baseline: the Transformer as the class project that this one grew from built it. Slow on purpose, and only here.

Query, key and value have projections of their own; attention is matmul, masked_fill, softmax, matmul over boolean
masks that are held in memory; every target position, padding too, goes through the vocabulary projection. The sizes,
the layer sharing and the number of parameters are those of `accel_tx.model.transformer` with the same config, and with
the same weights it has the same loss. In two things it is better than what it stands for: cross-attention has weights
that train, and its norms are torch's own, not written out.

Shape letters: B batch, S source, T target, H heads, K head width, D `d_model`, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from accel_tx.config import ModelConfig
from accel_tx.data.tokenizer import PAD_ID
from accel_tx.model.layers import sinusoidal_positions


@dataclass
class OriginalBatch:
    """Padded ids and masks; a mask is True where attention may look."""

    src_ids: Tensor
    """(B, S) int64."""
    src_mask: Tensor
    """(B, 1, 1, S) bool."""
    tgt_in: Tensor
    """(B, T) int64."""
    tgt_mask: Tensor
    """(B, 1, T, T) bool: causal, and no padding."""
    tgt_out: Tensor
    """(B, T) int64."""

    @classmethod
    def from_ids(cls, src_ids: Tensor, tgt_in: Tensor, tgt_out: Tensor) -> OriginalBatch:
        """Build the masks."""
        causal = torch.ones(1, 1, tgt_in.shape[1], tgt_in.shape[1], dtype=torch.bool).tril()
        tgt_mask = (tgt_in != PAD_ID)[:, None, None, :] & causal
        return cls(src_ids, (src_ids != PAD_ID)[:, None, None, :], tgt_in, tgt_mask, tgt_out)

    def to(self, device: torch.device) -> OriginalBatch:
        """The batch on `device`."""
        tensors = (self.src_ids, self.src_mask, self.tgt_in, self.tgt_mask, self.tgt_out)
        return OriginalBatch(*(tensor.to(device) for tensor in tensors))


class MultiHeadAttention(nn.Module):
    """Attention with the scores and the probabilities (B, H, T, S) in memory."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.query, self.key, self.value, self.out = (
            nn.Linear(config.d_model, config.d_model, bias=has_bias)
            for has_bias in (config.attention_bias, False, False, config.attention_bias)
        )
        self.dropout = nn.Dropout(config.attention_dropout)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """Attend from query (B, T, D) to key and value (B, S, D) where the mask is True."""
        q, k, v = self._heads(self.query(query)), self._heads(self.key(key)), self._heads(self.value(value))
        scores = (q @ k.transpose(-2, -1)) / math.sqrt(q.shape[-1])
        scores = scores.masked_fill(~mask, -1e9 if scores.dtype != torch.float16 else -1e4)
        heads = self.dropout(scores.softmax(-1)) @ v
        return self.out(heads.transpose(1, 2).contiguous().flatten(2))  # type: ignore[no-any-return]

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.n_heads, -1).transpose(1, 2)  # (B, H, T, K)


class ResidualBlock(nn.Module):
    """Norm, block, dropout and sum, in the order that `model.norm` says."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.pre_norm = config.norm == "pre"

    def before(self, x: Tensor) -> Tensor:
        """What the block gets."""
        return self.norm(x) if self.pre_norm else x

    def after(self, x: Tensor, block_output: Tensor) -> Tensor:
        """The residual stream behind the block."""
        x = x + self.dropout(block_output)
        return x if self.pre_norm else self.norm(x)


class OriginalLayer(nn.Module):
    """An encoder layer, or with cross-attention a decoder layer."""

    def __init__(self, config: ModelConfig, is_decoder: bool) -> None:
        super().__init__()
        self.self_attention = MultiHeadAttention(config)
        self.cross_attention: MultiHeadAttention | None = MultiHeadAttention(config) if is_decoder else None
        activation = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}[config.activation]()
        self.feed_forward = nn.Sequential(
            nn.Linear(config.d_model, config.d_ff), activation, nn.Linear(config.d_ff, config.d_model)
        )
        self.residuals: Iterable[ResidualBlock] = nn.ModuleList(  # type: ignore[assignment]
            ResidualBlock(config) for _ in range(3 if is_decoder else 2)
        )

    def forward(self, x: Tensor, mask: Tensor, memory: Tensor | None, src_mask: Tensor) -> Tensor:
        """Map x (B, T, D) to (B, T, D)."""
        first, *middle, last = self.residuals
        seen = first.before(x)
        x = first.after(x, self.self_attention(seen, seen, seen, mask))
        if self.cross_attention is not None:
            (second,) = middle
            x = second.after(x, self.cross_attention(second.before(x), memory, memory, src_mask))
        return last.after(x, self.feed_forward(last.before(x)))


class OriginalTransformer(nn.Module):
    """Batch to logits (B, T, V) of all target positions."""

    def __init__(self, config: ModelConfig, src_vocab_size: int, tgt_vocab_size: int) -> None:
        super().__init__()
        self.scale = math.sqrt(config.d_model)
        self.tgt_embedding = nn.Embedding(tgt_vocab_size, config.d_model)
        tied = config.tie_embeddings == "all"
        self.src_embedding = self.tgt_embedding if tied else nn.Embedding(src_vocab_size, config.d_model)
        self.encoder_order, self.decoder_order = config.encoder_layer_order(), config.decoder_layer_order()
        self.encoder_layers = nn.ModuleList(OriginalLayer(config, False) for _ in set(self.encoder_order))
        self.decoder_layers = nn.ModuleList(OriginalLayer(config, True) for _ in set(self.decoder_order))
        pre_norm = config.norm == "pre"
        self.encoder_norm = nn.LayerNorm(config.d_model) if pre_norm else nn.Identity()
        self.decoder_norm = nn.LayerNorm(config.d_model) if pre_norm else nn.Identity()
        self.projection = nn.Linear(config.d_model, tgt_vocab_size)
        self.dropout = nn.Dropout(config.dropout)
        self.positions: Tensor
        self.register_buffer("positions", sinusoidal_positions(config.max_positions, config.d_model), persistent=False)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02 if config.init == "normal_0.02" else config.d_model**-0.5)
        if config.tie_embeddings != "none":
            self.projection.weight = self.tgt_embedding.weight

    def forward(self, batch: OriginalBatch) -> Tensor:
        """Logits (B, T, V)."""
        memory = self._embed(self.src_embedding, batch.src_ids)
        for i in self.encoder_order:
            memory = self.encoder_layers[i](memory, batch.src_mask, None, batch.src_mask)
        memory = self.encoder_norm(memory)
        x = self._embed(self.tgt_embedding, batch.tgt_in)
        for i in self.decoder_order:
            x = self.decoder_layers[i](x, batch.tgt_mask, memory, batch.src_mask)
        return self.projection(self.decoder_norm(x))  # type: ignore[no-any-return]

    def _embed(self, embedding: nn.Embedding, ids: Tensor) -> Tensor:
        return self.dropout(embedding(ids) * self.scale + self.positions[: ids.shape[1]])  # type: ignore[no-any-return]
