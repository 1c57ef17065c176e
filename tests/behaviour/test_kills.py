"""A run that is killed again and again, also while it writes, ends with the bytes of one that never was."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from accel_tx.config import Config
from accel_tx.train.loop import train
from tests.behaviour.test_processes import updates_per_epoch
from tests.ranks import Ranks, start_ranks, train_on
from tests.run_folder import assert_only_what_belongs, assert_same_run, newest_update, read_lines

MakeConfig = Callable[..., Config]
N_UPDATES = 120
# Of twenty kills so many come while it starts, so many while a checkpoint is written, so many where the next start goes
# on with the first update of an epoch or with the last, the others at any moment.
MOMENTS = ["starting"] * 4 + ["saving"] * 6 + ["first of an epoch"] * 2 + ["last of an epoch"] * 2 + ["any"] * 6


def is_writing(run_dir: Path) -> bool:
    """Whether something is half written in the run folder."""
    return any(True for name in (".writing_*", ".removing_*") for _ in run_dir.rglob(name))


def wait_until(condition: Callable[[], bool], ranks: Ranks, timeout_s: float = 120) -> None:
    deadline_s = time.monotonic() + timeout_s
    while ranks.are_running() and not condition():
        assert time.monotonic() < deadline_s, ranks.log.read_text(errors="replace")[-3000:]
        time.sleep(0.001)


def kill_at(moment: str, ranks: Ranks, run_dir: Path, n: int, update_s: float, rng: np.random.Generator) -> bool:
    """Kill at a random moment of this kind; whether that left something half written.

    `n`: updates of an epoch. `update_s`: time from one checkpoint, which follows every update, to the next.
    """
    if moment == "starting":
        time.sleep(rng.uniform(0, 20 * update_s))
    elif moment == "first of an epoch":
        stop_before(0, ranks, run_dir, n)
    elif moment == "last of an epoch":
        stop_before(n - 1, ranks, run_dir, n)
    else:
        target = newest_update(run_dir) + rng.integers(1, 3)
        wait_until(lambda: newest_update(run_dir) >= target, ranks)
        time.sleep(rng.uniform(0, update_s))
    if moment == "saving":
        stop_in_a_save(ranks, run_dir, rng)
    assert ranks.kill(), f"it had ended before it was killed\n{ranks.log.read_text(errors='replace')[-3000:]}"
    return is_writing(run_dir)


def stop_before(place: int, ranks: Ranks, run_dir: Path, n: int) -> None:
    """SIGSTOP where the newest checkpoint, a new one, is followed by this update (from 0) of the `n` of an epoch."""
    before = newest_update(run_dir)
    wait_until(lambda: newest_update(run_dir) > before, ranks)
    stop_where(lambda: newest_update(run_dir) % n == place, ranks)


def stop_in_a_save(ranks: Ranks, run_dir: Path, rng: np.random.Generator) -> None:
    """SIGSTOP at a random moment of a save."""
    stop_where(lambda: is_writing(run_dir) and rng.random() < 0.3, ranks)


def stop_where(condition: Callable[[], bool], ranks: Ranks, slice_s: float = 0.002) -> None:
    """SIGSTOP where this holds: looked at while all stand still, between slices shorter than an update or a save."""
    while ranks.are_running():
        ranks.send(signal.SIGSTOP)
        if condition():
            return
        ranks.send(signal.SIGCONT)
        time.sleep(slice_s)


@pytest.mark.slow
@pytest.mark.parametrize("n_processes", [1, 2])
def test_twenty_kills_leave_the_bytes_of_a_run_that_was_never_stopped(
    n_processes: int, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    def config(loader_workers: int = 0) -> Config:
        return tiny_config(
            train={
                "max_updates": N_UPDATES,
                "log_every_updates": 5,
                "save_every_updates": 1,
                "loader_workers": loader_workers,
            },
            validation={"every_updates": 10},
            data={"phrasebook_train_pairs": 260, "phrasebook_valid_pairs": 5},
        )

    n = updates_per_epoch(config())
    assert 5 < n < 12
    train_on(n_processes, config(), tmp_path / "whole")
    update_s = read_lines(tmp_path / "whole")[-1]["trained_s"] / N_UPDATES
    rng = np.random.default_rng(1)
    n_in_a_save = 0
    for moment in rng.permutation(MOMENTS):
        n_workers = int(rng.choice([0, 2]))
        ranks = start_ranks(n_processes, tmp_path / "killed.log", train, config(n_workers), tmp_path / "killed")
        n_in_a_save += kill_at(moment, ranks, tmp_path / "killed", n, update_s, rng)
    assert n_in_a_save >= 3
    went_on = re.findall(r"going on from .*update_(\d+)", (tmp_path / "killed.log").read_text())
    assert {0, n - 1} < {int(update) % n for update in went_on}, went_on
    for _ in range(3):  # while `final/` is written, or soon after
        ranks = start_ranks(n_processes, tmp_path / "killed.log", train, config(), tmp_path / "killed")
        wait_until(lambda: newest_update(tmp_path / "killed") == N_UPDATES, ranks)
        time.sleep(rng.uniform(0, 4 * update_s))
        ranks.kill()
    train_on(n_processes, config(), tmp_path / "killed")
    assert_same_run(tmp_path / "killed", tmp_path / "whole")
    assert_only_what_belongs(tmp_path / "killed")
