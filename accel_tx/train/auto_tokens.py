"""`train.max_tokens: auto`: the largest micro-batches that the memory holds, or, on a CPU, that gain speed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from accel_tx.config import Config, UserError
from accel_tx.data.budget import (
    budget_range,
    forecast_bytes,
    is_auto,
    largest_that_fits,
    with_budget,
    with_recorded,
    worst_shapes,
)
from accel_tx.data.dataset import PreparedData
from accel_tx.data.memory import Device, activation_bytes, ddp_bytes
from accel_tx.data.shapes import Shapes
from accel_tx.inference.translator import load_run_config
from accel_tx.model.gpu import uses_gpu
from accel_tx.train.agreement import end_everywhere_if
from accel_tx.train.device import resolve_precision
from accel_tx.train.host_memory import available_to_each
from accel_tx.train.processes import n_launched
from accel_tx.train.progress import say
from accel_tx.train.shortage import is_shortage
from accel_tx.train.trial import MARGIN, Trial, undisturbed

# The multi30k_en_fr model trained on 5,300, 4,500, 4,700 and 3,300 target tokens a second of CPU time with updates of
# 8,192 tokens in 1, 2, 4 and 8 micro-batches (bf16, one core of a shared machine); larger ones were not tried.
_MOST_ON_CPU = 8192
# Of the memory that is free: other programs want some as well.
_SHARE_OF_HOST = 0.8
_LESS = "a lower model.max_positions, train.gradient_checkpointing true or a smaller model needs less"


@dataclass(frozen=True)
class _Found:
    budget: int | None
    why: str
    """Why it is not larger; or what is missing where there is none."""


def from_run(config: Config, run_dir: Path, is_main: bool) -> Config:
    """Under `auto`, the config with the micro-batches of the run in `run_dir`, if one has begun there.

    Raises: UserError if its updates are of another size.
    """
    if not is_auto(config) or not (run_dir / "config.yaml").exists():
        return config
    recorded = load_run_config(run_dir)
    found = with_recorded(config, recorded)
    sizes = f"{recorded.train.micro_batches_per_update} x {recorded.train.max_tokens}"
    if found is None:
        raise UserError(
            f"{run_dir}: holds a run with updates of {sizes} tokens, this start has train.tokens_per_update = "
            f"{config.train.tokens_per_update}; give the same value to go on, or another --run_dir"
        )
    if is_main:
        say(f"train.max_tokens auto: {sizes} tokens an update, as this run began (its config.yaml)")
    return found


def settle(config: Config, data: PreparedData, accelerator: Accelerator) -> Config:
    """The config with the largest micro-batches that all processes have memory for. All call it; the main one says why.

    Ends every process with status 2 where the longest pair does not fit.
    """
    if not is_auto(config):
        return config
    accelerator.wait_for_everyone()  # so that what the communication needs is taken
    n = accelerator.num_processes
    if accelerator.device.type == "cuda":
        found = by_trial(config, data, n, accelerator.device, accelerator.mixed_precision)
    else:
        found = _by_forecast(config, data, n, accelerator.mixed_precision)
    end_everywhere_if(accelerator, found.why if found.budget is None else None)
    every: list[_Found] = gather_object([found])
    smallest = min(every, key=lambda own: own.budget or 0)
    settled = with_budget(config, smallest.budget or 0, n)
    if accelerator.is_main_process:
        say(_in_words(config, settled, smallest))
    return settled


def assumed(config: Config, data: PreparedData, precision: str | None = None) -> tuple[Config, str | None]:
    """The same from the forecast alone, for what is no training; and a line that says so under `auto`.

    Raises: UserError where the longest pair does not fit.
    """
    if not is_auto(config):
        return config, None
    n_processes = n_launched()
    found = _by_forecast(config, data, n_processes, precision or resolve_precision(config.train.precision))
    if found.budget is None:
        raise UserError(found.why)
    settled = with_budget(config, found.budget, n_processes)
    on_gpu = "; assumed: train tries it on the GPU, and may find another" if uses_gpu() else ""
    return settled, _in_words(config, settled, found) + on_gpu


def _in_words(config: Config, settled: Config, found: _Found) -> str:
    train = settled.train
    return (
        f"train.max_tokens auto: {train.micro_batches_per_update} x {train.max_tokens} tokens an update of "
        f"{config.train.tokens_per_update}; {found.why}"
    )


def _by_forecast(config: Config, data: PreparedData, n_processes: int, precision: str) -> _Found:
    least, share = budget_range(config, n_processes)
    device: Device = "gpu" if uses_gpu() else "cpu"
    bytes_at = partial(_forecast_at, config, data, device=device, precision=precision, n_processes=n_processes)
    most = share
    if device == "gpu":
        usable = (1 - MARGIN) * torch.cuda.mem_get_info()[0]
    else:
        most = max(least, min(share, _MOST_ON_CPU))
        usable = _SHARE_OF_HOST * available_to_each()
    budget = largest_that_fits(lambda tokens: bytes_at(tokens) <= usable, least, most, most)
    forecast = f"forecast {bytes_at(budget or least) / 2**20:,.0f} of {usable / 2**20:,.0f} MiB for a process"
    if budget is None:
        return _Found(None, f"{_too_little(least)} ({forecast}); {_LESS}")
    if budget < most:
        why = "the memory holds no more"
    elif most < share:
        why = "larger micro-batches gain little on a CPU"
    else:
        why = "a process' share of an update needs no more"
    return _Found(budget, f"{why} ({forecast})")


def _forecast_at(
    config: Config, data: PreparedData, budget: int, device: Device, precision: str, n_processes: int
) -> int:
    vocab_sizes = _vocab_sizes(data)
    found = forecast_bytes(config, budget, _shapes(data, budget), vocab_sizes, device, precision)
    return found + ddp_bytes(config.model, *vocab_sizes, n_processes)


def by_trial(config: Config, data: PreparedData, n_processes: int, device: torch.device, precision: str) -> _Found:
    """What whole updates on the device show; the forecast gives the first guess."""
    least, most = budget_range(config, n_processes)
    bytes_at = partial(_forecast_at, config, data, device="gpu", precision=precision, n_processes=n_processes)

    def search(usable_bytes: float) -> int | None:
        guess = largest_that_fits(lambda tokens: bytes_at(tokens) <= usable_bytes, least, most, most) or least
        try:
            trial = Trial(config, _vocab_sizes(data), device, precision, is_shared=n_processes > 1)
        except RuntimeError as error:
            if not is_shortage(error):
                raise
            return None
        return largest_that_fits(
            lambda tokens: trial.holds(_worst_two(config, data, tokens, precision)), least, most, guess
        )

    with undisturbed(device) as usable_bytes:
        budget = search(usable_bytes)
    memory = f"tried on the device with {usable_bytes / 2**30:.1f} GiB, a tenth left free"
    if budget is None:
        return _Found(None, f"{_too_little(least)} ({memory}); {_LESS}")
    why = "the memory holds no more" if budget < most else "a process' share of an update needs no more"
    return _Found(budget, f"{why} ({memory})")


def _too_little(least: int) -> str:
    return f"train.max_tokens auto: not even the longest pair, model.max_positions = {least}, fits into the memory"


def _shapes(data: PreparedData, budget: int) -> Shapes:
    longest = int(data.train.src_lengths.max()), int(data.train.tgt_lengths.max())
    return worst_shapes(budget, *longest, len(data.train))


def _worst_two(config: Config, data: PreparedData, budget: int, precision: str) -> Shapes:
    """The micro-batch that should need most, and the one of the widest pairs.

    Micro-batches are random samples, so of none are all pairs much shorter than the mean: of many short ones a kernel
    may need more than will ever be.
    """
    mean = round(np.maximum(data.train.src_lengths, data.train.tgt_lengths).mean())
    shapes = _shapes(data, budget)
    shapes = shapes.some(np.arange(min(mean, len(shapes.n_pairs)) - 1, len(shapes.n_pairs)))
    kept = activation_bytes(config.model, shapes, precision, "gpu", config.train.gradient_checkpointing)
    chosen = np.unique([int(kept.argmax()), len(kept) - 1])
    return shapes.some(chosen)


def _vocab_sizes(data: PreparedData) -> tuple[int, int]:
    return data.tokenizers.src.vocab_size, data.tokenizers.tgt.vocab_size
