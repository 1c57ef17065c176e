"""A folder that a command makes: written beside, given its name when it is whole."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from accel_tx.config import UserError
from accel_tx.data.disk import is_disk_full
from accel_tx.train.file_system import replace_folder


def real_path(path: Path) -> Path:
    """Without symbolic links."""
    # Not Path.resolve, which raises for a link to itself in some versions of Python.
    return Path(os.path.realpath(path))


def check_can_make(output: Path) -> None:
    """Raise UserError for `--output` where no folder can be made, whatever a folder that is there holds."""
    target = real_path(output)
    if os.path.islink(target):  # nothing that is resolved is one otherwise
        raise UserError(f"--output {output}: is a symbolic link that leads back to itself; expected a folder to make")
    for path in (target, _beside(target)):
        try:
            path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise UserError(f"--output {output}: cannot be written ({error.strerror}); give another folder") from None
    if target.exists() and not target.is_dir():
        raise UserError(f"--output {output}: is a file; expected a folder to make")
    if not target.parent.is_dir():
        raise UserError(f"--output {output}: there is no folder {output.parent}; expected one to write into")


@contextlib.contextmanager
def made_beside(output: Path, check: Callable[[Path], None]) -> Iterator[Path]:
    """A folder that takes the place of `output` at the end, and is gone if there is an error.

    `check` raises UserError where `output` may not be replaced; it is asked again at the end, as minutes may pass.
    """
    target = real_path(output)
    beside = _beside(target)
    try:
        beside.mkdir()
        yield beside
        for path in beside.rglob("*"):
            # safetensors lets only the owner read what it writes.
            path.chmod(0o755 if path.is_dir() else 0o644)
        check(output)
        replace_folder(beside, target)
    except Exception as error:
        # Libraries that are not Python's own tell a full disk with errors of their own.
        if not isinstance(error, OSError) and not is_disk_full(error):
            raise
        told = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
        raise UserError(f"--output {output}: cannot be written ({told})") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _beside(target: Path) -> Path:
    """A new name in the same folder."""
    return target.parent / f".writing_{target.name}_{secrets.token_hex(4)}"
