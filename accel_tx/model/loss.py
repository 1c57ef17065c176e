"""The training loss: output projection and label-smoothed cross-entropy in one, without all logits in memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

# Logits in memory at a time: 2^24 float32 are 64 MiB, enough rows for the matrix products to run at full speed; a GPU
# wants more of them.
_LOGITS_PER_CHUNK = 1 << 24
_LOGITS_PER_CHUNK_ON_GPU = 1 << 26
# What lies between two matrix products of a chunk is done for so many logits at a time on CPU: 2^18 float32 are 1 MiB
# and stay in the core's cache between the passes over them.
_LOGITS_PER_BLOCK = 1 << 18


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
    matrix, offsets = weight.to(amp_dtype or weight.dtype), bias.to(amp_dtype or bias.dtype)
    loss = hidden.new_zeros((), dtype=torch.float32 if amp_dtype else hidden.dtype)
    grad_hidden = torch.empty_like(hidden) if needs_grad else None
    grad_weight, grad_bias = torch.zeros_like(weight), torch.zeros_like(bias)
    n_chunk = max(1, (_LOGITS_PER_CHUNK_ON_GPU if hidden.is_cuda else _LOGITS_PER_CHUNK) // vocab_size)
    n_block = n_chunk if hidden.is_cuda else max(1, _LOGITS_PER_BLOCK // vocab_size)
    for start in range(0, len(hidden), n_chunk):
        rows = slice(start, start + n_chunk)
        states, wanted = hidden[rows].to(matrix.dtype), targets[rows]
        logits = torch.addmm(offsets, states, matrix.t())  # (n, V)
        for block, of_block in zip(torch.split(logits, n_block), torch.split(wanted, n_block), strict=True):
            loss += _block_loss(block, of_block, smoothing, loss.dtype, grad_bias if needs_grad else None)
        if grad_hidden is None:
            continue
        grad_hidden[rows] = logits @ matrix
        if grad_weight.dtype == matrix.dtype:
            grad_weight.addmm_(logits.t(), states)
        else:
            grad_weight += logits.t() @ states
    return [loss] if grad_hidden is None else [loss, grad_hidden, grad_weight, grad_bias]


def _block_loss(
    logits: Tensor, targets: Tensor, smoothing: float, dtype: torch.dtype, grad_bias: Tensor | None
) -> Tensor:
    """Loss of logits (n, V), computed in `dtype`; where a gradient is wanted, it takes the place of the logits.

    d loss / d logits = softmax - smoothing / V - (1 - smoothing) at the target.
    """
    vocab_size = logits.shape[-1]
    shifted = logits.to(dtype, copy=True)
    shifted -= shifted.amax(-1, keepdim=True)
    wanted = targets.unsqueeze(-1)
    of_target = shifted.gather(-1, wanted).sum()
    of_all = shifted.sum() if smoothing else shifted.new_zeros(())
    exponentials = shifted.exp_()
    norms = exponentials.sum(-1, keepdim=True)
    if grad_bias is not None:
        grad = exponentials.div_(norms).sub_(smoothing / vocab_size)
        grad.scatter_add_(-1, wanted, grad.new_full(wanted.shape, smoothing - 1))
        grad_bias += grad.sum(0)
        logits.copy_(grad)
    # log softmax = shifted - log(norm)
    return norms.log().sum() - (1 - smoothing) * of_target - smoothing / vocab_size * of_all
