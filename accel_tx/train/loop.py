"""The training: from a config and a run folder to trained weights, going on where an earlier start stopped."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from accel_tx.config import Config, UserError, what_is_learned
from accel_tx.data.batching import BatchLimits, BatchPlan
from accel_tx.data.collator import Batch
from accel_tx.data.dataset import PreparedData, prepare_data
from accel_tx.model.transformer import Transformer, count_parameters
from accel_tx.train import checkpoint, device, run_lock, warm_start
from accel_tx.train.agreement import broadcast, end_everywhere_if, run_dir_locked
from accel_tx.train.bad_numbers import (
    BAD_UPDATES_FILE,
    GOOD,
    OVERFLOW,
    check_weights,
    finite_or_none,
    forget_bad_updates,
    in_words,
    too_many,
    write_bad_update,
)
from accel_tx.train.checkpoint_content import Parts
from accel_tx.train.checkpoint_writer import CheckpointWriter, save_weights
from accel_tx.train.lines import update_of_line
from accel_tx.train.loading import deaths_told, load_updates
from accel_tx.train.progress import Progress, opening_lines, say
from accel_tx.train.report import Report
from accel_tx.train.resume import find_checkpoint, load_checkpoint
from accel_tx.train.run_dir import Resume, begin_run_dir, check_run_dir, last_regular_checkpoint, leave_preempted
from accel_tx.train.schedule import build_optimizer, build_scheduler
from accel_tx.train.state import TrainState
from accel_tx.train.stopping import PREEMPTED_FILE, STOP_FILE, Stop, StopAsked
from accel_tx.train.tracking import MetricsLog
from accel_tx.train.update import Updater
from accel_tx.train.validation import Validation, validate
from accel_tx.train.window import window_values


def train(
    config: Config,
    run_dir: Path,
    resume: Resume = "auto",
    init_from: Path | None = None,
    stop: Stop | None = None,
) -> None:
    """Train as `config` says, writing into `run_dir`; see the README for what a run folder holds.

    A new run begins with the weights in `init_from`, where it is given, instead of random ones. `stop` is what may end
    the training early; by default one that begins now.
    Raises: UserError before anything is written if the input, the hardware or an earlier run in `run_dir` forbids it.
    """
    if stop is None:
        with Stop() as stop:
            train(config, run_dir, resume, init_from, stop)
        return
    device.check_gpu_build()
    device.resolve_precision(config.train.precision)
    device.set_cpu_threads(config.train.cpu_threads)
    rank, _ = device.process_index()
    run_lock.refuse_if_held(run_dir, is_main=rank == 0)
    check_run_dir(config, run_dir, resume)
    is_new = not checkpoint.has_checkpoint(run_dir)
    warm_start.check_origin(run_dir, init_from, has_checkpoint=not is_new)
    source = warm_start.find_source(init_from) if is_new and init_from is not None else None
    data = prepare_data(config)
    if source is not None:
        warm_start.check_fits(source, config, data.tokenizers)
    with device.accelerator_for(config.train) as accelerator, run_dir_locked(accelerator, run_dir):
        _train_in(config, run_dir, data, accelerator, stop, source)


def _train_in(
    config: Config,
    run_dir: Path,
    data: PreparedData,
    accelerator: Accelerator,
    stop: Stop,
    source: warm_start.Source | None,
) -> None:
    """The Run lives in here only: what `accelerator_for` says of its end needs it to be gone by then."""
    run = Run(config, run_dir, data, accelerator, stop)
    try:
        run.resume(source)
        run.announce()
        with deaths_told():
            run.go()
        run.finish()
    finally:
        run.writer.join()


class Run:
    """One start of a training run: everything prepared, and the state that changes."""

    def __init__(
        self, config: Config, run_dir: Path, data: PreparedData, accelerator: Accelerator, stop: Stop | None = None
    ) -> None:
        self.config, self.run_dir, self.data, self.accelerator = config, run_dir, data, accelerator
        self.stop = stop or Stop()
        self.stopped_by: str | None = None
        limits = BatchLimits(config.train.max_tokens, config.train.batch_size)
        self.plan = BatchPlan(
            data.train.src_lengths,
            data.train.tgt_lengths,
            limits,
            config.train.micro_batches_per_update,
            config.train.seed,
        )
        n_updates = config.train.max_updates or config.train.epochs * self.plan.updates_per_epoch  # type: ignore[operator]
        # What was asked may be "auto"; what it came to on this machine is what changes the numbers.
        settings = {**what_is_learned(config), "precision in effect": accelerator.mixed_precision}
        self.state = TrainState(data.sha256, settings, n_updates)
        torch.manual_seed(config.train.seed)
        vocab_sizes = data.tokenizers.src.vocab_size, data.tokenizers.tgt.vocab_size
        model = Transformer(config.model, *vocab_sizes)
        self.n_parameters = count_parameters(model)
        optimizer = build_optimizer(model.parameters(), config.optim)
        scheduler = build_scheduler(optimizer, n_updates, config.optim)
        self.model, self.optimizer, self.scheduler = accelerator.prepare(model, optimizer, scheduler)
        self.raw_model: Transformer = accelerator.unwrap_model(self.model, keep_torch_compile=False)
        inner = self.optimizer.optimizer, self.scheduler.scheduler
        self.parts = Parts(self.raw_model, *inner, accelerator.scaler)
        self.writer = CheckpointWriter(run_dir, config.train.keep_checkpoints, config.train.save_every_updates, say)
        self.updater = Updater(accelerator, config, self.model, self.optimizer, self.scheduler)
        self.judge, self.reports, self.window = self.updater.judge, self.updater.reports, self.updater.window
        self.log: MetricsLog

    @property
    def last_update(self) -> int:
        """Where this start ends: the end of the schedule, or `stop_at_update` before it."""
        return min(self.state.n_updates, self.config.train.stop_at_update or self.state.n_updates)

    def resume(self, init_from: warm_start.Source | None = None) -> None:
        """Load the newest valid checkpoint, the same one on every process, or begin the run folder."""
        accelerator = self.accelerator
        folder = find_checkpoint(accelerator, self.run_dir, self.parts, self.state)
        if folder is not None:
            self._load(folder)
            # The start takes the newest that can be loaded.
            later = checkpoint.checkpoint_dirs(self.run_dir)
            self.writer.passed_over = {path.name for path in later if checkpoint.update_of(path) > self.state.update}
            self._say(f"going on from {folder}")
        failed = None
        try:
            if folder is None and init_from is not None:
                self.state.init_from = warm_start.load_initial_weights(init_from, self.raw_model)
                self._say(f"beginning with the weights in {init_from.weights}")
            if accelerator.is_main_process:
                begin_run_dir(self.config, self.run_dir, self.data, self.state)
                forget_bad_updates(self.run_dir, self.state)
            self.log = self._open_log()
        except UserError as error:
            failed = str(error)
        except OSError as error:
            failed = f"{self.run_dir}: cannot be written: {checkpoint.describe(error, self.run_dir, 0)}"
        end_everywhere_if(accelerator, failed)
        self.first_update = self.state.update

    def _open_log(self) -> MetricsLog:
        state = self.state
        return MetricsLog(self.accelerator, self.run_dir, self.config, state.update, say, state.validation_is_due)

    def _load(self, folder: Path) -> None:
        self.state = load_checkpoint(self.accelerator, folder, self.parts)
        self.window.restore(self.state.window)
        average = [self.state.loss_average, self.state.n_averaged]
        self.judge.average = self.judge.average.new_tensor(average)

    def announce(self) -> None:
        """Say what is going to happen."""
        n_pairs = len(self.data.train), len(self.data.valid)
        for line in opening_lines(
            self.accelerator, self.state, self.last_update, self.plan, n_pairs, self.n_parameters
        ):
            self._say(line)

    def go(self) -> None:
        """Train up to the last update, or until somebody asks for a stop."""
        state, stop = self.state, self.stop
        if self.accelerator.is_main_process:
            (self.run_dir / PREEMPTED_FILE).unlink(missing_ok=True)
        stop.finish_updates_first(self.run_dir, self.config.train.max_hours)
        self.progress = Progress(state, is_main=self.accelerator.is_main_process)
        with self.progress:
            if state.validation_is_due:
                # Without the limit, or one that is shorter than a validation would never let the run go on.
                with stop.without_limit():
                    self._validate()
                if self.stopped_by is None and state.update == self.last_update:
                    self._save()
            while self.stopped_by is None and self.state.update < self.last_update:
                self._train_on()

    def _train_on(self) -> None:
        """Train until the end, or a stop, or until the run goes back to a checkpoint."""
        for n_tokens, micro_batches in self.updates():
            grad_norm = None
            if micro_batches:
                grad_norm = self.train_update(micro_batches, n_tokens)
            else:
                self.updater.pass_over()
            self.state.update += 1
            self.progress.advance()
            went_back = self._do_what_is_due(grad_norm)
            if went_back or self.stopped_by is not None:
                return

    def _do_what_is_due(self, grad_norm: torch.Tensor | None) -> bool:
        """Answer to bad updates and to a stop; metrics, validation, checkpoint. True if the run went back instead."""
        train, state = self.config.train, self.state
        logs = state.update % train.log_every_updates == 0
        validates = state.update % self.config.validation.every_updates == 0 or state.update == state.n_updates
        saves = state.update % train.save_every_updates == 0 or state.update == self.last_update
        reports = self.reports.take(every=logs or validates or saves)
        if any(report.n_stops for report in reports):
            self._agree_on_stop()
            reports += self.reports.take(every=True)
        if any(self._went_back_for(report) for report in reports):
            return True
        if logs or saves:
            self.judge.check_scale(self.run_dir)
        if validates or saves or self.stopped_by is not None:
            check_weights(self.raw_model, state.update, self.run_dir)
        if logs:
            self._write_metrics(grad_norm)
        if validates and self.stopped_by is None:
            self._validate()
        elif validates:
            state.validation_is_due = True
        if saves or self.stopped_by is not None:
            self._save()
        return False

    def _agree_on_stop(self) -> None:
        """Take the first process' reason for all."""
        reasons = gather_object([self.stop.asked()])
        self.stopped_by = next(reason for reason in reasons if reason is not None)

    def _went_back_for(self, report: Report) -> bool:
        """Answer to the report of an update; the device has skipped it already if it was bad."""
        state, train = self.state, self.config.train
        if report.verdict == GOOD:
            state.n_bad_in_a_row = 0
        if report.verdict in (GOOD, OVERFLOW):
            return False
        state.n_bad_in_a_row += 1
        losses = gather_object([report.own_loss_sums.tolist()])
        if self.accelerator.is_main_process:
            try:
                write_bad_update(self.run_dir, report, train.on_bad_update, self.plan, self.data, losses)
            except OSError as error:
                self.progress.say(f"{BAD_UPDATES_FILE} not written: {checkpoint.describe(error, self.run_dir, 0)}")
        self.progress.say(in_words(report, self.run_dir))
        if train.on_bad_update == "stop" or state.n_bad_in_a_row >= train.max_bad_updates:
            raise too_many(report, state.n_bad_in_a_row, self.run_dir)
        return train.on_bad_update == "rollback" and self._go_back(report.update)

    def _go_back(self, update: int) -> bool:
        """Go to the last regular checkpoint and take out the updates from there to `update`; False if there is none."""
        a, now = self.accelerator, self.state
        every = self.config.train.save_every_updates
        self.writer.wait()
        folder = last_regular_checkpoint(self.run_dir, every, update) if a.is_main_process else None
        folder = broadcast(a, [folder])[0]
        if folder is None:
            self.progress.say("there is no checkpoint to go back to: this update alone is skipped")
            return False
        self._load(folder)
        saved = self.state
        # What is in best/ now was validated, also if that was after the checkpoint.
        saved.best_metric, saved.best_score, saved.best_update = now.best_metric, now.best_score, now.best_update
        saved.n_bad_in_a_row, saved.validation_is_due = now.n_bad_in_a_row, False
        saved.passed_over = [*now.passed_over, [saved.update, update + 1]]
        self.reports.take(every=True)
        self._go_back_in_log(saved)
        self.progress.go_back(saved)
        self.progress.say(f"back to {folder.name}; updates {saved.update + 1:,} to {update + 1:,} are passed over")
        return True

    def _go_back_in_log(self, saved: TrainState) -> None:
        self.log.close()
        waiting, failed = self.log.waiting, None
        try:
            self.log = self._open_log()
        except OSError as error:
            failed = f"{self.run_dir}: cannot be written: {checkpoint.describe(error, self.run_dir, 0)}"
        end_everywhere_if(self.accelerator, failed)
        self.log.waiting = [line for line in waiting if update_of_line(line.encode()) <= saved.update]

    def finish(self) -> None:
        """Write `final/` where the schedule is complete; say how to go on where it is not.

        Raises: UserError, ending every process, if what this start was to leave could not be written.
        """
        state, a = self.state, self.accelerator
        is_complete = state.update >= state.n_updates and not state.validation_is_due
        has_trained = state.update > self.first_update
        unsaved = [self.writer.wait(), self.log.close()]
        # Weights without the checkpoint behind them would look like a run that is done: the next start makes both.
        is_saved = unsaved[0] is None
        if a.is_main_process and is_saved and is_complete and (has_trained or not (self.run_dir / "final").exists()):
            unsaved.append(self._save_weights("final", {"update": state.update}))
        if a.is_main_process and self.stopped_by is not None:
            unsaved.append(
                leave_preempted(self.run_dir, self.stopped_by, state, is_complete, is_saved=unsaved[0] is None)
            )
        failed = "; ".join(filter(None, unsaved))
        end_everywhere_if(a, f"{failed}; make room and give the same command again" if failed else None)
        if self.stop.has_file() and a.is_main_process:
            (self.run_dir / STOP_FILE).unlink(missing_ok=True)
            self._say(f"the file {STOP_FILE} is removed")
        if not is_complete:
            by = "" if self.stopped_by is None else f" by {self.stopped_by}"
            self._say(f"stopped{by} after update {state.update:,} of {state.n_updates:,}; the same command goes on")
            return
        best = (
            "" if state.best_update is None else f"; best {self.config.validation.best_metric} at {state.best_update:,}"
        )
        self._say(f"complete after update {state.update:,}{best}; weights in {self.run_dir}/best and final")

    def updates(self) -> Iterator[tuple[int, list[Batch]]]:
        """Each update still to do: its target tokens over all processes, and this process' micro-batches."""
        n_workers = self.config.train.loader_workers
        first, last, is_passed_over = self.state.update, self.last_update, self.state.passes_over
        return load_updates(self.plan, self.data.train, first, last, self.accelerator, n_workers, is_passed_over)

    def train_update(self, micro_batches: list[Batch], n_tokens: int) -> torch.Tensor:
        """Make the update that comes now; the norm of its gradient."""
        began_at_s = time.monotonic()
        norm = self.updater.train(self.state.update, micro_batches, n_tokens, self.stop.asked() is not None)
        self.stop.slowest_update_s = max(self.stop.slowest_update_s, time.monotonic() - began_at_s)
        return norm

    def _write_metrics(self, grad_norm: torch.Tensor | None) -> None:
        values = {
            "update": self.state.update,
            "epoch": self._epoch(),
            "lr": self.updater.lr,
            "grad_norm": None if grad_norm is None else finite_or_none(float(grad_norm)),
            **window_values(self.window.total(), self.progress.restart_window_s()),
            "trained_s": self.progress.trained_s(),
        }
        self.log.write(values, "train")
        self.progress.show(values)
        self.window.clear()

    def _validate(self) -> None:
        """Validate; if that is stopped, it is due at the next start, so that no number tells of the stop."""
        with self.progress.outside_window():
            self.state.validation_is_due = True
            try:
                result = validate(self.accelerator, self.raw_model, self.data, self.config, self.stop.poll)
            except StopAsked:
                self._agree_on_stop()
                return
            self.state.validation_is_due = False
            if result is not None:
                self._record(result)

    def _record(self, result: Validation) -> None:
        state, metric = self.state, self.config.validation.best_metric
        values = {"update": state.update, "epoch": self._epoch(), **result.to_dict()}
        values["trained_s"] = self.progress.trained_s()
        self.log.write(values, "validation")
        self.log.write_samples(state.update, result.samples)
        self.progress.show_validation(result)
        is_first = state.best_score is None or state.best_metric != metric or math.isnan(state.best_score)
        if is_first or result.metric(metric) > cast(float, state.best_score):
            failed = self._save_weights("best", values)
            if failed is None:
                state.best_metric, state.best_score, state.best_update = metric, result.metric(metric), state.update
            else:
                self.progress.say(f"{failed}; the training goes on")

    def _save(self) -> None:
        began_at_s = time.monotonic()
        with self.progress.outside_window():
            self._save_checkpoint()
        took_s = time.monotonic() - began_at_s + self.writer.slowest_s
        self.stop.slowest_save_s = max(self.stop.slowest_save_s, took_s)

    def _save_checkpoint(self) -> None:
        state = self.state
        state.window = self.window.total()
        state.window.elapsed_s = self.progress.window_s()
        state.trained_s = self.progress.trained_s()
        state.loss_average, n_averaged = self.judge.average.tolist()
        state.n_averaged = round(n_averaged)
        if self.accelerator.is_main_process:
            self.log.flush()
            self.writer.start(self.parts, state)

    def _save_weights(self, name: str, values: dict[str, Any]) -> str | None:
        values = {**values, "data_sha256": self.data.sha256}
        return save_weights(self.raw_model, self.run_dir / name, values)

    def _say(self, text: str) -> None:
        if self.accelerator.is_main_process:
            say(text)

    def _epoch(self) -> float:
        return self.state.update / self.plan.updates_per_epoch
