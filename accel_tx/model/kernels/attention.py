"""Attention within sentences that are packed one behind the other, and its gradient.

FlashAttention works on squares of 128 tokens and serves long texts; a sentence has about 25. Here a program takes one
head of one sentence as a whole, or in larger squares if it is long, and its backward pass needs no sums between
programs: the gradients are the same numbers at every run.

Shape letters: N tokens, M memory tokens, B sentences, H heads, K head width, D `d_model`.
Source of the recomputation: Dao 2023, "FlashAttention-2", section 3.1.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

# Tokens up to which a sentence, both sides of it, is one tile; longer ones are cut into tiles of the second size.
_SHORT, _TILE = 32, 64
_LONGEST = 2**31 - 1
_LOG2_E = 1.4426950408889634


@triton.jit
def _extent(starts, sentence):  # type: ignore[no-untyped-def]
    """Where a sentence begins, and its number of tokens."""
    first = tl.load(starts + sentence)
    return first, tl.load(starts + sentence + 1) - first


@triton.jit
def _rows_of(base, start, rows, n_rows, stride, D_HEAD: tl.constexpr, WIDE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Of one head: where its numbers of some tokens are, and which of them exist; (rows, WIDE) both."""
    channels = tl.arange(0, WIDE)
    places = base + (start + rows).to(tl.int64)[:, None] * stride + channels[None, :]
    return places, (rows < n_rows)[:, None] & (channels < D_HEAD)[None, :]


@triton.jit
def _load(base, start, rows, n_rows, stride, D_HEAD: tl.constexpr, WIDE: tl.constexpr):  # type: ignore[no-untyped-def]
    places, exist = _rows_of(base, start, rows, n_rows, stride, D_HEAD, WIDE)
    return tl.load(places, mask=exist, other=0.0)


@triton.jit
def _store(base, start, rows, n_rows, stride, numbers, D_HEAD: tl.constexpr, WIDE: tl.constexpr):  # type: ignore[no-untyped-def] # fmt: skip
    places, exist = _rows_of(base, start, rows, n_rows, stride, D_HEAD, WIDE)
    tl.store(places, numbers.to(base.dtype.element_ty), mask=exist)


@triton.jit
def _scores(queries, keys, rows, columns, n_columns, scale, CAUSAL: tl.constexpr):  # type: ignore[no-untyped-def]
    """Scaled scores in powers of two, -inf where a query must not look."""
    visible = (columns < n_columns)[None, :]
    if CAUSAL:
        visible = visible & (columns[None, :] <= rows[:, None])
    return tl.where(visible, tl.dot(queries, tl.trans(keys)) * scale, -float("inf"))


