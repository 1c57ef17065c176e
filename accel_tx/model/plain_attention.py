"""Attention by products of its own, one node of autograd for all blocks; for CPUs.

Shape letters: N tokens, P places of the padded blocks, n sentences of a block, T target, S source, H heads, K head
width, C channels, D `d_model`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from accel_tx.data.batch import Block, gather_rows, scatter_rows
from accel_tx.model.dropout import draw_kept, kept_scale
from accel_tx.model.sentence_attention import d_model_of

# torch's softmax takes rows shorter than a vector register one number at a time.
_NARROW = 16


def plain_attention(
    query: Tensor,
    key_value: Tensor | None,
    blocks: Sequence[Block],
    memory_blocks: Sequence[Block],
    n_heads: int,
    dropout: float,
    causal: bool,
) -> Tensor:
    """`attend` by a few large operations a block, whose weights are kept for the backward pass.

    Products and softmax are taken in float32, or in float64. In bfloat16 oneDNN would make a kernel for every new
    shape of a block, and nearly all are new: that took longer than the products, which are few.
    """
    # All blocks are padded at once: each operation has its cost, whatever its size.
    side = _Places.of(blocks)
    padded = side.pad(query), None if key_value is None else _Places.of(memory_blocks).pad(key_value)
    return side.unpad(_PlainAttention.apply(*padded, blocks, memory_blocks, n_heads, dropout, causal))  # type: ignore[no-untyped-call]


class _Places(NamedTuple):
    """Where the tokens of a side stand among the P places of all its padded blocks."""

    n_places: int
    of_tokens: Tensor | None
    """(N,) int64; None: every place is a token's."""

    @classmethod
    def of(cls, blocks: Sequence[Block]) -> _Places:
        sizes = [block.n_positions for block in blocks]
        if all(block.positions is None for block in blocks):
            return cls(sum(sizes), None)
        within = [torch.arange(block.n_positions) if block.positions is None else block.positions for block in blocks]
        firsts = accumulate(sizes, initial=0)
        return cls(sum(sizes), torch.cat([places + first for places, first in zip(within, firsts)]))

    def pad(self, tokens: Tensor) -> Tensor:
        """(N, C) -> (P, C), 0 at padding."""
        return tokens if self.of_tokens is None else scatter_rows(tokens, self.of_tokens, self.n_places)

    def unpad(self, padded: Tensor) -> Tensor:
        """(P, C) -> (N, C)."""
        return padded if self.of_tokens is None else gather_rows(padded, self.of_tokens)


