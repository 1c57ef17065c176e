"""A copy of a run folder can be gone on from whenever the copying ends."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from accel_tx.config import Config, dump_yaml
from accel_tx.train import checkpoint, checkpoint_removal, copied_run, file_system
from accel_tx.train.loop import train
from accel_tx.train.run_dir import check_run_dir
from tests.train.test_checkpoint_files import make_checkpoint, updates_left

MakeConfig = Callable[..., Config]
SMALL: dict[str, Any] = {
    "data": {"phrasebook_valid_pairs": 3},
    "train": {"max_updates": 6, "max_tokens": 96, "save_every_updates": 2, "log_every_updates": 1},
    "validation": {"every_updates": 2, "average_last": 2},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("made") / "run"


@pytest.fixture
def run_dir(made: Path, tiny_config: MakeConfig, tmp_path: Path) -> Path:
    """A copy of a run with two checkpoints, `best/`, `final/` and `validated/`."""
    if not made.exists():
        train(tiny_config(**SMALL), made)
    shutil.copytree(made, tmp_path / "run")
    return tmp_path / "run"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_copy_holds_what_the_run_holds_and_nothing_else(run_dir: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    for name in ("STOP", "PREEMPTED", ".lock"):
        (run_dir / name).write_text("of this machine")
    copied_run.copy_run(run_dir, copy)
    for name in ("STOP", "PREEMPTED", ".lock"):
        (run_dir / name).unlink()
    assert contents(copy) == contents(run_dir)
    for folder in (run_dir / "best", checkpoint.checkpoint_dir(run_dir, 4)):
        (folder / ".ipynb_checkpoints").mkdir()
        (folder / ".DS_Store").write_text("of a desktop that looked")
        copied_run.copy_run(run_dir, copy)
        shutil.rmtree(folder / ".ipynb_checkpoints")
        (folder / ".DS_Store").unlink()
    assert contents(copy) == contents(run_dir)
    (copy / "tensorboard" / "events.out.tfevents.1.of.another.start").write_text("")
    shutil.rmtree(checkpoint.checkpoint_dir(run_dir, 4))
    copied_run.copy_run(run_dir, copy)
    assert contents(copy) == contents(run_dir)


class CutOff(Exception):  # noqa: N818 - a planted crash
    pass


def cut_off_after(n_files: int) -> Callable[[Path, Path], None]:
    """In place of `shutil.copyfile`: the file after so many is copied in part, and then the process is gone."""
    left = [n_files]

    def copyfile(source: Path, target: Path) -> None:
        left[0] -= 1
        content = source.read_bytes()
        target.write_bytes(content if left[0] >= 0 else content[: len(content) // 2])
        if left[0] < 0:
            raise CutOff

    return copyfile


@pytest.mark.parametrize("begins_with", ["nothing", "an older copy"])
def test_a_copy_that_was_cut_off_anywhere_can_be_gone_on_from(
    begins_with: str, run_dir: Path, tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older, copy = tmp_path / "older", tmp_path / "copy"
    if begins_with == "an older copy":
        copied_run.copy_run(run_dir, older)
        shutil.rmtree(checkpoint.checkpoint_dir(older, 6))
        (older / "metrics.jsonl").write_text("")
        (older / "best" / "scores.json").write_text("{}")
    monkeypatch.setattr(file_system, "sync", lambda path: None)
    for n_files in count():
        shutil.rmtree(copy, ignore_errors=True)
        if older.exists():
            shutil.copytree(older, copy)
        try:
            with monkeypatch.context() as patch:
                patch.setattr(shutil, "copyfile", cut_off_after(n_files))
                copied_run.copy_run(run_dir, copy)
        except CutOff:
            check_run_dir(tiny_config(**SMALL), copy, "auto")
            found, passed_over = checkpoint.newest_valid(copy)
            assert passed_over == []
            assert found is not None or not older.exists()
            if found is not None and found.name == "update_00000006":
                # What it says of the best weights, and of the curves, is there.
                assert contents(copy / "best") == contents(run_dir / "best")
                assert contents(copy / "validated").items() >= contents(run_dir / "validated").items()
                assert (copy / "metrics.jsonl").read_bytes() == (run_dir / "metrics.jsonl").read_bytes()
        else:
            break
    assert n_files >= 4
    assert contents(copy) == contents(run_dir)


def test_what_is_replaced_or_rotated_away_meanwhile_is_never_copied_in_part(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy, real = tmp_path / "copy", shutil.copyfile

    def meanwhile(source: Path, target: Path, folder: Path, do: Callable[[], object], **options: Any) -> None:
        real(source, target, **options)
        if Path(source).parent == folder and folder.exists():
            do()

    newest = checkpoint.checkpoint_dir(run_dir, 6)
    with monkeypatch.context() as patch:
        gone = partial(meanwhile, folder=newest, do=lambda: shutil.rmtree(newest))
        patch.setattr(shutil, "copyfile", gone)
        with pytest.raises(copied_run.Changing, match=newest.name):
            copied_run.copy_run(run_dir, copy)
    assert copied_run.newest_update(copy) == 4
    (run_dir / "checkpoints" / "latest").write_text("update_00000004\n")
    assert contents(copy) == contents(run_dir)

    def replace_best() -> None:
        if not (tmp_path / "best before").exists():
            (run_dir / "best").rename(tmp_path / "best before")
            shutil.copytree(run_dir / "final", run_dir / "best")

    (copy / "best" / "scores.json").write_text("{}")
    before = contents(copy)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", partial(meanwhile, folder=run_dir / "best", do=replace_best))
        with pytest.raises(copied_run.Changing):
            copied_run.copy_run(run_dir, copy)
    assert contents(copy) == before


def make_weights(folder: Path, update: int) -> None:
    """A folder of weights as far as its names go, in place of the one before."""
    file_system.remove_tree(folder)
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_text(f"weights of {update}")
    (folder / "scores.json").write_text(f"scores of {update}")


@pytest.mark.parametrize("keep", [1, 2])
def test_the_newest_that_is_whole_stays_until_a_newer_one_is(
    keep: int, tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir, copy, config, real = tmp_path / "run", tmp_path / "copy", tiny_config(**SMALL), shutil.copyfile
    updates = count(1)

    def save() -> None:
        """Save as often as it takes to rotate everything away."""
        for update in [next(updates) for _ in range(keep)]:
            make_checkpoint(run_dir, update)
            make_weights(run_dir / "validated" / f"update_{update:08d}", update)
            for folder in checkpoint.checkpoint_dirs(run_dir)[keep:]:
                checkpoint_removal.remove(folder)
                checkpoint_removal.remove(run_dir / "validated" / folder.name)

    def meanwhile(source: Path, target: Path, **options: Any) -> None:
        real(source, target, **options)
        if Path(source).parent.parent.name == "checkpoints" and not saved:
            saved.append(True)
            save()

    make_weights(run_dir / "best", 1)
    (run_dir / "config.yaml").write_text(dump_yaml(config))
    save()
    copied_run.copy_run(run_dir, copy)
    assert contents(copy) == contents(run_dir)
    for _ in range(4):
        saved: list[bool] = []
        save()
        with monkeypatch.context() as patch, contextlib.suppress(copied_run.Changing):
            patch.setattr(shutil, "copyfile", meanwhile)
            copied_run.copy_run(run_dir, copy)
        assert saved
        check_run_dir(config, copy, "auto")
        newest, _ = checkpoint.newest_valid(copy)
        assert newest is not None
        assert (copy / "validated" / newest.name).is_dir()
        assert (copy / "checkpoints" / (copy / "checkpoints" / "latest").read_text().strip()).is_dir()
        assert len(updates_left(copy)) <= keep
    copied_run.copy_run(run_dir, copy)
    assert contents(copy) == contents(run_dir)


def test_best_that_is_replaced_all_the_time_keeps_no_checkpoint_out(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy, real, n = tmp_path / "copy", shutil.copyfile, count()

    def meanwhile(source: Path, target: Path, **options: Any) -> None:
        real(source, target, **options)
        if Path(source).parent == run_dir / "best":
            make_weights(run_dir / "best", next(n))

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", meanwhile)
        with pytest.raises(copied_run.Changing, match="best"):
            copied_run.copy_run(run_dir, copy)
    assert checkpoint.newest_valid(copy) == (checkpoint.checkpoint_dir(copy, 6), [])
    assert not (copy / "best").exists()
    copied_run.copy_run(run_dir, copy)
    assert contents(copy) == contents(run_dir)


def test_the_copy_never_takes_more_than_a_checkpoint_more_than_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir, copy, real, seen = tmp_path / "run", tmp_path / "copy", file_system.replace_folder, []

    def replace_folder(beside: Path, folder: Path, *arguments: Any) -> None:
        seen.append(len([*folder.parent.glob("*update_*")]))
        real(beside, folder, *arguments)

    run_dir.mkdir()
    (run_dir / "config.yaml").write_text("")
    monkeypatch.setattr(copied_run.file_system, "replace_folder", replace_folder)
    for updates in ((1, 2, 3), (4, 5, 6)):
        file_system.remove_tree(run_dir / "checkpoints")
        for update in updates:
            make_checkpoint(run_dir, update)
        seen.clear()
        copied_run.copy_run(run_dir, copy)
        assert updates_left(copy) == sorted(updates, reverse=True)
    assert max(seen) == 4


def test_a_damaged_checkpoint_does_not_replace_a_whole_one(run_dir: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copied_run.copy_run(run_dir, copy)
    whole = contents(copy)
    file = checkpoint.checkpoint_dir(run_dir, 6) / "optimizer.bin"
    file.write_bytes(file.read_bytes()[:-1])
    copied_run.copy_run(run_dir, copy)
    assert contents(copy) == whole
