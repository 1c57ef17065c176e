"""The fault table: what a start makes of a damaged run folder. It is generated here and stands beside this file.

`WRITE_FAULT_TABLE=1 python -m pytest tests/behaviour/test_checkpoint_faults.py` writes it anew.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from accel_tx.config import Config, TrainConfig, UserError, build_config
from accel_tx.data.dataset import prepare_data
from accel_tx.train import agreement, checkpoint, device, loop, resume
from accel_tx.train.agreement import run_dir_locked
from accel_tx.train.checkpoint_content import Content, read_content
from accel_tx.train.checkpoint_writer import write_checkpoint
from accel_tx.train.loop import Run, check_run_dir, train
from accel_tx.train.run_lock import refuse_if_held
from tests.behaviour.checkpoint_fault_rows import BEFORE, FOLDER_ROWS, LOADED, NEWEST, Malice, Place, file_rows
from tests.conftest import REPOSITORY, TINY, SmallDisk

TABLE = Path(__file__).with_name("checkpoint_faults.md")
ROWS = {**FOLDER_ROWS, **file_rows()}
LOCK_HOLDER = """
import sys, time
from pathlib import Path
from accel_tx.train.run_lock import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""
DISK_ROWS = {
    "another process writes the run": (
        "refused: RUN: process PID on HOST, started TIME, is writing this run; wait for it or end it, or give another"
    ),
    "a read-only file system": "refused: RUN: cannot be written (Read-only file system)",
    "a full disk at the start": "refused: RUN: cannot be written: No space left on device (0.0 MB free in RUN)",
    "a full disk during the save of update 5": (
        f"the save is given up (checkpoint of update 5 not saved: No space left on device (N MB needed, N MB free)); "
        f"{LOADED}"
    ),
}


def config_of(cache_dir: Path, **train_fields: object) -> Config:
    small = {
        "data": {**TINY["data"], "phrasebook_valid_pairs": 3, "cache_dir": str(cache_dir)},
        "validation": {"every_updates": 2},
        "train": {**TINY["train"], "max_updates": 8, "max_tokens": 96, "save_every_updates": 2, "log_every_updates": 1},
    }
    small["train"].update({"ema_decay": 0.9, **train_fields})
    return build_config({**TINY, **small})


@pytest.fixture(scope="module")
def config(cache_dir: Path) -> Iterator[Config]:
    """A run with a gradient scaler and a running average, so that every file that a checkpoint may hold is there."""

    def start(_: TrainConfig) -> Accelerator:
        accelerator = Accelerator(cpu=True, mixed_precision="fp16")
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
        accelerator.native_amp = True
        return accelerator

    AcceleratorState._reset_state(True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "start_accelerator", start)
        yield config_of(cache_dir)
    AcceleratorState._reset_state(True)


