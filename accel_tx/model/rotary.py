"""Rotary positions: queries and keys are turned by angles that grow with their place, so that their products know only
how far apart two tokens are.

Source: Su et al. 2021, "RoFormer", section 3.4.2 (pairs of neighbouring channels; the wavelengths of the sinusoidal
positions, over a head's width). Shape letters: N tokens, B sentences, W beam, H heads, K head width, D `d_model`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

ROTARY_BASE = 10_000.0


def rotations(n_positions: int, n_heads: int, d_head: int) -> Tensor:
    """Cosine and sine of each pair of channels' angle, beside each other, the same in all heads: (n_positions, D)."""
    positions = torch.arange(n_positions, dtype=torch.float64).unsqueeze(1)
    angles = positions * ROTARY_BASE ** (-torch.arange(0, d_head, 2, dtype=torch.float64) / d_head)
    pairs = torch.stack([angles.cos(), angles.sin()], dim=-1).flatten(1)  # (n_positions, K)
    return pairs.repeat(1, n_heads).to(torch.get_default_dtype())


def turn(projected: Tensor, turns: Tensor) -> Tensor:
    """Turn queries and keys of a fused projection (..., 3 D) by `turns` (..., D), rows of `rotations`; not the values.

    `turns` broadcast over the leading dimensions. Autocast rounds no angle to half precision.
    """
    if torch.compiler.is_compiling():  # which knows no complex numbers
        *turned, value = projected.chunk(3, dim=-1)
        return torch.cat([*(_turned(part, turns).to(projected.dtype) for part in turned), value], dim=-1)
    return _Turn.apply(projected, turns)  # type: ignore[no-untyped-call,no-any-return]


def _turned(x: Tensor, turns: Tensor) -> Tensor:
    (a, b), (cos, sin) = (_pairs(channels).unbind(-1) for channels in (x, turns))
    return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2)


def _pairs(channels: Tensor) -> Tensor:
    return channels.view(*channels.shape[:-1], -1, 2)


class _Turn(torch.autograd.Function):
    """As a product of complex numbers, which is one pass; its gradient turns back."""

    @staticmethod
    def forward(ctx: Any, projected: Tensor, turns: Tensor) -> Tensor:
        ctx.save_for_backward(turns)
        return _multiplied(projected, _as_complex(turns))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (turns,) = ctx.saved_tensors
        return _multiplied(grad, _as_complex(turns).conj()), None


def _as_complex(pairs: Tensor) -> Tensor:
    wide = pairs.float() if pairs.dtype in (torch.bfloat16, torch.float16) else pairs
    return torch.view_as_complex(_pairs(wide))


def _multiplied(projected: Tensor, turns: Tensor) -> Tensor:
    is_narrow = projected.dtype in (torch.bfloat16, torch.float16)
    dtype = torch.float32 if is_narrow else projected.dtype
    wide = projected.to(dtype, copy=True, memory_format=torch.contiguous_format)
    parts = torch.view_as_complex(wide.view(*wide.shape[:-1], 3, -1, 2))  # (..., 3, D / 2)
    parts[..., :2, :] *= turns.unsqueeze(-2)
    return wide.to(projected.dtype)
