"""`checkpoints` tells what a run has saved, and removes only what is not wanted."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from accel_tx.cli import main
from accel_tx.config import Config
from accel_tx.train import checkpoint, checkpoint_removal
from accel_tx.train.loop import train
from accel_tx.train.run_lock import locked
from tests.conftest import REPOSITORY
from tests.run_folder import assert_same_run

SMALL: dict[str, Any] = {
    "data": {"phrasebook_valid_pairs": 3},
    "train": {"max_updates": 8, "max_tokens": 96, "save_every_updates": 2, "log_every_updates": 1},
    "validation": {"every_updates": 4, "best_metric": "bleu"},
}


@pytest.fixture
def run_dir(intact: Path, tiny_config: Callable[..., Config], tmp_path: Path) -> Path:
    """A copy of a run with checkpoints after 2, 4, 6 and 8 updates; validation was best at `best`."""
    if not intact.exists():
        train(tiny_config(**{**SMALL, "train": {**SMALL["train"], "keep_checkpoints": 9}}), intact)
    shutil.copytree(intact, tmp_path / "run")
    return tmp_path / "run"


def listed(capsys: pytest.CaptureFixture[str], run_dir: Path, *options: str) -> dict[str, dict[str, Any]]:
    """The entries; the exit status says whether one is damaged."""
    capsys.readouterr()
    status: Any = 0
    try:
        main(["checkpoints", "--run_dir", str(run_dir), "--json", *options])
    except SystemExit as ended:
        status = ended.code
    printed = capsys.readouterr()
    entries = {entry["name"]: entry for entry in json.loads(printed.out)["entries"]}
    damaged = [name for name, entry in entries.items() if entry["fault"] is not None]
    assert status == bool(damaged)
    assert printed.err.rstrip().endswith(", ".join(damaged))
    return entries


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1]))


def test_every_folder_of_weights_is_listed_with_what_the_run_recorded(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = listed(capsys, run_dir, "--verify")
    names = [f"checkpoints/update_{update:08d}" for update in (8, 6, 4, 2)]
    assert list(entries) == [*names, "best", "final"]
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    for line in (line for line in lines if "loss" in line and line["update"] % 2 == 0):
        entry = entries[f"checkpoints/update_{line['update']:08d}"]
        assert (entry["update"], entry["loss"]) == (line["update"], line["loss"])
        assert entry["epoch"] == pytest.approx(line["epoch"])
        assert entry["size_bytes"] == sum(p.stat().st_size for p in (run_dir / entry["name"]).iterdir())
        assert entry["fault"] is None
    assert [name for name in entries if entries[name]["is_latest"]] == names[:1]
    assert [name for name in entries if entries[name]["is_resumed"]] == names[:1]
    assert entries["checkpoints/update_00000002"]["best"] is None
    assert entries["checkpoints/update_00000004"]["best"].endswith(" at 4")


def test_a_flipped_bit_is_found_with_verify_and_the_next_start_agrees(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flip(checkpoint.checkpoint_dir(run_dir, 8) / "optimizer.bin")
    cut(checkpoint.checkpoint_dir(run_dir, 6) / "scheduler.bin")
    cut(run_dir / "best" / "model.safetensors")
    flip(run_dir / "final" / "model.safetensors")
    quick, verified = listed(capsys, run_dir), listed(capsys, run_dir, "--verify")
    assert quick["checkpoints/update_00000008"]["fault"] is None
    assert verified["checkpoints/update_00000008"]["fault"] == "optimizer.bin is damaged"
    assert quick["final"]["fault"] is None
    assert verified["final"]["fault"] == "model.safetensors is damaged"
    for entries in (quick, verified):
        assert entries["checkpoints/update_00000006"]["fault"] == "scheduler.bin is damaged"
        assert entries["best"]["fault"] == "model.safetensors is cut off"
    taken, _ = checkpoint.newest_valid(run_dir)
    assert [name for name in verified if verified[name]["is_resumed"]] == [f"checkpoints/{taken.name}"]  # type: ignore[union-attr]


def test_prune_keeps_the_newest_valid_ones_and_the_best(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = checkpoint.load_state(checkpoint.checkpoint_dir(run_dir, 6))
    assert state.best_update == 4
    flip(checkpoint.checkpoint_dir(run_dir, 8) / "optimizer.bin")
    (run_dir / "checkpoints" / ".writing_update_00000010").mkdir()
    main(["checkpoints", "--run_dir", str(run_dir), "--prune", "1"])
    printed = capsys.readouterr().out
    for name in ("update_00000008", "update_00000002", ".writing_update_00000010"):
        assert f"removed {name}" in printed
    names = sorted(path.name for path in (run_dir / "checkpoints").iterdir())
    assert names == ["latest", "update_00000004", "update_00000006"]
    assert (run_dir / "checkpoints" / "latest").read_text() == "update_00000006\n"


def all_bytes(run_dir: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["checkpoints", *arguments])
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_prune_removes_nothing_while_the_run_is_written_or_where_nothing_is_valid(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = all_bytes(run_dir)
    with locked(run_dir):
        assert "is writing this run" in refused(capsys, "--run_dir", str(run_dir), "--prune", "1")
        main(["checkpoints", "--run_dir", str(run_dir)])
        assert "is writing this run" in capsys.readouterr().out
    assert "--prune is 0" in refused(capsys, "--run_dir", str(run_dir), "--prune", "0")
    assert "holds no run" in refused(capsys, "--run_dir", str(tmp_path), "--prune", "1")
    assert "no such folder" in refused(capsys, "--run_dir", str(tmp_path / "none"))
    assert all_bytes(run_dir) == before
    for path in checkpoint.checkpoint_dirs(run_dir):
        (path / "manifest.json").unlink()
    before = all_bytes(run_dir)
    assert "no checkpoint in it is valid" in refused(capsys, "--run_dir", str(run_dir), "--prune", "1")
    assert all_bytes(run_dir) == before


def test_it_answers_without_torch(run_dir: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "accel_tx", "checkpoints", "--run_dir", str(run_dir), "--verify"],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "accel_tx.train.checkpoint_table" in imported
    assert imported & {"torch", "accelerate", "datasets", "numpy"} == set()
    assert "update_00000008" in done.stdout
    assert "latest, resumed next" in " ".join(done.stdout.split())


def test_prune_keeps_what_a_rollback_needs(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = run_dir / "config.yaml"
    config.write_text(config.read_text().replace("save_every_updates: 2", "save_every_updates: 3"))
    main(["checkpoints", "--run_dir", str(run_dir), "--prune", "1"])
    assert "removed update_00000002" in capsys.readouterr().out
    names = sorted(path.name for path in (run_dir / "checkpoints").glob("update_*"))
    best = checkpoint.load_state(checkpoint.checkpoint_dir(run_dir, 8)).best_update
    assert names == [f"update_{update:08d}" for update in sorted({6, 8, best})]


def test_prune_keeps_of_the_validated_weights_those_that_a_start_still_averages(
    tiny_config: Callable[..., Config], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def config(stop_at_update: int | None = None) -> Config:
        train = {**SMALL["train"], "keep_checkpoints": 9, "stop_at_update": stop_at_update}
        validation = {**SMALL["validation"], "every_updates": 1, "best_metric": "val_loss", "average_last": 2}
        return tiny_config(**{**SMALL, "train": train, "validation": validation})

    def validated() -> list[int]:
        return sorted(int(path.name.removeprefix("update_")) for path in (run / "validated").iterdir())

    run, whole = tmp_path / "run", tmp_path / "whole"
    train(config(stop_at_update=6), run)
    assert validated() == [1, 2, 3, 4, 5, 6]
    best = checkpoint.load_state(checkpoint.checkpoint_dir(run, 6)).best_update
    assert best == 6  # so that no other checkpoint stays
    main(["checkpoints", "--run_dir", str(run), "--prune", "1"])
    printed = capsys.readouterr().out
    assert [line for line in printed.splitlines() if line.startswith("removed validated")] == [
        f"removed validated/update_{update:08d}" for update in (1, 2, 3, 4)
    ]
    assert validated() == [5, 6]
    train(config(), run)
    train(config(), whole)
    assert_same_run(run, whole)
    (run / "config.yaml").write_text((run / "config.yaml").read_text().replace("average_last: 2", "average_last: two"))
    assert "validation.average_last is two; expected what" in refused(capsys, "--run_dir", str(run), "--prune", "1")


def test_prune_mends_first_and_tells_in_a_line_what_the_disk_refuses(
    run_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = checkpoint.checkpoint_dir(run_dir, 8)
    newest.rename(newest.with_name(f".removing_{newest.name}"))

    def refuse(folder: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_removal, "remove", refuse)
        said = refused(capsys, "--run_dir", str(run_dir), "--prune", "1")
    assert f"{run_dir}: cannot be pruned: Read-only file system" in said
    main(["checkpoints", "--run_dir", str(run_dir), "--prune", "1"])
    assert newest.is_dir()


def test_a_checkpoint_that_rotation_removes_meanwhile_is_not_listed(
    run_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = checkpoint.find_fault

    def find_fault(folder: Path, hash_files: bool = True) -> str | None:
        fault = real(folder, hash_files)
        if folder.name == "update_00000008":
            shutil.rmtree(folder)
        return fault

    monkeypatch.setattr(checkpoint, "find_fault", find_fault)
    entries = listed(capsys, run_dir)
    assert [name for name in entries if name.startswith("ch")] == [f"checkpoints/update_{n:08d}" for n in (6, 4, 2)]
    assert [name for name in entries if entries[name]["is_resumed"]] == ["checkpoints/update_00000006"]
