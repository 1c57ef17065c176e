"""Attention, feed-forward and the encoder and decoder layers.

Training knows no padding but inside attention: the hidden states of all tokens of a side stand in one (N, D).
Shape letters: N tokens, B batch, S source, T target, H heads, K head width, D `d_model`, F `d_ff`, W beam.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from accel_tx.config import ModelConfig
from accel_tx.data.batch import Block
from accel_tx.model.attention import plain_attention, traceable_attention


@dataclass
class KeyValue:
    """Projected keys and values of one executed layer, each (B, H, length, K)."""

    key: Tensor
    value: Tensor


class Dropout(nn.Module):
    """Zero each number with probability `p` and scale the others by 1 / (1 - p), in training only.

    On CPU torch's own draws take a tenth of a training step. Here one 64-bit draw decides for four numbers, 16 bits
    each, about 2.5 times as fast; p is then a multiple of 2^-16, and so is the scale's.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        if not self.training or self.p == 0:
            return x
        if x.device.type != "cpu" or torch.compiler.is_compiling():  # a compiled draw is part of one kernel
            return F.dropout(x, self.p)
        n_dropped_of_65536 = min(round(self.p * 65536), 65535)
        draws = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        kept = draws.view(torch.int16)[: x.numel()].view(x.shape) >= n_dropped_of_65536 - 32768
        return x * kept * (65536 / (65536 - n_dropped_of_65536))


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attendable: Tensor | None = None,
    dropout: float = 0.0,
    causal: bool = False,
) -> Tensor:
    """Scaled dot-product attention of query (B, H, T, K) to key and value (B, H, S, K); gives (B, H, T, K).

    `attendable` is True at keys that may be seen, broadcastable to (B, H, T, S). torch's fused kernel, but for
    bfloat16 on CPU: there its backward takes five times as long as plain products.
    """
    if query.device.type != "cpu" or query.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(query, key, value, attendable, dropout, is_causal=causal)
    attention = traceable_attention if torch.compiler.is_compiling() else plain_attention
    return attention(query, key, value, attendable, dropout, causal)


def attend_few(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    """`attend` for the few queries of a decoding step, with a `bias` of 0 or -inf added to the scores.

    On CPU the two plain products take two thirds of the fused kernel's time there.
    """
    if query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value, bias)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)  # (B, H, W, S)
    weights: Tensor = (scores if bias is None else scores + bias).softmax(-1)
    return weights @ value


