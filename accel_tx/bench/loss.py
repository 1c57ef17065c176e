"""Peak memory and time of the vocabulary loss, backward included, beside plain cross-entropy over all logits."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from accel_tx.bench.memory import watched_peak
from accel_tx.bench.report import markdown_table
from accel_tx.child_processes import end_with_the_command
from accel_tx.config import UserError
from accel_tx.model.loss import vocabulary_loss
from accel_tx.model.precision import autocast

N_TOKENS, VOCAB_SIZE, D_MODEL, SMOOTHING = 16_384, 32_000, 512, 0.1
_CHECKED = (700, 1_003, 32)

Loss = Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]


def plain_loss(hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """What `vocabulary_loss` computes, from all logits at once with torch's own cross-entropy."""
    logits = F.linear(hidden, weight, bias)
    return F.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="sum")


LOSSES: dict[str, Loss] = {"ours": vocabulary_loss, "plain cross-entropy": plain_loss}


def measure_loss(
    precision: str, n_threads: int, n_tokens: int = N_TOKENS, vocab_size: int = VOCAB_SIZE
) -> dict[str, Any]:
    """Memory above the inputs and seconds of each loss, in processes of their own, and how the gradients differ."""
    rows = [{"loss": name, **_in_own_process(name, precision, n_threads, n_tokens, vocab_size)} for name in LOSSES]
    return {
        "n_tokens": n_tokens,
        "vocab_size": vocab_size,
        "d_model": D_MODEL,
        "label_smoothing": SMOOTHING,
        "precision": precision,
        "losses": rows,
        "largest_gradient_difference_float64": gradient_difference(),
    }


def gradient_difference() -> float:
    """Largest difference between the gradients of the two losses in float64, over the largest gradient."""
    n_tokens, vocab_size, d_model = _CHECKED
    grads = []
    for loss in LOSSES.values():
        inputs = _inputs(n_tokens, vocab_size, d_model, torch.device("cpu"), torch.float64)
        loss(*inputs, SMOOTHING).backward()  # type: ignore[no-untyped-call]
        grads.append([tensor.grad for tensor in inputs[:3] if tensor.grad is not None])
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(*grads, strict=True))


def loss_markdown(found: dict[str, Any]) -> str:
    """The measurements as a table."""
    ours, plain = found["losses"]
    lines = markdown_table(
        ["loss, backward included", "peak MiB above the inputs", "seconds"],
        (
            [
                row["loss"],
                "not known" if row["peak_mib"] is None else f"{row['peak_mib']:,.0f}",
                f"{row['seconds']:.2f}",
            ]
            for row in found["losses"]
        ),
    )
    memory = ""
    if ours["peak_mib"] is not None and plain["peak_mib"]:
        memory = f"{ours['peak_mib'] / plain['peak_mib']:.3f} of the plain one's memory and "
    return "\n".join(
        [
            *lines,
            "",
            f"- {found['n_tokens']:,} tokens, vocabulary {found['vocab_size']:,}, d_model {found['d_model']}, label "
            f"smoothing {found['label_smoothing']:g}, precision {found['precision']}.",
            f"- Ours needs {memory}{ours['seconds'] / plain['seconds']:.2f} of the plain one's time; in float64 the "
            f"gradients differ by at most {found['largest_gradient_difference_float64']:.1e} of the largest.",
        ]
    )


def _in_own_process(*arguments: Any) -> dict[str, float | None]:
    # A process that has run the larger one first keeps some of its memory.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_measure, args=(*arguments, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        found: dict[str, float | None] = ours.recv()
    except EOFError:
        process.join()
        raise UserError(
            f"--measure loss, {arguments[0]}: its process ended with status {process.exitcode} (-9: out of memory?); "
            "end other programs that hold memory, or take a machine with more"
        ) from None
    process.join()
    return found


def _measure(name: str, precision: str, n_threads: int, n_tokens: int, vocab_size: int, connection: Connection) -> None:
    from accel_tx.model.gpu import uses_gpu

    end_with_the_command()
    torch.set_num_threads(n_threads)
    device = torch.device("cuda" if uses_gpu() else "cpu")
    # The first run of all loads libraries and starts threads.
    _run(name, precision, _inputs(64, 100, D_MODEL, device, torch.float32))
    inputs = _inputs(n_tokens, vocab_size, D_MODEL, device, torch.float32)
    with watched_peak() as base:
        time.sleep(0.05)
    base_mib = torch.cuda.memory_allocated() / 2**20 if device.type == "cuda" else base.mib
    started_at_s = time.perf_counter()
    with watched_peak() as peak:
        _run(name, precision, inputs)
    seconds = time.perf_counter() - started_at_s
    peak_mib = torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else peak.mib
    above_mib = None if peak_mib is None or base_mib is None else peak_mib - base_mib
    connection.send({"peak_mib": above_mib, "seconds": seconds})


def _run(name: str, precision: str, inputs: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    device = inputs[0].device
    with autocast(device, precision):
        loss = LOSSES[name](*inputs, SMOOTHING)
    loss.backward()  # type: ignore[no-untyped-call]
    if device.type == "cuda":
        torch.cuda.synchronize()


def _inputs(
    n_tokens: int, vocab_size: int, d_model: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(n_tokens, d_model, generator=generator, dtype=dtype)
    weight = torch.randn(vocab_size, d_model, generator=generator, dtype=dtype) / d_model**0.5
    bias = torch.zeros(vocab_size, dtype=dtype)
    targets = torch.randint(0, vocab_size, (n_tokens,), generator=generator)
    leaves = [tensor.to(device).requires_grad_() for tensor in (hidden, weight, bias)]
    return leaves[0], leaves[1], leaves[2], targets.to(device)
