"""The learning-rate range test behind `find-lr`: the run's own first updates at rates that grow, on a throw-away model.

Source: Smith 2017, "Cyclical Learning Rates for Training Neural Networks", section 3.3.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from accel_tx.config import Config, UserError
from accel_tx.data.dataset import PreparedData, prepare_data
from accel_tx.inference.attention_picture import as_file, can_draw
from accel_tx.inference.lines import write_bytes_whole, write_whole
from accel_tx.train import auto_tokens, device, file_system, launched, processes, warm_start
from accel_tx.train.agreement import check_same_everywhere, failing_together
from accel_tx.train.progress import say
from accel_tx.train.rate_curve import Curve, Ramp
from accel_tx.train.rehearsal import Rehearsal
from accel_tx.train.run_dir import FIND_LR, check_writable

_LINES = 10
"""Printed while it runs."""


@dataclass(frozen=True)
class Found:
    """What a range test has found, and where it is written."""

    curve: Curve
    json: Path
    picture: Path | None
    """None where matplotlib is not installed."""


def find_lr(config: Config, run_dir: Path, ramp: Ramp, init_from: Path | None = None) -> Found | None:
    """Train as `config` says, but at the rates of `ramp`, until the loss has gone up; None but on the main process.

    `init_from`: weights to begin with, as for `train`. Only `run_dir/find_lr/` is written; a run that is there is
    neither read nor changed, but for the size of its micro-batches under `train.max_tokens: auto`.
    Raises: UserError before anything is written if input or hardware forbid it.
    """
    launched.check_launch(config)
    if config.train.scale_with_processes and processes.n_launched() > 1:
        raise UserError(
            "train.scale_with_processes is true, and train would scale the rate that several processes find once more; "
            "expected a single process here, or train.scale_with_processes false"
        )
    device.set_cpu_threads(config.train.cpu_threads)
    rank = processes.rank()
    with file_system.usable_folders():
        check_writable(run_dir)
        if not config.train.scale_with_processes:  # else the run's updates may be those of more processes
            config = auto_tokens.from_run(config, run_dir, is_main=rank == 0)
        source = None if init_from is None else warm_start.find_source(init_from)
    data = prepare_data(config, run_dir)
    if source is not None:
        warm_start.check_fits(source, config, data.tokenizers)
    with device.accelerator_for(config.train) as accelerator:
        check_same_everywhere(accelerator, config, data.sha256)
        config = auto_tokens.settle(config, data, accelerator)
        curve = _climb(config, data, accelerator, ramp, source)
        found = None
        with failing_together(accelerator, run_dir):
            if accelerator.is_main_process:
                found = _write(curve, config, run_dir)
        return found


def _climb(
    config: Config, data: PreparedData, accelerator: Accelerator, ramp: Ramp, source: warm_start.Source | None
) -> Curve:
    rehearsal = Rehearsal(config, data, accelerator, ramp.rate)
    if source is not None:
        warm_start.load_initial_weights(source, rehearsal.raw_model)
    curve = Curve(ramp)
    for n_tokens, micro_batches in rehearsal.batches(ramp.n_updates):
        # The loss is that of all processes together, so they stop at the same update.
        curve.add(rehearsal.update(micro_batches, n_tokens).loss)
        if accelerator.is_main_process and len(curve.losses) % math.ceil(ramp.n_updates / _LINES) == 0:
            say(f"update {len(curve.losses)}/{ramp.n_updates}  lr {rehearsal.lr:.2e}  loss {curve.smoothed[-1]:.3f}")
        if curve.has_diverged:
            break
    return curve


def _write(curve: Curve, config: Config, run_dir: Path) -> Found:
    folder = run_dir / FIND_LR
    folder.mkdir(parents=True, exist_ok=True)
    json_path, picture_path = folder / "curve.json", folder / "curve.png"
    values: dict[str, Any] = {
        **curve.to_dict(),
        "optimizer": config.optim.name,
        "configured_max_lr": config.optim.max_lr,
    }
    write_whole(json_path, iter([json.dumps(values, indent=1)]))
    if not can_draw():
        picture_path.unlink(missing_ok=True)  # of an earlier curve
        return Found(curve, json_path, None)
    from accel_tx.train.rate_picture import draw

    content, _ = as_file(draw(curve, config.optim.max_lr), "png")
    write_bytes_whole(picture_path, [content])
    return Found(curve, json_path, picture_path)
