"""The training loss: output projection and label-smoothed cross-entropy in one, without all logits in memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

# Logits computed at a time. 2^20 float32 are 4 MiB: they stay in the processor's cache between the passes over them.
_LOGITS_PER_CHUNK = 1 << 20
# A GPU has no such cache, and few large products suit it better: 2^26 float32 are 256 MiB.
_LOGITS_PER_CHUNK_ON_GPU = 1 << 26


def vocabulary_loss(hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy in nats of the targets under softmax(hidden weight^T + bias), summed over the tokens.

    Shapes: hidden (N, D), weight (V, D), bias (V,), targets (N,) int64: real target tokens only, no padding.
    Gradients are taken chunk by chunk during the forward pass, so memory grows with N x D, not N x V.
    Under float16 the plain computation is used: there the gradient has to pass through the loss scale first.
    Source: Szegedy et al. 2016, section 7 (the smoothing mass covers all V classes).
    """
    device = hidden.device.type
    amp_dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    if amp_dtype == torch.float16 or hidden.dtype == torch.float16:
        return token_loss(F.linear(hidden, weight, bias), targets, smoothing)
    needs_grad = torch.is_grad_enabled()
    loss: Tensor = _ChunkedLoss.apply(hidden, weight, bias, targets, smoothing, amp_dtype, needs_grad)  # type: ignore[no-untyped-call]
    return loss


def token_loss(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """The same from logits (N, V), all in memory. Half precision is widened: a sum over V of float16 overflows."""
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    log_probs = logits.log_softmax(-1)
    of_target = log_probs.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return -((1 - smoothing) * of_target.sum() + smoothing * log_probs.mean(-1).sum())


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        targets: Tensor,
        smoothing: float,
        amp_dtype: torch.dtype | None,
        needs_grad: bool,
    ) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            loss, *grads = _loss_and_grads(hidden, weight, bias, targets, smoothing, amp_dtype, needs_grad)
        ctx.save_for_backward(*grads)
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        scaled = [grad * grad_loss for grad in ctx.saved_tensors]
        return (*scaled, None, None, None, None)


def _loss_and_grads(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    targets: Tensor,
    smoothing: float,
    amp_dtype: torch.dtype | None,
    needs_grad: bool,
) -> list[Tensor]:
    vocab_size = weight.shape[0]
    matrix = weight.to(amp_dtype or weight.dtype)
    loss = hidden.new_zeros((), dtype=torch.float32 if amp_dtype else hidden.dtype)
    grad_hidden = torch.empty_like(hidden) if needs_grad else None
    grad_weight, grad_bias = torch.zeros_like(weight), torch.zeros_like(bias)
    rows_per_chunk = max(1, (_LOGITS_PER_CHUNK_ON_GPU if hidden.is_cuda else _LOGITS_PER_CHUNK) // vocab_size)
    for start in range(0, len(hidden), rows_per_chunk):
        rows = slice(start, start + rows_per_chunk)
        states, wanted = hidden[rows].to(matrix.dtype), targets[rows].unsqueeze(-1)
        log_probs = torch.addmm(bias.to(matrix.dtype), states, matrix.t()).to(loss.dtype).log_softmax(-1)  # (n, V)
        of_target = log_probs.gather(-1, wanted)
        loss -= (1 - smoothing) * of_target.sum()
        if smoothing:
            loss -= smoothing / vocab_size * log_probs.sum()
        if grad_hidden is None:
            continue
        # d loss / d logits = softmax - smoothing / V - (1 - smoothing) at the target
        grad_logits = log_probs.exp_().sub_(smoothing / vocab_size)
        grad_logits.scatter_add_(-1, wanted, grad_logits.new_full(wanted.shape, smoothing - 1))
        grad_bias += grad_logits.sum(0)
        grad_logits = grad_logits.to(matrix.dtype)
        grad_hidden[rows] = grad_logits @ matrix
        if grad_weight.dtype == matrix.dtype:
            grad_weight.addmm_(grad_logits.t(), states)
        else:
            grad_weight += grad_logits.t() @ states
    return [loss] if grad_hidden is None else [loss, grad_hidden, grad_weight, grad_bias]
