"""Attention of matrix products with a softmax between them, for where torch has no fast kernel: bfloat16 on CPU.

Shape letters: B batch, S source, T target, H heads, K head width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

# torch's softmax takes rows shorter than a vector register one number at a time, and in bfloat16 also the rest of
# longer ones.
_NARROW = 16


def plain_attention(
    query: Tensor, key: Tensor, value: Tensor, attendable: Tensor | None, dropout: float, causal: bool
) -> Tensor:
    """Scaled dot-product attention; see `layers.attend`. The softmax is taken in float32, or in float64."""
    batch, n_heads, n_queries, d_head = query.shape
    # Products of batches want one batch dimension.
    folded = [x.reshape(batch * n_heads, -1, d_head) for x in (query, key, value)]
    hidden = None
    if attendable is not None:
        hidden = ~attendable
    elif causal:
        hidden = torch.ones(n_queries, key.shape[2], dtype=torch.bool, device=query.device).triu(1)
    heads: Tensor = _Attention.apply(*folded, hidden, n_heads, dropout)  # type: ignore[no-untyped-call]
    return heads.view(batch, n_heads, n_queries, d_head)


def traceable_attention(
    query: Tensor, key: Tensor, value: Tensor, attendable: Tensor | None, dropout: float, causal: bool
) -> Tensor:
    """The same for `torch.compile`, which fuses what lies between the products itself, for rows of any width."""
    scores = _widened(query @ key.transpose(-1, -2)) * query.shape[-1] ** -0.5  # (B, H, T, S)
    if causal:
        attendable = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).tril()
    if attendable is not None:
        scores = scores.masked_fill(~attendable, -torch.inf)
    weights = scores.softmax(-1).to(query.dtype)
    return (F.dropout(weights, dropout) if dropout else weights) @ value


class _Attention(torch.autograd.Function):
    """Keeps the weights in half precision only, and computes with them in float32 in the backward pass as well."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, hidden: Tensor | None, n_heads: int, dropout: float
    ) -> Tensor:
        """Shapes: query (B x H, T, K), key and value (B x H, S, K), `hidden` broadcastable to (B, H, T, S)."""
        scores = query @ key.transpose(1, 2)
        scores = torch.mul(_widened(scores), query.shape[-1] ** -0.5)
        if hidden is not None:
            scores.view(-1, n_heads, *scores.shape[1:]).masked_fill_(hidden, -torch.inf)
        weights = _softmax_(scores).to(query.dtype)
        kept = None
        used = weights
        if dropout:
            kept = F.dropout(torch.ones_like(weights), dropout)  # 0 or the scale
            used = weights * kept
        ctx.save_for_backward(query, key, value, weights, kept)
        return used @ value

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, weights, kept = ctx.saved_tensors
        used = weights if kept is None else weights * kept
        grad_value = used.transpose(1, 2) @ grad
        grad_weights = grad @ value.transpose(1, 2)
        if kept is not None:
            grad_weights *= kept
        grad_scores = _softmax_backward(_widened(grad_weights), _widened(weights))
        grad_scores = grad_scores.mul_(query.shape[-1] ** -0.5).to(query.dtype)
        return grad_scores @ key, grad_scores.transpose(1, 2) @ query, grad_value, None, None, None


def _widened(x: Tensor) -> Tensor:
    return x.float() if x.dtype == torch.bfloat16 else x


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
