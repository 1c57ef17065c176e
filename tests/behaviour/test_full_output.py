"""Standard output on a disk that is full is one line and status 2 for commands that print."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

EVALUATE = ["evaluate", "--hyp", "text", "--ref", "text", "--n_resamples", "0"]


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [EVALUATE, [*EVALUATE, "--against", *["text"] * 200], []])
def test_a_full_disk_behind_standard_output_is_one_line(unbuffered: str, arguments: list[str], tmp_path: Path) -> None:
    """Short, so that Python writes it at the end; longer than its buffer; and the usage."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    (tmp_path / "text").write_text("We eat.\n")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "accel_tx", *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": unbuffered},
        )
    told = "accel_tx: standard output: cannot be written (No space left on device)\n"
    assert (done.returncode, done.stderr) == (2, told)
