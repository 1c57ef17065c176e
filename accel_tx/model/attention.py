"""Attention within each sentence of a batch: block after block, or of all at once where they are packed.

Shape letters: N tokens, B sentences of a block, S source, T target, H heads, K head width, D `d_model`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from accel_tx.data.batch import Block, Packed
from accel_tx.model import kernels
from accel_tx.model.dropout import draw_kept, kept_scale
from accel_tx.model.sentence_attention import d_model_of, sentence_attention

# torch's softmax takes rows shorter than a vector register one number at a time.
_NARROW = 16
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
    for bfloat16 on CPU: there their backward takes five times as long as plain products.
    """
    if isinstance(blocks[0], Packed):
        assert not dropout  # see `packs`
        return packed_attention(query, key_value, blocks[0], memory_blocks[0], n_heads, causal)
    on_cpu_in_half = query.device.type == "cpu" and query.dtype == torch.bfloat16
    is_plain = on_cpu_in_half and not torch.compiler.is_compiling()
    attention = plain_attention if is_plain else kernel_attention
    return attention(query, key_value, blocks, memory_blocks, n_heads, dropout, causal)


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


def plain_attention(
    query: Tensor,
    key_value: Tensor | None,
    blocks: Sequence[Block],
    memory_blocks: Sequence[Block],
    n_heads: int,
    dropout: float,
    causal: bool,
) -> Tensor:
    """`attend` by products of its own, one node of autograd for all blocks; on CPU.

    Products and softmax are taken in float32, or in float64. In bfloat16 oneDNN would make a kernel for every new
    shape of a block, and nearly all are new: that took longer than the products, which are few.
    """
    return _PlainAttention.apply(query, key_value, blocks, memory_blocks, n_heads, dropout, causal)  # type: ignore[no-untyped-call,no-any-return]


def _traceable_attention(
    query: Tensor, key: Tensor, value: Tensor, attendable: Tensor | None, dropout: float, causal: bool
) -> Tensor:
    """The same of one block for `torch.compile`, which fuses what lies between the products, for rows of any width."""
    scores = _widened(query @ key.transpose(-1, -2)) * query.shape[-1] ** -0.5  # (B, H, T, S)
    if causal:
        attendable = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).tril()
    if attendable is not None:
        scores = scores.masked_fill(~attendable, -torch.inf)
    weights = scores.softmax(-1).to(query.dtype)
    return (F.dropout(weights, dropout) if dropout else weights) @ value


class _PlainAttention(torch.autograd.Function):
    """Keeps the projections and the weights as narrow as they came, and widens them again in the backward pass.

    Autocast is off in both: it would take the widened products in half precision after all.
    """

    @staticmethod
    @torch.autocast("cpu", enabled=False)  # type: ignore[untyped-decorator]
    def forward(
        ctx: Any,
        query: Tensor,
        key_value: Tensor | None,
        blocks: Sequence[Block],
        memory_blocks: Sequence[Block],
        n_heads: int,
        dropout: float,
        causal: bool,
    ) -> Tensor:
        d_model = d_model_of(query, key_value)
        merged = query.new_empty(len(query), d_model)
        of_blocks = _per_block(query, key_value, blocks, memory_blocks)
        saved = []
        for of_block, into in zip(of_blocks, _per_block(merged, None, blocks, blocks), strict=True):
            q, k, v = _parts([_wide_heads(part, d_model, n_heads) for part in of_block])
            scores = q.new_empty(len(q), q.shape[1], k.shape[1]).baddbmm_(q, k.transpose(1, 2), beta=0, alpha=_scale(q))
            memory_block = of_block[-1].block
            weights = _softmax_(_hide_(scores, memory_block, n_heads, causal))
            kept = draw_kept(weights.shape, dropout) if dropout else None
            _put(_dropped(weights, kept, dropout) @ v, into[0], n_heads)
            if any(ctx.needs_input_grad):
                saved += [weights.to(query.dtype), kept]
        ctx.save_for_backward(query, key_value, *saved)
        ctx.blocks, ctx.memory_blocks, ctx.n_heads, ctx.dropout = blocks, memory_blocks, n_heads, dropout
        return merged

    @staticmethod
    @torch.autograd.function.once_differentiable
    @torch.autocast("cpu", enabled=False)  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        query, key_value, *saved = ctx.saved_tensors
        grad_query = torch.empty_like(query)
        grad_key_value = None if key_value is None else torch.empty_like(key_value)
        of_blocks = _per_block(query, key_value, ctx.blocks, ctx.memory_blocks)
        into_blocks = _per_block(grad_query, grad_key_value, ctx.blocks, ctx.memory_blocks)
        upstream = _per_block(grad, None, ctx.blocks, ctx.blocks)
        for of_block, into, (rows,), weights, kept in zip(
            of_blocks, into_blocks, upstream, saved[::2], saved[1::2], strict=True
        ):
            heads = [_wide_heads(part, grad.shape[1], ctx.n_heads) for part in of_block]
            grads = [torch.empty_like(part) for part in heads]
            (q, k, v), (grad_q, grad_k, grad_v) = _parts(heads), _parts(grads)
            (grad_heads,) = _wide_heads(rows, grad.shape[1], ctx.n_heads)
            weights = _widened(weights)
            torch.bmm(_dropped(weights, kept, ctx.dropout).transpose(1, 2), grad_heads, out=grad_v)
            grad_weights = _dropped(grad_heads @ v.transpose(1, 2), kept, ctx.dropout)
            grad_scores = _softmax_backward(grad_weights, weights)
            grad_q.baddbmm_(grad_scores, k, beta=0, alpha=_scale(q))
            grad_k.baddbmm_(grad_scores.transpose(1, 2), q, beta=0, alpha=_scale(q))
            for grad_part, part in zip(grads, into, strict=True):
                _put(grad_part, part, ctx.n_heads)
        return grad_query, grad_key_value, None, None, None, None, None


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


