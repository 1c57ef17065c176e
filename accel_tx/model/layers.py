"""Attention, feed-forward and the encoder and decoder layers.

Training knows no padding but inside attention: the hidden states of all tokens of a side stand in one (N, D).
Shape letters: N tokens, B batch, S source, T target, H heads, K head width, D `d_model`, F `d_ff`, W beam.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from accel_tx.config import ModelConfig
from accel_tx.data.batch import Block
from accel_tx.model.attention import attend, attend_few, merge_heads, split_heads
from accel_tx.model.dropout import Dropout
from accel_tx.model.quantization import Int8Linear
from accel_tx.model.rotary import turn

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu, "silu": F.silu}
"""What `model.activation` may be."""


@dataclass
class KeyValue:
    """Projected keys and values of one executed layer, each (B, H, length, K)."""

    key: Tensor
    value: Tensor


def bias_of(attendable: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """The bias that hides what is not True in `attendable`."""
    if attendable is None:
        return None
    return torch.zeros_like(attendable, dtype=dtype).masked_fill_(~attendable, -torch.inf)


def linear(config: ModelConfig, n_in: int, n_out: int, bias: bool = True) -> nn.Linear:
    """A linear map that computes as the config says."""
    return (Int8Linear if config.quantization == "int8" else nn.Linear)(n_in, n_out, bias)


class SelfAttention(nn.Module):
    """Multi-head self-attention with one fused projection; biases as `model.attention_bias` says.

    Source: Vaswani et al. 2017, section 3.2.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.dropout = config.attention_dropout
        self.qkv = linear(config, config.d_model, 3 * config.d_model, bias=False)
        self.query_bias = nn.Parameter(torch.zeros(config.d_model)) if config.attention_bias else None
        self.out = linear(config, config.d_model, config.d_model, bias=config.attention_bias)

    def qkv_bias(self) -> Tensor | None:
        """What is added behind `qkv`, (3 D): the bias of the queries, zeros for keys and values."""
        return None if self.query_bias is None else F.pad(self.query_bias, (0, 2 * len(self.query_bias)))

    def forward(self, x: Tensor, blocks: Sequence[Block], causal: bool, turns: Tensor | None = None) -> Tensor:
        """Attend within each sentence of x (N, D), whose tokens `blocks` tell apart; where `causal`, not ahead.

        `turns` (N, D) are the rows of `rotations` at the tokens' places; None: positions are in x already.
        """
        dropout = self.dropout if self.training else 0.0
        projected = self.project(x, turns)
        return self.out(attend(projected, None, blocks, blocks, self.n_heads, dropout, causal))  # type: ignore[no-any-return]

    def project(self, x: Tensor, turns: Tensor | None) -> Tensor:
        """Queries, keys and values of x (..., D) beside each other, (..., 3 D), with their positions."""
        projected: Tensor = self.qkv(x)
        bias = self.qkv_bias()
        if bias is not None:
            projected = projected + bias.to(projected.dtype)
        return projected if turns is None else turn(projected, turns)

    def step(
        self, x: Tensor, cache: KeyValue, position: int, visible: Tensor | None, turns: Tensor | None = None
    ) -> Tensor:
        """Attend from one new position of each hypothesis, x (B, W, D), to itself and those before it.

        Its keys and values go into the cache, whose length is `position` x W so far. `visible` is 0 at what belongs to
        a hypothesis, else -inf, (B, 1, W, (position + 1) x W); None: everything does. `turns` as in `forward`.
        """
        query, key, value = split_heads(self.project(x, turns), 3, self.n_heads)
        n_beams = x.shape[1]
        n_seen = (position + 1) * n_beams
        cache.key[:, :, n_seen - n_beams : n_seen] = key
        cache.value[:, :, n_seen - n_beams : n_seen] = value
        heads = attend_few(query, cache.key[:, :, :n_seen], cache.value[:, :, :n_seen], visible)
        return self.out(merge_heads(heads))  # type: ignore[no-any-return]


