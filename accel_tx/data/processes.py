"""How many cores there are, and how many processes a pass over a corpus takes."""

from __future__ import annotations

import os


def n_cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processes_for(n_rows: int, n_procs: int) -> int | None:
    """`num_proc` for `Dataset.map`: None where one process is enough, and no more than rows, of which it would warn."""
    n_useful = min(n_procs, n_rows)
    return n_useful if n_useful > 1 else None
