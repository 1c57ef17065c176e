"""Precision and hardware checks, with the hardware replaced."""

from __future__ import annotations

import datetime
from collections.abc import Callable

import pytest
import torch

from accel_tx.config import Config, UserError
from accel_tx.train import device


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Pretend that there is a GPU; the returned function says whether it has bf16 in hardware."""

    def pretend(has_bf16: bool) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda index=0: "Pretended GPU")
        # Emulation is what a V100 answers when it is not excluded.
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation=True: has_bf16 or including_emulation
        )

    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    return pretend


@pytest.fixture
def cpu(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    def pretend(has_bf16: bool) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_bf16)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)

    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    return pretend


def test_auto_is_fp16_on_a_v100_and_bf16_where_the_gpu_has_it(gpu) -> None:  # type: ignore[no-untyped-def]
    gpu(has_bf16=False)
    assert device.resolve_precision("auto") == "fp16"
    gpu(has_bf16=True)
    assert device.resolve_precision("auto") == "bf16"


def test_auto_on_a_cpu_follows_its_instructions(cpu) -> None:  # type: ignore[no-untyped-def]
    cpu(has_bf16=False)
    assert device.resolve_precision("auto") == "no"
    cpu(has_bf16=True)
    assert device.resolve_precision("auto") == "bf16"


def test_bf16_that_a_cpu_only_emulates_is_told(cpu, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    cpu(has_bf16=False)
    assert "is emulated" in device.precision_lines("bf16")[0]
    assert device.precision_lines("no") == []
    cpu(has_bf16=True)
    assert device.precision_lines("bf16") == []
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    cpu(has_bf16=False)
    assert device.precision_lines("bf16") == []


def test_auto_takes_what_the_launcher_was_told_and_no_counts_as_nothing(
    gpu,  # type: ignore[no-untyped-def]
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu(has_bf16=True)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    assert device.resolve_precision("auto") == "fp16"
    assert device.resolve_precision("no") == "no"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    assert device.resolve_precision("auto") == "bf16"


def test_what_the_hardware_cannot_do_is_refused_with_what_to_use(
    gpu,  # type: ignore[no-untyped-def]
    cpu,  # type: ignore[no-untyped-def]
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu(has_bf16=False)
    with pytest.raises(UserError, match="only emulates it; expected auto or fp16"):
        device.resolve_precision("bf16")
    cpu(has_bf16=False)
    with pytest.raises(UserError, match="there is no GPU; expected auto, no or bf16"):
        device.resolve_precision("fp16")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    with pytest.raises(UserError, match="accelerate launch was told mixed_precision fp16"):
        device.resolve_precision("auto")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp8")
    with pytest.raises(UserError, match="expected no, bf16 or fp16"):
        device.resolve_precision("auto")


def test_threads_are_the_cores_over_the_local_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    for n_processes, expected in ((1, 8), (2, 4), (3, 2), (16, 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(n_processes))
        assert device.set_cpu_threads(None) == expected
    assert device.set_cpu_threads(3) == 3
    assert torch.get_num_threads() == 3


def test_an_accumulation_that_the_launcher_asks_for_does_not_change_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    from accel_tx.config import TrainConfig

    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "8")
    accelerator = device.start_accelerator(TrainConfig(max_updates=1, batch_size=1, precision="no"))
    assert accelerator.gradient_accumulation_steps == 1


def test_the_others_wait_for_a_slow_save_longer_than_any_backend_would(
    tiny_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    accelerator = device.start_accelerator(tiny_config().train)
    assert accelerator.init_handler is not None
    assert accelerator.init_handler.timeout >= datetime.timedelta(hours=1)
