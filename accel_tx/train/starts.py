"""starts.jsonl: on what each start of a run has trained, for those who compare its speed with another run's."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from accel_tx.train.lines import append_whole

STARTS_FILE = "starts.jsonl"


def describe_start(accelerator: Accelerator, update: int, n_updates: int, n_parameters: int) -> dict[str, Any]:
    """The machine as the main process sees it, and what this start is to do: from `update` on, up to `n_updates`."""
    uses_gpu = accelerator.device.type == "cuda"
    return {
        "update": update,
        "n_updates": n_updates,
        "n_parameters": n_parameters,
        "device": torch.cuda.get_device_name() if uses_gpu else accelerator.device.type,
        "processor": processor(),
        "n_processes": accelerator.num_processes,
        "precision": accelerator.mixed_precision,
        "cpu_threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def write_start(run_dir: Path, values: dict[str, Any]) -> str | None:
    """Append the line of a start; None, or one line that says why it is not there: no reason not to train."""
    path = run_dir / STARTS_FILE
    try:
        append_whole(path, f"{json.dumps(values)}\n".encode())
    except OSError as error:
        return f"{path}: cannot be written ({error.strerror}); a report will not know this machine"
    return None


def processor() -> str:
    """The CPU's name and its number of cores, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} ({len(names)} cores)" if names else platform.machine()
