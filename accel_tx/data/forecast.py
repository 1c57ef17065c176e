"""What a config will make of prepared data: padding, updates, tokens an update, and peak memory of training.

Pure functions of the lengths, the config and the sizes of the vocabularies; nothing is trained.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from accel_tx.config import Config
from accel_tx.data.batching import BatchLimits, EpochPlan, plan_epoch
from accel_tx.data.collator import training_collator
from accel_tx.data.dealing import Indices, Lengths
from accel_tx.data.memory import Device, count_parameters, peak_memory
from accel_tx.data.shapes import Shapes

if TYPE_CHECKING:
    from accel_tx.data.dataset import PreparedData

_MIB = 2**20


@dataclass(frozen=True)
class Spread:
    """Mean and spread of a number over micro-batches."""

    mean: float
    std: float
    least: int
    most: int

    @classmethod
    def of(cls, values: Indices) -> Spread:
        """From values (n,), n > 0."""
        return cls(float(values.mean()), float(values.std()), int(values.min()), int(values.max()))


@dataclass(frozen=True)
class Forecast:
    """What one epoch, and the run, will be like."""

    n_pairs: int
    n_micro_batches: int
    padding_share: dict[Device, float]
    """Of the places in attention; a GPU is given fewer and wider blocks than a CPU."""
    pairs_per_micro_batch: Spread
    tgt_tokens_per_micro_batch: Spread
    tgt_tokens_per_update: float
    updates_per_epoch: int
    n_updates: int
    epochs: float
    n_parameters: int
    memory_mib: dict[str, dict[str, float]]
    """Setting (`cpu float32`, `gpu bf16`, ...) -> part of Memory, and `total`, in MiB."""

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return dataclasses.asdict(self)


def shown_epochs(n_epochs: float) -> str:
    """Three digits of a small number, a large one whole: 0.04, 15, 5,556."""
    return f"{n_epochs:.3g}" if n_epochs < 100 else f"{n_epochs:,.0f}"


def shown_padding(shares: Mapping[str, float]) -> str:
    """From `Forecast.padding_share`: 1.8% on CPU, 0.0% on GPU."""
    return ", ".join(f"{share:.1%} on {device.upper()}" for device, share in shares.items())


def forecast_training(config: Config, data: PreparedData) -> Forecast:
    """`forecast` of prepared data."""
    vocab_sizes = data.tokenizers.src.vocab_size, data.tokenizers.tgt.vocab_size
    return forecast(config, data.train.src_lengths, data.train.tgt_lengths, *vocab_sizes)


def shapes_on(config: Config, plan: EpochPlan, src_lengths: Lengths, tgt_lengths: Lengths) -> dict[Device, Shapes]:
    """What the collators of a CPU and of a GPU make of an epoch's micro-batches."""
    collators = {d: training_collator(config.model, config.train.compile, d == "gpu") for d in get_args(Device)}
    return {device: Shapes.of_plan(plan, src_lengths, tgt_lengths, collate) for device, collate in collators.items()}


def forecast(
    config: Config, src_lengths: Lengths, tgt_lengths: Lengths, src_vocab_size: int, tgt_vocab_size: int
) -> Forecast:
    """Forecast of training on pairs of these lengths (n,), in tokens with EOS, from the plan of the first epoch."""
    train = config.train
    per_update, limits = train.micro_batches_per_update, BatchLimits.of(train)
    plan = plan_epoch(src_lengths, tgt_lengths, limits, per_update, train.seed, epoch=0)
    shapes = shapes_on(config, plan, src_lengths, tgt_lengths)
    updates_per_epoch = plan.n_updates
    n_updates = train.max_updates or (train.epochs or 0) * updates_per_epoch
    settings: tuple[tuple[Device, str], ...] = (
        ("cpu", "no"),
        ("cpu", "bf16"),
        ("gpu", "no"),
        ("gpu", "bf16"),
        ("gpu", "fp16"),
    )
    memory = {
        f"{device} {'float32' if precision == 'no' else precision}": peak_memory(
            config, shapes[device], src_vocab_size, tgt_vocab_size, device, precision
        )
        for device, precision in settings
    }
    return Forecast(
        n_pairs=len(src_lengths),
        n_micro_batches=plan.n_micro_batches,
        padding_share={device: found.padding_share for device, found in shapes.items()},
        pairs_per_micro_batch=Spread.of(shapes["cpu"].n_pairs),
        tgt_tokens_per_micro_batch=Spread.of(shapes["cpu"].n_tgt_tokens),
        tgt_tokens_per_update=float(tgt_lengths.sum(dtype=np.int64) / updates_per_epoch),
        updates_per_epoch=updates_per_epoch,
        n_updates=n_updates,
        epochs=n_updates / updates_per_epoch,
        n_parameters=count_parameters(config.model, src_vocab_size, tgt_vocab_size),
        memory_mib={
            name: {part: n / _MIB for part, n in {**dataclasses.asdict(parts), "total": parts.total}.items()}
            for name, parts in memory.items()
        },
    )
