"""What the launcher was asked for, held against what it started, before anything else is done.

On a CPU `accelerate launch --num_processes 2` starts a single process and does not say so; what it was told still
stands in its command line, and in the file that this names.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import yaml
from accelerate.commands.config.config_args import default_config_file

from accel_tx.config import Config, UserError
from accel_tx.model.gpu import check_gpu_build, told_cpu, uses_gpu
from accel_tx.train import compiling, cuda_graphs, device
from accel_tx.train.processes import n_launched, n_on_machine
from accel_tx.train.sharding import check_can_shard
from accel_tx.train.stopping import is_accelerate, launcher_words
from accel_tx.train.trackers import check_installed

_DRIVER = Path("/proc/driver/nvidia/version")


def check_launch(config: Config) -> None:
    """Raise UserError if what was launched, or the hardware, does not go with itself or with the config.

    Also if a tracker of the config is not installed.
    """
    check_processes()
    check_gpu_build()
    precision = device.resolve_precision(config.train.precision)
    check_can_shard(config, precision)
    cuda_graphs.check_graphs(config, precision)
    cuda_graphs.check_processes(config, n_launched())
    if config.train.compile:
        compiling.check_compiler(uses_gpu())
    check_installed(config.train.trackers)


def check_processes() -> None:
    """Raise UserError if the launcher started fewer processes than it was told, or more than there are GPUs."""
    launched, local = n_launched(), n_on_machine()
    asked = processes_asked(launcher_words())
    if asked is not None and asked != launched:
        raise UserError(
            f"accelerate launch was told num_processes {asked} but started {launched}; on CPU use ACCELERATE_USE_CPU="
            f"true accelerate launch --multi_gpu --num_processes {asked}, on GPUs --config_file launch/multi_gpu.yaml, "
            "for a single process --num_processes 1"
        )
    if uses_gpu() and local > torch.cuda.device_count():
        raise UserError(
            f"{local} processes were launched on this machine, but torch sees {torch.cuda.device_count()} GPU(s); "
            "expected one process a GPU: give --num_processes accordingly, or look at CUDA_VISIBLE_DEVICES"
        )


def processes_asked(words: Sequence[str]) -> int | None:
    """What an `accelerate launch` with this command line was told, on it or in its file; None if nothing tells."""
    if not is_accelerate(words):
        return None
    # What stands behind the name of the program is for that.
    own = words[: next((i for i, word in enumerate(words) if word == "accel_tx"), len(words))]
    number = _option(own, "num_processes")
    if number is None:
        path = _option(own, "config_file") or ("" if "--cpu" in own else default_config_file)
        number = _in_file(Path(path)) if path else None
    return int(number) if number is not None and number.isdecimal() else None


def _option(words: Sequence[str], name: str) -> str | None:
    found = None
    for i, word in enumerate(words):
        option, equals, value = word.partition("=")
        if option.replace("-", "_") == f"__{name}":
            found = value if equals else next(iter(words[i + 1 : i + 2]), None)
    return found


def _in_file(path: Path) -> str | None:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    number = values.get("num_processes") if isinstance(values, dict) else None
    return None if number is None else str(number)


def gpu_lines() -> list[str]:
    """What to say of GPUs that this training leaves idle, as torch sees them and as the machine has them."""
    if uses_gpu():
        n_used, n_seen = n_on_machine(), torch.cuda.device_count()
        if n_used < n_seen:
            return [
                f"{n_used} of {n_seen} GPUs used; for all: --config_file launch/multi_gpu.yaml --num_processes {n_seen}"
            ]
    elif _DRIVER.exists() and not told_cpu():
        why = "is built without CUDA" if torch.version.cuda is None else "finds none"
        return [
            f"training on the CPU: this machine has an NVIDIA driver, but torch {torch.__version__} {why}; "
            "pip install torch for this driver (pytorch.org), or look at CUDA_VISIBLE_DEVICES"
        ]
    return []