@pytest.fixture(scope="module")
def runs(config: Config, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs that differ in their seed, each with checkpoints after 2 and 4 updates."""
    folder = tmp_path_factory.mktemp("intact")
    for seed, name in ((1, "run"), (2, "other")):
        train(config_of(cache_dir, seed=seed, stop_at_update=4), folder / name)
    return folder


@pytest.fixture(scope="module")
def start(config: Config) -> Callable[[Path], str]:
    """A function: what a start makes of a run folder, through the functions that `train` calls, in words."""
    data = prepare_data(config)

    def choose(run_dir: Path, capture: Callable[[], str]) -> str:
        try:
            refuse_if_held(run_dir)
            check_run_dir(config, run_dir, "auto")
            accelerator = device.start_accelerator(config.train)
            with run_dir_locked(accelerator, run_dir):
                run = Run(config, run_dir, data, accelerator)
                run.resume()
                run.log.close()
        except UserError as error:
            capture()
            return f"refused: {error}"
        lines = [line for line in capture().splitlines() if "passed over" in line]
        assert run.scheduler.scheduler.last_epoch == run.state.update
        return "; ".join([f"`update_{run.state.update:08d}` is loaded", *lines])

    return choose  # type: ignore[return-value]


def in_words(outcome: str, run_dir: Path) -> str:
    """The same on every machine."""
    outcome = outcome.replace(str(run_dir), "RUN")
    outcome = re.sub(r"process \d+ on \S+, started [-\d]+ [:\d]+,", "process PID on HOST, started TIME,", outcome)
    return re.sub(r"this start has [0-9a-f]{12}", "this start has another", outcome)


@pytest.fixture(scope="module")
def outcomes(
    runs: Path, start: Callable[..., str], tmp_path_factory: pytest.TempPathFactory, small_disk: SmallDisk | None
) -> dict[str, str]:
    """The outcome of every row."""
    capture = pytest.MonkeyPatch()
    printed: list[str] = []
    for module in (loop, resume, agreement):
        capture.setattr(module, "say", printed.append)

    def read() -> str:
        text = "\n".join(printed)
        printed.clear()
        return text

    found = {}
    for i, (name, (fault, _)) in enumerate(ROWS.items()):
        folder = tmp_path_factory.mktemp(f"row{i}")
        place = Place(folder / "run", runs / "other", folder / "code_has_run")
        shutil.copytree(runs / "run", place.run)
        fault(place)
        found[name] = in_words(start(place.run, read), place.run)
        assert not place.marker.exists(), name
        shutil.rmtree(folder)
    found.update(_locked_row(runs, start, read, tmp_path_factory.mktemp("locked") / "run"))
    if small_disk is not None:
        found.update(_disk_rows(runs, start, read, small_disk))
    capture.undo()
    return found


def _locked_row(runs: Path, start: Callable[..., str], read: Callable[[], str], run_dir: Path) -> dict[str, str]:
    shutil.copytree(runs / "run", run_dir)
    holder = subprocess.Popen(
        [sys.executable, "-c", LOCK_HOLDER, str(run_dir)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    with holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
        outcome = in_words(start(run_dir, read), run_dir)
        assert {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()} == before
        assert in_words(start(run_dir, read), run_dir) == outcome
        holder.kill()
    assert start(run_dir, read) == LOADED
    return {"another process writes the run": outcome}


def _disk_rows(runs: Path, start: Callable[..., str], read: Callable[[], str], disk: SmallDisk) -> dict[str, str]:
    run_dir = disk.path / "run"
    shutil.copytree(runs / "run", run_dir)
    disk.remount("ro")
    read_only = in_words(start(run_dir, read), run_dir)
    disk.remount("rw")
    disk.fill()
    full_at_start = in_words(start(run_dir, read), run_dir)
    state = checkpoint.load_state(run_dir / "checkpoints" / NEWEST)
    parts_of = runs.parent / "parts"
    shutil.copytree(runs / "run", parts_of, dirs_exist_ok=True)
    state.update = 5
    content = _content(parts_of)
    failed = write_checkpoint(content, state, run_dir)
    assert failed is not None
    assert sorted(path.name for path in (run_dir / "checkpoints").iterdir()) == ["latest", BEFORE, NEWEST]
    # where the space is not known beforehand, as with quotas, the writing itself fails
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 0, 10**12))  # type: ignore[attr-defined]
        assert write_checkpoint(content, state, run_dir) is not None
    assert sorted(path.name for path in (run_dir / "checkpoints").iterdir()) == ["latest", BEFORE, NEWEST]
    disk.make_room()
    failed = re.sub(r"\(needs [\d.,]+ MB, [\d.,]+ MB free in .*\)", "(N MB needed, N MB free)", failed)
    return {
        "a read-only file system": read_only,
        "a full disk at the start": full_at_start,
        "a full disk during the save of update 5": f"the save is given up ({failed}); {start(run_dir, read)}",
    }


def _content(run_dir: Path) -> Content:
    folder = run_dir / "checkpoints" / NEWEST
    return read_content(folder, checkpoint.load_state(folder))


@pytest.mark.parametrize("row", ROWS)
def test_a_start_takes_the_newest_checkpoint_that_is_whole_or_refuses(row: str, outcomes: dict[str, str]) -> None:
    assert outcomes[row].startswith(ROWS[row][1])


@pytest.mark.parametrize("row", DISK_ROWS)
def test_a_second_writer_and_a_disk_that_takes_nothing_harm_nothing(row: str, outcomes: dict[str, str]) -> None:
    if row not in outcomes:
        pytest.skip("a tmpfs cannot be mounted here")
    assert outcomes[row].startswith(DISK_ROWS[row])


def test_the_table_in_the_docs_is_the_one_found_here(outcomes: dict[str, str]) -> None:
    lines = {name: f"| {name} | {outcome.replace('|', chr(92) + '|')} |" for name, outcome in outcomes.items()}
    table = "\n".join(
        [
            "# What a start makes of a damaged run folder",
            "",
            "Generated by `tests/behaviour/test_checkpoint_faults.py`, which fails where it no longer holds. The run",
            f"has checkpoints after 2 and 4 updates (`{BEFORE}`, `{NEWEST}`). No malicious pickle ever ran its code.",
            "",
            "| fault | what happens |",
            "|---|---|",
            *lines.values(),
            "",
        ]
    )
    if os.environ.get("WRITE_FAULT_TABLE"):
        TABLE.write_text(table, encoding="utf-8")
    assert len(outcomes) >= 25
    written = TABLE.read_text(encoding="utf-8").splitlines()
    if set(DISK_ROWS) <= set(outcomes):
        assert written == table.splitlines()
    else:
        assert set(table.splitlines()) <= set(written)


def test_the_malicious_pickle_would_run_its_code_if_it_were_let(tmp_path: Path) -> None:
    torch.save({"state": Malice(tmp_path / "marker")}, tmp_path / "optimizer.bin")
    torch.load(tmp_path / "optimizer.bin", weights_only=False)
    assert (tmp_path / "marker").is_dir()
