"""Copying a run folder: whole files and folders only, in an order that lets the copy be gone on from at any moment."""

from __future__ import annotations

import contextlib
import errno
import filecmp
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from accel_tx.inference.weights import SCORES
from accel_tx.train import checkpoint, checkpoint_removal, file_system, run_lock
from accel_tx.train.stopping import PREEMPTED_FILE, STOP_FILE

# Bytes up to which files are compared; of others size and time tell, and the clocks of two disks may differ.
_SMALL = 1 << 20
_ONLY_HERE = {run_lock.LOCK, STOP_FILE, PREEMPTED_FILE}
# Before the checkpoints: one tells that these are there.
_BEFORE, _BEHIND = ("best",), ("final", "average")


class Changing(Exception):  # noqa: N818 - nothing is wrong
    """The folder of this name was replaced or removed before it was copied: the copy has to be begun again."""


def copy_run(source: Path, target: Path, brings_back: bool = False) -> None:
    """Bring `target` up to the run folder `source`, which a training may be writing; then remove what is not there.

    A checkpoint whose hashes do not fit is not copied; the newest whole one in `target` stays until a newer one is.
    `brings_back`: `target` is the run itself, whose other checkpoints stay, and a damaged one is replaced.
    Raises: OSError; NewerVersionError; Changing, once all else is copied. In each case, as after a crash, `target` can
    be gone on from.
    """
    target.mkdir(exist_ok=True)
    checkpoint.refuse_newer(target)
    checkpoint_removal.tidy(target)
    # Listed first: the lines of metrics that belong to these checkpoints are in the files that are copied next.
    folders = [*_weights(source)]
    newest = next((folder for folder in folders if _is_checkpoint(folder)), None)
    _copy_files(source, target)
    changing = None
    for folder in folders:
        try:
            _copy_folder(folder, target / folder.relative_to(source), mends=brings_back)
        except Changing as error:
            # Later, for it may go on changing; an older checkpoint that the run has removed is wanted no more.
            if folder.exists() or folder.parent == source or folder == newest:
                changing = error
        _write_latest(source, target)
        if not brings_back:
            # At once, so that the copy takes no more room than the run.
            _remove_unlisted(source, target, folders)
    if changing is not None:
        raise changing


def newest_update(run_dir: Path, hash_files: bool = False) -> int:
    """Of the newest checkpoint whose files have the right sizes, or hashes; -1 where there is none."""
    newest_first = sorted(checkpoint.checkpoint_dirs(run_dir), key=checkpoint.update_of, reverse=True)
    whole = (path for path in newest_first if checkpoint.find_fault(path, hash_files) is None)
    return next((checkpoint.update_of(path) for path in whole), -1)


def _weights(run_dir: Path) -> Iterator[Path]:
    """The folders of weights, in the order in which they are to be copied."""
    yield from (run_dir / name for name in _BEFORE if (run_dir / name).is_dir())
    yield from (p for p in file_system.entries(run_dir / checkpoint.VALIDATED) if p.name.startswith("update_"))
    yield from checkpoint.checkpoint_dirs(run_dir)
    yield from (run_dir / name for name in _BEHIND if (run_dir / name).is_dir())


def _is_checkpoint(folder: Path) -> bool:
    return folder.parent.name == "checkpoints"


def _copy_files(source: Path, target: Path) -> None:
    # Without config.yaml the folder would be taken for something else, without checkpoints/ for a run that lost them.
    _copy_file(source / "config.yaml", target / "config.yaml")
    (target / "checkpoints").mkdir(exist_ok=True)
    for path in source.iterdir():
        if path.is_file() and path.name not in _ONLY_HERE and not path.name.startswith("."):
            _copy_file(path, target / path.name)
    for name in ("tokenizer", "tensorboard"):
        if (source / name).is_dir():
            (target / name).mkdir(exist_ok=True)
            for path in (source / name).iterdir():
                _copy_file(path, target / name / path.name)
    # The curves of another start would lie over those of this one.
    for path in (target / "tensorboard").glob("events.*"):
        if not (source / "tensorboard" / path.name).exists():
            path.unlink()


