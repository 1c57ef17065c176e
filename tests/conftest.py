"""What several tests share: a tiny training, in this process or launched as a user would."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Before torch is imported: trainings are compared byte by byte, which a GPU does not allow. tests/gpu asks for one.
if os.environ.get("ACCEL_TX_TEST_GPU") != "1":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

import torch
from hypothesis import settings

from accel_tx.config import Config, TrainConfig, build_config
from accel_tx.train.stopping import SIGNALS

# Time is no property of what is tested: a busy machine takes longer than the library's 0.2 s for an example.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

REPOSITORY = Path(__file__).parents[1]
_HANDLERS = {number: signal.getsignal(number) for number in SIGNALS}

TINY: dict[str, dict[str, Any]] = {
    "data": {"phrasebook_train_pairs": 600, "phrasebook_valid_pairs": 23},
    "tokenizer": {"kind": "wordlevel", "vocab_size": 500, "min_frequency": 1, "joint": True},
    "model": {
        "d_model": 16,
        "d_ff": 32,
        "n_heads": 2,
        "n_encoder_layers": 1,
        "n_decoder_layers": 1,
        "dropout": 0.3,
        "tie_embeddings": "all",
        "max_positions": 96,
    },
    "train": {
        "max_updates": 40,
        "max_tokens": 256,
        "micro_batches_per_update": 2,
        "log_every_updates": 5,
        "save_every_updates": 10,
        "cpu_threads": 1,
        "precision": "no",
    },
    "validation": {"every_updates": 20, "draw_attention": False},
    "optim": {"max_lr": 5e-3},
    "decode": {"max_len_extra": 5},
}


# A shell's background job ignores Ctrl-C, and so would every process that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="module")
def _forget_what_is_there() -> None:
    """Each training collects garbage at its end, for half a second among all that has been imported and collected."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Tests run beside each other and beside other programs; more threads would only wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _signals_as_at_the_start() -> None:
    """A complete `train` command ignores signals from then on; what a test starts would inherit that."""
    for number, handler in _HANDLERS.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared data of the tiny trainings, made once a session."""
    return tmp_path_factory.mktemp("prepared")


@pytest.fixture(scope="session")
def tiny_config(cache_dir: Path) -> Callable[..., Config]:
    """A function: the tiny config with some fields changed, given as `section={"field": value}`."""

    def make(**sections: dict[str, Any]) -> Config:
        values = {name: {**TINY.get(name, {}), **sections.get(name, {})} for name in {*TINY, *sections}}
        values["data"].setdefault("cache_dir", str(cache_dir))
        return build_config(values)

    return make


@pytest.fixture
def fp16_on_cpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make `start_accelerator` give an Accelerator with a CPU gradient scaler; returns a setter of the first scale."""
    scale = {"init": 2.0**10}

    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    from accel_tx.train import device

    def start(_: TrainConfig) -> Accelerator:
        AcceleratorState._reset_state(True)
        accelerator = Accelerator(cpu=True, mixed_precision="fp16")
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale["init"], growth_interval=3)
        accelerator.native_amp = True
        return accelerator

    monkeypatch.setattr(device, "start_accelerator", start)
    yield scale
    AcceleratorState._reset_state(True)


def as_options(config: Config) -> list[str]:
    """The command line that gives exactly this config on top of any file."""
    options = []
    for section, fields in dataclasses.asdict(config).items():
        for name, value in fields.items():
            text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
            options.append(f"--{section}.{name}={list(value) if isinstance(value, tuple) else text}")
    return options


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line with which a command refuses, in this process."""
    from accel_tx.cli import main

    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    error = capsys.readouterr().err
    assert ended.value.code == 2, error
    assert error.count("\n") == 1, error
    return error


def run_cli(
    *arguments: str, env: dict[str, str] | None = None, stdin: str = "", timeout_s: float = 240
) -> subprocess.CompletedProcess[str]:
    """`python -m accel_tx ...` in a process of its own, without the seconds of its imports."""
    from tests.forked_command import run_forked

    return run_forked(arguments, env or {}, stdin, timeout_s)


def launch(
    n_processes: int, *arguments: str, stdin: str = "", timeout_s: float = 240
) -> subprocess.CompletedProcess[str]:
    """`accelerate launch ... ARGUMENTS` on CPU, in the only way that starts more than one process there."""
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    if n_processes > 1:
        command += ["--multi_gpu", "--num_processes", str(n_processes), "--main_process_port", "0"]
    own = {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    return subprocess.run(
        [*command, *arguments],
        env={**os.environ, **own},
        cwd=REPOSITORY,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )


class SmallDisk:
    """A file system of a few MiB in memory, to be filled and made read-only."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fill(self) -> None:
        """Leave no room."""
        with contextlib.suppress(OSError), (self.path / "filler").open("ab", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)

    def make_room(self) -> None:
        """Undo `fill`."""
        (self.path / "filler").unlink()

    def remount(self, mode: str) -> None:
        """Make it `ro` or `rw`."""
        subprocess.run(["mount", "-o", f"remount,{mode}", str(self.path)], check=True)


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallDisk | None]:
    """A disk of 4 MiB; None where this user may not mount one."""
    path = tmp_path_factory.mktemp("disk")
    mounted = shutil.which("mount") is not None and (
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(path)], capture_output=True).returncode
        == 0
    )
    yield SmallDisk(path) if mounted else None
    if mounted:
        subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.fixture
def float64() -> Iterator[None]:
    """New tensors are float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first test of a module trains a run that all of them copy."""
    return tmp_path_factory.mktemp("intact") / "run"
