"""Attention of packed sentences by our own kernels, as an operator that autograd and torch.compile know.

Shape letters: N tokens, M memory tokens, B sentences, H heads, D `d_model`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def d_model_of(query: Tensor, key_value: Tensor | None) -> int:
    """`d_model`, where query (N, 3 D) holds all three projections and key_value is None, or query is (N, D)."""
    return query.shape[1] // 3 if key_value is None else query.shape[1]


@torch.library.custom_op("accel_tx::sentence_attention", mutates_args=())
def _attention(
    query: Tensor,
    key_value: Tensor | None,
    starts: Tensor,
    memory_starts: Tensor,
    longest: int,
    n_heads: int,
    causal: bool,
) -> tuple[Tensor, Tensor]:
    from accel_tx.model.kernels.attention import forward

    return forward(_parts(query, key_value), (starts, memory_starts), longest, n_heads, causal)


def sentence_attention(
    query: Tensor,
    key_value: Tensor | None,
    starts: Tensor,
    memory_starts: Tensor,
    longest: int,
    n_heads: int,
    causal: bool,
) -> Tensor:
    """Scaled dot-product attention of each sentence's tokens to those of its own memory: (N, D).

    query (N, D) and key_value (M, 2 D) are fused projections, in bfloat16 or float16; or query (N, 3 D) holds all three
    and key_value is None. starts and memory_starts, (B + 1,) int32, are the rows at which sentences begin; `longest` is
    the number of tokens of the longest one of either side.
    """
    query, key_value = query.contiguous(), None if key_value is None else key_value.contiguous()
    out: Tensor = _attention(query, key_value, starts, memory_starts, longest, n_heads, causal)[0]
    return out


@torch.library.custom_op("accel_tx::sentence_attention_backward", mutates_args=())
def _backward(
    grad: Tensor,
    query: Tensor,
    key_value: Tensor | None,
    out: Tensor,
    log_norms: Tensor,
    starts: Tensor,
    memory_starts: Tensor,
    longest: int,
    n_heads: int,
    causal: bool,
) -> list[Tensor]:
    from accel_tx.model.kernels.attention import backward

    grads = [torch.empty_like(x) for x in (query, key_value) if x is not None]
    into = _parts(grads[0], None if key_value is None else grads[1])
    starts_of_both = starts, memory_starts
    backward(
        grad.contiguous(), _parts(query, key_value), into, out, log_norms, starts_of_both, longest, n_heads, causal
    )
    return grads


def _parts(query: Tensor, key_value: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, each (N, D), of the fused projections or of their gradients."""
    d_model = d_model_of(query, key_value)
    memory = query[:, d_model:] if key_value is None else key_value
    return query[:, :d_model], memory[:, :d_model], memory[:, d_model:]


def _shapes(
    query: Tensor, key_value: Tensor | None, starts: Tensor, memory_starts: Tensor, longest: int, n_heads: int, _: bool
) -> tuple[Tensor, Tensor]:
    d_model = d_model_of(query, key_value)
    n = query.shape[0]  # not `len`, which would make the graph one for this size
    return query.new_empty(n, d_model), query.new_empty(n, n_heads, dtype=torch.float32)


def _shapes_of_backward(grad: Tensor, query: Tensor, key_value: Tensor | None, *_: Any) -> list[Tensor]:
    return [torch.empty_like(x) for x in (query, key_value) if x is not None]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key_value, starts, memory_starts, *ctx.options = inputs
    ctx.save_for_backward(query, key_value, *output, starts, memory_starts)


def _grads(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    grads: Sequence[Tensor | None] = _backward(grad, *ctx.saved_tensors, *ctx.options)
    of_query, of_key_value = grads if len(grads) == 2 else (grads[0], None)
    return of_query, of_key_value, None, None, None, None, None


_attention.register_fake(_shapes)
_backward.register_fake(_shapes_of_backward)
_attention.register_autograd(_grads, setup_context=_keep)
