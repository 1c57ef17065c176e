"""The README's first command, from a copy of the tree, with the installed environment."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

# Stands in for the interpreter and for accelerate: chooses a launch file, writes down what it is asked for else.
RECORDER = """\
#!/usr/bin/env bash
cat >/dev/null
if [[ $1 == - ]]; then echo launch/cpu.yaml; else echo "$*" >>"$RECORD"; fi
"""


@pytest.mark.parametrize(
    ("options", "run_dir"),
    [
        ([], "runs/quickstart"),
        (["--run_dir", "my run", "--train.seed", "2"], "my run"),
        (["--train.seed", "2", "--run_dir=my run"], "my run"),
        (["--run_dir=first", "--run_dir", "last"], "last"),
    ],
)
def test_what_is_scored_and_translated_is_what_was_trained(options: list[str], run_dir: str, tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "launch", tmp_path / "launch")
    for name in ("requirements.txt", "pyproject.toml"):
        (tmp_path / name).touch()
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for name in ("python", "accelerate", "pip"):
        (tmp_path / ".venv" / "bin" / name).write_text(RECORDER)
        (tmp_path / ".venv" / "bin" / name).chmod(0o755)
    record = tmp_path / "record"
    subprocess.run(
        ["bash", "launch/quickstart.sh", *options],
        cwd=tmp_path,
        env={**os.environ, "RECORD": str(record)},
        stdin=subprocess.DEVNULL,
        check=True,
    )
    trained, scored, translated = (line for line in record.read_text().splitlines() if " accel_tx " in line)
    assert trained.endswith(" ".join([" --run_dir", run_dir, *options]))
    assert scored == f"-m accel_tx evaluate --run_dir {run_dir}"
    assert translated == f"-m accel_tx translate --run_dir {run_dir}"


@pytest.mark.slow
@pytest.mark.alone
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
