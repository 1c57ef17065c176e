"""Checkpoint folders: their names, what makes one valid, which is taken, and sealing one. Needs no torch."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import re
from collections.abc import Callable
from pathlib import Path

from accel_tx.config import UserError
from accel_tx.inference import weights
from accel_tx.train import file_system
from accel_tx.train.state import TrainState, UnknownField

MODEL, MANIFEST, STATE = weights.MODEL, weights.MANIFEST, weights.STATE
OPTIMIZER, SCHEDULER, SCALER = "optimizer.bin", "scheduler.bin", "scaler.pt"
EMA = "ema.safetensors"
VALIDATED = "validated"
"""Folder of the weights at the last validations; see `validated.py`."""
NEEDED = frozenset({MODEL, OPTIMIZER, SCHEDULER, STATE})
OPTIONAL = frozenset({SCALER, EMA})
_NOT_THERE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


class NewerVersionError(UserError):
    """A checkpoint that is intact and has a part that this version does not know: neither passed over nor removed."""

    def __init__(self, folder: Path, part: str) -> None:
        self.told = f"was written by a newer version of accel_tx ({part})"
        super().__init__(f"{folder}: {self.told}; update it; nothing is touched")


FindMisfit = Callable[[Path, TrainState], str | None]
"""What keeps a checkpoint whose files are intact from being loaded into this run, or None."""


def checkpoint_dir(run_dir: Path, update: int) -> Path:
    """Folder of the checkpoint after this many updates."""
    return run_dir / "checkpoints" / f"update_{update:08d}"


def checkpoint_dirs(run_dir: Path) -> list[Path]:
    """Every folder named like a checkpoint, newest first, valid or not. Raises: OSError, see `file_system.entries`."""
    named = [path for path in file_system.entries(run_dir / "checkpoints") if path.name.startswith("update_")]
    found = [path for path in named if _update_of(path) is not None and path.is_dir()]
    return sorted(found, key=update_of, reverse=True)


def update_of(path: Path) -> int:
    """Updates done at a checkpoint, from the name of its folder."""
    update = _update_of(path)
    if update is None:
        raise ValueError(f"{path}: is not named like a checkpoint")
    return update


def has_checkpoint(run_dir: Path) -> bool:
    """Whether a run has a checkpoint, valid or not, or a crash left a whole one aside that `tidy` brings back.

    Raises: OSError, see `file_system.entries`.
    """
    aside = [
        path
        for path in file_system.entries(run_dir / "checkpoints")
        if path.name.startswith(f"{file_system.REMOVING}update_")
    ]
    return bool(checkpoint_dirs(run_dir)) or any(can_come_back(path) for path in aside)


def can_come_back(aside: Path) -> bool:
    """Whether what a crash left under a name with REMOVING is to have its name again: not half a checkpoint.

    Raises: OSError, NewerVersionError.
    """
    return _update_of(aside) is None or find_fault(aside) is None


def _update_of(path: Path) -> int | None:
    matched = re.fullmatch(rf"(?:{re.escape(file_system.REMOVING)})?update_([0-9]{{8,}})", path.name)
    return int(matched[1]) if matched else None


def newest_valid(run_dir: Path, find_misfit: FindMisfit | None = None) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that can be loaded, and a line for each newer one that cannot.

    The file `latest` is not asked: a crash may leave it behind the newest checkpoint.
    Raises: OSError for one that cannot be read, NewerVersionError for one that only a newer version can read: no
    reasons to go on from an older one.
    """
    passed_over: list[str] = []
    for path in checkpoint_dirs(run_dir):
        fault = find_fault(path)
        if fault is None and find_misfit is not None:
            fault = find_misfit(path, load_state(path))
        if fault is None:
            return path, passed_over
        passed_over.append(f"{path.name} passed over: {fault}")
    return None, passed_over


def never_finished_one(run_dir: Path) -> bool:
    """Whether a run was begun here and never got to finish a checkpoint."""
    folder = run_dir / "checkpoints"
    return folder.is_dir() and not (folder / "latest").exists() and not has_checkpoint(run_dir)


