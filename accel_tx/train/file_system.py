"""What a run asks of the file system: files and folders listed, measured, replaced whole, synced; errors in words."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from accel_tx.config import UserError

REMOVING = ".removing_"
"""Prefix of a folder on its way out."""
# What some file systems, mostly in user space, answer for a folder; their files are synced all the same.
_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP}


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


def entries(folder: Path) -> list[Path]:
    """What is in a folder, nothing where there is none.

    Raises: OSError where nobody can tell, which `glob` would take for an empty folder.
    """
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


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


def describe(error: BaseException, folder: Path, n_bytes: int) -> str:
    """What went wrong in words, with the space needed and free."""
    text = (error.strerror if isinstance(error, OSError) else None) or " ".join(str(error).split())[:200]
    try:
        free = f"{shutil.disk_usage(folder).free / 1e6:,.1f} MB free"
    except OSError:
        free = "free space unknown"
    needs = f"needs {n_bytes / 1e6:,.1f} MB, " if n_bytes else ""
    return f"{text or type(error).__name__} ({needs}{free} in {folder})"
