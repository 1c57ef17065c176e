"""Memory that this machine has left for a process, and that this one takes, as Linux tells of it."""

from __future__ import annotations

import os
from pathlib import Path

from accel_tx.train.processes import n_on_machine


def available_bytes(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What may still be taken: of the machine, and of every control group above this process; None if nothing tells."""
    found = [_of_machine(proc / "meminfo")]
    for line in _lines(proc / "self" / "cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            found += _of_groups(cgroups, path, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            names = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
            found += _of_groups(cgroups / "memory", path, *names)
    known = [n for n in found if n is not None]
    return min(known) if known else None


def available_to_each() -> float:
    """An equal share of what is available, of the processes launched on this machine; infinite if nothing tells."""
    free = available_bytes()
    return float("inf") if free is None else free / n_on_machine()


def resident_bytes(proc: Path = Path("/proc")) -> int | None:
    """What this process has in memory now, mapped files included; None if nothing tells."""
    fields = next(iter(_lines(proc / "self" / "statm")), "").split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if len(fields) > 1 else None


def _of_machine(meminfo: Path) -> int | None:
    for line in _lines(meminfo):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _of_groups(root: Path, path: str, limit: str, usage: str, reclaimable: str) -> list[int | None]:
    """Of a group and those above it; in a container the path may be that outside of it, and only the root is seen."""
    folder = root / path.strip("/")
    return [
        _of_group(group, limit, usage, reclaimable) for group in (folder, *folder.parents) if group.is_relative_to(root)
    ]


def _of_group(group: Path, limit: str, usage: str, reclaimable: str) -> int | None:
    most, used = (next(iter(_lines(group / name)), "") for name in (limit, usage))
    if not (most.isdecimal() and used.isdecimal()):  # "max", or there is no such file
        return None
    stat = dict(line.split()[:2] for line in _lines(group / "memory.stat"))
    # Pages of files that nobody has touched lately are given up first.
    return max(0, int(most) - int(used) + int(stat.get(reclaimable, 0)))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
