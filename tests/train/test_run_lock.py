"""One writer for a run folder, whatever happens to the one before."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from accel_tx.config import Config, UserError
from accel_tx.train import run_lock
from accel_tx.train.run_lock import holder, locked
from tests.conftest import REPOSITORY, as_options, launch

HOLDER = """
import multiprocessing, sys, time
from pathlib import Path
from accel_tx.train.run_lock import locked
with locked(Path(sys.argv[1])):
    workers = [multiprocessing.get_context("fork").Process(target=time.sleep, args=(30,)) for _ in range(2)]
    for worker in workers:
        worker.start()
    print(*(worker.pid for worker in workers), flush=True)
    time.sleep(120)  # until it is killed
"""


@pytest.fixture
def other_process(tmp_path: Path) -> subprocess.Popen[str]:
    """A process that holds the lock of `tmp_path / "run"` and has forked two workers."""
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "run")],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )


def test_the_lock_ends_with_its_process_though_forked_workers_live(
    other_process: subprocess.Popen[str], tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    with other_process:
        assert other_process.stdout is not None
        workers = [int(pid) for pid in other_process.stdout.readline().split()]
        assert f"process {other_process.pid} on " in (holder(run_dir) or "")
        with pytest.raises(UserError, match=f"process {other_process.pid} on .* is writing this run"), locked(run_dir):
            pass
        other_process.send_signal(signal.SIGKILL)
        other_process.wait()
    for pid in workers:
        os.kill(pid, 0)  # raises if it is gone
    assert holder(run_dir) is None
    with locked(run_dir):
        assert f"process {os.getpid()} on " in (holder(run_dir) or "")
    for pid in workers:
        os.kill(pid, signal.SIGKILL)


def test_asking_and_being_refused_in_the_same_process_does_not_release_it(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    ask = "import sys, pathlib; from accel_tx.train.run_lock import holder; print(holder(pathlib.Path(sys.argv[1])))"
    with locked(run_dir):
        assert holder(run_dir) is not None
        with pytest.raises(UserError, match="is writing this run"), locked(run_dir / "." / ".." / "run"):
            pass
        asked = subprocess.run(
            [sys.executable, "-c", ask, str(run_dir)],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )
        assert f"process {os.getpid()} on " in asked.stdout


def test_the_lock_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for name in ("there", "new"):
        with locked(tmp_path / name):
            assert (tmp_path / name / ".lock").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert list((tmp_path / "there").iterdir()) == []


def test_a_lock_file_that_was_taken_away_between_opening_and_locking_is_not_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = fcntl.lockf, []

    def lockf(descriptor: int, operation: int) -> None:
        if not calls:
            (tmp_path / ".lock").unlink()
        calls.append(operation)
        real(descriptor, operation)

    monkeypatch.setattr(run_lock.fcntl, "lockf", lockf)
    with locked(tmp_path):
        assert len(calls) == 2
        assert (tmp_path / ".lock").is_file()


def test_a_file_system_without_locks_gets_a_warning_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lockf(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(run_lock.fcntl, "lockf", lockf)
    with locked(tmp_path) as warning:
        assert "has no locks (No locks available); make sure that no other process writes this run" in (warning or "")
    assert holder(tmp_path) is None


@pytest.mark.slow
def test_a_second_start_on_two_processes_ends_with_one_line_and_touches_nothing(
    other_process: subprocess.Popen[str], tmp_path: Path, tiny_config: Callable[..., Config]
) -> None:
    run_dir = tmp_path / "run"
    with other_process:
        assert other_process.stdout is not None
        workers = [int(pid) for pid in other_process.stdout.readline().split()]
        before = {path: path.read_bytes() for path in run_dir.rglob("*")}
        options = ["--config", "configs/quickstart.yaml", "--run_dir", str(run_dir), *as_options(tiny_config())]
        done = launch(2, "-m", "accel_tx", "train", *options, timeout_s=120)
        lines = [line for line in done.stderr.splitlines() if line.startswith("accel_tx: ")]
        assert done.returncode != 0
        assert len(lines) == 1
        assert f"process {other_process.pid} on " in lines[0]
        assert {path: path.read_bytes() for path in run_dir.rglob("*")} == before
        other_process.kill()
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
