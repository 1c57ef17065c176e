"""The run folder before training: what may be in it, and what is written first."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Literal

from accel_tx.config import Config, UserError, dump_yaml, what_is_learned, what_starts_share
from accel_tx.data import sentencepiece_vocabulary
from accel_tx.data.dataset import PreparedData
from accel_tx.inference.translator import load_run_config
from accel_tx.train import checkpoint, checkpoint_removal, file_system, run_lock, warm_start
from accel_tx.train.state import TrainState
from accel_tx.train.stopping import PREEMPTED_FILE, preempted_text

Resume = Literal["auto", "never", "require"]
FIND_LR = "find_lr"
"""Folder that `find-lr` writes into; it is no part of the run."""


def check_run_dir(config: Config, run_dir: Path, resume: Resume) -> None:
    """Raise UserError if `run_dir` holds a run that this one must not go on or overwrite."""
    checkpoint.refuse_newer(run_dir)
    has_checkpoint = checkpoint.has_checkpoint(run_dir)
    if resume == "require" and not has_checkpoint:
        raise UserError(f"{run_dir}: --resume require, but it holds no checkpoint; give the folder of a run")
    if resume == "never" and has_checkpoint:
        raise UserError(f"{run_dir}: --resume never, but it holds checkpoints of a run; give another --run_dir")
    if run_dir.exists() and not run_dir.is_dir():
        raise UserError(f"{run_dir}: is a file; expected a run folder")
    if (run_dir / checkpoint.MODEL).exists():
        raise UserError(
            f"{run_dir}: holds an exported or imported model; give another --run_dir, and --init_from {run_dir} to "
            "begin with it"
        )
    results = [name for name in ("best", "final") if (run_dir / name).exists()]
    if results == ["best"] and checkpoint.never_finished_one(run_dir):
        results = []  # the run was killed after its first validation; it will write the same again
    if results and not has_checkpoint:
        raise UserError(
            f"{run_dir}: holds {' and '.join(results)} of a run but no checkpoint to go on from; give another --run_dir"
        )
    if not (run_dir / "config.yaml").exists():
        own = {run_dir / name for name in (run_lock.LOCK, warm_start.ORIGIN, FIND_LR)}
        begun = {*own, *checkpoint_removal.leftovers(run_dir)}
        if run_dir.exists() and set(run_dir.iterdir()) - begun:
            raise UserError(f"{run_dir}: is not empty and holds no run; give a new or an empty folder")
        return
    before, now = (what_starts_share(what_is_learned(c)) for c in (load_run_config(run_dir), config))
    for key in now:
        if before.get(key) != now[key]:
            raise UserError(
                f"{run_dir}: holds a run with {key} = {before.get(key)}, this start has {now[key]}; "
                "give the same value to go on, or another --run_dir"
            )


def check_writable(run_dir: Path, option: str = "--run_dir") -> None:
    """Raise UserError if this is no folder, nor one that can be made, or nothing may be written there.

    `option`: what gave it.
    """
    place = existing(run_dir)
    if not place.is_dir():
        raise UserError(f"{run_dir}: {place} is a file; expected a run folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"{run_dir}: cannot be written (no permission in {place}); give another {option}")
    if not run_dir.exists():
        if run_dir.is_symlink():
            raise UserError(f"{run_dir}: is a link to a folder that is not there; make that, or give another {option}")
        # Where no permissions are asked, as of root, only trying tells that /proc takes no folders.
        try:
            tempfile.TemporaryDirectory(prefix=".writing_", dir=place).cleanup()
        except OSError as error:
            raise UserError(f"{run_dir}: cannot be made in {place} ({error.strerror}); give another {option}") from None


def existing(path: Path) -> Path:
    """The folder itself, or the nearest one above it that is there. Raises: OSError for a loop of links."""
    path = file_system.resolved(path)
    return next(folder for folder in (path, *path.parents) if folder.exists())


def begin_run_dir(config: Config, run_dir: Path, data: PreparedData, state: TrainState) -> None:
    """Write what stands beside the checkpoints: config, tokenizer, cleaning report; main process only."""
    # Without config.yaml, folders would be taken for those of something else.
    run_dir.mkdir(parents=True, exist_ok=True)
    if state.update == 0 and state.init_from is not None:
        file_system.write_synced(run_dir / warm_start.ORIGIN, json.dumps(state.init_from, indent=1))
    file_system.write_if_other(run_dir / "config.yaml", dump_yaml(config))
    for name in ("checkpoints", "tokenizer"):
        (run_dir / name).mkdir(exist_ok=True)
    texts = {
        "tokenizer/src.json": data.tokenizers.src.fast.to_str(pretty=True),
        "tokenizer/tgt.json": data.tokenizers.tgt.fast.to_str(pretty=True),
        "clean_report.json": json.dumps(data.report.to_dict(), indent=1, ensure_ascii=False),
    }
    if data.sentencepiece_sha256 is not None:
        record = sentencepiece_vocabulary.record_of(config.tokenizer, data.sentencepiece_sha256)
        texts[f"tokenizer/{sentencepiece_vocabulary.RECORD}"] = record
    for name, text in texts.items():
        file_system.write_if_other(run_dir / name, text)


def leave_preempted(run_dir: Path, reason: str, state: TrainState, is_complete: bool, is_saved: bool) -> str | None:
    """Write the file PREEMPTED unless the run is complete after all; None, or why it could not be written."""
    if is_complete:
        return None
    try:
        file_system.write_synced(
            run_dir / PREEMPTED_FILE, preempted_text(reason, state.update, state.n_updates, is_saved)
        )
    except OSError as error:
        return f"{PREEMPTED_FILE} not written: {file_system.describe(error, run_dir, 0)}"
    return None