class _PlainAttention(torch.autograd.Function):
    """Of padded projections: query (P, D) or (P, 3 D), and key_value (P, 2 D) or None.

    Keeps them and the weights as narrow as they came, and widens them again in the backward pass; where they are wide
    already, keeps the heads in their place. Autocast is off in both: it would take the widened products in half
    precision after all.
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
        is_wide = query.dtype == _widened_dtype(query.dtype)
        saved = list[Tensor | None]()
        for of_block, (into,), memory_block in zip(
            _per_block(query, key_value, blocks, memory_blocks),
            _per_block(merged, None, blocks, blocks),
            memory_blocks,
            strict=True,
        ):
            heads = [_wide_heads(part, d_model, n_heads) for part in of_block]
            q, k, v = _parts(heads)
            scores = q.new_empty(len(q), q.shape[1], k.shape[1]).baddbmm_(q, k.transpose(1, 2), beta=0, alpha=_scale(q))
            weights = _softmax_(_hide_(scores, memory_block, causal))
            kept = draw_kept(weights.shape, dropout) if dropout else None
            _put(_dropped(weights, kept, dropout) @ v, into, n_heads)
            if any(ctx.needs_input_grad):
                saved += [weights.to(query.dtype), kept, *(heads if is_wide else of_block)]
        ctx.save_for_backward(*saved)
        ctx.sides = [(blocks, query.shape)] + ([] if key_value is None else [(memory_blocks, key_value.shape)])
        ctx.is_wide, ctx.n_heads, ctx.dropout = is_wide, n_heads, dropout
        return merged

    @staticmethod
    @torch.autograd.function.once_differentiable
    @torch.autocast("cpu", enabled=False)  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        d_model, n_heads, sides = grad.shape[1], ctx.n_heads, ctx.sides
        into = [grad.new_empty(shape) for _, shape in sides]
        into_blocks = zip(*(_views(x, blocks) for x, (blocks, _) in zip(into, sides, strict=True)), strict=True)
        saved = iter(ctx.saved_tensors)
        for of_block, rows in zip(into_blocks, _views(grad, sides[0][0]), strict=True):
            weights, kept = _widened(next(saved)), next(saved)
            parts = [next(saved) for _ in sides]
            heads = parts if ctx.is_wide else [_wide_heads(part, d_model, n_heads) for part in parts]
            grads = [torch.empty_like(part) for part in heads]
            (q, k, v), (grad_q, grad_k, grad_v) = _parts(heads), _parts(grads)
            (grad_heads,) = _wide_heads(rows, d_model, n_heads)
            torch.bmm(_dropped(weights, kept, ctx.dropout).transpose(1, 2), grad_heads, out=grad_v)
            grad_weights = _dropped(grad_heads @ v.transpose(1, 2), kept, ctx.dropout)
            grad_scores = _softmax_backward(grad_weights, weights)
            grad_q.baddbmm_(grad_scores, k, beta=0, alpha=_scale(q))
            grad_k.baddbmm_(grad_scores.transpose(1, 2), q, beta=0, alpha=_scale(q))
            for grad_part, part in zip(grads, of_block, strict=True):
                _put(grad_part, part, n_heads)
        return into[0], into[1] if len(into) > 1 else None, None, None, None, None, None


def _per_block(
    query: Tensor, key_value: Tensor | None, blocks: Sequence[Block], memory_blocks: Sequence[Block]
) -> Iterator[tuple[Tensor, ...]]:
    """Of each block in turn its part of the one padded projection, or of both, (n, T, C) each; views."""
    sides = [(query, blocks)] if key_value is None else [(query, blocks), (key_value, memory_blocks)]
    return zip(*(_views(padded, own) for padded, own in sides), strict=True)


def _views(padded: Tensor, blocks: Sequence[Block]) -> list[Tensor]:
    parts = torch.split(padded, [block.n_positions for block in blocks])
    return [part.view(block.n_sentences, block.width, -1) for part, block in zip(parts, blocks, strict=True)]


def _scale(query: Tensor) -> float:
    return query.shape[-1] ** -0.5  # type: ignore[no-any-return]


def _wide_heads(padded: Tensor, d_model: int, n_heads: int) -> Tensor:
    """The parts of a projection (n, T, C), each (n x H, T, K), in the precision of the products."""
    n, width, n_channels = padded.shape
    heads = padded.view(n, width, n_channels // d_model, n_heads, d_model // n_heads).permute(2, 0, 3, 1, 4)
    return torch.empty(heads.shape, dtype=_widened_dtype(padded.dtype)).copy_(heads).flatten(1, 2)


def _put(heads: Tensor, into: Tensor, n_heads: int) -> None:
    """Inverse of `_wide_heads`: write heads (n_parts, n x H, T, K), or those of one part, to (n, T, C)."""
    n, width, _ = into.shape
    merged = heads.view(-1, n, n_heads, width, heads.shape[-1]).permute(1, 3, 0, 2, 4)
    into.view(merged.shape).copy_(merged)


def _parts(projections: list[Tensor]) -> list[Tensor]:
    return [part for projection in projections for part in projection]


def _hide_(scores: Tensor, memory_block: Block, causal: bool) -> Tensor:
    """-inf at what must not be seen, of scores (n x H, T, S); masks as in `kernel_attention`.

    It is added: `masked_fill_` takes several times as long on CPU.
    """
    if causal:
        return scores.add_(scores.new_full(scores.shape[1:], -torch.inf).triu_(1))
    if memory_block.valid is not None:
        hidden = scores.new_zeros(memory_block.valid.shape).masked_fill_(~memory_block.valid, -torch.inf)
        scores.view(len(hidden), -1, *scores.shape[1:]).add_(hidden[:, None, None])
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
