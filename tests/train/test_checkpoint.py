"""What a damaged checkpoint is called, and which one is taken instead."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from accel_tx.config import Config, UserError, what_is_learned
from accel_tx.train import checkpoint, checkpoint_removal
from accel_tx.train.checkpoint_content import read_content
from accel_tx.train.checkpoint_identity import check_belongs
from accel_tx.train.checkpoint_writer import write_checkpoint
from accel_tx.train.loop import train
from accel_tx.train.state import TrainState, Window


@pytest.fixture
def run_dir(intact: Path, tiny_config: Callable[..., Config], tmp_path: Path) -> Path:
    """A copy of a run with checkpoints after 10 and 20 updates."""
    if not intact.exists():
        train(tiny_config(train={"stop_at_update": 20}), intact)
    shutil.copytree(intact, tmp_path / "run")
    return tmp_path / "run"


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


FAULTS: dict[str, Callable[[Path], object]] = {
    "a flipped bit": flip_bit,
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_damaged_file_is_found_and_the_checkpoint_before_is_taken(fault: str, run_dir: Path) -> None:
    newest, before = (checkpoint.checkpoint_dir(run_dir, update) for update in (20, 10))
    intact = run_dir / "intact"
    shutil.copytree(newest, intact)
    names = [path.name for path in newest.iterdir()]
    assert {"model.safetensors", "optimizer.bin", "scheduler.bin", "trainer_state.json", "manifest.json"} == set(names)
    for name in names:
        shutil.rmtree(newest)
        shutil.copytree(intact, newest)
        assert checkpoint.newest_valid(run_dir) == (newest, [])
        FAULTS[fault](newest / name)
        found, passed_over = checkpoint.newest_valid(run_dir)
        assert found == before
        assert len(passed_over) == 1
        assert name in passed_over[0]


def test_what_other_programs_leave_in_a_checkpoint_is_no_fault(run_dir: Path) -> None:
    newest = checkpoint.checkpoint_dir(run_dir, 20)
    for name in (".DS_Store", "notes.txt"):
        (newest / name).write_bytes(b"x")
    (newest / ".ipynb_checkpoints").mkdir()
    assert checkpoint.newest_valid(run_dir) == (newest, [])


@pytest.mark.parametrize("name", [*sorted(checkpoint.NEEDED), checkpoint.MANIFEST])
def test_a_checkpoint_that_cannot_be_read_is_neither_passed_over_nor_removed(
    run_dir: Path, name: str, tiny_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = checkpoint.checkpoint_dir(run_dir, 20)
    plain_open = Path.open

    def refuse(path: Path, *arguments: Any, **keywords: Any) -> Any:
        if path == newest / name:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return plain_open(path, *arguments, **keywords)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(PermissionError, match=name):
        checkpoint.newest_valid(run_dir)
    with pytest.raises(UserError, match=rf"{name}: cannot be used \(Permission denied\); "):
        train(tiny_config(), run_dir)
    assert checkpoint.checkpoint_dirs(run_dir)[0] == newest


def test_a_folder_of_checkpoints_that_cannot_be_listed_is_not_taken_for_an_empty_one(
    run_dir: Path, tiny_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (run_dir / "metrics.jsonl").read_bytes()
    plain_iterdir, plain_scandir = Path.iterdir, os.scandir

    def refuse(folder: Any) -> None:
        if Path(folder) == run_dir / "checkpoints":
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))

    def iterdir(folder: Path) -> Any:
        refuse(folder)
        return plain_iterdir(folder)

    def scandir(folder: Any = ".") -> Any:
        refuse(folder)
        return plain_scandir(folder)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UserError, match=r"/checkpoints: cannot be used \(Permission denied\); expected a folder that"):
        train(tiny_config(), run_dir)
    assert (run_dir / "metrics.jsonl").read_bytes() == before


def test_leftovers_of_a_crash_are_no_checkpoints(run_dir: Path) -> None:
    (run_dir / "checkpoints" / ".writing_update_00000030").mkdir()
    (run_dir / "checkpoints" / "update_later").mkdir()
    assert checkpoint.newest_valid(run_dir) == (checkpoint.checkpoint_dir(run_dir, 20), [])


def test_no_state_of_a_random_generator_is_kept(run_dir: Path) -> None:
    assert not list(run_dir.rglob("random_states*"))


def test_a_run_without_any_valid_checkpoint_is_not_started_over(
    run_dir: Path, tiny_config: Callable[..., Config]
) -> None:
    for update in (10, 20):
        (checkpoint.checkpoint_dir(run_dir, update) / "manifest.json").unlink()
    with pytest.raises(UserError, match="no checkpoint in it is valid"):
        train(tiny_config(), run_dir)


def test_train_state_survives_json() -> None:
    state = TrainState("abc", {"model.dropout": 0.1, "optim.betas": [0.9, 0.98]}, 100, window=Window(loss_sum=1.5))
    import dataclasses

    assert TrainState.from_dict(json.loads(json.dumps(dataclasses.asdict(state)))) == state


def test_a_damaged_newer_checkpoint_never_pushes_out_a_good_one(
    run_dir: Path, tiny_config: Callable[..., Config]
) -> None:
    flip_bit(checkpoint.checkpoint_dir(run_dir, 20) / "optimizer.bin")
    config = tiny_config(train={"stop_at_update": 12, "keep_checkpoints": 1})
    train(config, run_dir)
    assert checkpoint.newest_valid(run_dir)[0] == checkpoint.checkpoint_dir(run_dir, 12)


def test_results_without_a_checkpoint_are_not_overwritten(run_dir: Path, tiny_config: Callable[..., Config]) -> None:
    shutil.rmtree(run_dir / "checkpoints")
    before = (run_dir / "best" / "model.safetensors").read_bytes()
    for resume in ("auto", "never"):
        with pytest.raises(UserError, match="holds best of a run but no checkpoint"):
            train(tiny_config(), run_dir, resume=resume)  # type: ignore[arg-type]
    assert (run_dir / "best" / "model.safetensors").read_bytes() == before


def test_weights_that_a_crash_left_aside_come_back_and_leftovers_go(run_dir: Path) -> None:
    before = (run_dir / "best" / "model.safetensors").read_bytes()
    (run_dir / "best").rename(run_dir / ".removing_best")
    (run_dir / ".writing_best").mkdir()
    (run_dir / "checkpoints" / ".writing_update_00000030").mkdir()
    checkpoint_removal.tidy(run_dir)
    assert (run_dir / "best" / "model.safetensors").read_bytes() == before
    assert not list(run_dir.rglob(".*ing_*"))


def test_another_precision_in_effect_is_refused_before_anything_is_loaded(
    run_dir: Path, tiny_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    from accel_tx.train import device

    def start(_: object) -> Accelerator:
        AcceleratorState._reset_state(True)
        return Accelerator(cpu=True, mixed_precision="bf16")

    monkeypatch.setattr(device, "start_accelerator", start)
    try:
        with pytest.raises(UserError, match="precision in effect = no, this start has bf16"):
            train(tiny_config(), run_dir)
    finally:
        AcceleratorState._reset_state(True)


def test_a_run_begun_before_a_field_existed_goes_on_with_its_default_and_with_nothing_else(
    tiny_config: Callable[..., Config],
) -> None:
    """As after an update of this program."""
    now = {**what_is_learned(tiny_config()), "precision in effect": "no"}
    fresh = TrainState("data", now, 9)
    for missing in ("optim.schedule", "optim.betas", "model.attention_dropout"):
        saved = replace(fresh, settings={name: value for name, value in now.items() if name != missing})
        check_belongs(saved, fresh, Path("run"))
        changed = replace(fresh, settings={**now, missing: "another"})
        with pytest.raises(UserError, match=rf"was made with {missing} = .*, this start has another"):
            check_belongs(saved, changed, Path("run"))
    for needed in ("precision in effect", "train.max_updates"):
        saved = replace(fresh, settings={name: value for name, value in now.items() if name != needed})
        with pytest.raises(UserError, match=f"was made with {needed} = None"):
            check_belongs(saved, fresh, Path("run"))


def test_best_is_chosen_anew_when_another_metric_decides(run_dir: Path, tiny_config: Callable[..., Config]) -> None:
    train(tiny_config(validation={"best_metric": "val_loss"}), run_dir)
    found, _ = checkpoint.newest_valid(run_dir)
    assert found is not None
    state = checkpoint.load_state(found)
    assert (state.best_metric, state.best_update) == ("val_loss", 40)


def test_a_checkpoint_that_was_being_replaced_comes_back_if_it_is_whole(run_dir: Path) -> None:
    for update in (10, 20):
        path = checkpoint.checkpoint_dir(run_dir, update)
        path.rename(path.with_name(f".removing_{path.name}"))
    flip_bit(run_dir / "checkpoints" / ".removing_update_00000020" / "optimizer.bin")
    checkpoint_removal.tidy(run_dir)
    assert sorted(path.name for path in (run_dir / "checkpoints").iterdir()) == ["latest", "update_00000010"]
    assert checkpoint.newest_valid(run_dir) == (checkpoint.checkpoint_dir(run_dir, 10), [])


def test_a_checkpoint_of_the_same_update_is_replaced(run_dir: Path) -> None:
    folder = checkpoint.checkpoint_dir(run_dir, 20)
    state = checkpoint.load_state(folder)
    state.trained_s += 100.0
    assert write_checkpoint(read_content(folder, state), state, run_dir) is None
    assert checkpoint.newest_valid(run_dir) == (folder, [])
    assert checkpoint.load_state(folder) == state
    assert not list((run_dir / "checkpoints").glob(".*"))


def test_a_run_whose_only_checkpoint_a_crash_left_aside_goes_on(
    run_dir: Path, tiny_config: Callable[..., Config], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(checkpoint.checkpoint_dir(run_dir, 10))
    newest = checkpoint.checkpoint_dir(run_dir, 20)
    newest.rename(newest.with_name(f".removing_{newest.name}"))
    train(tiny_config(train={"stop_at_update": 21}), run_dir, resume="require")
    assert f"going on from {newest}" in capsys.readouterr().out


def test_a_run_that_passed_over_a_damaged_checkpoint_keeps_the_good_one_before_it(
    run_dir: Path, tiny_config: Callable[..., Config]
) -> None:
    flip_bit(checkpoint.checkpoint_dir(run_dir, 20) / "optimizer.bin")
    train(tiny_config(train={"stop_at_update": 21, "keep_checkpoints": 2, "save_every_updates": 21}), run_dir)
    kept = [checkpoint.update_of(path) for path in checkpoint.checkpoint_dirs(run_dir)]
    assert kept == [21, 10]
