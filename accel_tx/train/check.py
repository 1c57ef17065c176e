"""The dry run behind `check`: what `train` would do with a config and a run folder, found out without doing it."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from accel_tx.config import Config, UserError
from accel_tx.data.dataset import PreparedData, prepare_data
from accel_tx.data.forecast import Forecast, forecast_training
from accel_tx.data.memory import Device, ddp_bytes
from accel_tx.train import (
    auto_tokens,
    checkpoint,
    device,
    file_system,
    launched,
    mirror,
    patience,
    processes,
    run_lock,
    scaling,
    sharding,
    warm_start,
)
from accel_tx.train.agreement import check_same_everywhere
from accel_tx.train.checkpoint_content import Content, Parts
from accel_tx.train.checkpoint_identity import check_belongs
from accel_tx.train.fresh import fresh_state, plan_of
from accel_tx.train.host_memory import available_to_each
from accel_tx.train.outlook import (
    Disk,
    Length,
    Outlook,
    hours_row,
    largest_numbers,
    length_row,
    rate_row,
    schedule_notes,
    schedule_problems,
    validation_notes,
)
from accel_tx.train.resume import newest_that_fits
from accel_tx.train.run_dir import Resume, check_run_dir, check_writable, existing
from accel_tx.train.state import TrainState
from accel_tx.train.try_out import Trying, try_out
from accel_tx.train.validation import check_tokenizer

_MIB = 2**20
_BYTES_PER_PARAMETER = 12
"""Of a checkpoint: the weight and Adam's two moments; of Muon's matrices a little too much."""


def check(config: Config, run_dir: Path, init_from: Path | None = None, resume: Resume = "auto") -> Outlook | None:
    """Everything that `train` with this input would do before its first update, and trial updates; writes nothing.

    The prepared data is made in its cache where it is not there yet. None on all processes but the main one.
    """
    rank = processes.rank()
    found = Outlook()
    with found.problem_told():
        launched.check_launch(config)
    if found.problems and rank != 0:
        raise UserError(found.problems[0])
    can_compute = not found.problems
    device.set_cpu_threads(config.train.cpu_threads)
    begun_in, mirror_dir = _begun_in(config, run_dir, resume, found)
    config = _of_run_dir(config, run_dir, begun_in, init_from, resume, found, is_main=rank == 0)
    if rank == 0:
        with found.problem_told():
            check_tokenizer(config)
    data = None
    with found.problem_told():
        data = prepare_data(config, begun_in)
        with file_system.usable_folders():
            is_new = not checkpoint.has_checkpoint(begun_in)
            source = warm_start.find_source(init_from) if is_new and init_from is not None else None
        if source is not None:
            warm_start.check_fits(source, config, data.tokenizers)
    if data is None or not can_compute:
        return found if rank == 0 else None
    with device.accelerator_for(config.train) as accelerator:
        with found.problem_told(), file_system.usable_folders():
            check_same_everywhere(accelerator, config, data.sha256)
            config = auto_tokens.settle(config, data, accelerator)
            _Check(config, data, run_dir, begun_in, mirror_dir, accelerator, found).run()
        return found if accelerator.is_main_process else None


def _begun_in(config: Config, run_dir: Path, resume: Resume, found: Outlook) -> tuple[Path, Path | None]:
    """The folder that a start goes on from, which may be the mirror; and the mirror, if `train` would take it."""
    if config.train.mirror_dir is None:
        return run_dir, None
    mirror_dir = Path(config.train.mirror_dir)
    with found.problem_told(), file_system.usable_folders():
        mirror.check_mirror(config, run_dir, mirror_dir, resume)
        _refuse_if_held(mirror_dir)
        is_ahead = mirror.update_ahead(run_dir, mirror_dir) is not None
        return mirror_dir if is_ahead else run_dir, mirror_dir
    return run_dir, None


def _of_run_dir(
    config: Config,
    run_dir: Path,
    begun_in: Path,
    init_from: Path | None,
    resume: Resume,
    found: Outlook,
    is_main: bool,
) -> Config:
    """What stands in the run folder against a start; under `auto` the config with the run's micro-batches."""
    with found.problem_told(), file_system.usable_folders():
        _refuse_if_held(run_dir)
        # What is brought back from the mirror will be in the run folder by then.
        required = resume if begun_in == run_dir else "auto"
        check_run_dir(mirror.as_recorded(config, run_dir), run_dir, required)
        config = scaling.settle(config, begun_in, is_main)
        warm_start.check_origin(begun_in, init_from, has_checkpoint=checkpoint.has_checkpoint(begun_in))
        config = auto_tokens.from_run(config, begun_in, is_main)
    with found.problem_told(), file_system.usable_folders():
        check_writable(run_dir)
    return config


