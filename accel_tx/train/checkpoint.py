"""Checkpoint folders: their names, what makes one valid, which is taken, and sealing one. Needs no torch."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from accel_tx.config import UserError
from accel_tx.inference import weights
from accel_tx.train.state import TrainState, UnknownField

MODEL, MANIFEST, STATE = weights.MODEL, weights.MANIFEST, weights.STATE
OPTIMIZER, SCHEDULER, SCALER = "optimizer.bin", "scheduler.bin", "scaler.pt"
EMA = "ema.safetensors"
VALIDATED = "validated"
"""Folder of the weights at the last validations; see `validated.py`."""
REMOVING = ".removing_"
"""Prefix of a folder on its way out."""
NEEDED = frozenset({MODEL, OPTIMIZER, SCHEDULER, STATE})
OPTIONAL = frozenset({SCALER, EMA})
_NOT_THERE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
# What some file systems, mostly in user space, answer for a folder; their files are synced all the same.
_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP}


class NewerVersionError(UserError):
    """A checkpoint that is intact and has a part that this version does not know: neither passed over nor removed."""

    def __init__(self, folder: Path, part: str) -> None:
        self.told = f"was written by a newer version of accel_tx ({part})"
        super().__init__(f"{folder}: {self.told}; update it; nothing is touched")


FindMisfit = Callable[[Path, TrainState], str | None]
"""What keeps a checkpoint whose files are intact from being loaded into this run, or None."""


@contextlib.contextmanager
def usable_folders() -> Iterator[None]:
    """Inside, what keeps a folder that was given from being looked at is a UserError that names it."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{error.filename}: cannot be used ({error.strerror}); expected a folder that this user may read and write"
        ) from None


def resolved(path: Path) -> Path:
    """The path without links, which need not exist.

    Raises: OSError for a loop of links; `Path.resolve` tells that by a RuntimeError, or since Python 3.13 not at all.
    """
    try:
        path.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise
    return path.resolve()


def checkpoint_dir(run_dir: Path, update: int) -> Path:
    """Folder of the checkpoint after this many updates."""
    return run_dir / "checkpoints" / f"update_{update:08d}"


def checkpoint_dirs(run_dir: Path) -> list[Path]:
    """Every folder named like a checkpoint, newest first, valid or not. Raises: OSError, see `entries`."""
    named = [path for path in entries(run_dir / "checkpoints") if path.name.startswith("update_")]
    found = [path for path in named if _update_of(path) is not None and path.is_dir()]
    return sorted(found, key=update_of, reverse=True)


def entries(folder: Path) -> list[Path]:
    """What is in a folder, nothing where there is none.

    Raises: OSError where nobody can tell, which `glob` would take for an empty folder.
    """
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def update_of(path: Path) -> int:
    """Updates done at a checkpoint, from the name of its folder."""
    update = _update_of(path)
    if update is None:
        raise ValueError(f"{path}: is not named like a checkpoint")
    return update


def has_checkpoint(run_dir: Path) -> bool:
    """Whether a run has a checkpoint, valid or not, or a crash left a whole one aside that `tidy` brings back.

    Raises: OSError, see `entries`.
    """
    aside = [path for path in entries(run_dir / "checkpoints") if path.name.startswith(f"{REMOVING}update_")]
    return bool(checkpoint_dirs(run_dir)) or any(can_come_back(path) for path in aside)


def can_come_back(aside: Path) -> bool:
    """Whether what a crash left under a name with REMOVING is to have its name again: not half a checkpoint.

    Raises: OSError, NewerVersionError.
    """
    return _update_of(aside) is None or find_fault(aside) is None


def _update_of(path: Path) -> int | None:
    matched = re.fullmatch(rf"(?:{re.escape(REMOVING)})?update_([0-9]{{8,}})", path.name)
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
    for path in entries(run_dir / "checkpoints"):
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
    write_synced(beside / STATE, json.dumps(dataclasses.asdict(state), indent=1))
    files = sorted(beside.iterdir())
    manifest = {path.name: {"bytes": path.stat().st_size, "sha256": weights.sha256_of(path)} for path in files}
    write_synced(beside / MANIFEST, json.dumps(manifest, indent=1))
    if {*manifest} - OPTIONAL != NEEDED:
        raise ValueError(f"{beside}: holds {', '.join(manifest)}; expected {', '.join(sorted(NEEDED))}")
    replace_folder(beside, final)
    with contextlib.suppress(OSError):  # a hint for people: the checkpoint is there without it
        write_synced(final.parent / "latest", final.name + "\n")


def write_synced(path: Path, text: str) -> None:
    """`replace_synced` with this text. Raises: OSError."""
    replace_synced(path, text.encode())


def replace_synced(path: Path, content: bytes) -> None:
    """Replace a file; after a crash it holds either all that it held or all of `content`. Raises: OSError."""
    beside = path.with_name(f".{path.name}.new")
    try:
        beside.write_bytes(content)
        sync(beside)
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def write_if_other(path: Path, text: str) -> None:
    """`write_synced` unless the file holds this text already: a full disk must not stop a run that goes on."""
    if not path.is_file() or path.read_bytes() != text.encode():
        write_synced(path, text)


def remove_tree(folder: Path) -> None:
    """Remove a folder with what is in it, where it is there; what cannot be removed stays."""
    shutil.rmtree(folder, ignore_errors=True)


def replace_folder(beside: Path, folder: Path, remove: Callable[[Path], None] = remove_tree) -> None:
    """Sync the folder `beside` and give it the name `folder`, whose content goes; after a crash `tidy` leaves one.

    `remove`: how it goes. Raises: OSError; then `folder` holds what it held, or all of the new.
    """
    for path in beside.iterdir():
        sync(path)
    sync(beside)
    replaced = folder.with_name(REMOVING + folder.name)
    remove(replaced)
    is_there = folder.exists()
    if is_there:
        folder.rename(replaced)
    try:
        beside.rename(folder)
    except OSError:
        if is_there:
            replaced.rename(folder)
        raise
    sync(folder.parent)
    remove(replaced)


def describe(error: BaseException, folder: Path, n_bytes: int) -> str:
    """What went wrong in words, with the space needed and free."""
    text = (error.strerror if isinstance(error, OSError) else None) or " ".join(str(error).split())[:200]
    try:
        free = f"{shutil.disk_usage(folder).free / 1e6:,.1f} MB free"
    except OSError:
        free = "free space unknown"
    needs = f"needs {n_bytes / 1e6:,.1f} MB, " if n_bytes else ""
    return f"{text or type(error).__name__} ({needs}{free} in {folder})"


def size_bytes(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty where there is none."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def sync(path: Path) -> None:
    """Bring a file or a folder onto the disk. Raises: OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not (path.is_dir() and error.errno in _NO_FOLDER_SYNC):
            raise
    finally:
        os.close(descriptor)
