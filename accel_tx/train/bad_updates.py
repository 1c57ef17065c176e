"""What a run does about its bad updates: count them, tell of them, write them down with their pairs, go back or end.

The device has skipped each of them already, see `bad_numbers`.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray

from accel_tx.config import RunError, TrainConfig
from accel_tx.data.batching import BatchPlan, share
from accel_tx.data.dataset import PreparedData
from accel_tx.train import file_system
from accel_tx.train.bad_numbers import GOOD, OVERFLOW, WORDS
from accel_tx.train.lines import append_whole, finite_or_none, keep_lines, update_of_line
from accel_tx.train.progress import say
from accel_tx.train.report import Report
from accel_tx.train.state import TrainState

BAD_UPDATES_FILE = "bad_updates.jsonl"


class BadUpdates:
    """Answers to the report of each update as `train.on_bad_update` says."""

    def __init__(
        self, accelerator: Accelerator, config: TrainConfig, run_dir: Path, plan: BatchPlan, data: PreparedData
    ) -> None:
        self.accelerator, self.config, self.run_dir, self.plan, self.data = accelerator, config, run_dir, plan, data

    def calls_for_rollback(self, report: Report, state: TrainState) -> bool:
        """Count, tell and write down an update if it was bad; whether the run is to go back for it. All call it.

        Raises: RunError if it is one too many.
        """
        if report.verdict == GOOD:
            state.n_bad_in_a_row = 0
        if report.verdict in (GOOD, OVERFLOW):
            return False
        state.n_bad_in_a_row += 1
        losses = gather_object([report.own_loss_sums.tolist()])
        action = self.config.on_bad_update
        if self.accelerator.is_main_process:
            try:
                write_bad_update(self.run_dir, report, action, self.plan, self.data, losses)
            except OSError as error:
                say(f"{BAD_UPDATES_FILE} not written: {file_system.describe(error, self.run_dir, 0)}")
            say(in_words(report, self.run_dir))
        if action == "stop" or state.n_bad_in_a_row >= self.config.max_bad_updates:
            raise too_many(report, state.n_bad_in_a_row, self.run_dir)
        return action == "rollback"


def forget_bad_updates(run_dir: Path, state: TrainState) -> None:
    """Take out the lines of later updates, from a start that was lost, but for those that the run passes over."""

    def is_kept(line: bytes) -> bool:
        update = update_of_line(line)
        return update <= state.update or (update < math.inf and state.passes_over(int(update) - 1))

    keep_lines(run_dir / BAD_UPDATES_FILE, is_kept)


def write_bad_update(
    run_dir: Path, report: Report, action: str, plan: BatchPlan, data: PreparedData, losses: list[list[float]]
) -> None:
    """Append one line: the update (from 1, as in metrics.jsonl), what was bad, what was done, and the pairs.

    `losses[r][k]`: loss sum of slot k of process r.
    """
    line = {
        "update": report.update + 1,
        "fault": WORDS[report.verdict],
        "action": action,
        "loss": finite_or_none(report.loss),
        "grad_norm": finite_or_none(report.grad_norm),
        "micro_batches": find_culprits(plan, data, report.update, losses),
    }
    append_whole(run_dir / BAD_UPDATES_FILE, (json.dumps(line, ensure_ascii=False) + "\n").encode())


def in_words(report: Report, run_dir: Path) -> str:
    """A bad update in a line for the terminal."""
    return f"update {report.update + 1:,}: {WORDS[report.verdict]}; its pairs are in {run_dir / BAD_UPDATES_FILE}"


def too_many(report: Report, n_in_a_row: int, run_dir: Path) -> RunError:
    """What ends the run after so many bad updates in a row."""
    return RunError(
        f"{in_words(report, run_dir)}; bad updates in a row: {n_in_a_row}; the newest checkpoint is good: give another "
        "train.on_bad_update to go on, or begin a new run with a lower optim.max_lr or without these pairs"
    )


def find_culprits(plan: BatchPlan, data: PreparedData, update: int, losses: list[list[float]]) -> list[dict[str, Any]]:
    """The micro-batches of an update whose loss is not finite, or all if every loss is; with their pairs as text.

    `losses[r][k]`: loss sum of slot k of process r. Pairs are numbered as in the prepared training set.
    """
    parts = next(plan.updates(update, update + 1))
    n_processes, found = len(losses), []
    for rank, own in enumerate(losses):
        shares = share(parts, plan.longest, plan.micro_batches_per_update, rank, n_processes)
        found += [
            (rank, slot, loss, pairs) for slot, (loss, pairs) in enumerate(zip(own, shares, strict=True)) if len(pairs)
        ]
    bad = [entry for entry in found if not math.isfinite(entry[2])] or found
    return [
        {"process": rank, "slot": slot, "loss_sum": finite_or_none(loss), **_as_text(data, pairs)}
        for rank, slot, loss, pairs in bad
    ]


def _as_text(data: PreparedData, pairs: NDArray[np.int64]) -> dict[str, list[Any]]:
    chosen = data.train.__getitems__(pairs.tolist())
    return {
        "pairs": pairs.tolist(),
        "src": data.tokenizers.src.decode(pair.src.tolist() for pair in chosen),
        "tgt": data.tokenizers.tgt.decode(pair.tgt.tolist() for pair in chosen),
    }