def _refuse_if_held(folder: Path) -> None:
    held_by = run_lock.holder(folder)
    if held_by is not None:
        raise UserError(f"{folder}: {held_by} is writing this run; train waits for nobody: end it first")


class _Check:
    """The part that needs data and an accelerator; all processes go through it."""

    def __init__(
        self,
        config: Config,
        data: PreparedData,
        run_dir: Path,
        begun_in: Path,
        mirror_dir: Path | None,
        accelerator: Accelerator,
        found: Outlook,
    ) -> None:
        """`begun_in`: the folder that a start goes on from, `run_dir` or `mirror_dir`."""
        self.config, self.data, self.accelerator = config, data, accelerator
        self.run_dir, self.begun_in, self.mirror_dir = run_dir, begun_in, mirror_dir
        self.found, self.row = found, found.row
        self.plan = plan_of(config.train, data)
        self.fresh = fresh_state(config, data, self.plan, accelerator.mixed_precision)
        self.forecast = forecast_training(config, data)

    def run(self) -> None:
        """Fill in the outlook; on processes other than the main one it counts for nothing."""
        refused = len(self.found.problems) > 0
        self._describe()
        tried = try_out(self.config, self.data, self.accelerator, self.plan) if self._may_be_tried() else None
        saved = self._what_is_there(None if tried is None else tried.parts, refused)
        length = Length(self.fresh.n_updates, self.plan.updates_per_epoch, saved.update if saved else 0)
        self.row("length", length_row(length, self.config))
        self.row("learning rate", rate_row(length.n_updates, self.config.optim))
        self.found.problems += schedule_problems(length, self.config)
        self.found.notes += schedule_notes(length, self.config)
        n_sentences = sum(map(len, (self.data.valid, *(own.pairs for own in self.data.valid_sets.values()))))
        n_pairs_between = self.config.validation.every_updates * len(self.data.train) / length.per_epoch
        self.found.notes += validation_notes(n_sentences, n_pairs_between, self.config)
        if self.config.train.micro_batches_per_update % self.accelerator.num_processes:
            self.found.notes.append(
                "the processes do not divide train.micro_batches_per_update: an update is dealt out anew, into smaller "
                "micro-batches than those that memory is forecast for"
            )
        if sharding.is_asked_for():
            self.found.notes.append("FSDP: memory is forecast as if each process held the whole model")
        if tried is not None:
            self._tell_trial(tried, length)
        self._weigh_disk(None if tried is None else tried.parts)

    def _describe(self) -> None:
        config, data, forecast, a = self.config, self.data, self.forecast, self.accelerator
        sets = "".join(f", {name} {len(own.pairs):,}" for name, own in data.valid_sets.items())
        self.row("data", f"{len(data.train):,} training and {len(data.valid):,} validation pairs{sets}")
        vocabularies = f"{data.tokenizers.src.vocab_size:,} and {data.tokenizers.tgt.vocab_size:,}"
        self.row("model", f"{forecast.n_parameters:,} parameters; vocabularies of {vocabularies} entries")
        self.row(
            "machine",
            f"{a.num_processes} process(es) on {a.device.type}, precision {a.mixed_precision}, "
            f"{torch.get_num_threads()} thread(s)",
        )
        train = config.train
        padding = forecast.padding_share["gpu" if a.device.type == "cuda" else "cpu"]
        limit = f"{train.batch_size:,} pairs" if train.max_tokens is None else f"at most {train.max_tokens:,} tokens"
        self.row(
            "an update",
            f"{train.micro_batches_per_update} micro-batch(es) of {limit} on a side; "
            f"{forecast.tgt_tokens_per_update:,.0f} target tokens, {padding:.1%} padding in attention",
        )

    def _may_be_tried(self) -> bool:
        """Whether the largest micro-batch may be tried; a problem where the memory is too small for it by forecast."""
        needed = _forecast_bytes(self.config, self.forecast, self.data, self.accelerator)
        usable = _usable_bytes(self.accelerator)
        least = min(gather_object([usable]))
        where = "memory of the GPU" if self.accelerator.device.type == "cuda" else "memory"
        shown = "an unknown amount" if least == float("inf") else f"{least / _MIB:,.0f} MiB"
        self.row(where, f"{needed / _MIB:,.0f} MiB forecast, {shown} free for a process")
        # A GPU says so itself when it is tried; a CPU's process would be killed, or others with it.
        if needed <= least or self.accelerator.device.type == "cuda":
            return True
        self.found.problems.append(
            f"the largest micro-batch does not fit: {needed / _MIB:,.0f} MiB forecast for a process, {shown} free; set "
            "train.max_tokens lower (or auto), train.gradient_checkpointing true, or take a smaller model; not tried"
        )
        return False

    def _what_is_there(self, parts: Parts | None, refused: bool) -> TrainState | None:
        """The state that a start would go on from; the first row of the table."""
        saved, start = None, "refused, see below"
        if not refused:
            with self.found.problem_told(), file_system.usable_folders():
                folder, passed_over = _newest(self.begun_in, parts, self.fresh)
                self.found.notes += passed_over
                if folder is None and passed_over:
                    raise UserError(f"{self.begun_in}: no checkpoint in it is valid; give another --run_dir")
                if folder is not None:
                    saved = checkpoint.load_state(folder)
                start = _start_in_words(saved, folder, self.run_dir, self.fresh, self.config)
                if self.begun_in == self.mirror_dir:
                    start += f", brought back from {self.mirror_dir}"
        self.found.rows.insert(0, ("this start", start))
        return saved

    def _tell_trial(self, tried: Trying, length: Length) -> None:
        self.row("largest micro-batch", tried.in_words(self.accelerator.device))
        if tried.problem is not None:
            self.found.problems.append(tried.problem)
            return
        update_s = tried.seconds_of(self.forecast.tgt_tokens_per_update)
        self.row(
            "speed",
            f"{1 / tried.seconds_of(1):,.0f} target tokens/s, {update_s:.3g} s an update "
            f"(estimate, median of {len(tried.seconds_per_token)} updates)",
        )
        row, note = hours_row(length, update_s, self.config)
        self.row("time to train", row)
        self.found.notes += [note] if note is not None else []

    def _weigh_disk(self, parts: Parts | None) -> None:
        n_parameters = self.forecast.n_parameters
        size, weights = _BYTES_PER_PARAMETER * n_parameters, 4 * n_parameters
        if self.config.train.ema_decay is not None:
            size += weights
        if parts is not None:
            size = _content_bytes(parts)
        n_checkpoints, n_weights = largest_numbers(self.fresh.n_updates, self.config)
        self.row("a checkpoint", f"{size / 1e6:,.1f} MB, every {self.config.train.save_every_updates:,} updates")
        for label, folder, option in (
            ("disk", self.run_dir, "--run_dir"),
            ("disk of the mirror", self.mirror_dir, "train.mirror_dir"),
        ):
            if folder is None:
                continue
            place = existing(folder)
            free = shutil.disk_usage(place).free
            disk = Disk(size, weights, n_checkpoints, n_weights, _present_bytes(folder), free)
            self.row(label, f"{disk.row()} in {place}")
            problem = disk.problem(str(folder), option)
            if problem is not None:
                self.found.problems.append(problem)


