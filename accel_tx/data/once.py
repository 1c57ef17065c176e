"""A folder that several processes want is made by one of them; the others wait for it, and one takes over if it dies.

Beside the folder lies a lock file while it is made. It names the maker, whose heartbeat is the file's time of change.
Correctness does not hang on it: the folder is made under another name and renamed when it is whole, so two makers only
waste work. Nothing here waits in a collective of torch's, which would time out.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accel_tx.config import UserError
from accel_tx.data.disk import is_disk_full

_POLL_S = 0.2
_HEARTBEAT_S = 5.0
# A maker on another host that has not been heard of for so long is taken for dead.
_SILENCE_S = 90.0
_TELL_AFTER_S = 5.0
_TELL_EVERY_S = 300.0


def make_once(folder: Path, make: Callable[[Path], None]) -> None:
    """Return when `folder` exists: made by `make(empty folder to fill)` here, or by another process meanwhile.

    Raises: UserError if the place cannot be written, or that `make` raised, here or in the process waited for.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        while not folder.exists():
            lock = _take(_lock_path(folder))
            if lock is None:
                _wait(folder)
                continue
            with _held(lock):
                if not folder.exists():
                    _make_beside(folder, lock, make)
    except OSError as error:
        if is_disk_full(error):
            raise _disk_full(folder.parent) from None
        if isinstance(error, PermissionError | NotADirectoryError | FileExistsError) or error.errno == errno.EROFS:
            raise UserError(f"data.cache_dir {folder.parent}: cannot be written ({error.strerror})") from None
        raise


@dataclass(frozen=True)
class _Lock:
    path: Path
    descriptor: int
    token: str


def _lock_path(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.lock")


def _work_path(folder: Path, token: str) -> Path:
    return folder.with_name(f".{folder.name}.{token}")


def _take(path: Path) -> _Lock | None:
    """The lock, or None if somebody holds it."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
    except FileExistsError:
        return None
    token = uuid.uuid4().hex[:12]
    owner = {"host": _host(), "name": socket.gethostname(), "pid": os.getpid(), "token": token}
    try:
        _write_line(descriptor, {**owner, "started": _started(os.getpid())})
    except OSError:
        # A lock without an owner would be waited for until it is taken for dead.
        os.close(descriptor)
        path.unlink()
        raise
    return _Lock(path, descriptor, token)


@contextlib.contextmanager
def _held(lock: _Lock) -> Iterator[None]:
    """Keep the heart beating inside; then let the lock go, telling those who wait what was wrong with the input."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(_HEARTBEAT_S):
            with contextlib.suppress(OSError):
                os.utime(lock.descriptor)

    heart = threading.Thread(target=beat, daemon=True)
    heart.start()
    try:
        yield
    except UserError as error:
        # Who waits has the file open, and so can read this although the file has no name any more.
        with contextlib.suppress(OSError):
            _write_line(lock.descriptor, {"failed": str(error)})
        raise
    finally:
        done.set()
        heart.join()
        with contextlib.suppress(OSError):
            if os.stat(lock.path).st_ino == os.fstat(lock.descriptor).st_ino:
                lock.path.unlink()
        os.close(lock.descriptor)


def _make_beside(folder: Path, lock: _Lock, make: Callable[[Path], None]) -> None:
    work = _work_path(folder, lock.token)
    work.mkdir()
    try:
        make(work)
        try:
            work.rename(folder)
        except OSError:
            if not folder.exists():  # else somebody else was first, with the same content
                raise
    except UserError:
        raise
    except Exception as error:
        if is_disk_full(error):
            raise _disk_full(folder.parent) from None
        if not work.exists():
            return  # this process was silent for so long that another one took it for dead, and makes the folder
        raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _wait(folder: Path) -> None:
    """Return when the folder is there or the lock may be free.

    Raises: UserError with which the maker ended.
    """
    path = _lock_path(folder)
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        lines = _lines(descriptor)
        waited_since = heard_at = time.monotonic()
        tell_at, beat = waited_since + _TELL_AFTER_S, 0
        while not folder.exists():
            if _is_gone(path, descriptor):
                failed = next((line["failed"] for line in _lines(descriptor) if "failed" in line), None)
                if failed is not None:
                    raise UserError(failed)
                return
            now = time.monotonic()
            lines = lines or _lines(descriptor)
            owner = lines[0] if lines else {}
            changed = os.fstat(descriptor).st_mtime_ns
            if changed != beat:
                beat, heard_at = changed, now
            if _is_dead(owner, silence_s=now - heard_at):
                _take_off(folder, path, descriptor, owner)
                return
            if now >= tell_at:
                _tell(folder, owner, now - waited_since)
                tell_at = now + _TELL_EVERY_S
            time.sleep(_POLL_S)
    finally:
        os.close(descriptor)


def _tell(folder: Path, owner: dict[str, Any], waited_s: float) -> None:
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return  # one line a machine is enough
    who = f"process {owner.get('pid', '?')} on {owner.get('name', '?')}"
    sys.stderr.write(f"accel_tx: waiting for {who}, which prepares {folder} ({waited_s:.0f} s so far)\n")
    sys.stderr.flush()


def _is_gone(path: Path, descriptor: int) -> bool:
    """Whether the file that is open has lost its name."""
    try:
        return os.stat(path).st_ino != os.fstat(descriptor).st_ino
    except OSError:  # no such file; or a stale handle, where another host removed it
        return True


def _is_dead(owner: dict[str, Any], silence_s: float) -> bool:
    if owner.get("host") == _host():
        started = _started(int(owner["pid"]))
        return started is None or started != owner["started"]
    return silence_s > _SILENCE_S


def _take_off(folder: Path, path: Path, descriptor: int, owner: dict[str, Any]) -> None:
    """Remove the lock of a dead maker, and what it left half made."""
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}")
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return
    try:
        if os.stat(aside).st_ino != os.fstat(descriptor).st_ino:
            # Another process was quicker, and this is its own new lock: back with it.
            with contextlib.suppress(FileExistsError):
                os.link(aside, path)
            return
    finally:
        aside.unlink()
    if "token" in owner:
        shutil.rmtree(_work_path(folder, owner["token"]), ignore_errors=True)


def _write_line(descriptor: int, values: dict[str, Any]) -> None:
    os.write(descriptor, json.dumps(values).encode() + b"\n")


def _lines(descriptor: int) -> list[dict[str, Any]]:
    try:
        content = os.pread(descriptor, 1 << 20, 0)
    except OSError:
        return []
    return [json.loads(line) for line in content.split(b"\n")[:-1]]


def _host() -> str:
    """What tells apart the places in which a process number means one process: boots of machines, and containers."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _started(pid: int) -> str | None:
    """When the process began, in a form of the system's own; None if it is dead."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "running"


def _disk_full(folder: Path) -> UserError:
    free_mib = shutil.disk_usage(folder).free >> 20
    return UserError(
        f"data.cache_dir {folder}: its disk, or your quota there, is full ({free_mib:,} MiB free after cleaning up); "
        "make room or give another data.cache_dir"
    )
