"""A disk that fills up during training costs lines on the terminal, never what is there already."""

from __future__ import annotations

import errno
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from accel_tx.config import Config, UserError
from accel_tx.train import checkpoint
from accel_tx.train.loop import Run, train
from tests.conftest import SmallDisk

SMALL: dict[str, Any] = {
    "data": {"phrasebook_valid_pairs": 3},
    "train": {"max_updates": 8, "max_tokens": 96, "save_every_updates": 2, "log_every_updates": 1},
    "validation": {"every_updates": 2, "best_metric": "val_loss"},
}


@pytest.fixture
def disk(small_disk: SmallDisk | None) -> Iterator[SmallDisk]:
    if small_disk is None:
        pytest.skip("a tmpfs cannot be mounted here")
    yield small_disk
    for path in small_disk.path.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def at_updates(monkeypatch: pytest.MonkeyPatch, actions: dict[int, Callable[[], None]]) -> None:
    """Do something before the given updates (0-based), when the checkpoint before is written."""
    real = Run.train_update

    def train_update(run: Run, *arguments: Any) -> Any:
        if run.state.update in actions:
            run.writer.join()
            actions[run.state.update]()
        return real(run, *arguments)

    monkeypatch.setattr(Run, "train_update", train_update)


def lines_of(run_dir: Path) -> list[tuple[int, bool]]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [(line["update"], "val_loss" in line) for line in lines]


def test_the_run_lives_through_a_full_disk_and_ends_as_if_it_had_not_been(
    disk: SmallDisk,
    tiny_config: Callable[..., Config],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    config, run_dir = tiny_config(**SMALL), disk.path / "run"
    train(config, tmp_path / "whole")
    seen: dict[str, Any] = {}

    def look_and_make_room() -> None:
        seen["found"], seen["passed_over"] = checkpoint.newest_valid(run_dir)
        seen["best"] = json.loads((run_dir / "best" / "scores.json").read_text())["update"]
        seen["names"] = {path.name for path in (run_dir / "checkpoints").iterdir()}
        disk.make_room()

    at_updates(monkeypatch, {3: disk.fill, 6: look_and_make_room})
    capfd.readouterr()
    train(config, run_dir)
    out, err = capfd.readouterr()
    assert "Traceback" not in out + err
    assert seen == {
        "found": checkpoint.checkpoint_dir(run_dir, 2),
        "passed_over": [],
        "best": 2,
        "names": {"latest", "update_00000002"},
    }
    for update in (4, 6):
        assert f"checkpoint of update {update} not saved: No space left on device (needs 0." in out
    assert "0.0 MB free in" in out
    assert "the training goes on, and the next save is tried again" in out
    assert "weights not saved in" in out
    assert checkpoint.newest_valid(run_dir) == (checkpoint.checkpoint_dir(run_dir, 8), [])
    assert lines_of(run_dir) == lines_of(tmp_path / "whole")
    for name in ("best", "final"):
        written, expected = ((d / name / "model.safetensors").read_bytes() for d in (run_dir, tmp_path / "whole"))
        assert written == expected


def test_a_last_checkpoint_that_cannot_be_written_ends_with_a_line_and_the_next_start_is_exact(
    disk: SmallDisk, tiny_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run_dir = tiny_config(**SMALL), disk.path / "run"
    train(config, tmp_path / "whole")
    with monkeypatch.context() as patch:
        at_updates(patch, {7: disk.fill})
        with pytest.raises(
            UserError,
            # Whether the last line of metrics still fits hangs on what its block holds.
            match=r"^checkpoint of update 8 not saved: No space left on device [^;]*; "
            r"([^;]*metrics\.jsonl: 1 line\(s\) could not be written; )?make room and give the same command again$",
        ):
            train(config, run_dir)
    assert not (run_dir / "final").exists()
    assert checkpoint.newest_valid(run_dir) == (checkpoint.checkpoint_dir(run_dir, 6), [])
    disk.make_room()
    train(config, run_dir)
    assert lines_of(run_dir) == lines_of(tmp_path / "whole")
    whole, after = ((d / "final" / "model.safetensors").read_bytes() for d in (tmp_path / "whole", run_dir))
    assert after == whole


def test_a_full_folder_for_temporary_files_costs_no_validation(
    tiny_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    at_updates(monkeypatch, {3: lambda: monkeypatch.setattr(tempfile, "mkdtemp", full)})
    train(tiny_config(**SMALL), tmp_path / "run")
    assert [update for update, is_validation in lines_of(tmp_path / "run") if is_validation] == [2, 4, 6, 8]
