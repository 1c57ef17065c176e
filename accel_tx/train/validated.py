"""The weights of the last validations, kept in `validated/` to be averaged; and which of them a run still needs."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from accel_tx.train import checkpoint, checkpoint_removal, file_system


def folder_of(run_dir: Path, update: int) -> Path:
    """Where the weights that were validated after this many updates are."""
    return run_dir / checkpoint.VALIDATED / f"update_{update:08d}"


def updates_kept(run_dir: Path) -> list[int]:
    """Updates whose validated weights are there, oldest first. Raises: OSError, see `file_system.entries`."""
    folders = file_system.entries(run_dir / checkpoint.VALIDATED)
    names = [path.name for path in folders if (path / checkpoint.MODEL).is_file()]
    return sorted(int(name[len("update_") :]) for name in names if re.fullmatch(r"update_[0-9]{8,}", name))


def newest(updates: Iterable[int], n: int, at: int) -> list[int]:
    """The last `n` of these up to update `at`, oldest first."""
    return sorted(update for update in updates if update <= at)[-n:]


def rotate(run_dir: Path, n: int, at: int) -> list[Path]:
    """Remove what is not among the last `n` at update `at`, nor at any checkpoint that the run may go on from.

    Returns the folders that were removed. Raises: OSError.
    """
    kept = updates_kept(run_dir)
    # First those being written, or one that gets its name meanwhile would be missed.
    writing = [path.name[len(".writing_") :] for path in (run_dir / "checkpoints").glob(".writing_update_*")]
    saved = [path.name for path in checkpoint.checkpoint_dirs(run_dir)]
    places = [at, *(int(name[len("update_") :]) for name in (*writing, *saved))]
    needed = {update for place in places for update in newest(kept, n, place)}
    removed = [folder_of(run_dir, update) for update in kept if update not in needed and update <= at]
    for folder in removed:
        checkpoint_removal.remove(folder)
    return removed


def forget_later(run_dir: Path, update: int) -> None:
    """Remove what earlier starts left of updates behind this one."""
    for later in updates_kept(run_dir):
        if later > update:
            shutil.rmtree(folder_of(run_dir, later), ignore_errors=True)
