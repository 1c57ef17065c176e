"""What the launcher was told, read off its command line, and GPUs that are too few or idle."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from accel_tx.config import UserError
from accel_tx.train import launched

LAUNCH = ["/usr/bin/python3", "/venv/bin/accelerate", "launch"]
PROGRAM = ["-m", "accel_tx", "train", "--config", "c.yaml"]


@pytest.fixture(autouse=True)
def _no_default_config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(launched, "default_config_file", str(tmp_path / "none.yaml"))
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "ACCELERATE_USE_CPU"):
        monkeypatch.delenv(name, raising=False)


def pretend_gpus(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: n > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n)


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ([*LAUNCH, "--cpu", "--num_processes", "2", *PROGRAM], 2),
        ([*LAUNCH, "--num-processes=4", "--num_machines", "2", *PROGRAM], 4),
        (["python", "-m", "accelerate.commands.launch", "--num_processes", "3", *PROGRAM], 3),
        ([*LAUNCH, *PROGRAM, "--num_processes", "8"], None),
        ([*LAUNCH, "--config_file", "missing.yaml", *PROGRAM], None),
        (["python", "/venv/bin/torchrun", "--nproc_per_node", "2", *PROGRAM], None),
        (
            [
                "/home/u/accelerate-env/bin/python",
                "/home/u/accelerate-env/bin/torchrun",
                "--nproc-per-node=2",
                *PROGRAM,
            ],
            None,
        ),
        (["/home/u/accelerate-env/bin/python", "-m", "torch.distributed.run", "--num_processes", "2", *PROGRAM], None),
        ([], None),
    ],
)
def test_the_number_of_processes_is_read_off_the_command_line(words: list[str], asked: int | None) -> None:
    assert launched.processes_asked(words) == asked


def test_it_is_read_off_the_file_that_the_command_line_names_or_the_default_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "two.yaml"
    path.write_text("distributed_type: MULTI_CPU\nnum_processes: 2\n", encoding="utf-8")
    named = [*LAUNCH, "--config_file", str(path)]
    assert launched.processes_asked([*named, *PROGRAM]) == 2
    assert launched.processes_asked([*named, "--num_processes", "1", *PROGRAM]) == 1
    monkeypatch.setattr(launched, "default_config_file", str(path))
    assert launched.processes_asked([*LAUNCH, *PROGRAM]) == 2
    # accelerate does not look at it then
    assert launched.processes_asked([*LAUNCH, "--cpu", *PROGRAM]) is None


def test_a_launcher_that_starts_fewer_processes_than_asked_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpus(monkeypatch, 0)
    monkeypatch.setattr(launched, "launcher_words", lambda: [*LAUNCH, "--cpu", "--num_processes", "2", *PROGRAM])
    with pytest.raises(UserError, match=r"told num_processes 2 but started 1; .*USE_CPU=true .*--multi_gpu"):
        launched.check_processes()
    monkeypatch.setenv("WORLD_SIZE", "2")
    launched.check_processes()


def test_more_processes_than_gpus_are_refused_and_idle_gpus_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launched, "launcher_words", list)
    pretend_gpus(monkeypatch, 2)
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "4")
    with pytest.raises(UserError, match=r"4 processes were launched on this machine, but torch sees 2 GPU"):
        launched.check_processes()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")  # of two machines
    launched.check_processes()
    assert launched.gpu_lines() == []
    pretend_gpus(monkeypatch, 4)
    assert launched.gpu_lines() == ["2 of 4 GPUs used; for all: --config_file launch/multi_gpu.yaml --num_processes 4"]


def test_a_gpu_that_torch_does_not_see_is_told_unless_the_cpu_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pretend_gpus(monkeypatch, 0)
    monkeypatch.setattr(launched, "_DRIVER", tmp_path / "version")
    assert launched.gpu_lines() == []
    (tmp_path / "version").touch()
    monkeypatch.setattr(torch.version, "cuda", None)
    (line,) = launched.gpu_lines()
    assert "is built without CUDA" in line
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert "finds none" in launched.gpu_lines()[0]
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert launched.gpu_lines() == []