def _present_bytes(run_dir: Path) -> int:
    names = ("checkpoints", "best", "final", checkpoint.VALIDATED)
    return sum(file_system.size_bytes(run_dir / name) for name in names)


def _forecast_bytes(config: Config, forecast: Forecast, data: PreparedData, accelerator: Accelerator) -> float:
    kind: Device = "gpu" if accelerator.device.type == "cuda" else "cpu"
    precision = {"no": "float32"}.get(accelerator.mixed_precision, accelerator.mixed_precision)
    needed = forecast.memory_mib[f"{kind} {precision}"]["total"] * _MIB
    vocab_sizes = data.tokenizers.src.vocab_size, data.tokenizers.tgt.vocab_size
    return needed + ddp_bytes(config.model, *vocab_sizes, accelerator.num_processes)


def _usable_bytes(accelerator: Accelerator) -> float:
    """Free memory for this process; infinite where nothing tells."""
    if accelerator.device.type == "cuda":
        return float(torch.cuda.mem_get_info(accelerator.device)[0])
    return available_to_each()


def _newest(run_dir: Path, parts: Parts | None, fresh: TrainState) -> tuple[Path | None, list[str]]:
    if parts is not None:
        return newest_that_fits(run_dir, parts, fresh)
    folder, passed_over = checkpoint.newest_valid(run_dir)
    if folder is not None:
        check_belongs(checkpoint.load_state(folder), fresh, folder)
    return folder, passed_over


def _start_in_words(
    saved: TrainState | None, folder: Path | None, run_dir: Path, fresh: TrainState, config: Config
) -> str:
    if saved is None or folder is None:
        return f"a new run in {run_dir}"
    at = f"update {saved.update:,} of {fresh.n_updates:,}"
    if saved.update >= fresh.n_updates or patience.has_run_out(saved, config.validation):
        return f"nothing to train: the run is complete at {at} ({folder.name})"
    longer = f", longer than the {saved.n_updates:,} before" if saved.n_updates < fresh.n_updates else ""
    return f"goes on from {at}{longer} ({folder.name})"


def _content_bytes(parts: Parts) -> int:
    ema = None if parts.ema is None else dict(parts.ema.weights)
    return Content(dict(parts.model.state_dict()), parts.optimizer.state_dict(), {}, None, ema).n_bytes()
