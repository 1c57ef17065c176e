"""Progress bars for those who watch."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import datasets


@contextlib.contextmanager
def progress_on_terminal_only() -> Iterator[None]:
    """Inside, `datasets` draws progress bars only if stderr is a terminal."""
    silence = not sys.stderr.isatty() and not datasets.are_progress_bars_disabled()
    if silence:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if silence:
            datasets.enable_progress_bars()
