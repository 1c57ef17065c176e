"""The label-smoothed cross-entropy of rows of logits and its gradient, in one kernel."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# Logits that a program looks at in one step.
_BLOCK = 4096


@triton.jit
def _losses_of_rows(  # type: ignore[no-untyped-def]
    products, bias, targets, losses, n_columns: tl.constexpr, of_target, of_all, NEEDS_GRAD: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    start = products + row * n_columns
    target = tl.load(targets + row)
    is_token = target >= 0
    largest = -float("inf")
    total, sum_of_logits = 0.0, 0.0
    for first in range(0, n_columns, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        inside = columns < n_columns
        logits = tl.load(start + columns, mask=inside, other=0.0).to(tl.float32)
        logits += tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)
        sum_of_logits += tl.sum(logits)
        logits = tl.where(inside, logits, -float("inf"))
        higher = tl.maximum(largest, tl.max(logits))
        total = total * tl.exp(largest - higher) + tl.sum(tl.exp(logits - higher))
        largest = higher
    log_norm = largest + tl.log(total)
    at_target = tl.load(start + target, mask=is_token, other=0.0).to(tl.float32)
    at_target += tl.load(bias + target, mask=is_token, other=0.0).to(tl.float32)
    loss = log_norm - of_target * at_target - of_all * sum_of_logits
    tl.store(losses + row, tl.where(is_token, loss, 0.0))
    if NEEDS_GRAD:
        for first in range(0, n_columns, BLOCK):
            columns = first + tl.arange(0, BLOCK)
            inside = columns < n_columns
            logits = tl.load(start + columns, mask=inside, other=0.0).to(tl.float32)
            logits += tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)
            grad = tl.exp(logits - log_norm) - of_all - tl.where(columns == target, of_target, 0.0)
            tl.store(start + columns, tl.where(is_token, grad, 0.0), mask=inside)


def losses_of_rows(products: Tensor, bias: Tensor, targets: Tensor, smoothing: float, needs_grad: bool) -> Tensor:
    """Label-smoothed cross-entropy of each row of products (n, V) + bias (V,): (n,) float32, computed in float32.

    A target (n,) below 0 is none: its row has the loss 0. A gradient, where wanted, takes the place of the products.
    """
    n_rows, n_columns = products.shape
    losses = torch.empty(n_rows, dtype=torch.float32, device=products.device)
    weights = 1 - smoothing, smoothing / n_columns
    _losses_of_rows[(n_rows,)](products, bias, targets, losses, n_columns, *weights, needs_grad, _BLOCK, num_warps=8)
    return losses
