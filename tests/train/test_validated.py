"""Which of the weights at the last validations stay: those that the run, or a start from any checkpoint, averages."""

from __future__ import annotations

from pathlib import Path

import pytest

from accel_tx.train import validated


def keep(run_dir: Path, *updates: int) -> None:
    for update in updates:
        folder = validated.folder_of(run_dir, update)
        folder.mkdir(parents=True)
        (folder / "model.safetensors").touch()


def test_the_last_ones_up_to_an_update_oldest_first() -> None:
    assert validated.newest([40, 10, 30, 20], 2, at=30) == [20, 30]
    assert validated.newest([40, 10], 5, at=30) == [10]


@pytest.mark.parametrize("name", ["update_00000030", ".writing_update_00000030"])
def test_what_a_start_from_a_checkpoint_needs_stays_also_while_that_is_written(name: str, tmp_path: Path) -> None:
    keep(tmp_path, 10, 20, 30, 40, 50, 60, 70)
    (tmp_path / "checkpoints" / name).mkdir(parents=True)
    validated.rotate(tmp_path, 2, at=60)
    assert validated.updates_kept(tmp_path) == [20, 30, 50, 60, 70]  # one that is ahead of the run is not looked at
    (tmp_path / "checkpoints" / name).rmdir()
    validated.rotate(tmp_path, 2, at=70)
    assert validated.updates_kept(tmp_path) == [60, 70]


def test_later_ones_are_forgotten_and_half_ones_do_not_count(tmp_path: Path) -> None:
    keep(tmp_path, 10, 20, 30)
    validated.folder_of(tmp_path, 5).mkdir()
    validated.forget_later(tmp_path, 20)
    assert validated.updates_kept(tmp_path) == [10, 20]
    assert validated.updates_kept(tmp_path / "nowhere") == []
