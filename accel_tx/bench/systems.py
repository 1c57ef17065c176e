"""The systems of a bench, each in a process of its own: memory is its own, and a turn disturbs no other."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from accel_tx.bench.memory import Peak
from accel_tx.bench.turns import Turns
from accel_tx.bench.workload import load_workload
from accel_tx.child_processes import end_with_the_command
from accel_tx.config import Config, UserError

SYSTEMS = ("ours", "original", "original-before")
PEERS = ("hf",)
# What is no system: it measures the hardware in its turns.
MATMUL = "matmul"


@dataclass(frozen=True)
class Task:
    """What a process of a bench does."""

    system: str
    precision: str
    config: Config
    """With the precision, the loader workers and the threads of this task."""
    n_synthetic: int | None
    vocab_size: int | None
    n_threads: int

    @property
    def label(self) -> str:
        """Name in the table."""
        if self.system != "ours":
            return self.system
        train = self.config.train
        workers = f", {train.loader_workers} workers" if train.loader_workers else ""
        return f"ours{workers}{', compiled' if train.compile else ''}{', CUDA graphs' if train.cuda_graphs else ''}"


class Player:
    """The command's handle on a process that takes turns; on a CPU it samples the process' memory every 20 ms."""

    def __init__(self, task: Task) -> None:
        """Start it. Raises: UserError if the system cannot be built."""
        self.task, self.turns, self.peak = task, list[Any](), Peak()
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        # Not a daemon, because such a process may not start the loader's workers.
        self._process: BaseProcess = context.Process(target=_serve, args=(task, theirs))
        self._process.start()
        theirs.close()
        self.n_parameters: int = self._answer().get("n_parameters", 0)

    def warm_up(self, seconds: float) -> None:
        """A turn that does not count."""
        self._take(seconds)

    def turn(self, seconds: float) -> Any:
        """A turn of so many seconds, and the rest of the update that is then under way."""
        self.turns.append(self._take(seconds))
        return self.turns[-1]

    def stop(self) -> None:
        """End the process; it gets a few seconds to do so itself."""
        with contextlib.suppress(OSError):
            self._connection.send(None)
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _take(self, seconds: float) -> Any:
        with self._told_of_its_end():
            self._connection.send(seconds)
        return self._answer()["turn"]

    def _answer(self) -> dict[str, Any]:
        with self._told_of_its_end():
            while not self._connection.poll(0.02):
                self.peak.sample(self._process.pid or 0)
            answer: dict[str, Any] = self._connection.recv()
        if "refused" in answer:
            raise UserError(answer["refused"])
        if "peak_mib" in answer:  # of the GPU, which is what counts there
            self.peak.mib = answer["peak_mib"]
        return answer

    @contextlib.contextmanager
    def _told_of_its_end(self) -> Iterator[None]:
        """Raise UserError where the process is gone: what it was told last decides how the connection fails."""
        try:
            yield
        except (EOFError, OSError):
            self._process.join()
            raise UserError(
                f"{self.task.label} ({self.task.precision}): its process ended with status "
                f"{self._process.exitcode} (-9: out of memory?); leave it out with --systems, or give smaller batches"
            ) from None


def _serve(task: Task, connection: Connection) -> None:
    # The table is all that the command prints.
    os.dup2(2, 1)
    end_with_the_command()
    _see_one_gpu()
    try:
        _play(task, connection)
    except UserError as error:
        connection.send({"refused": str(error)})
    except (EOFError, KeyboardInterrupt):
        pass  # the command is gone
    except Exception:
        traceback.print_exc()
        raise SystemExit(1) from None


def _see_one_gpu() -> None:
    """The first, the one that all systems take: the Seq2SeqTrainer would train on as many as it sees.

    Takes effect because nothing has asked for a GPU yet in this process.
    """
    names = [name for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES") if name in os.environ]
    for name in names or ["CUDA_VISIBLE_DEVICES"]:
        os.environ[name] = os.environ.get(name, "0").split(",")[0]


def _play(task: Task, connection: Connection) -> None:
    import torch

    from accel_tx.model.gpu import uses_gpu
    from accel_tx.train.device import KERNEL_CACHES, set_cpu_threads, use_tf32

    set_cpu_threads(task.n_threads)
    if task.system not in ("ours", MATMUL):
        # Padded batches repeat their shapes: the others keep as many kernels as torch does by default.
        for name in KERNEL_CACHES:
            os.environ.pop(name, None)
    use_tf32(task.config.train.tf32)
    device = torch.device("cuda" if uses_gpu() else "cpu")
    if task.system == MATMUL:
        _play_matmul(task, connection, device)
        return
    workload = load_workload(task.config, task.n_synthetic, task.vocab_size)
    turns = Turns(connection, device, task.config.model, workload, n_passes=2 if task.config.optim.r_drop else 1)
    if task.system == "ours":
        from accel_tx.bench.ours import train_ours

        train_ours(task.config, workload, turns)
    elif task.system == "hf":
        from accel_tx.bench.peer_hf import train_hf

        train_hf(task.config, workload, turns, task.precision)
    else:
        from accel_tx.bench.original import train_original

        train_original(task.config, workload, turns, task.precision, task.system == "original-before")


def _play_matmul(task: Task, connection: Connection, device: Any) -> None:
    from accel_tx.bench.matmul import matmul_peak_flops

    connection.send({})
    while (seconds := connection.recv()) is not None:
        connection.send({"turn": matmul_peak_flops(task.precision, device, seconds)})