class CrossAttention(nn.Module):
    """Multi-head attention from the target to the encoder output, with projections and biases of its own."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.dropout = config.attention_dropout
        self.query = linear(config, config.d_model, config.d_model, bias=config.attention_bias)
        self.key_value = linear(config, config.d_model, 2 * config.d_model, bias=False)
        self.out = linear(config, config.d_model, config.d_model, bias=config.attention_bias)

    def project_memory(self, memory: Tensor) -> KeyValue:
        """Keys and values (B, H, S, K) of the encoder output (B, S, D)."""
        key, value = split_heads(self.key_value(memory), 2, self.n_heads)
        return KeyValue(key, value)

    def step(self, x: Tensor, memory: KeyValue, bias: Tensor | None) -> Tensor:
        """`forward` for one new position of each hypothesis, x (B, W, D); `bias` is 0 or -inf, (B, 1, 1, S)."""
        (query,) = split_heads(self.query(x), 1, self.n_heads)
        return self.out(merge_heads(attend_few(query, memory.key, memory.value, bias)))  # type: ignore[no-any-return]

    def forward(self, x: Tensor, memory: Tensor, blocks: Sequence[Block], memory_blocks: Sequence[Block]) -> Tensor:
        """Attend from each target of x (N, D) to its own source in the encoder output `memory` (N, D).

        `blocks` tell the tokens of x apart, `memory_blocks` those of the memory: as many, of the same pairs.
        """
        dropout = self.dropout if self.training else 0.0
        query, key_value = self.query(x), self.key_value(memory)
        heads = attend(query, key_value, blocks, memory_blocks, self.n_heads, dropout, causal=False)
        return self.out(heads)  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """Two linear maps with a non-linearity between them, applied at every position."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.inner = linear(config, config.d_model, config.d_ff)
        self.outer = linear(config, config.d_ff, config.d_model)
        self.activation = ACTIVATIONS[config.activation]

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

    def forward(self, x: Tensor, blocks: Sequence[Block], turns: Tensor | None = None) -> Tensor:
        """Map the sources x (N, D), whose sentences `blocks` tell apart, to (N, D); `turns` as in SelfAttention."""
        residual = self.self_attention_residual
        x = residual.after(x, self.self_attention(residual.before(x), blocks, False, turns))
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

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        blocks: Sequence[Block],
        memory_blocks: Sequence[Block],
        turns: Tensor | None = None,
    ) -> Tensor:
        """Map the targets x (N, D) to (N, D), seeing their sources in the encoder output `memory` (N, D).

        `blocks` tell the targets apart, `memory_blocks` the sources: as many, of the same pairs. `turns` are those of
        the targets.
        """
        residual = self.self_attention_residual
        x = residual.after(x, self.self_attention(residual.before(x), blocks, True, turns))
        residual = self.cross_attention_residual
        x = residual.after(x, self.cross_attention(residual.before(x), memory, blocks, memory_blocks))
        residual = self.feed_forward_residual
        return residual.after(x, self.feed_forward(residual.before(x)))

    def step(
        self,
        x: Tensor,
        own: KeyValue,
        memory: KeyValue,
        bias: Tensor | None,
        position: int,
        visible: Tensor | None,
        turns: Tensor | None = None,
    ) -> Tensor:
        """The same for one new position of each hypothesis, x (B, W, D), with `own` keys and values cached."""
        residual = self.self_attention_residual
        x = residual.after(x, self.self_attention.step(residual.before(x), own, position, visible, turns))
        residual = self.cross_attention_residual
        x = residual.after(x, self.cross_attention.step(residual.before(x), memory, bias))
        residual = self.feed_forward_residual
        return residual.after(x, self.feed_forward(residual.before(x)))


def sinusoidal_positions(n_positions: int, d_model: int) -> Tensor:
    """Sine and cosine position table (n_positions, d_model), float.

    Source: Vaswani et al. 2017, section 3.5 (sines in the even columns, cosines in the odd ones).
    """
    positions = torch.arange(n_positions, dtype=torch.float64).unsqueeze(1)
    wavelengths = 10_000.0 ** (torch.arange(0, d_model, 2, dtype=torch.float64) / d_model)
    angles = positions / wavelengths  # (n_positions, d_model / 2)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1).to(torch.get_default_dtype())
