"""Attention by products of its own, one node of autograd for all blocks; for CPUs.

Shape letters: N tokens, P places of the padded blocks, n sentences of a block, T target, S source, H heads, K head
width, D `d_model`, G projections fused in one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from accel_tx.data.batch import Block
from accel_tx.model.dropout import draw_kept, kept_scale

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
    merged: Tensor = _PlainAttention.apply(query, key_value, blocks, memory_blocks, n_heads, dropout, causal)  # type: ignore[no-untyped-call]
    return merged


class _PlainAttention(torch.autograd.Function):
    """Of fused projections: query (N, D) or (N, 3 D), and key_value (N, 2 D) or None.

    Keeps their heads and the weights as narrow as they came, and widens them again in the backward pass. Autocast is
    off in both: it would take the widened products in half precision after all.
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
        own = tuple(blocks)
        if key_value is None:
            projections, sides = [query], [_places_of(own, n_heads, 3)]
        else:
            projections = [query, key_value]
            sides = [_places_of(own, n_heads, 1), _places_of(tuple(memory_blocks), n_heads, 2)]
        of_result = _places_of(own, n_heads, 1)
        heads = [side.split(x) for side, x in zip(sides, projections, strict=True)]
        merged = heads[0].new_empty(1, *heads[0].shape[1:], dtype=_widened_dtype(query.dtype))
        saved = list[Tensor | None]()
        for (q, k, v), (into,), memory_block in zip(
            _per_block(heads, sides), _per_block([merged], [of_result]), memory_blocks, strict=True
        ):
            q, k, v = _widened(q), _widened(k), _widened(v)
            scores = q.new_empty(len(q), q.shape[1], k.shape[1]).baddbmm_(q, k.transpose(1, 2), beta=0, alpha=_scale(q))
            weights = _softmax_(_hide_(scores, memory_block, causal))
            kept = draw_kept(weights.shape, dropout) if dropout else None
            torch.bmm(_dropped(weights, kept, dropout), v, out=into)
            if any(ctx.needs_input_grad):
                saved += [weights.to(query.dtype), kept]
        ctx.save_for_backward(*heads, *saved)
        ctx.sides, ctx.of_result, ctx.dropout = sides, of_result, dropout
        return of_result.join(merged).to(query.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    @torch.autocast("cpu", enabled=False)  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        sides: list[_Places] = ctx.sides
        saved = iter(ctx.saved_tensors)
        heads = [next(saved) for _ in sides]
        grads = [torch.empty_like(x, dtype=_widened_dtype(x.dtype)) for x in heads]
        of_merged = ctx.of_result.split(grad)
        for (q, k, v), (grad_q, grad_k, grad_v), (grad_heads,) in zip(
            _per_block(heads, sides), _per_block(grads, sides), _per_block([of_merged], [ctx.of_result]), strict=True
        ):
            weights, kept = _widened(next(saved)), next(saved)
            q, k, v, grad_heads = (_widened(x) for x in (q, k, v, grad_heads))
            torch.bmm(_dropped(weights, kept, ctx.dropout).transpose(1, 2), grad_heads, out=grad_v)
            grad_weights = _dropped(grad_heads @ v.transpose(1, 2), kept, ctx.dropout)
            grad_scores = _softmax_backward(grad_weights, weights)
            grad_q.baddbmm_(grad_scores, k, beta=0, alpha=_scale(q))
            grad_k.baddbmm_(grad_scores.transpose(1, 2), q, beta=0, alpha=_scale(q))
        joined = [side.join(x).to(grad.dtype) for side, x in zip(sides, grads, strict=True)]
        return joined[0], joined[1] if len(joined) > 1 else None, None, None, None, None, None


class _Places(NamedTuple):
    """Where the heads of G fused projections stand in the padded blocks of their side.

    Rows are those of a head at a token: N x G x H as a projection has them, and G x P x H padded, of which each
    projection's are block after block (n, H, T).
    """

    shapes: list[tuple[int, int]]
    """Of each block, (n x H, T)."""
    n_tokens: int
    n_fused: int
    padded: Tensor
    """(N x G x H,) int64, the padded row of each row of the projections."""
    sources: Tensor
    """(G x P x H,) int64, the reverse; 0 at padding."""
    padding: Tensor
    """int64, the padded rows that have no source."""

    def split(self, fused: Tensor) -> Tensor:
        """Fused projections (N, G x D) -> (G, P x H, K), 0 at padding."""
        rows = fused.reshape(len(self.padded), -1).index_select(0, self.sources).index_fill_(0, self.padding, 0)
        return rows.view(self.n_fused, -1, rows.shape[1])

    def join(self, heads: Tensor) -> Tensor:
        """Inverse of `split`: (G, P x H, K) -> (N, G x D)."""
        return heads.flatten(0, 1).index_select(0, self.padded).view(self.n_tokens, -1)

    def blocks_of(self, heads: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Of each block the G projections of heads (G, P x H, K): (n x H, T, K) each; views."""
        of_blocks = torch.split(heads, [n * width for n, width in self.shapes], 1)
        return (x.view(-1, *shape, x.shape[-1]).unbind() for x, shape in zip(of_blocks, self.shapes, strict=True))


# All layers of a model ask for the places of the same batch: of queries, keys and values of its two sides, of the keys
# and values of the source, and of the results of both.
@lru_cache(maxsize=5)
def _places_of(blocks: tuple[Block, ...], n_heads: int, n_fused: int) -> _Places:
    within = [torch.arange(block.n_positions) if block.positions is None else block.positions for block in blocks]
    *firsts, n_rows = accumulate((block.n_positions * n_heads for block in blocks), initial=0)
    of_blocks = torch.tensor([(block.width, first) for block, first in zip(blocks, firsts, strict=True)])
    width, first = of_blocks.repeat_interleave(torch.tensor([len(x) for x in within]), 0).unbind(1)
    place = torch.cat(within)
    of_first_head = first + place + place // width * width * (n_heads - 1)
    of_heads = of_first_head[:, None] + width[:, None] * torch.arange(n_heads)
    padded = (of_heads[:, None] + n_rows * torch.arange(n_fused)[:, None]).flatten()
    sources = torch.full((n_fused * n_rows,), -1)
    sources[padded] = torch.arange(len(padded))
    padding = (sources < 0).nonzero().flatten()
    shapes = [(block.n_sentences * n_heads, block.width) for block in blocks]
    return _Places(shapes, len(place), n_fused, padded, sources.clamp_(min=0), padding)


def _per_block(heads: Sequence[Tensor], sides: Sequence[_Places]) -> Iterator[tuple[Tensor, ...]]:
    """Of each block in turn the projections of the one side, or of both, (n x H, T, K) each; views."""
    of_sides = zip(*(side.blocks_of(x) for side, x in zip(sides, heads, strict=True)), strict=True)
    return (sum(parts, ()) for parts in of_sides)


def _scale(query: Tensor) -> float:
    return query.shape[-1] ** -0.5  # type: ignore[no-any-return]


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
