from __future__ import annotations

from typing import Any

import pytest
import torch

from accel_tx.train.shortage import is_shortage
from accel_tx.train.trial import undisturbed

GIB = 2**30


@pytest.mark.parametrize("device", ["cuda", "cuda:3"])
def test_the_only_process_device_has_no_number(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of torch.cuda, with as much of it as needs no GPU: what checks the device is its own."""
    fractions, done = list[float](), list[str]()

    def noted(name: str) -> Any:
        return lambda *_: done.append(name)

    monkeypatch.setattr(torch.cuda.memory, "_lazy_init", noted("begun"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (60 * GIB, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 4 * GIB)
    monkeypatch.setattr(torch.cuda, "empty_cache", noted("emptied"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", noted("peak forgotten"))
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda _: torch.zeros(1))
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda *_: None)
    monkeypatch.setattr(torch._C, "_cuda_setMemoryFraction", lambda share, _: fractions.append(share), raising=False)
    with undisturbed(torch.device(device)) as usable:
        assert usable == pytest.approx(0.9 * 64 * GIB)
    assert fractions == pytest.approx([0.9 * 64 / 80, 1.0])
    assert done[-2:] == ["emptied", "peak forgotten"]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"), True),
        (RuntimeError("CUDA driver error: out of memory"), True),
        (RuntimeError("Triton Error [CUDA]: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (ValueError("CUDA error: out of memory"), False),
    ],
)
def test_every_library_tells_of_too_little_memory_in_its_own_words(error: Exception, expected: bool) -> None:
    assert is_shortage(error) == expected
