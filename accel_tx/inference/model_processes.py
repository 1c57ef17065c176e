"""Processes that hold the same model each and share out the work on it.

On a CPU they are faster than as many threads of one process: a search is thousands of small operations, each of which
would wait for its slowest thread. Of several GPUs each process takes the next one in turn.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import pickle
import queue
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
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
from accel_tx.inference.ensemble import members_of
from accel_tx.inference.line_translator import Answer, LineTranslator, PartBatch
from accel_tx.inference.members import Member
from accel_tx.inference.translator import SavedModels, Translator, best_device
from accel_tx.model.gpu import uses_gpu

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_THREADS_ARE_TOLD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_PATIENCE_S = 1.0
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
        """Start them, and wait until each has its model.

        Raises: what `Translator.from_run_dir` raises; RunError where not all can be started, or weights differ.
        """
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._threads = ThreadPoolExecutor(n_processes)
        self._workers: list[_Worker] = []
        try:
            for number in range(n_processes):
                self._workers.append(_Worker(what, number, n_processes))
            fingerprints = {worker.receive() for worker in self._workers}
            if len(fingerprints) > 1:  # a training that runs puts new weights in the place of the best so far
                raise RunError(f"{what.run_dir}: its weights changed while they were loaded; run the command again")
            for worker in self._workers:
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

    def __init__(self, trained: SavedModels, processes: ModelProcesses) -> None:
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
        """Raises: RunError where the system starts no more of them."""
        context = multiprocessing.get_context("spawn")
        try:
            self._connection, theirs = context.Pipe()
            self._process: BaseProcess = context.Process(
                target=_serve, args=(theirs, what, number, n_processes), daemon=True
            )
            with theirs, _signals_blocked():
                self._process.start()
        except OSError as error:
            which = f"process {number + 1} of {n_processes}"
            raise RunError(f"{which} cannot be started ({error.strerror}); give a lower --n_processes") from None

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
            self._process.join(_PATIENCE_S)
            self.kill()
            status = self._process.exitcode
            if status == -signal.SIGTERM:
                time.sleep(_PATIENCE_S)  # it went to the whole group: the command's own handler has the word
            if status == -signal.SIGKILL:
                how = "was killed, as where memory runs out: a lower --n_processes needs less"
            else:
                how = f"ended with status {status}; what it printed stands above"
            raise RunError(f"one of the processes that hold the model {how}") from None


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Inside, a process that starts gets Ctrl-C and SIGTERM only once it says what to do then."""
    resource_tracker.ensure_running()  # its start would unblock them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(connection: Connection, what: What, number: int, n_processes: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command gets it too, and ends its processes
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    os.dup2(2, 1)  # the output is the command's alone
    end_with_the_command()
    with suppress(EOFError, BrokenPipeError):  # the command is gone
        translator = _answered(connection, lambda: _load(what, number, n_processes), _fingerprint)
        while translator is not None:
            function, given = connection.recv()
            _answered(connection, lambda: function(translator, given), lambda found: found)  # noqa: B023


def _answered(connection: Connection, make: Callable[[], _Found], shown: Callable[[_Found], Any]) -> _Found | None:
    """Make something and send what is to be shown of it, or the error that came instead; None then."""
    try:
        found = make()
        message = pickle.dumps((shown(found), None, ""))
    except Exception as error:
        connection.send((None, _sendable(error), "".join(traceback.format_exception(error))))
        return None
    connection.send_bytes(message)
    return found


def _sendable(error: Exception) -> Exception:
    """The error, if it is of a kind that means the same in the command, and comes out as it went in."""
    # There an OSError would be one of the command's own files.
    if not isinstance(error, OSError):
        with suppress(Exception):
            if str(pickle.loads(pickle.dumps(error))) == str(error):
                return error
    return RuntimeError(f"{type(error).__name__}: {error}")


def _load(what: What, number: int, n_processes: int) -> Translator:
    if not any(os.environ.get(name) for name in _THREADS_ARE_TOLD):
        torch.set_num_threads(max(1, n_cores() // n_processes))
    gpu = number % torch.cuda.device_count() if uses_gpu() else 0
    device = best_device(gpu)
    if device.type == "cuda":
        torch.cuda.set_device(gpu)
    return Translator.from_run_dir(what.run_dir, what.weights, device, what.decode, what.others)


def _fingerprint(translator: Translator) -> str:
    """SHA-256 of all weights."""
    digest = hashlib.sha256()
    for model in members_of(translator.model):
        for tensor in model.state_dict().values():
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
