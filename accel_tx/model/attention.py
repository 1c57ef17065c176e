"""Attention within each sentence of a batch: block after block, or of all at once where they are packed.

Shape letters: N tokens, B sentences of a block, S source, T target, H heads, K head width, D `d_model`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from accel_tx.data.batch import Block, Packed
from accel_tx.data.blocks import FEW_PLACES
from accel_tx.model import kernels
from accel_tx.model.plain_attention import plain_attention
from accel_tx.model.sentence_attention import d_model_of, sentence_attention

# Wider heads have a backward pass of FlashAttention on some of the GPUs only, and of ours on none.
WIDEST_HEAD = 128
# In tokens. One program of our kernel takes a whole sentence: of few long ones a GPU has too few programs.
LONGEST_SENTENCE = 512


def attend(
    query: Tensor,
    key_value: Tensor | None,
    blocks: Sequence[Block],
    memory_blocks: Sequence[Block],
    n_heads: int,
    dropout: float,
    causal: bool,
) -> Tensor:
    """Scaled dot-product attention of each sentence's tokens to those of its own source: (N, D).

    query (N, D) and key_value (N, 2 D) are the fused projections of the two sides, whose sentences `blocks` and
    `memory_blocks` tell apart: as many, of the same pairs. In self-attention query holds all three, (N, 3 D), and
    key_value is None. Packed sentences go through one kernel. Of blocks each goes through torch's fused kernels, but
    on a CPU through plain products where these are faster: in bfloat16 the kernels' backward takes five times as long.
    """
    if isinstance(blocks[0], Packed):
        assert not dropout  # see `packs`
        return packed_attention(query, key_value, blocks[0], memory_blocks[0], n_heads, causal)
    is_plain = query.is_cpu and not torch.compiler.is_compiling() and _suits_products(query, blocks, memory_blocks)
    attention = plain_attention if is_plain else kernel_attention
    return attention(query, key_value, blocks, memory_blocks, n_heads, dropout, causal)


def _suits_products(query: Tensor, blocks: Sequence[Block], memory_blocks: Sequence[Block]) -> bool:
    """Whether plain products are faster on CPU than torch's kernel: in bfloat16, or in training on few places."""
    if query.dtype == torch.bfloat16:
        return True
    if query.dtype == torch.float16 or not (query.requires_grad and torch.is_grad_enabled()):
        return False
    n_compared = sum(own.n_positions * of_memory.width for own, of_memory in zip(blocks, memory_blocks, strict=True))
    return n_compared <= FEW_PLACES * sum(block.n_positions for block in blocks)


