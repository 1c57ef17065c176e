"""Files of JSON lines that outlive crashes and full disks: a line is there whole or not at all."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable
from pathlib import Path

from accel_tx.train.file_system import replace_synced


def append_whole(path: Path, content: bytes) -> None:
    """Append all of `content` or nothing. Raises: OSError."""
    before: int | None = None
    try:
        with path.open("ab", buffering=0) as file:
            before = os.fstat(file.fileno()).st_size
            while content:
                content = content[file.write(content) :]
    except OSError:
        with contextlib.suppress(OSError):
            if before is not None:
                os.truncate(path, before)
        raise


def keep_lines(path: Path, is_kept: Callable[[bytes], bool]) -> None:
    """Take the other lines out of a file; it stays untouched if it needs no change or is not there. Raises: OSError."""
    if not path.exists():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if is_kept(line)]
    if len(kept) < len(lines):
        replace_synced(path, b"".join(kept))


def update_of_line(line: bytes) -> float:
    """The update that a line is about; infinity for one that a crash cut off."""
    try:
        # Without its end, the next line would be glued to it.
        return int(json.loads(line)["update"]) if line.endswith(b"\n") else float("inf")
    except (ValueError, KeyError, TypeError):
        return float("inf")


def finite_or_none(value: float) -> float | None:
    """JSON has no word for the others."""
    return value if math.isfinite(value) else None
