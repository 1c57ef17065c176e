"""Processes that hold the same model each and share out the work on it.

On a CPU they are faster than as many threads of one process: a search is thousands of small operations, each of which
would wait for its slowest thread. Of several GPUs each process takes the next one in turn.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import queue
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import torch

from accel_tx.child_processes import end_with_the_command
from accel_tx.config import RunError
from accel_tx.data.collator import TokenPair
from accel_tx.data.processes import n_cores
from accel_tx.inference.line_translator import Answer, LineTranslator, PartBatch
from accel_tx.inference.members import Member
from accel_tx.inference.translator import Trained, Translator, best_device
from accel_tx.model.gpu import uses_gpu

_Given = TypeVar("_Given")
_Found = TypeVar("_Found")


@dataclass(frozen=True)
class What:
    """What every process loads, see `Translator.from_run_dir`."""

    run_dir: Path
    weights: str
    decode: Mapping[str, Any]
    others: Sequence[Member]


class ModelProcesses:
    """So many processes, each with the model; to be used as a context, at whose end they are gone."""

    def __init__(self, what: What, n_processes: int) -> None:
        """Start them, and wait until each has its model. Raises: what `Translator.from_run_dir` raises."""
        self.n_processes = n_processes
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._threads = ThreadPoolExecutor(n_processes)
        self._workers: list[_Worker] = []
        try:
            for number in range(n_processes):
                self._workers.append(_Worker(what, number, n_processes))
            for worker in self._workers:
                worker.receive()
                self._idle.put(worker)
        except BaseException:
            self.close()
            raise

    def ask(self, what: Callable[[Translator, _Given], _Found], given: _Given) -> Future[_Found]:
        """`what` of the model and `given`, computed by the next process that is idle.

        All that goes in and comes out is pickled; `what` is a function or method of a module. The future raises what it
        raised there, or RunError if the process came to an end.
        """
        return self._threads.submit(self._answer, what, given)

    def _answer(self, what: Callable[[Translator, _Given], _Found], given: _Given) -> _Found:
        worker = self._idle.get()
        try:
            worker.send((what, given))
            found: _Found = worker.receive()
            return found
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        """End them; what was asked and not answered is lost."""
        for worker in self._workers:
            worker.kill()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for worker in self._workers:
            worker.close()

    def __enter__(self) -> ModelProcesses:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class TranslatingProcesses(LineTranslator):
    """Translates and scores as a `Translator` does, in the same batches, by several processes."""

    def __init__(self, trained: Trained, processes: ModelProcesses) -> None:
        super().__init__(trained.tokenizers, trained.decode, trained.max_positions)
        self.processes = processes

    def answer_later(self, batch: PartBatch) -> Callable[[], Answer]:
        """Its search begins as soon as a process is idle."""
        return self.processes.ask(Translator.answer, batch).result

    def log_probs_later(self, pairs: list[TokenPair]) -> Callable[[], list[float]]:
        """Likewise."""
        return self.processes.ask(Translator.log_probs, pairs).result


class _InProcess(Exception):  # noqa: N818  # it is a text for people, and the cause of the error itself
    """Where an error comes from, as the process that raised it would print it."""


class _Worker:
    """The handle on one process."""

    def __init__(self, what: What, number: int, n_processes: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process: BaseProcess = context.Process(
            target=_serve, args=(theirs, what, number, n_processes), daemon=True
        )
        self._process.start()
        theirs.close()

    def send(self, task: Any) -> None:
        with self._told_of_its_end():
            self._connection.send(task)

    def receive(self) -> Any:
        """The next answer. Raises: the error that came in its place."""
        with self._told_of_its_end():
            found, error, trace = self._connection.recv()
        if error is not None:
            raise error from _InProcess(trace)
        return found

    def kill(self) -> None:
        """End the process, whatever it does; who waits for its answer is told so."""
        self._process.kill()
        self._process.join()

    def close(self) -> None:
        """Give the connection back, once nobody uses it."""
        self._connection.close()

    @contextmanager
    def _told_of_its_end(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError):
            self._process.join()
            status = self._process.exitcode
            raise RunError(
                f"one of the processes that hold the model ended with status {status} (-9: out of memory?); where the "
                "memory is short give a lower --n_processes"
            ) from None


def _serve(connection: Connection, what: What, number: int, n_processes: int) -> None:
    # The command is told, and ends its processes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.dup2(2, 1)  # the output is the command's alone
    end_with_the_command()
    with suppress(EOFError, BrokenPipeError):  # the command is gone
        try:
            translator = _load(what, number, n_processes)
        except Exception as error:
            _send(connection, None, error)
            return
        _send(connection, None, None)
        while True:
            function, given = connection.recv()
            try:
                found = function(translator, given)
            except Exception as error:
                _send(connection, None, error)
            else:
                _send(connection, found, None)


def _send(connection: Connection, found: Any, error: Exception | None) -> None:
    trace = "" if error is None else "".join(traceback.format_exception(error))
    try:
        connection.send((found, error, trace))
    except (TypeError, AttributeError, pickle.PicklingError):  # not every error can be sent
        connection.send((None, RuntimeError(str(error)), trace))


def _load(what: What, number: int, n_processes: int) -> Translator:
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, n_cores() // n_processes))
    if uses_gpu():
        torch.cuda.set_device(number % torch.cuda.device_count())
    return Translator.from_run_dir(what.run_dir, what.weights, best_device(), what.decode, what.others)
