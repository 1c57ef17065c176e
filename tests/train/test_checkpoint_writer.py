"""The thread that writes checkpoints: waiting for it, and what fails in it or before it."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR

from accel_tx.config import RunError
from accel_tx.train import checkpoint_writer
from accel_tx.train.checkpoint_content import Content, Parts
from accel_tx.train.checkpoint_writer import CheckpointWriter, save_weights
from accel_tx.train.shortage import IN_UPDATES, shortage_told
from accel_tx.train.state import TrainState
from tests.train.test_checkpoint_files import make_checkpoint, updates_left

EMPTY = Content({}, {"state": {}}, {}, None)
STATE = TrainState("abc", {}, 100, update=4)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(checkpoint_writer, "copy_content", lambda parts: EMPTY)
    return []


def start(writer: CheckpointWriter) -> None:
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.Adam(model.parameters())
    writer.start(Parts(model, optimizer, LambdaLR(optimizer, float), None), STATE)


def test_the_write_is_waited_for_after_a_ctrl_c_during_the_wait(
    said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, ended = threading.Event(), threading.Event()

    def write(*_: object) -> None:
        release.wait(20)
        ended.set()

    monkeypatch.setattr(checkpoint_writer, "write_checkpoint", write)
    writer = CheckpointWriter(tmp_path, 2, 2, said.append)
    start(writer)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            writer.join()
    finally:
        signal.signal(signal.SIGALRM, before)
    threading.Timer(0.3, release.set).start()
    began_at_s = time.monotonic()
    writer.join()
    assert ended.is_set(), f"waited {time.monotonic() - began_at_s:.2f} s only"


@pytest.mark.parametrize(
    ("error", "text"),
    [(MemoryError(), "MemoryError"), (RuntimeError("can't allocate memory"), "can't allocate memory")],
)
def test_a_copy_that_finds_no_memory_costs_the_save_only(
    error: Exception, text: str, said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Parts) -> Content:
        raise error

    make_checkpoint(tmp_path, 2)
    writer = CheckpointWriter(tmp_path, 2, 2, said.append)
    monkeypatch.setattr(checkpoint_writer, "copy_content", fail)
    start(writer)
    failed = writer.wait()
    assert failed is not None
    assert failed.startswith(f"checkpoint of update 4 not saved: {text} (")
    assert said == [f"{failed}; the training goes on, and the next save is tried again"]
    assert updates_left(tmp_path) == [2]


def test_a_copy_in_which_other_processes_help_ends_the_run_where_it_fails(
    said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Parts) -> Content:
        raise MemoryError

    writer = CheckpointWriter(tmp_path, 2, 2, said.append)
    monkeypatch.setattr(checkpoint_writer, "copy_content", fail)
    monkeypatch.setattr(checkpoint_writer, "is_sharded", lambda _: True)
    with pytest.raises(RunError, match=r"^checkpoint of update 4 not saved: .*; give the same command again"):
        start(writer)
    assert writer.wait() is None
    assert said == []


def test_weights_whose_writing_is_interrupted_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint_writer, "sha256_of", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_weights({"a": torch.zeros(3)}, tmp_path / "average", {})
    assert not list(tmp_path.iterdir())


def test_a_run_error_is_no_shortage_of_memory_outside_of_the_copy() -> None:
    with pytest.raises(RunError, match=r"^checkpoint not saved: can't allocate memory$"), shortage_told(IN_UPDATES):
        raise RunError("checkpoint not saved: can't allocate memory")


@pytest.mark.parametrize("where", ["write_content", "write_checkpoint"])
def test_a_defect_in_the_write_is_told_at_the_end_and_raised_nowhere(
    where: str, said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise KeyError("weights")

    monkeypatch.setattr(checkpoint_writer, where, fail)
    writer = CheckpointWriter(tmp_path, 2, 2, said.append)
    start(writer)
    start(writer)
    failed = writer.wait()
    assert failed is not None
    assert failed.startswith("checkpoint of update 4 not saved: 'weights' (")
    assert not list(tmp_path.rglob(".writing_*"))