def kernel_attention(
    query: Tensor,
    key_value: Tensor | None,
    blocks: Sequence[Block],
    memory_blocks: Sequence[Block],
    n_heads: int,
    dropout: float,
    causal: bool,
) -> Tensor:
    """`attend` by torch's fused kernels, or in a compiled graph on CPU by products that are fused there."""
    kernel: Callable[..., Tensor] = F.scaled_dot_product_attention
    if query.device.type == "cpu" and query.dtype == torch.bfloat16 and torch.compiler.is_compiling():
        kernel = _traceable_attention
    d_model = d_model_of(query, key_value)
    merged = []
    for of_block in _per_block(query, key_value, blocks, memory_blocks):
        q, k, v = (
            part for rows, block in of_block for part in split_heads(block.pad(rows), rows.shape[1] // d_model, n_heads)
        )
        memory_block = of_block[-1].block
        # Padding of a target needs no mask: it stands at the end, where no token looks.
        attendable = None if causal else memory_block.attendable
        heads = kernel(q, k, v, attendable, dropout, causal)
        merged.append(of_block[0].block.unpad(merge_heads(heads)))
    return merged[0] if len(merged) == 1 else torch.cat(merged)


def packed_attention(
    query: Tensor, key_value: Tensor | None, side: Packed, memory_side: Block, n_heads: int, causal: bool
) -> Tensor:
    """`attend` of all sentences in one call of a kernel that takes them unpadded; on GPUs of NVIDIA.

    Our own kernel in half precision. Where it does not run, or for long texts, those that torch itself takes for nested
    tensors: FlashAttention-2 (Dao 2023) where the GPU and the precision have it, else the memory-efficient one of
    xFormers. Both want heads of a multiple of 8 channels.
    """
    assert isinstance(memory_side, Packed)
    d_model = d_model_of(query, key_value)
    d_head = d_model // n_heads
    longest = max(side.width, memory_side.width)
    in_half = query.dtype in (torch.bfloat16, torch.float16)
    if in_half and d_head <= WIDEST_HEAD and longest <= LONGEST_SENTENCE and kernels.runs(query):
        return sentence_attention(query, key_value, side.starts, memory_side.starts, longest, n_heads, causal)
    parts = [x.view(len(x), x.shape[1] // d_model, n_heads, d_head) for x in (query, key_value) if x is not None]
    missing = -d_head % 8
    if missing:
        parts = [F.pad(part, (0, missing)) for part in parts]
    q, k, v = (part for fused in parts for part in fused.unbind(1))  # each (N, H, K)
    if missing:
        # They scale for the padded width; told otherwise, torch 2.13 cannot trace the efficient one's backward pass.
        q = q * ((d_head + missing) / d_head) ** 0.5
    bounds = side.starts, memory_side.starts, side.width, memory_side.width
    if _has_flash(q):
        heads: Tensor = torch.ops.aten._flash_attention_forward(q, k, v, *bounds, 0.0, causal, False)[0]
    else:
        wide = q[None], k[None], v[None]
        # No bias; no dropout, whether it is causal, and that the sums of exponentials are kept for the backward pass.
        options = 0.0, int(causal), True
        heads = torch.ops.aten._efficient_attention_forward(*wide, None, *bounds, *options)[0][0]
    return heads[..., :d_head].reshape(-1, d_model)


def _has_flash(query: Tensor) -> bool:
    """Of heads (N, H, K)."""
    in_half = query.dtype in (torch.bfloat16, torch.float16)
    is_narrow = query.shape[-1] <= WIDEST_HEAD
    return in_half and is_narrow and torch.cuda.get_device_properties(query.device).major >= 8


def attend_few(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    """Attention of the few queries of a decoding step, with a `bias` of 0 or -inf added to the scores: (B, H, W, K).

    Shapes: query (B, H, W, K), key and value (B, H, S, K), bias broadcastable to (B, H, W, S). On CPU the two plain
    products take two thirds of the fused kernel's time there.
    """
    if query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value, bias)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    weights: Tensor = (scores if bias is None else scores + bias).softmax(-1)
    return weights @ value


def split_heads(projected: Tensor, n_parts: int, n_heads: int) -> tuple[Tensor, ...]:
    """The parts of a fused projection (B, T, n_parts x D), each (B, H, T, K)."""
    batch, length, width = projected.shape
    parts = projected.view(batch, length, n_parts, n_heads, width // (n_parts * n_heads))
    return parts.permute(2, 0, 3, 1, 4).unbind(0)


def merge_heads(heads: Tensor) -> Tensor:
    """(B, H, T, K) -> (B, T, D)."""
    return heads.transpose(1, 2).flatten(2)


def _traceable_attention(
    query: Tensor, key: Tensor, value: Tensor, attendable: Tensor | None, dropout: float, causal: bool
) -> Tensor:
    """Plain products for `torch.compile`, which fuses what lies between them, for rows of any width; of bfloat16."""
    scores = (query @ key.transpose(-1, -2)).float() * query.shape[-1] ** -0.5  # (B, H, T, S)
    if causal:
        attendable = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).tril()
    if attendable is not None:
        scores = scores.masked_fill(~attendable, -torch.inf)
    weights = scores.softmax(-1).to(query.dtype)
    return (F.dropout(weights, dropout) if dropout else weights) @ value


class _Rows(NamedTuple):
    """A block's rows of a projection, (n_tokens, n_parts x D)."""

    rows: Tensor
    block: Block


def _per_block(
    query: Tensor, key_value: Tensor | None, blocks: Sequence[Block], memory_blocks: Sequence[Block]
) -> Iterator[tuple[_Rows, ...]]:
    """Of each block in turn its rows of the one projection, or of both."""
    sides = [(query, blocks)] if key_value is None else [(query, blocks), (key_value, memory_blocks)]
    return zip(*(map(_Rows, torch.split(x, [block.n_tokens for block in own]), own) for x, own in sides), strict=True)
