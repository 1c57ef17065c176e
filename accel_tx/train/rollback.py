"""Going back to a checkpoint before a bad update: which one, and what the run still knows of the time after it."""

from __future__ import annotations

import contextlib
from pathlib import Path

from accelerate import Accelerator

from accel_tx.train import checkpoint
from accel_tx.train.agreement import broadcast
from accel_tx.train.state import TrainState


def find_way_back(accelerator: Accelerator, run_dir: Path, save_every_updates: int, update: int) -> Path | None:
    """The checkpoint to go back to from `update` (from 0), the same one on every process; None if there is none."""
    folder = last_regular_checkpoint(run_dir, save_every_updates, update) if accelerator.is_main_process else None
    chosen: Path | None = broadcast(accelerator, [folder])[0]
    return chosen


def last_regular_checkpoint(run_dir: Path, every: int, update: int) -> Path | None:
    """The newest valid checkpoint of at most `update` updates among those that `save_every_updates` makes.

    One that a stop left between two of them would make what follows depend on when the run was stopped. One that
    cannot be read now is passed by: the run has to go on.
    """
    for regular in range(update - update % every, 0, -every):
        folder = checkpoint.checkpoint_dir(run_dir, regular)
        with contextlib.suppress(OSError):
            if folder.is_dir() and checkpoint.find_fault(folder) is None:
                return folder
    return None


def take_out(saved: TrainState, now: TrainState, update: int) -> None:
    """Have the state gone back to, `saved`, pass over the updates from there to `update` (from 0).

    What `now`, the state of the run until here, knows besides stays known.
    """
    # What is in best/ now was validated, also if that was after the checkpoint; and no validation of an update that is
    # taken out comes again, so each counts once.
    saved.best_metric, saved.best_score, saved.best_update = now.best_metric, now.best_score, now.best_update
    saved.patience_metric, saved.patience_score = now.patience_metric, now.patience_score
    saved.n_without_gain = now.n_without_gain
    saved.n_bad_in_a_row, saved.validation_is_due = now.n_bad_in_a_row, False
    saved.passed_over = [*now.passed_over, [saved.update, update + 1]]