def _scale(query: Tensor) -> float:
    return query.shape[-1] ** -0.5  # type: ignore[no-any-return]


def _wide_heads(part: _Rows, d_model: int, n_heads: int) -> Tensor:
    """The parts of a projection, (n_parts, B x H, T, K), 0 at padding, in the precision of the products."""
    rows, block = part
    n_parts = rows.shape[1] // d_model
    padded = block.pad(rows).view(block.n_sentences, block.width, n_parts, n_heads, -1)
    heads = padded.permute(2, 0, 3, 1, 4)
    return torch.empty(heads.shape, dtype=_widened_dtype(rows.dtype)).copy_(heads).flatten(1, 2)


def _put(heads: Tensor, into: _Rows, n_heads: int) -> None:
    """Inverse of `_wide_heads`: write heads (n_parts, B x H, T, K), or those of one part, to the block's rows."""
    rows, block = into
    padded = heads.view(-1, block.n_sentences, n_heads, block.width, heads.shape[-1]).permute(1, 3, 0, 2, 4)
    if block.positions is None:
        rows.view(padded.shape).copy_(padded)
    else:
        rows.copy_(block.unpad(padded.reshape(block.n_sentences, block.width, -1)))


def _parts(projections: list[Tensor]) -> list[Tensor]:
    return [part for projection in projections for part in projection]


def _hide_(scores: Tensor, memory_block: Block, n_heads: int, causal: bool) -> Tensor:
    """-inf at what must not be seen, of scores (B x H, T, S); masks as in `kernel_attention`."""
    if causal:
        return scores.masked_fill_(torch.ones(scores.shape[1:], dtype=torch.bool).triu(1), -torch.inf)
    if memory_block.attendable is not None:
        scores.view(-1, n_heads, *scores.shape[1:]).masked_fill_(~memory_block.attendable, -torch.inf)
    return scores


def _dropped(weights: Tensor, kept: Tensor | None, dropout: float) -> Tensor:
    return weights if kept is None else (weights * kept).mul_(kept_scale(dropout))


def _widened_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype == torch.bfloat16 else dtype


def _widened(x: Tensor) -> Tensor:
    return x.to(_widened_dtype(x.dtype))


def _softmax_(scores: Tensor) -> Tensor:
    """Over the last dimension; may take the place of the scores."""
    if scores.shape[-1] >= _NARROW:
        return scores.softmax(-1)
    exponentials = scores.sub_(scores.amax(-1, keepdim=True)).exp_()
    return exponentials.div_(exponentials.sum(-1, keepdim=True))


def _softmax_backward(grad: Tensor, weights: Tensor) -> Tensor:
    if weights.shape[-1] >= _NARROW:
        return torch._softmax_backward_data(grad, weights, -1, weights.dtype)
    weighted = grad * weights
    return weighted.sub_(weights * weighted.sum(-1, keepdim=True))
