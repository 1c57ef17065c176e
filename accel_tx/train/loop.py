"""The training: from a config and a run folder to trained weights, going on where an earlier start stopped."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from accel_tx.config import Config, UserError
from accel_tx.data.batch import Batch
from accel_tx.data.dataset import PreparedData, prepare_data
from accel_tx.model.transformer import count_parameters
from accel_tx.train import (
    auto_tokens,
    checkpoint,
    compiling,
    cuda_graphs,
    device,
    file_system,
    launched,
    mirror,
    patience,
    processes,
    rollback,
    run_lock,
    scaling,
    warm_start,
)
from accel_tx.train.agreement import (
    check_same_everywhere,
    check_same_weights,
    end_everywhere_if,
    failing_together,
    run_dir_locked,
)
from accel_tx.train.bad_numbers import check_weights
from accel_tx.train.bad_updates import BadUpdates, forget_bad_updates
from accel_tx.train.candidates import Candidates, line_of, winner_of
from accel_tx.train.checkpoint_content import help_copy
from accel_tx.train.checkpoint_writer import CheckpointWriter
from accel_tx.train.fresh import build, fresh_state, plan_of
from accel_tx.train.lines import finite_or_none
from accel_tx.train.loading import deaths_told, load_updates, worker_lines
from accel_tx.train.prepared import prepare
from accel_tx.train.progress import Progress, closing_line, opening_lines, say
from accel_tx.train.results import Results
from accel_tx.train.resume import find_checkpoint, load_checkpoint
from accel_tx.train.run_dir import Resume, begin_run_dir, check_run_dir, check_writable, leave_preempted
from accel_tx.train.sharding import is_sharded, sharding_lines, whole_weights
from accel_tx.train.shortage import BEFORE_UPDATES, IN_UPDATES, shortage_told
from accel_tx.train.starts import describe_start, write_start
from accel_tx.train.stopping import PREEMPTED_FILE, STOP_FILE, Stop, StopAsked
from accel_tx.train.tracking import MetricsLog
from accel_tx.train.validation import Validation, check_tokenizer
from accel_tx.train.window import window_values


def train(
    config: Config,
    run_dir: Path,
    resume: Resume = "auto",
    init_from: Path | None = None,
    stop: Stop | None = None,
) -> None:
    """Train as `config` says, writing into `run_dir`; see docs/guarantees.md for what a run folder holds.

    A new run begins with the weights in `init_from`, where it is given, instead of random ones. `stop` is what may end
    the training early; by default one that begins now.
    Raises: UserError before anything is written if the input, the hardware or an earlier run in `run_dir` forbids it.
    """
    if stop is None:
        with Stop() as stop:
            train(config, run_dir, resume, init_from, stop)
        return
    launched.check_launch(config)
    device.set_cpu_threads(config.train.cpu_threads)
    rank = processes.rank()
    mirror_dir = None if config.train.mirror_dir is None else Path(config.train.mirror_dir)
    with file_system.usable_folders():
        if rank == 0:
            run_lock.refuse_if_held(run_dir)
            check_tokenizer(config)
        if mirror_dir is not None:
            mirror.check_mirror(config, run_dir, mirror_dir, resume)
            mirror.bring_back(config, run_dir, mirror_dir, is_main=rank == 0)
        config = scaling.settle(config, run_dir, is_main=rank == 0)
        config = auto_tokens.from_run(config, run_dir, is_main=rank == 0)
        check_run_dir(config, run_dir, resume)
        if rank == 0:
            check_writable(run_dir)
        is_new = not checkpoint.has_checkpoint(run_dir)
        warm_start.check_origin(run_dir, init_from, has_checkpoint=not is_new)
        source = warm_start.find_source(init_from) if is_new and init_from is not None else None
    data = prepare_data(config, run_dir)
    if source is not None:
        warm_start.check_fits(source, config, data.tokenizers)
    with contextlib.ExitStack() as stack:
        accelerator = stack.enter_context(device.accelerator_for(config.train))
        check_same_everywhere(accelerator, config, data.sha256)
        for folder in (run_dir, mirror_dir):
            if folder is not None:
                stack.enter_context(run_dir_locked(accelerator, folder))
        config = auto_tokens.settle(config, data, accelerator)
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
    with shortage_told(BEFORE_UPDATES):
        run = Run(config, run_dir, data, accelerator, stop)
    try:
        with shortage_told(BEFORE_UPDATES):
            run.resume(source)
        run.announce()
        with deaths_told(), shortage_told(IN_UPDATES):
            run.go()
        run.finish()
    except BaseException as error:
        run.writer.join()
        # A copy to a slow disk may take minutes, and who interrupts twice wants the end at once.
        if run.mirror is not None and not isinstance(error, KeyboardInterrupt):
            run.mirror.join()
        raise


class Run:
    """One start of a training run: everything prepared, and the state that changes."""

    def __init__(
        self, config: Config, run_dir: Path, data: PreparedData, accelerator: Accelerator, stop: Stop | None = None
    ) -> None:
        self.config, self.run_dir, self.data, self.accelerator = config, run_dir, data, accelerator
        self.stop = stop or Stop()
        self.stopped_by: str | None = None
        self.plan = plan_of(config.train, data)
        self.state = fresh_state(config, data, self.plan, accelerator.mixed_precision)
        model, optimizer, scheduler = build(config, data, self.state.n_updates)
        self.n_parameters = count_parameters(model)
        prepared = prepare(config, accelerator, model, optimizer, scheduler)
        self.model, self.optimizer, self.scheduler = prepared.model, prepared.optimizer, prepared.scheduler
        self.raw_model, self.uses_tf32 = prepared.raw_model, prepared.uses_tf32
        self.parts, self.updater = prepared.parts, prepared.updater
        mirror_dir = config.train.mirror_dir if accelerator.is_main_process else None
        self.mirror = None if mirror_dir is None else mirror.Mirror(run_dir, Path(mirror_dir), say)
        on_saved = None if self.mirror is None else self.mirror.update
        keep, every = config.train.keep_checkpoints, config.train.save_every_updates
        self.writer = CheckpointWriter(run_dir, keep, every, say, on_saved)
        self.judge, self.reports, self.window = self.updater.judge, self.updater.reports, self.updater.window
        self.bad_updates = BadUpdates(accelerator, config.train, run_dir, self.plan, data)
        self.candidates = Candidates(accelerator, self.raw_model, self.parts.ema, config, data, run_dir)
        self.results = Results(self.raw_model, run_dir, config.validation.best_metric, data.sha256)
        self.log: MetricsLog

    @property
    def last_update(self) -> int:
        """Where this start ends: the end of the run, or `stop_at_update` before it."""
        return min(self.state.n_updates, self.config.train.stop_at_update or self.state.n_updates)

    @property
    def is_over(self) -> bool:
        """Whether this start has no update left to make."""
        is_early = patience.has_run_out(self.state, self.config.validation)
        return self.stopped_by is not None or is_early or self.state.update >= self.last_update

    def resume(self, init_from: warm_start.Source | None = None) -> None:
        """Load the newest valid checkpoint, the same one on every process, or begin the run folder."""
        accelerator = self.accelerator
        folder = find_checkpoint(accelerator, self.run_dir, self.parts, self.state)
        if folder is not None:
            n_planned = self._load(folder)
            # The start takes the newest that can be loaded.
            later = checkpoint.checkpoint_dirs(self.run_dir)
            self.writer.passed_over = {path.name for path in later if checkpoint.update_of(path) > self.state.update}
            self._say(f"going on from {folder}")
            if n_planned < self.state.n_updates:
                self._say(f"the run gets longer: {self.state.n_updates:,} updates in place of {n_planned:,}")
        else:
            self.candidates.forget_later(0)
            self._begin_with(init_from)
        with failing_together(accelerator, self.run_dir):
            if accelerator.is_main_process:
                begin_run_dir(self.config, self.run_dir, self.data, self.state)
                forget_bad_updates(self.run_dir, self.state)
            update, is_due = self.state.update, self.state.validation_is_due
            self.log = MetricsLog(accelerator, self.run_dir, self.config, update, say, is_due)

    def _begin_with(self, init_from: warm_start.Source | None) -> None:
        sha256 = None
        with failing_together(self.accelerator, self.run_dir):
            if init_from is not None:
                self.state.init_from = warm_start.load_initial_weights(init_from, self.raw_model)
                sha256 = self.state.init_from["sha256"]
        check_same_weights(self.accelerator, sha256)
        if init_from is not None:
            self._say(f"beginning with the weights in {init_from.weights}")

    def _load(self, folder: Path) -> int:
        """Put the checkpoint into the run, which keeps its length; the length that it had then."""
        n_updates = self.state.n_updates
        self.state = load_checkpoint(self.accelerator, folder, self.parts)
        n_planned = self.state.n_updates
        self.state.make_longer(n_updates)
        self.updater.restore(self.state)
        self.candidates.forget_later(self.state.update)
        return n_planned

    def announce(self) -> None:
        """Say what is going to happen."""
        n_pairs = len(self.data.train), len(self.data.valid)
        for line in opening_lines(
            self.accelerator, self.state, self.last_update, self.plan, n_pairs, self.n_parameters
        ):
            self._say(line)
        train = self.config.train
        for line in (
            *launched.gpu_lines(),
            *sharding_lines(self.raw_model),
            *device.precision_lines(self.accelerator.mixed_precision),
            *device.tf32_lines(train.tf32, self.uses_tf32),
            *compiling.compile_lines(train.compile),
            *cuda_graphs.graph_lines(self.config),
            *worker_lines(train.loader_workers),
        ):
            self._say(line)

    def go(self) -> None:
        """Train up to the last update, or until somebody asks for a stop."""
        state, stop = self.state, self.stop
        # First: a signal that ended the program behind the removal would leave neither the file nor a new one.
        stop.finish_updates_first(self.run_dir, self.config.train.max_hours)
        with failing_together(self.accelerator, self.run_dir):
            if self.accelerator.is_main_process:
                (self.run_dir / PREEMPTED_FILE).unlink(missing_ok=True)
        self._write_start()
        self.progress = Progress(state, is_main=self.accelerator.is_main_process)
        with self.progress:
            if state.validation_is_due:
                # Without the limit, or one that is shorter than a validation would never let the run go on.
                with stop.without_limit():
                    self._validate()
                # The checkpoint is of before that validation, and the run may go back to it.
                if self.stopped_by is None:
                    self._save()
            while not self.is_over:
                self._train_on()

    def _write_start(self) -> None:
        is_idle = self.is_over and not self.state.validation_is_due
        if self.accelerator.is_main_process and not is_idle:
            start = describe_start(self.accelerator, self.state.update, self.state.n_updates, self.n_parameters)
            failed = write_start(self.run_dir, start)
            if failed is not None:
                self._say(failed)

    def _train_on(self) -> None:
        """Train until the end, or a stop, or until the run goes back to a checkpoint."""
        for n_tokens, micro_batches in self.updates():
            grad_norm = None
            is_passed_over = self.state.passes_over(self.state.update)
            if is_passed_over:
                self.updater.pass_over()
            else:
                grad_norm = self.train_update(micro_batches, n_tokens)
            self.state.update += 1
            self.progress.advance()
            went_back = self._do_what_is_due(grad_norm, is_passed_over)
            if went_back or self.is_over:
                return

    def _do_what_is_due(self, grad_norm: torch.Tensor | None, is_passed_over: bool) -> bool:
        """Answer to bad updates and to a stop; metrics, validation, checkpoint. True if the run went back instead."""
        train, state = self.config.train, self.state
        logs = state.update % train.log_every_updates == 0
        # The weights are those that the run went back to: a validation of them would count as one without a gain.
        validates = state.update % self.config.validation.every_updates == 0 and not is_passed_over
        validates |= state.update == state.n_updates
        saves = state.update % train.save_every_updates == 0 or state.update == self.last_update
        if self._went_back(every_report=logs or validates or saves):
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
        if saves or self.is_over:
            self._save()
        return False

    def _went_back(self, every_report: bool) -> bool:
        """Answer to what the reports of updates say: a stop is noted; True if the run went back for a bad one."""
        reports = self.reports.take(every_report)
        if any(report.n_stops for report in reports):
            self._agree_on_stop()
            reports += self.reports.take(every=True)
        calls = self.bad_updates.calls_for_rollback
        return any(calls(report, self.state) and self._go_back(report.update) for report in reports)

    def _agree_on_stop(self) -> None:
        """Take the first process' reason for all."""
        reasons = gather_object([self.stop.asked()])
        self.stopped_by = next(reason for reason in reasons if reason is not None)

    def _go_back(self, update: int) -> bool:
        """Go to the last regular checkpoint and take out the updates from there to `update`; False if there is none."""
        self.writer.wait()
        folder = rollback.find_way_back(self.accelerator, self.run_dir, self.config.train.save_every_updates, update)
        if folder is None:
            self._say("there is no checkpoint to go back to: this update alone is skipped")
            return False
        now = self.state
        self._load(folder)
        rollback.take_out(self.state, now, update)
        self.reports.take(every=True)
        with failing_together(self.accelerator, self.run_dir):
            self.log.go_back(self.state.update)
        self.progress.go_back(self.state)
        self._say(f"back to {folder.name}; updates {self.state.update + 1:,} to {update + 1:,} are passed over")
        return True

    def finish(self) -> None:
        """Write `final/` where the schedule is complete; say how to go on where it is not.

        Raises: UserError, ending every process, if what this start was to leave could not be written.
        """
        state, a = self.state, self.accelerator
        is_early = patience.has_run_out(state, self.config.validation) and state.update < state.n_updates
        is_complete = is_early or (state.update >= state.n_updates and not state.validation_is_due)
        is_first_end = is_complete and not self.results.has_final(state)
        unsaved = [self.writer.wait(), self.log.close(state.update if is_first_end else None)]
        # Now that it has been obeyed: what fails from here on is not to leave it to the next start.
        self._remove_stop_file()
        # Weights without the checkpoint behind them would look like a run that is done: the next start makes both.
        is_saved = unsaved[0] is None
        weights = whole_weights(self.raw_model) if is_complete else {}
        if a.is_main_process and is_saved and is_first_end:
            unsaved.append(self.results.write_final(state, weights))
        if a.is_main_process and self.stopped_by is not None:
            unsaved.append(
                leave_preempted(self.run_dir, self.stopped_by, state, is_complete, is_saved=unsaved[0] is None)
            )
        failed = "; ".join(filter(None, unsaved))
        try:
            end_everywhere_if(a, f"{failed}; make room and give the same command again" if failed else None)
        finally:  # not before: a copy to a slow disk may take longer than the other processes may wait
            behind = None if self.mirror is None else self.mirror.finish()
        if behind is not None:
            raise UserError(f"{behind}; make room and give the same command again")
        early = patience.in_words(state, self.config.validation) if is_early else None
        stop_at = self.config.train.stop_at_update
        self._say(closing_line(state, self.stopped_by, stop_at, is_complete, self.run_dir, early))

    def _remove_stop_file(self) -> None:
        if not (self.accelerator.is_main_process and self.stop.has_file()):
            return
        try:
            (self.run_dir / STOP_FILE).unlink(missing_ok=True)
        except OSError as error:
            told = file_system.describe(error, self.run_dir, 0)
            self._say(f"the file {STOP_FILE} cannot be removed: {told}; remove it, or the next start stops at once")
        else:
            self._say(f"the file {STOP_FILE} is removed")

    def updates(self) -> Iterator[tuple[int, list[Batch]]]:
        """Each update still to do: its target tokens over all processes, and this process' micro-batches."""
        n_workers = self.config.train.loader_workers
        first, last, is_passed_over = self.state.update, self.last_update, self.state.passes_over
        collate = self.updater.gradient.collate
        return load_updates(
            self.plan, self.data.train, first, last, self.accelerator, n_workers, collate, is_passed_over
        )

    def train_update(self, micro_batches: list[Batch], n_tokens: int) -> torch.Tensor:
        """Make the update that comes now; the norm of its gradient."""
        began_at_s = time.monotonic()
        # The thread that writes goes on after the save, so only now is it known how long the disk takes.
        self.stop.slowest_write_s = self.writer.slowest_s + (0.0 if self.mirror is None else self.mirror.slowest_s)
        look, every = None, self.config.train.histograms_every_updates
        if every is not None and (self.state.update + 1) % every == 0:
            look = partial(self.log.write_histograms, self.state.update + 1, self.raw_model)
        norm = self.updater.train(self.state.update, micro_batches, n_tokens, self.stop.asked() is not None, look)
        self.stop.slowest_update_s = max(self.stop.slowest_update_s, time.monotonic() - began_at_s)
        return norm

    def _write_metrics(self, grad_norm: torch.Tensor | None) -> None:
        values = {
            "update": self.state.update,
            "epoch": self._epoch(),
            "lr": self.updater.lr,
            "grad_norm": None if grad_norm is None else finite_or_none(float(grad_norm)),
            **window_values(self.window.total(), self.progress.restart_window_s()),
            **device.memory_values(),
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
                results = self.candidates.validate(self.state, self.stop.poll)
            except StopAsked:
                self._agree_on_stop()
                return
            self.state.validation_is_due = False
            if results is not None:
                self._record(results)
            self.candidates.let_go()
            patience.share(self.accelerator, self.state)

    def _record(self, results: dict[str, Validation]) -> None:
        state, metric = self.state, self.config.validation.best_metric
        winner = winner_of(results, metric)
        best = results[winner]
        at = {"update": state.update, "epoch": self._epoch()}
        trained_s = self.progress.trained_s()
        self.log.write({**at, **line_of(results, metric), "trained_s": trained_s}, "validation")
        self.progress.show_validation(results, winner)
        patience.count_validation(state, best.metric(metric), self.config.validation)
        values = {**at, **best.to_dict(), "trained_s": trained_s, "weights": winner}
        failed = self.results.keep_if_best(best, values, state, self.candidates.weights_of(winner))
        if failed is not None:
            self._say(f"{failed}; the training goes on")
        # Behind what a run is for: they only adorn it.
        self.log.write_samples(state.update, best.samples)
        self.log.write_attention(state.update, best.attention)

    def _save(self) -> None:
        began_at_s = time.monotonic()
        with self.progress.outside_window():
            self.updater.store(self.state)
            self.progress.store(self.state)
            if self.accelerator.is_main_process:
                self.log.flush()
                self.writer.start(self.parts, self.state)
            elif is_sharded(self.raw_model):
                help_copy(self.parts)
        self.stop.slowest_save_s = max(self.stop.slowest_save_s, time.monotonic() - began_at_s)

    def _say(self, text: str) -> None:
        if self.accelerator.is_main_process:
            say(text)

    def _epoch(self) -> float:
        return self.state.update / self.plan.updates_per_epoch
