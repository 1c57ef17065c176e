"""Removing checkpoints: which ones stay, and mending what a crash left half done. Needs no torch."""

from __future__ import annotations

import shutil
from collections.abc import Sequence, Set
from pathlib import Path

from accel_tx.train.checkpoint import VALIDATED, can_come_back, checkpoint_dirs, find_fault, update_of
from accel_tx.train.file_system import REMOVING
from accel_tx.train.state import TrainState


def to_keep(folders: Sequence[Path], keep: int, every: int, best_update: int | None) -> set[Path]:
    """Of good checkpoints, newest first: the `keep` newest, a regular one for them, the one of the best validation.

    A regular one was made by `every`, the run's save_every_updates, and not by a stop: a rollback goes there, so that
    its end does not depend on the stops. Whichever of the newest a start goes on from, one is there that is no newer.
    """
    regular = [path for path in folders[keep - 1 :] if update_of(path) % every == 0]
    return {*folders[:keep], *regular[:1], *(path for path in folders if update_of(path) == best_update)}


def rotate(run_dir: Path, keep: int, every: int, state: TrainState, passed_over: Set[str] = frozenset()) -> None:
    """Remove all but the checkpoints `to_keep`; a damaged one counts for none of them.

    `passed_over`: names of those that the start found damaged, as what the sizes of files do not tell is not looked at.
    Raises: OSError, NewerVersionError.
    """
    # One of a later update is damaged, or the run has gone back from there: it stays until the run has passed it.
    folders = [path for path in checkpoint_dirs(run_dir) if update_of(path) <= state.update]
    good = [path for path in folders if path.name not in passed_over and find_fault(path, hash_files=False) is None]
    kept = to_keep(good, keep, every, state.best_update)
    for path in folders:
        if path not in kept:
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
    Raises: OSError, NewerVersionError.
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
    folders = (run_dir, run_dir / "checkpoints", run_dir / VALIDATED)
    return [path for f in folders for pattern in (f"{REMOVING}*", ".writing_*", ".*.new") for path in f.glob(pattern)]