def bias_of(attendable: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """The bias that hides what is not True in `attendable`."""
    if attendable is None:
        return None
    return torch.zeros_like(attendable, dtype=dtype).masked_fill_(~attendable, -torch.inf)


class SelfAttention(nn.Module):
    """Multi-head self-attention with one fused projection; no biases (a key bias has no effect on the output).

    Source: Vaswani et al. 2017, section 3.2.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.dropout = config.attention_dropout
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model, bias=False)
        self.out = nn.Linear(config.d_model, config.d_model, bias=False)

    def forward(self, x: Tensor, blocks: Sequence[Block], causal: bool) -> Tensor:
        """Attend within each sentence of x (N, D), whose tokens `blocks` tell apart; where `causal`, not ahead."""
        dropout = self.dropout if self.training else 0.0
        heads = []
        for block, projected in zip(blocks, _of_blocks(self.qkv(x), blocks), strict=True):
            query, key, value = split_heads(block.pad(projected), 3, self.n_heads)
            # Padding of a target needs no mask: it stands at the end, where no token looks.
            attendable = None if causal else block.attendable
            heads.append(block.unpad(_merge_heads(attend(query, key, value, attendable, dropout, causal))))
        return self.out(_joined(heads))  # type: ignore[no-any-return]

    def step(self, x: Tensor, cache: KeyValue, position: int, visible: Tensor | None) -> Tensor:
        """Attend from one new position of each hypothesis, x (B, W, D), to itself and those before it.

        Its keys and values go into the cache, whose length is `position` x W so far. `visible` is 0 at what belongs to
        a hypothesis, else -inf, (B, 1, W, (position + 1) x W); None: everything does.
        """
        query, key, value = split_heads(self.qkv(x), 3, self.n_heads)
        n_beams = x.shape[1]
        n_seen = (position + 1) * n_beams
        cache.key[:, :, n_seen - n_beams : n_seen] = key
        cache.value[:, :, n_seen - n_beams : n_seen] = value
        heads = attend_few(query, cache.key[:, :, :n_seen], cache.value[:, :, :n_seen], visible)
        return self.out(_merge_heads(heads))  # type: ignore[no-any-return]


class CrossAttention(nn.Module):
    """Multi-head attention from the target to the encoder output, with projections of its own; no biases."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.dropout = config.attention_dropout
        self.query = nn.Linear(config.d_model, config.d_model, bias=False)
        self.key_value = nn.Linear(config.d_model, 2 * config.d_model, bias=False)
        self.out = nn.Linear(config.d_model, config.d_model, bias=False)

    def project_memory(self, memory: Tensor) -> KeyValue:
        """Keys and values (B, H, S, K) of the encoder output (B, S, D)."""
        key, value = split_heads(self.key_value(memory), 2, self.n_heads)
        return KeyValue(key, value)

    def step(self, x: Tensor, memory: KeyValue, bias: Tensor | None) -> Tensor:
        """`forward` for one new position of each hypothesis, x (B, W, D); `bias` is 0 or -inf, (B, 1, 1, S)."""
        (query,) = split_heads(self.query(x), 1, self.n_heads)
        return self.out(_merge_heads(attend_few(query, memory.key, memory.value, bias)))  # type: ignore[no-any-return]

    def forward(self, x: Tensor, memory: Tensor, blocks: Sequence[Block], memory_blocks: Sequence[Block]) -> Tensor:
        """Attend from each target of x (N, D) to its own source in the encoder output `memory` (N, D).

        `blocks` tell the tokens of x apart, `memory_blocks` those of the memory: as many, of the same pairs.
        """
        dropout = self.dropout if self.training else 0.0
        heads = []
        queries, keys_values = _of_blocks(self.query(x), blocks), _of_blocks(self.key_value(memory), memory_blocks)
        for block, memory_block, query, key_value in zip(blocks, memory_blocks, queries, keys_values, strict=True):
            (query,) = split_heads(block.pad(query), 1, self.n_heads)
            key, value = split_heads(memory_block.pad(key_value), 2, self.n_heads)
            of_block = attend(query, key, value, memory_block.attendable, dropout)
            heads.append(block.unpad(_merge_heads(of_block)))
        return self.out(_joined(heads))  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """Two linear maps with a non-linearity between them, applied at every position."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.inner = nn.Linear(config.d_model, config.d_ff)
        self.outer = nn.Linear(config.d_ff, config.d_model)
        self.activation = F.relu if config.activation == "relu" else F.gelu

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., D) to (..., D)."""
        return self.outer(self.activation(self.inner(x)))  # type: ignore[no-any-return]


class Residual(nn.Module):
    """x + dropout(block(norm(x))) for pre-norm, norm(x + dropout(block(x))) for post-norm.

    Source: Xiong et al. 2020, figure 1.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.d_model)
        self.dropout = Dropout(config.dropout)
        self.pre_norm = config.norm == "pre"

    def before(self, x: Tensor) -> Tensor:
        """What the block gets, from the residual stream x (..., D)."""
        return self.norm(x) if self.pre_norm else x

    def after(self, x: Tensor, block_output: Tensor) -> Tensor:
        """The residual stream behind the block."""
        x = x + self.dropout(block_output)
        return x if self.pre_norm else self.norm(x)


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each in a residual block."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.self_attention = SelfAttention(config)
        self.feed_forward = FeedForward(config)
        self.self_attention_residual = Residual(config)
        self.feed_forward_residual = Residual(config)

    def forward(self, x: Tensor, blocks: Sequence[Block]) -> Tensor:
        """Map the sources x (N, D), whose sentences `blocks` tell apart, to (N, D)."""
        residual = self.self_attention_residual
        x = residual.after(x, self.self_attention(residual.before(x), blocks, causal=False))
        residual = self.feed_forward_residual
        return residual.after(x, self.feed_forward(residual.before(x)))


class DecoderLayer(nn.Module):
    """Causal self-attention, cross-attention and feed-forward, each in a residual block."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.self_attention = SelfAttention(config)
        self.cross_attention = CrossAttention(config)
        self.feed_forward = FeedForward(config)
        self.self_attention_residual = Residual(config)
        self.cross_attention_residual = Residual(config)
        self.feed_forward_residual = Residual(config)

    def forward(self, x: Tensor, memory: Tensor, blocks: Sequence[Block], memory_blocks: Sequence[Block]) -> Tensor:
        """Map the targets x (N, D) to (N, D), seeing their sources in the encoder output `memory` (N, D).

        `blocks` tell the targets apart, `memory_blocks` the sources: as many, of the same pairs.
        """
        residual = self.self_attention_residual
        x = residual.after(x, self.self_attention(residual.before(x), blocks, causal=True))
        residual = self.cross_attention_residual
        x = residual.after(x, self.cross_attention(residual.before(x), memory, blocks, memory_blocks))
        residual = self.feed_forward_residual
        return residual.after(x, self.feed_forward(residual.before(x)))

    def step(
        self, x: Tensor, own: KeyValue, memory: KeyValue, bias: Tensor | None, position: int, visible: Tensor | None
    ) -> Tensor:
        """The same for one new position of each hypothesis, x (B, W, D), with `own` keys and values cached."""
        residual = self.self_attention_residual
        x = residual.after(x, self.self_attention.step(residual.before(x), own, position, visible))
        residual = self.cross_attention_residual
        x = residual.after(x, self.cross_attention.step(residual.before(x), memory, bias))
        residual = self.feed_forward_residual
        return residual.after(x, self.feed_forward(residual.before(x)))


def _of_blocks(x: Tensor, blocks: Sequence[Block]) -> tuple[Tensor, ...]:
    return (x,) if len(blocks) == 1 else torch.split(x, [block.n_tokens for block in blocks])


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def split_heads(projected: Tensor, n_parts: int, n_heads: int) -> tuple[Tensor, ...]:
    """The parts of a fused projection (B, T, n_parts x D), each (B, H, T, K)."""
    batch, length, width = projected.shape
    parts = projected.view(batch, length, n_parts, n_heads, width // (n_parts * n_heads))
    return parts.permute(2, 0, 3, 1, 4).unbind(0)


def _merge_heads(heads: Tensor) -> Tensor:
    return heads.transpose(1, 2).flatten(2)  # (B, T, D)


def sinusoidal_positions(n_positions: int, d_model: int) -> Tensor:
    """Sine and cosine position table (n_positions, d_model), float.

    Source: Vaswani et al. 2017, section 3.5 (sines in the even columns, cosines in the odd ones).
    """
    positions = torch.arange(n_positions, dtype=torch.float64).unsqueeze(1)
    wavelengths = 10_000.0 ** (torch.arange(0, d_model, 2, dtype=torch.float64) / d_model)
    angles = positions / wavelengths  # (n_positions, d_model / 2)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1).to(torch.get_default_dtype())