def _copy_file(source: Path, target: Path) -> None:
    if target.exists() and source.stat().st_size == target.stat().st_size:
        is_small = source.stat().st_size <= _SMALL
        if filecmp.cmp(source, target, shallow=False) if is_small else not _is_newer(source, target):
            return
    beside = target.with_name(f".{target.name}.new")
    shutil.copyfile(source, beside)
    file_system.sync(beside)
    beside.replace(target)


def _copy_folder(source: Path, target: Path, mends: bool) -> None:
    """Copy a folder of weights under another name, read it back, and give it its name.

    A checkpoint whose hashes do not fit is left out. `mends`: one in `target` is replaced where its hashes do not fit.
    """
    is_checkpoint = _is_checkpoint(source)
    if _is_copied(source, target) and not (mends and is_checkpoint and checkpoint.find_fault(target) is not None):
        return
    if is_checkpoint and checkpoint.find_fault(source) is not None and source.exists():
        return
    beside = target.with_name(f".writing_{target.name}")
    file_system.remove_tree(beside)
    beside.mkdir(parents=True)
    try:
        _fill(beside, source)
        file_system.replace_folder(beside, target, _empty_and_remove)
    except FileNotFoundError:
        raise Changing(source.name) from None
    finally:
        file_system.remove_tree(beside)


def _fill(beside: Path, source: Path) -> None:
    if shutil.disk_usage(beside).free < file_system.size_bytes(source):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    for path in _files(source):
        shutil.copyfile(path, beside / path.name)
    # Where another folder got the name meanwhile, all its files are others.
    if not all(filecmp.cmp(path, beside / path.name, shallow=False) for path in _files(source)):
        raise Changing(source.name)


def _files(folder: Path) -> Iterator[Path]:
    """Of a folder of weights, without what desktops and editors leave where somebody looks."""
    return (path for path in folder.iterdir() if not path.name.startswith(".") and not path.is_dir())


def _is_copied(source: Path, target: Path) -> bool:
    """Whether the copy is there, by the file that tells two folders of this name apart and the sizes of the others."""
    try:
        names = {path.name for path in _files(source)}
        if names != {path.name for path in _files(target)}:
            return False
        if any((source / name).stat().st_size != (target / name).stat().st_size for name in names):
            return False
        has_manifest = checkpoint.MANIFEST in names
        tells = checkpoint.MANIFEST if has_manifest else SCORES
        is_same = filecmp.cmp(source / tells, target / tells, shallow=False)
        return is_same and (has_manifest or not any(_is_newer(source / name, target / name) for name in names))
    except FileNotFoundError:
        return False


def _is_newer(source: Path, target: Path) -> bool:
    return source.stat().st_mtime_ns > target.stat().st_mtime_ns


def _write_latest(source: Path, target: Path) -> None:
    """Name what the run calls its latest checkpoint where it is in `target`, else the newest that is."""
    latest, there = Path("checkpoints", "latest"), [path.name for path in checkpoint.checkpoint_dirs(target)]
    if there and (source / latest).is_file():
        named = (source / latest).read_text(encoding="utf-8", errors="replace").strip()
        file_system.write_if_other(target / latest, f"{named if named in there else there[0]}\n")


def _remove_unlisted(source: Path, target: Path, listed: list[Path]) -> None:
    """Remove what the run had no more when it was listed.

    What was listed may be removed before it is copied: the newest checkpoint in `target` stays until a listed one is
    newer, and what belongs to it stays as well.
    """
    newest = newest_update(target)
    if newest < 0:
        return
    is_behind = checkpoint.checkpoint_dir(source, newest) not in listed
    last_needed = checkpoint.checkpoint_dir(target, newest).name
    for folder in [*_weights(target)]:
        original = source / folder.relative_to(target)
        # One that was being replaced when the run was listed is there again.
        is_wanted = original in listed or original.is_dir()
        if not is_wanted and not (is_behind and (folder.parent == target or folder.name <= last_needed)):
            _discard(folder)


def _discard(folder: Path) -> None:
    aside = folder.with_name(file_system.REMOVING + folder.name)
    folder.rename(aside)
    _empty_and_remove(aside)


def _empty_and_remove(folder: Path) -> None:
    """Google Drive moves what is removed to its trash, where it still takes its size of the quota: so it is emptied."""
    for path in folder.iterdir() if folder.is_dir() else ():
        with contextlib.suppress(OSError):
            os.truncate(path, 0)
    file_system.remove_tree(folder)
