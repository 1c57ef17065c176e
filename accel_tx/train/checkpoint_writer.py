"""Writing checkpoints beside the training, and weights; a write that fails leaves what was there before."""

from __future__ import annotations

import copy
import errno
import json
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from accel_tx.config import RunError, UserError
from accel_tx.inference.weights import SCORES, sha256_of
from accel_tx.train import checkpoint, checkpoint_removal, file_system
from accel_tx.train.checkpoint_content import Content, Parts, copy_content, write_content
from accel_tx.train.sharding import is_sharded
from accel_tx.train.state import TrainState

# torch and safetensors report a full disk with errors of their own.
WRITE_ERRORS = (OSError, RuntimeError, SafetensorError)
_BESIDES_TENSORS = 1 << 20
"""Bytes allowed for what a checkpoint or a folder of weights holds besides tensors."""


class CheckpointWriter:
    """Writes one checkpoint at a time in a thread of its own; on the main process only.

    The training waits while the tensors are copied, and for the checkpoint before where that is not done yet. What
    the disk does then holds nothing up. A write that fails is reported in one line by `say`, from that thread, and the
    training may go on: the checkpoints before it are as they were.
    """

    def __init__(
        self,
        run_dir: Path,
        keep: int,
        save_every_updates: int,
        say: Callable[[str], object],
        on_saved: Callable[[], None] | None = None,
    ) -> None:
        """`keep`: newest checkpoints that stay. `on_saved` is called after each that is written, in this thread."""
        self.run_dir, self.keep, self.save_every_updates, self.say = run_dir, keep, save_every_updates, say
        self.on_saved = on_saved
        self.passed_over: set[str] = set()
        """Names of checkpoints that the start found damaged; a save of the same update replaces one."""
        self.failed: str | None = None
        """Why the newest checkpoint that was asked for is not there."""
        self.slowest_s = 0.0
        """What the slowest write took."""
        # Not `Thread.join`: interrupted by Ctrl-C it takes a running thread for ended.
        self._done = threading.Event()
        self._done.set()

    def start(self, parts: Parts, state: TrainState) -> None:
        """Copy everything and begin to write it; then rotate. What fails, now or later, is told by `wait`.

        Raises: RunError where tensors that lie in parts cannot be copied: the other processes wait with theirs.
        """
        self.join()
        try:
            content, state = copy_content(parts), copy.deepcopy(state)
            # No daemon: an interpreter that ends first lets the write finish.
            thread = threading.Thread(target=self._run, args=(content, state), name="checkpoint", daemon=False)
            self._done.clear()
            thread.start()
        except (RuntimeError, MemoryError) as error:  # no memory, or no thread
            self._done.set()
            if is_sharded(parts.model):
                failed = _not_saved(state, error, self.run_dir, 0)
                raise RunError(f"{failed}; give the same command again to go on from the checkpoint before") from None
            self._give_up(_not_saved(state, error, self.run_dir, 0))

    def wait(self) -> str | None:
        """Wait for the write under way; why the newest checkpoint asked for is not there, or None."""
        self.join()
        return self.failed

    def join(self) -> None:
        """Wait for the write under way, whatever comes of it."""
        self._done.wait()

    def _run(self, content: Content, state: TrainState) -> None:
        began_at_s = time.monotonic()
        try:
            self.failed = write_checkpoint(content, state, self.run_dir)
            if self.failed is None:
                self.passed_over.discard(checkpoint.checkpoint_dir(self.run_dir, state.update).name)
                self._rotate(state)
                if self.on_saved is not None:
                    self.on_saved()
            else:
                self._give_up(self.failed)
        except Exception as error:
            # Raised on this process alone it would leave the others waiting: the end of the run tells all of them.
            self.failed = self.failed or _not_saved(state, error, self.run_dir, 0)
        finally:
            self.slowest_s = max(self.slowest_s, time.monotonic() - began_at_s)
            self._done.set()

    def _give_up(self, failed: str) -> None:
        self.failed = failed
        self.say(f"{failed}; the training goes on, and the next save is tried again")

    def _rotate(self, state: TrainState) -> None:
        try:
            checkpoint_removal.rotate(self.run_dir, self.keep, self.save_every_updates, state, self.passed_over)
        except (OSError, UserError) as error:
            self.say(f"older checkpoints not removed: {file_system.describe(error, self.run_dir, 0)}")


def write_checkpoint(content: Content, state: TrainState, run_dir: Path) -> str | None:
    """Write a checkpoint; None, or one line that says why it is not there.

    A crash or an error at any moment leaves either the whole checkpoint or the ones before.
    """
    final = checkpoint.checkpoint_dir(run_dir, state.update)
    beside = final.with_name(f".writing_{final.name}")
    try:
        _make_room(beside, content.n_bytes() + _BESIDES_TENSORS)
        write_content(content, beside, state)
        checkpoint.seal(beside, final, state)
    except Exception as error:  # see `CheckpointWriter._run`
        shutil.rmtree(beside, ignore_errors=True)
        return _not_saved(state, error, run_dir, content.n_bytes())
    return None


def _not_saved(state: TrainState, error: Exception, run_dir: Path, n_bytes: int) -> str:
    return f"checkpoint of update {state.update:,} not saved: {file_system.describe(error, run_dir, n_bytes)}"


def save_weights(weights: Mapping[str, Tensor], folder: Path, scores: dict[str, Any]) -> str | None:
    """Write the weights, and `scores` with the hash of their file, replacing `folder` whole; main process only.

    Returns None, or one line that says why; then the folder is what it was.
    """
    beside = folder.with_name(f".writing_{folder.name}")
    on_host = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    n_bytes = sum(tensor.nbytes for tensor in on_host.values())
    try:
        _make_room(beside, n_bytes + _BESIDES_TENSORS)
        save_file(on_host, beside / checkpoint.MODEL)
        scores = {**scores, "sha256": sha256_of(beside / checkpoint.MODEL)}
        (beside / SCORES).write_text(json.dumps(scores, indent=1, ensure_ascii=False), encoding="utf-8")
        # safetensors lets only the owner read what it writes.
        shutil.copymode(beside / SCORES, beside / checkpoint.MODEL)
        file_system.replace_folder(beside, folder)
    except WRITE_ERRORS as error:
        return f"weights not saved in {folder}: {file_system.describe(error, folder.parent, n_bytes)}"
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return None


def _make_room(folder: Path, n_bytes: int) -> None:
    """Make an empty folder. Raises: OSError, also where too little is free: a disk that we fill hurts others."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if shutil.disk_usage(folder).free < n_bytes:
        raise OSError(errno.ENOSPC, "No space left on device")
