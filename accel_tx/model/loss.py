"""The training loss: output projection and label-smoothed cross-entropy in one, without all logits in memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from accel_tx.data.memory import LOGITS_PER_BLOCK, Device, logits_per_chunk
from accel_tx.model import kernels

# By our kernel they take half of the memory.
_LOGITS_PER_CHUNK_IN_KERNEL = 1 << 27
# Products of bfloat16 with some other numbers of rows, odd ones, take up to a third longer on CPU.
_ROWS = 32


def vocabulary_loss(
    hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, smoothing: float, r_drop: float = 0.0
) -> Tensor:
    """Cross-entropy in nats of the targets under softmax(hidden weight^T + bias), summed over the tokens.

    Shapes: hidden (N, D), weight (V, D), bias (V,), targets (N,) int64: real target tokens only, no padding.
    With `r_drop` above 0 hidden is (N, 2, D), every token twice under different dropout: the sum is over both, and
    r_drop times the mean of the two Kullback-Leibler divergences between the token's distributions comes on top.
    Gradients are taken chunk by chunk during the forward pass, so memory grows with N x D, not N x V.
    Where a gradient is wanted under float16 the plain computation is used: it has to pass through the loss scale first.
    Source: Szegedy et al. 2016, section 7 (the smoothing mass covers all V classes); Liang et al. 2021, equation 4.
    """
    if r_drop:
        hidden, targets = hidden.flatten(0, 1), targets.repeat_interleave(2)
    device = hidden.device.type
    amp_dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    needs_grad = torch.is_grad_enabled()
    if hidden.dtype == torch.float16 or (needs_grad and amp_dtype == torch.float16):
        return token_loss(F.linear(hidden, weight, bias), targets, smoothing, r_drop)
    loss: Tensor = _ChunkedLoss.apply(hidden, weight, bias, targets, smoothing, r_drop, amp_dtype, needs_grad)  # type: ignore[no-untyped-call]
    return loss


def token_loss(logits: Tensor, targets: Tensor, smoothing: float, r_drop: float = 0.0) -> Tensor:
    """The same from logits (N, V), all in memory; with `r_drop`, those of a token in two rows that follow each other.

    Half precision is widened: a sum over V of float16 overflows.
    """
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    log_probs = logits.log_softmax(-1)
    of_target = log_probs.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    loss = -((1 - smoothing) * of_target.sum() + smoothing * log_probs.mean(-1).sum())
    if r_drop:
        one, other = log_probs[0::2], log_probs[1::2]
        loss = loss + r_drop / 2 * ((one.exp() - other.exp()) * (one - other)).sum()
    return loss


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        targets: Tensor,
        smoothing: float,
        r_drop: float,
        amp_dtype: torch.dtype | None,
        needs_grad: bool,
    ) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            inputs = hidden, weight, bias, targets, smoothing
            # Our kernel computes in float32 and knows no R-Drop.
            if kernels.runs(hidden) and not r_drop and hidden.dtype != torch.float64:
                loss, *grads = _loss_and_grads_by_kernel(*inputs, amp_dtype, needs_grad)
            elif hidden.is_cpu and not r_drop and not amp_dtype:
                loss, *grads = _loss_and_grads_in_place(*inputs, needs_grad)
                if grads:  # here, where the logits are no longer in memory
                    grad_hidden, grad_matrix = grads
                    grads = [grad_hidden, grad_matrix[:-1].t().contiguous(), grad_matrix[-1].clone()]
            else:
                loss, *grads = _loss_and_grads(*inputs, r_drop, amp_dtype, needs_grad)
        ctx.save_for_backward(*grads)
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        scaled = [grad * grad_loss for grad in ctx.saved_tensors]
        return (*scaled, None, None, None, None, None)


def _loss_and_grads(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    targets: Tensor,
    smoothing: float,
    r_drop: float,
    amp_dtype: torch.dtype | None,
    needs_grad: bool,
) -> list[Tensor]:
    vocab_size = weight.shape[0]
    device: Device = "cpu" if hidden.is_cpu else "gpu"
    matrix = weight.to(amp_dtype or weight.dtype)
    loss = hidden.new_zeros((), dtype=torch.float32 if amp_dtype else hidden.dtype)
    grad_hidden = torch.empty_like(hidden) if needs_grad else None
    grad_weight, grad_bias = (torch.zeros_like(x) if needs_grad else None for x in (weight, bias))
    n_rows = 2 if r_drop else 1  # of a token: they stay together
    of_token = n_rows * vocab_size
    n_chunk = _rows_per_chunk(vocab_size, matrix.element_size(), device, n_rows)
    n_block = max(1, LOGITS_PER_BLOCK[device] // of_token) * n_rows
    # Memory that is new for every chunk would cost as much again as the products.
    all_products = matrix.new_empty(min(n_chunk, len(hidden)), vocab_size)
    all_logits = all_products.new_empty(min(n_block, len(all_products)), vocab_size, dtype=loss.dtype)
    weight_product = torch.empty_like(matrix) if needs_grad and weight.dtype != matrix.dtype else None
    # The smoothing mass is the same at every logit and needs no pass over them: sum(logits) = sum(h) sum(W) + n sum(b).
    share = smoothing / vocab_size
    of_all_rows = matrix.sum(0, dtype=loss.dtype)  # (D,)
    of_all_states = torch.zeros_like(of_all_rows)
    grad_of_mass = (-share * of_all_rows).to(matrix.dtype)
    for start in range(0, len(hidden), n_chunk):
        rows = slice(start, start + n_chunk)
        states, wanted = hidden[rows].to(matrix.dtype), targets[rows]
        of_all_states += states.sum(0, dtype=loss.dtype)
        # The bias is added block by block: `addmm` would first fill all logits with it.
        products = torch.mm(states, matrix.t(), out=all_products[: len(states)])  # (n, V)
        for block, of_block in zip(torch.split(products, n_block), torch.split(wanted, n_block), strict=True):
            logits = torch.add(block, bias, out=all_logits[: len(block)])
            loss += _block_loss(logits, block, of_block, 1 - smoothing, r_drop, grad_bias)
        if grad_hidden is None or grad_weight is None:
            continue
        grad_hidden[rows] = torch.addmm(grad_of_mass, products, matrix)
        if weight_product is None:
            grad_weight.addmm_(products.t(), states)
        else:
            grad_weight += torch.mm(products.t(), states, out=weight_product)
    loss -= share * (of_all_states @ of_all_rows + len(hidden) * bias.sum())
    if grad_weight is not None and grad_bias is not None:
        grad_weight -= share * of_all_states
        grad_bias -= share * len(hidden)
    return [loss, *(grad for grad in (grad_hidden, grad_weight, grad_bias) if grad is not None)]


def _loss_and_grads_in_place(
    hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, smoothing: float, needs_grad: bool
) -> list[Tensor]:
    """The same on a CPU in full precision, with fewer passes over the logits.

    The probabilities take their place, and the bias is a column of the weight beside a state that is 1, so that neither
    it nor its gradient needs a pass. Gives the gradients of hidden and of that matrix, turned: (D + 1, V).
    """
    vocab_size = len(weight)
    matrix = torch.cat([weight, bias[:, None]], 1)  # (V, D + 1)
    states = F.pad(hidden, (0, 1), value=1.0)  # (N, D + 1)
    grad_hidden = torch.empty_like(hidden) if needs_grad else None
    grad_matrix = matrix.new_zeros(matrix.shape[::-1]) if needs_grad else None
    n_chunk = _rows_per_chunk(vocab_size, matrix.element_size(), "cpu")
    all_logits = matrix.new_empty(min(n_chunk, len(hidden)), vocab_size)
    share, target_weight = smoothing / vocab_size, 1 - smoothing
    of_all_rows, of_all_states = matrix.sum(0), states.sum(0)
    loss = -share * (of_all_states @ of_all_rows)
    for start in range(0, len(hidden), n_chunk):
        rows = slice(start, start + n_chunk)
        of_chunk, wanted = states[rows], targets[rows, None]
        logits = torch.mm(of_chunk, matrix.t(), out=all_logits[: len(of_chunk)])
        of_target = logits.gather(-1, wanted)
        probs = torch.softmax(logits, -1, out=logits)
        prob = probs.gather(-1, wanted)
        log_norms = of_target - prob.log()
        lost = (prob < torch.finfo(prob.dtype).tiny).flatten().nonzero().flatten()  # have lost digits
        # Of a run that diverges these may be all rows; few at a time take little memory.
        for few in torch.split(lost, _ROWS) if len(lost) else ():
            log_norms[few] = (of_chunk[few] @ matrix.t()).logsumexp(-1, keepdim=True)
        loss += log_norms.sum() - target_weight * of_target.sum()
        if grad_hidden is None or grad_matrix is None:
            continue
        grad = probs.scatter_add_(-1, wanted, probs.new_full(wanted.shape, -target_weight))
        torch.addmm(-share * of_all_rows[:-1], grad, weight, out=grad_hidden[rows])
        grad_matrix.addmm_(of_chunk.t(), grad)
    if grad_hidden is None or grad_matrix is None:
        return [loss]
    grad_matrix -= share * of_all_states[:, None]
    return [loss, grad_hidden, grad_matrix]


def _loss_and_grads_by_kernel(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    targets: Tensor,
    smoothing: float,
    amp_dtype: torch.dtype | None,
    needs_grad: bool,
) -> list[Tensor]:
    """The same on a GPU, where one kernel does what lies between two matrix products, without a wide copy."""
    from accel_tx.model.kernels.loss import losses_of_rows

    vocab_size, matrix = weight.shape[0], weight.to(amp_dtype or weight.dtype)
    loss = hidden.new_zeros((), dtype=torch.float32)
    grads = [torch.zeros_like(x) for x in (hidden, weight, bias)] if needs_grad else []
    n_chunk = max(_ROWS, _LOGITS_PER_CHUNK_IN_KERNEL // vocab_size)
    n_chunk -= n_chunk % _ROWS
    all_products = matrix.new_empty(min(n_chunk, len(hidden)), vocab_size)
    weight_product = torch.empty_like(matrix) if needs_grad and weight.dtype != matrix.dtype else None
    for start in range(0, len(hidden), n_chunk):
        rows = slice(start, start + n_chunk)
        states = hidden[rows].to(matrix.dtype)
        products = torch.mm(states, matrix.t(), out=all_products[: len(states)])  # (n, V)
        loss += losses_of_rows(products, bias, targets[rows], smoothing, needs_grad).sum()
        if needs_grad:
            grad_hidden, grad_weight, grad_bias = grads
            grad_hidden[rows] = torch.mm(products, matrix)
            if weight_product is None:
                grad_weight.addmm_(products.t(), states)
            else:
                grad_weight += torch.mm(products.t(), states, out=weight_product)
            grad_bias += products.sum(0, dtype=grad_bias.dtype)
    return [loss, *grads]


def _rows_per_chunk(vocab_size: int, n_bytes: int, device: Device, n_rows: int = 1) -> int:
    """A multiple of `n_rows`, those of a token."""
    n_chunk = max(1, logits_per_chunk(vocab_size, n_bytes, device) // (n_rows * vocab_size)) * n_rows
    return n_chunk - n_chunk % _ROWS or n_chunk


def _block_loss(
    logits: Tensor, products: Tensor, targets: Tensor, target_weight: float, r_drop: float, grad_bias: Tensor | None
) -> Tensor:
    """Loss of the logits (n, V) but for the smoothing mass; where a gradient is wanted, it is put into `products`.

    d loss / d logits = softmax - target_weight at the target.
    """
    wanted = targets.unsqueeze(-1)
    of_target = logits.gather(-1, wanted)
    # One pass of a fused kernel.
    in_place = products.dtype == logits.dtype
    probs = torch.softmax(logits, -1, out=products) if in_place else logits.softmax(-1)
    # log softmax = logits - log(norm)
    loss = _log_norms(logits, probs, of_target, wanted).sum() - target_weight * of_target.sum()
    if r_drop:
        divergence, grad_divergence = _divergence(logits, probs)
        loss += r_drop / 2 * divergence
    if grad_bias is not None:
        grad = probs.scatter_add_(-1, wanted, probs.new_full(wanted.shape, -target_weight))
        if r_drop:
            grad.add_(grad_divergence, alpha=r_drop / 2)
        grad_bias += grad.sum(0)
        if not in_place:
            products.copy_(grad)
    return loss


def _log_norms(logits: Tensor, probs: Tensor, of_target: Tensor, wanted: Tensor) -> Tensor:
    """log(sum(exp(logits))) of each row, (n, 1), from a logit and its probability."""
    prob = probs.gather(-1, wanted)
    # One that has lost digits tells nothing, and a GPU would have to be waited for.
    if logits.is_cpu and not (prob < torch.finfo(prob.dtype).tiny).any():
        return of_target - prob.log()
    # The largest is at least 1 / V, but two passes are needed.
    return logits.amax(-1, keepdim=True) - probs.amax(-1, keepdim=True).log()


def _divergence(logits: Tensor, probs: Tensor) -> tuple[Tensor, Tensor]:
    """KL(p || q) + KL(q || p) of rows that follow each other, p before q, summed; and its gradient by the logits.

    With c = logits of p - logits of q it is the sum of (p - q) c, as the norms cancel. The gradient by the logits of p
    is p (c - E_p c) + p - q, that by those of q is q (E_q c - c) + q - p.
    """
    p, q = probs[0::2], probs[1::2]
    apart = logits[0::2] - logits[1::2]
    mean_p, mean_q = ((x * apart).sum(-1, keepdim=True) for x in (p, q))
    grad = torch.empty_like(probs)
    torch.sub(apart, mean_p - 1, out=grad[0::2]).mul_(p).sub_(q)
    torch.sub(mean_q + 1, apart, out=grad[1::2]).mul_(q).sub_(p)
    return (mean_p - mean_q).sum(), grad
