"""The rate of matrix products that this machine reaches: the limit that a training step is measured by."""

from __future__ import annotations

import time

import torch

from accel_tx.model.precision import DTYPES

_CPU_SIZES, _GPU_SIZES = (512, 1024, 2048), (2048, 4096, 8192)


def matmul_peak_flops(precision: str, device: torch.device, seconds: float) -> float:
    """The best rate in FLOP/s of single products of square matrices, of several sizes and both layouts.

    `seconds` are spent over all of them together, and at least two products on each.
    """
    sizes = _GPU_SIZES if device.type == "cuda" else _CPU_SIZES
    best = 0.0
    for size in sizes:
        a, b, out = (torch.randn(size, size, device=device).to(DTYPES[precision]) for _ in range(3))
        for right in (b, b.t()):
            best = max(best, 2 * size**3 / _best_seconds(a, right, out, seconds / len(sizes) / 2))
    return best


def _best_seconds(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor, seconds: float) -> float:
    began_at_s = time.perf_counter()
    times: list[float] = []
    while len(times) < 2 or time.perf_counter() - began_at_s < seconds:
        started_at_s = time.perf_counter()
        torch.matmul(a, b, out=out)
        if out.is_cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started_at_s)
    return min(times)
