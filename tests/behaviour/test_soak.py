"""The soak: runs of two launched processes are ended every few seconds, in every way, until the time is over.

ACCEL_TX_SOAK_S is that time in seconds; with the run that nobody stops and the end of the last one the default makes
eight to nine minutes. What ends a start comes 5 to 40 seconds after its launch. A run that has reached its end is
compared with one that nobody stopped, and another one begins; the last one is left alone when the time is over. So a
slow machine finishes fewer runs and has no more to do.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from accel_tx.config import Config
from tests.conftest import REPOSITORY, as_options
from tests.ranks import train_on
from tests.run_folder import assert_only_what_belongs, assert_same_run, newest_update

SOAK_S = float(os.environ.get("ACCEL_TX_SOAK_S", "450"))
# Longest wait for what must come to an end by itself: torch's launcher gives its workers 30 seconds.
PATIENCE_S = 120.0


class Start:
    """One `accelerate launch` of two processes, and all processes that came of it."""

    def __init__(self, config: Config, run_dir: Path) -> None:
        self.run_dir, self.log = run_dir, run_dir.with_suffix(".log")
        self.logged_before = self.log.stat().st_size if self.log.exists() else 0
        command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
        command += ["--main_process_port", "0", "-m", "accel_tx", "train", "--config", "configs/quickstart.yaml"]
        environment = {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
        with self.log.open("ab") as output:
            self.launcher = subprocess.Popen(
                [*command, "--run_dir", str(run_dir), *as_options(config)],
                env={**os.environ, **environment},
                cwd=REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def processes(self) -> list[psutil.Process]:
        """The launcher, its workers and theirs that still run, orphans too: their command names the run folder."""
        found = []
        for process in psutil.process_iter(["cmdline", "status"]):
            words = process.info["cmdline"] or []
            if str(self.run_dir) in words and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process)
        return found

    def workers(self) -> list[psutil.Process]:
        """All of them but the launcher."""
        return [process for process in self.processes() if process.pid != self.launcher.pid]

    def printed(self) -> str:
        """What this start has printed."""
        return self.log.read_bytes()[self.logged_before :].decode(errors="replace")

    def has_ended(self) -> bool:
        """Whether none of them runs any more."""
        return self.launcher.poll() is not None and not self.processes()

    def wait_for_end(self, timeout_s: float = PATIENCE_S) -> None:
        """Wait until none runs; they must come to an end by themselves."""
        deadline_s = time.monotonic() + timeout_s
        while not self.has_ended():
            assert time.monotonic() < deadline_s, f"{self.processes()} run on\n{self.printed()[-4000:]}"
            time.sleep(0.1)

    def kill_everything(self) -> None:
        """SIGKILL, the launcher first, which would start no others but might end them in order."""
        self.launcher.kill()
        self.launcher.wait()
        while processes := self.processes():
            for process in processes:
                _send(process, signal.SIGKILL)
            time.sleep(0.01)


def _send(process: psutil.Process, number: signal.Signals) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def end(start: Start, how: str, rng: np.random.Generator) -> None:
    """End a start from outside; on return none of its processes runs, except after `launcher, at once`."""
    if how == "everything":
        start.kill_everything()
    elif how == "one worker":
        if workers := start.workers():
            _send(workers[rng.integers(len(workers))], signal.SIGKILL)
        else:
            start.launcher.kill()
        start.wait_for_end()
    elif how == "SIGTERM":
        start.launcher.terminate()
        start.wait_for_end()
    else:
        start.launcher.kill()
        start.launcher.wait()
        if how == "launcher":
            start.wait_for_end()


def shuffled_for_ever(names: list[str], rng: np.random.Generator) -> Iterator[str]:
    """All of them in random order, again and again."""
    while True:
        yield from map(str, rng.permutation(names))


@pytest.mark.slow
@pytest.mark.timeout(3 * SOAK_S + 1800)
def test_runs_that_are_ended_every_few_seconds_reach_the_weights_of_one_that_nobody_stopped(
    tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    config = tiny_config(
        train={"max_updates": 1000, "save_every_updates": 10, "loader_workers": 2},
        validation={"every_updates": 200},
    )
    train_on(2, config, tmp_path / "whole")
    deadline_s = time.monotonic() + SOAK_S
    rng = np.random.default_rng(1)
    ends = shuffled_for_ever(
        ["everything", "everything", "launcher", "launcher, at once", "one worker", "SIGTERM"], rng
    )
    n_runs, counted = 0, Counter[str]()
    while n_runs == 0 or time.monotonic() < deadline_s:
        run_dir = tmp_path / f"run_{n_runs}"
        counted += run_with_ends(config, run_dir, deadline_s, ends, rng)
        n_runs += 1
        assert_same_run(run_dir, tmp_path / "whole")
        assert_only_what_belongs(run_dir)
    print(f"{n_runs} runs, ended from outside: {dict(counted)}")
    assert sum(counted.values()) >= SOAK_S / 60


def run_with_ends(
    config: Config, run_dir: Path, deadline_s: float, ends: Iterator[str], rng: np.random.Generator
) -> Counter[str]:
    """Start the run again and again until it is complete, ending every start before `deadline_s` from outside."""
    counted, how = Counter[str](), ""
    while True:
        start = Start(config, run_dir)
        until_s = time.monotonic() + rng.uniform(5, 40)
        while not start.has_ended() and (time.monotonic() < until_s or time.monotonic() > deadline_s):
            time.sleep(0.05)
        if not start.has_ended():
            how = next(ends)
            end(start, how, rng)
            counted[how] += 1
        elif start.launcher.returncode == 0 and (run_dir / "final").exists():
            return counted
        else:
            # Only what is left of the start before may be in the way, and only as long as it lives.
            assert how == "launcher, at once", f"exit status {start.launcher.returncode}\n{start.printed()[-4000:]}"
            assert "is writing this run" in start.printed(), start.printed()[-4000:]
            counted["refused beside orphans"] += 1
        print(f"{time.strftime('%X')} {how}: at update {newest_update(run_dir)}", flush=True)
