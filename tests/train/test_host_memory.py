from __future__ import annotations

from pathlib import Path

import pytest

from accel_tx.train.host_memory import available_bytes


def write(root: Path, files: dict[str, str]) -> tuple[Path, Path]:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root / "proc", root / "cg"


MACHINE = {"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable:    5000 kB\n"}
UNLIMITED_V1 = {"cg/memory/memory.limit_in_bytes": "9223372036854771712\n", "cg/memory/memory.usage_in_bytes": "1\n"}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        (MACHINE, 5000 * 1024),
        (
            # The tightest group counts, also above the own one; cached files are as good as free.
            {
                **MACHINE,
                "proc/self/cgroup": "0::/slice/job\n",
                "cg/slice/memory.max": "3000\n",
                "cg/slice/memory.current": "2500\n",
                "cg/slice/memory.stat": "anon 1\ninactive_file 400\n",
                "cg/slice/job/memory.max": "max\n",
                "cg/slice/job/memory.current": "2000\n",
            },
            900,
        ),
        (
            {
                **MACHINE,
                **UNLIMITED_V1,
                "proc/self/cgroup": "9:name=systemd:/\n4:cpu,memory:/job\n",
                "cg/memory/job/memory.limit_in_bytes": "4000\n",
                "cg/memory/job/memory.usage_in_bytes": "1000\n",
            },
            3000,
        ),
        # In a container the path is that outside of it.
        ({**MACHINE, **UNLIMITED_V1, "proc/self/cgroup": "4:memory:/docker/abc\n"}, 5000 * 1024),
        ({**MACHINE, "proc/self/cgroup": "0::/\n", "cg/memory.max": "10\n", "cg/memory.current": "20\n"}, 0),
    ],
)
def test_the_tightest_limit_counts(files: dict[str, str], expected: int | None, tmp_path: Path) -> None:
    assert available_bytes(*write(tmp_path, files)) == expected
