"""What checkpoints a run folder holds, which are whole, and removing those no longer wanted. Needs no torch."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from accel_tx.config import UserError, load_yaml
from accel_tx.inference.weights import SCORES, check_is_run, is_as_written
from accel_tx.train import checkpoint, checkpoint_removal, file_system, run_lock, validated


@dataclass(frozen=True)
class Entry:
    """One folder of weights in a run folder."""

    name: str
    """`checkpoints/update_00000123`, `best`, `final`, `average` or `validated/update_00000123`."""
    update: int | None
    epoch: float | None
    loss: float | None
    """Of the last line of metrics up to this update."""
    best: str | None
    """The best validation score so far and its update."""
    size_bytes: int
    written: str
    """Local time."""
    fault: str | None
    """What is wrong with it, or None."""
    is_hashed: bool
    """Whether it was read and hashed: asked for, and there is a hash to compare with."""
    is_latest: bool
    """Whether the file `checkpoints/latest` names it."""
    is_resumed: bool
    """Whether the next start goes on from it, if it fits the config then given."""


@file_system.usable_folders()
def list_entries(run_dir: Path, verify: bool) -> list[Entry]:
    """Checkpoints, newest first, then `best`, `final`, `average` and those in `validated/`.

    With `verify` every byte is hashed, else sizes are compared.

    Raises: UserError if the folder is no run folder, or one that cannot be looked at.
    """
    check_is_run(run_dir)
    metrics = _metrics(run_dir / "metrics.jsonl")
    latest = _latest(run_dir)
    entries: list[Entry] = []
    is_found = False
    for path in checkpoint.checkpoint_dirs(run_dir):
        try:
            fault = checkpoint.find_fault(path, hash_files=verify)
        except checkpoint.NewerVersionError as newer:
            fault = newer.told
        except OSError as error:
            fault = f"{Path(error.filename or path).name} cannot be read ({error.strerror})"
        state = file_system.read_json(path / checkpoint.STATE)
        best = _best(state.get("best_metric"), state.get("best_score"), state.get("best_update"))
        marks = {
            "best": best,
            "fault": fault,
            "is_hashed": verify,
            "is_latest": path.name == latest,
            "is_resumed": fault is None and not is_found,
        }
        # A training beside this may remove or replace what has just been found.
        with contextlib.suppress(FileNotFoundError):
            entries.append(_entry(run_dir, path, checkpoint.update_of(path), metrics, **marks))
            is_found = is_found or fault is None
    kept = [validated.folder_of(run_dir, update) for update in validated.updates_kept(run_dir)]
    for path in (*(run_dir / name for name in ("best", "final", "average") if (run_dir / name).is_dir()), *kept):
        scores = file_system.read_json(path / SCORES)
        update, is_hashed = scores.get("update"), verify and "sha256" in scores
        marks = {"best": None, "is_hashed": is_hashed, "is_latest": False, "is_resumed": False}
        marks["fault"] = weights_fault(path, hash_files=verify)
        with contextlib.suppress(FileNotFoundError):
            entries.append(_entry(run_dir, path, update if isinstance(update, int) else None, metrics, **marks))
    return entries


def _entry(run_dir: Path, path: Path, update: int | None, metrics: list[dict[str, Any]], **marks: Any) -> Entry:
    until = [line for line in metrics if update is not None and line["update"] <= update]
    line = until[-1] if until else None
    return Entry(
        name=path.relative_to(run_dir).as_posix(),
        update=update,
        # Epochs are proportional to updates.
        epoch=None if line is None or update is None else line["epoch"] * update / line["update"],
        loss=None if line is None else line["loss"],
        size_bytes=file_system.size_bytes(path),
        written=time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(path.stat().st_mtime)),
        **marks,
    )


def _metrics(path: Path) -> list[dict[str, Any]]:
    found = []
    for text in path.read_bytes().splitlines() if path.is_file() else []:
        try:
            line = json.loads(text)
            if isinstance(line, dict) and "loss" in line and line["update"] > 0:
                found.append({"update": line["update"], "epoch": float(line["epoch"]), "loss": line["loss"]})
        except (ValueError, TypeError, KeyError):  # cut off by a crash
            continue
    return found


def _latest(run_dir: Path) -> str | None:
    try:
        return (run_dir / "checkpoints" / "latest").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None


def _best(metric: Any, score: Any, update: Any) -> str | None:
    return (
        f"{metric} {score:.4g} at {update:,}" if isinstance(score, (int, float)) and isinstance(update, int) else None
    )


def weights_fault(folder: Path, hash_files: bool = True) -> str | None:
    """What is wrong with a folder of weights, or None; without `hash_files` from the header of `model.safetensors`.

    Source: https://github.com/huggingface/safetensors#format (8 bytes of header length, a JSON header, the tensors).
    """
    path = folder / checkpoint.MODEL
    try:
        with path.open("rb") as file:
            n_header = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(n_header, 100_000_000)))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        is_whole = path.stat().st_size == 8 + n_header + max(ends)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError):
        return f"{checkpoint.MODEL} is missing or damaged"
    if not is_whole:
        return f"{checkpoint.MODEL} is cut off"
    if not file_system.read_json(folder / SCORES):
        return f"{SCORES} is missing or damaged"
    try:
        return f"{checkpoint.MODEL} is damaged" if hash_files and not is_as_written(folder) else None
    except OSError as error:
        return f"{checkpoint.MODEL} cannot be read ({error.strerror})"


def prune(run_dir: Path, keep: int) -> list[str]:
    """Remove leftovers and all but the valid checkpoints `to_keep`: newest, of the best validation, for a rollback.

    What `validated/` kept for the checkpoints that go, as a start from them would average it, goes too, as it would at
    the run's next validation. Every checkpoint is hashed first. Returns the names of what was removed.
    Raises: UserError if no checkpoint is valid, one is of a newer version, or while a process writes the run; no
    checkpoint is removed then. Also where the disk refuses.
    """
    if keep < 1:
        raise UserError(f"--prune is {keep}; expected at least 1, the newest checkpoint to keep")
    check_is_run(run_dir)
    every, n_averaged = _save_every_updates(run_dir), _average_last(run_dir)
    with run_lock.locked(run_dir):
        try:
            return _prune(run_dir, keep, every, n_averaged)
        except OSError as error:
            raise UserError(f"{run_dir}: cannot be pruned: {file_system.describe(error, run_dir, 0)}") from None


def _prune(run_dir: Path, keep: int, every: int, n_averaged: int | None) -> list[str]:
    checkpoint.refuse_newer(run_dir)
    mended = checkpoint_removal.tidy(run_dir)
    folders = checkpoint.checkpoint_dirs(run_dir)
    valid = [path for path in folders if checkpoint.find_fault(path) is None]
    if not valid:
        raise UserError(f"{run_dir}: no checkpoint in it is valid, so none is removed; see `checkpoints --verify`")
    kept = checkpoint_removal.to_keep(valid, keep, every, checkpoint.load_state(valid[0]).best_update)
    removed = [path for path in folders if path not in kept]
    for path in removed:
        checkpoint_removal.remove(path)
    if _latest(run_dir) != valid[0].name:
        file_system.write_synced(run_dir / "checkpoints" / "latest", valid[0].name + "\n")
    averaged = [] if n_averaged is None else validated.rotate(run_dir, n_averaged, checkpoint.update_of(valid[0]))
    names = [path.name for path in (*removed, *mended)]
    return [*names, *(path.relative_to(run_dir).as_posix() for path in averaged)]


def _save_every_updates(run_dir: Path) -> int:
    every = _field(run_dir, "train", "save_every_updates")
    if not isinstance(every, int) or every < 1:
        raise UserError(f"{run_dir}/config.yaml: train.save_every_updates is {every}; expected what `train` wrote")
    return every


def _average_last(run_dir: Path) -> int | None:
    n = _field(run_dir, "validation", "average_last")
    if n is not None and (not isinstance(n, int) or n < 2):
        raise UserError(f"{run_dir}/config.yaml: validation.average_last is {n}; expected what `train` wrote")
    return n


def _field(run_dir: Path, section: str, name: str) -> Any:
    values = load_yaml(run_dir / "config.yaml").get(section)
    return values.get(name) if isinstance(values, dict) else None


def as_table(entries: list[Entry], verify: bool) -> Table:
    """The entries for a terminal."""
    table = Table("folder", "epoch", "loss", "best so far", "MB", "written", "files", box=None, pad_edge=False)
    for entry in entries:
        sound = "whole" if entry.is_hashed else "sizes fit, no hash is recorded" if verify else "sizes fit"
        marks = [name for name, is_so in (("latest", entry.is_latest), ("resumed next", entry.is_resumed)) if is_so]
        table.add_row(
            entry.name.removeprefix("checkpoints/"),
            "" if entry.epoch is None else f"{entry.epoch:.2f}",
            "" if not isinstance(entry.loss, (int, float)) else f"{entry.loss:.3f}",
            entry.best or "",
            f"{entry.size_bytes / 1e6:,.1f}",
            entry.written[5:16],
            ", ".join([entry.fault or sound, *marks]),
        )
    return table


def as_json(entries: list[Entry], verify: bool, running: str | None) -> str:
    """The entries for a program."""
    values = {"verified": verify, "running": running, "entries": [dataclasses.asdict(entry) for entry in entries]}
    return json.dumps(values, indent=1)
