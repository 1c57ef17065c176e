"""The training: from a config and a run folder to trained weights, going on where an earlier start stopped."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch.utils.data import DataLoader

from accel_tx.config import Config, UserError, dump_yaml, what_is_learned
from accel_tx.data.batching import BatchLimits, BatchPlan, MicroBatchSampler
from accel_tx.data.collator import Batch, DataCollator
from accel_tx.data.dataset import PreparedData, prepare_data
from accel_tx.inference.translator import load_run_config
from accel_tx.model.transformer import Transformer, count_parameters
from accel_tx.train import checkpoint, device
from accel_tx.train.progress import Progress
from accel_tx.train.schedule import build_optimizer, build_scheduler
from accel_tx.train.state import TrainState, Window
from accel_tx.train.tracking import MetricsLog
from accel_tx.train.validation import Validation, validate

Resume = Literal["auto", "never", "require"]


def train(config: Config, run_dir: Path, resume: Resume = "auto") -> None:
    """Train as `config` says, writing into `run_dir`; see the README for what a run folder holds.

    Raises: UserError before anything is written if the input, the hardware or an earlier run in `run_dir` forbids it.
    """
    device.check_gpu_build()
    device.resolve_precision(config.train.precision)
    device.set_cpu_threads(config.train.cpu_threads)
    check_run_dir(config, run_dir, resume)
    _, local_rank = device.process_index()
    data = prepare_data(config, is_builder=local_rank == 0)
    accelerator = device.start_accelerator(config.train)
    try:
        run = Run(config, run_dir, data, accelerator)
        run.resume(resume)
        run.announce()
        run.go()
        run.finish()
    finally:
        accelerator.end_training()


def check_run_dir(config: Config, run_dir: Path, resume: Resume) -> None:
    """Raise UserError if `run_dir` holds a run that this one must not go on or overwrite."""
    has_checkpoint = any((run_dir / "checkpoints").glob("update_*"))
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


class Run:
    """One start of a training run: everything prepared, and the state that changes."""

    def __init__(self, config: Config, run_dir: Path, data: PreparedData, accelerator: Accelerator) -> None:
        self.config, self.run_dir, self.data, self.accelerator = config, run_dir, data, accelerator
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
        # Sums since the last line of metrics that stay on the device until it is due: loss, updates skipped by fp16.
        self.sums = torch.zeros(2, device=accelerator.device)
        self.log: MetricsLog

    @property
    def last_update(self) -> int:
        """Where this start ends: the end of the schedule, or `stop_at_update` before it."""
        return min(self.state.n_updates, self.config.train.stop_at_update or self.state.n_updates)

    def resume(self, resume: Resume) -> None:
        """Load the newest valid checkpoint, the same one on every process, or begin the run folder."""
        accelerator = self.accelerator
        folder: Path | None = None
        passed_over: list[str] = []
        if accelerator.is_main_process:
            checkpoint.tidy(self.run_dir)
            folder, passed_over = checkpoint.newest_valid(self.run_dir)
        folder, passed_over = _broadcast(accelerator, [folder, passed_over])
        for line in passed_over:
            accelerator.print(line)
        if folder is not None:
            saved = checkpoint.load_state(folder)
            checkpoint.check_belongs(saved, self.state, folder)
            accelerator.load_state(str(folder))
            self.state = saved
            if accelerator.is_main_process:
                self.sums[0] = saved.window.loss_sum
            else:  # the saved sums are those of all processes together
                saved.window.n_src_tokens = saved.window.n_padded_tokens = 0
            accelerator.print(f"going on from {folder}")
        elif passed_over or resume == "require":
            raise UserError(f"{self.run_dir}: no checkpoint in it is valid; give another --run_dir to start anew")
        if accelerator.is_main_process:
            self._begin_run_dir()
        accelerator.wait_for_everyone()
        self.log = MetricsLog(accelerator, self.run_dir, self.config, self.state.update)
        self.first_update = self.state.update

    def _begin_run_dir(self) -> None:
        self.run_dir.mkdir(parents=True, exist_ok=True)
        checkpoint.write_synced(self.run_dir / "config.yaml", dump_yaml(self.config))
        self.data.tokenizers.save(self.run_dir / "tokenizer")
        report = json.dumps(self.data.report.to_dict(), indent=1, ensure_ascii=False)
        checkpoint.write_synced(self.run_dir / "clean_report.json", report)

    def announce(self) -> None:
        """Say what is going to happen."""
        a, n = self.accelerator, self.config.train.micro_batches_per_update
        a.print(
            f"{len(self.data.train):,} training and {len(self.data.valid):,} validation pairs, "
            f"{self.n_parameters:,} parameters, {a.num_processes} process(es) on {a.device.type}, "
            f"precision {a.mixed_precision}, {torch.get_num_threads()} thread(s)"
        )
        a.print(
            f"{self.state.n_updates:,} updates, {self.plan.updates_per_epoch:,} an epoch, "
            f"each of {n} micro-batch(es); from update {self.state.update:,} to {self.last_update:,}"
        )
        if n % a.num_processes:
            a.print(
                f"{n} micro-batch(es) do not divide among {a.num_processes} processes, so the largest are halved: "
                "the same pairs in each update at the same rate, other dropout draws"
            )

    def go(self) -> None:
        """Train up to the last update, with metrics, validation and checkpoints when they are due."""
        train, state = self.config.train, self.state
        self.progress = Progress(state, is_main=self.accelerator.is_main_process)
        with self.progress:
            for update_tokens, micro_batches in self._updates():
                grad_norm = self._train_update(micro_batches, update_tokens)
                state.update += 1
                self.progress.advance()
                is_last = state.update == self.last_update or self._out_of_time()
                if state.update % train.log_every_updates == 0:
                    self._write_metrics(grad_norm)
                if state.update % self.config.validation.every_updates == 0 or state.update == state.n_updates:
                    self._validate()
                if state.update % train.save_every_updates == 0 or is_last:
                    self._save()
                if is_last:
                    break

    def finish(self) -> None:
        """Write `final/` where the schedule is complete; say how to go on where it is not."""
        state = self.state
        self.log.close()
        if state.update < state.n_updates:
            self.accelerator.print(
                f"stopped after update {state.update:,} of {state.n_updates:,}; the same command goes on"
            )
            return
        has_trained = state.update > self.first_update
        if self.accelerator.is_main_process and (has_trained or not (self.run_dir / "final").exists()):
            self._save_weights("final", {"update": state.update})
        best = (
            "" if state.best_update is None else f"; best {self.config.validation.best_metric} at {state.best_update:,}"
        )
        self.accelerator.print(
            f"complete after update {state.update:,}{best}; weights in {self.run_dir}/best and final"
        )

    def _updates(self) -> Iterator[tuple[int, list[Batch]]]:
        """Each update still to do: its target tokens over all processes, and this process' micro-batches."""
        a, first, last = self.accelerator, self.state.update, self.last_update
        n_slots = self.plan.slots_per_process(a.num_processes)
        sampler = MicroBatchSampler(self.plan, first, last, a.process_index, a.num_processes)
        loader: DataLoader[Batch] = DataLoader(
            self.data.train,  # type: ignore[arg-type]
            batch_sampler=sampler,
            # No multiple to pad to: the matrix products see all positions of a batch as one dimension.
            collate_fn=DataCollator(),
            num_workers=self.config.train.loader_workers,
            pin_memory=a.device.type == "cuda",
            # Without one of its own it would draw from the generator that dropout uses.
            generator=torch.Generator(),
        )
        batches = iter(loader)
        for update in self.plan.updates(first, last):
            # Known from the plan, so no process has to ask the others.
            n_tokens = int(self.data.train.tgt_lengths[np.concatenate(update)].sum())
            yield n_tokens, [next(batches) for _ in range(n_slots)]

    def _train_update(self, micro_batches: list[Batch], n_tokens: int) -> torch.Tensor:
        """Forward and backward of every micro-batch, then one optimizer step; returns the gradient's norm.

        The loss is a sum over tokens. DDP averages over processes, so it is scaled by their number to become the mean
        over the tokens of all micro-batches of all processes.
        """
        a, state, optim = self.accelerator, self.state, self.config.optim
        self.model.train()
        for slot, batch in enumerate(micro_batches):
            _seed_dropout(self.config.train.seed, state.update, slot * a.num_processes + a.process_index)
            is_last = slot + 1 == len(micro_batches)
            with contextlib.nullcontext() if is_last else a.no_sync(self.model):
                summed = self.model(batch.to(a.device), optim.label_smoothing)
                a.backward(summed * (a.num_processes / n_tokens))
            self.sums[0] += summed.detach()
            state.window.n_src_tokens += batch.n_src_tokens if batch.n_tgt_tokens else 0
            state.window.n_padded_tokens += batch.n_padded_tokens if batch.n_tgt_tokens else 0
        state.window.n_tgt_tokens += n_tokens
        # Clipping unscales an fp16 gradient first; an infinite bound only measures.
        norm = a.clip_grad_norm_(self.model.parameters(), optim.clip_norm or math.inf)
        self.lr = self.optimizer.param_groups[0]["lr"]
        self.optimizer.step()
        # The wrapped scheduler would stand still when fp16 skips an update; the rate depends on the update alone.
        self.scheduler.scheduler.step()
        self.optimizer.zero_grad()
        if a.scaler is not None:
            # The fused optimizer skips such an update itself, unseen by accelerate's `step_was_skipped`.
            self.sums[1] += ~norm.isfinite()
        return cast(torch.Tensor, norm)

    def _close_window(self) -> Window:
        """The sums since the last line of metrics over all processes; the only wait for the device."""
        own = self.state.window
        sums = torch.tensor(
            [own.n_src_tokens, own.n_padded_tokens], dtype=torch.float32, device=self.accelerator.device
        )
        n_skipped = own.n_skipped_updates + round(float(self.sums[1]))
        sums = self.accelerator.reduce(torch.cat([self.sums[:1].float(), sums])).tolist()
        return Window(sums[0], own.n_tgt_tokens, round(sums[1]), round(sums[2]), n_skipped)

    def _write_metrics(self, grad_norm: torch.Tensor) -> None:
        state, window = self.state, self._close_window()
        n_tokens = max(1, window.n_tgt_tokens)
        values = {
            "update": state.update,
            "epoch": self._epoch(),
            "loss": window.loss_sum / n_tokens if math.isfinite(window.loss_sum) else None,
            "lr": self.lr,
            "grad_norm": float(grad_norm) if grad_norm.isfinite() else None,
            "tgt_tokens_per_s": n_tokens / self.progress.restart_window_s(),
            "padding_share": 1 - (window.n_src_tokens + n_tokens) / max(1, window.n_padded_tokens),
            "skipped_updates": window.n_skipped_updates,
            "trained_s": self.progress.trained_s(),
        }
        self.log.write(values, "train")
        self.progress.show(values)
        state.window = Window()
        self.sums.zero_()

    def _validate(self) -> None:
        with self.progress.outside_window():
            result = validate(self.accelerator, self.raw_model, self.data, self.config)
            if result is not None:
                self._record(result)

    def _record(self, result: Validation) -> None:
        state, metric = self.state, self.config.validation.best_metric
        values = {"update": state.update, "epoch": self._epoch(), **result.to_dict()}
        values["trained_s"] = self.progress.trained_s()
        self.log.write(values, "validation")
        self.log.write_samples(state.update, result.samples)
        scores = result.scores
        self.progress.say(
            f"update {state.update:,}: val_loss {result.val_loss:.3f}  BLEU {scores.bleu:.2f}  chrF {scores.chrf:.2f}  "
            f"CER {scores.cer:.3f}  WER {scores.wer:.3f}  ({result.seconds:.0f} s)"
        )
        for src, reference, hypothesis in result.samples:
            self.progress.say(f"  source      {src}\n  reference   {reference}\n  translation {hypothesis}")
        is_first = state.best_score is None or state.best_metric != metric or math.isnan(state.best_score)
        if is_first or result.metric(metric) > cast(float, state.best_score):
            state.best_metric, state.best_score, state.best_update = metric, result.metric(metric), state.update
            self._save_weights("best", values)

    def _save(self) -> None:
        with self.progress.outside_window():
            self._save_checkpoint()

    def _save_checkpoint(self) -> None:
        window = self._close_window()
        window.elapsed_s = self.progress.window_s()
        self.state.trained_s = self.progress.trained_s()
        if self.accelerator.is_main_process:
            own, self.state.window = self.state.window, window
        checkpoint.save_checkpoint(self.accelerator, self.state, self.run_dir, self.config.train.keep_checkpoints)
        if self.accelerator.is_main_process:
            self.state.window = own

    def _save_weights(self, name: str, values: dict[str, Any]) -> None:
        values = {**values, "data_sha256": self.data.sha256}
        checkpoint.save_weights(self.raw_model, self.run_dir / name, values)

    def _epoch(self) -> float:
        return self.state.update / self.plan.updates_per_epoch

    def _out_of_time(self) -> bool:
        """Whether `max_hours` are over; asked at log points, and the main process' clock decides for all."""
        max_hours = self.config.train.max_hours
        if max_hours is None or self.state.update % self.config.train.log_every_updates:
            return False
        is_over = self.progress.this_start_s() > max_hours * 3600
        return bool(_broadcast(self.accelerator, [is_over])[0])


def _seed_dropout(seed: int, update: int, micro_batch: int) -> None:
    torch.manual_seed(int(np.random.SeedSequence([seed, update, micro_batch]).generate_state(1, np.uint64)[0]))


def _broadcast(accelerator: Accelerator, values: list[Any]) -> list[Any]:
    """The main process' values on every process."""
    return values if accelerator.num_processes == 1 else broadcast_object_list(values)
