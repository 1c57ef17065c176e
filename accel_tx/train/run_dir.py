"""The run folder before training: what may be in it, and what is written first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from accel_tx.config import Config, UserError, dump_yaml, what_is_learned
from accel_tx.data.dataset import PreparedData
from accel_tx.inference.translator import load_run_config
from accel_tx.train import checkpoint

Resume = Literal["auto", "never", "require"]


def check_run_dir(config: Config, run_dir: Path, resume: Resume) -> None:
    """Raise UserError if `run_dir` holds a run that this one must not go on or overwrite."""
    has_checkpoint = any(
        path.name.removeprefix("update_").isdigit() for path in (run_dir / "checkpoints").glob("update_*")
    )
    if resume == "require" and not has_checkpoint:
        raise UserError(f"{run_dir}: --resume require, but it holds no checkpoint; give the folder of a run")
    if resume == "never" and has_checkpoint:
        raise UserError(f"{run_dir}: --resume never, but it holds checkpoints of a run; give another --run_dir")
    if run_dir.exists() and not run_dir.is_dir():
        raise UserError(f"{run_dir}: is a file; expected a run folder")
    results = [name for name in ("best", "final") if (run_dir / name).exists()]
    if results and not has_checkpoint:
        raise UserError(
            f"{run_dir}: holds {' and '.join(results)} of a run but no checkpoint to go on from; give another --run_dir"
        )
    if not (run_dir / "config.yaml").exists():
        if run_dir.exists() and any(run_dir.iterdir()):
            raise UserError(f"{run_dir}: is not empty and holds no run; give a new or an empty folder")
        return
    before, now = what_is_learned(load_run_config(run_dir)), what_is_learned(config)
    for key in now:
        if before[key] != now[key]:
            raise UserError(
                f"{run_dir}: holds a run with {key} = {before[key]}, this start has {now[key]}; "
                "give the same value to go on, or another --run_dir"
            )


def begin_run_dir(config: Config, run_dir: Path, data: PreparedData) -> None:
    """Write what stands beside the checkpoints: config, tokenizer, cleaning report; main process only."""
    run_dir.mkdir(parents=True, exist_ok=True)
    checkpoint.write_synced(run_dir / "config.yaml", dump_yaml(config))
    data.tokenizers.save(run_dir / "tokenizer")
    report = json.dumps(data.report.to_dict(), indent=1, ensure_ascii=False)
    checkpoint.write_synced(run_dir / "clean_report.json", report)


def last_regular_checkpoint(run_dir: Path, every: int, update: int) -> Path | None:
    """The newest valid checkpoint of at most `update` updates among those that `save_every_updates` makes.

    One that a stop left between two of them would make what follows depend on when the run was stopped.
    """
    for regular in range(update - update % every, 0, -every):
        folder = checkpoint.checkpoint_dir(run_dir, regular)
        if folder.is_dir() and checkpoint.find_fault(folder) is None:
            return folder
    return None