@triton.jit
def _forward_kernel(  # type: ignore[no-untyped-def]
    query, key, value, out, log_norms, starts, memory_starts, q_stride, m_stride, o_stride, n_heads, scale, above, most,
    D_HEAD: tl.constexpr, WIDE: tl.constexpr, TILE: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    sentence, head = tl.program_id(0), tl.program_id(1)
    q0, n = _extent(starts, sentence)
    m0, m = _extent(memory_starts, sentence)
    longest = tl.maximum(n, m)
    if (longest > above) & (longest <= most):
        at = head * D_HEAD
        for first in range(0, n, TILE):
            rows = first + tl.arange(0, TILE)
            queries = _load(query + at, q0, rows, n, q_stride, D_HEAD, WIDE)
            largest = tl.full((TILE,), -float("inf"), tl.float32)
            total = tl.zeros((TILE,), tl.float32)
            mixed = tl.zeros((TILE, WIDE), tl.float32)
            last = tl.minimum(m, first + TILE) if CAUSAL else m
            for second in range(0, last, TILE):
                columns = second + tl.arange(0, TILE)
                keys = _load(key + at, m0, columns, m, m_stride, D_HEAD, WIDE)
                values = _load(value + at, m0, columns, m, m_stride, D_HEAD, WIDE)
                scores = _scores(queries, keys, rows, columns, m, scale, CAUSAL)
                higher = tl.maximum(largest, tl.max(scores, 1))
                weights = tl.exp2(scores - higher[:, None])
                shrunk = tl.exp2(largest - higher)
                total = total * shrunk + tl.sum(weights, 1)
                mixed = mixed * shrunk[:, None] + tl.dot(weights.to(values.dtype), values)
                largest = higher
            # A sentence without memory sees nothing: zeros, and no gradient.
            log_norm = tl.where(total > 0, largest + tl.log2(total), float("inf"))
            _store(out + at, q0, rows, n, o_stride, mixed / tl.maximum(total, 1e-30)[:, None], D_HEAD, WIDE)
            tl.store(log_norms + (q0 + rows).to(tl.int64) * n_heads + head, log_norm, mask=rows < n)


@triton.jit
def _backward_kernel(  # type: ignore[no-untyped-def]
    query, key, value, out, log_norms, grad, grad_query, grad_key, grad_value, starts, memory_starts,
    q_stride, m_stride, o_stride, n_heads, scale, score_scale, above, most,
    D_HEAD: tl.constexpr, WIDE: tl.constexpr, TILE: tl.constexpr, CAUSAL: tl.constexpr, IS_ONE_TILE: tl.constexpr,
):  # fmt: skip
    sentence, head = tl.program_id(0), tl.program_id(1)
    q0, n = _extent(starts, sentence)
    m0, m = _extent(memory_starts, sentence)
    longest = tl.maximum(n, m)
    if (longest > above) & (longest <= most):
        at = head * D_HEAD
        norms = log_norms + q0.to(tl.int64) * n_heads + head
        if IS_ONE_TILE:
            rows = tl.arange(0, TILE)
            queries = _load(query + at, q0, rows, n, q_stride, D_HEAD, WIDE)
            keys = _load(key + at, m0, rows, m, m_stride, D_HEAD, WIDE)
            values = _load(value + at, m0, rows, m, m_stride, D_HEAD, WIDE)
            upstream = _load(grad + at, q0, rows, n, o_stride, D_HEAD, WIDE)
            log_norm = tl.load(norms + rows * n_heads, mask=rows < n, other=float("inf"))
            weights = tl.exp2(_scores(queries, keys, rows, rows, m, score_scale, CAUSAL) - log_norm[:, None])
            of_weights = tl.dot(upstream, tl.trans(values))
            of_scores = weights * (of_weights - tl.sum(weights * of_weights, 1)[:, None]) * scale
            narrow = of_scores.to(queries.dtype)
            of_values = tl.dot(tl.trans(weights.to(upstream.dtype)), upstream)
            _store(grad_value + at, m0, rows, m, m_stride, of_values, D_HEAD, WIDE)
            _store(grad_key + at, m0, rows, m, m_stride, tl.dot(tl.trans(narrow), queries), D_HEAD, WIDE)
            _store(grad_query + at, q0, rows, n, q_stride, tl.dot(narrow, keys), D_HEAD, WIDE)
        else:
            for second in range(0, m, TILE):
                columns = second + tl.arange(0, TILE)
                keys = _load(key + at, m0, columns, m, m_stride, D_HEAD, WIDE)
                values = _load(value + at, m0, columns, m, m_stride, D_HEAD, WIDE)
                of_keys = tl.zeros((TILE, WIDE), tl.float32)
                of_values = tl.zeros((TILE, WIDE), tl.float32)
                begin = second if CAUSAL else 0
                for first in range(begin, n, TILE):
                    rows = first + tl.arange(0, TILE)
                    queries = _load(query + at, q0, rows, n, q_stride, D_HEAD, WIDE)
                    upstream = _load(grad + at, q0, rows, n, o_stride, D_HEAD, WIDE)
                    mixed = _load(out + at, q0, rows, n, o_stride, D_HEAD, WIDE)
                    log_norm = tl.load(norms + rows * n_heads, mask=rows < n, other=float("inf"))
                    weights = tl.exp2(_scores(queries, keys, rows, columns, m, score_scale, CAUSAL) - log_norm[:, None])
                    common = tl.sum(upstream.to(tl.float32) * mixed.to(tl.float32), 1)
                    of_scores = weights * (tl.dot(upstream, tl.trans(values)) - common[:, None]) * scale
                    of_values += tl.dot(tl.trans(weights.to(upstream.dtype)), upstream)
                    of_keys += tl.dot(tl.trans(of_scores.to(queries.dtype)), queries)
                _store(grad_value + at, m0, columns, m, m_stride, of_values, D_HEAD, WIDE)
                _store(grad_key + at, m0, columns, m, m_stride, of_keys, D_HEAD, WIDE)
            for first in range(0, n, TILE):
                rows = first + tl.arange(0, TILE)
                queries = _load(query + at, q0, rows, n, q_stride, D_HEAD, WIDE)
                upstream = _load(grad + at, q0, rows, n, o_stride, D_HEAD, WIDE)
                mixed = _load(out + at, q0, rows, n, o_stride, D_HEAD, WIDE)
                log_norm = tl.load(norms + rows * n_heads, mask=rows < n, other=float("inf"))
                common = tl.sum(upstream.to(tl.float32) * mixed.to(tl.float32), 1)
                of_queries = tl.zeros((TILE, WIDE), tl.float32)
                last = tl.minimum(m, first + TILE) if CAUSAL else m
                for second in range(0, last, TILE):
                    columns = second + tl.arange(0, TILE)
                    keys = _load(key + at, m0, columns, m, m_stride, D_HEAD, WIDE)
                    values = _load(value + at, m0, columns, m, m_stride, D_HEAD, WIDE)
                    weights = tl.exp2(_scores(queries, keys, rows, columns, m, score_scale, CAUSAL) - log_norm[:, None])
                    of_scores = weights * (tl.dot(upstream, tl.trans(values)) - common[:, None]) * scale
                    of_queries += tl.dot(of_scores.to(keys.dtype), keys)
                _store(grad_query + at, q0, rows, n, q_stride, of_queries, D_HEAD, WIDE)


def forward(
    parts: tuple[Tensor, Tensor, Tensor], starts: tuple[Tensor, Tensor], longest: int, n_heads: int, causal: bool
) -> tuple[Tensor, Tensor]:
    """What all queries see, (N, D), and the logarithms to base 2 of their norms, (N, H) float32.

    `parts`: queries (N, D), keys and values (M, D), as parts of wider rows, in half precision; `starts`: those of the
    sentences and of their memories, (B + 1,) int32; `longest`: tokens of the longest sentence of either side.
    """
    query, key, _ = parts
    d_model = query.shape[1]
    out = query.new_empty(len(query), d_model)
    log_norms = torch.empty(len(query), n_heads, dtype=torch.float32, device=query.device)
    strides = query.stride(0), key.stride(0), out.stride(0)
    scale = _LOG2_E * (d_model // n_heads) ** -0.5
    for above, most, tile in _classes(longest):
        _forward_kernel[(len(starts[0]) - 1, n_heads)](
            *parts, out, log_norms, *starts, *strides, n_heads, scale, above, most,
            **_shapes(d_model // n_heads, tile, causal),
        )  # fmt: skip
    return out, log_norms


def backward(
    grad: Tensor,
    parts: tuple[Tensor, Tensor, Tensor],
    grad_parts: tuple[Tensor, Tensor, Tensor],
    out: Tensor,
    log_norms: Tensor,
    starts: tuple[Tensor, Tensor],
    longest: int,
    n_heads: int,
    causal: bool,
) -> None:
    """Write the gradients of `parts` into `grad_parts`, which lie in memory as they do; grad, of `out`, is (N, D)."""
    query, key, _ = parts
    d_model = query.shape[1]
    strides = query.stride(0), key.stride(0), out.stride(0)
    scale = (d_model // n_heads) ** -0.5
    for above, most, tile in _classes(longest):
        _backward_kernel[(len(starts[0]) - 1, n_heads)](
            *parts, out, log_norms, grad, *grad_parts, *starts, *strides, n_heads, scale, _LOG2_E * scale, above, most,
            **_shapes(d_model // n_heads, tile, causal), IS_ONE_TILE=tile == _SHORT,
        )  # fmt: skip


def _classes(longest: int) -> list[tuple[int, int, int]]:
    """Above which and up to which length sentences are taken together, and in tiles of what size."""
    short = (0, _SHORT, _SHORT)
    return [short] if longest <= _SHORT else [short, (_SHORT, _LONGEST, _TILE)]


def _shapes(d_head: int, tile: int, causal: bool) -> dict[str, Any]:
    # A product on the tensor cores has at least 16 channels; a warp takes 16 rows.
    wide = max(16, triton.next_power_of_2(d_head))
    # Loads that run ahead of wide heads would take 137 KiB of shared memory; an RTX 30 or an L4 has 99.
    n_stages = 1 if wide > 64 else 3
    shapes = {"D_HEAD": d_head, "WIDE": wide, "TILE": tile, "CAUSAL": causal}
    return {**shapes, "num_warps": tile // 16, "num_stages": n_stages}
