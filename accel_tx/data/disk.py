"""A full disk, told apart from other failures whichever library met it."""

from __future__ import annotations

import errno

_FULL = (errno.ENOSPC, errno.EDQUOT)
# How libraries written in Rust and C++ spell the two in exceptions of their own.
_SPELLINGS = ("No space left on device", "Disk quota exceeded")


def is_disk_full(error: BaseException) -> bool:
    """Whether the error, or one that it was raised from, says that a disk or a quota is full."""
    seen: BaseException | None = error
    while seen is not None:
        if getattr(seen, "errno", None) in _FULL or any(spelling in str(seen) for spelling in _SPELLINGS):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
