"""Matrix products in 8 bits: the integers of an int8 export, and training that allows for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_LARGEST = 127


def integers_of(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Each row as integers, and its scale: (N, K) float32 to (N, K) int8 and (N,), such that weight ~ integers / scale.

    Without VNNI, x86 adds the products of two neighbours, with activations of 0 to 255, in 16 bits and cuts the sum off
    (oneDNN, "Nuances of int8 computations"). What is usual against that is half of the range for every weight
    (`reduce_range` of ONNX Runtime). Here a row's scale is the largest with which no two neighbours, the columns 0 and
    1, 2 and 3, ..., add up to more than 128, rounding included: three quarters of the range in a trained model.
    """
    scale = _scales_of_weight(weight)
    return (weight * scale).round().to(torch.int8), scale.squeeze(-1)


def rounded_weight(weight: Tensor) -> Tensor:
    """What those integers stand for, (..., K) float; the gradient is that of the weight itself."""
    return _StraightThrough.apply(weight, _scales_of_weight(_wide(weight)))  # type: ignore[no-any-return,no-untyped-call]


def rounded_input(x: Tensor) -> Tensor:
    """Each row of x (..., K) with the largest number at 127 and all of them at integers, in the scale of x again.

    As CTranslate2 does before a product, while it runs. The gradient is that of x itself.
    """
    return _StraightThrough.apply(x, _scale_to(_wide(x).abs().amax(-1, keepdim=True)))  # type: ignore[no-any-return,no-untyped-call]


class RoundedWeight(nn.Module):
    """A weight (N, K) whose rows are rounded whenever they are used, or once.

    Source: Jacob et al. 2018 (rounding in the forward pass of training), Bengio et al. 2013 (its gradient left out).
    """

    weight: Tensor
    fixed: Tensor | None
    """The rounded weight, where the trained one will not change; used outside of training alone."""

    def __init__(self, *sizes: int, **options: bool) -> None:
        super().__init__(*sizes, **options)
        self.register_buffer("fixed", None, persistent=False)

    def fix(self) -> None:
        """Round now and not at every use."""
        self.fixed = rounded_weight(self.weight.detach())

    def rounded(self) -> Tensor:
        """The weight as products take it."""
        return rounded_weight(self.weight) if self.fixed is None or self.training else self.fixed


class Int8Linear(RoundedWeight, nn.Linear):
    """A linear map of rounded inputs by rounded weights."""

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., n_in) to (..., n_out)."""
        return F.linear(rounded_input(x), self.rounded(), self.bias)


class Int8Embedding(RoundedWeight, nn.Embedding):
    """Rows of a rounded table."""

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids (...) to rows (..., D)."""
        if self.fixed is None or self.training:
            return rounded_weight(super().forward(ids))
        return F.embedding(ids, self.fixed)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        return (x * scale).round_().div_(scale).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def _wide(x: Tensor) -> Tensor:
    return x.detach().to(torch.promote_types(x.dtype, torch.float32))


def _scales_of_weight(weight: Tensor) -> Tensor:
    """(..., K) to (..., 1)."""
    *rows, n_columns = weight.shape
    pairs = F.pad(weight, (0, n_columns % 2)).view(*rows, (n_columns + 1) // 2, 2)
    sums = torch.maximum(pairs.clamp(min=0).sum(-1), pairs.clamp(max=0).sum(-1).neg()).amax(-1, keepdim=True)
    # Rounding adds at most a half to each of the two.
    return _scale_to(sums)


def _scale_to(largest: Tensor) -> Tensor:
    return torch.where(largest > 0, _LARGEST / largest, 1.0).clamp(max=torch.finfo(largest.dtype).max)
