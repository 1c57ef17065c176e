"""starts.jsonl has a line for each start that trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from accel_tx.config import Config
from accel_tx.train.loop import train
from accel_tx.train.run_history import read_run
from accel_tx.train.starts import write_start


def test_each_start_that_trains_tells_where(tmp_path: Path, tiny_config: Callable[..., Config]) -> None:
    short = {"max_updates": 4, "log_every_updates": 1, "save_every_updates": 2}
    run_dir = tmp_path / "run"
    train(tiny_config(train={**short, "stop_at_update": 2}), run_dir)
    for _ in range(2):
        train(tiny_config(train=short), run_dir)
    run = read_run(run_dir)
    assert [start["update"] for start in run.starts] == [0, 2]
    first = run.starts[0]
    assert (first["n_updates"], first["device"], first["n_processes"], first["cpu_threads"]) == (4, "cpu", 1, 1)
    assert (first["precision"], first["torch"]) == ("no", torch.__version__)
    assert first["n_parameters"] > 1_000
    assert [line["update"] for line in run.training] == [1, 2, 3, 4]
    assert [line["update"] for line in run.validations] == [4]
    assert run.is_complete
    assert [len(samples) for samples in run.samples.values()] == [3]


def test_a_line_that_cannot_be_written_is_said_and_stops_nothing(tmp_path: Path) -> None:
    failed = write_start(tmp_path / "none", {"update": 0})
    assert failed is not None
    assert "starts.jsonl: cannot be written (No such file or directory)" in failed
