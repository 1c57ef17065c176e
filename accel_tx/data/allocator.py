"""Freed memory goes back to the system between two steps, where the C library would keep it for later."""

from __future__ import annotations

import contextlib
import ctypes

import pyarrow as pa


def give_back_memory() -> None:
    """Let Arrow and the C library return what nothing uses any more; without glibc only Arrow does.

    Once an array of up to 32 MiB has been freed, glibc takes the next ones of that size from its heap, and keeps them.
    """
    pa.default_memory_pool().release_unused()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