def refuse_newer(run_dir: Path) -> None:
    """Raise NewerVersionError if a checkpoint in a run folder, also one that a crash left aside, is of a newer version.

    A start that went on from another one would in time remove it.
    """
    for path in file_system.entries(run_dir / "checkpoints"):
        if _update_of(path) is not None:
            with contextlib.suppress(OSError):  # what cannot be read is told where it is wanted
                find_fault(path, hash_files=False)


def find_fault(folder: Path, hash_files: bool = True) -> str | None:
    """What is wrong with the files of a checkpoint, or None; without `hash_files` their contents are not read.

    Files that other programs leave in a folder that somebody looks at are nothing wrong; a file that the disk does not
    give back (EIO) is.
    Raises: NewerVersionError, which is never said of files that were not hashed. OSError where nothing can be told,
    such as for files that may not be read: they may be whole.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files = {name: (entry["bytes"], entry["sha256"]) for name, entry in manifest.items()}
        present = {path.name for path in folder.iterdir()} & (NEEDED | OPTIONAL | files.keys())
    except (*_NOT_THERE, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return f"{MANIFEST} is missing or damaged"
    if outside := [name for name in sorted(files) if Path(name).name != name]:
        return f"{', '.join(outside)} is no part of a checkpoint"
    if present != files.keys():
        return f"its files are not those of its manifest: {', '.join(sorted(present ^ files.keys()))}"
    unknown = ", ".join(f"file {name}" for name in sorted(files.keys() - NEEDED - OPTIONAL))
    if not unknown and (missing := NEEDED - present):
        return f"{', '.join(sorted(missing))} is missing, in its manifest as well"
    if fault := _file_fault(folder, files, hash_files or bool(unknown)):
        return fault
    if unknown:
        raise NewerVersionError(folder, unknown)
    try:
        load_state(folder)
    except NewerVersionError:
        if fault := _file_fault(folder, files, hash_files=True):
            return fault
        raise
    except UserError as error:
        return str(error)
    return None


def _file_fault(folder: Path, files: dict[str, tuple[int, str]], hash_files: bool) -> str | None:
    """The first file that has not the size and, with `hash_files`, the hash that its manifest gives."""
    for name, (size, digest) in sorted(files.items()):
        path = folder / name
        try:
            # Only a plain file: to open a pipe would wait for ever.
            if not path.is_file() or path.stat().st_size != size or (hash_files and weights.sha256_of(path) != digest):
                return f"{name} is damaged"
        except _NOT_THERE:
            return f"{name} is damaged"
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return f"{name} cannot be read ({error.strerror})"
    return None


def load_state(folder: Path) -> TrainState:
    """The TrainState of a checkpoint.

    Raises: UserError that begins with the file's name if it is missing, damaged or the state of another update;
    NewerVersionError if it has an unknown field. OSError where it cannot be read.
    """
    try:
        values = json.loads((folder / STATE).read_text(encoding="utf-8"))
    except _NOT_THERE:
        raise UserError(f"{STATE} is missing") from None
    except (ValueError, RecursionError):
        raise UserError(f"{STATE} is no JSON file") from None
    try:
        state = TrainState.from_dict(values)
    except UnknownField as unknown:
        raise NewerVersionError(folder, str(unknown)) from None
    except ValueError as error:
        raise UserError(f"{STATE} is not that of a run ({error})") from None
    if state.update != _update_of(folder):
        raise UserError(f"{STATE} is that of update {state.update}")
    return state


def seal(beside: Path, final: Path, state: TrainState) -> None:
    """Add `state` and the manifest to the files in `beside`, sync everything, and give the folder its final name.

    Raises: OSError, or ValueError if the folder does not hold just the files of a checkpoint.
    """
    file_system.write_synced(beside / STATE, json.dumps(dataclasses.asdict(state), indent=1))
    files = sorted(beside.iterdir())
    manifest = {path.name: {"bytes": path.stat().st_size, "sha256": weights.sha256_of(path)} for path in files}
    file_system.write_synced(beside / MANIFEST, json.dumps(manifest, indent=1))
    if {*manifest} - OPTIONAL != NEEDED:
        raise ValueError(f"{beside}: holds {', '.join(manifest)}; expected {', '.join(sorted(NEEDED))}")
    file_system.replace_folder(beside, final)
    with contextlib.suppress(OSError):  # a hint for people: the checkpoint is there without it
        file_system.write_synced(final.parent / "latest", final.name + "\n")
