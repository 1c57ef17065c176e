"""The README's first command, from a copy of the tree, with the installed environment."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_quickstart_trains_scores_and_translates(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    for folder in ("accel_tx", "configs", "launch"):
        shutil.copytree(REPOSITORY / folder, copy / folder)
    for name in ("requirements.txt", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, copy / name)
    (copy / ".venv").symlink_to(sys.prefix)
    started_at_s = time.monotonic()
    done = subprocess.run(
        ["bash", "launch/quickstart.sh", "--data.cache_dir", str(tmp_path / "cache")],
        cwd=copy,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    seconds = time.monotonic() - started_at_s
    assert done.returncode == 0, done.stderr[-3000:]
    bleu = float(re.search(r"^BLEU +(\d+\.\d+)", done.stdout, re.MULTILINE)[1])  # type: ignore[index]
    print(f"quickstart: BLEU {bleu} after {seconds:.0f} s")
    assert bleu >= 85
    translations = done.stdout.strip().splitlines()[-5:]
    assert all(len(line.split("  ")) >= 2 and line.rstrip().endswith((".", "?")) for line in translations)
