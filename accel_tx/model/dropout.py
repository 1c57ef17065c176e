"""Dropout, with a faster draw on CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Dropout(nn.Module):
    """Zero each number with probability `p` and scale the others by 1 / (1 - p), in training only.

    On CPU p is a multiple of 2^-16, and so is the scale's; see `draw_kept`.
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
        return _Dropped.apply(x, draw_kept(x.shape, self.p), kept_scale(self.p))  # type: ignore[no-untyped-call,no-any-return]


class _Dropped(torch.autograd.Function):
    """x where it is kept, scaled; keeps one byte a number."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kept: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(kept)
        ctx.scale = scale
        return _scaled(x, kept, scale)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (kept,) = ctx.saved_tensors
        return _scaled(grad, kept, ctx.scale), None, None


def _scaled(x: Tensor, kept: Tensor, scale: float) -> Tensor:
    # A product with bools takes half as long again as widening them first.
    return kept.to(x.dtype).mul_(x).mul_(scale)


def draw_kept(shape: Sequence[int], p: float) -> Tensor:
    """Where dropout keeps a number, a bool tensor on the CPU.

    torch's own draws take a tenth of a training step. Here one 64-bit draw decides for four numbers, 16 bits each,
    about 2.5 times as fast.
    """
    n = torch.Size(shape).numel()
    draws = torch.empty((n + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    return draws.view(torch.int16)[:n].view(shape) >= _n_dropped_of_65536(p) - 32768


def kept_scale(p: float) -> float:
    """What the numbers that `draw_kept` keeps are multiplied by."""
    return 65536 / (65536 - _n_dropped_of_65536(p))


def _n_dropped_of_65536(p: float) -> int:
    return min(round(p * 65536), 65535)
