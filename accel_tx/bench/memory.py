"""Peak memory of a process, read from /proc."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


def anonymous_mib(pid: int) -> float | None:
    """Memory of a process that is not backed by files (RssAnon), in MiB; None where the system does not tell."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return None
    for line in status.splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    return None


@dataclass
class Peak:
    """The largest of the samples so far, in MiB."""

    mib: float | None = None

    def sample(self, pid: int) -> None:
        """Look once."""
        now = anonymous_mib(pid)
        if now is not None and (self.mib is None or now > self.mib):
            self.mib = now


@contextmanager
def watched_peak(every_s: float = 0.002) -> Iterator[Peak]:
    """Samples this process from a thread for as long as the block runs."""
    peak, over = Peak(), threading.Event()

    def watch() -> None:
        while not over.is_set():
            peak.sample(os.getpid())
            time.sleep(every_s)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()
