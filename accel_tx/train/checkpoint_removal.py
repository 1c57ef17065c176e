"""Removing checkpoints: which ones stay, and mending what a crash left half done. Needs no torch."""

from __future__ import annotations

import shutil
from pathlib import Path

from accel_tx.train.checkpoint import REMOVING, can_come_back, checkpoint_dirs, update_of
from accel_tx.train.state import TrainState


def rotate(run_dir: Path, keep: int, save_every_updates: int, state: TrainState) -> None:
    """Remove all but the `keep` newest checkpoints, the one of the best validation, and the newest regular one.

    A regular one was not made by a stop: a rollback goes there, so that its end does not depend on the stops.
    """
    # One of a later update is damaged, or the run would stand there: it must not push out a good one.
    folders = [path for path in checkpoint_dirs(run_dir) if update_of(path) <= state.update]
    regular = next((path for path in folders if update_of(path) % save_every_updates == 0), None)
    for path in folders[keep:]:
        if update_of(path) != state.best_update and path != regular:
            remove(path)


def remove(folder: Path) -> None:
    """Remove a checkpoint; after a crash on the way no half of it looks like a checkpoint. Raises: OSError."""
    trash = folder.with_name(REMOVING + folder.name)
    shutil.rmtree(trash, ignore_errors=True)
    folder.rename(trash)
    shutil.rmtree(trash, ignore_errors=True)


def tidy(run_dir: Path) -> list[Path]:
    """Mend what a crash left half done: what was being replaced comes back if it is whole, leftovers go and are listed.

    A checkpoint whose removal was cut off at once comes back as well; the next rotation removes it.
    """
    for replaced in (*run_dir.glob(f"{REMOVING}*"), *(run_dir / "checkpoints").glob(f"{REMOVING}*")):
        folder = replaced.with_name(replaced.name.removeprefix(REMOVING))
        if not folder.exists() and can_come_back(replaced):
            replaced.rename(folder)
    found = leftovers(run_dir)
    for path in found:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return found


def leftovers(run_dir: Path) -> list[Path]:
    """What interrupted writing and removing left in a run folder."""
    folders = (run_dir, run_dir / "checkpoints")
    return [path for f in folders for pattern in (f"{REMOVING}*", ".writing_*", ".*.new") for path in f.glob(pattern)]
