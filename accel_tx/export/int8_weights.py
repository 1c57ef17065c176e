"""Weights as 8-bit integers whose products no CPU cuts off."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_LARGEST = 127


def rounded(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Each row as integers, and its scale: (N, K) float32 to (N, K) int8 and (N,), such that weight ~ integers / scale.

    Without VNNI, x86 adds the products of two neighbours, with activations of 0 to 255, in 16 bits and cuts the sum off
    (oneDNN, "Nuances of int8 computations"). What is usual against that is half of the range for every weight
    (`reduce_range` of ONNX Runtime). Here a row's scale is as large as it may be for no two neighbours, the columns 0
    and 1, 2 and 3, ..., to add up to more than 128, rounding included: three quarters of the range in a trained model.
    """
    pairs = F.pad(weight, (0, weight.shape[1] % 2)).reshape(len(weight), -1, 2)
    sums = torch.maximum(pairs.clamp(min=0).sum(2), pairs.clamp(max=0).sum(2).neg()).amax(1)
    # Rounding adds at most a half to each of the two.
    scale = torch.where(sums > 0, _LARGEST / sums, 1.0).clamp(max=torch.finfo(weight.dtype).max)
    return (weight * scale[:, None]).round().to(torch.int8), scale
