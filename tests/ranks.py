"""Trainings in processes of their own, without the seconds that importing torch costs each of them.

They are forked from a server process that has imported everything and computed nothing. What a launcher would put into
their environment is set here, so several of them find each other as under `accelerate launch`.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import forkserver
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from accel_tx.config import Config
from tests.conftest import REPOSITORY

CONTEXT = multiprocessing.get_context("forkserver")
# What a training imports at once, and what it imports when it first needs it.
PRELOADED = [
    "tests.ranks",
    "accel_tx.train.loop",
    "accel_tx.data.corpus",
    "torch._dynamo",
    "torch.utils.tensorboard",
]


@dataclass
class Ranks:
    """The processes of one start, all running or ended."""

    processes: Sequence[Any]
    log: Path
    """What they printed."""

    def wait(self, timeout_s: float = 240) -> str:
        """Wait until all have ended well; returns what they printed from the first start on."""
        deadline_s = time.monotonic() + timeout_s
        for process in self.processes:
            process.join(max(0.0, deadline_s - time.monotonic()))
        codes = [process.exitcode for process in self.processes]
        self.kill()
        printed = self.log.read_text(errors="replace")
        assert codes == [0] * len(codes), f"exit statuses {codes} (None: not within {timeout_s} s)\n{printed[-4000:]}"
        return printed

    def are_running(self) -> bool:
        """Whether none has ended."""
        return all(process.is_alive() for process in self.processes)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to all that still run, and to their loader workers."""
        for process in self.processes:
            if process.is_alive():
                try:
                    os.killpg(process.pid, number)
                except ProcessLookupError:  # no group of its own yet
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process.pid, number)

    def kill(self) -> bool:
        """SIGKILL for all of them; whether that ended any."""
        self.send(signal.SIGKILL)
        for process in self.processes:
            process.join()
        return any(process.exitcode == -signal.SIGKILL for process in self.processes)


# What `accelerate launch --config_file launch/fsdp2.yaml` exports.
SHARDED = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "EncoderLayer,DecoderLayer",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
}


def start_ranks(
    n_processes: int,
    log: Path,
    target: Callable[..., None],
    *arguments: Any,
    float64: bool = False,
    launched_with: Mapping[str, str] | None = None,
) -> Ranks:
    """Run `target(*arguments)` in each of `n_processes` processes that are launched to train together on CPU."""
    ensure_server()
    environment = {"ACCELERATE_USE_CPU": "true", **(launched_with or {})}
    if n_processes > 1:
        environment |= {"WORLD_SIZE": str(n_processes), "LOCAL_WORLD_SIZE": str(n_processes)}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    processes = []
    for rank in range(n_processes):
        own = {**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)} if n_processes > 1 else environment
        process = CONTEXT.Process(target=_be_a_rank, args=(own, log, float64, target, arguments), daemon=False)
        process.start()
        processes.append(process)
    return Ranks(processes, log)


def ensure_server() -> None:
    """Start the server of `CONTEXT` unless it runs."""
    with patch.dict(os.environ, {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}):
        CONTEXT.set_forkserver_preload(PRELOADED)
        forkserver.ensure_running()


def begin_as_started(environment: Mapping[str, str]) -> None:
    """What a process that the server forked needs to be as one that was started."""
    os.environ.update(environment)
    multiprocessing.set_start_method("fork", force=True)  # for loader workers; else they would ask a server as well
    gc.freeze()  # else every collection walks through all that the server imported


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _be_a_rank(
    environment: dict[str, str], log: Path, float64: bool, target: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    os.setsid()
    begin_as_started(environment)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    torch.set_num_threads(1)
    if float64:
        torch.set_default_dtype(torch.float64)
    target(*arguments)


def train_on(
    n_processes: int,
    config: Config,
    run_dir: Path,
    float64: bool = False,
    launched_with: Mapping[str, str] | None = None,
    **arguments: Any,
) -> str:
    """Train to the end of this start on so many processes; returns what they printed over all starts.

    `launched_with`: environment variables of the launcher; `arguments`: of `train`.
    """
    from accel_tx.train.loop import train

    target = partial(train, config, run_dir, **arguments)
    log = run_dir.with_suffix(".log")
    printed = start_ranks(n_processes, log, target, float64=float64, launched_with=launched_with).wait()
    assert f"{n_processes} process(es) on cpu" in printed
    return printed


def train_and_record(config: Config, run_dir: Path, records: Path, with_gradients: bool = False) -> None:
    """Train, and keep what the optimizer is given at every update, in `records/RANK.pt`: see `read_records`."""
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    from accel_tx.train.loop import train

    found: list[dict[str, Any]] = []

    def look(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        (group,) = optimizer.param_groups
        entry = {"lr": group["lr"], "betas": group["betas"]}
        if with_gradients:
            entry["weights"] = [p.detach().clone() for p in group["params"]]
            entry["gradients"] = [p.grad.clone() for p in group["params"]]
        found.append(entry)

    hook = register_optimizer_step_pre_hook(look)
    try:
        train(config, run_dir)
    finally:
        hook.remove()
    records.mkdir(parents=True, exist_ok=True)
    torch.save(found, records / f"{os.environ.get('RANK', '0')}.pt")


def read_records(records: Path) -> list[list[dict[str, Any]]]:
    """Of every process, of every update: `lr`, `betas`, and where asked for `weights` and `gradients` before it."""
    return [torch.load(path, weights_only=True) for path in sorted(records.iterdir())]
