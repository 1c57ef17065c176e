"""Muon: matrices move along their momentum, made orthogonal. Many small matrices are taken together.

Source: Jordan et al. 2024, "Muon"; the scale of a step: Liu et al. 2025, "Muon is Scalable for LLM Training", section
2.2. The numbers are those of `torch.optim.Muon` but for rounding; that takes one matrix after the other, and bfloat16
also where the hardware has none.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from accel_tx.model.precision import computes_bfloat16

_MOMENTUM = 0.95
# Newton-Schulz: the fifth-degree polynomial that lifts small singular values fastest, and how often it is applied.
_COEFFICIENTS, _N_STEPS = (3.4445, -4.7750, 2.0315), 5
_LEAST_NORM = 1e-7
# Numbers of a matrix up to which it is taken together with others: a CPU has slower products for many than for one,
# and only small matrices make up for it in calls. The second is a guess, for want of a GPU.
_SMALL_ON_CPU, _SMALL_ON_GPU = 2**15, 2**18


def step(matrices: list[Tensor], momenta: list[Tensor], lr: float, weight_decay: float) -> None:
    """One update of matrices, in place, by their `grad`; so are the momenta, of the same shapes.

    Nesterov's momentum; a step has the root mean square of 0.2 `lr`, as AdamW's.
    """
    gradients = [cast(Tensor, matrix.grad) for matrix in matrices]
    torch._foreach_lerp_(momenta, gradients, 1 - _MOMENTUM)
    updates = torch._foreach_lerp(gradients, momenta, _MOMENTUM)
    if weight_decay:
        torch._foreach_mul_(matrices, 1 - lr * weight_decay)
    for together in _batches(matrices):
        wide = [_wide(updates[i]) for i in together]
        directions = orthogonal(torch.stack(wide)) if len(wide) > 1 else [orthogonal(wide[0])]
        size = -0.2 * lr * max(matrices[together[0]].shape) ** 0.5
        for i, direction in zip(together, directions, strict=True):
            matrices[i].add_(direction if _is_wide(matrices[i]) else direction.mT, alpha=size)


def orthogonal(matrices: Tensor) -> Tensor:
    """About the nearest matrices whose rows are orthogonal: (n, R, C) or one (R, C), with R <= C; their singular values
    are 0.7 to 1.2.

    In bfloat16 where the hardware has it, else in float32.
    """
    a, b, c = _COEFFICIENTS
    x = matrices.to(torch.bfloat16 if computes_bfloat16(matrices.device) else torch.float32)
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=_LEAST_NORM)
    add_product = torch.addmm if x.ndim == 2 else torch.baddbmm
    for _ in range(_N_STEPS):
        gram = x @ x.mT
        x = add_product(x, add_product(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _batches(matrices: list[Tensor]) -> list[list[int]]:
    """Indices of small matrices that are of one shape when they lie on their longer side; of each large one alone."""
    by_shape: dict[torch.Size, list[int]] = {}
    for i, matrix in enumerate(matrices):
        by_shape.setdefault(_wide(matrix).shape, []).append(i)
    small = _SMALL_ON_GPU if matrices[0].is_cuda else _SMALL_ON_CPU
    found = []
    for shape, of_shape in by_shape.items():
        found += [of_shape] if shape.numel() <= small else [[i] for i in of_shape]
    return found


def _is_wide(matrix: Tensor) -> bool:
    return matrix.shape[0] <= matrix.shape[1]


def _wide(matrix: Tensor) -> Tensor:
    return matrix if _is_wide(matrix) else matrix.mT
