"""One writer for a run folder: a lock that the kernel releases when its process ends, however it ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from accel_tx.config import UserError
from accel_tx.train.file_system import resolved

LOCK = ".lock"
# What a file system without locks answers.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
_TAKEN = {errno.EACCES, errno.EAGAIN}
# A POSIX lock (`lockf`) and not `flock`: a forked loader worker does not inherit it, so workers that outlive a killed
# training do not hold it. Its price: a process that opens and closes the file once more loses its own lock. So this
# module remembers what this process holds, and nothing else opens the file.
_held: dict[Path, int] = {}


def holder(run_dir: Path) -> str | None:
    """Who holds the lock of a run folder, in words; None if nobody does, or no one can tell. Changes nothing.

    Raises: OSError for a loop of links.
    """
    path = resolved(run_dir) / LOCK
    if path in _held:
        return _describe(path)
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        # Shared: processes that only ask are not in each other's way.
        fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return _describe(path) if error.errno in _TAKEN else None
    finally:
        os.close(descriptor)
    return None


def refuse_if_held(run_dir: Path) -> None:
    """Raise UserError if a process is writing this run. Only the main process asks: it may hold the lock soon after."""
    held_by = holder(run_dir)
    if held_by is not None:
        raise _refusal(run_dir, held_by)


def _refusal(run_dir: Path, held_by: str) -> UserError:
    return UserError(f"{run_dir}: {held_by} is writing this run; wait for it or end it, or give another --run_dir")


@contextlib.contextmanager
def locked(run_dir: Path) -> Iterator[str | None]:
    """Hold the lock of a run folder, which is made if need be; gives a warning where the file system has no locks.

    When it is released the lock file goes, and so does the folder if it was made here and is still empty.
    Raises: UserError if another process holds it, or the folder cannot be written.
    """
    try:
        path, is_new = resolved(run_dir) / LOCK, not run_dir.exists()
        run_dir.mkdir(parents=True, exist_ok=True)
        descriptor, warning = _acquire(path, run_dir)
    except OSError as error:
        raise UserError(f"{run_dir}: cannot be written ({error.strerror}); give a folder with room to write") from None
    _held[path] = descriptor
    try:
        yield warning
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        del _held[path]
        os.close(descriptor)
        if is_new:
            with contextlib.suppress(OSError):
                run_dir.rmdir()


def _acquire(path: Path, run_dir: Path) -> tuple[int, str | None]:
    for attempt in range(6):
        # Who has just asked may have been in the way for a moment.
        time.sleep(0.1 * bool(attempt))
        if path in _held:
            break
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return descriptor, (
                    f"{run_dir}: its file system has no locks ({error.strerror}); "
                    "make sure that no other process writes this run"
                )
            os.close(descriptor)
            if error.errno in _TAKEN:
                continue
            raise
        if _is_still(path, descriptor):
            _sign(descriptor)
            return descriptor, None
        # The holder before took the file away between our opening and locking it.
        os.close(descriptor)
    raise _refusal(run_dir, _describe(path))


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _sign(descriptor: int) -> None:
    values = {"host": socket.gethostname(), "pid": os.getpid(), "started": time.strftime("%Y-%m-%d %H:%M:%S")}
    # The lock holds on a full disk as well; only who holds it stays unsaid.
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(values).encode(), 0)


def _describe(path: Path) -> str:
    try:
        # Not by opening the file where this process holds the lock: closing it would release that.
        text = os.pread(_held[path], 4096, 0) if path in _held else path.read_bytes()
        values = json.loads(text)
        return f"process {values['pid']} on {values['host']}, started {values['started']},"
    except (OSError, ValueError, TypeError, KeyError):
        return "another process"
