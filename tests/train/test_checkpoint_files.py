"""Finding, replacing and removing checkpoints where the disk misbehaves or a crash came between; no training."""

from __future__ import annotations

import errno
import json
import os
from functools import partial
from pathlib import Path

import pytest

from accel_tx.train import checkpoint, checkpoint_removal, checkpoint_table, copied_run, file_system
from accel_tx.train.state import TrainState
from tests.behaviour.checkpoint_fault_rows import make_manifest
from tests.run_folder import bytes_of


def make_checkpoint(run_dir: Path, update: int, best_update: int | None = None) -> Path:
    """A checkpoint that is whole as far as its manifest goes."""
    final = checkpoint.checkpoint_dir(run_dir, update)
    beside = final.with_name(f".writing_{final.name}")
    beside.mkdir(parents=True)
    for name in checkpoint.NEEDED - {checkpoint.STATE}:
        (beside / name).write_text(f"{name} of {update}")
    checkpoint.seal(beside, final, TrainState("abc", {}, 100, update=update, best_update=best_update))
    return final


def updates_left(run_dir: Path) -> list[int]:
    return [checkpoint.update_of(path) for path in checkpoint.checkpoint_dirs(run_dir)]


@pytest.mark.parametrize("broken", ["is_file", "open"])
def test_a_checkpoint_that_cannot_be_read_leaves_the_one_before(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, newest = make_checkpoint(tmp_path, 2), make_checkpoint(tmp_path, 4)
    real = getattr(Path, broken)

    def fail(path: Path, *arguments: object, **named: object) -> object:
        if path == newest / checkpoint.OPTIMIZER:
            raise OSError(errno.EIO, "Input/output error")
        return real(path, *arguments, **named)

    monkeypatch.setattr(Path, broken, fail)
    fault = f"{checkpoint.OPTIMIZER} cannot be read (Input/output error)"
    assert checkpoint.newest_valid(tmp_path) == (before, [f"{newest.name} passed over: {fault}"])


def test_a_whole_checkpoint_that_a_crash_left_aside_counts_before_it_is_put_back(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, 2)
    aside = folder.rename(folder.with_name(f".removing_{folder.name}"))
    assert checkpoint.has_checkpoint(tmp_path)
    assert aside.is_dir()
    (aside / checkpoint.OPTIMIZER).unlink()
    assert not checkpoint.has_checkpoint(tmp_path)
    checkpoint_removal.tidy(tmp_path)
    assert updates_left(tmp_path) == []
    assert not aside.exists()


@pytest.mark.parametrize("name", ["update_00000002", "update_00000006", ".removing_update_00000002"])
@pytest.mark.parametrize("part", ["field", "file"])
def test_a_checkpoint_of_a_newer_version_is_refused_and_never_removed(name: str, part: str, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, int(name[-8:])).rename(tmp_path / "checkpoints" / name)
    state = folder / checkpoint.STATE
    if part == "field":
        state.write_text(json.dumps({**json.loads(state.read_text()), "color": "red"}))
    else:
        (folder / "color.bin").write_text("red")
    make_manifest(folder)
    for update in (3, 4, 5):
        make_checkpoint(tmp_path, update)
    (tmp_path / "config.yaml").write_text("train: {save_every_updates: 1}\n")
    before = bytes_of(tmp_path)
    newer = rf"{name}: was written by a newer version of accel_tx \({part} color[^)]*\); update it; nothing is touched"
    with pytest.raises(checkpoint.NewerVersionError, match=newer):
        checkpoint.refuse_newer(tmp_path)
    with pytest.raises(checkpoint.NewerVersionError, match=newer):
        checkpoint_table.prune(tmp_path, 1)
    is_aside = name.startswith(".")
    rotate = partial(checkpoint_removal.rotate, keep=1, every=1, state=TrainState("abc", {}, 100, update=9))
    with pytest.raises(checkpoint.NewerVersionError, match=newer):
        (checkpoint_removal.tidy if is_aside else rotate)(tmp_path)
    with pytest.raises(checkpoint.NewerVersionError, match=newer):
        copied_run.copy_run(tmp_path / "none", tmp_path)
    assert bytes_of(tmp_path) == before
    listed = [entry.fault for entry in checkpoint_table.list_entries(tmp_path, verify=False)]
    assert sum("newer version" in (fault or "") for fault in listed) == (not is_aside)
    # Where the hash does not fit, it is damage.
    state.write_text(state.read_text().replace("abc", "abd"))
    checkpoint.refuse_newer(tmp_path)


def test_what_cannot_be_replaced_keeps_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, beside = tmp_path / "best", tmp_path / ".writing_best"
    for path in (folder, beside):
        path.mkdir()
        (path / "x").write_text(path.name)
    real = Path.rename

    def fail(path: Path, target: Path) -> Path:
        if path == beside:
            raise OSError(errno.EACCES, "Permission denied")
        return real(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="Permission denied"):
        file_system.replace_folder(beside, folder)
    assert (folder / "x").read_text() == "best"
    assert not (tmp_path / ".removing_best").exists()


@pytest.mark.parametrize(("code", "is_saved"), [(errno.EINVAL, True), (errno.ENOTSUP, True), (errno.EIO, False)])
def test_a_file_system_that_cannot_sync_folders_can_hold_checkpoints(
    code: int, is_saved: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def fail(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(code, os.strerror(code))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fail)
    if is_saved:
        assert checkpoint.find_fault(make_checkpoint(tmp_path, 2)) is None
    else:
        with pytest.raises(OSError, match=os.strerror(code)):
            make_checkpoint(tmp_path, 2)


def test_rotation_and_pruning_keep_the_newest_the_best_and_the_one_for_a_rollback() -> None:
    folders = [checkpoint.checkpoint_dir(Path("run"), update) for update in (13, 12, 11, 10, 6, 5)]
    kept = checkpoint_removal.to_keep(folders, keep=1, every=5, best_update=6)
    assert sorted(map(checkpoint.update_of, kept)) == [6, 10, 13]
    assert checkpoint_removal.to_keep([], keep=1, every=5, best_update=None) == set()


def test_a_start_from_any_of_the_newest_finds_a_checkpoint_for_a_rollback() -> None:
    folders = [checkpoint.checkpoint_dir(Path("run"), update) for update in (150, 110, 100, 50)]
    for keep, kept in ((1, [150]), (2, [150, 110, 100]), (3, [150, 110, 100]), (9, [150, 110, 100, 50])):
        found = checkpoint_removal.to_keep(folders, keep, every=50, best_update=None)
        assert sorted(map(checkpoint.update_of, found), reverse=True) == kept


def test_a_damaged_checkpoint_takes_no_good_ones_place(tmp_path: Path) -> None:
    for update in (6, 8, 9, 10):
        make_checkpoint(tmp_path, update)
    state = TrainState("abc", {}, 100, update=10)
    changed = checkpoint.checkpoint_dir(tmp_path, 9) / checkpoint.OPTIMIZER
    changed.write_text(changed.read_text().upper())
    checkpoint_removal.rotate(tmp_path, 2, 100, state, passed_over={"update_00000009"})
    assert updates_left(tmp_path) == [10, 8]
    make_checkpoint(tmp_path, 9)
    (checkpoint.checkpoint_dir(tmp_path, 9) / checkpoint.OPTIMIZER).unlink()
    checkpoint_removal.rotate(tmp_path, 2, 100, state)
    assert updates_left(tmp_path) == [10, 8]
