"""Checkpoints: written beside, synced, checked, renamed; found again by what their manifest says."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from safetensors.torch import save_file
from torch import nn

from accel_tx.config import UserError
from accel_tx.train.state import TrainState

MANIFEST = "manifest.json"
STATE = "trainer_state.json"


def checkpoint_dir(run_dir: Path, update: int) -> Path:
    """Folder of the checkpoint after this many updates."""
    return run_dir / "checkpoints" / f"update_{update:08d}"


def save_checkpoint(accelerator: Accelerator, state: TrainState, run_dir: Path, keep: int) -> None:
    """Save model, optimizer, scheduler, scaler and `state`; all processes call it at the same update.

    A crash at any moment leaves either the whole checkpoint or the ones before.
    """
    final = checkpoint_dir(run_dir, state.update)
    beside = final.with_name(f".writing_{final.name}")
    if accelerator.is_main_process:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(beside))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        # Dropout and batch order are functions of the seed: no state of a random generator is ever restored.
        for path in beside.glob("random_states_*.pkl"):
            path.unlink()
        write_synced(beside / STATE, json.dumps(dataclasses.asdict(state), indent=1))
        _finish(beside, final)
        write_synced(final.parent / "latest", final.name + "\n")
        _rotate(final.parent, keep, state.update)
    accelerator.wait_for_everyone()


def _finish(beside: Path, final: Path) -> None:
    files = sorted(path for path in beside.iterdir() if path.is_file())
    for path in files:
        _sync(path)
    manifest = {path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)} for path in files}
    write_synced(beside / MANIFEST, json.dumps(manifest, indent=1))
    _sync(beside)
    shutil.rmtree(final, ignore_errors=True)
    beside.rename(final)
    _sync(final.parent)


def _rotate(folder: Path, keep: int, update: int) -> None:
    # One of a later update is damaged, or the run would stand there: it must not push out a good one.
    for path in [path for path in _newest_first(folder) if _update_of(path) <= update][keep:]:
        trash = path.with_name(f".removing_{path.name}")
        path.rename(trash)
        shutil.rmtree(trash, ignore_errors=True)


def tidy(run_dir: Path) -> None:
    """Mend what a crash left half done: weights that were being replaced come back, leftovers go."""
    for replaced in run_dir.glob(".removing_*"):
        name = replaced.name.removeprefix(".removing_")
        if not (run_dir / name).exists():
            replaced.rename(run_dir / name)
    for folder in (run_dir, run_dir / "checkpoints"):
        for leftover in (*folder.glob(".removing_*"), *folder.glob(".writing_*")):
            shutil.rmtree(leftover, ignore_errors=True)


def newest_valid(run_dir: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint whose files are those of its manifest, and a line for each newer one that is not."""
    passed_over: list[str] = []
    for path in _newest_first(run_dir / "checkpoints"):
        fault = find_fault(path)
        if fault is None:
            return path, passed_over
        passed_over.append(f"{path.name} passed over: {fault}")
    return None, passed_over


def find_fault(folder: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files = {name: (entry["bytes"], entry["sha256"]) for name, entry in manifest.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return f"{MANIFEST} is missing or damaged"
    present = {path.name for path in folder.iterdir()} - {MANIFEST}
    if present != set(files):
        return f"its files are not those of its manifest: {', '.join(sorted(present ^ set(files)))}"
    for name, (size, digest) in files.items():
        if (folder / name).stat().st_size != size or _sha256(folder / name) != digest:
            return f"{name} is damaged"
    return None


def load_state(folder: Path) -> TrainState:
    """The TrainState of a valid checkpoint."""
    return TrainState.from_dict(json.loads((folder / STATE).read_text(encoding="utf-8")))


def check_belongs(saved: TrainState, fresh: TrainState, folder: Path) -> None:
    """Raise UserError, naming both values, if a checkpoint belongs to other data, settings or schedule."""
    for key in sorted(saved.settings.keys() | fresh.settings.keys()):
        before, now = saved.settings.get(key), fresh.settings.get(key)
        if before != now:
            raise UserError(
                f"{folder}: was made with {key} = {before}, this start has {now}; "
                "give the same value, or another --run_dir"
            )
    for name, before, now in (
        ("training data", saved.data_sha256[:12], fresh.data_sha256[:12]),
        ("schedule length in updates", saved.n_updates, fresh.n_updates),
    ):
        if before != now:
            raise UserError(
                f"{folder}: was made with another {name} ({before}, this start has {now}); "
                "give the same data, or another --run_dir"
            )


def save_weights(model: nn.Module, folder: Path, scores: dict[str, Any]) -> None:
    """Write `model.safetensors` and `scores.json` into `folder`, replacing it whole; main process only."""
    beside = folder.with_name(f".writing_{folder.name}")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, beside / "model.safetensors")
    write_synced(beside / "scores.json", json.dumps(scores, indent=1, ensure_ascii=False))
    replaced = folder.with_name(f".removing_{folder.name}")
    shutil.rmtree(replaced, ignore_errors=True)
    _sync(beside / "model.safetensors")
    if folder.exists():
        folder.rename(replaced)
    beside.rename(folder)
    _sync(folder.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _newest_first(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("update_*") if path.name.removeprefix("update_").isdigit()]
    return sorted(found, key=_update_of, reverse=True)


def _update_of(path: Path) -> int:
    return int(path.name.removeprefix("update_"))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_synced(path: Path, text: str) -> None:
    """Replace a text file; after a crash it holds either all of the old text or all of the new one."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(text, encoding="utf-8")
    _sync(beside)
    beside.replace(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
