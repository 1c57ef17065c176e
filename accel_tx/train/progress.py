"""What a person sees while training runs, and the clocks behind it."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from accelerate import Accelerator
from tqdm.auto import tqdm

from accel_tx.data.batching import BatchPlan
from accel_tx.train.state import TrainState
from accel_tx.train.validation import SetScores, Validation


def opening_lines(
    accelerator: Accelerator,
    state: TrainState,
    last_update: int,
    plan: BatchPlan,
    n_pairs: tuple[int, int],
    n_parameters: int,
) -> list[str]:
    """What a start is going to do. `n_pairs`: training and validation."""
    n_processes, n_micro_batches = accelerator.num_processes, plan.micro_batches_per_update
    lines = [
        f"{n_pairs[0]:,} training and {n_pairs[1]:,} validation pairs, "
        f"{n_parameters:,} parameters, {n_processes} process(es) on {accelerator.device.type}, "
        f"precision {accelerator.mixed_precision}, {torch.get_num_threads()} thread(s)",
        f"{state.n_updates:,} updates, {plan.updates_per_epoch:,} an epoch, "
        f"each of {n_micro_batches} micro-batch(es); from update {state.update:,} to {last_update:,}",
    ]
    if n_micro_batches % n_processes:
        lines.append(
            f"{n_micro_batches} micro-batch(es) do not divide among {n_processes} processes, so its pairs are "
            "dealt out to more: the same pairs in each update at the same rate, other dropout draws"
        )
    return lines


def closing_line(
    state: TrainState,
    stopped_by: str | None,
    stop_at_update: int | None,
    is_complete: bool,
    run_dir: Path,
    early: str | None = None,
) -> str:
    """How a start ended, and what comes next. `early`: why before the end of the schedule, where patience ran out."""
    if not is_complete:
        # Where nobody asked for it, the config did; the same command would make no update then.
        by = stopped_by or f"train.stop_at_update = {stop_at_update}"
        next_step = "the same command goes on" if stopped_by else "to go on, give a higher one or leave it out"
        return f"stopped by {by} after update {state.update:,} of {state.n_updates:,}; {next_step}"
    best = "" if state.best_update is None else f"; best {state.best_metric} at {state.best_update:,}"
    ended = f"complete after update {state.update:,}{best}; weights in {run_dir}/best and final"
    return ended if early is None else f"{ended}\n{early}"


def say(text: str) -> None:
    """Print a line, above the bar if one is shown; from any thread. Where nobody can read it, the run goes on."""
    with contextlib.suppress(OSError):
        tqdm.write(text)
        sys.stdout.flush()


class Progress:
    """A progress bar where a terminal or a notebook watches, else a line at every log point; main process only."""

    def __init__(self, state: TrainState, is_main: bool) -> None:
        self.state = state
        self.is_main = is_main
        self.started_at_s = time.monotonic()
        self.window_at_s = self.started_at_s - state.window.elapsed_s
        self.trained_before_s = state.trained_s
        self.first_update = state.update
        # disable=None: only where stderr is no terminal
        self.bar = tqdm(
            total=state.n_updates,
            initial=state.update,
            unit="update",
            dynamic_ncols=True,
            disable=None if is_main else True,
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.bar.close()

    def advance(self) -> None:
        """One update is done."""
        self.bar.update()

    def go_back(self, state: TrainState) -> None:
        """The run stands at an earlier update again; the time spent since then stays spent."""
        self.state = state
        self.first_update = min(self.first_update, state.update)
        self.window_at_s = time.monotonic() - state.window.elapsed_s
        self.bar.n = state.update
        self.bar.refresh()

    def say(self, text: str) -> None:
        """Print a line, above the bar."""
        if self.is_main:
            say(text)

    def show(self, values: dict[str, Any]) -> None:
        """Show a line of metrics: loss, learning rate, target tokens per second, and the time left."""
        no_loss = "not finite" if values["tgt_tokens_per_s"] else "none, all passed over"
        numbers = {
            "loss": no_loss if values["loss"] is None else f"{values['loss']:.3f}",
            "lr": f"{values['lr']:.2e}",
            "tok/s": f"{values['tgt_tokens_per_s']:,.0f}",
        }
        if not self.bar.disable:
            self.bar.set_postfix(numbers, refresh=False)
            return
        done, n_updates = self.state.update, self.state.n_updates
        left_s = self.this_start_s() / max(1, done - self.first_update) * (n_updates - done)
        shown = "  ".join(f"{name} {value}" for name, value in numbers.items())
        self.say(f"update {done:,}/{n_updates:,}  epoch {values['epoch']:.2f}  {shown}  left {left_s / 60:.1f} min")

    def show_validation(self, results: dict[str, Validation], winner: str) -> None:
        """Show what validation found of each kind of weights, and the best one's sample translations."""
        for name, result in results.items():
            of = "" if len(results) == 1 else f", {name}{' (best)' if name == winner else ''}"
            self.say(f"update {self.state.update:,}{of}: {_in_numbers(result)}  ({result.seconds:.0f} s)")
            for of_set, found in result.more.items():
                self.say(f"  {of_set}: {_in_numbers(found)}")
        for src, reference, hypothesis in results[winner].samples:
            self.say(f"  source      {src}\n  reference   {reference}\n  translation {hypothesis}")

    def this_start_s(self) -> float:
        """Seconds since this start began to train."""
        return time.monotonic() - self.started_at_s

    def trained_s(self) -> float:
        """Seconds of training and validation over all starts."""
        return self.trained_before_s + self.this_start_s()

    def window_s(self) -> float:
        """Seconds of training since the last line of metrics, over all starts."""
        return time.monotonic() - self.window_at_s

    def restart_window_s(self) -> float:
        """The same, and the next window begins."""
        elapsed_s = self.window_s()
        self.window_at_s = time.monotonic()
        return elapsed_s

    def store(self, state: TrainState) -> None:
        """Note the clocks in `state`, so that the next start goes on with them."""
        state.window.elapsed_s = self.window_s()
        state.trained_s = self.trained_s()

    @contextlib.contextmanager
    def outside_window(self) -> Iterator[None]:
        """Time inside is not the training's: tokens per second do not count it."""
        entered_at_s = time.monotonic()
        yield
        self.window_at_s += time.monotonic() - entered_at_s


def _in_numbers(found: Validation | SetScores) -> str:
    scores = found.scores
    return (
        f"val_loss {found.val_loss:.3f}  BLEU {scores.bleu:.2f}  chrF {scores.chrf:.2f}  "
        f"CER {scores.cer:.3f}  WER {scores.wer:.3f}"
    )
